//! What goes wrong: silent, missing and foreign peers, cancelled trials, a controller that is
//! gone, lines and tasks that make no sense. No thread may hang and the agent stays usable.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "it is test code")]

mod common;

use cnibench_model::{Rate, Workload};
use cnibench_workloads::protocol::{FaultKind, Reply, Request, Task};
use common::{Agent, between, task};
use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    thread,
    time::{Duration, Instant},
};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Far more than anything here should take, far less than the patience of the tasks.
const SOON: Duration = Duration::from_secs(10);

fn endless(workload: Workload) -> Task {
    let mut t = task(workload, |p| p.streams = 2);
    t.duration_s = 3_000.0;
    t.patience_s = 600.0;
    t
}

/// Both ends in the middle of a trial that would last an hour.
fn in_mid_trial(workload: Workload) -> (Agent, Agent) {
    let t = endless(workload);
    let (mut client, mut server) = (Agent::start(), Agent::start());
    let port = server.serve(&t, V4);
    client.drive(&t, SocketAddr::new(V4, port));
    thread::sleep(Duration::from_millis(300));
    (client, server)
}

#[test]
fn cancel_ends_a_trial_at_once_and_the_agent_goes_on() {
    for &workload in Workload::ALL {
        let (mut client, mut server) = in_mid_trial(workload);
        let began = Instant::now();
        client.ask(&Request::Cancel);
        let (kind, text) = client.fault();
        assert_eq!(kind, FaultKind::Cancelled, "{workload}: {text}");
        server.ask(&Request::Cancel);
        // The server may already have noticed that its client left.
        let (kind, text) = server.fault();
        assert!(
            matches!(kind, FaultKind::Cancelled | FaultKind::PeerSilent),
            "{workload}: {kind:?}: {text}"
        );
        assert!(began.elapsed() < SOON, "{workload}: {:?}", began.elapsed());
        let (report, _) = between(&mut client, &mut server, &task(workload, |_| {}), V4);
        assert_eq!(report.endpoint.flows.len(), 1);
    }
}

#[test]
fn the_end_of_input_ends_the_agent_in_mid_trial() {
    for &workload in Workload::ALL {
        let (client, server) = in_mid_trial(workload);
        assert!(client.end() < SOON, "{workload}");
        assert!(server.end() < SOON, "{workload}");
    }
}

#[test]
fn the_end_of_input_ends_flows_that_are_blocked() {
    // A server that accepts, gives the go and never reads: the senders block in send.
    let listener = TcpListener::bind((V4, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = Agent::start();
    client.drive(&endless(Workload::TcpStream), address);
    let flows: Vec<_> = (0..2).map(|_| welcome(&listener)).collect();
    thread::sleep(Duration::from_millis(300));
    assert!(client.end() < SOON);
    drop(flows);

    // And one that waits for a client, one that waits for a go.
    let mut server = Agent::start();
    server.serve(&endless(Workload::UdpRr), V4);
    assert!(server.end() < SOON);
    let mut client = Agent::start();
    client.drive(&endless(Workload::TcpRr), address);
    thread::sleep(Duration::from_millis(100));
    assert!(client.end() < SOON);
}

/// Accepts a flow as cnibench's server does: 16 bytes name it, one byte is the go.
fn welcome(listener: &TcpListener) -> std::net::TcpStream {
    let (mut flow, _) = listener.accept().unwrap();
    let mut hello = [0; 16];
    flow.read_exact(&mut hello).unwrap();
    assert_eq!(&hello[..8], b"cniflow\x01");
    flow.write_all(b"G").unwrap();
    flow
}

#[test]
fn a_cancel_between_trials_is_nothing() {
    let mut agent = Agent::start();
    agent.ask(&Request::Cancel);
    agent.assert_alive();
    assert!(agent.end() < SOON);
}

#[test]
fn a_client_that_never_comes_is_silent() {
    for &workload in Workload::ALL {
        let mut t = task(workload, |_| {});
        t.patience_s = 0.2;
        let mut server = Agent::start();
        server.serve(&t, V4);
        let (kind, text) = server.fault();
        assert_eq!(kind, FaultKind::PeerSilent, "{text}");
        assert!(text.contains("0 of 1 flows"), "{text}");
        server.assert_alive();
    }
}

#[test]
fn a_server_that_is_not_there_is_unreachable() {
    for &workload in Workload::ALL {
        let mut t = task(workload, |_| {});
        t.patience_s = 2.0;
        // A port that nobody listens on: bound and let go.
        let port = if workload.is_tcp() {
            TcpListener::bind((V4, 0)).unwrap().local_addr().unwrap().port()
        } else {
            UdpSocket::bind((V4, 0)).unwrap().local_addr().unwrap().port()
        };
        let mut client = Agent::start();
        client.drive(&t, SocketAddr::new(V4, port));
        let (kind, text) = client.fault();
        assert_eq!(kind, FaultKind::Unreachable, "{workload}: {text}");
        assert!(text.contains("refused"), "{workload}: {text}");
        client.assert_alive();
    }
}

#[test]
fn a_peer_that_falls_silent_is_noticed_after_the_patience() {
    // It accepts, but gives no go.
    let listener = TcpListener::bind((V4, 0)).unwrap();
    let mut t = task(Workload::TcpRr, |_| {});
    t.patience_s = 0.3;
    let mut client = Agent::start();
    client.drive(&t, listener.local_addr().unwrap());
    let (kind, text) = client.fault();
    assert_eq!(kind, FaultKind::PeerSilent, "{text}");

    // It gives a go, and never answers.
    let listener = TcpListener::bind((V4, 0)).unwrap();
    t.duration_s = 60.0;
    client.drive(&t, listener.local_addr().unwrap());
    let flow = welcome(&listener);
    let (kind, text) = client.fault();
    assert_eq!(kind, FaultKind::PeerSilent, "{text}");
    assert!(text.contains("nothing moved"), "{text}");
    drop(flow);

    // It is gone: so is its half of the trial.
    for &workload in Workload::ALL {
        let mut t = endless(workload);
        t.patience_s = 1.0;
        let (mut client, mut server) = (Agent::start(), Agent::start());
        let port = server.serve(&t, V4);
        client.drive(&t, SocketAddr::new(V4, port));
        thread::sleep(Duration::from_millis(200));
        client.end();
        let (kind, text) = server.fault();
        assert_eq!(kind, FaultKind::PeerSilent, "{workload}: {text}");
        server.assert_alive();
    }
}

#[test]
fn an_open_loop_charges_a_real_server_for_its_stall() {
    let listener = TcpListener::bind((V4, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let mut flow = welcome(&listener);
        let began = Instant::now();
        let (mut stalled, mut byte) = (false, [0]);
        while flow.read_exact(&mut byte).is_ok() {
            if !stalled && began.elapsed() > Duration::from_millis(300) {
                stalled = true;
                thread::sleep(Duration::from_millis(200));
            }
            flow.write_all(&byte).unwrap();
        }
    });
    let mut t = task(Workload::TcpRr, |p| p.rate = Some(Rate(500.0)));
    t.duration_s = 1.0;
    let mut client = Agent::start();
    client.drive(&t, address);
    let h = client.finished().histogram.unwrap().decode().unwrap();
    server.join().unwrap();
    assert_eq!(h.len(), 500);
    assert!(h.max() >= 190_000_000, "{}", h.max());
    // 100 requests were due while it slept; a closed loop would show one slow one.
    let slow = h.count_between(50_000_000, u64::MAX);
    assert!(slow >= 60, "{slow}");
    assert!(h.value_at_quantile(0.99) >= 100_000_000);
}

#[test]
fn strangers_do_not_disturb_a_server() {
    let t = task(Workload::TcpRr, |_| {});
    let (mut client, mut server) = (Agent::start(), Agent::start());
    let port = server.serve(&t, V4);
    let address = SocketAddr::new(V4, port);
    let mut web = std::net::TcpStream::connect(address).unwrap();
    web.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    drop(std::net::TcpStream::connect(address).unwrap());
    client.drive(&t, address);
    assert!(client.finished().endpoint.flows[0].transactions > 0);
    server.finished();

    let t = task(Workload::UdpRr, |_| {});
    let port = server.serve(&t, V4);
    let stranger = UdpSocket::bind((V4, 0)).unwrap();
    for bytes in [&b"hello?"[..], &[0xC1; 24], &[]] {
        stranger.send_to(bytes, (V4, port)).unwrap();
    }
    client.drive(&t, SocketAddr::new(V4, port));
    assert!(client.finished().endpoint.flows[0].transactions > 0);
    server.finished();
}

#[test]
fn what_answers_must_be_a_cnibench_server() {
    let listener = TcpListener::bind((V4, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = Agent::start();
    client.drive(&task(Workload::TcpRr, |_| {}), address);
    let (mut flow, _) = listener.accept().unwrap();
    flow.write_all(b"SSH-2.0\r\n").unwrap();
    let (kind, text) = client.fault();
    assert_eq!(kind, FaultKind::Unreachable, "{text}");
}

#[test]
fn lines_that_are_no_requests_are_refused_and_survived() {
    let mut agent = Agent::start();
    let long = format!("\"{}\"", "x".repeat(100_000));
    for line in
        ["rubbish", "{}", "{\"op\":\"fly\"}", "[1,2", "\u{1F600}", &long, "{\"op\":\"serve\"}"]
    {
        agent.write(format!("{line}\n").as_bytes());
        let (kind, text) = agent.fault();
        assert_eq!(kind, FaultKind::BadTask, "{text}");
    }
    agent.write(b"\xff\xfe\x00\n");
    assert_eq!(agent.fault().0, FaultKind::BadTask);
    agent.write(b"\n  \n");
    agent.assert_alive();
    // A controller that dies in the middle of a line.
    agent.write(b"{\"op\":\"he");
    assert!(agent.end() < SOON);
}

#[test]
fn tasks_that_cannot_be_done_are_refused_with_the_reason() {
    type Break = fn(&mut Task);
    let cases: &[(&str, Break)] = &[
        ("streams", |t| t.params.streams = 0),
        ("size", |t| t.params.size = 0),
        ("duration_s", |t| t.duration_s = 0.0),
        ("duration_s", |t| t.duration_s = 3.0 * 86_400.0),
        ("cubic", |t| t.params.congestion_control = "warp".to_owned()),
    ];
    for (expected, change) in cases {
        let mut t = task(Workload::TcpStream, |_| {});
        change(&mut t);
        let mut agent = Agent::start();
        for request in [
            Request::Serve { task: t.clone(), bind: V4, port: 0 },
            Request::Drive { task: t.clone(), server: SocketAddr::new(V4, 9) },
        ] {
            agent.ask(&request);
            let (kind, text) = agent.fault();
            assert_eq!(kind, FaultKind::BadTask, "{text}");
            assert!(text.contains(expected), "{text}");
        }
        agent.assert_alive();
    }
    let mut agent = Agent::start();
    agent.ask(&Request::Serve {
        task: task(Workload::UdpRr, |_| {}),
        bind: "192.0.2.1".parse().unwrap(),
        port: 0,
    });
    let (kind, text) = agent.fault();
    assert_eq!(kind, FaultKind::BadTask);
    assert!(text.contains("192.0.2.1"), "{text}");
}

#[test]
fn a_cpu_that_may_not_be_used_is_named() {
    let mut t = task(Workload::TcpRr, |_| {});
    t.client_cpus = vec![1_000];
    t.patience_s = 1.0;
    let (mut client, mut server) = (Agent::start(), Agent::start());
    let port = server.serve(&t, V4);
    client.drive(&t, SocketAddr::new(V4, port));
    let (kind, text) = client.fault();
    assert_eq!(kind, FaultKind::BadTask, "{text}");
    assert!(text.contains("1000"), "{text}");
    assert_eq!(server.fault().0, FaultKind::PeerSilent);
}

#[test]
fn an_agent_runs_one_trial_at_a_time() {
    let mut server = Agent::start();
    let t = endless(Workload::TcpRr);
    server.serve(&t, V4);
    server.ask(&Request::Serve { task: t, bind: V4, port: 0 });
    let (kind, text) = server.fault();
    assert_eq!(kind, FaultKind::BadTask);
    assert!(text.contains("one trial at a time"), "{text}");
    server.ask(&Request::Cancel);
    assert_eq!(server.fault().0, FaultKind::Cancelled);
}

#[test]
fn hello_says_who_it_is() {
    let mut agent = Agent::start();
    agent.ask(&Request::Hello);
    let Some(Reply::Hello { protocol, pid, cpus, version, machine, kernel, interfaces }) =
        agent.reply()
    else {
        panic!("no hello")
    };
    assert_eq!(protocol, cnibench_workloads::protocol::PROTOCOL_VERSION);
    assert_eq!(pid, std::process::id());
    assert!(!cpus.is_empty() && !version.is_empty());
    assert_eq!(machine.len(), 36, "a boot id: {machine:?}");
    assert!(!kernel.is_empty());
    assert!(interfaces.iter().all(|i| i.mtu > 0 && i.name != "lo"), "{interfaces:?}");
}

#[test]
fn a_hello_of_before_is_still_read() {
    // So that an agent of another version is refused with its version, not as nonsense.
    let line = r#"{"reply":"hello","protocol":1,"version":"0.1.0","pid":7,"cpus":[0,1]}"#;
    let Reply::Hello { protocol: 1, machine, kernel, interfaces, .. } =
        serde_json::from_str(line).unwrap()
    else {
        panic!("no hello")
    };
    assert_eq!((machine.as_str(), kernel.as_str(), interfaces.len()), ("", "", 0));
}

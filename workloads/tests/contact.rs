//! Echo, probe and volley over loopback: every datagram and connection is counted at both ends,
//! changes are told as they happen, everything ends when it is told to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "it is test code")]

mod common;

use cnibench_workloads::{
    contact::LOST,
    protocol::{EchoCount, FaultKind, Reply, Request, Tally, Volley},
};
use common::Agent;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    thread,
    time::{Duration, Instant},
};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
/// Far more than anything here should take.
const SOON: Duration = Duration::from_secs(10);

fn echo(server: &mut Agent, bind: IpAddr, port: u16) -> SocketAddr {
    server.ask(&Request::Echo { bind, port });
    match server.reply() {
        Some(Reply::Listening { port }) => SocketAddr::new(bind, port),
        other => panic!("expected Listening, got {other:?}"),
    }
}

fn echoed(server: &mut Agent) -> Vec<EchoCount> {
    server.ask(&Request::Cancel);
    match server.reply() {
        Some(Reply::Echoed { counts }) => counts,
        other => panic!("expected Echoed, got {other:?}"),
    }
}

fn volley(server: SocketAddr) -> Volley {
    Volley {
        server,
        datagrams: 50,
        datagram_bytes: 100,
        connects: 5,
        stream_bytes: 64,
        canary: b"canary".to_vec(),
        patience_ms: 500,
    }
}

fn sent(client: &mut Agent, volley: &Volley) -> Tally {
    client.ask(&Request::Send(volley.clone()));
    match client.reply() {
        Some(Reply::Sent(tally)) => tally,
        other => panic!("expected Sent, got {other:?}"),
    }
}

fn probe(client: &mut Agent, server: SocketAddr, tcp: bool, for_s: f64) {
    client.ask(&Request::Probe { server, tcp, interval_ms: 5, for_s });
}

fn probed(client: &mut Agent) -> (bool, f64) {
    match client.reply() {
        Some(Reply::Probed { reachable, since_ms }) => (reachable, since_ms),
        other => panic!("expected Probed, got {other:?}"),
    }
}

/// A free port that nobody listens on.
fn nowhere() -> SocketAddr {
    TcpListener::bind((V4, 0)).unwrap().local_addr().unwrap()
}

#[test]
fn what_is_sent_is_counted_at_both_ends_in_both_families() {
    for bind in [V4, V6] {
        let (mut client, mut server) = (Agent::start(), Agent::start());
        let to = echo(&mut server, bind, 0);
        let tally = sent(&mut client, &volley(to));
        assert_eq!((tally.sent, tally.answered, tally.too_long, tally.refused), (50, 50, 0, 0));
        assert_eq!((tally.connects, tally.connected, tally.stream_bytes), (5, 5, 5 * 64));
        assert_eq!((tally.trouble, tally.from.unwrap().ip()), (None, bind));
        // Loopback's; more than an IPv4 header can say (IP_MAX_MTU) is none.
        assert_eq!(tally.mtu, Some(if bind.is_ipv4() { 65_535 } else { 65_536 }));
        let expected = EchoCount {
            from: bind,
            datagrams: 50,
            datagram_bytes: 5_000,
            connections: 5,
            stream_bytes: 5 * 64,
        };
        assert_eq!(echoed(&mut server), [expected]);
        client.assert_alive();
        server.assert_alive();
    }
}

#[test]
fn a_large_stream_comes_back_whole() {
    let (mut client, mut server) = (Agent::start(), Agent::start());
    let to = echo(&mut server, V4, 0);
    let one = Volley { datagrams: 0, connects: 1, stream_bytes: 40 << 20, ..volley(to) };
    let tally = sent(&mut client, &one);
    assert_eq!((tally.connected, tally.stream_bytes), (1, 40 << 20), "{:?}", tally.trouble);
    assert_eq!(echoed(&mut server)[0].stream_bytes, 40 << 20);
}

#[test]
fn an_echo_keeps_its_port_from_one_count_to_the_next() {
    let (mut client, mut server) = (Agent::start(), Agent::start());
    let to = echo(&mut server, V4, 0);
    sent(&mut client, &volley(to));
    echoed(&mut server);
    assert_eq!(echo(&mut server, V4, to.port()), to);
    assert_eq!(echoed(&mut server), [], "counts begin afresh");
}

#[test]
fn silence_and_refusal_are_counted_as_such() {
    let mut client = Agent::start();
    // A server that takes and never answers.
    let quiet = UdpSocket::bind((V4, 0)).unwrap();
    let one = Volley { connects: 0, datagrams: 10, ..volley(quiet.local_addr().unwrap()) };
    let tally = sent(&mut client, &one);
    assert_eq!((tally.sent, tally.answered), (10, 0));
    assert!(tally.trouble.unwrap().starts_with("a datagram: "));

    let tally = sent(&mut client, &Volley { datagrams: 0, ..volley(nowhere()) });
    assert_eq!((tally.connects, tally.connected, tally.stream_bytes), (5, 0, 0));
    assert!(tally.trouble.unwrap().starts_with("a connection: "));
}

#[test]
fn other_bytes_are_no_answer() {
    let liar = UdpSocket::bind((V4, 0)).unwrap();
    let to = liar.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 200];
        while let Ok((length, from)) = liar.recv_from(&mut buffer) {
            buffer[20] ^= 1;
            let _ = liar.send_to(&buffer[..length], from);
        }
    });
    let tally = sent(&mut Agent::start(), &Volley { connects: 0, datagrams: 3, ..volley(to) });
    assert_eq!((tally.sent, tally.answered), (3, 0));
}

#[test]
fn the_largest_datagram_passes_and_a_larger_one_is_none() {
    // The largest datagram that there is fits loopback's MTU; a larger one is no datagram.
    let (mut client, mut server) = (Agent::start(), Agent::start());
    let to = echo(&mut server, V4, 0);
    let one = Volley { connects: 0, datagrams: 2, datagram_bytes: 65_507, ..volley(to) };
    assert_eq!(sent(&mut client, &one).answered, 2);
    client.ask(&Request::Send(Volley { datagram_bytes: 65_508, ..one }));
    let (kind, text) = client.fault();
    assert_eq!(kind, FaultKind::BadTask);
    assert!(text.starts_with("datagram_bytes: 65508 is outside"), "{text}");
}

#[test]
fn a_probe_tells_each_change_as_it_happens() {
    for tcp in [true, false] {
        let (mut client, mut server) = (Agent::start(), Agent::start());
        let to = echo(&mut server, V4, 0);
        probe(&mut client, to, tcp, 600.0);
        assert!(probed(&mut client).0, "tcp {tcp}");
        echoed(&mut server);
        let (reachable, since_ms) = probed(&mut client);
        assert!(!reachable, "tcp {tcp}");
        // A refusal comes at once; three in a row, 5 ms apart, make the change.
        assert!((5.0..2_000.0).contains(&since_ms), "tcp {tcp}: {since_ms}");
        echo(&mut server, V4, to.port());
        let (reachable, since_ms) = probed(&mut client);
        assert!(reachable && since_ms < 300.0, "tcp {tcp}: {since_ms}");
        client.ask(&Request::Cancel);
        let Some(Reply::ProbeEnd { sent, answered }) = client.reply() else { panic!("no end") };
        assert!(answered >= 2 && sent >= answered + LOST as u64, "tcp {tcp}: {answered} of {sent}");
        client.assert_alive();
    }
}

#[test]
fn no_two_tries_of_a_probe_have_the_same_ports() {
    let server = UdpSocket::bind((V4, 0)).unwrap();
    let mut client = Agent::start();
    client.ask(&Request::Probe {
        server: server.local_addr().unwrap(),
        tcp: false,
        interval_ms: 1,
        for_s: 600.0,
    });
    let mut ports = std::collections::HashSet::new();
    let mut buffer = [0; 100];
    // Of 2,000 chosen freely about 70 would come again.
    for _ in 0..2_000 {
        let (_, from) = server.recv_from(&mut buffer).unwrap();
        assert!(ports.insert(from.port()), "port {} again", from.port());
    }
    assert!(client.end() < SOON);
}

#[test]
fn silence_dates_from_the_first_try_without_an_answer() {
    let quiet = UdpSocket::bind((V4, 0)).unwrap();
    let mut client = Agent::start();
    probe(&mut client, quiet.local_addr().unwrap(), false, 600.0);
    let (reachable, since_ms) = probed(&mut client);
    // Tries wait 300 ms; the third of them is given up 10 ms after the first.
    assert!(!reachable && (310.0..2_000.0).contains(&since_ms), "{since_ms}");
    assert!(client.end() < SOON);
}

#[test]
fn a_probe_ends_by_itself() {
    let (mut client, mut server) = (Agent::start(), Agent::start());
    let to = echo(&mut server, V4, 0);
    let began = Instant::now();
    probe(&mut client, to, true, 0.3);
    assert!(probed(&mut client).0);
    let Some(Reply::ProbeEnd { sent, answered }) = client.reply() else { panic!("no end") };
    assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < SOON);
    assert!(sent == answered && (5..=60).contains(&sent), "{answered} of {sent}");
}

#[test]
fn nonsense_is_refused_with_the_field() {
    let mut client = Agent::start();
    let to = nowhere();
    for (interval_ms, for_s, field) in
        [(0, 1.0, "interval_ms"), (5, 0.0, "for_s"), (5, f64::NAN, "request")]
    {
        client.ask(&Request::Probe { server: to, tcp: true, interval_ms, for_s });
        let (kind, text) = client.fault();
        assert_eq!(kind, FaultKind::BadTask);
        assert!(text.contains(field), "{text}");
    }
    client.ask(&Request::Send(Volley { canary: vec![0; 5_000], ..volley(to) }));
    assert!(client.fault().1.starts_with("canary length"));
    client.ask(&Request::Echo { bind: "192.0.2.1".parse().unwrap(), port: 0 });
    let (kind, text) = client.fault();
    assert_eq!(kind, FaultKind::System);
    assert!(text.contains("192.0.2.1"), "{text}");
}

#[test]
fn each_ends_at_once_when_told_or_left_alone() {
    let mut server = Agent::start();
    let to = echo(&mut server, V4, 0);
    let quiet = UdpSocket::bind((V4, 0)).unwrap();
    let slow = Volley { connects: 0, patience_ms: 60_000, ..volley(quiet.local_addr().unwrap()) };
    let mut client = Agent::start();
    client.ask(&Request::Send(slow.clone()));
    thread::sleep(Duration::from_millis(200));
    let began = Instant::now();
    client.ask(&Request::Cancel);
    assert_eq!(client.fault().0, FaultKind::Cancelled);
    assert!(began.elapsed() < SOON);

    // A connection that is open does not keep the server.
    let _held = std::net::TcpStream::connect(to).unwrap();
    thread::sleep(Duration::from_millis(100));
    assert!(server.end() < SOON);
    client.ask(&Request::Send(slow));
    assert!(client.end() < SOON);
    let mut client = Agent::start();
    probe(&mut client, to, true, 600.0);
    assert!(client.end() < SOON);
}

#[test]
fn an_agent_does_one_thing_at_a_time() {
    let mut server = Agent::start();
    let to = echo(&mut server, V4, 0);
    server.ask(&Request::Send(volley(to)));
    let (kind, text) = server.fault();
    assert_eq!(kind, FaultKind::BadTask);
    assert!(text.contains("one trial at a time"), "{text}");
    assert_eq!(echoed(&mut server), []);
}

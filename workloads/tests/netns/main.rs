//! Trials between two namespaces joined by a veth pair, with faults made on the path. Needs root,
//! iproute2 and nftables; without them these tests fail and say so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "it is test code")]

#[path = "../common/mod.rs"]
mod common;
mod net;
mod peers;

use cnibench_model::{FlowDirection, Metric, Rate, Workload};
use cnibench_workloads::{
    outcome::{Outcome, combine},
    protocol::{EndReport, FaultKind, Task},
};
use common::{Agent, between, task, total};
use net::Net;
use std::{net::SocketAddr, thread, time::Duration};

fn run(net: &Net, task: &Task) -> (EndReport, EndReport) {
    between(&mut net.client(), &mut net.server(), task, Net::SERVER_V4)
}

fn value(outcome: &Outcome, metric: Metric) -> f64 {
    outcome.samples.iter().find(|s| s.metric == metric).unwrap_or_else(|| panic!("{metric}")).value
}

#[test]
fn every_workload_crosses_a_veth_in_both_families() {
    let net = Net::up();
    for &workload in Workload::ALL {
        for address in [Net::SERVER_V4, Net::SERVER_V6] {
            let t = task(workload, |p| p.streams = 2);
            let (client, server) = between(&mut net.client(), &mut net.server(), &t, address);
            let out = combine(&t, &client, &server);
            let main = if workload.is_transactional() {
                Metric::TransactionRate
            } else {
                Metric::Throughput
            };
            assert!(value(&out, main) > 0.0, "{workload} {address}");
        }
    }
}

#[test]
fn every_tenth_datagram_dropped_is_a_loss_of_a_tenth() {
    let net = Net::up();
    net.drop_on_server("meta l4proto udp meta length > 200 numgen inc mod 10 0 drop");
    for gso in [true, false] {
        let t = task(Workload::UdpStream, |p| {
            p.gso = gso;
            p.rate = Some(Rate(8e6));
            p.size = 1_000;
        });
        let (client, server) = run(&net, &t);
        let (sent, stats) = (total(&client, |f| f.sent), server.datagrams.unwrap());
        assert_eq!(stats.expected, sent);
        let lost = sent - stats.received;
        assert!(lost.abs_diff(sent / 10) <= 1 + sent / 100, "gso {gso}: {lost} of {sent}");
        assert_eq!((stats.reordered, stats.duplicated), (0, 0));
        let loss = value(&combine(&t, &client, &server), Metric::Loss);
        assert!((loss - lost as f64 / sent as f64).abs() < 1e-12);
    }
}

#[test]
fn a_lost_request_is_counted_and_the_next_one_goes_on() {
    let net = Net::up();
    net.drop_on_server("meta l4proto udp meta length > 100 numgen inc mod 5 0 drop");
    let mut t = task(Workload::UdpRr, |p| {
        p.size = 100;
        p.response_size = 8;
    });
    t.duration_s = 2.0;
    let (client, server) = run(&net, &t);
    let loss = value(&combine(&t, &client, &server), Metric::Loss);
    // Every fifth; the window's edges may cut one group.
    assert!((0.1..=0.35).contains(&loss), "{loss}");
    let h = client.histogram.unwrap().decode().unwrap();
    // A lost one has no latency: what is in the histogram was answered in time.
    assert!(h.max() < 200_000_000, "{}", h.max());
}

#[test]
fn a_loss_is_seen_in_a_window_shorter_than_the_wait_for_an_answer() {
    let net = Net::up();
    net.drop_on_server("meta l4proto udp meta length > 100 numgen inc mod 5 0 drop");
    let mut t = task(Workload::UdpRr, |p| {
        p.size = 100;
        p.response_size = 8;
    });
    (t.warmup_s, t.duration_s) = (0.0, 0.1);
    let (client, server) = run(&net, &t);
    // Four answers, and the wait for the fifth is longer than the window.
    assert!(value(&combine(&t, &client, &server), Metric::Loss) > 0.1);
}

#[test]
fn dropped_segments_are_retransmitted_and_counted() {
    let net = Net::up();
    let t = task(Workload::TcpStream, |_| {});
    let (client, server) = run(&net, &t);
    let clean = value(&combine(&t, &client, &server), Metric::Retransmits);
    net.drop_on_server("meta l4proto tcp meta length > 1000 numgen inc mod 200 0 drop");
    for direction in [FlowDirection::Forward, FlowDirection::Both] {
        let mut t = task(Workload::TcpStream, |p| p.direction = direction);
        t.duration_s = 0.6;
        let (client, server) = run(&net, &t);
        let retransmits = value(&combine(&t, &client, &server), Metric::Retransmits);
        assert!(retransmits > clean + 1.0, "{retransmits} {clean}");
        assert!(client.endpoint.flows[0].tcp_info["bytes_retrans"] > 0);
    }
}

#[test]
fn a_segment_must_fit_the_mtu_and_a_datagram_may_be_cut() {
    let net = Net::up();
    let with = |size, gso| {
        task(Workload::UdpStream, |p| {
            (p.size, p.gso) = (size, gso);
            p.rate = Some(Rate(1e7));
        })
    };
    // 1,500 - 20 - 8 is the largest segment.
    let (_, server) = run(&net, &with(1_472, true));
    assert!(server.datagrams.unwrap().received > 0);
    let (mut client, mut server) = (net.client(), net.server());
    let mut t = with(1_473, true);
    t.patience_s = 1.0;
    let port = server.serve(&t, Net::SERVER_V4);
    client.drive(&t, SocketAddr::new(Net::SERVER_V4, port));
    let (kind, text) = client.fault();
    assert_eq!(kind, FaultKind::BadTask, "{text}");
    assert!(text.contains("1473") && text.contains("MTU"), "{text}");
    assert_eq!(server.fault().0, FaultKind::PeerSilent);
    let (_, server) = between(&mut client, &mut server, &with(4_000, false), Net::SERVER_V4);
    assert!(server.datagrams.unwrap().received > 0);
}

#[test]
fn a_path_that_breaks_in_mid_trial_is_a_silent_peer() {
    for &workload in Workload::ALL {
        let net = Net::up();
        let mut t = task(workload, |_| {});
        t.duration_s = 600.0;
        t.patience_s = 1.0;
        let (mut client, mut server) = (net.client(), net.server());
        let port = server.serve(&t, Net::SERVER_V4);
        client.drive(&t, SocketAddr::new(Net::SERVER_V4, port));
        thread::sleep(Duration::from_millis(400));
        net.drop_on_server("meta l4proto { tcp, udp } drop");
        if workload == Workload::UdpStream {
            // Nothing ever comes back to the sender of datagrams: only the receiver can tell.
            assert_eq!(server.fault().0, FaultKind::PeerSilent, "{workload}");
            client.ask(&cnibench_workloads::protocol::Request::Cancel);
            client.fault();
            continue;
        }
        for agent in [&mut client, &mut server] {
            let (kind, text) = agent.fault();
            assert_eq!(kind, FaultKind::PeerSilent, "{workload}: {text}");
        }
    }
}

#[test]
fn a_path_that_drops_everything_is_unreachable() {
    let net = Net::up();
    net.drop_on_server("meta l4proto { tcp, udp } drop");
    for &workload in Workload::ALL {
        let mut t = task(workload, |_| {});
        t.patience_s = 0.5;
        let mut client = net.client();
        client.drive(&t, SocketAddr::new(Net::SERVER_V4, 4_000));
        let (kind, text) = client.fault();
        assert_eq!(kind, FaultKind::Unreachable, "{workload}: {text}");
        assert!(text.contains("policy"), "{text}");
        client.drive(&t, "192.0.2.7:4000".parse().unwrap());
        let (kind, text) = client.fault();
        assert_eq!(kind, FaultKind::Unreachable, "{workload}: {text}");
    }
}

#[test]
fn connections_outlive_the_local_ports_many_times() {
    let net = Net::up();
    // 128 ports: TIME_WAIT lasts a minute, so every one is used again long before it is over.
    net.on_client(&["sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40127"]);
    let mut t = task(Workload::TcpCrr, |p| p.streams = 2);
    t.duration_s = 2.0;
    let (client, server) = run(&net, &t);
    let done = total(&client, |f| f.transactions);
    assert!(done > 5 * 128, "{done}");
    let h = client.histogram.as_ref().unwrap().decode().unwrap();
    // A SYN that a TIME_WAIT swallowed would be sent again after a second.
    assert!(h.value_at_quantile(0.999) < 900_000_000);
    for (c, s) in client.endpoint.flows.iter().zip(&server.endpoint.flows) {
        let (a, b) = (c.transactions as f64, s.transactions as f64);
        assert!((a - b).abs() < 0.5 * a + 100.0, "flow {}: {a} {b}", c.flow);
    }
    t.params.streams = 64;
    let mut client = net.client();
    client.drive(&t, SocketAddr::new(Net::SERVER_V4, 4_000));
    let (kind, text) = client.fault();
    assert_eq!(kind, FaultKind::BadTask, "{text}");
    assert!(text.contains("local ports"), "{text}");
}

#[test]
fn an_agent_that_is_gone_leaves_no_socket() {
    let net = Net::up();
    let mut t = task(Workload::TcpStream, |p| p.streams = 4);
    t.duration_s = 600.0;
    let (mut client, mut server) = (net.client(), net.server());
    let port = server.serve(&t, Net::SERVER_V4);
    client.drive(&t, SocketAddr::new(Net::SERVER_V4, port));
    thread::sleep(Duration::from_millis(300));
    let agents: [Agent; 2] = [client, server];
    for agent in agents {
        agent.end();
    }
    let open = net.on_server(&["ss", "-Htln"]);
    assert_eq!(open.trim(), "");
}

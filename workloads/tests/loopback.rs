//! Every workload through two agents on the loopback device, IPv4 and IPv6, no privileges.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "it is test code")]

mod common;

use cnibench_model::{FlowDirection, Metric, Rate, Workload};
use cnibench_workloads::outcome::{Outcome, combine};
use common::{task, total, trial};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn value(outcome: &Outcome, metric: Metric) -> f64 {
    outcome.samples.iter().find(|s| s.metric == metric).unwrap_or_else(|| panic!("{metric}")).value
}

#[test]
fn tcp_stream_counts_what_arrives_in_every_direction() {
    for address in [V4, V6] {
        for direction in [FlowDirection::Forward, FlowDirection::Reverse, FlowDirection::Both] {
            let t = task(Workload::TcpStream, |p| {
                p.direction = direction;
                p.streams = 2;
            });
            let (client, server) = trial(&t, address);
            let outcome = combine(&t, &client, &server);
            let (to_server, to_client) =
                (total(&server, |f| f.received_bytes), total(&client, |f| f.received_bytes));
            assert_eq!(to_server > 0, direction != FlowDirection::Reverse);
            assert_eq!(to_client > 0, direction != FlowDirection::Forward);
            let bits = 8.0 * (to_server + to_client) as f64 / t.duration_s;
            assert!((value(&outcome, Metric::Throughput) / bits - 1.0).abs() < 1e-9);
            let slices: f64 = outcome.slices.iter().map(|rate| rate * outcome.slice_s).sum();
            assert!((slices / (bits * t.duration_s) - 1.0).abs() < 1e-9);
            assert!(value(&outcome, Metric::CpuPerGigabit) > 0.0);
            assert!(value(&outcome, Metric::Retransmits) >= 0.0);
            assert!(outcome.histogram.is_none());
        }
    }
}

#[test]
fn a_paced_tcp_stream_delivers_what_it_sends() {
    let t = task(Workload::TcpStream, |p| {
        p.size = 10_000;
        p.rate = Some(Rate(80e6));
    });
    let (client, server) = trial(&t, V4);
    // 10 MB/s for 0.3 s; what is late on a busy machine is caught up later, before or after an edge.
    for bytes in [total(&client, |f| f.sent_bytes), total(&server, |f| f.received_bytes)] {
        assert!((1_000_000..=5_000_000).contains(&bytes), "{bytes}");
    }
}

#[test]
fn transactions_agree_at_both_ends() {
    for address in [V4, V6] {
        for workload in [Workload::TcpRr, Workload::TcpCrr, Workload::UdpRr] {
            let t = task(workload, |p| {
                p.streams = 2;
                p.size = 100;
                p.response_size = 30;
            });
            let (client, server) = trial(&t, address);
            let outcome = combine(&t, &client, &server);
            let done = total(&client, |f| f.transactions);
            assert!(done > 20, "{workload}: {done}");
            assert_eq!(total(&client, |f| f.received_bytes), done * 30);
            let served = total(&server, |f| f.transactions);
            // The server's window is off by the path's delay and by when its supervisor got a CPU.
            assert!(served.abs_diff(done) < done / 2 + 100, "{workload}: {done} {served}");
            let rate = value(&outcome, Metric::TransactionRate);
            assert!((rate - done as f64 / t.duration_s).abs() < 1e-6);
            assert!(outcome.window_opened.is_some());
            let h = outcome.histogram.as_ref().unwrap().decode().unwrap();
            assert_eq!(h.len(), done, "{workload}");
            let p50 = value(&outcome, Metric::LatencyP50);
            assert!(p50 > 1_000.0 && p50 <= value(&outcome, Metric::LatencyMax));
            assert!(value(&outcome, Metric::CpuPerTransaction) > 0.0);
            let has = |m| outcome.samples.iter().any(|s| s.metric == m);
            assert_eq!(has(Metric::Loss), workload == Workload::UdpRr);
            assert_eq!(has(Metric::Retransmits), workload == Workload::TcpRr);
        }
    }
}

#[test]
fn udp_stream_accounts_for_every_datagram() {
    for address in [V4, V6] {
        for (gso, direction) in [
            (true, FlowDirection::Forward),
            (false, FlowDirection::Forward),
            (true, FlowDirection::Reverse),
            (false, FlowDirection::Both),
        ] {
            let t = task(Workload::UdpStream, |p| {
                p.gso = gso;
                p.direction = direction;
                p.streams = 2;
                p.size = 500;
                p.rate = Some(Rate(8e6));
            });
            let (client, server) = trial(&t, address);
            let both = direction == FlowDirection::Both;
            let mut pairs = Vec::new();
            if direction != FlowDirection::Reverse {
                pairs.push((&client, &server));
            }
            if direction != FlowDirection::Forward {
                pairs.push((&server, &client));
            }
            assert_eq!(pairs.len(), if both { 2 } else { 1 });
            for (sender, receiver) in pairs {
                let sent = total(sender, |f| f.sent);
                let stats = receiver.datagrams.unwrap();
                // 2,000 a second for 0.3 s.
                assert!((300..=1_200).contains(&sent), "{sent}");
                assert_eq!(stats.expected, sent, "{address} {gso} {direction:?}");
                assert_eq!(stats.received, sent, "{:?}", receiver.warnings);
                assert_eq!((stats.reordered, stats.duplicated), (0, 0));
            }
            let outcome = combine(&t, &client, &server);
            assert_eq!(value(&outcome, Metric::Loss), 0.0);
            assert!(value(&outcome, Metric::Jitter) > 0.0);
            assert!(value(&outcome, Metric::PacketRate) > 0.0);
        }
    }
}

#[test]
fn udp_stream_flat_out_never_receives_more_than_was_sent() {
    for gso in [true, false] {
        let t = task(Workload::UdpStream, |p| p.gso = gso);
        let (client, server) = trial(&t, V4);
        let stats = server.datagrams.unwrap();
        assert!(stats.received > 0 && stats.received <= stats.expected);
        assert_eq!(stats.expected, total(&client, |f| f.sent), "{:?}", server.warnings);
        let loss = value(&combine(&t, &client, &server), Metric::Loss);
        assert!((0.0..1.0).contains(&loss), "{loss}");
    }
}

#[test]
fn the_warm_up_is_cut_off() {
    // 1,000 a second for 0.3 s of warm-up and 0.3 s of window: what was due in the window counts,
    // nothing else, however busy the machine is.
    for workload in [Workload::TcpRr, Workload::UdpRr] {
        let mut t = task(workload, |p| p.rate = Some(Rate(1_000.0)));
        t.warmup_s = 0.3;
        let (client, _) = trial(&t, V4);
        let h = client.histogram.unwrap().decode().unwrap();
        assert_eq!(h.len(), 300, "{:?}", client.warnings);
        assert!((client.endpoint.window_s - 0.3).abs() < 1e-9);
    }
}

#[test]
fn options_are_set_and_read_back() {
    let t = task(Workload::TcpRr, |p| {
        p.congestion_control = "reno".to_owned();
        p.nodelay = false;
        p.send_buffer = Some(60_000);
        p.receive_buffer = Some(70_000);
    });
    let (client, server) = trial(&t, V4);
    for end in [&client, &server] {
        let flow = &end.endpoint.flows[0];
        let option = |name: &str| flow.options[name].as_str();
        assert_eq!(option("congestion_control"), "reno");
        assert_eq!(option("nodelay"), "false");
        // socket(7): the kernel doubles what it is asked for.
        assert_eq!((option("send_buffer"), option("receive_buffer")), ("120000", "140000"));
        assert!(flow.tcp_info["rtt"] > 0 && flow.tcp_info["snd_mss"] > 500);
        assert_eq!(flow.tcp_info["retrans_in_window"], 0);
    }
    assert_eq!(client.endpoint.flows[0].options["loop"], "closed");

    let t = task(Workload::TcpCrr, |p| p.congestion_control = "reno".to_owned());
    let (client, server) = trial(&t, V4);
    for end in [&client, &server] {
        assert_eq!(end.endpoint.flows[0].options["congestion_control"], "reno");
    }

    for (gso, segment) in [(true, "1234"), (false, "0")] {
        let t = task(Workload::UdpStream, |p| {
            p.size = 1_234;
            p.gso = gso;
            p.rate = Some(Rate(1e6));
        });
        let (client, server) = trial(&t, V6);
        for end in [&client, &server] {
            let options = &end.endpoint.flows[0].options;
            assert_eq!(options["udp_segment"], segment);
            assert_eq!(options["udp_gro"], gso.to_string());
        }
    }
}

#[test]
fn a_buffer_is_granted_or_warned_about() {
    // More than any net.core.rmem_max: granted to root, capped for everybody else.
    let t = task(Workload::UdpRr, |p| p.receive_buffer = Some(1 << 29));
    let (client, server) = trial(&t, V4);
    for end in [&client, &server] {
        let real: u64 = end.endpoint.flows[0].options["receive_buffer"].parse().unwrap();
        let warned = end.warnings.iter().any(|w| w.contains("rmem_max"));
        assert_eq!(warned, real < 2 << 29, "{real}: {:?}", end.warnings);
    }
}

#[test]
fn a_receiver_of_a_datagram_stream_has_room_for_many_runs() {
    let t = task(Workload::UdpStream, |p| p.rate = Some(Rate(1e6)));
    let (_, server) = trial(&t, V4);
    let real: u64 = server.endpoint.flows[0].options["receive_buffer"].parse().unwrap();
    let warned = server.warnings.iter().any(|w| w.contains("rmem_max"));
    assert!(real >= 8 << 20 || warned, "{real}");
}

#[test]
fn flows_run_on_the_cpus_they_were_given() {
    let mut t = task(Workload::TcpRr, |p| p.streams = 3);
    t.client_cpus = vec![0];
    t.server_cpus = vec![0];
    let (client, server) = trial(&t, V4);
    for end in [&client, &server] {
        let cpus: Vec<_> = end.endpoint.flows.iter().map(|f| (f.flow, f.cpu)).collect();
        assert_eq!(cpus, [(0, Some(0)), (1, Some(0)), (2, Some(0))]);
    }
}

#[test]
fn many_flows_are_numbered_alike_at_both_ends() {
    for (workload, streams) in [
        (Workload::TcpStream, 64),
        (Workload::TcpRr, 64),
        (Workload::TcpCrr, 16),
        (Workload::UdpStream, 32),
        (Workload::UdpRr, 64),
    ] {
        let mut t = task(workload, |p| {
            p.streams = streams;
            if workload == Workload::UdpStream {
                p.rate = Some(Rate(3e7));
            }
        });
        t.duration_s = 1.0;
        let (client, server) = trial(&t, V4);
        for end in [&client, &server] {
            let numbers: Vec<u32> = end.endpoint.flows.iter().map(|f| f.flow).collect();
            assert_eq!(numbers, (0..streams).collect::<Vec<_>>(), "{workload}");
        }
        if workload == Workload::TcpCrr {
            // Port remainders lead every connection to the listener of its own flow.
            for (c, s) in client.endpoint.flows.iter().zip(&server.endpoint.flows) {
                assert!(c.transactions > 0 && s.transactions > 0, "flow {}", c.flow);
                let (a, b) = (c.transactions as f64, s.transactions as f64);
                assert!((a - b).abs() < 0.5 * a + 100.0, "flow {}: {a} {b}", c.flow);
            }
        }
    }
}

#[test]
fn big_messages_and_whole_datagrams_get_through() {
    let t = task(Workload::TcpRr, |p| {
        p.size = 1 << 20;
        p.response_size = 3 << 20;
    });
    assert!(total(&trial(&t, V4).0, |f| f.transactions) > 0);
    for (address, largest) in [(V4, 65_507), (V6, 65_527)] {
        let t = task(Workload::UdpRr, |p| {
            p.size = largest;
            p.response_size = largest;
        });
        assert!(total(&trial(&t, address).0, |f| f.transactions) > 0);
        for gso in [true, false] {
            let t = task(Workload::UdpStream, |p| {
                // With GSO a segment has to fit the device's MTU of 65,536.
                p.size = if gso { 65_400 } else { largest };
                p.gso = gso;
            });
            let (_, server) = trial(&t, address);
            assert!(server.datagrams.unwrap().received > 0, "{address} {gso}");
        }
    }
}

#[test]
fn the_canary_is_on_the_wire_as_often_as_it_fits() {
    use std::{
        io::{Read, Write},
        net::{SocketAddr, TcpListener},
    };
    let mut t = task(Workload::TcpRr, |p| {
        p.size = 100;
        p.response_size = 1;
    });
    t.canary = b"find-me!".to_vec();
    let listener = TcpListener::bind((V4, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut client = common::Agent::start();
    client.drive(&t, SocketAddr::new(V4, port));
    let (mut flow, _) = listener.accept().unwrap();
    let mut hello = [0; 16];
    flow.read_exact(&mut hello).unwrap();
    flow.write_all(b"G").unwrap();
    let mut request = [0; 100];
    flow.read_exact(&mut request).unwrap();
    assert_eq!(request[..96], b"find-me!".repeat(12));
    drop(client);
}

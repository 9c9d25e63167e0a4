//! Other generators between two namespaces, through agents as the controller drives them: iperf3 and
//! sockperf, and with CNIBENCH_TEST_GENERATORS=netperf,neper those that are no Debian packages, too.

use crate::{
    common::{Agent, task},
    net::Net,
    value,
};
use cnibench_model::{FlowDirection, Generator, Metric, Rate, Workload};
use cnibench_workloads::{
    outcome::{Outcome, combine},
    peers,
    protocol::{FaultKind, Request, Task},
};
use std::{net::SocketAddr, thread, time::Duration};

fn generators() -> Vec<Generator> {
    let more = std::env::var("CNIBENCH_TEST_GENERATORS").unwrap_or_default();
    let more = more.split(',').filter(|name| !name.is_empty()).map(|name| name.parse().unwrap());
    [Generator::Iperf3, Generator::Sockperf].into_iter().chain(more).collect()
}

/// A task that the generator can do, of a second and on the CPUs that this test may use.
fn fitting(generator: Generator, workload: Workload) -> Task {
    let mut t = task(workload, |p| {
        (p.generator, p.gso, p.receive_buffer) = (generator, false, None);
        if generator == Generator::Sockperf {
            (p.size, p.response_size) = (14, 14);
        }
    });
    (t.duration_s, t.warmup_s, t.patience_s) = (1.0, 0.0, 5.0);
    (t.client_cpus, t.server_cpus) = (vec![0], vec![0]);
    t
}

/// As the controller does: the server is told when its client is done.
fn measured(net: &Net, t: &Task, address: std::net::IpAddr) -> Outcome {
    let (mut client, mut server) = (net.client(), net.server());
    let port = server.serve(t, address);
    client.drive(t, SocketAddr::new(address, port));
    let at_client = client.finished();
    server.ask(&Request::Cancel);
    let at_server = server.finished();
    server.assert_alive();
    assert_eq!(at_client.endpoint.flows.len(), t.params.streams as usize);
    assert_eq!(at_client.endpoint.flows[0].cpu, Some(0));
    combine(t, &at_client, &at_server)
}

fn nothing_listens(net: &Net) {
    // The kernel takes a moment to close the sockets of a killed process.
    for _ in 0..50 {
        if net.on_server(&["ss", "-Htuln"]).trim().is_empty() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("left behind: {}", net.on_server(&["ss", "-Htulnp"]));
}

#[test]
fn every_workload_that_a_generator_has_is_measured_and_leaves_nothing() {
    let net = Net::up();
    for generator in generators() {
        for &workload in Workload::ALL {
            let t = fitting(generator, workload);
            if peers::refuses(workload, &t.params).is_some() {
                continue;
            }
            let out = measured(&net, &t, Net::SERVER_V4);
            let made_by = out.made_by.clone().unwrap();
            assert_eq!(made_by.generator, generator);
            assert!(made_by.version.starts_with(|c: char| c.is_ascii_digit()), "{made_by:?}");
            if workload.is_transactional() {
                // One flow: as many as fit into a second, by their mean.
                let product =
                    value(&out, Metric::TransactionRate) * value(&out, Metric::LatencyMean);
                assert!((0.5e9..1.1e9).contains(&product), "{generator} {workload}: {out:?}");
                let p50 = value(&out, Metric::LatencyP50);
                assert!(p50 > 1e3 && p50 <= value(&out, Metric::LatencyMax), "{p50}");
                assert!(value(&out, Metric::CpuPerTransaction) > 0.0);
            } else {
                assert!(value(&out, Metric::Throughput) > 1e6, "{generator} {workload}: {out:?}");
                assert!(value(&out, Metric::CpuPerGigabit) > 0.0);
            }
            nothing_listens(&net);
        }
    }
}

#[test]
fn iperf3_goes_both_ways_over_both_families_in_several_flows_at_a_rate() {
    let net = Net::up();
    for (address, direction) in [
        (Net::SERVER_V6, FlowDirection::Forward),
        (Net::SERVER_V4, FlowDirection::Reverse),
        (Net::SERVER_V4, FlowDirection::Both),
    ] {
        let mut t = fitting(Generator::Iperf3, Workload::TcpStream);
        (t.params.direction, t.params.streams) = (direction, 2);
        t.params.rate = Some(Rate(80e6));
        let bits = value(&measured(&net, &t, address), Metric::Throughput);
        let asked = if direction == FlowDirection::Both { 160e6 } else { 80e6 };
        assert!((0.8..1.2).contains(&(bits / asked)), "{direction:?}: {bits}");
    }
    let mut t = fitting(Generator::Iperf3, Workload::UdpStream);
    t.params.rate = Some(Rate(8e6));
    let out = measured(&net, &t, Net::SERVER_V4);
    assert!((0.8..1.2).contains(&(value(&out, Metric::Throughput) / 8e6)), "{out:?}");
    assert!(value(&out, Metric::Loss) < 0.1 && value(&out, Metric::Jitter) > 0.0, "{out:?}");
}

#[test]
fn a_server_that_is_not_there_is_told_in_the_generators_words() {
    let net = Net::up();
    for (generator, workload) in
        [(Generator::Iperf3, Workload::TcpStream), (Generator::Sockperf, Workload::TcpRr)]
    {
        let mut client = net.client();
        client.drive(&fitting(generator, workload), SocketAddr::new(Net::SERVER_V4, 4_000));
        let (kind, text) = client.fault();
        assert_eq!(kind, FaultKind::Unreachable, "{text}");
        assert!(text.contains(generator.name()) && text.contains("refused"), "{text}");
        client.assert_alive();
    }
}

#[test]
fn what_cannot_be_done_is_refused_and_an_agent_that_is_gone_leaves_no_program() {
    let net = Net::up();
    let mut server = net.server();
    let mut t = fitting(Generator::Iperf3, Workload::TcpRr);
    server.ask(&Request::Serve { task: t.clone(), bind: Net::SERVER_V4, port: 0 });
    let (kind, text) = server.fault();
    assert_eq!((kind, text.contains("streams only")), (FaultKind::BadTask, true), "{text}");
    t = fitting(Generator::Iperf3, Workload::TcpStream);
    t.duration_s = 600.0;
    let mut client: Agent = net.client();
    let port = server.serve(&t, Net::SERVER_V4);
    client.drive(&t, SocketAddr::new(Net::SERVER_V4, port));
    thread::sleep(Duration::from_millis(500));
    assert!(!net.on_server(&["ss", "-Htln"]).trim().is_empty());
    client.end();
    server.end();
    nothing_listens(&net);
}

//! What [`outcome::combine`] makes of known reports.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "it is test code")]

use cnibench_model::{
    CpuTime, DatagramStats, EndpointResult, FlowDirection, FlowResult, Generator, MadeBy, Metric,
    NodeCpu, Pinning, Rate, Sample, StoredHistogram, Workload, histogram, trial::SATURATED,
};
use cnibench_workloads::{
    outcome::{Outcome, combine},
    protocol::{EndReport, Task, Told},
};
use std::collections::BTreeMap;

fn task(workload: Workload) -> Task {
    let params = workload.defaults();
    let server_cpu = if params.pinning == Pinning::Same { 0 } else { 1 };
    Task {
        workload,
        params,
        duration_s: 2.0,
        warmup_s: 0.1,
        client_cpus: vec![0],
        server_cpus: vec![server_cpu],
        patience_s: 1.0,
        canary: vec![],
        latencies: true,
        count: None,
    }
}

/// An end of a window of 2 s on a machine of two CPUs that was busy for `busy_s`, half of it in
/// the agent.
fn end(machine: &str, busy_s: f64, flows: Vec<FlowResult>) -> EndReport {
    EndReport {
        endpoint: EndpointResult {
            window_s: 2.0,
            process: CpuTime { user_s: busy_s / 2.0, ..CpuTime::default() },
            node: NodeCpu {
                machine: machine.to_owned(),
                window_s: 2.0,
                time: CpuTime {
                    user_s: busy_s / 2.0,
                    softirq_s: busy_s / 2.0,
                    ..CpuTime::default()
                },
                busy: BTreeMap::from([(0, 0.5), (1, 0.2)]),
            },
            flows,
        },
        histogram: None,
        slices: vec![],
        slice_s: 0.1,
        datagrams: None,
        window_opened: None,
        told: None,
        intervals: Vec::new(),
        warnings: vec![],
    }
}

fn flow(flow: u32, change: impl FnOnce(&mut FlowResult)) -> FlowResult {
    let mut f = FlowResult { flow, ..FlowResult::default() };
    change(&mut f);
    f
}

fn value(outcome: &Outcome, metric: Metric) -> Option<f64> {
    outcome.samples.iter().find(|s| s.metric == metric).map(|s| s.value)
}

fn receiving(bytes: u64) -> Vec<FlowResult> {
    vec![flow(0, |f| {
        f.received_bytes = bytes;
        f.received = 1;
        f.tcp_info.insert("retrans_in_window".to_owned(), 5);
    })]
}

fn sending(bytes: u64) -> Vec<FlowResult> {
    vec![flow(0, |f| {
        f.sent_bytes = bytes;
        f.tcp_info.insert("retrans_in_window".to_owned(), 7);
    })]
}

#[test]
fn throughput_is_the_receivers_and_retransmits_the_senders() {
    let mut t = task(Workload::TcpStream);
    let (sender, receiver) = (end("a", 1.0, sending(900)), end("b", 1.0, receiving(800)));
    let out = combine(&t, &sender, &receiver);
    assert_eq!(value(&out, Metric::Throughput), Some(3_200.0));
    assert_eq!(value(&out, Metric::Retransmits), Some(7.0));
    t.params.direction = FlowDirection::Reverse;
    let out = combine(&t, &receiver, &sender);
    assert_eq!(value(&out, Metric::Throughput), Some(3_200.0));
    assert_eq!(value(&out, Metric::Retransmits), Some(7.0));
}

#[test]
fn both_directions_add_up() {
    let mut t = task(Workload::TcpStream);
    t.params.direction = FlowDirection::Both;
    let (mut c, mut s) = (end("a", 1.0, receiving(100)), end("b", 1.0, receiving(300)));
    (c.slices, s.slices) = (vec![1.0, 2.0], vec![10.0, 20.0]);
    let out = combine(&t, &c, &s);
    assert_eq!(value(&out, Metric::Throughput), Some(1_600.0));
    assert_eq!(value(&out, Metric::Retransmits), Some(10.0));
    assert_eq!(out.slices, [11.0, 22.0]);
}

#[test]
fn a_machine_is_counted_once() {
    let t = task(Workload::TcpStream);
    // 250 MB in 2 s is 1 Gbit/s.
    let run = |a: &str, b: &str| {
        let out = combine(&t, &end(a, 1.0, sending(1)), &end(b, 1.2, receiving(250_000_000)));
        value(&out, Metric::CpuPerGigabit).unwrap()
    };
    assert!((run("a", "a") - 0.55).abs() < 1e-12);
    assert!((run("a", "b") - 1.1).abs() < 1e-12);
}

fn transactions(count: u64) -> Vec<FlowResult> {
    vec![flow(0, |f| {
        f.transactions = count;
        f.received = count;
        f.sent = count;
    })]
}

fn with_latencies(mut end: EndReport, values: impl Iterator<Item = u64>) -> EndReport {
    let mut h = histogram::empty();
    values.for_each(|v| h.record(v).unwrap());
    end.histogram = Some(StoredHistogram::encode(&h).unwrap());
    end
}

#[test]
fn transactions_and_latencies_are_the_clients() {
    let t = task(Workload::TcpRr);
    let client = with_latencies(end("a", 1.0, transactions(10_000)), (1..=10_000).map(|i| i * 100));
    let out = combine(&t, &client, &end("a", 1.0, transactions(7)));
    assert_eq!(value(&out, Metric::TransactionRate), Some(5_000.0));
    let near = |metric, expected: f64| {
        let v = value(&out, metric).unwrap();
        assert!((v / expected - 1.0).abs() < 2e-3, "{metric}: {v}");
    };
    near(Metric::LatencyP50, 500_000.0);
    near(Metric::LatencyP90, 900_000.0);
    near(Metric::LatencyP99, 990_000.0);
    near(Metric::LatencyP999, 999_000.0);
    near(Metric::LatencyMax, 1_000_000.0);
    near(Metric::LatencyMean, 500_050.0);
    near(Metric::CpuPerTransaction, 1.0 / 10_000.0);
    assert_eq!(out.histogram, client.histogram);
    assert_eq!(out.warnings, Vec::<String>::new());
}

#[test]
fn a_percentile_needs_ten_transactions_beyond_it() {
    let has = |count: u64| {
        let client = with_latencies(end("a", 1.0, transactions(count)), 1..=count);
        let out = combine(&task(Workload::TcpRr), &client, &end("a", 1.0, vec![]));
        let metrics = [Metric::LatencyP50, Metric::LatencyP90, Metric::LatencyP99];
        assert!(value(&out, Metric::LatencyMean).is_some());
        assert!(value(&out, Metric::LatencyMax).is_some());
        let known = |m| value(&out, m).is_some();
        (metrics.map(known), known(Metric::LatencyP999))
    };
    assert_eq!(has(19), ([false, false, false], false));
    assert_eq!(has(20), ([true, false, false], false));
    assert_eq!(has(99), ([true, false, false], false));
    assert_eq!(has(100), ([true, true, false], false));
    assert_eq!(has(999), ([true, true, false], false));
    assert_eq!(has(1_000), ([true, true, true], false));
    assert_eq!(has(10_000), ([true, true, true], true));
}

#[test]
fn what_a_paced_flow_spun_is_no_cost() {
    let mut t = task(Workload::TcpRr);
    t.params.rate = Some(Rate(500.0));
    let mut client = end("a", 1.0, transactions(1_000));
    client.endpoint.flows[0].options.insert("spun_ns".to_owned(), "400000000".to_owned());
    let out = combine(&t, &client, &end("a", 1.0, vec![]));
    assert!((value(&out, Metric::CpuPerTransaction).unwrap() - 0.6 / 1_000.0).abs() < 1e-12);
}

#[test]
fn a_cost_below_the_ticks_is_left_out_and_told_never_zero() {
    let told = |o: &Outcome| o.warnings.iter().any(|w| w.contains("ticks of /proc/stat"));
    let mut t = task(Workload::TcpRr);
    t.params.rate = Some(Rate(500.0));
    let mut client = end("a", 0.3, transactions(1_000));
    client.endpoint.flows[0].options.insert("spun_ns".to_owned(), "400000000".to_owned());
    let out = combine(&t, &client, &end("a", 0.3, vec![]));
    assert_eq!(value(&out, Metric::CpuPerTransaction), None);
    assert!(told(&out));

    let stream = task(Workload::TcpStream);
    let idle = combine(&stream, &end("a", 0.0, sending(1_000)), &end("a", 0.0, receiving(1_000)));
    assert_eq!(value(&idle, Metric::CpuPerGigabit), None);
    assert!(told(&idle));
}

#[test]
fn no_transaction_is_a_rate_of_zero_and_a_warning() {
    let client = with_latencies(end("a", 1.0, transactions(0)), std::iter::empty());
    let out = combine(&task(Workload::TcpRr), &client, &end("a", 1.0, transactions(0)));
    assert_eq!(value(&out, Metric::TransactionRate), Some(0.0));
    for metric in [Metric::LatencyP50, Metric::CpuPerTransaction] {
        assert_eq!(value(&out, metric), None);
    }
    assert!(out.warnings.iter().any(|w| w.contains("no transaction")), "{:?}", out.warnings);
}

#[test]
fn lost_requests_are_a_share_of_those_sent() {
    let mut client = end("a", 1.0, transactions(90));
    client.endpoint.flows[0].sent = 100;
    let run = |client: &EndReport| {
        combine(&task(Workload::UdpRr), client, &end("a", 1.0, transactions(1)))
    };
    let out = run(&client);
    assert!((value(&out, Metric::Loss).unwrap() - 0.1).abs() < 1e-12);
    assert_eq!(out.warnings, ["requests were lost: their time is in no percentile"]);
    let out = run(&end("a", 1.0, transactions(90)));
    assert_eq!(value(&out, Metric::Loss), Some(0.0));
    assert_eq!(out.warnings, Vec::<String>::new());
}

#[test]
fn datagrams_are_counted_against_what_the_sender_sent() {
    let t = task(Workload::UdpStream);
    let mut client = end("a", 1.0, vec![flow(0, |f| (f.sent, f.sent_bytes) = (1_000, 1_400_000))]);
    let mut server = end("a", 1.0, receiving(980 * 1_400));
    server.endpoint.flows[0].received = 980;
    server.endpoint.flows[0].options.insert("receive_buffer_drops".to_owned(), "3".to_owned());
    // The receiver missed the tail and expects too few.
    server.datagrams = Some(DatagramStats {
        expected: 990,
        received: 975,
        reordered: 39,
        duplicated: 2,
        jitter_ns: 1_234.0,
    });
    server.window_opened = "2026-02-03T10:20:31Z".parse().ok();
    client.window_opened = "2026-02-03T10:20:32Z".parse().ok();
    let out = combine(&t, &client, &server);
    assert_eq!((out.datagrams, out.window_opened), (server.datagrams, client.window_opened));
    assert!((value(&out, Metric::Loss).unwrap() - 0.025).abs() < 1e-12);
    assert!((value(&out, Metric::Reordering).unwrap() - 0.04).abs() < 1e-12);
    assert_eq!(value(&out, Metric::Jitter), Some(1_234.0));
    assert_eq!(value(&out, Metric::PacketRate), Some(490.0));
    assert!(out.warnings.iter().any(|w| w.contains("receive buffers were full")));
    assert!(out.warnings.iter().any(|w| w.contains("more than once")));
}

#[test]
fn nothing_arriving_is_no_number_but_a_warning() {
    let out = combine(
        &task(Workload::UdpStream),
        &end("a", 1.0, vec![flow(0, |f| f.sent = 10)]),
        &end("a", 1.0, vec![flow(0, |_| {})]),
    );
    assert_eq!(value(&out, Metric::Throughput), Some(0.0));
    assert_eq!(value(&out, Metric::Loss), Some(1.0));
    assert_eq!(value(&out, Metric::Reordering), None);
    assert!(out.warnings.iter().any(|w| w.contains("nothing arrived")));
    assert!(out.samples.iter().all(|s| s.value.is_finite()));
}

#[test]
fn a_rate_that_was_not_held_is_told() {
    let mut t = task(Workload::TcpRr);
    let warned = |t: &Task, done: u64| {
        let out = combine(t, &end("a", 1.0, transactions(done)), &end("a", 1.0, vec![]));
        out.warnings.into_iter().find(|w| w.contains("rate not held"))
    };
    t.params.rate = Some(Rate(10_000.0));
    assert_eq!(warned(&t, 20_000), None);
    assert_eq!(warned(&t, 19_990), None);
    let text = warned(&t, 19_900).unwrap();
    assert!(text.contains("saturated"), "{text}");
    assert!(warned(&t, 20_100).unwrap().contains("caught up"));
    // Equal warnings of two trials are equal texts.
    assert_eq!(warned(&t, 15_000), Some(text));
    t.params.rate = None;
    assert_eq!(warned(&t, 5), None);
}

#[test]
fn full_cpus_and_steal_are_told() {
    let mut t = task(Workload::TcpStream);
    let mut client = end("a", 1.0, sending(1));
    client.endpoint.node.busy.insert(0, 0.97);
    client.endpoint.node.time.steal_s = 0.2;
    let server = end("a", 1.0, receiving(1_000));
    let full = |o: &Outcome| o.warnings.iter().filter(|w| w.contains("CPU 0 was full")).count();
    let out = combine(&t, &client, &server);
    // 0.2 s of 2 CPUs for 2 s.
    assert!(out.warnings.iter().any(|w| w.contains("(steal)")), "{:?}", out.warnings);
    assert_eq!(full(&out), 1);
    // A closed loop on one CPU is meant to fill it; a paced one is not.
    t = task(Workload::TcpRr);
    t.server_cpus = vec![0];
    assert_eq!(full(&combine(&t, &client, &server)), 0);
    // CPU 0 of another machine is another one.
    assert_eq!(full(&combine(&t, &client, &end("b", 1.0, receiving(1_000)))), 1);
    t.params.rate = Some(Rate(10.0));
    assert_eq!(full(&combine(&t, &client, &server)), 1);
}

#[test]
fn cpu_time_of_others_is_told() {
    let t = task(Workload::TcpStream);
    let told = |client: &EndReport, server: &EndReport| {
        let warnings = combine(&t, client, server).warnings;
        warnings.into_iter().filter(|w| w.contains("other work")).collect::<Vec<_>>()
    };
    let with = |machine: &str, own: f64, flows| {
        let mut e = end(machine, 2.0, flows);
        e.endpoint.process = CpuTime { system_s: own, ..CpuTime::default() };
        e
    };
    // 1 of the 2 busy seconds was spent by processes; 10 % of 2 s may be anybody's.
    let run = |a: &str, b: &str, at_client: f64, at_server: f64| {
        told(&with(a, at_client, sending(1)), &with(b, at_server, receiving(1)))
    };
    assert_eq!(run("a", "a", 0.5, 0.31), Vec::<String>::new());
    let texts = run("a", "a", 0.5, 0.29);
    assert_eq!(texts.len(), 1);
    assert!(texts[0].starts_with("node: ") && texts[0].contains("a cni's own daemon"));
    assert_eq!(run("a", "b", 0.81, 0.81), Vec::<String>::new());
    let texts = run("a", "b", 0.81, 0.79);
    assert!(texts.len() == 1 && texts[0].starts_with("server's node: "), "{texts:?}");
    // A few ticks of a short window say nothing.
    let mut quiet = end("a", 0.08, sending(1));
    quiet.endpoint.process = CpuTime::default();
    assert_eq!(told(&quiet, &quiet), Vec::<String>::new());
    let mut unseen = with("a", 0.0, sending(1));
    unseen.warnings.push(
        "kernel threads cannot be seen here (a PID namespace): their time is in system".to_owned(),
    );
    assert!(told(&unseen, &with("a", 0.0, receiving(1)))[0].contains("kernel threads, which"));
}

#[test]
fn a_split_that_could_not_be_is_told() {
    let mut t = task(Workload::TcpStream);
    assert_eq!(t.params.pinning, Pinning::Split);
    let run = |t: &Task, other: &str| {
        combine(t, &end("a", 1.0, sending(1)), &end(other, 1.0, receiving(1)))
            .warnings
            .iter()
            .any(|w| w.contains("split pinning"))
    };
    assert!(!run(&t, "a"));
    t.server_cpus = vec![0];
    assert!(run(&t, "a"));
    // CPU 0 of two machines are two CPUs.
    assert!(!run(&t, "b"));
}

#[test]
fn a_same_that_could_not_be_is_told() {
    let mut t = task(Workload::TcpStream);
    (t.params.pinning, t.server_cpus) = (Pinning::Same, vec![1]);
    let run = |t: &Task, other: &str| {
        combine(t, &end("a", 1.0, sending(1)), &end(other, 1.0, receiving(1)))
            .warnings
            .iter()
            .any(|w| w.contains("same pinning"))
    };
    assert!(run(&t, "a"));
    assert!(!run(&t, "b"));
    t.server_cpus = vec![0];
    assert!(!run(&t, "a"));
}

#[test]
fn a_flow_that_starved_is_told() {
    let mut flows = receiving(1_000);
    flows.push(flow(1, |_| {}));
    let out =
        combine(&task(Workload::TcpStream), &end("a", 1.0, sending(1)), &end("a", 1.0, flows));
    assert!(out.warnings.iter().any(|w| w == "server: a flow received nothing in the window"));
}

#[test]
fn warnings_of_the_ends_say_whose_they_are() {
    let (mut c, s) = (end("a", 1.0, sending(1)), end("a", 1.0, receiving(9)));
    c.warnings.push("hm".to_owned());
    let out = combine(&task(Workload::TcpStream), &c, &s);
    assert_eq!(out.warnings, ["client: hm"]);
}

#[test]
fn another_generators_values_are_taken_as_told_with_the_cpu_cost_of_one_machine() {
    let mut t = task(Workload::TcpStream);
    t.params.generator = Generator::Iperf3;
    let mut client = end("a", 1.0, vec![]);
    let made_by = MadeBy {
        generator: Generator::Iperf3,
        version: "3.12".to_owned(),
        command: vec!["iperf3".to_owned()],
    };
    let samples = vec![
        Sample { metric: Metric::Throughput, value: 4e9 },
        Sample { metric: Metric::Retransmits, value: 7.0 },
    ];
    client.told = Some(Told { made_by: made_by.clone(), samples });
    let here = combine(&t, &client, &end("a", 9.0, vec![]));
    assert_eq!(here.made_by, Some(made_by));
    assert_eq!(value(&here, Metric::Throughput), Some(4e9));
    assert_eq!(value(&here, Metric::Retransmits), Some(7.0));
    // Only the client knows when its window was.
    let busy = client.endpoint.node.time.busy_s() / client.endpoint.node.window_s;
    let cost = value(&here, Metric::CpuPerGigabit).unwrap();
    assert!((cost - busy / 4.0).abs() < 1e-12, "{cost}");
    let apart = combine(&t, &client, &end("b", 1.0, vec![]));
    assert_eq!(value(&apart, Metric::CpuPerGigabit), None);
    assert!(apart.warnings.iter().any(|w| w.contains("on one machine")), "{:?}", apart.warnings);
    let saturated = |t: &Task| {
        let out = combine(t, &client, &end("a", 1.0, vec![]));
        out.warnings.iter().any(|w| w == SATURATED)
    };
    t.params.rate = Some(Rate(4.003e9));
    assert!(!saturated(&t));
    t.params.rate = Some(Rate(4.005e9));
    assert!(saturated(&t));
}

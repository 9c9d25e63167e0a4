//! The parsers on what the programs really wrote (tests/fixtures/peers, recorded between two namespaces
//! of one machine: iperf 3.12, netperf 2.7.1, sockperf 3.7, neper 1.1.0), on their errors, and on
//! output that was cut off at every length.

use super::{Output, Reading, Unreadable, peer};
use crate::protocol::Task;
use cnibench_model::{FlowDirection, Generator, Metric, Workload, WorkloadParams};
use std::fs;

fn recorded(name: &str) -> String {
    let path = format!("{}/tests/fixtures/peers/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn output(name: &str) -> Output {
    Output { stdout: recorded(name), stderr: String::new(), success: true }
}

fn task(generator: Generator, workload: Workload, change: impl Fn(&mut WorkloadParams)) -> Task {
    let mut params = WorkloadParams { generator, gso: false, ..workload.defaults() };
    change(&mut params);
    Task {
        workload,
        params,
        duration_s: 1.0,
        warmup_s: 0.0,
        client_cpus: vec![],
        server_cpus: vec![],
        patience_s: 1.0,
        canary: vec![],
        latencies: true,
        count: None,
    }
}

fn read(task: &Task, outputs: &[Output]) -> Result<Reading, Unreadable> {
    peer(task.params.generator).unwrap().read(task, outputs)
}

fn values(reading: &Reading) -> Vec<(Metric, f64)> {
    reading.samples.iter().map(|s| (s.metric, s.value)).collect()
}

/// Every value to one part in a thousand.
fn assert_values(reading: &Reading, expected: &[(Metric, f64)]) {
    let found = values(reading);
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((metric, value), (wanted, right)) in found.iter().zip(expected) {
        assert_eq!(metric, wanted, "{found:?}");
        assert!((value - right).abs() <= right.abs() * 1e-3, "{metric}: {value}, not {right}");
    }
}

/// No part of an output is taken for a result, and none of it makes the parser fall over.
fn assert_no_part_counts(task: &Task, whole: &str) {
    let text = recorded(whole);
    let complete = values(&read(task, &[output(whole)]).unwrap());
    for (at, _) in text.char_indices() {
        let cut = Output { stdout: text[..at].to_owned(), stderr: String::new(), success: true };
        if let Ok(reading) = read(task, &[cut]) {
            assert_eq!(values(&reading), complete, "{whole} cut at {at} of {}", text.len());
        }
    }
    let killed = Output { success: false, ..output(whole) };
    let json = task.params.generator == Generator::Iperf3;
    assert_eq!(read(task, &[killed]).is_ok(), json, "{whole}: what was killed is no result");
    assert!(read(task, &[]).is_err());
}

fn error(task: &Task, outputs: &[Output]) -> String {
    read(task, outputs).unwrap_err().to_string()
}

mod iperf3 {
    use super::*;

    fn tcp(direction: FlowDirection) -> Task {
        task(Generator::Iperf3, Workload::TcpStream, |p| p.direction = direction)
    }

    #[test]
    fn tcp_is_what_the_receiver_got() {
        let t = tcp(FlowDirection::Forward);
        let reading = read(&t, &[output("iperf3-tcp.txt")]).unwrap();
        assert_eq!(reading.version, "3.12");
        assert!(reading.options.contains(&("congestion_control", "cubic".to_owned())));
        assert_values(&reading, IPERF3_TCP);
        assert_no_part_counts(&t, "iperf3-tcp.txt");
    }

    #[test]
    fn both_directions_add_up() {
        let t = tcp(FlowDirection::Both);
        assert_values(&read(&t, &[output("iperf3-tcp-bidir.txt")]).unwrap(), IPERF3_BIDIR);
        assert_no_part_counts(&t, "iperf3-tcp-bidir.txt");
        let one = error(&t, &[output("iperf3-tcp.txt")]);
        assert!(one.contains("bidir_reverse"), "{one}");
        let t = tcp(FlowDirection::Reverse);
        assert_values(&read(&t, &[output("iperf3-tcp-reverse.txt")]).unwrap(), IPERF3_REVERSE);
    }

    #[test]
    fn datagrams_have_loss_and_jitter() {
        let t = task(Generator::Iperf3, Workload::UdpStream, |_| {});
        assert_values(&read(&t, &[output("iperf3-udp.txt")]).unwrap(), IPERF3_UDP);
        assert_no_part_counts(&t, "iperf3-udp.txt");
        // Why no time is cut off: with --omit more are lost than were sent.
        let omitted = read(&t, &[output("iperf3-udp-omit.txt")]).unwrap();
        let loss = omitted.samples.iter().find(|s| s.metric == Metric::Loss).unwrap().value;
        assert!(loss > 1.0, "{loss}: iperf3 counts rightly, so that UDP could warm up");
        assert!(!peer(Generator::Iperf3).unwrap().warms_up(Workload::UdpStream));
    }

    #[test]
    fn an_error_that_exits_with_0_is_one() {
        let t = tcp(FlowDirection::Forward);
        let text = error(&t, &[output("iperf3-refused.txt")]);
        assert_eq!(text, "unable to connect to server: Connection refused");
        let text = error(&t, &[output("iperf3-bad-congestion-control.txt")]);
        assert!(text.contains("congestion control algorithm not supported"), "{text}");
        let text = error(&t, &[Output { stderr: "iperf3: what?".into(), ..Output::default() }]);
        assert!(text.contains("no JSON") && text.ends_with(": iperf3: what?"), "{text}");
    }

    #[test]
    fn another_congestion_control_than_was_asked_for_is_no_result() {
        let mut t = tcp(FlowDirection::Forward);
        t.params.congestion_control = "reno".to_owned();
        let text = error(&t, &[output("iperf3-tcp.txt")]);
        assert!(text.contains("cubic was in force, not reno"), "{text}");
    }
}

mod netperf {
    use super::*;

    fn of(workload: Workload) -> Task {
        task(Generator::Netperf, workload, |_| {})
    }

    #[test]
    fn streams_and_transactions_are_told_apart_by_their_units() {
        for (workload, name, expected) in [
            (Workload::TcpStream, "netperf-tcp-stream.txt", NETPERF_STREAM),
            (Workload::TcpRr, "netperf-tcp-rr.txt", NETPERF_RR),
            (Workload::TcpCrr, "netperf-tcp-crr.txt", NETPERF_CRR),
            (Workload::UdpStream, "netperf-udp-stream.txt", NETPERF_UDP),
        ] {
            let t = of(workload);
            assert_values(&read(&t, &[output(name)]).unwrap(), expected);
            assert_no_part_counts(&t, name);
        }
        let text = error(&of(Workload::TcpRr), &[output("netperf-tcp-stream.txt")]);
        assert!(text.contains("10^6bits/s"), "{text}");
    }

    #[test]
    fn a_task_without_latencies_has_none_and_needs_none() {
        let mut t = of(Workload::UdpRr);
        let text = error(&t, &[output("netperf-udp-rr.txt")]);
        assert!(text.contains("MEAN_LATENCY"), "{text}");
        t.latencies = false;
        assert_values(&read(&t, &[output("netperf-udp-rr.txt")]).unwrap(), NETPERF_UDP_RR);
    }

    #[test]
    fn retransmits_are_those_of_the_end_that_sends() {
        let t = task(Generator::Netperf, Workload::TcpStream, |p| {
            p.direction = FlowDirection::Reverse;
        });
        let reading = read(&t, &[output("netperf-tcp-maerts.txt")]).unwrap();
        assert_values(&reading, NETPERF_MAERTS);
    }

    #[test]
    fn flows_add_up_and_have_no_percentiles_together() {
        let two = [output("netperf-tcp-rr.txt"), output("netperf-tcp-rr.txt")];
        let one = read(&of(Workload::TcpRr), &two[..1]).unwrap();
        let both = read(&of(Workload::TcpRr), &two).unwrap();
        assert_eq!(both.samples[0].value, 2.0 * one.samples[0].value);
        let named: Vec<Metric> = both.samples.iter().map(|s| s.metric).collect();
        use Metric::{LatencyMax, LatencyMean, Retransmits, TransactionRate};
        assert_eq!(named, [TransactionRate, LatencyMean, LatencyMax, Retransmits]);
        let mean = |r: &Reading| r.samples.iter().find(|s| s.metric == LatencyMean).unwrap().value;
        assert!((mean(&both) - mean(&one)).abs() < 1.0);
    }

    #[test]
    fn a_congestion_control_that_was_not_set_is_noticed() {
        let text = error(&of(Workload::TcpRr), &[output("netperf-bad-congestion-control.txt")]);
        assert!(text.contains("bbr was in force, not cubic"), "{text}");
    }

    #[test]
    fn a_failure_has_its_words() {
        let failed = Output { success: false, ..output("netperf-refused.txt") };
        let text = error(&of(Workload::TcpRr), &[failed]);
        assert!(text.contains("establish"), "{text}");
    }
}

mod sockperf {
    use super::*;

    fn of(workload: Workload) -> Task {
        task(Generator::Sockperf, workload, |p| (p.size, p.response_size) = (14, 14))
    }

    #[test]
    fn round_trips_are_of_the_part_that_counts() {
        let t = of(Workload::TcpRr);
        let reading = read(&t, &[output("sockperf-tcp.txt")]).unwrap();
        assert_eq!((reading.version.as_str(), reading.window_s), ("3.7-no.git", 1.55));
        assert_values(&reading, SOCKPERF_TCP);
        assert_no_part_counts(&t, "sockperf-tcp.txt");
        let t = of(Workload::UdpRr);
        assert_values(&read(&t, &[output("sockperf-udp.txt")]).unwrap(), SOCKPERF_UDP);
        assert_no_part_counts(&t, "sockperf-udp.txt");
    }

    #[test]
    fn an_error_that_exits_with_0_is_one() {
        let text = error(&of(Workload::TcpRr), &[output("sockperf-refused.txt")]);
        assert_eq!(text, "Can`t connect socket (errno=111 Connection refused)");
        let text = error(&of(Workload::UdpRr), &[output("sockperf-udp-refused.txt")]);
        assert!(text.contains("Valid Duration"), "{text}");
    }
}

mod neper {
    use super::*;

    fn of(workload: Workload) -> Task {
        task(Generator::Neper, workload, |p| p.receive_buffer = None)
    }

    #[test]
    fn seconds_become_nanoseconds_and_the_servers_rate_is_the_streams() {
        for (workload, name, expected) in [
            (Workload::TcpRr, "neper-tcp-rr.txt", NEPER_RR),
            (Workload::TcpCrr, "neper-tcp-crr.txt", NEPER_CRR),
            (Workload::UdpRr, "neper-udp-rr.txt", NEPER_UDP_RR),
            (Workload::TcpStream, "neper-tcp-stream.txt", NEPER_STREAM),
            (Workload::UdpStream, "neper-udp-stream.txt", NEPER_UDP),
        ] {
            let t = of(workload);
            let reading = read(&t, &[output(name)]).unwrap();
            assert_eq!(reading.version, "1.1.0");
            assert_values(&reading, expected);
            assert_no_part_counts(&t, name);
        }
        let mut t = of(Workload::TcpStream);
        t.params.direction = FlowDirection::Reverse;
        assert_values(&read(&t, &[output("neper-tcp-stream-reverse.txt")]).unwrap(), NEPER_REVERSE);
    }

    #[test]
    fn an_option_that_could_not_be_set_is_no_result() {
        let name = "neper-bad-congestion-control";
        let stderr = recorded(&format!("{name}.err"));
        let said = Output { stderr, ..output(&format!("{name}.txt")) };
        let text = error(&of(Workload::TcpRr), &[said]);
        assert!(text.contains("setsockopt(TCP_CONGESTION): No such file"), "{text}");
    }
}

// What the recorded outputs say, with each unit converted by hand.

const IPERF3_TCP: &[(Metric, f64)] =
    &[(Metric::Throughput, 14626719247.834948), (Metric::Retransmits, 11.0)];
const IPERF3_BIDIR: &[(Metric, f64)] =
    &[(Metric::Throughput, 19248323777.429955), (Metric::Retransmits, 360.0)];
const IPERF3_REVERSE: &[(Metric, f64)] =
    &[(Metric::Throughput, 35642673331.66708), (Metric::Retransmits, 2.0)];
const IPERF3_UDP: &[(Metric, f64)] = &[
    (Metric::Throughput, 568477433.969356),
    (Metric::PacketRate, 59216.39937180791),
    (Metric::Loss, 0.5414547696101094),
    (Metric::Jitter, 1899.033462101113),
];
const NETPERF_STREAM: &[(Metric, f64)] =
    &[(Metric::Throughput, 17985380000.0), (Metric::Retransmits, 2.0)];
const NETPERF_MAERTS: &[(Metric, f64)] =
    &[(Metric::Throughput, 7772010000.0), (Metric::Retransmits, 908.0)];
const NETPERF_RR: &[(Metric, f64)] = &[
    (Metric::TransactionRate, 42536.49),
    (Metric::LatencyMean, 23460.0),
    (Metric::LatencyP50, 14000.0),
    (Metric::LatencyP90, 16000.0),
    (Metric::LatencyP99, 77000.0),
    (Metric::LatencyMax, 16172000.0),
    (Metric::Retransmits, 0.0),
];
const NETPERF_CRR: &[(Metric, f64)] = &[
    (Metric::TransactionRate, 9626.0),
    (Metric::LatencyMean, 103830.0),
    (Metric::LatencyP50, 61000.0),
    (Metric::LatencyP90, 88000.0),
    (Metric::LatencyP99, 450000.0),
    (Metric::LatencyMax, 127009000.0),
];
const NETPERF_UDP_RR: &[(Metric, f64)] = &[(Metric::TransactionRate, 63330.88)];
const NETPERF_UDP: &[(Metric, f64)] =
    &[(Metric::Throughput, 1206990000.0), (Metric::PacketRate, 125728.125), (Metric::Loss, 0.0)];
const SOCKPERF_TCP: &[(Metric, f64)] = &[
    (Metric::TransactionRate, 53902.58064516129),
    (Metric::LatencyMean, 18522.0),
    (Metric::LatencyP50, 16414.0),
    (Metric::LatencyP90, 17636.0),
    (Metric::LatencyP99, 72347.0),
    (Metric::LatencyP999, 158585.0),
    (Metric::LatencyMax, 4074129.0),
];
const SOCKPERF_UDP: &[(Metric, f64)] = &[
    (Metric::TransactionRate, 43925.8064516129),
    (Metric::LatencyMean, 22748.0),
    (Metric::LatencyP50, 12588.0),
    (Metric::LatencyP90, 13319.0),
    (Metric::LatencyP99, 85967.0),
    (Metric::LatencyP999, 2607645.0),
    (Metric::LatencyMax, 12835585.0),
];
const NEPER_RR: &[(Metric, f64)] = &[
    (Metric::TransactionRate, 57321.62),
    (Metric::LatencyMean, 34796.0),
    (Metric::LatencyP50, 18390.0),
    (Metric::LatencyP90, 49270.0),
    (Metric::LatencyP99, 85750.0),
    (Metric::LatencyP999, 2908150.0),
    (Metric::LatencyMax, 25665811.0),
];
const NEPER_CRR: &[(Metric, f64)] = &[
    (Metric::TransactionRate, 6016.3),
    (Metric::LatencyMean, 125993.0),
    (Metric::LatencyP50, 80630.0),
    (Metric::LatencyP90, 122870.0),
    (Metric::LatencyP99, 332790.0),
    (Metric::LatencyP999, 2211830.0),
    (Metric::LatencyMax, 151041000.0),
];
const NEPER_UDP_RR: &[(Metric, f64)] = &[
    (Metric::TransactionRate, 40245.93),
    (Metric::LatencyMean, 24747.0),
    (Metric::LatencyP50, 16470.0),
    (Metric::LatencyP90, 19030.0),
    (Metric::LatencyP99, 71030.0),
    (Metric::LatencyP999, 394230.0),
    (Metric::LatencyMax, 191967089.0),
];
const NEPER_STREAM: &[(Metric, f64)] = &[(Metric::Throughput, 8391852990.0)];
const NEPER_REVERSE: &[(Metric, f64)] = &[(Metric::Throughput, 3658440077.0)];
const NEPER_UDP: &[(Metric, f64)] =
    &[(Metric::Throughput, 350579322.0), (Metric::PacketRate, 36518.679375)];

//! A server that stands still for 200 ms, stopped by a signal: an open loop finds the stall in its
//! histogram, a closed loop on the same stall has it once among tens of thousands and its p99 knows
//! nothing of it. The server is a `cnibench agent` of its own; no privileges.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows test functions, but not what they share, as tests"
)]

use cnibench_model::{Metric, Rate, Workload, WorkloadParams};
use cnibench_workloads::{
    agent,
    outcome::{Outcome, combine},
    protocol::{EndReport, Reply, Request, Task},
};
use hdrhistogram::Histogram;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead, BufReader, Read, Write, pipe},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const STALL: Duration = Duration::from_millis(200);

/// An agent at the other end of two pipes.
struct Speaker<R, W> {
    output: BufReader<R>,
    input: W,
}

impl<R: Read, W: Write> Speaker<R, W> {
    fn ask(&mut self, request: &Request) {
        let mut line = serde_json::to_vec(request).unwrap();
        line.push(b'\n');
        self.input.write_all(&line).unwrap();
        self.input.flush().unwrap();
    }

    fn reply(&mut self) -> Reply {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn finished(&mut self) -> EndReport {
        match self.reply() {
            Reply::Finished(report) => *report,
            other => panic!("expected Finished, got {other:?}"),
        }
    }
}

/// Ends a child that a failed test would leave behind.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A trial of 2 s in whose middle the server is stopped.
fn with_a_stall(workload: Workload, rate: Option<f64>) -> (Outcome, Histogram<u64>, Duration) {
    let child = Command::new(env!("CARGO_BIN_EXE_cnibench"))
        .arg("agent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Ended(child);
    let pid = Pid::from_child(&child.0);
    let mut server = Speaker {
        output: BufReader::new(child.0.stdout.take().unwrap()),
        input: child.0.stdin.take().unwrap(),
    };
    let (theirs, input) = pipe().unwrap();
    let (output, mine) = pipe().unwrap();
    let running = thread::spawn(move || agent::run(BufReader::new(theirs), mine));
    let mut client = Speaker { output: BufReader::new(output), input };

    let params = WorkloadParams { rate: rate.map(Rate), ..workload.defaults() };
    let task = Task {
        workload,
        params,
        duration_s: 2.0,
        warmup_s: 0.2,
        client_cpus: vec![],
        server_cpus: vec![],
        patience_s: 20.0,
        canary: vec![],
        latencies: true,
        count: None,
    };
    server.ask(&Request::Serve { task: task.clone(), bind: HERE, port: 0 });
    let Reply::Listening { port } = server.reply() else { panic!("it does not listen") };
    client.ask(&Request::Drive { task: task.clone(), server: SocketAddr::new(HERE, port) });
    thread::sleep(Duration::from_millis(1_000));
    let stopped = Instant::now();
    kill_process(pid, Signal::STOP).unwrap();
    thread::sleep(STALL);
    kill_process(pid, Signal::CONT).unwrap();
    let stall = stopped.elapsed();
    let (at_client, at_server) = (client.finished(), server.finished());
    drop(client);
    running.join().unwrap().unwrap();
    let histogram = at_client.histogram.as_ref().unwrap().decode().unwrap();
    (combine(&task, &at_client, &at_server), histogram, stall)
}

fn value(outcome: &Outcome, metric: Metric) -> f64 {
    outcome.samples.iter().find(|s| s.metric == metric).unwrap().value
}

#[test]
fn an_open_loop_finds_a_stall_that_a_closed_loop_hides() {
    let rate = 1_000.0;
    for workload in [Workload::TcpRr, Workload::TcpCrr] {
        let (open, paced, stall) = with_a_stall(workload, Some(rate));
        let (closed, unpaced, _) = with_a_stall(workload, None);

        // Both saw that somebody waited so long.
        let least = STALL.as_nanos() as u64 * 9 / 10;
        assert!(paced.max() >= least && unpaced.max() >= least, "{workload}");

        // Open: every request that was due meanwhile waited, half of them for half of it or more.
        let half = STALL.as_nanos() as u64 / 2;
        let due = rate * stall.as_secs_f64();
        let waited = paced.count_between(half, u64::MAX) as f64;
        assert!(waited > due * 0.3, "{workload}: {waited} of {due} that were due");
        // They are a tenth of what was sent in 2 s, so that the p99 is of the stall.
        assert!(value(&open, Metric::LatencyP99) > half as f64, "{workload}: {open:?}");
        // Nothing was left out: as many are in the histogram as were due in the window.
        assert!((paced.len() as f64 - 2.0 * rate).abs() <= 2.0, "{workload}: {}", paced.len());

        // Closed: one flow has one request on its way, so that one waited, and the p99 knows of none.
        let waited = unpaced.count_between(half, u64::MAX);
        assert!((1..=3).contains(&waited), "{workload}: {waited}");
        assert!(value(&closed, Metric::LatencyP99) < half as f64, "{workload}: {closed:?}");
    }
}

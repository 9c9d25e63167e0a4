//! neper (1.1.0 was tried): streams, request/response and connections, told as `key=value`.
//!
//! One thread a flow, pinned as ours are. Its client waits for a server that is not there without end,
//! and goes on where it could not set a congestion control: both are found here. Throughput of streams
//! is the server's (`remote_throughput`, bit/s). Of connections it is asked to close as TCP does
//! (`--time-wait`): by default it resets them.

use super::{Invocation, Output, Peer, Reading, Unreadable, no_both, no_gso, no_rate, seconds};
use crate::protocol::Task;
use cnibench_model::{FlowDirection, Metric, Workload, WorkloadParams};
use std::net::SocketAddr;

pub(super) struct Neper;

/// The program of a workload, the same for both ends.
pub(super) fn program(workload: Workload) -> &'static str {
    match workload {
        Workload::TcpStream => "tcp_stream",
        Workload::TcpRr => "tcp_rr",
        Workload::TcpCrr => "tcp_crr",
        Workload::UdpStream => "udp_stream",
        Workload::UdpRr => "udp_rr",
    }
}

/// What both ends are told alike.
fn common(task: &Task, port: u16, cpus: &[u32]) -> Invocation {
    let (w, p) = (task.workload, &task.params);
    let flows = p.streams.to_string();
    Invocation::new(program(w), "--nolog")
        .with(["-F", &flows, "-T", &flows])
        .with(["-l".to_owned(), seconds(task.duration_s)])
        .with(["-C".to_owned(), port.to_string(), "-P".to_owned(), (port + 1).to_string()])
        .with_if(!cpus.is_empty(), ["-U"])
        .with_if(w.is_tcp(), ["--congestion-control", &p.congestion_control])
        .with_if(w.is_tcp() && p.nodelay, ["--no-delay"])
        .with_if(w == Workload::TcpCrr, ["--time-wait"])
        .with_if(!w.is_transactional(), ["-B".to_owned(), p.size.to_string()])
        .with_if(w.is_transactional(), ["-Q".to_owned(), p.size.to_string()])
        .with_if(w.is_transactional(), ["-R".to_owned(), p.response_size.to_string()])
        .with_if(p.direction == FlowDirection::Reverse, ["-M"])
}

impl Peer for Neper {
    fn refuses(&self, w: Workload, p: &WorkloadParams) -> Option<String> {
        no_gso(w, p)
            .or_else(|| no_both(p))
            .or_else(|| no_rate(p, "keeps no rate of transactions or datagrams"))
            .or_else(|| {
                (w == Workload::UdpStream && p.direction != FlowDirection::Forward)
                    .then(|| "direction: neper sends datagrams forward only".to_owned())
            })
            .or_else(|| {
                p.send_buffer.or(p.receive_buffer).map(|_| {
                    "send_buffer, receive_buffer: neper leaves them to the kernel".to_owned()
                })
            })
    }

    fn server(&self, task: &Task, bind: SocketAddr) -> Invocation {
        common(task, bind.port(), &task.server_cpus)
    }

    fn more_ports(&self) -> u16 {
        1
    }

    fn clients(&self, task: &Task, server: SocketAddr) -> Vec<Invocation> {
        let latencies = task.latencies && task.workload.is_transactional();
        vec![
            common(task, server.port(), &task.client_cpus)
                .with(["-c".to_owned(), "-H".to_owned(), server.ip().to_string()])
                .with_if(latencies, ["-p", "50,90,99,99.9"]),
        ]
    }

    fn read(&self, task: &Task, outputs: &[Output]) -> Result<Reading, Unreadable> {
        let [output] = outputs else { return Err(Unreadable::missing("single client")) };
        // It says so and goes on.
        if !output.success || output.stderr.contains("setsockopt(") {
            let said = super::process::tail(&output.stderr);
            return Err(Unreadable(format!("it failed{said}")));
        }
        let told = super::pairs(&output.stdout);
        let number = |key: &str| {
            let text = told.get(key).ok_or_else(|| Unreadable::missing(key))?;
            let wrong = || Unreadable(format!("{key}={text} is no number"));
            text.parse().ok().filter(|v: &f64| v.is_finite()).ok_or_else(wrong)
        };
        let version = told.get("VERSION").copied().unwrap_or_default().to_owned();
        let mut reading =
            Reading { version, window_s: task.duration_s.ceil(), ..Reading::default() };
        if !task.workload.is_transactional() {
            // With -M the client is the one that receives.
            let key = match task.params.direction {
                FlowDirection::Reverse => "local_throughput",
                FlowDirection::Forward | FlowDirection::Both => "remote_throughput",
            };
            let bits = number(key)?;
            reading.push(Metric::Throughput, bits);
            if task.workload == Workload::UdpStream {
                reading.push(Metric::PacketRate, bits / 8.0 / task.params.size as f64);
            }
            return Ok(reading);
        }
        reading.window_s = number("time_end")? - number("time_start")?;
        reading.push(Metric::TransactionRate, number("throughput")?);
        if task.latencies {
            for (metric, key) in [
                (Metric::LatencyMean, "latency_mean"),
                (Metric::LatencyP50, "latency_p50"),
                (Metric::LatencyP90, "latency_p90"),
                (Metric::LatencyP99, "latency_p99"),
                (Metric::LatencyP999, "latency_p99.9"),
                (Metric::LatencyMax, "latency_max"),
            ] {
                reading.push(metric, number(key)? * 1e9);
            }
        }
        Ok(reading)
    }

    fn get(&self) -> &'static str {
        "no registry has it: build it from its source (github.com/google/neper) and put its programs on the PATH"
    }

    fn warms_up(&self, _workload: Workload) -> bool {
        false
    }
}

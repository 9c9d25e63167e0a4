//! iperf3 (3.12 was tried): streams over TCP and UDP, told as JSON.
//!
//! The client's output has what both ends counted. iperf3 exits with 0 and an `error` in its JSON when
//! it failed. With `--omit` its counts of lost datagrams are wrong (3.12 told 167 % lost), so that UDP
//! is run without. Throughput is the receiver's.

use super::{Invocation, Output, Peer, Reading, Unreadable, no_gso, seconds};
use crate::protocol::Task;
use cnibench_model::{FlowDirection, Metric, Workload, WorkloadParams};
use serde::Deserialize;
use serde_json::Value;
use std::net::SocketAddr;

pub(super) struct Iperf3;

/// MAX_BLOCKSIZE of its src/iperf.h.
const LARGEST_BLOCK: u64 = 1 << 20;

#[derive(Debug, Deserialize)]
struct Report {
    /// Read as it comes: of several streams some keys are there several times.
    start: Option<Value>,
    end: Option<End>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct End {
    sum_sent: Option<Sum>,
    sum_received: Option<Sum>,
    sum_sent_bidir_reverse: Option<Sum>,
    sum_received_bidir_reverse: Option<Sum>,
    sender_tcp_congestion: Option<String>,
    receiver_tcp_congestion: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Sum {
    seconds: f64,
    bytes: f64,
    retransmits: Option<f64>,
    jitter_ms: Option<f64>,
    lost_percent: Option<f64>,
}

impl Sum {
    fn bits_per_second(&self) -> f64 {
        8.0 * self.bytes / self.seconds
    }
}

impl Peer for Iperf3 {
    fn refuses(&self, w: Workload, p: &WorkloadParams) -> Option<String> {
        if w.is_transactional() {
            return Some(format!("iperf3 has streams only, no {w}"));
        }
        let udp = w == Workload::UdpStream;
        no_gso(w, p)
            .or_else(|| {
                (!udp && p.size > LARGEST_BLOCK)
                    .then(|| format!("size: a block of iperf3 has at most {LARGEST_BLOCK} bytes"))
            })
            .or_else(|| {
                (udp && p.direction != FlowDirection::Forward).then(|| {
                    "direction: what iperf3 counts of datagrams is read for forward only".to_owned()
                })
            })
            .or_else(|| {
                (p.send_buffer != p.receive_buffer).then(|| {
                    "send_buffer: iperf3 sets both buffers to one size; ask for equal ones"
                        .to_owned()
                })
            })
    }

    fn server(&self, _task: &Task, bind: SocketAddr) -> Invocation {
        Invocation::new("iperf3", "-s -1 -J")
            .with(["-p".to_owned(), bind.port().to_string()])
            .with_if(!bind.ip().is_unspecified(), ["-B".to_owned(), bind.ip().to_string()])
    }

    fn clients(&self, task: &Task, server: SocketAddr) -> Vec<Invocation> {
        let p = &task.params;
        let tcp = task.workload.is_tcp();
        // Its bit rate is that of each stream.
        let rate = p.rate.map(|r| r.0 / f64::from(p.streams));
        // No reports in between: they are not read.
        let client = Invocation::new("iperf3", "-J -i 0")
            .with(["-c".to_owned(), server.ip().to_string()])
            .with(["-p".to_owned(), server.port().to_string()])
            .with(["-t".to_owned(), seconds(task.duration_s)])
            .with(["-l".to_owned(), p.size.to_string()])
            .with(["-P".to_owned(), p.streams.to_string()])
            .with_if(tcp, ["-C", &p.congestion_control])
            .with_if(tcp && p.nodelay, ["-N"])
            .with_if(tcp && task.warmup_s > 0.0, ["-O".to_owned(), seconds(task.warmup_s)])
            .with_if(!tcp, ["-u"])
            // Without -b it sends 1 Mbit/s of datagrams.
            .with_if(!tcp && rate.is_none(), ["-b", "0"])
            .with(rate.into_iter().flat_map(|r| ["-b".to_owned(), format!("{r:.0}")]))
            .with(p.receive_buffer.into_iter().flat_map(|b| ["-w".to_owned(), b.to_string()]));
        vec![match p.direction {
            FlowDirection::Forward => client,
            FlowDirection::Reverse => client.with(["-R"]),
            FlowDirection::Both => client.with(["--bidir"]),
        }]
    }

    fn read(&self, task: &Task, outputs: &[Output]) -> Result<Reading, Unreadable> {
        let [output] = outputs else { return Err(Unreadable::missing("single client")) };
        let report: Report = serde_json::from_str(&output.stdout).map_err(|e| {
            let said = super::process::tail(&output.stderr);
            Unreadable(format!("its output is no JSON of iperf3 ({e}){said}"))
        })?;
        if let Some(error) = report.error {
            return Err(Unreadable(error));
        }
        let end = report.end.ok_or_else(|| Unreadable::missing("\"end\""))?;
        let received = end.sum_received.ok_or_else(|| Unreadable::missing("\"sum_received\""))?;
        let sent = end.sum_sent.ok_or_else(|| Unreadable::missing("\"sum_sent\""))?;
        if !(received.seconds > 0.0) {
            return Err(Unreadable("it measured no time".to_owned()));
        }
        let mut reading = Reading { window_s: received.seconds, ..Reading::default() };
        if let Some(start) = report.start {
            let version = start.get("version").and_then(Value::as_str).unwrap_or_default();
            version.trim_start_matches("iperf").trim().clone_into(&mut reading.version);
            let asked = [
                ("send_buffer", "sndbuf_actual", task.params.send_buffer),
                ("receive_buffer", "rcvbuf_actual", task.params.receive_buffer),
            ];
            for (key, name, _) in asked.into_iter().filter(|(_, _, size)| size.is_some()) {
                let size = start.get(name).and_then(Value::as_u64);
                reading.options.extend(size.map(|size| (key, size.to_string())));
            }
        }
        let back = end.sum_received_bidir_reverse.as_ref();
        if task.params.direction == FlowDirection::Both && back.is_none() {
            return Err(Unreadable::missing("\"sum_received_bidir_reverse\""));
        }
        let bits = received.bits_per_second() + back.map_or(0.0, Sum::bits_per_second);
        reading.push(Metric::Throughput, bits);
        if task.workload.is_tcp() {
            let asked = task.params.congestion_control.as_str();
            for name in
                [end.sender_tcp_congestion, end.receiver_tcp_congestion].into_iter().flatten()
            {
                if name != asked {
                    return Err(Unreadable(format!(
                        "congestion control {name} was in force, not {asked}"
                    )));
                }
            }
            reading.options.push(("congestion_control", asked.to_owned()));
            let again = [Some(sent), end.sum_sent_bidir_reverse];
            let again: Option<f64> = again.into_iter().flatten().map(|s| s.retransmits).sum();
            again.into_iter().for_each(|n| reading.push(Metric::Retransmits, n));
            return Ok(reading);
        }
        let (Some(jitter), Some(lost)) = (received.jitter_ms, received.lost_percent) else {
            return Err(Unreadable::missing("counts of datagrams"));
        };
        let size = task.params.size as f64;
        reading.push(Metric::PacketRate, received.bytes / size / received.seconds);
        reading.push(Metric::Loss, lost / 100.0);
        reading.push(Metric::Jitter, jitter * 1e6);
        Ok(reading)
    }

    fn get(&self) -> &'static str {
        "Debian and Ubuntu: apt-get install iperf3"
    }

    fn warms_up(&self, workload: Workload) -> bool {
        workload.is_tcp()
    }
}

//! sockperf (3.7 was tried): request/response of equal sizes, told as text.
//!
//! It exits with 0 when it could not connect, so that an `ERROR` in its words is what counts. Times are
//! round trips (`--full-rtt`) in µs. Of its run time its own warm-up (400 ms) and tail (50 ms) are cut
//! off, for which it gets a second more.

use super::{Invocation, Output, Peer, Reading, Unreadable, no_rate, seconds};
use crate::protocol::Task;
use cnibench_model::{Metric, Workload, WorkloadParams};
use std::net::SocketAddr;

pub(super) struct Sockperf;

/// Bytes of its header, its smallest message (`sockperf ping-pong --help`).
pub(super) const LEAST: u64 = 14;

impl Peer for Sockperf {
    fn refuses(&self, w: Workload, p: &WorkloadParams) -> Option<String> {
        match w {
            Workload::TcpRr | Workload::UdpRr => {}
            Workload::TcpCrr => {
                return Some("sockperf opens no connection for each request".to_owned());
            }
            Workload::TcpStream | Workload::UdpStream => {
                return Some(
                    "sockperf tells what a stream's sender sent, not what arrived".to_owned(),
                );
            }
        }
        let p1 = p.streams != 1;
        no_rate(p, "counts latency from the actual send, not from the intended one")
            .or_else(|| p1.then(|| "streams: sockperf's client has one thread".to_owned()))
            .or_else(|| {
                (p.size < LEAST || p.size != p.response_size).then(|| {
                    format!(
                        "size: sockperf's answers are as long as its requests, {LEAST} bytes or more"
                    )
                })
            })
            .or_else(|| {
                (p.send_buffer != p.receive_buffer).then(|| {
                    "send_buffer: sockperf sets both buffers to one size; ask for equal ones".to_owned()
                })
            })
    }

    fn server(&self, task: &Task, bind: SocketAddr) -> Invocation {
        common(Invocation::new("sockperf", "server"), task, bind)
    }

    fn clients(&self, task: &Task, server: SocketAddr) -> Vec<Invocation> {
        let p = &task.params;
        vec![
            common(Invocation::new("sockperf", "ping-pong --full-rtt"), task, server)
                .with(["-m".to_owned(), p.size.to_string()])
                .with(["-t".to_owned(), seconds(task.duration_s + 1.0)]),
        ]
    }

    fn read(&self, _task: &Task, outputs: &[Output]) -> Result<Reading, Unreadable> {
        let [output] = outputs else { return Err(Unreadable::missing("single client")) };
        let text = plain(&output.stdout);
        if let Some((_, error)) = text.split_once("ERROR:") {
            return Err(Unreadable(error.lines().next().unwrap_or_default().trim().to_owned()));
        }
        if !output.success {
            return Err(Unreadable(format!("it failed{}", super::process::tail(&output.stderr))));
        }
        let version = between(&text, "== version #", " ==").unwrap_or_default();
        let valid = text
            .lines()
            .find(|l| l.contains("[Valid Duration]"))
            .ok_or_else(|| Unreadable::missing("\"[Valid Duration]\""))?;
        let number = |line: &str, from: &str, to: &str| {
            let text = between(line, from, to).ok_or_else(|| Unreadable::missing(from))?;
            let text = text.trim();
            text.parse::<f64>().map_err(|_| Unreadable(format!("{from}{text} is no number")))
        };
        let window_s = number(valid, "RunTime=", " sec")?;
        let received = number(&format!("{valid};"), "ReceivedMessages=", ";")?;
        if window_s <= 0.0 || received < 1.0 {
            return Err(Unreadable("no message came back in its window".to_owned()));
        }
        let mut reading = Reading { version: version.to_owned(), window_s, ..Reading::default() };
        reading.push(Metric::TransactionRate, received / window_s);
        reading.push(Metric::LatencyMean, number(&text, "avg-rtt=", " (")? * 1e3);
        for (metric, key) in [
            (Metric::LatencyP50, "percentile 50.000 ="),
            (Metric::LatencyP90, "percentile 90.000 ="),
            (Metric::LatencyP99, "percentile 99.000 ="),
            (Metric::LatencyP999, "percentile 99.900 ="),
            (Metric::LatencyMax, "<MAX> observation ="),
        ] {
            reading.push(metric, number(&text, key, "\n")? * 1e3);
        }
        Ok(reading)
    }

    fn get(&self) -> &'static str {
        "Debian and Ubuntu: apt-get install sockperf"
    }

    fn warms_up(&self, _workload: Workload) -> bool {
        false
    }
}

fn common(with: Invocation, task: &Task, address: SocketAddr) -> Invocation {
    let p = &task.params;
    with.with(["-i".to_owned(), address.ip().to_string()])
        .with(["-p".to_owned(), address.port().to_string()])
        .with_if(task.workload.is_tcp(), ["--tcp"])
        .with_if(task.workload.is_tcp() && !p.nodelay, ["--tcp-avoid-nodelay"])
        .with(
            p.receive_buffer.into_iter().flat_map(|b| ["--buffer-size".to_owned(), b.to_string()]),
        )
}

/// Without the colours (ECMA-48 SGR) that it writes even to a pipe.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(part.split_once('m').map_or(part, |(_, rest)| rest));
    }
    out
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(from)?;
    Some(rest.split_once(to)?.0)
}

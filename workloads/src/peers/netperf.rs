//! netperf (2.7.1 was tried): streams, request/response and connections, told as `KEY=value` of its
//! omni output.
//!
//! One process a flow, each bound with its server's to the flow's CPUs. netperf ignores a congestion
//! control that it cannot set, so what it says was in force is compared. Asking for a percentile makes
//! it keep a histogram, which costs it some speed; a task without latencies asks for none.

use super::{
    Invocation, Output, Peer, Reading, Unreadable, ip_flag, no_both, no_gso, no_rate, seconds,
};
use crate::{cpus, protocol::Task};
use cnibench_model::{FlowDirection, Metric, Workload, WorkloadParams};
use std::{collections::HashMap, net::SocketAddr};

pub(super) struct Netperf;

const KEYS: &str = "THROUGHPUT,THROUGHPUT_UNITS,ELAPSED_TIME,LOCAL_SEND_CALLS,REMOTE_RECV_CALLS,\
    LOCAL_TRANSPORT_RETRANS,REMOTE_TRANSPORT_RETRANS,LOCAL_CONG_CONTROL,REMOTE_CONG_CONTROL,\
    LSS_SIZE_END,RSR_SIZE_END";
const LATENCIES: &str = ",MEAN_LATENCY,P50_LATENCY,P90_LATENCY,P99_LATENCY,MAX_LATENCY";

fn test(w: Workload, direction: FlowDirection) -> &'static str {
    match (w, direction) {
        (Workload::TcpStream, FlowDirection::Reverse) => "TCP_MAERTS",
        (Workload::TcpStream, _) => "TCP_STREAM",
        (Workload::TcpRr, _) => "TCP_RR",
        (Workload::TcpCrr, _) => "TCP_CRR",
        (Workload::UdpStream, _) => "UDP_STREAM",
        (Workload::UdpRr, _) => "UDP_RR",
    }
}

/// One client's output.
struct Told<'a>(HashMap<&'a str, &'a str>);

impl<'a> Told<'a> {
    fn read(output: &'a Output) -> Result<Self, Unreadable> {
        if !output.success {
            let said = super::process::tail(&output.stderr);
            let said = if said.is_empty() { super::process::tail(&output.stdout) } else { said };
            return Err(Unreadable(format!("it failed{said}")));
        }
        Ok(Self(super::pairs(&output.stdout)))
    }

    fn number(&self, key: &str) -> Result<f64, Unreadable> {
        let text = self.0.get(key).ok_or_else(|| Unreadable::missing(key))?;
        let wrong = || Unreadable(format!("{key}={text} is no number"));
        text.parse().ok().filter(|v: &f64| v.is_finite()).ok_or_else(wrong)
    }

    /// What was done a second: bits or transactions.
    fn rate(&self, transactions: bool) -> Result<f64, Unreadable> {
        let units = self.0.get("THROUGHPUT_UNITS").copied().unwrap_or_default();
        let factor = match (units, transactions) {
            ("10^6bits/s", false) => 1e6,
            ("Trans/s", true) => 1.0,
            _ => {
                return Err(Unreadable(format!(
                    "THROUGHPUT_UNITS={units:?} is not what was asked for"
                )));
            }
        };
        Ok(self.number("THROUGHPUT")? * factor)
    }
}

impl Peer for Netperf {
    fn refuses(&self, w: Workload, p: &WorkloadParams) -> Option<String> {
        no_gso(w, p)
            .or_else(|| no_both(p))
            .or_else(|| no_rate(p, "paces only where it was built for it (--enable-intervals)"))
            .or_else(|| {
                (w == Workload::UdpStream && p.direction != FlowDirection::Forward)
                    .then(|| "direction: netperf sends datagrams forward only".to_owned())
            })
    }

    fn server(&self, _task: &Task, bind: SocketAddr) -> Invocation {
        Invocation::new("netserver", "-D -N")
            .with([ip_flag(bind), "-p"])
            .with([bind.port()])
            .with_if(!bind.ip().is_unspecified(), ["-L".to_owned(), bind.ip().to_string()])
    }

    fn clients(&self, task: &Task, server: SocketAddr) -> Vec<Invocation> {
        let (w, p) = (task.workload, &task.params);
        let keys = match task.latencies && w.is_transactional() {
            true => format!("{KEYS}{LATENCIES}"),
            false => KEYS.to_owned(),
        };
        let size = p.size.to_string();
        let pair = |a: Option<u64>, b: Option<u64>| {
            let text = |v: Option<u64>| v.map_or_else(String::new, |v| v.to_string());
            format!("{},{}", text(a), text(b))
        };
        let (own, other) = (p.send_buffer, p.receive_buffer);
        let one = |flow| {
            let bound = cpus::of_flow(&task.client_cpus, flow)
                .zip(cpus::of_flow(&task.server_cpus, flow))
                .map(|(client, server)| ["-T".to_owned(), format!("{client},{server}")]);
            Invocation::new("netperf", "-P 0")
                .with([ip_flag(server), "-H"])
                .with([server.ip().to_string(), "-p".to_owned(), server.port().to_string()])
                .with(["-l".to_owned(), seconds(task.duration_s)])
                .with(["-t", test(w, p.direction)])
                .with(bound.into_iter().flatten())
                .with(["--"])
                .with_if(w.is_tcp(), ["-K", &p.congestion_control])
                .with_if(w.is_tcp() && p.nodelay, ["-D"])
                .with_if(
                    w.is_transactional(),
                    ["-r".to_owned(), format!("{size},{}", p.response_size)],
                )
                .with_if(!w.is_transactional(), ["-m", &size, "-M", &size])
                // Otherwise its datagrams may go to the local link only.
                .with_if(w == Workload::UdpStream, ["-R", "1"])
                .with_if(own.or(other).is_some(), ["-s".to_owned(), pair(own, other)])
                .with_if(own.or(other).is_some(), ["-S".to_owned(), pair(own, other)])
                .with(["-k", &keys])
        };
        (0..p.streams).map(one).collect()
    }

    fn version(&self) -> Option<Invocation> {
        Some(Invocation::new("netperf", "-V"))
    }

    fn read(&self, task: &Task, outputs: &[Output]) -> Result<Reading, Unreadable> {
        let (w, p) = (task.workload, &task.params);
        let told: Vec<Told<'_>> = outputs.iter().map(Told::read).collect::<Result<_, _>>()?;
        if told.is_empty() {
            return Err(Unreadable::missing("client"));
        }
        let sum = |key: &str| told.iter().map(|t| t.number(key)).sum::<Result<f64, _>>();
        let mut reading = Reading::default();
        let rates: Vec<f64> =
            told.iter().map(|t| t.rate(w.is_transactional())).collect::<Result<_, _>>()?;
        let rate: f64 = rates.iter().sum();
        reading.window_s = sum("ELAPSED_TIME")? / told.len() as f64;
        if w.is_tcp() {
            for side in ["LOCAL_CONG_CONTROL", "REMOTE_CONG_CONTROL"] {
                // Empty where the connection was gone when it looked (TCP_CRR).
                let names = told.iter().filter_map(|t| t.0.get(side)).filter(|n| !n.is_empty());
                for name in names {
                    if *name != p.congestion_control {
                        return Err(Unreadable(format!(
                            "congestion control {name} was in force, not {}: netperf could not set it",
                            p.congestion_control
                        )));
                    }
                    reading.options.push(("congestion_control", (*name).to_owned()));
                }
            }
            reading.options.dedup();
        }
        if w.is_transactional() {
            reading.push(Metric::TransactionRate, rate);
            if task.latencies {
                latencies(&told, &rates, &mut reading)?;
            }
        } else {
            reading.push(Metric::Throughput, rate);
        }
        match w {
            Workload::UdpStream => {
                let (sent, got) = (sum("LOCAL_SEND_CALLS")?, sum("REMOTE_RECV_CALLS")?);
                reading.push(Metric::PacketRate, rate / 8.0 / p.size as f64);
                reading.push(Metric::Loss, ((sent - got) / sent).max(0.0));
            }
            Workload::TcpStream | Workload::TcpRr => {
                let sides: &[&str] = match (w, p.direction) {
                    (Workload::TcpStream, FlowDirection::Reverse) => &["REMOTE_TRANSPORT_RETRANS"],
                    (Workload::TcpStream, _) => &["LOCAL_TRANSPORT_RETRANS"],
                    _ => &["LOCAL_TRANSPORT_RETRANS", "REMOTE_TRANSPORT_RETRANS"],
                };
                let again: f64 = sides.iter().map(|s| sum(s)).sum::<Result<f64, _>>()?;
                // -1: it could not look.
                if again >= 0.0 {
                    reading.push(Metric::Retransmits, again);
                }
            }
            Workload::TcpCrr | Workload::UdpRr => {}
        }
        Ok(reading)
    }

    fn get(&self) -> &'static str {
        "no package of Debian 12 or 13: build it from the source package netperf of Debian 13, and put netperf and netserver on the PATH"
    }

    fn warms_up(&self, _workload: Workload) -> bool {
        false
    }
}

/// In µs there, and of each flow on its own: percentiles of several cannot be put together.
fn latencies(told: &[Told<'_>], rates: &[f64], reading: &mut Reading) -> Result<(), Unreadable> {
    let us = |told: &Told<'_>, key| told.number(key).map(|us| us * 1e3);
    let means = told.iter().map(|t| us(t, "MEAN_LATENCY")).collect::<Result<Vec<f64>, _>>()?;
    let weighted: f64 = means.iter().zip(rates).map(|(mean, rate)| mean * rate).sum();
    reading.push(Metric::LatencyMean, weighted / rates.iter().sum::<f64>());
    if let [one] = told {
        for (metric, key) in [
            (Metric::LatencyP50, "P50_LATENCY"),
            (Metric::LatencyP90, "P90_LATENCY"),
            (Metric::LatencyP99, "P99_LATENCY"),
        ] {
            reading.push(metric, us(one, key)?);
        }
    }
    let most = told.iter().map(|t| us(t, "MAX_LATENCY")).collect::<Result<Vec<f64>, _>>()?;
    reading.push(Metric::LatencyMax, most.into_iter().fold(0.0, f64::max));
    Ok(())
}

//! Checks a task before anything is touched. Every rule names the field and its limits.
//!
//! Called by both ends for every trial; what only the kernel knows is found out in `options`.

use crate::{cpus, error::TrialError, protocol::Task, udp_stream};
use cnibench_model::{FlowDirection, Workload};
use std::net::IpAddr;

/// The most flows of a trial: each is a thread or two at either end.
pub const MAX_STREAMS: u32 = 1024;
/// The largest write, request or response over TCP, in bytes.
pub const MAX_TCP_SIZE: u64 = 64 << 20;
/// The most memory that all flows of an end may take for messages, in bytes.
pub const MAX_MEMORY: u64 = 1 << 30;
/// The longest window in seconds: a day.
pub const MAX_DURATION_S: f64 = 86_400.0;
/// The longest warm-up and the longest patience in seconds: an hour.
pub const MAX_WAIT_S: f64 = 3_600.0;
/// The longest canary in bytes.
const MAX_CANARY: usize = 4096;

/// The largest UDP payload: 65,535 minus the UDP header, and for IPv4, whose total length counts
/// its own header too, minus 20.
pub(crate) fn max_datagram(ip: IpAddr) -> u64 {
    if ip.is_ipv4() { 65_507 } else { 65_527 }
}

/// Checks everything about a task that needs no peer.
///
/// # Errors
/// [`TrialError::BadTask`] with a sentence that names the field and its limits.
pub fn check(task: &Task, ip: IpAddr) -> Result<(), TrialError> {
    problem(task, ip).map_or(Ok(()), |text| Err(TrialError::BadTask(text)))
}

fn problem(task: &Task, ip: IpAddr) -> Option<String> {
    let (w, p) = (task.workload, &task.params);
    let within = |name: &str, value: u64, low: u64, high: u64| {
        (!(low..=high).contains(&value))
            .then(|| format!("{name}: {value} is outside {low}..={high} for {w}"))
    };
    let time = |name: &str, value: f64, zero_ok: bool, high: f64| {
        let low_ok = value > 0.0 || (zero_ok && value == 0.0);
        (!(value.is_finite() && low_ok && value <= high)).then(|| {
            let low = if zero_ok { "at least 0" } else { "more than 0" };
            format!("{name}: {value} is no time that can be measured; {low} and at most {high} s")
        })
    };
    let (smallest, largest) = match w {
        Workload::UdpStream => (udp_stream::HEADER as u64, max_datagram(ip)),
        Workload::UdpRr => (1, max_datagram(ip)),
        Workload::TcpStream | Workload::TcpRr | Workload::TcpCrr => (1, MAX_TCP_SIZE),
    };
    let buffer = |name: &str, value: Option<u64>| {
        value.and_then(|v| within(name, v, 1, i32::MAX as u64 / 2))
    };
    within("streams", p.streams.into(), 1, MAX_STREAMS.into())
        .or_else(|| within("size", p.size, smallest, largest))
        .or_else(|| {
            w.is_transactional()
                .then(|| within("response_size", p.response_size, 1, largest))
                .flatten()
        })
        .or_else(|| memory(task))
        .or_else(|| time("duration_s", task.duration_s, false, MAX_DURATION_S))
        .or_else(|| time("warmup_s", task.warmup_s, true, MAX_WAIT_S))
        .or_else(|| time("patience_s", task.patience_s, false, MAX_WAIT_S))
        .or_else(|| {
            let rate = p.rate?.0;
            (!(rate.is_finite() && (1e-3..=1e13).contains(&rate)))
                .then(|| format!("rate: {rate} is outside 0.001..=1e13 a second"))
        })
        .or_else(|| {
            (w.is_transactional() && p.direction != FlowDirection::Forward).then(|| {
                format!(
                    "direction: {} means nothing to {w}; only streams have one",
                    p.direction.name()
                )
            })
        })
        .or_else(|| buffer("send_buffer", p.send_buffer))
        .or_else(|| buffer("receive_buffer", p.receive_buffer))
        .or_else(|| within("canary length", task.canary.len() as u64, 0, MAX_CANARY as u64))
        .or_else(|| {
            let name = &p.congestion_control;
            // TCP_CA_NAME_MAX is 16 with the terminating zero.
            (w.is_tcp() && !(1..=15).contains(&name.len()))
                .then(|| format!("congestion_control: {name:?} is no name of 1 to 15 bytes"))
        })
        .or_else(|| foreign_cpu("client_cpus", &task.client_cpus))
        .or_else(|| foreign_cpu("server_cpus", &task.server_cpus))
}

/// Each field may be within its limits and their product beyond what a machine has.
fn memory(task: &Task) -> Option<String> {
    let (w, p) = (task.workload, &task.params);
    let at_once = if w == Workload::UdpStream && !p.gso { udp_stream::BATCH as u64 } else { 1 };
    let each = p.size.saturating_add(p.response_size).saturating_mul(at_once);
    (each.saturating_mul(p.streams.into()) > MAX_MEMORY).then(|| {
        let times = if at_once > 1 {
            format!(", {at_once} datagrams at once without gso")
        } else {
            String::new()
        };
        format!(
            "streams and size: {} flows with messages of {} bytes (size + response_size){times} take \
             more than the {} MiB that an end may use; fewer streams or a smaller size",
            p.streams,
            p.size.saturating_add(p.response_size),
            MAX_MEMORY >> 20
        )
    })
}

/// Numbers that no mask can hold; whether a CPU may be used is found out by pinning.
fn foreign_cpu(name: &str, cpus: &[u32]) -> Option<String> {
    cpus.iter().find(|&&c| c > cpus::HIGHEST).map(|c| {
        format!(
            "{name}: CPU {c} is beyond the highest number that can be pinned to, {}",
            cpus::HIGHEST
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnibench_model::Rate;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

    fn task(workload: Workload) -> Task {
        Task {
            workload,
            params: workload.defaults(),
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

    #[test]
    fn the_defaults_are_fine() {
        for &w in Workload::ALL {
            check(&task(w), V4).unwrap();
            check(&task(w), V6).unwrap();
        }
    }

    #[test]
    fn each_wrong_field_is_named() {
        type Break = fn(&mut Task);
        let cases: &[(&str, Workload, Break)] = &[
            ("streams", Workload::TcpRr, |t| t.params.streams = 0),
            ("streams", Workload::TcpRr, |t| t.params.streams = 1025),
            ("size", Workload::TcpStream, |t| t.params.size = 0),
            ("size", Workload::TcpStream, |t| t.params.size = MAX_TCP_SIZE + 1),
            ("size", Workload::UdpStream, |t| t.params.size = 15),
            ("size", Workload::UdpRr, |t| t.params.size = 65_508),
            ("response_size", Workload::TcpRr, |t| t.params.response_size = 0),
            ("duration_s", Workload::TcpRr, |t| t.duration_s = 0.0),
            ("duration_s", Workload::TcpRr, |t| t.duration_s = f64::NAN),
            ("duration_s", Workload::TcpRr, |t| t.duration_s = 3.0 * 86_400.0),
            ("warmup_s", Workload::TcpRr, |t| t.warmup_s = -1.0),
            ("patience_s", Workload::TcpRr, |t| t.patience_s = f64::INFINITY),
            ("rate", Workload::TcpRr, |t| t.params.rate = Some(Rate(0.0))),
            ("rate", Workload::TcpRr, |t| t.params.rate = Some(Rate(f64::NAN))),
            ("direction", Workload::TcpRr, |t| t.params.direction = FlowDirection::Reverse),
            ("send_buffer", Workload::TcpRr, |t| t.params.send_buffer = Some(0)),
            ("receive_buffer", Workload::TcpRr, |t| t.params.receive_buffer = Some(u64::MAX)),
            ("canary", Workload::TcpRr, |t| t.canary = vec![1; 5000]),
            ("congestion_control", Workload::TcpRr, |t| t.params.congestion_control.clear()),
            ("client_cpus", Workload::TcpRr, |t| t.client_cpus = vec![0, 4000]),
        ];
        for (field, workload, change) in cases {
            let mut t = task(*workload);
            change(&mut t);
            let text = check(&t, V4).unwrap_err().to_string();
            assert!(text.starts_with(field), "{field}: {text}");
        }
        let mut t = task(Workload::TcpRr);
        (t.params.streams, t.params.size, t.params.response_size) = (16, 40 << 20, 24 << 20);
        check(&t, V4).unwrap();
        t.params.response_size += 1;
        let text = check(&t, V4).unwrap_err().to_string();
        assert!(text.starts_with("streams and size") && text.contains("response_size"), "{text}");
        t = task(Workload::UdpStream);
        (t.params.streams, t.params.size, t.params.gso) = (1_024, 65_507, false);
        assert!(check(&t, V4).unwrap_err().to_string().contains("64 datagrams"));
        t.params.gso = true;
        check(&t, V4).unwrap();
        t = task(Workload::UdpStream);
        t.params.size = 65_520;
        assert!(check(&t, V4).is_err());
        check(&t, V6).unwrap();
    }
}

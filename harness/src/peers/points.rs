//! The points at which generators are compared: workload, parameters, and the metric that counts.

use cnibench_model::{Metric, Workload, WorkloadParams};

/// One comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// As the table shows it.
    pub name: &'static str,
    /// The traffic.
    pub workload: Workload,
    /// Its shape for our own generator; others differ only in what they do not have (GSO).
    pub params: WorkloadParams,
    /// What is compared. Higher is better for all of them.
    pub metric: Metric,
    /// Is ours without its histogram measured, too?
    pub bare: bool,
}

/// Every point, in the order of the table.
pub fn points() -> Vec<Point> {
    let stream = |name, streams, size| {
        point(name, Workload::TcpStream, |p| (p.streams, p.size) = (streams, size))
    };
    let rr = |name, workload, streams, size| {
        point(name, workload, |p| (p.streams, p.size, p.response_size) = (streams, size, size))
    };
    let udp = |name, size, gso| {
        point(name, Workload::UdpStream, |p| {
            // The kernel's default for all: not everyone can set another.
            (p.size, p.gso, p.receive_buffer) = (size, gso, None);
        })
    };
    vec![
        stream("TCP_STREAM, 1 flow, 128 KiB", 1, 128 << 10),
        stream("TCP_STREAM, 1 flow, 1 MiB", 1, 1 << 20),
        stream("TCP_STREAM, 4 flows, 128 KiB", 4, 128 << 10),
        stream("TCP_STREAM, 4 flows, 1 MiB", 4, 1 << 20),
        rr("TCP_RR, 1 flow, 1 B", Workload::TcpRr, 1, 1),
        rr("TCP_RR, 16 flows, 1 B", Workload::TcpRr, 16, 1),
        rr("TCP_RR, 1 flow, 14 B", Workload::TcpRr, 1, 14),
        rr("TCP_CRR, 1 flow, 1 B", Workload::TcpCrr, 1, 1),
        rr("UDP_RR, 1 flow, 1 B", Workload::UdpRr, 1, 1),
        rr("UDP_RR, 1 flow, 14 B", Workload::UdpRr, 1, 14),
        udp("UDP_STREAM, 64 B", 64, false),
        udp("UDP_STREAM, 1400 B", 1_400, false),
        udp("UDP_STREAM, 1400 B, ours with GSO", 1_400, true),
    ]
}

fn point(name: &'static str, workload: Workload, shape: impl FnOnce(&mut WorkloadParams)) -> Point {
    let mut params = workload.defaults();
    shape(&mut params);
    let metric = match workload {
        Workload::TcpStream => Metric::Throughput,
        Workload::UdpStream => Metric::PacketRate,
        Workload::TcpRr | Workload::TcpCrr | Workload::UdpRr => Metric::TransactionRate,
    };
    let bare = workload.is_transactional() && params.size == 1;
    Point { name, workload, params, metric, bare }
}

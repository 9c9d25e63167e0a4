//! Workloads and their parameters: what the generator is asked to do.

use crate::{generator::Generator, nearest::did_you_mean};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// One kind of traffic.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// Bulk transfer over TCP.
    TcpStream,
    /// Request/response over one established TCP connection a flow.
    TcpRr,
    /// Connect, request, response, close: one TCP connection a transaction.
    TcpCrr,
    /// Datagrams as fast as asked, with loss, reordering and jitter.
    UdpStream,
    /// Request/response in datagrams.
    UdpRr,
}

impl Workload {
    /// Every workload, in the order in which reports show them.
    pub const ALL: &'static [Workload] =
        &[Self::TcpStream, Self::TcpRr, Self::TcpCrr, Self::UdpStream, Self::UdpRr];

    /// The stable name, e.g. `tcp_rr`.
    pub fn name(self) -> &'static str {
        match self {
            Self::TcpStream => "tcp_stream",
            Self::TcpRr => "tcp_rr",
            Self::TcpCrr => "tcp_crr",
            Self::UdpStream => "udp_stream",
            Self::UdpRr => "udp_rr",
        }
    }

    /// What it does, in one line for `cnibench list workloads`.
    pub fn describe(self) -> &'static str {
        match self {
            Self::TcpStream => "bulk transfer over TCP: 1..N flows, block size, direction",
            Self::TcpRr => "request/response on established TCP connections: latency and rate",
            Self::TcpCrr => "connect, request, response, close: connection set-up cost",
            Self::UdpStream => {
                "datagrams at a rate or flat out (GSO, sendmmsg): loss, reordering, jitter"
            }
            Self::UdpRr => "request/response in datagrams: latency and rate",
        }
    }

    /// True for the workloads whose unit of work is a transaction with a latency.
    pub fn is_transactional(self) -> bool {
        matches!(self, Self::TcpRr | Self::TcpCrr | Self::UdpRr)
    }

    /// True where flows are TCP connections.
    pub fn is_tcp(self) -> bool {
        matches!(self, Self::TcpStream | Self::TcpRr | Self::TcpCrr)
    }

    /// The parameters used where a suite says nothing. They are part of every case id by omission,
    /// so a default never changes: a new behaviour is a new parameter.
    pub fn defaults(self) -> WorkloadParams {
        let transactional = self.is_transactional();
        WorkloadParams {
            streams: 1,
            size: match self {
                Self::TcpStream => 128 * 1024,
                // Fits the smallest IPv6 link (1280) with its headers, so that no cni's MTU refuses it.
                Self::UdpStream => 1200,
                _ => 1,
            },
            response_size: if transactional { 1 } else { 0 },
            rate: None,
            direction: FlowDirection::Forward,
            pinning: if transactional { Pinning::Same } else { Pinning::Split },
            congestion_control: "cubic".to_owned(),
            nodelay: true,
            mss: None,
            send_buffer: None,
            // The kernel's fixed default (net.core.rmem_default, 208 KiB) holds about three GSO runs of
            // 64 KiB: a trial would measure how soon the receiver is scheduled, not the path.
            receive_buffer: (self == Self::UdpStream).then_some(4 << 20),
            gso: true,
            generator: Generator::Cnibench,
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Workload {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|w| w.name() == s).ok_or_else(|| {
            format!("unknown workload {s:?}{}", did_you_mean(s, Self::ALL.iter().map(|w| w.name())))
        })
    }
}

/// Which side sends the payload of a stream, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlowDirection {
    /// Client to server.
    Forward,
    /// Server to client.
    Reverse,
    /// Both at once on the same connections.
    Both,
}

impl FlowDirection {
    /// The word used in suites and case ids.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reverse => "reverse",
            Self::Both => "both",
        }
    }
}

/// Where the threads of flows run. An unpinned request/response swings fourfold, so `none` has to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pinning {
    /// Client and server thread of a flow share one CPU: the round trip is the path's CPU cost,
    /// without wake-ups across CPUs.
    Same,
    /// Client and server threads of a flow on different CPUs.
    Split,
    /// The scheduler decides.
    None,
}

impl Pinning {
    /// The word used in suites and case ids.
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Split => "split",
            Self::None => "none",
        }
    }
}

/// An offered rate over all flows of a trial: transactions per second, or for streams bits of payload
/// per second in each direction, so that `both` offers it twice.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Rate(pub f64);

/// Everything that shapes the traffic of one case, all of it always set and always recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkloadParams {
    /// Concurrent flows, each on a thread of its own at either end.
    pub streams: u32,
    /// Bytes of one write (stream), of one request (rr, crr) or of one datagram's payload (UDP).
    pub size: u64,
    /// Bytes of one response; 0 for streams.
    pub response_size: u64,
    /// Offered rate over all flows, of each direction (open loop, latency from the intended send
    /// time); none: closed loop or flat out.
    pub rate: Option<Rate>,
    /// Which side sends a stream's payload.
    pub direction: FlowDirection,
    /// Where threads run.
    pub pinning: Pinning,
    /// TCP congestion control, set on every socket (some kernels default to bbr).
    pub congestion_control: String,
    /// TCP_NODELAY on every socket.
    pub nodelay: bool,
    /// TCP_MAXSEG of `tcp_stream` at both ends: the most payload that a segment may have, without its
    /// options; none: as the path's MTU has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mss: Option<u16>,
    /// SO_SNDBUF in bytes; none: left to the kernel, which tunes that of TCP by itself and gives UDP
    /// a fixed one (net.core.wmem_default).
    pub send_buffer: Option<u64>,
    /// SO_RCVBUF in bytes; none: left to the kernel, which tunes that of TCP by itself and gives UDP
    /// a fixed one (net.core.rmem_default).
    pub receive_buffer: Option<u64>,
    /// UDP segmentation offload (UDP_SEGMENT) and receive coalescing (UDP_GRO) for udp_stream.
    pub gso: bool,
    /// The program that makes the traffic. A number of another one is another series.
    #[serde(default = "Generator::own", skip_serializing_if = "Generator::is_own")]
    pub generator: Generator,
}

impl WorkloadParams {
    /// The parameters that differ from the workload's defaults, as `key=value`, sorted by key.
    /// They are the tail of a case id.
    pub fn differing(&self, workload: Workload) -> Vec<(&'static str, String)> {
        let d = workload.defaults();
        let mut out = Vec::new();
        let mut push = |differs: bool, key: &'static str, value: String| {
            if differs {
                out.push((key, value));
            }
        };
        let or_auto = |v: Option<u64>| v.map_or_else(|| "auto".to_owned(), |v| v.to_string());
        push(
            self.congestion_control != d.congestion_control,
            "congestion_control",
            self.congestion_control.clone(),
        );
        push(self.direction != d.direction, "direction", self.direction.name().to_owned());
        push(!self.generator.is_own(), "generator", self.generator.name().to_owned());
        push(self.gso != d.gso, "gso", self.gso.to_string());
        push(
            self.mss != d.mss,
            "mss",
            self.mss.map_or_else(|| "auto".to_owned(), |v| v.to_string()),
        );
        push(self.nodelay != d.nodelay, "nodelay", self.nodelay.to_string());
        push(self.pinning != d.pinning, "pinning", self.pinning.name().to_owned());
        push(
            self.rate != d.rate,
            "rate",
            self.rate.map_or_else(|| "max".to_owned(), |r| r.0.to_string()),
        );
        push(
            self.receive_buffer != d.receive_buffer,
            "receive_buffer",
            or_auto(self.receive_buffer),
        );
        push(
            self.response_size != d.response_size,
            "response_size",
            self.response_size.to_string(),
        );
        push(self.send_buffer != d.send_buffer, "send_buffer", or_auto(self.send_buffer));
        push(self.size != d.size, "size", self.size.to_string());
        push(self.streams != d.streams, "streams", self.streams.to_string());
        out
    }
}

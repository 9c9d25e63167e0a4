//! What the controller and an agent say to each other: one JSON object a line over stdio.
//!
//! Control never shares the measured network and needs no port. The controller writes a
//! [`Request`], the agent answers with one or more [`Reply`] lines. End of input ends the agent,
//! whatever it is doing. A line that is no request is answered by [`FaultKind::BadTask`], and the
//! agent goes on.
//!
//! The server is asked first; once it is [`Reply::Listening`] the client is told to drive. Both
//! ends get the same [`Task`]. The windows of both start at a go on the measured connections and
//! differ by the path's delay; the server's ends first.
//!
//! Beside trials, agents make the small traffic of proofs: `Echo`, `Probe`, `Send`.

use crate::counted::Count;
use cnibench_model::{
    DatagramStats, EndpointResult, Interval, MadeBy, Sample, StoredHistogram, Workload,
    WorkloadParams,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Version of this protocol; both ends refuse another one.
pub const PROTOCOL_VERSION: u32 = 3;

/// One trial, as both ends are told of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// The traffic.
    pub workload: Workload,
    /// Its shape.
    pub params: WorkloadParams,
    /// Seconds measured: more than 0, at most a day.
    pub duration_s: f64,
    /// Seconds cut off before the measured window: 0 to an hour.
    pub warmup_s: f64,
    /// CPUs for the client's flow threads, flow `i` on `client_cpus[i % len]`; empty: unpinned.
    pub client_cpus: Vec<u32>,
    /// CPUs for the server's flow threads; empty: unpinned.
    pub server_cpus: Vec<u32>,
    /// Seconds without any progress on any flow after which an end gives up with
    /// [`FaultKind::PeerSilent`]; also how long a server waits for its client's flows, and a client
    /// for the server's first answer. The pause between two paced events comes on top.
    pub patience_s: f64,
    /// Bytes put into the payload as often as they fit whole (behind the 16 header bytes of
    /// `udp_stream`; the first 8 bytes of `udp_rr` are a number), for a sniffer to look for; at most
    /// 4096; empty: none.
    pub canary: Vec<u8>,
    /// False: no latency is taken. That is for measuring what taking them costs, and for comparing
    /// rates with generators that take none.
    #[serde(default = "yes")]
    pub latencies: bool,
    /// How much is done; none: the times count, by the clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<Count>,
}

fn yes() -> bool {
    true
}

/// From the controller to the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Who are you? Answered by [`Reply::Hello`].
    Hello,
    /// Be the server: [`Reply::Listening`] as soon as clients can connect, then [`Reply::Finished`].
    Serve {
        /// The trial.
        task: Task,
        /// Address to bind.
        bind: IpAddr,
        /// Port to bind, where a service leads to it; 0: the kernel chooses.
        #[serde(default)]
        port: u16,
    },
    /// Be the client: [`Reply::Finished`] at the end.
    Drive {
        /// The trial.
        task: Task,
        /// Where the server listens.
        server: SocketAddr,
    },
    /// Answer by TCP and UDP on one port with what comes, until `Cancel`: [`Reply::Listening`], at
    /// the end [`Reply::Echoed`].
    Echo {
        /// Address to bind.
        bind: IpAddr,
        /// Port to bind; 0: the kernel's choice.
        #[serde(default)]
        port: u16,
    },
    /// Try again and again whether an echo server answers: a [`Reply::Probed`] for the first state
    /// and for each change, [`Reply::ProbeEnd`] after `for_s` or `Cancel`. Every try is a flow of its
    /// own, so none lives on what was allowed before.
    Probe {
        /// Where the echo server listens.
        server: SocketAddr,
        /// True: a connection and bytes there and back. False: a datagram there and back.
        tcp: bool,
        /// From one try to the next, 1 to 60,000 ms; a try waits for its answer meanwhile.
        interval_ms: u32,
        /// When to end by itself, in seconds: more than 0, at most a day.
        for_s: f64,
    },
    /// Send a number of datagrams, then open a number of connections, to an echo server, and count
    /// what is answered: [`Reply::Sent`]. Nothing is sent twice.
    Send(Volley),
    /// Give up the current work: [`Reply::Fault`] with [`FaultKind::Cancelled`] follows a trial or a
    /// `Send`, `Echoed` an `Echo`, `ProbeEnd` a `Probe`; or the reply of what was just done. The server
    /// of another generator does not know when its client is done, and answers with `Finished`.
    /// Between requests it is not answered.
    Cancel,
}

/// What [`Request::Send`] sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Volley {
    /// Where the echo server listens.
    pub server: SocketAddr,
    /// Datagrams, all from one socket, never fragmented on their way (IP_PMTUDISC_DO).
    pub datagrams: u32,
    /// Payload of one, 8 (its number) to 65,507 bytes.
    pub datagram_bytes: u32,
    /// Connections, one after the other.
    pub connects: u32,
    /// Bytes sent over each and expected back, 1 to 64 MiB.
    pub stream_bytes: u32,
    /// The payload, over and over (behind a datagram's number); at most 4096; empty: any bytes.
    pub canary: Vec<u8>,
    /// How long the last datagram, and every connection, may wait for an answer: 1 to 60,000 ms.
    /// Up to 900 each connection that is not answered is one SYN: the second follows after 1 s.
    pub patience_ms: u32,
}

/// From the agent to the controller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Answer to [`Request::Hello`].
    Hello {
        /// [`PROTOCOL_VERSION`] of the agent.
        protocol: u32,
        /// cnibench version of the agent.
        version: String,
        /// Its process id.
        pid: u32,
        /// CPUs it may run on.
        cpus: Vec<u32>,
        /// The machine's boot id: two agents with the same one share its CPUs and clock. Empty:
        /// not known.
        #[serde(default)]
        machine: String,
        /// The kernel's release, as `uname -r` prints it; empty: not known.
        #[serde(default)]
        kernel: String,
        /// Its network interfaces that have addresses beyond the link or carry the default route.
        #[serde(default)]
        interfaces: Vec<Interface>,
    },
    /// The server can be reached.
    Listening {
        /// On this port.
        port: u16,
    },
    /// The trial ended well at this end.
    Finished(Box<EndReport>),
    /// The end of an `Echo`.
    Echoed {
        /// What came, by source address in ascending order.
        counts: Vec<EchoCount>,
    },
    /// A probe's first state, or a change.
    Probed {
        /// Does the server answer?
        reachable: bool,
        /// How long before this line the try was sent that shows it: the answered one, or the first
        /// of [`crate::contact::LOST`] in a row that were not.
        since_ms: f64,
    },
    /// The end of a `Probe`.
    ProbeEnd {
        /// Tries that were answered or given up; what was on its way at the end is not counted.
        sent: u64,
        /// Those that were answered.
        answered: u64,
    },
    /// The end of a `Send`.
    Sent(Tally),
    /// The trial failed at this end; the agent stays usable.
    Fault {
        /// What kind.
        kind: FaultKind,
        /// The whole error with its causes.
        message: String,
    },
}

/// What an echo server counted from one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EchoCount {
    /// Whose.
    pub from: IpAddr,
    /// Datagrams that arrived.
    pub datagrams: u64,
    /// Their payload in bytes.
    pub datagram_bytes: u64,
    /// Connections that were accepted.
    pub connections: u64,
    /// Bytes that arrived over them.
    pub stream_bytes: u64,
}

/// What became of a [`Volley`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Datagrams that the kernel took.
    pub sent: u32,
    /// Of these, those that came back as they were sent.
    pub answered: u32,
    /// Datagrams that the kernel refused as too long for the path (EMSGSIZE).
    pub too_long: u32,
    /// Datagrams that the kernel refused otherwise.
    pub refused: u32,
    /// Connections that were tried.
    pub connects: u32,
    /// Of these, those over which every byte came back.
    pub connected: u32,
    /// Bytes that came back over connections.
    pub stream_bytes: u64,
    /// The first thing that went wrong, if anything.
    pub trouble: Option<String>,
    /// The address that the datagrams were sent from, if there were any.
    pub from: Option<SocketAddr>,
    /// The MTU of the path as the sender's kernel knew it when the first datagram was sent: of the
    /// route, which may be less than its device's.
    pub mtu: Option<u32>,
}

/// A network interface of the place that an agent runs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name there.
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its addresses, those of the link (fe80::/10, 169.254.0.0/16) left out.
    pub addrs: Vec<IpAddr>,
    /// True when a default route leads over it.
    pub default_route: bool,
}

/// Why a trial failed at one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The task itself cannot be done (0 streams, unknown congestion control, too large a datagram).
    BadTask,
    /// The server could not be reached or refused.
    Unreachable,
    /// The peer stopped answering.
    PeerSilent,
    /// A system call failed.
    System,
    /// The controller asked to stop.
    Cancelled,
}

/// What one end saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndReport {
    /// Window, CPU and flows.
    pub endpoint: EndpointResult,
    /// Latencies of all transactions of all flows (the client of a transactional workload).
    pub histogram: Option<StoredHistogram>,
    /// Rate in equal slices of the window, oldest first (bit/s, transactions/s).
    pub slices: Vec<f64>,
    /// Seconds of one slice.
    pub slice_s: f64,
    /// What a UDP receiver counted.
    pub datagrams: Option<DatagramStats>,
    /// When the measured window opened, by this end's wall clock.
    #[serde(default)]
    pub window_opened: Option<Timestamp>,
    /// What a reader must know to trust the values.
    pub warnings: Vec<String>,
    /// What another generator than cnibench's own said of the trial, in our units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
    /// What the requests of each interval met, where they were due at times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intervals: Vec<Interval>,
}

/// The result of another generator, as its client told it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Which program.
    pub made_by: MadeBy,
    /// Its values in the units of the metrics; none of both ends' CPU time.
    pub samples: Vec<Sample>,
}

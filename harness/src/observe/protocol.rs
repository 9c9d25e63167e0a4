//! What the controller and a node observer say to each other: one JSON object a line over stdio.
//!
//! Each request has one reply. End of input ends the observer.

use crate::{
    netlink::rtnl::Counters,
    proof::sniffer::{Sightings, Watch},
};
use cnibench_model::{NodeCpu, probe::ProbeProgram};
use cnibench_probes::stages::{self, Scene, Seen};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr};

/// Version of this protocol; both ends refuse another one.
pub const PROTOCOL_VERSION: u32 = 3;

/// From the controller to the observer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Who are you, and what is there? [`Reply::Hello`].
    Hello,
    /// Counters of all devices: [`Reply::Counters`].
    Counters,
    /// Begin to measure the node's CPU time: [`Reply::CpuOpened`]. A window that was open is forgotten.
    OpenCpu,
    /// The node's CPU time since then: [`Reply::Cpu`].
    CloseCpu,
    /// Measure the node's CPU time over a window of its own: [`Reply::CpuMeasured`] when it is over.
    MeasureCpu {
        /// Seconds until it begins.
        after_s: f64,
        /// Seconds that it lasts.
        for_s: f64,
    },
    /// Watch what enters a device: [`Reply::Sniffing`], from when on every frame is seen. A watch that
    /// was on is forgotten.
    Sniff {
        /// Which.
        device: Which,
        /// For what.
        watch: Watch,
    },
    /// What latency probes are told of this node: [`Reply::Station`].
    Station {
        /// The address of a pod here; none: the end is the node itself.
        pod: Option<IpAddr>,
        /// The node's address, which its device towards other nodes has.
        node: IpAddr,
    },
    /// Attach the latency probes: [`Reply::Probing`]. Those that were attached are gone.
    Probe {
        /// What they observe.
        scene: Scene,
    },
    /// Count in the window of the next trial: [`Reply::Counting`].
    Count {
        /// Seconds from a flow's first send until it opens.
        after_s: f64,
        /// Seconds that it is open.
        for_s: f64,
    },
    /// What was counted: [`Reply::Counted`]. Detaches the probes.
    Unprobe,
    /// What was seen: [`Reply::Sightings`], of everything that entered before this was asked.
    Stop,
}

/// How a device is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// By its name.
    Named(String),
    /// As the one that has this address: the underlay's has the node's.
    WithAddress(IpAddr),
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "device {name}"),
            Self::WithAddress(addr) => write!(f, "the device with address {addr}"),
        }
    }
}

/// From the observer to the controller.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Answer to [`Request::Hello`].
    Hello {
        /// [`PROTOCOL_VERSION`] of the observer.
        protocol: u32,
        /// cnibench version of the observer.
        version: String,
        /// The machine's boot id.
        machine: String,
        /// The kernel's release.
        kernel: String,
        /// False in a PID namespace: the time of kernel threads is then in `system`.
        sees_kthreads: bool,
        /// Devices of the node.
        devices: Vec<Device>,
    },
    /// Answer to [`Request::Counters`].
    Counters {
        /// Devices of the node.
        devices: Vec<Device>,
    },
    /// Answer to [`Request::OpenCpu`].
    CpuOpened,
    /// Answer to [`Request::CloseCpu`].
    Cpu {
        /// The node's CPU time in the window.
        node: NodeCpu,
    },
    /// Answer to [`Request::MeasureCpu`].
    CpuMeasured {
        /// When the window opened, by the node's wall clock.
        opened: Timestamp,
        /// The node's CPU time in it.
        node: NodeCpu,
    },
    /// Answer to [`Request::Sniff`].
    Sniffing {
        /// The name of the device.
        device: String,
    },
    /// Answer to [`Request::Station`].
    Station(Station),
    /// Answer to [`Request::Probe`].
    Probing {
        /// Every program that was tried.
        programs: Vec<ProbeProgram>,
    },
    /// Answer to [`Request::Count`].
    Counting,
    /// Answer to [`Request::Unprobe`].
    Counted(Box<Seen>),
    /// Answer to [`Request::Stop`].
    Sightings(Sightings),
    /// It could not be done; the observer stays usable.
    Fault {
        /// The whole error with its causes.
        message: String,
    },
}

/// A node as latency probes see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Station {
    /// Inode of the node's network namespace.
    pub node: u32,
    /// Of the pod that was asked for.
    pub pod: Option<u32>,
    /// The devices of both.
    pub devices: Vec<stages::Device>,
}

/// A network device of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its kind as `ip -d link` names it ("veth", "vxlan"); empty for plain devices.
    pub kind: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its addresses.
    pub addrs: Vec<IpAddr>,
    /// Counters since it was made.
    pub counters: Counters,
}

//! What a cni's agent is told: its node, its pods, its peers. And what it claims of its path.

use crate::netlink::Netns;
use ipnet::IpNet;
use std::{collections::BTreeMap, net::IpAddr};

/// What a node's agent publishes for its peers, as node annotations would carry it.
pub type Facts = BTreeMap<String, String>;

/// A node, as its agent sees it.
#[derive(Debug, Clone)]
pub struct NodeCtx {
    /// Which node, from 0.
    pub index: u32,
    /// Its name, unique on this machine.
    pub name: String,
    /// Its network namespace: run code there with [`Netns::run`].
    pub netns: Netns,
    /// The device towards the other nodes.
    pub device: String,
    /// Its addresses there with the underlay's prefix length, IPv4 before IPv6.
    pub addrs: Vec<IpNet>,
    /// Its share of the cluster's pod addresses, one per family, IPv4 before IPv6.
    pub pod_cidrs: Vec<IpNet>,
    /// All pod addresses of the cluster, one per family, IPv4 before IPv6.
    pub cluster_cidrs: Vec<IpNet>,
    /// MTU of [`device`](Self::device) in bytes.
    pub underlay_mtu: u32,
}

impl NodeCtx {
    /// Its address of the same family as `like`, if it has one.
    pub fn addr_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.addrs.iter().map(IpNet::addr).find(|a| a.is_ipv4() == like.is_ipv4())
    }
}

/// A pod that is to be connected.
#[derive(Debug, Clone)]
pub struct PodCtx {
    /// Which pod of its node, from 0.
    pub index: u32,
    /// Its name, unique on this machine.
    pub name: String,
    /// Its network namespace, with `lo` up and nothing else.
    pub netns: Netns,
    /// The addresses it is to have (what the node's address management hands out), with the
    /// prefix length of the node's pod range; IPv4 before IPv6.
    pub addrs: Vec<IpNet>,
    /// The gateways, the first address of each of the node's pod ranges, same order.
    pub gateways: Vec<IpAddr>,
}

/// What a pod got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNet {
    /// Its addresses.
    pub addrs: Vec<IpAddr>,
}

/// Who may send to a pod; whoever none of a pod's policies admits may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Addresses that it admits, to every port.
    pub admits: Vec<IpAddr>,
}

/// Another node, as this node's agent is told of it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Which node, from 0.
    pub index: u32,
    /// Its node addresses, IPv4 before IPv6.
    pub addrs: Vec<IpAddr>,
    /// Its pod ranges, IPv4 before IPv6.
    pub pod_cidrs: Vec<IpNet>,
    /// What its agent published.
    pub facts: Facts,
}

impl Peer {
    /// Its address of the same family as `like`, if it has one.
    pub fn addr_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.addrs.iter().copied().find(|a| a.is_ipv4() == like.is_ipv4())
    }
}

/// An end of a placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client's node.
    Client,
    /// The server's node.
    Server,
}

/// How packets come into a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Through the node's end of its veth pair, where it has one.
    Port,
    /// Straight into its namespace (bpf_redirect_peer): the node's end sends nothing, and the pod's
    /// own end receives.
    Direct,
    /// By either; what it is, the proof tells.
    Either,
}

/// One thing that must be true of a node's device while packets go from client to server and back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Packets of both directions show in its counters.
    Carries {
        /// On which node.
        side: Side,
        /// Its name in the node's namespace.
        device: String,
    },
    /// Packets of one direction show in its counters as received, and none as sent.
    Receives {
        /// On which node.
        side: Side,
        /// Its name in the node's namespace.
        device: String,
    },
    /// Packets of one direction show in its counters as sent, and none as received.
    Sends {
        /// On which node.
        side: Side,
        /// Its name in the node's namespace.
        device: String,
    },
    /// It exists and sees none of them.
    Silent {
        /// On which node.
        side: Side,
        /// Its name in the node's namespace.
        device: String,
    },
    /// There is no such device.
    Absent {
        /// On which node.
        side: Side,
        /// Its name.
        device: String,
    },
}

impl Claim {
    /// What it speaks of.
    pub fn device(&self) -> (Side, &str) {
        let (Self::Carries { side, device }
        | Self::Receives { side, device }
        | Self::Sends { side, device }
        | Self::Silent { side, device }
        | Self::Absent { side, device }) = self;
        (*side, device)
    }

    /// The device carries the traffic on both nodes.
    pub fn carried_by(device: &str) -> [Self; 2] {
        [Side::Client, Side::Server].map(|side| Self::Carries { side, device: device.to_owned() })
    }

    /// The device sees nothing on either node.
    pub fn silent(device: &str) -> [Self; 2] {
        [Side::Client, Side::Server].map(|side| Self::Silent { side, device: device.to_owned() })
    }

    /// There is no such device on either node.
    pub fn absent(device: &str) -> [Self; 2] {
        [Side::Client, Side::Server].map(|side| Self::Absent { side, device: device.to_owned() })
    }
}

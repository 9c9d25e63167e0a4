//! The shape of a cluster: nodes, pods, addresses, MTU. Asked for by a suite, kept by the record.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which addresses pods and nodes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AddressFamily {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both; traffic uses IPv4.
    Dual,
}

/// The shape of a cluster, the same for every cni of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Topology {
    /// Number of nodes.
    pub nodes: u32,
    /// Pods on every node.
    pub pods_per_node: u32,
    /// Addresses.
    pub family: AddressFamily,
    /// MTU of the links between nodes, in bytes.
    pub underlay_mtu: u32,
}

impl Default for Topology {
    fn default() -> Self {
        Self { nodes: 2, pods_per_node: 2, family: AddressFamily::V4, underlay_mtu: 1500 }
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let traffic = match self.family {
            AddressFamily::V4 => "IPv4",
            AddressFamily::V6 => "IPv6",
            AddressFamily::Dual => "dual stack, traffic over IPv4",
        };
        let Self { nodes, pods_per_node, underlay_mtu, .. } = self;
        write!(
            f,
            "{nodes} nodes with {pods_per_node} pods each, {traffic}, MTU {underlay_mtu} between nodes"
        )
    }
}

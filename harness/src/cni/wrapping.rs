//! What a cni that encrypts says of its packets between nodes, for the encryption proof to hold it to.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What packets of pods are wrapped in between nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrapping {
    /// UDP to or from one of these ports (WireGuard).
    Udp(BTreeSet<u16>),
    /// ESP (RFC 4303).
    Esp,
}

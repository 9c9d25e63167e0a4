//! What a cni's own pods cost a node: CPU and memory, idle and under load.

use crate::spec::CniSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When a footprint was taken.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Before the first trial, no measured traffic.
    Idle,
    /// From the first trial to the last.
    Load,
}

impl Phase {
    /// The word used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Load => "load",
        }
    }
}

/// What one pod of a cni used over a window, as the node's kubelet says (stats/summary).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Footprint {
    /// The cni.
    pub cni: CniSpec,
    /// When.
    pub phase: Phase,
    /// The node.
    pub node: String,
    /// The pod, namespace/name.
    pub pod: String,
    /// Length of the window in seconds.
    pub window_s: f64,
    /// CPUs used, the mean over the window (CPU-seconds per second).
    pub cpus: f64,
    /// Working set at the window's end, in bytes.
    pub memory_bytes: u64,
}

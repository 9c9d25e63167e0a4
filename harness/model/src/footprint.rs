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

/// Seconds of the shortest window that has a mean.
pub const LEAST_WINDOW_S: f64 = 5.0;

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
    /// What the pod is to the cni ("agent", "operator", "kube-proxy"); none in records of before it was
    /// kept, where every pod is an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// Stretch of the phase, from 0: between two of them the cni's pods were replaced (Hubble was
    /// switched). What the pods of a node use adds up within a stretch.
    #[serde(default)]
    pub stretch: u32,
    /// Length of the window in seconds, between two readings of the kubelet's; 0 where it took no new one.
    pub window_s: f64,
    /// CPUs used, the mean over the window (CPU-seconds per second); none where the window is shorter
    /// than [`LEAST_WINDOW_S`], which is no mean of anything.
    pub cpus: Option<f64>,
    /// Working set at the window's end, in bytes; none where the kubelet took no reading under load.
    pub memory_bytes: Option<u64>,
}

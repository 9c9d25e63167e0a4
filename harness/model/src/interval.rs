//! Latencies along a trial, and key rotations in it.
//!
//! A trial at an offered rate tells what the requests met that were due in each short interval of its
//! window. Where keys were changed meanwhile, it stands apart from the measured trials.

use crate::{case::CaseId, trial::Trial};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What became of the requests that were due in one interval of a trial's window. Times count from when a
/// request was due, in the clock of the record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Interval {
    /// When it begins, in seconds from the opening of the window.
    pub at_s: f64,
    /// How long it is, in seconds.
    pub length_s: f64,
    /// Requests that were answered.
    pub count: u64,
    /// Requests that were not (datagrams only).
    pub lost: u64,
    /// Median latency of those that were answered, in nanoseconds; 0 of none.
    pub p50: f64,
    /// 99th percentile; 0 of none.
    pub p99: f64,
    /// The longest; 0 of none.
    pub max: f64,
}

/// A change of keys.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rotation {
    /// When it was begun, by the wall clock of the machine that the trial ran on.
    #[schemars(with = "String")]
    pub begun: Timestamp,
    /// The same in seconds from the opening of the trial's window.
    pub at_s: f64,
    /// Seconds until all nodes had done all of its steps.
    pub took_s: f64,
}

/// One trial during which keys were changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RotationTrial {
    /// The case.
    pub case: CaseId,
    /// What a key is here and how it is changed; none of a cni without keys, whose trial is the control.
    pub how: Option<String>,
    /// The changes; none in the control.
    pub rotations: Vec<Rotation>,
    /// What came of it, with its intervals.
    pub trial: Trial,
}

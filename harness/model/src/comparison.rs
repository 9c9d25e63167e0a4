//! Records side by side, for people: every case that the baseline has, and what became of it.
//!
//! Owns what `cnibench compare` prints, as it is serialised. Judges nothing: intervals are not corrected
//! for how many there are, and no floor is applied. Made in `cnibench_reports::compare`.

use crate::{
    case::{CaseId, SeriesKey},
    fingerprint::Difference,
    metric::{Clock, Metric},
    verdict::EffectBasis,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of the comparison's schema.
pub const COMPARISON_VERSION: u32 = 1;

/// A baseline and what is compared with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// [`COMPARISON_VERSION`] of the writer.
    pub schema_version: u32,
    /// The record that is compared with.
    pub baseline: ComparedRun,
    /// The others, in the order in which they were given.
    pub candidates: Vec<ComparedRun>,
    /// One for each case and metric.
    pub rows: Vec<ComparedRow>,
    /// Cases that only some of the records have, with the runs that have them.
    pub unmatched: Vec<Unmatched>,
    /// Things a reader should know.
    pub notes: Vec<String>,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ComparedRun {
    /// Its run id.
    pub run: String,
    /// Its suite.
    pub suite: String,
    /// When it began.
    pub started: String,
    /// What time values count.
    pub clock: Clock,
    /// What moves every number and differs from the baseline's.
    pub forbidding: Vec<Difference>,
    /// What else differs from it.
    pub telling: Vec<Difference>,
}

/// One metric of one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ComparedRow {
    /// The case, without its cni.
    pub series: SeriesKey,
    /// Cni and case, for people.
    pub title: String,
    /// The baseline's case.
    pub case: CaseId,
    /// The metric.
    pub metric: Metric,
    /// What the baseline measured; none where it has no value.
    pub baseline: Option<ComparedValue>,
    /// One for each candidate; none where it has no value.
    pub candidates: Vec<Option<ComparedCandidate>>,
}

/// A median and its 95 % interval, in the metric's unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ComparedValue {
    /// The median.
    pub median: f64,
    /// Lower end; none of fewer than 3 trials.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Trials, or pairs of nodes.
    pub n: u32,
}

/// What one candidate measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ComparedCandidate {
    /// Its value.
    #[serde(flatten)]
    pub value: ComparedValue,
    /// The change from the baseline; none where none can be made, e.g. of a zero.
    pub change: Option<ComparedChange>,
}

/// A change with its 95 % interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ComparedChange {
    /// What sizes count in.
    pub basis: EffectBasis,
    /// The change.
    pub size: f64,
    /// Lower end of its interval.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// What it means.
    pub effect: ComparedEffect,
    /// In words, e.g. "31 % slower (29–33 %)".
    pub words: String,
}

/// What a change means for its metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ComparedEffect {
    /// The whole interval is on the good side.
    Better,
    /// The whole interval is on the bad side.
    Worse,
    /// The interval includes no change.
    NotShown,
    /// There is no interval.
    Unknown,
}

/// A case that not all records have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unmatched {
    /// The case.
    pub case: CaseId,
    /// Runs that have it.
    pub runs: Vec<String>,
}

//! Two arms measured in pairs: what was planned, and a trial's place in it.
//!
//! Owns the words that whoever judges pairs reads from a record. Judges nothing itself.

use crate::spec::CniSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One of the two sides of a paired measurement.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum PairArm {
    /// What is compared with.
    Baseline,
    /// What is compared.
    Candidate,
}

/// Which arm of a pair ran first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum PairOrder {
    /// Baseline, candidate.
    BaselineFirst,
    /// Candidate, baseline.
    CandidateFirst,
}

impl PairOrder {
    /// Both arms in this order.
    pub fn arms(self) -> [PairArm; 2] {
        match self {
            Self::BaselineFirst => [PairArm::Baseline, PairArm::Candidate],
            Self::CandidateFirst => [PairArm::Candidate, PairArm::Baseline],
        }
    }
}

/// A trial's place among the pairs of its series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct PairSlot {
    /// Which making of the clusters, from 0. Pairs of one rebuild ran on the same two clusters, so
    /// that they share what those happened to be like: a rebuild, not a pair, is what repeats
    /// independently.
    pub rebuild: u32,
    /// Number of the pair in its rebuild and series, from 0.
    pub pair: u32,
    /// Which arm ran first.
    pub order: PairOrder,
    /// Which arm this trial is of.
    pub arm: PairArm,
}

/// What was planned of two arms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pairing {
    /// What is compared with.
    pub baseline: CniSpec,
    /// What is compared. Of a cni with itself it is the second of the two ([`CniSpec::second`]).
    pub candidate: CniSpec,
    /// How often the clusters were to be made.
    pub rebuilds: u32,
    /// Pairs of every series in each rebuild.
    pub pairs: u32,
    /// True when both arms were up at once, so that the two trials of a pair ran next to each other.
    /// False: in every rebuild all trials of one arm before those of the other.
    pub adjacent: bool,
    /// Rebuilds after which it is looked whether the answer is clear, ascending, the last of them all
    /// planned ones; empty: the run goes to its end whatever it shows. Whoever judges the pairs has to
    /// know, since every look is a chance to be wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub looks: Vec<u32>,
}

impl Pairing {
    /// The cni of an arm.
    pub fn cni(&self, arm: PairArm) -> &CniSpec {
        match arm {
            PairArm::Baseline => &self.baseline,
            PairArm::Candidate => &self.candidate,
        }
    }
}

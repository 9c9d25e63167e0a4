//! What the gate says: a verdict for every case and metric, what it rests on, and the exit code of all.
//!
//! Owns these words as they are stored and printed. How a verdict is reached is in
//! `cnibench_reports::gate`. Read by every renderer and by programs (`cnibench schema gate`).

use crate::{
    case::{CaseId, SeriesKey, named_enum},
    fingerprint::Difference,
    metric::{Clock, Metric},
    nearest::did_you_mean,
    spec::CniSpec,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Version of the gate's schema.
pub const GATE_VERSION: u32 = 1;

named_enum! {
    /// What the gate says of one metric of one case.
    Verdict, "verdict" {
        /// No change for the worse that is as large as the floor.
        Pass = "pass",
        /// Worse: the interval excludes no change, and the estimate is at least the floor.
        Regression = "regression",
        /// Better, by the same rule.
        Improvement = "improvement",
        /// The interval is too wide to tell.
        Inconclusive = "inconclusive",
        /// There is nothing to judge.
        Missing = "missing",
    }
}

named_enum! {
    /// What the gate says of everything together.
    GateOutcome, "outcome" {
        /// Every metric that gates passed or improved.
        Pass = "pass",
        /// At least one that gates is a regression.
        Regression = "regression",
        /// No regression, but of at least one that gates nothing can be said.
        Inconclusive = "inconclusive",
    }
}

impl GateOutcome {
    /// The exit code of a command that ends with this. The numbers are promises.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Regression => 1,
            Self::Inconclusive => 3,
        }
    }
}

/// Whether a verdict counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It decides the outcome.
    Gates,
    /// It is said and decides nothing.
    Informs,
}

/// How the two sides were measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GateDesign {
    /// In one run, in adjacent pairs.
    Pairs,
    /// In one run, in pairs whose trials were not adjacent.
    ApartPairs,
    /// In two runs.
    Stored,
}

/// What a change counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EffectBasis {
    /// Candidate divided by baseline: 1 is no change.
    Ratio,
    /// Candidate minus baseline, of metrics that are shares: 0 is no change.
    Difference,
}

/// A change with its interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Estimate {
    /// What sizes count in.
    pub basis: EffectBasis,
    /// The change (Hodges-Lehmann).
    pub size: f64,
    /// Lower end of its interval; none where there is too little for one.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Confidence of the interval, after everything it was corrected for, e.g. 0.995.
    pub confidence: f64,
    /// Bootstrap standard error of the change, on the scale of logarithms of a ratio or of differences.
    pub standard_error: Option<f64>,
    /// Degrees of freedom of the t factor of the interval.
    pub degrees_of_freedom: Option<f64>,
    /// The change within every rebuild, in order; none where a rebuild has no pair.
    pub by_rebuild: Vec<Option<f64>>,
    /// Pairs that were used (of stored records: trials of the side with fewer).
    pub pairs: u32,
    /// Rebuilds that have one (of stored records: of the side with fewer).
    pub rebuilds: u32,
}

/// Where a floor comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FloorSource {
    /// The smallest change that the policy takes seriously.
    MinimumEffect,
    /// What this host makes of nothing, which is larger than that.
    Calibrated,
    /// What a machine's clock drifts by between two runs, which is larger than both.
    ApartInTime,
}

/// The size from which on a change counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Floor {
    /// A share of the baseline (0.03 is 3 %), or of a metric that is a share itself a difference.
    pub size: f64,
    /// Which of the next three it is.
    pub source: FloorSource,
    /// The policy's smallest change.
    pub minimum_effect: f64,
    /// The calibrated floor of this host, where one was used.
    pub calibrated: Option<f64>,
}

/// What was left out of a judgement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LeftOut {
    /// Pairs of which one trial is missing.
    pub unpaired: u32,
    /// Trials of the baseline that did no work, or that did not hold the rate asked for.
    pub baseline_unfit: u32,
    /// The same of the candidate.
    pub candidate_unfit: u32,
    /// Trials without a value of the metric, or with one that no change can be made of.
    pub no_value: u32,
}

/// One metric of one case, judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Judgement {
    /// The case, without its cni.
    pub series: SeriesKey,
    /// The same for people.
    pub title: String,
    /// The baseline's case.
    pub baseline: Option<CaseId>,
    /// The candidate's.
    pub candidate: Option<CaseId>,
    /// The metric; none where a required case is not there at all.
    pub metric: Option<Metric>,
    /// Whether it counts.
    pub role: Role,
    /// What is said of it.
    pub verdict: Verdict,
    /// Why, in one sentence.
    pub reason: String,
    /// Medians of both sides, in the metric's unit.
    pub medians: Option<[f64; 2]>,
    /// The change.
    pub estimate: Option<Estimate>,
    /// From when on it counts.
    pub floor: Option<Floor>,
    /// What was left out.
    pub left_out: LeftOut,
}

/// How the error rate of repeated looks is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LookAt {
    /// Rebuilds after which a look was planned.
    pub planned: Vec<u32>,
    /// Rebuilds that were measured when this was judged.
    pub rebuilds: u32,
    /// Rebuilds that were planned.
    pub of: u32,
    /// The share of the error rate that this look may spend.
    pub alpha: f64,
}

/// The calibration that was, or was not, used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum CalibrationUse {
    /// There was none.
    None,
    /// It is this host's, and its floors were used.
    Used {
        /// When it was made.
        made: String,
        /// A/A runs that it was made of.
        runs: u32,
    },
    /// It is not this host's as it is now, and nothing of it was used.
    Stale {
        /// When it was made.
        made: String,
        /// What differs: "baseline" is the calibration's value.
        differences: Vec<Difference>,
    },
}

/// Everything that the gate says of two sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Gate {
    /// [`GATE_VERSION`] of the writer.
    pub schema_version: u32,
    /// What it says of everything together.
    pub outcome: GateOutcome,
    /// The exit code that follows.
    pub exit_code: u8,
    /// Why it is advice only and never exits 1; empty where it is not.
    pub advisory: Vec<String>,
    /// How the two sides were measured.
    pub design: GateDesign,
    /// What is compared with: the cni of one arm, or none where every case has its own.
    pub baseline: Option<CniSpec>,
    /// What is compared.
    pub candidate: Option<CniSpec>,
    /// Run ids of the records, the baseline's first; one for pairs.
    pub runs: Vec<String>,
    /// What time values count.
    pub clock: Clock,
    /// Chance of at least one false regression or improvement in all that gates and at all looks, at
    /// most. What one look may spend of it is in `look`.
    pub alpha: f64,
    /// Bootstrap resamples.
    pub resamples: u32,
    /// Seed of the bootstrap.
    pub seed: u64,
    /// The look, where some were planned.
    pub look: Option<LookAt>,
    /// The calibration.
    pub calibration: CalibrationUse,
    /// Fields in which the two records differ.
    pub differences: Vec<Difference>,
    /// What gates first.
    pub judgements: Vec<Judgement>,
    /// Things a reader should know.
    pub notes: Vec<String>,
}

impl Gate {
    /// Judgements that decide the outcome.
    pub fn gating(&self) -> impl Iterator<Item = &Judgement> {
        self.judgements.iter().filter(|j| j.role == Role::Gates)
    }

    /// How many of those that decide have this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.gating().filter(|j| j.verdict == verdict).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_what_was_promised() {
        let codes = GateOutcome::ALL.iter().map(|o| o.exit_code());
        assert_eq!(codes.collect::<Vec<_>>(), [0, 1, 3]);
    }
}

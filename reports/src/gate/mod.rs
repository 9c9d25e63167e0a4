//! The gate: from pairs, or from two records, and a policy to verdicts that can be believed.
//!
//! Owns how a regression is told from noise and what is said when it cannot be. Renders nothing but its
//! own tables (terminal, Markdown, JUnit); runs nothing. Called by `ab`, `gate`, `compare` and the page.
//!
//! How a verdict comes about:
//! 1. y = ln(candidate / baseline) of every pair of adjacent trials (of loss and other shares the
//!    difference). Trials that carried nothing or did not hold their rate are counted and left out, and
//!    are a verdict by themselves where there are many.
//! 2. Hodges-Lehmann estimate over all pairs; its error by rebuild ([`crate::stats`], `clustered`).
//! 3. Intervals are corrected for the number of metrics that gate (Holm) and of looks
//!    ([`sequential`]).
//! 4. A regression: the interval leaves out no change, on the bad side, and the estimate is at least the
//!    floor, the larger of the policy's minimum effect and what this host makes of nothing
//!    ([`calibrate`]). Inconclusive: the interval reaches beyond the floor and is wider than it. Else a
//!    pass, or by the mirrored rule an improvement. Which way is bad is the metric's to say.

pub mod calibrate;
mod differences;
mod evidence;
mod judge;
mod junit;
pub(crate) mod markdown;
pub mod policy;
mod rule;
pub mod sequential;
pub(crate) mod summary;
mod table;
#[cfg(test)]
mod tests;
pub(crate) mod words;

pub use differences::{Comparability, comparability};
pub use junit::junit;
pub use markdown::markdown;
pub use policy::{Policy, PolicyError};
pub use summary::{about, headline, how_sure};
pub use table::table;

use cnibench_model::{Calibration, Clock, Difference, Gate, GateDesign, Record};
use evidence::Evidence;
use judge::{Setting, judge};

/// Why two sides cannot be judged at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// A record without pairs, judged alone.
    #[error(
        "run {run} has no pairs: give a baseline to compare it with, or measure with cnibench ab"
    )]
    NoPairs {
        /// The run.
        run: String,
    },
    /// Clocks of two kinds.
    #[error(
        "the clocks differ: {baseline} and {candidate}; nanoseconds and instructions cannot be compared"
    )]
    Clocks {
        /// Of the baseline.
        baseline: &'static str,
        /// Of the candidate.
        candidate: &'static str,
    },
    /// No case stands in both.
    #[error(
        "the records have no case in common: {baseline} has for example {example}, {candidate} has {other}"
    )]
    NothingInCommon {
        /// The baseline's run.
        baseline: String,
        /// One of its cases.
        example: String,
        /// The candidate's run.
        candidate: String,
        /// One of its cases.
        other: String,
    },
    /// They differ in what moves every number.
    #[error("the records cannot be compared; they differ in (baseline and candidate):{}", list(.0))]
    NotComparable(Vec<Difference>),
}

fn list(differences: &[Difference]) -> String {
    let lines: Vec<String> = differences.iter().map(|d| format!("\n  {d}")).collect();
    lines.concat()
}

/// What becomes of records that differ in what moves every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// They are refused.
    Refuse,
    /// They are judged as advice, which never exits 1.
    Advise,
}

/// Judges a record of two arms in pairs.
///
/// # Errors
/// [`GateError::NoPairs`].
pub fn judge_pairs(
    record: &Record,
    policy: &Policy,
    calibration: Option<&Calibration>,
) -> Result<Gate, GateError> {
    let Some(pairing) = &record.header.pairing else {
        return Err(GateError::NoPairs { run: record.header.run_id.clone() });
    };
    let rebuilds = record.trials.iter().filter_map(|t| Some(t.pair?.rebuild + 1));
    let done = rebuilds.max().unwrap_or(0);
    let alpha = sequential::alpha_at(pairing, done, policy.alpha);
    let setting = Setting::of_pairs(&record.header, calibration).at(pairing, done, alpha);
    Ok(judge(&Evidence::paired(record), policy, &setting))
}

/// Judges one record against another that was made before, case by case of the same cni.
///
/// # Errors
/// See [`GateError`]; what `strictness` permits is stamped advisory instead.
pub fn judge_stored(
    baseline: &Record,
    candidate: &Record,
    policy: &Policy,
    calibration: Option<&Calibration>,
    strictness: Strictness,
) -> Result<Gate, GateError> {
    let clocks = [baseline.header.clock, candidate.header.clock];
    if clocks[0] != clocks[1] {
        let [baseline, candidate] = clocks.map(Clock::name);
        return Err(GateError::Clocks { baseline, candidate });
    }
    let common = baseline.header.cases.iter().any(|c| candidate.case(&c.id).is_some());
    if !common {
        let example = |r: &Record| {
            r.header.cases.first().map_or_else(|| "none".to_owned(), |c| c.id.to_string())
        };
        return Err(GateError::NothingInCommon {
            baseline: baseline.header.run_id.clone(),
            example: example(baseline),
            candidate: candidate.header.run_id.clone(),
            other: example(candidate),
        });
    }
    let found = comparability(baseline, candidate);
    if !found.forbidding.is_empty() && strictness == Strictness::Refuse {
        return Err(GateError::NotComparable(found.forbidding));
    }
    let mut setting = Setting::bare(&candidate.header, calibration);
    setting.design = GateDesign::Stored;
    setting.runs.insert(0, baseline.header.run_id.clone());
    setting.advisory =
        found.forbidding.iter().map(|d| format!("The records differ in {d}.")).collect();
    setting.differences = found.all();
    if setting.clock == Clock::Wall {
        setting.notes.push(format!(
            "The records were made at different times ({} and {}): what the machine did differently is in every change, so that only large ones count. Pairs (cnibench ab) see smaller ones.",
            baseline.header.started.strftime("%F %T UTC"),
            candidate.header.started.strftime("%F %T UTC"),
        ));
    }
    Ok(judge(&Evidence::stored(baseline, candidate), policy, &setting))
}

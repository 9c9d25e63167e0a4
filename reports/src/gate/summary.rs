//! What stands over and under every table of verdicts: the headline, and how sure all of it is.
//!
//! Owns these sentences; each format only lays them out. Called by the table, Markdown, JUnit and the
//! page.

use super::words;
use crate::units::{Scale, counted, number};
use cnibench_model::{
    CalibrationUse, Clock, Gate, GateDesign, GateOutcome, Judgement, Metric, Verdict,
};

/// One line: what the gate says, and of what.
pub fn headline(gate: &Gate) -> String {
    let all = gate.gating().count();
    let metrics = counted(all as u64, "metric");
    let text = match gate.outcome {
        GateOutcome::Regression => {
            let worse: Vec<&Judgement> =
                gate.gating().filter(|j| j.verdict == Verdict::Regression).collect();
            let first = worse.first().map_or_else(String::new, |j| of_one(j));
            let more = match worse.len() {
                0 | 1 => String::new(),
                n => format!(", and {} more of {metrics} that gate", n - 1),
            };
            format!("regression: {first}{more}")
        }
        GateOutcome::Inconclusive if all == 0 => "inconclusive: nothing gates".to_owned(),
        GateOutcome::Inconclusive => {
            let open = gate.count(Verdict::Inconclusive);
            let missing = gate.count(Verdict::Missing);
            let parts: Vec<String> = [
                (open, "cannot be told"),
                (missing, if missing == 1 { "is missing" } else { "are missing" }),
            ]
            .into_iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, what)| format!("{n} {what}"))
            .collect();
            format!("inconclusive: of {metrics} that gate {}", parts.join(", "))
        }
        GateOutcome::Pass => {
            let better = match gate.count(Verdict::Improvement) {
                0 => String::new(),
                n => format!(", {n} improved"),
            };
            match all {
                1 => format!("pass: the one metric that gates is not worse{better}"),
                _ => format!("pass: none of {metrics} that gate is worse{better}"),
            }
        }
    };
    match gate.advisory.is_empty() {
        true => text,
        false => format!("advice only: {text}"),
    }
}

/// "tcp_rr cross-node, latency p50: 12 % slower (10–14 %)".
fn of_one(judgement: &Judgement) -> String {
    let metric = judgement.metric.map_or_else(String::new, |m| format!(", {}", m.label()));
    let change = judgement.metric.zip(judgement.estimate.as_ref());
    let said = match change {
        Some((metric, estimate)) => words::change(metric, estimate),
        None => judgement.reason.clone(),
    };
    format!("{}{metric}: {said}", judgement.title)
}

/// Who was compared with whom, and how.
pub fn about(gate: &Gate) -> String {
    let arms = match (&gate.baseline, &gate.candidate) {
        (Some(baseline), Some(candidate)) => format!("{candidate} against {baseline}"),
        _ => "every case against its own of the baseline".to_owned(),
    };
    let used = || gate.judgements.iter().filter_map(|j| j.estimate.as_ref());
    let span = |of: fn(&cnibench_model::Estimate) -> u32| {
        let (low, high) = (used().map(of).min().unwrap_or(0), used().map(of).max().unwrap_or(0));
        (low, high)
    };
    let range = |(low, high): (u32, u32), one: &str| match low == high {
        true => counted(u64::from(low), one),
        false => format!("{low} to {}", counted(u64::from(high), one)),
    };
    let how = match gate.design {
        GateDesign::Stored => format!(
            "two stored records ({}), {} a side",
            gate.runs.join(" and "),
            range(span(|e| e.pairs), "trial")
        ),
        design => format!(
            "{} in {}{}",
            range(span(|e| e.pairs), "pair"),
            range(span(|e| e.rebuilds), "rebuild"),
            if design == GateDesign::ApartPairs { ", their trials not adjacent" } else { "" }
        ),
    };
    format!("{arms}; {how}")
}

/// How sure all of it is, and by what: sentences.
pub fn how_sure(gate: &Gate) -> Vec<String> {
    let gating = gate.gating().count();
    let mut out = vec![format!(
        "All verdicts that gate hold together with {}: by chance at most {} in 100 runs of unchanged code show a regression, before any floor.",
        words::confidence(1.0 - gate.alpha),
        number(gate.alpha * 50.0, if gate.alpha * 50.0 < 0.995 { 2 } else { 0 }),
    )];
    let counts = gate.clock == Clock::Instructions;
    let unit = match gate.design {
        _ if counts => {
            "trials and rebuilds, its error no less than what guests of other seeds were seen to differ by"
        }
        GateDesign::Stored => {
            "trials as they are (nothing says how another run of either would differ)"
        }
        _ => "whole rebuilds, t with one degree of freedom less than rebuilds",
    };
    out.push(format!(
        "Change: Hodges-Lehmann estimate. Interval: bootstrap over {unit}; {} resamples, seed {:#x}; corrected for {} (Holm).",
        gate.resamples,
        gate.seed,
        counted(gating as u64, "metric"),
    ));
    if let Some(look) = &gate.look {
        let early = match look.rebuilds < look.of {
            true => format!("It ended after {} of {} rebuilds", look.rebuilds, look.of),
            false => format!("It went to its end of {}", counted(u64::from(look.of), "rebuild")),
        };
        out.push(format!(
            "{early}, with looks after {}; of the error rate this one may spend {} %.",
            list(&look.planned),
            number(look.alpha * 100.0, 2)
        ));
    }
    out.push(match &gate.calibration {
        CalibrationUse::None if counts => "Floors are the policy's.".to_owned(),
        CalibrationUse::None => {
            "This host is not calibrated (cnibench calibrate): floors are the policy's alone.".to_owned()
        }
        CalibrationUse::Used { made, runs } => {
            format!("Floors: the policy's, or where larger this host's own of {runs} A/A runs ({made}).")
        }
        CalibrationUse::Stale { made, differences } => {
            let fields: Vec<String> = differences.iter().map(ToString::to_string).collect();
            format!(
                "The calibration of {made} is not this host's as it is now, and is not used: {}. Calibrate again.",
                fields.join("; ")
            )
        }
    });
    if gate.clock == Clock::Instructions {
        out.push(
            "What is compared are instructions, which do not depend on how busy the machine was."
                .to_owned(),
        );
    }
    out.extend(gate.advisory.iter().cloned());
    out.extend(gate.notes.iter().cloned());
    out
}

fn list(numbers: &[u32]) -> String {
    let words: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

/// One judgement as the cells of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// "regression", in brackets where it does not gate.
    pub verdict: String,
    /// The case.
    pub case: String,
    /// "latency p50, µs".
    pub metric: String,
    /// Medians of baseline and candidate; empty where there is none.
    pub values: [String; 2],
    /// "12 % slower (10–14 %)".
    pub change: String,
    /// "3 %".
    pub floor: String,
    /// Why.
    pub reason: String,
    /// The same where the other cells do not say it already.
    pub why: String,
}

/// The judgements as tables show them, in their order.
pub fn lines(gate: &Gate) -> Vec<Line> {
    gate.judgements.iter().map(|j| line(j, gate.clock)).collect()
}

fn line(judgement: &Judgement, clock: Clock) -> Line {
    let metric = judgement.metric;
    let scale = metric.zip(judgement.medians).map(|(m, values)| Scale::of(m, clock, &values));
    let head = |m: Metric| match &scale {
        Some(scale) if !scale.unit.is_empty() => format!("{}, {}", m.label(), scale.unit),
        _ => m.label().to_owned(),
    };
    let values = match (&scale, judgement.medians) {
        (Some(scale), Some(values)) => values.map(|v| scale.number(v)),
        _ => Default::default(),
    };
    let change = metric.zip(judgement.estimate.as_ref());
    let floor = metric.zip(judgement.floor.as_ref());
    let change = change.map_or_else(String::new, |(m, e)| words::change(m, e));
    let said = match judgement.verdict {
        Verdict::Pass => true,
        Verdict::Regression | Verdict::Improvement => judgement.reason.starts_with(&change),
        Verdict::Inconclusive | Verdict::Missing => false,
    };
    Line {
        verdict: words::verdict(judgement.verdict, judgement.role),
        case: judgement.title.clone(),
        metric: metric.map_or_else(String::new, head),
        values,
        change,
        floor: floor.map_or_else(String::new, |(m, f)| words::floor_size(m, f.size)),
        reason: judgement.reason.clone(),
        why: if said { String::new() } else { judgement.reason.clone() },
    }
}

/// What was left out of a judgement, in words; none where nothing was.
pub fn left_out(judgement: &Judgement) -> Option<String> {
    let left = &judgement.left_out;
    let parts = [
        (left.unpaired, "pair", "of which one trial is missing"),
        (
            left.baseline_unfit,
            "trial",
            "of the baseline that carried nothing or less than asked for",
        ),
        (
            left.candidate_unfit,
            "trial",
            "of the candidate that carried nothing or less than asked for",
        ),
        (left.no_value, "trial", "without a value to compare"),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(n, ..)| *n > 0)
        .map(|(n, one, what)| format!("{} {what}", counted(u64::from(n), one)))
        .collect();
    (!parts.is_empty()).then(|| format!("{}: left out {}", judgement.title, parts.join(", ")))
}

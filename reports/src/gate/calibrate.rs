//! From A/A runs to the floors of a host.
//!
//! Owns how noise becomes a floor. The runs are made by the command, the file is the model's.
//!
//! Both arms of an A/A run are the same, so its true change is none and every estimate is noise. The
//! floor is the larger of the largest estimate seen and of the bound that the next one stays within with
//! 99.5 %: the root mean square of the estimates times t with as many degrees of freedom as there were
//! runs (their mean is known). Of few runs t makes it large, as it should.

use super::evidence::Evidence;
use crate::stats::{
    Basis,
    clustered::{hodges_lehmann, t_quantile},
};
use cnibench_model::{
    CALIBRATION_VERSION, CalibratedFloor, Calibration, Fingerprint, Metric, Record,
};

/// Share of runs of nothing that stay within the floor on one side.
const WITHIN: f64 = 0.995;
/// Runs from which on there are floors.
pub const ENOUGH_RUNS: usize = 5;

/// Why records make no calibration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CalibrateError {
    /// Too few.
    #[error("{found} A/A runs make no floor: at least {ENOUGH_RUNS} are needed, 20 are better")]
    TooFew {
        /// How many there were.
        found: usize,
    },
    /// A run that compares two things.
    #[error("run {run} is no A/A run: {what}")]
    NotSame {
        /// The run.
        run: String,
        /// What it compares, or that it has no pairs.
        what: String,
    },
    /// Runs of several machines, or of one that was changed.
    #[error(
        "run {run} was made on another machine, or with other settings, than the first: {what}"
    )]
    Machines {
        /// The run.
        run: String,
        /// The fields that differ.
        what: String,
    },
    /// No case and metric was measured by every run.
    #[error("no metric of any case was measured by all {runs} runs")]
    Nothing {
        /// How many there were.
        runs: usize,
    },
}

/// Makes a calibration of A/A records of one machine: of every case and metric that all of them have.
///
/// # Errors
/// See [`CalibrateError`].
pub fn calibration(records: &[Record]) -> Result<Calibration, CalibrateError> {
    let too_few = CalibrateError::TooFew { found: records.len() };
    let Some(first) = records.first().filter(|_| records.len() >= ENOUGH_RUNS) else {
        return Err(too_few);
    };
    let host = Fingerprint::of(&first.header.environment);
    let (mut rebuilds, mut pairs) = (u32::MAX, u32::MAX);
    for record in records {
        let run = || record.header.run_id.clone();
        let not_same = |what: String| CalibrateError::NotSame { run: run(), what };
        let Some(pairing) = &record.header.pairing else {
            return Err(not_same("it has no pairs".to_owned()));
        };
        if pairing.baseline.first() != pairing.candidate.first() {
            let what = format!("it compares {} with {}", pairing.candidate, pairing.baseline);
            return Err(not_same(what));
        }
        let differences = host.differences(&Fingerprint::of(&record.header.environment));
        if !differences.is_empty() || record.header.clock != first.header.clock {
            let what: Vec<String> = differences.iter().map(ToString::to_string).collect();
            return Err(CalibrateError::Machines { run: run(), what: what.join("; ") });
        }
        (rebuilds, pairs) = (rebuilds.min(pairing.rebuilds), pairs.min(pairing.pairs));
    }
    let floors = floors(records);
    if floors.is_empty() {
        return Err(CalibrateError::Nothing { runs: records.len() });
    }
    let ends = records.iter().map(|r| r.finished.unwrap_or(r.header.started));
    Ok(Calibration {
        schema_version: CALIBRATION_VERSION,
        made: ends.max().unwrap_or(first.header.started),
        host,
        clock: first.header.clock,
        runs: records.len() as u32,
        rebuilds,
        pairs,
        floors,
    })
}

/// What one run says of one metric of one case.
struct Seen {
    estimate: f64,
    by_rebuild: Vec<f64>,
}

fn floors(records: &[Record]) -> Vec<CalibratedFloor> {
    let all: Vec<Evidence> = records.iter().map(Evidence::paired).collect();
    let mut out: Vec<CalibratedFloor> = Vec::new();
    // Several cnis may have been calibrated, each in runs of its own.
    for evidence in &all {
        for series in &evidence.series {
            let Some(case) = &series.sides.baseline else { continue };
            let cni = case.cni.first();
            let known = |f: &CalibratedFloor| {
                f.cni == cni && f.series == series.case && f.provider == series.provider
            };
            if out.iter().any(known) {
                continue;
            }
            let own = all.iter().zip(records).filter(|(_, r)| {
                r.header.pairing.as_ref().is_some_and(|p| p.baseline.first() == cni)
            });
            let own: Vec<&Evidence> = own.map(|(evidence, _)| evidence).collect();
            for metric in Metric::ALL {
                let seen = own.iter().map(|e| seen(e, &series.key, *metric));
                let seen: Option<Vec<Seen>> = seen.collect();
                let Some(seen) = seen.filter(|s| s.len() >= ENOUGH_RUNS) else { continue };
                let (floor, largest, deviation) = floor(*metric, &seen);
                out.push(CalibratedFloor {
                    provider: series.provider,
                    cni: cni.clone(),
                    series: series.case.clone(),
                    metric: *metric,
                    floor,
                    largest,
                    runs: seen.len() as u32,
                    rebuild_deviation: deviation,
                    rebuilds: seen.iter().map(|s| s.by_rebuild.len() as u32).sum(),
                });
            }
        }
    }
    out
}

/// None where there is nothing to estimate, or where a side was overloaded.
fn seen(evidence: &Evidence, series: &cnibench_model::SeriesKey, metric: Metric) -> Option<Seen> {
    let values = evidence.values(series, metric);
    let fit = values.unfit();
    let short = values.short.baseline + values.short.candidate;
    if short > 0 || fit.baseline + fit.candidate > 0.0 {
        return None;
    }
    let by_rebuild: Vec<f64> = values.changes.iter().filter_map(|c| hodges_lehmann(c)).collect();
    Some(Seen { estimate: hodges_lehmann(&values.changes.concat())?, by_rebuild })
}

/// Floor and largest change as sizes, and the deviation of rebuilds.
fn floor(metric: Metric, seen: &[Seen]) -> (f64, f64, f64) {
    let size = |change: f64| match crate::matrix::basis(metric) {
        Basis::Ratio => change.exp_m1(),
        Basis::Difference => change,
    };
    let root_mean_square = |values: &[f64]| {
        (values.iter().map(|v| v.powi(2)).sum::<f64>() / values.len().max(1) as f64).sqrt()
    };
    let estimates: Vec<f64> = seen.iter().map(|s| s.estimate).collect();
    let largest = estimates.iter().fold(0.0f64, |most, e| most.max(e.abs()));
    let bound = t_quantile(WITHIN, seen.len() as f64) * root_mean_square(&estimates);
    let rebuilds: Vec<f64> = seen.iter().flat_map(|s| s.by_rebuild.iter().copied()).collect();
    (size(bound.max(largest)), size(largest), root_mean_square(&rebuilds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::in_pairs;
    use cnibench_model::PairArm;

    /// A/A records: the candidate's values are the baseline's with these changes of each run.
    fn same(changes: &[f64]) -> Vec<Record> {
        let of = |(number, change): (usize, &f64)| {
            let mut record = in_pairs(3, 4, 1.0);
            record.header.run_id = format!("run{number}");
            let pairing = record.header.pairing.as_mut().unwrap();
            let cni = pairing.candidate.clone();
            for case in &mut record.header.cases {
                case.cni = if case.cni == cni { cni.second() } else { cni.clone() };
            }
            (pairing.baseline, pairing.candidate) = (cni.first(), cni.second());
            let mut baseline = Vec::new();
            for trial in &mut record.trials {
                let slot = trial.pair.unwrap();
                let factor = if slot.arm == PairArm::Candidate { change.exp() } else { 1.0 };
                trial.samples.iter_mut().for_each(|s| s.value = 100.0 * factor);
                baseline.push(slot);
            }
            record
        };
        changes.iter().enumerate().map(of).collect()
    }

    #[test]
    fn the_floor_is_the_bound_of_the_next_run_or_the_largest_seen() {
        let records = same(&[0.01, -0.01, 0.01, -0.01, 0.01, -0.01]);
        let made = calibration(&records).unwrap();
        let own = |metric| made.floors.iter().find(|f| f.metric == metric).unwrap();
        let p50 = own(Metric::LatencyP50);
        // t(6) of 0.995 is 3.7074.
        assert!((p50.floor.ln_1p() - 0.037_074).abs() < 1e-5, "{p50:?}");
        assert!((p50.largest.ln_1p() - 0.01).abs() < 1e-9);
        assert!((p50.rebuild_deviation - 0.01).abs() < 1e-9);
        assert_eq!((p50.runs, p50.rebuilds, made.rebuilds, made.pairs), (6, 18, 3, 4));
        assert_eq!(p50.cni.to_string(), "flannel-vxlan");
        // One run far out of many quiet ones.
        let mut changes = vec![0.0; 19];
        changes.push(0.2);
        let made = calibration(&same(&changes)).unwrap();
        let p50 = made.floors.iter().find(|f| f.metric == Metric::LatencyP50).unwrap();
        assert!((p50.floor.ln_1p() - 0.2).abs() < 1e-9, "{p50:?}");
        // And nothing at all.
        let made = calibration(&same(&[0.0; 5])).unwrap();
        assert!(made.floors.iter().all(|f| f.floor == 0.0 && f.rebuild_deviation == 0.0));
    }

    #[test]
    fn what_is_no_calibration_is_said() {
        let error = |records: &[Record]| calibration(records).unwrap_err().to_string();
        assert!(error(&same(&[0.0; 4])).starts_with("4 A/A runs make no floor"));
        let mut records = same(&[0.0; 5]);
        records[3].header.environment.kernel_release = "6.1".to_owned();
        assert!(error(&records).contains("run3 was made on another machine"));
        let mut records = same(&[0.0; 5]);
        records[2] = in_pairs(3, 4, 1.0);
        assert!(error(&records).contains("it compares flannel-vxlan with host"));
        records[2].header.pairing = None;
        assert!(error(&records).contains("it has no pairs"));
    }
}

//! What the gate judges: of every case both sides' trials, as far as they can be compared.
//!
//! Owns what is left out of a judgement and why. Judges nothing itself. Called by `judge`, by the
//! sequential rule while a run goes on, and by calibration.

use crate::{
    book::Row,
    matrix::basis,
    stats::{self, Basis},
};
use cnibench_model::{
    Case, CellStatus, Header, LeftOut, Metric, NodePair, PairArm, ProviderKind, Record, Sample,
    SeriesKey, Trial, Workload,
};
use std::collections::BTreeMap;

/// What of a trial's warnings says that the rate asked for was not carried. The generator writes it.
const SATURATED: &str = "rate not held: less than asked for";

/// A series that both sides may have.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// What tells it from the others: of two records the whole id of the case.
    pub key: SeriesKey,
    /// The case without its cni, which a policy speaks of.
    pub case: SeriesKey,
    pub title: String,
    pub workload: Workload,
    pub provider: ProviderKind,
    pub sides: Sides<Option<Case>>,
    /// Why a side has nothing to judge; of a case that was cut off what was finished is judged.
    pub ends: Sides<Option<String>>,
}

/// One value for the baseline and one for the candidate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sides<T> {
    pub baseline: T,
    pub candidate: T,
}

impl<T> Sides<T> {
    pub fn of(&self, arm: PairArm) -> &T {
        match arm {
            PairArm::Baseline => &self.baseline,
            PairArm::Candidate => &self.candidate,
        }
    }

    pub fn of_mut(&mut self, arm: PairArm) -> &mut T {
        match arm {
            PairArm::Baseline => &mut self.baseline,
            PairArm::Candidate => &mut self.candidate,
        }
    }
}

/// Both sides.
pub(crate) const ARMS: [PairArm; 2] = [PairArm::Baseline, PairArm::Candidate];

/// One trial, as the gate reads it.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    arm: PairArm,
    rebuild: u32,
    /// The pair, and of many pairs of nodes which.
    pair: (u32, Option<NodePair>),
    samples: Vec<Sample>,
    /// It carried nothing, or less than it was asked to: its other values are of another load.
    unfit: bool,
}

impl Reading {
    /// Of a trial of one arm. Of a trial without pairs its block stands for the pair.
    pub fn of(trial: &Trial, arm: PairArm) -> Self {
        let (rebuild, pair) = trial.pair.map_or((0, trial.block), |slot| (slot.rebuild, slot.pair));
        let main = crate::matrix::main_rate(trial.workload);
        let nothing = trial.value(main).is_some_and(|rate| rate <= 0.0);
        Self {
            arm,
            rebuild,
            pair: (pair, trial.nodes.clone()),
            samples: trial.samples.clone(),
            unfit: nothing || trial.warnings.iter().any(|w| w.starts_with(SATURATED)),
        }
    }

    fn value(&self, metric: Metric) -> Option<f64> {
        let found = self.samples.iter().find(|s| s.metric == metric);
        found.map(|s| s.value).filter(|v| v.is_finite())
    }
}

/// Both sides of every series, with what was read of each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Evidence {
    pub series: Vec<Series>,
    pub readings: BTreeMap<SeriesKey, Vec<Reading>>,
}

/// The values of one metric of one series, ready to be judged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Values {
    /// Changes of pairs by rebuild, on the scale on which they are estimated.
    pub changes: Vec<Vec<f64>>,
    /// Values of either side by rebuild, on the same scale, whether or not their pair is whole.
    pub sides: Sides<Vec<Vec<f64>>>,
    pub medians: Option<[f64; 2]>,
    pub left_out: LeftOut,
    /// Trials of either side.
    pub trials: Sides<usize>,
    /// Trials of either side that had too few transactions for a percentile: where they are many, those
    /// that have it are no sample.
    pub short: Sides<u32>,
}

impl Evidence {
    /// Of a run whose plan this is, before anything was measured.
    pub fn planned(header: &Header) -> Self {
        let mut out = Self::default();
        let Some(pairing) = &header.pairing else { return out };
        for case in &header.cases {
            let arm = match () {
                () if case.cni == pairing.baseline => PairArm::Baseline,
                () if case.cni == pairing.candidate => PairArm::Candidate,
                () => continue,
            };
            *out.entry(case).sides.of_mut(arm) = Some(case.clone());
        }
        out
    }

    /// Of a record of two arms in pairs.
    pub fn paired(record: &Record) -> Self {
        let mut out = Self::planned(&record.header);
        out.ends(record, &ARMS);
        for trial in &record.trials {
            out.add(trial);
        }
        out
    }

    /// Of two records: the cases that both have, or one of them.
    pub fn stored(baseline: &Record, candidate: &Record) -> Self {
        let mut out = Self::default();
        for (record, arm) in [(baseline, PairArm::Baseline), (candidate, PairArm::Candidate)] {
            for case in &record.header.cases {
                let series = out.entry_as(case, &SeriesKey(case.id.0.clone()));
                *series.sides.of_mut(arm) = Some(case.clone());
                if !series.title.starts_with(&case.cni.to_string()) {
                    series.title = format!("{}: {}", case.cni, series.title);
                }
            }
            out.ends(record, &[arm]);
            for trial in &record.trials {
                let key = SeriesKey(trial.case.0.clone());
                out.readings.entry(key).or_default().push(Reading::of(trial, arm));
            }
        }
        out
    }

    /// Takes in one more trial of a paired run.
    pub fn add(&mut self, trial: &Trial) {
        let Some(slot) = trial.pair else { return };
        let own = |s: &&Series| {
            ARMS.iter().any(|arm| s.sides.of(*arm).as_ref().is_some_and(|c| c.id == trial.case))
        };
        if let Some(series) = self.series.iter().find(own) {
            let readings = self.readings.entry(series.key.clone()).or_default();
            readings.push(Reading::of(trial, slot.arm));
        }
    }

    fn entry(&mut self, case: &Case) -> &mut Series {
        self.entry_as(case, &case.series())
    }

    fn entry_as(&mut self, case: &Case, key: &SeriesKey) -> &mut Series {
        let place = self.series.iter().position(|s| s.key == *key).unwrap_or_else(|| {
            self.series.push(Series {
                key: key.clone(),
                case: case.series(),
                title: title(case),
                workload: case.workload,
                provider: case.provider,
                sides: Sides::default(),
                ends: Sides::default(),
            });
            self.series.len() - 1
        });
        &mut self.series[place]
    }

    /// Reads from a record how its cases ended.
    fn ends(&mut self, record: &Record, arms: &[PairArm]) {
        for series in &mut self.series {
            for arm in arms {
                let Some(case) = series.sides.of(*arm) else { continue };
                let end = match record.cell(&case.id).map(|c| &c.status) {
                    Some(CellStatus::Failed { reason, .. }) => Some(format!("failed: {reason}")),
                    Some(CellStatus::Invalid { reason, .. }) => {
                        Some(format!("is invalid: {reason}"))
                    }
                    Some(CellStatus::Skipped { reason }) => Some(format!("was skipped: {reason}")),
                    Some(CellStatus::Measured | CellStatus::Interrupted { .. }) | None => None,
                };
                *series.ends.of_mut(*arm) = end;
            }
        }
    }

    /// The values of one metric of a series.
    pub fn values(&self, series: &SeriesKey, metric: Metric) -> Values {
        let none = Vec::new();
        let readings = self.readings.get(series).unwrap_or(&none);
        Values::of(readings, metric)
    }
}

/// "tcp_rr cross-node, streams=4".
fn title(case: &Case) -> String {
    Row {
        key: case.series(),
        workload: case.workload,
        placement: case.placement,
        params: case.params.clone(),
        surroundings: case.surroundings,
    }
    .title()
}

/// Values of latency percentiles are left out of trials with too few transactions.
fn is_percentile(metric: Metric) -> bool {
    matches!(
        metric,
        Metric::LatencyP50 | Metric::LatencyP90 | Metric::LatencyP99 | Metric::LatencyP999
    )
}

impl Values {
    fn of(readings: &[Reading], metric: Metric) -> Self {
        let mut out = Self::default();
        let scale = |value: f64| match basis(metric) {
            Basis::Ratio => (value > 0.0).then(|| value.ln()),
            Basis::Difference => Some(value),
        };
        let mut raw: Sides<Vec<f64>> = Sides::default();
        let mut scaled: Vec<(&Reading, f64)> = Vec::new();
        for reading in readings {
            *out.trials.of_mut(reading.arm) += 1;
            if reading.unfit {
                match reading.arm {
                    PairArm::Baseline => out.left_out.baseline_unfit += 1,
                    PairArm::Candidate => out.left_out.candidate_unfit += 1,
                }
                continue;
            }
            let value = reading.value(metric);
            if value.is_none()
                && is_percentile(metric)
                && reading.value(Metric::LatencyMax).is_some()
            {
                *out.short.of_mut(reading.arm) += 1;
            }
            let Some((value, on_scale)) = value.and_then(|v| Some((v, scale(v)?))) else {
                out.left_out.no_value += 1;
                continue;
            };
            raw.of_mut(reading.arm).push(value);
            scaled.push((reading, on_scale));
        }
        out.medians = match (stats::median(&raw.baseline), stats::median(&raw.candidate)) {
            (Some(b), Some(c)) => Some([b, c]),
            _ => None,
        };
        out.lay_out(&scaled);
        out
    }

    /// Puts values into their rebuilds and pairs.
    fn lay_out(&mut self, scaled: &[(&Reading, f64)]) {
        let mut rebuilds: Vec<u32> = scaled.iter().map(|(r, _)| r.rebuild).collect();
        rebuilds.sort_unstable();
        rebuilds.dedup();
        for rebuild in rebuilds {
            let mut pairs: BTreeMap<&(u32, Option<NodePair>), Sides<Vec<f64>>> = BTreeMap::new();
            let mut sides: Sides<Vec<f64>> = Sides::default();
            for (reading, value) in scaled.iter().filter(|(r, _)| r.rebuild == rebuild) {
                pairs.entry(&reading.pair).or_default().of_mut(reading.arm).push(*value);
                sides.of_mut(reading.arm).push(*value);
            }
            let change = |s: &Sides<Vec<f64>>| {
                Some(stats::median(&s.candidate)? - stats::median(&s.baseline)?)
            };
            let changes: Vec<f64> = pairs.values().filter_map(change).collect();
            self.left_out.unpaired += (pairs.len() - changes.len()) as u32;
            self.changes.push(changes);
            self.sides.baseline.push(sides.baseline);
            self.sides.candidate.push(sides.candidate);
        }
    }

    /// Shares of trials that did not carry what they should, of either side.
    pub fn unfit(&self) -> Sides<f64> {
        let left = &self.left_out;
        self.shares(Sides { baseline: left.baseline_unfit, candidate: left.candidate_unfit })
    }

    /// Shares of trials that had too few transactions for a percentile, of either side.
    pub fn too_short(&self) -> Sides<f64> {
        self.shares(self.short)
    }

    fn shares(&self, counts: Sides<u32>) -> Sides<f64> {
        let share = |count: u32, all: usize| match all {
            0 => 0.0,
            all => f64::from(count) / all as f64,
        };
        Sides {
            baseline: share(counts.baseline, self.trials.baseline),
            candidate: share(counts.candidate, self.trials.candidate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{in_pairs, set_status};

    fn p50(record: &Record) -> Values {
        let evidence = Evidence::paired(record);
        evidence.values(&SeriesKey("tcp_rr/cross-node".to_owned()), Metric::LatencyP50)
    }

    #[test]
    fn pairs_are_laid_out_by_rebuild() {
        let values = p50(&in_pairs(3, 6, 1.0));
        assert_eq!(values.changes.iter().map(Vec::len).collect::<Vec<_>>(), [6, 6, 6]);
        let all: Vec<f64> = values.changes.concat();
        assert!((stats::median(&all).unwrap() - 1.31f64.ln()).abs() < 0.02);
        assert_eq!(values.left_out, LeftOut::default());
        let [baseline, candidate] = values.medians.unwrap();
        assert!(candidate > baseline);
    }

    #[test]
    fn what_is_left_out_is_counted_by_its_reason() {
        let mut record = in_pairs(2, 6, 1.0);
        let at = |record: &Record, part: &str, block: u32| {
            let found = |t: &Trial| t.case.0.contains(part) && t.block == block;
            record.trials.iter().position(found).unwrap()
        };
        let lost = at(&record, "/host/", 0);
        record.trials.remove(lost);
        let saturated = at(&record, "/flannel-vxlan/", 1);
        record.trials[saturated].warnings.push(format!("{SATURATED} (saturated)"));
        let idle = at(&record, "/host/", 2);
        let rate = |s: &&mut Sample| s.metric == Metric::TransactionRate;
        record.trials[idle].samples.iter_mut().find(rate).unwrap().value = 0.0;
        let short = at(&record, "/host/", 3);
        record.trials[short].samples.retain(|s| s.metric != Metric::LatencyP50);
        let values = p50(&record);
        let expected = LeftOut { unpaired: 4, baseline_unfit: 1, candidate_unfit: 1, no_value: 1 };
        assert_eq!(values.left_out, expected);
        assert_eq!(values.short, Sides { baseline: 1, candidate: 0 });
        assert_eq!(values.changes.iter().map(Vec::len).collect::<Vec<_>>(), [2, 6]);
    }

    #[test]
    fn a_bad_end_is_kept_with_its_side() {
        let mut record = in_pairs(1, 3, 1.0);
        let failed = CellStatus::Failed { short: "x".to_owned(), reason: "no peer".to_owned() };
        set_status(&mut record, "/flannel-vxlan/", failed);
        let series = &Evidence::paired(&record).series[0];
        assert_eq!(series.ends.candidate.as_deref(), Some("failed: no peer"));
        assert_eq!(series.ends.baseline, None);
        assert_eq!(series.title, "tcp_rr cross-node");
    }

    #[test]
    fn two_records_meet_case_by_case() {
        let record = crate::fixtures::Builder::default().build();
        let evidence = Evidence::stored(&record, &record);
        assert_eq!(evidence.series.len(), record.header.cases.len());
        let key = SeriesKey(record.header.cases[1].id.0.clone());
        let values = evidence.values(&key, evidence_metric(&record));
        assert!(values.changes.concat().iter().all(|c| *c == 0.0));
        assert_eq!(values.sides.baseline.len(), 1);
    }

    fn evidence_metric(record: &Record) -> Metric {
        crate::matrix::principal(record.header.cases[1].workload, record.header.clock)[0]
    }
}

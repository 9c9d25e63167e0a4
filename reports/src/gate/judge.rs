//! Judges evidence by a policy: every case and metric, then everything together.
//!
//! Owns which metrics are judged, at which error rate, against which floor, and the order of reasons why
//! one cannot be. The statistics are `stats::clustered`'s, the rule is `rule`'s, the sentences `words`'.

use super::{
    evidence::{ARMS, Evidence, Series, Sides, Values},
    policy::{Between, Policy},
    rule::{Bounds, Judged, holm},
    words,
};
use crate::{
    matrix::{basis, principal, secondary},
    stats::{
        Basis,
        clustered::{self, Clustered, Prior, Resampling},
    },
};
use cnibench_model::{
    Calibration, CalibrationUse, Clock, CniSpec, Difference, EffectBasis, Estimate, Floor,
    FloorSource, GATE_VERSION, Gate, GateDesign, GateOutcome, Header, Judgement, LookAt, Metric,
    PairArm, Pairing, Role, Verdict, Workload,
};

/// Trials of a side from which on carrying less than asked for is judged instead of being left open.
const ENOUGH_UNFIT: usize = 10;
/// A share of trials that may be unfit without the others being no sample any more.
const UNFIT: f64 = 0.1;
/// More than this share of trials, beyond those of the other side, is a verdict.
const UNFIT_JUDGED: f64 = 0.5;
/// A calibration's pairs of a rebuild count for a run that has at least this share of them.
const LIKE_CALIBRATED: f64 = 0.7;

/// How far the changes of two boots are apart whose programs differ in nothing that is measured, on a
/// logarithmic scale. The same program repeats to the instruction, so that no run can show it by itself; any
/// change of a program draws the states of hash tables, schedulers and timers anew. Over 15 guests of
/// different seeds medians were 0.033 % (tcp_rr) and 0.039 % (tcp_crr) apart at most (scripts/prove-clock),
/// which is a deviation of 1.1e-4 for a boot and of 1.6e-4 for a change between two; rounded up.
const COUNTED_PRIOR: Prior =
    Prior { variance: COUNTED_DEVIATION * COUNTED_DEVIATION, degrees_of_freedom: 20.0 };
/// The same as a deviation.
const COUNTED_DEVIATION: f64 = 2e-4;

/// Everything about two sides that is not a trial.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub design: GateDesign,
    pub clock: Clock,
    pub baseline: Option<CniSpec>,
    pub candidate: Option<CniSpec>,
    pub runs: Vec<String>,
    pub pairs: u32,
    pub calibration: Option<Calibration>,
    pub calibration_use: CalibrationUse,
    pub advisory: Vec<String>,
    pub differences: Vec<Difference>,
    pub notes: Vec<String>,
    pub alpha: Option<f64>,
    pub look: Option<LookAt>,
}

impl Setting {
    /// Of a run in pairs with this plan. The calibration is used if it is this host's.
    pub fn of_pairs(header: &Header, calibration: Option<&Calibration>) -> Self {
        let pairing = header.pairing.as_ref();
        let mut setting = Self::bare(header, calibration);
        if pairing.is_some_and(|p| !p.adjacent) {
            setting.design = GateDesign::ApartPairs;
        }
        setting.baseline = pairing.map(|p| p.baseline.clone());
        setting.candidate = pairing.map(|p| p.candidate.clone());
        setting.pairs = pairing.map_or(0, |p| p.pairs);
        setting
    }

    /// Of a run that stands for the machine: clock, run id and whether the calibration is its own.
    pub fn bare(header: &Header, calibration: Option<&Calibration>) -> Self {
        let (calibration, calibration_use) = usable(header, calibration);
        Self {
            design: GateDesign::Pairs,
            clock: header.clock,
            baseline: None,
            candidate: None,
            runs: vec![header.run_id.clone()],
            pairs: 0,
            calibration,
            calibration_use,
            advisory: Vec::new(),
            differences: Vec::new(),
            notes: Vec::new(),
            alpha: None,
            look: None,
        }
    }

    /// The same when `done` rebuilds were measured and this much may be spent.
    pub fn at(mut self, pairing: &Pairing, done: u32, alpha: f64) -> Self {
        self.alpha = Some(alpha);
        let planned = pairing.looks.clone();
        let look = LookAt { planned, rebuilds: done, of: pairing.rebuilds, alpha };
        self.look = (!pairing.looks.is_empty()).then_some(look);
        self
    }

    /// Records of different times by a clock that the machine's mood moves.
    fn apart_in_time(&self) -> bool {
        self.design == GateDesign::Stored && self.clock == Clock::Wall
    }
}

fn usable(
    header: &Header,
    calibration: Option<&Calibration>,
) -> (Option<Calibration>, CalibrationUse) {
    let Some(own) = calibration else { return (None, CalibrationUse::None) };
    let mut differences = own.matches(&header.environment).err().unwrap_or_default();
    if own.clock != header.clock {
        differences.push(Difference {
            field: "clock".to_owned(),
            baseline: own.clock.name().to_owned(),
            candidate: header.clock.name().to_owned(),
        });
    }
    let made = own.made.to_string();
    match differences.is_empty() {
        true => (Some(own.clone()), CalibrationUse::Used { made, runs: own.runs }),
        false => (None, CalibrationUse::Stale { made, differences }),
    }
}

/// One metric of one series on its way to a verdict.
struct Draft<'a> {
    series: &'a Series,
    metric: Metric,
    role: Role,
    values: Values,
    floor: Floor,
    change: Option<Clustered>,
    alpha: f64,
}

/// Judges everything.
pub(crate) fn judge(evidence: &Evidence, policy: &Policy, setting: &Setting) -> Gate {
    let alpha = setting.alpha.unwrap_or(policy.alpha);
    let mut drafts: Vec<Draft<'_>> = Vec::new();
    for series in &evidence.series {
        let gating = policy.gating(series.workload, setting.clock);
        for metric in gating {
            drafts.push(draft(evidence, series, *metric, Role::Gates, policy, setting));
        }
        for metric in informing(series.workload, setting.clock).filter(|m| !gating.contains(m)) {
            let draft = draft(evidence, series, metric, Role::Informs, policy, setting);
            if draft.values.medians.is_some() && draft.missing().is_none() {
                drafts.push(draft);
            }
        }
    }
    let p_values = drafts.iter().filter(|d| d.role == Role::Gates).map(Draft::p_value);
    let rates = holm(&p_values.collect::<Vec<_>>(), alpha);
    let mut rates = rates.into_iter();
    for draft in &mut drafts {
        draft.alpha = match draft.role {
            Role::Gates => rates.next().unwrap_or(alpha),
            Role::Informs => alpha,
        };
    }
    let mut judgements: Vec<Judgement> =
        drafts.into_iter().map(|draft| draft.judged(policy, setting)).collect();
    judgements.sort_by_key(|j| j.role == Role::Informs);
    let mut notes = setting.notes.clone();
    require(evidence, policy, &mut judgements);
    notes.extend(useless_rules(evidence, policy));
    let outcome = outcome(&judgements, &mut notes);
    let advisory = setting.advisory.clone();
    let shown = match (advisory.is_empty(), outcome) {
        // Advice is never held against anybody; what it says is worth a look all the same.
        (false, GateOutcome::Regression) => GateOutcome::Inconclusive.exit_code(),
        _ => outcome.exit_code(),
    };
    Gate {
        schema_version: GATE_VERSION,
        outcome,
        exit_code: shown,
        advisory,
        design: setting.design,
        baseline: setting.baseline.clone(),
        candidate: setting.candidate.clone(),
        runs: setting.runs.clone(),
        clock: setting.clock,
        alpha: policy.alpha,
        resamples: policy.resamples,
        seed: policy.seed,
        look: setting.look.clone(),
        calibration: setting.calibration_use.clone(),
        differences: setting.differences.clone(),
        judgements,
        notes,
    }
}

/// Metrics that are reported where they were measured: those that stand beside the main one in every
/// table, and the cost of CPU.
fn informing(workload: Workload, clock: Clock) -> impl Iterator<Item = Metric> {
    let cpu = match workload.is_transactional() {
        true => Metric::CpuPerTransaction,
        false => Metric::CpuPerGigabit,
    };
    let first = principal(workload, clock)[0];
    let rest = secondary(workload).iter().copied();
    std::iter::once(first).chain(rest).chain(std::iter::once(cpu))
}

fn draft<'a>(
    evidence: &Evidence,
    series: &'a Series,
    metric: Metric,
    role: Role,
    policy: &Policy,
    setting: &Setting,
) -> Draft<'a> {
    let mut values = evidence.values(&series.key, metric);
    if setting.design == GateDesign::Stored && setting.clock == Clock::Wall {
        // Nothing was ever paired.
        values.left_out.unpaired = 0;
    }
    let apart = setting.apart_in_time();
    let between = match (setting.clock, apart) {
        (Clock::Instructions, _) => Between::Counts,
        (Clock::Wall, true) => Between::Times,
        (Clock::Wall, false) => Between::Pairs,
    };
    let minimum_effect = policy.min_effect(&series.case, metric, between);
    let cnis = series.cnis();
    let calibrated = setting.calibration.as_ref().zip(cnis).and_then(|(calibration, cnis)| {
        calibration.floor(series.provider, &series.case, metric, cnis)
    });
    let size = calibrated.map_or(minimum_effect, |c| c.floor.max(minimum_effect));
    let source = match () {
        () if size > minimum_effect => FloorSource::Calibrated,
        () if apart && minimum_effect > policy.min_effect(&series.case, metric, Between::Pairs) => {
            FloorSource::ApartInTime
        }
        () => FloorSource::MinimumEffect,
    };
    let floor = Floor { size, source, minimum_effect, calibrated: calibrated.map(|c| c.floor) };
    let how = Resampling { resamples: policy.resamples, seed: policy.seed };
    let counts = setting.clock == Clock::Instructions;
    let change = match setting.design {
        // Trials of a guest are one sequence: the same one of either side began in the same state.
        GateDesign::Stored if counts => {
            clustered::paired(&values.changes, Some(COUNTED_PRIOR), true, how)
        }
        GateDesign::Stored => {
            clustered::shift(&values.sides.candidate, &values.sides.baseline, how)
        }
        GateDesign::Pairs | GateDesign::ApartPairs => {
            let enough = setting
                .calibration
                .as_ref()
                .is_some_and(|c| f64::from(setting.pairs) >= LIKE_CALIBRATED * f64::from(c.pairs));
            let prior = calibrated.filter(|_| enough).map(|c| Prior {
                variance: c.rebuild_deviation.powi(2),
                degrees_of_freedom: f64::from(c.rebuilds),
            });
            let prior = prior.or(counts.then_some(COUNTED_PRIOR));
            clustered::paired(&values.changes, prior, counts, how)
        }
    };
    Draft { series, metric, role, values, floor, change, alpha: policy.alpha }
}

impl Series {
    fn cnis(&self) -> Option<[&CniSpec; 2]> {
        Some([&self.sides.baseline.as_ref()?.cni, &self.sides.candidate.as_ref()?.cni])
    }
}

impl Draft<'_> {
    fn p_value(&self) -> f64 {
        match (self.missing(), &self.change) {
            (None, Some(change)) => change.p_value(),
            _ => 1.0,
        }
    }

    /// Why there is nothing to judge.
    fn missing(&self) -> Option<String> {
        for arm in ARMS {
            let side = words::side(arm);
            if self.series.sides.of(arm).is_none() {
                return Some(format!("the {side} has no such case"));
            }
            if let Some(end) = self.series.ends.of(arm) {
                return Some(format!("the {side} {end}"));
            }
            if *self.values.trials.of(arm) == 0 {
                return Some(format!("no trial of the {side} was measured"));
            }
        }
        let short = self.values.too_short();
        if short.baseline.max(short.candidate) > UNFIT {
            let Sides { baseline, candidate } = self.values.short;
            return Some(format!(
                "too few transactions for {} in {baseline} trials of the baseline and {candidate} of the candidate: measure longer (--duration)",
                self.metric.label()
            ));
        }
        let fit = self.values.unfit();
        if self.change.is_none() && fit.baseline == 0.0 && fit.candidate == 0.0 {
            return Some(match self.values.medians {
                None => format!("no trial has a value of {} to compare", self.metric.label()),
                Some(_) => "no pair is whole".to_owned(),
            });
        }
        None
    }

    fn judged(self, policy: &Policy, setting: &Setting) -> Judgement {
        let bounds = Bounds {
            basis: basis(self.metric),
            direction: self.metric.direction(),
            floor: self.floor.size,
            allowed_improvement: policy.allowed_improvement(&self.series.case, self.metric),
        };
        let (verdict, reason) = match (self.missing(), self.overloaded()) {
            (Some(reason), _) => (Verdict::Missing, reason),
            (None, Some(found)) => found,
            (None, None) => self.by_rule(&bounds, setting),
        };
        // Values of a case that failed are no values of it.
        let there = verdict != Verdict::Missing;
        let change = self.change.as_ref().filter(|_| there);
        let estimate = change.map(|change| self.estimate(change));
        let id = |arm: PairArm| self.series.sides.of(arm).as_ref().map(|c| c.id.clone());
        Judgement {
            series: self.series.case.clone(),
            title: self.series.title.clone(),
            baseline: id(PairArm::Baseline),
            candidate: id(PairArm::Candidate),
            metric: Some(self.metric),
            role: self.role,
            verdict,
            reason,
            medians: self.values.medians.filter(|_| there),
            estimate,
            floor: Some(self.floor),
            left_out: self.values.left_out,
        }
    }

    fn by_rule(&self, bounds: &Bounds, setting: &Setting) -> (Verdict, String) {
        let Some(change) = &self.change else {
            return (Verdict::Missing, "no trial is left to compare".to_owned());
        };
        let interval = change.interval(self.alpha);
        let finding = bounds.judge(Judged { estimate: change.estimate, interval });
        let estimate = self.estimate(change);
        let reason = words::reason(finding, self.metric, &estimate, &self.floor, bounds, setting);
        (finding.verdict(), reason)
    }

    /// What trials that carried nothing, or less than was asked for, say by themselves.
    fn overloaded(&self) -> Option<(Verdict, String)> {
        let unfit = self.values.unfit();
        if unfit.baseline.max(unfit.candidate) <= UNFIT {
            return None;
        }
        let Sides { baseline, candidate } = self.values.trials;
        let left = &self.values.left_out;
        let counts = format!(
            "trials that carried nothing or less than they were asked to: {} of {candidate} of the candidate, {} of {baseline} of the baseline",
            left.candidate_unfit, left.baseline_unfit,
        );
        let enough = baseline.min(candidate) >= ENOUGH_UNFIT;
        Some(match unfit.candidate - unfit.baseline {
            more if more > UNFIT_JUDGED && enough => (Verdict::Regression, counts),
            more if more < -UNFIT_JUDGED && enough => (Verdict::Improvement, counts),
            _ => (Verdict::Inconclusive, format!("{counts}: the others are no sample of either")),
        })
    }

    fn estimate(&self, change: &Clustered) -> Estimate {
        let (basis, back): (EffectBasis, fn(f64) -> f64) = match basis(self.metric) {
            Basis::Ratio => (EffectBasis::Ratio, f64::exp),
            Basis::Difference => (EffectBasis::Difference, |v| v),
        };
        // Of very few clusters an end can lie beyond what a number holds: then there is none.
        let ends = change.interval(self.alpha).map(|(low, high)| (back(low), back(high)));
        let ends = ends.filter(|(low, high)| low.is_finite() && high.is_finite());
        Estimate {
            basis,
            size: back(change.estimate),
            low: ends.map(|e| e.0),
            high: ends.map(|e| e.1),
            confidence: 1.0 - self.alpha,
            standard_error: change.error.map(|e| e.0),
            degrees_of_freedom: change.error.map(|e| e.1),
            by_rebuild: change.by_cluster.iter().map(|c| c.map(back)).collect(),
            pairs: change.n as u32,
            rebuilds: change.clusters as u32,
        }
    }
}

/// Adds what the policy requires and nobody judged.
fn require(evidence: &Evidence, policy: &Policy, judgements: &mut Vec<Judgement>) {
    for pattern in &policy.required {
        if judgements.iter().any(|j| pattern.fits(&j.series) && j.metric.is_some()) {
            continue;
        }
        let there = evidence.series.iter().any(|s| pattern.fits(&s.case));
        judgements.push(Judgement {
            series: cnibench_model::SeriesKey(pattern.text().to_owned()),
            title: pattern.text().to_owned(),
            baseline: None,
            candidate: None,
            metric: None,
            role: Role::Gates,
            verdict: Verdict::Missing,
            reason: match there {
                true => "the policy requires it, and it has no metric that is judged".to_owned(),
                false => "the policy requires it, and neither side has such a case".to_owned(),
            },
            medians: None,
            estimate: None,
            floor: None,
            left_out: cnibench_model::LeftOut::default(),
        });
    }
}

/// Rules of the policy that no case fits: a mistyped one would be obeyed by nobody.
fn useless_rules(evidence: &Evidence, policy: &Policy) -> Vec<String> {
    let unused = policy
        .rules
        .iter()
        .filter(|rule| !evidence.series.iter().any(|s| rule.cases.fits(&s.case)));
    unused
        .map(|rule| {
            format!(
                "The rule of the policy's line {} for {:?} fits no case.",
                rule.line,
                rule.cases.text()
            )
        })
        .collect()
}

fn outcome(judgements: &[Judgement], notes: &mut Vec<String>) -> GateOutcome {
    let gating = || judgements.iter().filter(|j| j.role == Role::Gates).map(|j| j.verdict);
    if gating().next().is_none() {
        notes.push("Nothing gates: no case has a metric that the policy lets decide.".to_owned());
        return GateOutcome::Inconclusive;
    }
    if gating().any(|v| v == Verdict::Regression) {
        return GateOutcome::Regression;
    }
    match gating().any(|v| matches!(v, Verdict::Inconclusive | Verdict::Missing)) {
        true => GateOutcome::Inconclusive,
        false => GateOutcome::Pass,
    }
}

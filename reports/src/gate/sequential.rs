//! Looking while a run goes on: when the answer is clear, and what every look costs.
//!
//! Owns the schedule of looks and how the error rate is spread over them; the verdicts are `judge`'s.
//! Called by the runner after every rebuild, and by the gate to know at which rate to judge at the end.
//!
//! Looking again and again and stopping when a regression shows would find one in unchanged code far more
//! often than promised. So every look has a share of the error rate of its own, given by the spending
//! function of Lan and DeMets ("Discrete sequential boundaries for clinical trials", 1983) of the shape
//! of O'Brien and Fleming: next to nothing early, nearly all at the end. Its increments are used as a
//! union bound: each look's intervals miss the truth with a chance of its own increment at most, so all
//! of them together with `alpha` at most, however the looks depend on each other and whatever made the
//! run stop (repeated confidence intervals: Jennison & Turnbull, "Interim analyses: the repeated
//! confidence interval approach", 1989). That is stricter than boundaries made for normal statistics,
//! which three rebuilds with a t of two degrees of freedom are far from. Looks are few, since the gap
//! before the last one is what it can spend.

use super::{
    evidence::Evidence,
    judge::{Setting, judge},
    policy::Policy,
};
use cnibench_model::{Calibration, Gate, GateOutcome, Header, Pairing, Trial, Verdict};
use statrs::distribution::{ContinuousCDF, Normal};

/// Rebuilds before which nothing is looked at: fewer say next to nothing of how far rebuilds are apart.
const EARLIEST: u32 = 3;
/// Shares of the planned rebuilds after which there is a look.
const SHARES: [f64; 4] = [0.3, 0.5, 0.7, 1.0];

/// Rebuilds after which to look, of so many planned: ascending, the last is all of them.
pub fn looks(rebuilds: u32) -> Vec<u32> {
    let at = |share: f64| (f64::from(rebuilds) * share).ceil() as u32;
    let mut looks: Vec<u32> = SHARES.iter().map(|s| at(*s).max(EARLIEST)).collect();
    looks.retain(|look| *look < rebuilds);
    // One rebuild before the last would spend most of what the last could, and save a rebuild.
    looks.retain(|look| look + 1 < rebuilds);
    looks.dedup();
    looks.push(rebuilds);
    looks
}

/// What was spent when this share (0 to 1) of the information is in: `2 - 2 Phi(z / sqrt(t))`, where z
/// is the normal quantile of `1 - alpha / 2`.
pub fn spent(alpha: f64, information: f64) -> f64 {
    if information <= 0.0 {
        return 0.0;
    }
    let normal = Normal::standard();
    let z = normal.inverse_cdf(1.0 - alpha / 2.0);
    2.0 - 2.0 * normal.cdf(z / information.min(1.0).sqrt())
}

/// The error rate at which to judge when `done` rebuilds of a plan were measured: at a look its
/// increment, else (the run was cut off, by whatever has nothing to do with what it showed) all that
/// the looks before have left. Without looks all of `alpha`.
pub fn alpha_at(pairing: &Pairing, done: u32, alpha: f64) -> f64 {
    let information = |rebuilds: u32| f64::from(rebuilds) / f64::from(pairing.rebuilds.max(1));
    // Looks before the last were chances to stop; the last is none.
    let early = pairing.looks.iter().filter(|look| **look < pairing.rebuilds);
    let before = early.clone().filter(|look| **look < done).max();
    let left = |last: Option<&u32>| alpha - last.map_or(0.0, |l| spent(alpha, information(*l)));
    match early.clone().any(|look| *look == done) {
        true => {
            spent(alpha, information(done)) - before.map_or(0.0, |l| spent(alpha, information(*l)))
        }
        false => left(before),
    }
}

/// What a run should do after a look.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Measure on; it was no look, or the answer is not clear.
    Continue,
    /// Stop: the answer is clear.
    Stop(Clear),
}

/// Why a run can stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clear {
    /// A metric that gates is a regression: nothing that follows can make it a pass.
    Regression {
        /// Case and metric, for people.
        what: String,
    },
    /// Of every metric that gates there is an answer.
    Everything,
}

/// What a run has shown so far, for the one question whether to go on. Keeps samples, not trials.
#[derive(Debug, Clone)]
pub struct Watch {
    pairing: Option<Pairing>,
    evidence: Evidence,
    policy: Policy,
    setting: Setting,
}

impl Watch {
    /// Of a run with this plan; looks are those of its [`Pairing::looks`]. A calibration that is not
    /// this host's is not used.
    pub fn new(header: &Header, policy: Policy, calibration: Option<Calibration>) -> Self {
        Self {
            pairing: header.pairing.clone(),
            evidence: Evidence::planned(header),
            setting: Setting::of_pairs(header, calibration.as_ref()),
            policy,
        }
    }

    /// Takes in a trial that was measured.
    pub fn add(&mut self, trial: &Trial) {
        self.evidence.add(trial);
    }

    /// Is the answer clear after `done` rebuilds? Pure: asking twice is asking once.
    pub fn look(&self, done: u32) -> Next {
        let Some(pairing) = &self.pairing else { return Next::Continue };
        if done >= pairing.rebuilds || !pairing.looks.contains(&done) {
            return Next::Continue;
        }
        let judged = self.judge_at(pairing, done);
        let regression = judged.gating().find(|j| j.verdict == Verdict::Regression);
        if let Some(found) = regression {
            let metric = found.metric.map_or_else(String::new, |m| format!(", {}", m.label()));
            return Next::Stop(Clear::Regression { what: format!("{}{metric}", found.title) });
        }
        match judged.outcome {
            GateOutcome::Pass => Next::Stop(Clear::Everything),
            GateOutcome::Regression | GateOutcome::Inconclusive => Next::Continue,
        }
    }

    /// What the gate would say if the run ended after `done` rebuilds.
    pub fn gate(&self, done: u32) -> Option<Gate> {
        self.pairing.as_ref().map(|pairing| self.judge_at(pairing, done))
    }

    fn judge_at(&self, pairing: &Pairing, done: u32) -> Gate {
        let alpha = alpha_at(pairing, done, self.policy.alpha);
        judge(&self.evidence, &self.policy, &self.setting.clone().at(pairing, done, alpha))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::in_pairs;
    use cnibench_model::Record;

    fn pairing(rebuilds: u32, looks: Vec<u32>) -> Pairing {
        let mut pairing = in_pairs(1, 1, 1.0).header.pairing.unwrap();
        (pairing.rebuilds, pairing.looks) = (rebuilds, looks);
        pairing
    }

    #[test]
    fn few_rebuilds_have_one_look_and_many_have_four() {
        assert_eq!(looks(1), [1]);
        assert_eq!(looks(3), [3]);
        assert_eq!(looks(5), [3, 5]);
        assert_eq!(looks(10), [3, 5, 7, 10]);
        assert_eq!(looks(30), [9, 15, 21, 30]);
    }

    #[test]
    fn the_spending_function_by_hand() {
        // 1.95996 / sqrt(0.4) = 3.0990, beyond which lie 2 * 0.00097 of a normal distribution.
        assert!(spent(0.05, 0.2) < 2e-5);
        assert!((spent(0.05, 0.4) - 0.00194).abs() < 2e-5, "{}", spent(0.05, 0.4));
        assert!((spent(0.05, 1.0) - 0.05).abs() < 1e-9);
        assert_eq!(spent(0.05, 0.0), 0.0);
    }

    #[test]
    fn all_looks_together_spend_alpha_and_no_more() {
        for rebuilds in [3, 5, 6, 10, 17, 30] {
            let plan = pairing(rebuilds, looks(rebuilds));
            let all: f64 = plan.looks.iter().map(|l| alpha_at(&plan, *l, 0.02)).sum();
            assert!((all - 0.02).abs() < 1e-9, "{rebuilds}: {all}");
        }
        let plan = pairing(10, looks(10));
        // Cut off after six: what the looks after three and five left.
        let left = 0.02 - spent(0.02, 0.5);
        assert!((alpha_at(&plan, 6, 0.02) - left).abs() < 1e-12);
        assert_eq!(alpha_at(&pairing(10, Vec::new()), 4, 0.02), 0.02);
    }

    /// Looks at a record as the run would have.
    fn watched(record: &Record) -> Vec<Next> {
        let mut watch = Watch::new(&record.header, Policy::default(), None);
        let rebuilds = record.header.pairing.as_ref().unwrap().rebuilds;
        (1..=rebuilds)
            .map(|done| {
                let own = |t: &&Trial| t.pair.is_some_and(|p| p.rebuild + 1 == done);
                record.trials.iter().filter(own).for_each(|t| watch.add(t));
                watch.look(done)
            })
            .collect()
    }

    #[test]
    fn a_run_stops_at_a_look_where_the_answer_is_clear_and_nowhere_else() {
        let mut record = in_pairs(10, 5, 1.0);
        record.header.pairing.as_mut().unwrap().looks = looks(10);
        let next = watched(&record);
        let stops: Vec<usize> = (1..=10).filter(|n| matches!(next[n - 1], Next::Stop(_))).collect();
        // 31 % slower: seen at the second look at the latest; no word after rebuilds without a look.
        assert!(stops.contains(&5) && stops.contains(&7), "{next:?}");
        assert!(stops.iter().all(|n| [3, 5, 7].contains(n)), "{next:?}");
        let Next::Stop(Clear::Regression { what }) = &next[4] else { panic!("{next:?}") };
        assert_eq!(what, "tcp_rr cross-node, latency p50");
        record.header.pairing.as_mut().unwrap().looks = Vec::new();
        assert!(watched(&record).iter().all(|n| *n == Next::Continue));
    }
}

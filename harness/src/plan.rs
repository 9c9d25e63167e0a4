//! The plan: every case of a run and the order of its trials.
//!
//! Pure. Trials of one series run next to each other for all cnis, in random order (a block), so
//! that a machine that drifts, drifts for all of them; rounds are outermost for the same reason.

use cnibench_model::{Case, SeriesKey};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::time::Duration;

/// Time of one trial beyond warm-up and window: both agents' handshake and the CPU snapshots.
/// Measured: 15-60 ms.
const TRIAL_OVERHEAD_S: f64 = 0.05;
/// Time to bring one cni up, prove it and take it down again. Measured on two nodes with two pods each.
const CNI_OVERHEAD_S: f64 = 1.5;
/// Time of the report.
const REPORT_S: f64 = 3.0;

/// How trials of different cnis are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TrialOrder {
    /// All cnis up at once, adjacent trials in random order.
    Interleaved,
    /// Every trial of one cni before the next cni. Drift of the machine then looks like a difference.
    ByCni,
}

/// One trial to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Scheduled {
    /// Index into [`Plan::cases`].
    pub case: usize,
    /// Trial number of that case, from 0.
    pub index: u32,
    /// Adjacent trials of one series share it.
    pub block: u32,
}

/// Every case and the order of its trials.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The cases, as expanded.
    pub cases: Vec<Case>,
    /// The trials, in the order in which they run.
    pub schedule: Vec<Scheduled>,
    /// Seed of the order.
    pub seed: u64,
    /// How it was ordered.
    pub order: TrialOrder,
}

impl Plan {
    /// Orders the trials of these cases.
    pub fn new(cases: Vec<Case>, order: TrialOrder, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let series = group(&cases, Case::series);
        let rounds = cases.iter().map(|c| c.trials).max().unwrap_or(0);
        let mut schedule = Vec::new();
        match order {
            TrialOrder::Interleaved => {
                for round in 0..rounds {
                    let mut order: Vec<&Vec<usize>> = series.iter().collect();
                    order.shuffle(&mut rng);
                    for members in order {
                        let mut due: Vec<usize> =
                            members.iter().copied().filter(|&c| cases[c].trials > round).collect();
                        due.shuffle(&mut rng);
                        schedule.extend(due.into_iter().map(|case| Scheduled {
                            case,
                            index: round,
                            block: round,
                        }));
                    }
                }
            }
            TrialOrder::ByCni => {
                for members in group(&cases, |c| c.cni.clone()) {
                    for round in 0..rounds {
                        let due = members.iter().copied().filter(|&c| cases[c].trials > round);
                        schedule.extend(due.map(|case| Scheduled {
                            case,
                            index: round,
                            block: round,
                        }));
                    }
                }
            }
        }
        Self { cases, schedule, seed, order }
    }

    /// How long the whole run will take, set-up and report included.
    pub fn estimate(&self) -> Duration {
        let trials: f64 = self.schedule.iter().map(|s| Self::trial_s(&self.cases[s.case])).sum();
        let cnis = group(&self.cases, |c| c.cni.clone()).len() as f64;
        Duration::from_secs_f64(trials + cnis * CNI_OVERHEAD_S + REPORT_S)
    }

    /// Seconds that one trial of a case takes.
    pub fn trial_s(case: &Case) -> f64 {
        case.duration_s + case.warmup_s + TRIAL_OVERHEAD_S
    }

    /// The series of the plan, in order.
    pub fn series(&self) -> Vec<SeriesKey> {
        group(&self.cases, Case::series).iter().map(|m| self.cases[m[0]].series()).collect()
    }
}

/// Indices of cases with equal keys, groups in order of first appearance.
fn group<K: std::hash::Hash + Eq>(cases: &[Case], key: impl Fn(&Case) -> K) -> Vec<Vec<usize>> {
    let mut at = std::collections::HashMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let slot = *at.entry(key(case)).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[slot].push(index);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnibench_model::{CniSpec, ProviderKind};
    use cnibench_scenarios::{catalog, expand};
    use std::collections::{BTreeMap, HashSet};

    fn plan(order: TrialOrder, seed: u64) -> Plan {
        let cnis: Vec<_> = ["host", "a", "b"].map(CniSpec::named).into();
        let suite = catalog::by_name("quick").unwrap();
        Plan::new(expand(&suite, ProviderKind::Netns, &cnis), order, seed)
    }

    #[test]
    fn every_trial_once_in_either_order() {
        for order in [TrialOrder::Interleaved, TrialOrder::ByCni] {
            let plan = plan(order, 7);
            let unique: HashSet<_> = plan.schedule.iter().map(|s| (s.case, s.index)).collect();
            assert_eq!(unique.len(), plan.schedule.len());
            assert_eq!(plan.schedule.len(), 3 * 5 * 5);
        }
    }

    #[test]
    fn trials_of_a_block_are_adjacent_and_in_changing_order() {
        let plan = plan(TrialOrder::Interleaved, 7);
        let mut first = BTreeMap::new();
        for block in plan.schedule.chunks(3) {
            let series: HashSet<_> = block.iter().map(|s| plan.cases[s.case].series()).collect();
            let cnis: HashSet<_> = block.iter().map(|s| plan.cases[s.case].cni.clone()).collect();
            assert_eq!((series.len(), cnis.len()), (1, 3));
            *first.entry(plan.cases[block[0].case].cni.clone()).or_insert(0) += 1;
        }
        assert_eq!(first.len(), 3, "every cni is first in some block: {first:?}");
    }

    #[test]
    fn the_seed_decides_the_order() {
        assert_eq!(plan(TrialOrder::Interleaved, 1), plan(TrialOrder::Interleaved, 1));
        assert_ne!(
            plan(TrialOrder::Interleaved, 1).schedule,
            plan(TrialOrder::Interleaved, 2).schedule
        );
    }

    #[test]
    fn by_cni_ends_one_before_the_next() {
        let plan = plan(TrialOrder::ByCni, 7);
        let mut cnis: Vec<_> = plan.schedule.iter().map(|s| &plan.cases[s.case].cni).collect();
        cnis.dedup();
        assert_eq!(cnis.len(), 3);
    }
}

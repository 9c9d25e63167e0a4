//! The plan: every case of a run and the order of its trials.
//!
//! Pure. Trials of one series run next to each other for all cnis that are up, in random order (a
//! block), so that a machine that drifts, drifts for all of them; rounds are outermost for the same
//! reason. Two arms of `ab` are ordered in pairs instead.

mod order;
mod pairs;
pub mod tournament;

use crate::runner::{cliffs::USUAL_SIZES, ladders::USUAL_RUNGS};
use cnibench_model::{Case, CaseId, CniSpec, PairSlot, Pairing, SeriesKey};
use serde::Serialize;
use std::{collections::HashSet, time::Duration};
pub use tournament::Matrix;

/// Time of one trial beyond warm-up and window: both agents' handshake and the CPU snapshots.
/// Measured: 15-60 ms.
const TRIAL_OVERHEAD_S: f64 = 0.05;
/// Time of the report.
pub const REPORT_S: f64 = 3.0;
/// Time to bring a cluster to another state (policies, services, Hubble).
const STATE_S: f64 = 20.0;

/// Time to attach the probes and to read them. Measured: 0.2-0.5 s.
const PROBES_S: f64 = 0.4;

/// How trials of different cnis are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TrialOrder {
    /// All cnis up at once, adjacent trials in random order.
    Interleaved,
    /// Every trial of one cni before the next cni. Drift of the machine then looks like a difference.
    ByCni,
}

/// How the trials of a run are arranged.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrangement {
    /// How trials of different cnis are ordered.
    pub order: TrialOrder,
    /// Clusters up at a time when trials are interleaved; none: all.
    pub at_once: Option<usize>,
    /// True where the baseline `host` is measured in every other cni's cluster, adjacent to it.
    pub host_rides: bool,
    /// How often every cluster is made anew and measured again, in turn forwards and backwards.
    pub rebuilds: u32,
    /// The node-pair matrix instead of one pair of nodes.
    pub matrix: Option<Matrix>,
    /// Two arms in pairs instead of cnis in rounds: then `rebuilds` and `matrix` are not looked at.
    pub pairs: Option<Pairs>,
    /// Seconds to bring one cni up, prove it and take it down again.
    pub setup_s: f64,
}

impl Arrangement {
    /// All cnis up at once, or one after the other; each on one pair of nodes.
    pub fn simple(order: TrialOrder) -> Self {
        Self {
            order,
            at_once: None,
            host_rides: false,
            rebuilds: 1,
            matrix: None,
            pairs: None,
            setup_s: 1.5,
        }
    }
}

/// Two arms that are to be measured in pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairs {
    /// What is compared with.
    pub baseline: CniSpec,
    /// What is compared; another spec than the baseline.
    pub candidate: CniSpec,
    /// How often the clusters are made.
    pub rebuilds: u32,
    /// Pairs of every series in each rebuild.
    pub pairs: u32,
    /// Rebuilds after which it is looked whether the answer is clear (see [`Pairing::looks`]).
    pub looks: Vec<u32>,
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
    /// Index into [`Plan::groups`]: the clusters that are up.
    pub group: usize,
    /// Trials with the same number run at the same time.
    pub batch: u32,
    /// The nodes of client and server by number, in the node-pair matrix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pair: Option<tournament::Pair>,
    /// Its place among the pairs of its series, where two arms are measured in pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm: Option<PairSlot>,
}

/// Every case and the order of its trials.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The cases, as expanded, with the trials that are planned of each.
    pub cases: Vec<Case>,
    /// Cnis whose clusters are up at the same time, one group after the other.
    pub groups: Vec<Vec<CniSpec>>,
    /// The trials, in the order in which they run.
    pub schedule: Vec<Scheduled>,
    /// Seed of the order.
    pub seed: u64,
    /// True when the trials of all cnis are interleaved, in random order.
    pub interleaved: bool,
    /// True where the baseline is measured in every other cni's cluster.
    pub host_rides: bool,
    /// Pairs of trials with and without latency probes for each case that has round trips, after the
    /// measured ones; none: nothing is probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe_pairs: Option<u32>,
    /// Cases whose ladder of offered rates is climbed after their trials.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ladders: Vec<CaseId>,
    /// Cases whose payload sizes are searched after their trials.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cliffs: Vec<CaseId>,
    /// Cases with timelines of changes of keys after their trials, and how many changes each has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rotations: Vec<(CaseId, u32)>,
    /// The two arms, where they are measured in pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairing: Option<Pairing>,
    #[serde(skip)]
    setup_s: f64,
}

impl Plan {
    /// Orders the trials of these cases.
    pub fn new(mut cases: Vec<Case>, arrangement: &Arrangement, seed: u64) -> Self {
        if let Some(asked) = &arrangement.pairs {
            let ordered = pairs::order(&mut cases, asked, arrangement, seed);
            return Self {
                interleaved: ordered.pairing.adjacent,
                host_rides: ordered.host_rides,
                groups: ordered.groups,
                schedule: ordered.schedule,
                pairing: Some(ordered.pairing),
                cases,
                seed,
                probe_pairs: None,
                ladders: Vec::new(),
                cliffs: Vec::new(),
                rotations: Vec::new(),
                setup_s: arrangement.setup_s,
            };
        }
        let groups = order::groups(&cases, arrangement);
        let schedule = order::schedule(&mut cases, &groups, arrangement, seed);
        Self {
            interleaved: arrangement.order == TrialOrder::Interleaved && groups.len() <= 1,
            host_rides: arrangement.host_rides,
            pairing: None,
            cases,
            groups,
            schedule,
            seed,
            probe_pairs: None,
            ladders: Vec::new(),
            cliffs: Vec::new(),
            rotations: Vec::new(),
            setup_s: arrangement.setup_s,
        }
    }

    /// Trials that run at the same time, in order.
    pub fn batches(&self) -> impl Iterator<Item = &[Scheduled]> {
        self.schedule.chunk_by(|a, b| a.batch == b.batch)
    }

    /// Nodes of the node-pair matrix by number, in the order in which they are used; empty where one pair
    /// of nodes is measured.
    pub fn nodes(&self) -> Vec<u32> {
        let mut seen = HashSet::new();
        let used = self.schedule.iter().filter_map(|s| s.pair).flat_map(|(a, b)| [a, b]);
        used.filter(|node| seen.insert(*node)).collect()
    }

    /// How long the whole run will take, set-up and report included.
    pub fn estimate(&self) -> Duration {
        let trials: f64 = self.batches().map(|b| Self::trial_s(&self.cases[b[0].case])).sum();
        let clusters = self.groups.iter().map(Vec::len).sum::<usize>() as f64;
        let states = order::changes_state(&self.cases) as f64 * clusters * STATE_S;
        let probed: f64 = self
            .cases
            .iter()
            .filter(|c| crate::probe::refuses(c).is_none())
            .map(|c| 2.0 * Self::trial_s(c) + PROBES_S)
            .sum();
        let probed = probed * f64::from(self.probe_pairs.unwrap_or(0));
        let climbing = self.cases.iter().filter(|c| self.ladders.contains(&c.id));
        let climbed: f64 =
            climbing.map(|c| USUAL_RUNGS * f64::from(c.trials) * Self::trial_s(c)).sum();
        let searching = self.cases.iter().filter(|c| self.cliffs.contains(&c.id));
        let searched: f64 =
            searching.map(|c| USUAL_SIZES * f64::from(c.trials) * Self::trial_s(c)).sum();
        let turning =
            self.cases.iter().filter(|c| self.rotations.iter().any(|(id, _)| *id == c.id));
        let turned: f64 = turning.map(|c| f64::from(c.trials) * Self::trial_s(c)).sum();
        Duration::from_secs_f64(
            trials
                + climbed
                + searched
                + turned
                + probed
                + states
                + clusters * self.setup_s
                + REPORT_S,
        )
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
    use std::collections::BTreeMap;

    fn plan(order: TrialOrder, seed: u64) -> Plan {
        let cnis: Vec<_> = ["host", "a", "b"].map(CniSpec::named).into();
        let suite = catalog::by_name("quick").unwrap();
        Plan::new(expand(&suite, ProviderKind::Netns, &cnis), &Arrangement::simple(order), seed)
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

    fn kubernetes(at_once: usize, suite: &str) -> Plan {
        let cnis: Vec<_> = ["host", "a", "b"].map(CniSpec::named).into();
        let suite = catalog::by_name(suite).unwrap();
        let arrangement = Arrangement {
            at_once: Some(at_once),
            host_rides: true,
            ..Arrangement::simple(TrialOrder::Interleaved)
        };
        Plan::new(expand(&suite, ProviderKind::Kind, &cnis), &arrangement, 7)
    }

    #[test]
    fn a_baseline_that_rides_along_is_measured_next_to_every_cni() {
        let plan = kubernetes(1, "quick");
        assert_eq!(plan.groups, [[CniSpec::named("a")], [CniSpec::named("b")]]);
        assert!(!plan.interleaved);
        for block in plan.schedule.chunks(2) {
            let cnis: HashSet<_> = block.iter().map(|s| &plan.cases[s.case].cni.name).collect();
            assert!(cnis.contains(&"host".to_owned()) && cnis.len() == 2);
            assert_eq!(block[0].block, block[1].block);
        }
        let unique: HashSet<_> = plan.schedule.iter().map(|s| (s.case, s.index)).collect();
        assert_eq!(unique.len(), plan.schedule.len());
        let host = plan.cases.iter().find(|c| c.cni.name == "host").unwrap();
        assert_eq!(host.trials, 10, "five in each of two clusters");
        assert_eq!(kubernetes(2, "quick").groups.len(), 1);
    }

    #[test]
    fn clusters_are_rebuilt_forwards_and_backwards() {
        let cnis: Vec<_> = ["host", "a", "b"].map(CniSpec::named).into();
        let cases = expand(&catalog::by_name("quick").unwrap(), ProviderKind::Kind, &cnis);
        let arrangement = Arrangement {
            at_once: Some(1),
            host_rides: true,
            rebuilds: 2,
            ..Arrangement::simple(TrialOrder::Interleaved)
        };
        let plan = Plan::new(cases, &arrangement, 7);
        let order: Vec<_> = plan.groups.iter().map(|g| g[0].name.as_str()).collect();
        assert_eq!(order, ["a", "b", "b", "a"]);
        for case in &plan.cases {
            let indices: HashSet<_> = plan
                .schedule
                .iter()
                .filter(|s| plan.cases[s.case].id == case.id)
                .map(|s| s.index)
                .collect();
            let expected = if case.cni.name == "host" { 20 } else { 10 };
            assert_eq!((indices.len(), case.trials), (expected, expected as u32), "{}", case.id);
        }
    }

    #[test]
    fn a_thousand_nodes_are_planned_in_the_fewest_rounds() {
        let cnis = [CniSpec::named("host"), CniSpec::named("installed")];
        let mut suite = catalog::by_name("smoke").unwrap();
        suite
            .scenarios
            .iter_mut()
            .for_each(|s| s.workloads = vec![cnibench_model::Workload::TcpRr]);
        let arrangement = Arrangement {
            matrix: Some(Matrix { nodes: 1000, pairs: None, at_once: 500 }),
            host_rides: true,
            ..Arrangement::simple(TrialOrder::Interleaved)
        };
        let cases = expand(&suite, ProviderKind::Kubeconfig, &cnis);
        let plan = Plan::new(cases, &arrangement, 7);
        assert_eq!(plan.schedule.len(), 2 * 499_500);
        assert_eq!(plan.batches().count(), 2 * 999);
        for batch in plan.batches().take(4) {
            let nodes: HashSet<_> =
                batch.iter().flat_map(|s| s.pair.map(|(a, b)| [a, b])).flatten().collect();
            assert_eq!(nodes.len(), 1000);
        }
    }
}

//! The order of two arms in pairs: rebuilds of both clusters, in each the pairs of every series. Pure.
//!
//! Within a rebuild and series every pair is baseline-candidate or candidate-baseline, at random and as
//! often the one as the other: an arm that always came first would carry what coming first costs.

use super::{
    Arrangement, Pairs, Scheduled,
    order::{HOST, group_of},
};
use cnibench_model::{Case, CniSpec, PairArm, PairOrder, PairSlot, Pairing, SeriesKey};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;

/// Both arms in order.
pub(super) struct Ordered {
    /// Clusters that are up at the same time, one group after the other.
    pub groups: Vec<Vec<CniSpec>>,
    /// The trials.
    pub schedule: Vec<Scheduled>,
    /// What was planned, for the record.
    pub pairing: Pairing,
    /// True where one arm is the baseline `host`, measured in the other one's cluster.
    pub host_rides: bool,
}

/// Orders the trials of two arms; the trials of `cases` become what is planned.
pub(super) fn order(
    cases: &mut [Case],
    asked: &Pairs,
    arrangement: &Arrangement,
    seed: u64,
) -> Ordered {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let Pairs { baseline, candidate, rebuilds, pairs, looks } = asked.clone();
    let hosts = [&baseline, &candidate].map(|c| c.name == HOST);
    let host_rides = arrangement.host_rides && hosts[0] != hosts[1];
    let adjacent = host_rides || arrangement.at_once.is_none_or(|n| n >= 2);
    let pairing = Pairing { baseline, candidate, rebuilds, pairs, adjacent, looks };
    cases.iter_mut().for_each(|c| c.trials = rebuilds * pairs);
    let mut plan =
        Planner { cases, pairing: &pairing, rng: &mut rng, groups: Vec::new(), out: Vec::new() };
    let turns = plan.turns(rebuilds, rebuilds);
    for (rebuild, turn) in (0..rebuilds).zip(turns) {
        let specs = turn.arms().map(|arm| pairing.cni(arm).clone());
        match (adjacent, host_rides) {
            (true, true) => {
                plan.groups.push(specs.into_iter().filter(|c| c.name != HOST).collect());
                plan.together(rebuild);
            }
            (true, false) => {
                plan.groups.push(specs.to_vec());
                plan.together(rebuild);
            }
            (false, _) => {
                for arm in turn.arms() {
                    plan.groups.push(vec![pairing.cni(arm).clone()]);
                    plan.alone(rebuild, arm, turn);
                }
            }
        }
    }
    let (groups, schedule) = (plan.groups, plan.out);
    Ordered { groups, schedule, pairing, host_rides }
}

struct Planner<'a> {
    cases: &'a [Case],
    pairing: &'a Pairing,
    rng: &'a mut ChaCha8Rng,
    groups: Vec<Vec<CniSpec>>,
    out: Vec<Scheduled>,
}

impl Planner<'_> {
    /// `count` orders at random, of each as many; of an odd count the one too many is either, by the
    /// parity of `odd`.
    fn turns(&mut self, count: u32, odd: u32) -> Vec<PairOrder> {
        let both = [PairOrder::BaselineFirst, PairOrder::CandidateFirst];
        let mut turns: Vec<PairOrder> =
            (0..count).map(|i| both[((i + odd) % 2) as usize]).collect();
        turns.shuffle(self.rng);
        turns
    }

    /// States of the cluster are outermost, since a change takes seconds to minutes; every other
    /// rebuild goes through them backwards.
    fn states(&self, rebuild: u32) -> Vec<Vec<usize>> {
        let all: Vec<usize> = (0..self.cases.len()).collect();
        let mut states = group_of(self.cases, &all, |c| c.surroundings);
        states.sort_by_key(|s| self.cases[s[0]].surroundings);
        if rebuild % 2 == 1 {
            states.reverse();
        }
        states
    }

    /// The trials of a rebuild in which both arms are up.
    fn together(&mut self, rebuild: u32) {
        let extra: u32 = self.rng.random_range(0..2);
        for state in self.states(rebuild) {
            let mut series = group_of(self.cases, &state, Case::series);
            let mut turns: HashMap<SeriesKey, Vec<PairOrder>> = HashMap::new();
            for (number, members) in (0u32..).zip(&series) {
                // Of odd counts: this series one way, the next the other.
                let order = self.turns(self.pairing.pairs, rebuild + number + extra);
                turns.insert(self.cases[members[0]].series(), order);
            }
            for pair in 0..self.pairing.pairs {
                series.shuffle(self.rng);
                for members in &series {
                    let order = turns[&self.cases[members[0]].series()][pair as usize];
                    for arm in order.arms() {
                        self.push(members, PairSlot { rebuild, pair, order, arm });
                    }
                }
            }
        }
    }

    /// The trials of one arm of a rebuild in which one arm is up at a time.
    fn alone(&mut self, rebuild: u32, arm: PairArm, order: PairOrder) {
        for state in self.states(rebuild) {
            let mut series = group_of(self.cases, &state, Case::series);
            for pair in 0..self.pairing.pairs {
                series.shuffle(self.rng);
                for members in &series {
                    self.push(members, PairSlot { rebuild, pair, order, arm });
                }
            }
        }
    }

    /// The trial of one arm of a series.
    fn push(&mut self, members: &[usize], slot: PairSlot) {
        let spec = self.pairing.cni(slot.arm);
        let own = members.iter().copied().find(|&c| self.cases[c].cni == *spec);
        let Some(case) = own else { return };
        let number = slot.rebuild * self.pairing.pairs + slot.pair;
        self.out.push(Scheduled {
            case,
            index: number,
            block: number,
            group: self.groups.len() - 1,
            batch: self.out.len() as u32,
            pair: None,
            arm: Some(slot),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Plan, TrialOrder};
    use cnibench_model::ProviderKind;
    use cnibench_scenarios::{catalog, expand};
    use std::collections::{BTreeMap, HashSet};

    fn plan(
        arms: [&str; 2],
        (rebuilds, pairs): (u32, u32),
        change: impl Fn(&mut Arrangement),
        seed: u64,
    ) -> Plan {
        let [baseline, candidate]: [CniSpec; 2] = arms.map(|a| a.parse().unwrap());
        let cnis = [baseline.clone(), candidate.clone()];
        let mut arrangement = Arrangement {
            pairs: Some(Pairs { baseline, candidate, rebuilds, pairs, looks: Vec::new() }),
            ..Arrangement::simple(TrialOrder::Interleaved)
        };
        change(&mut arrangement);
        let suite = catalog::by_name("quick").unwrap();
        Plan::new(expand(&suite, ProviderKind::Netns, &cnis), &arrangement, seed)
    }

    /// Both trials of every pair, in order.
    fn pairs(plan: &Plan) -> Vec<[Scheduled; 2]> {
        plan.schedule.chunks(2).map(|p| p.try_into().unwrap()).collect()
    }

    #[test]
    fn pairs_are_adjacent_of_both_arms_and_balanced_within_every_rebuild() {
        for (rebuilds, count) in [(3, 10), (2, 7), (1, 1)] {
            let plan = plan(["a:mtu=1400", "a"], (rebuilds, count), |_| {}, 7);
            assert_eq!(plan.groups.len(), rebuilds as usize);
            assert!(plan.interleaved && plan.groups.iter().all(|g| g.len() == 2));
            let mut firsts: BTreeMap<_, i32> = BTreeMap::new();
            let mut seen = HashSet::new();
            for pair in pairs(&plan) {
                let [one, two] = pair.map(|s| s.arm.unwrap());
                let series = pair.map(|s| plan.cases[s.case].series());
                assert_eq!(series[0], series[1]);
                assert_eq!([one.arm, two.arm], one.order.arms());
                assert_eq!((one.rebuild, one.pair, one.order), (two.rebuild, two.pair, two.order));
                assert_eq!((pair[0].block, pair[0].group), (pair[1].block, pair[1].group));
                assert_eq!(one.rebuild as usize, pair[0].group);
                for s in pair {
                    let arm = s.arm.unwrap().arm;
                    let spec = plan.pairing.as_ref().unwrap().cni(arm);
                    assert_eq!(plan.cases[s.case].cni, *spec);
                    assert!(seen.insert((s.case, s.index)));
                }
                let balance = if one.arm == PairArm::Baseline { 1 } else { -1 };
                *firsts.entry((series[0].clone(), one.rebuild)).or_default() += balance;
            }
            assert_eq!(seen.len(), (2 * 5 * rebuilds * count) as usize);
            assert!(plan.cases.iter().all(|c| c.trials == rebuilds * count));
            let odd = (count % 2) as i32;
            assert!(firsts.values().all(|n| n.abs() == odd), "{firsts:?}");
            // Of odd counts not always the same arm is ahead.
            let sum: i32 = firsts.values().sum();
            assert!(sum.abs() <= odd * rebuilds as i32, "{firsts:?}");
        }
    }

    #[test]
    fn the_seed_decides_the_order_and_different_seeds_differ() {
        let of = |seed| plan(["host", "a"], (3, 10), |_| {}, seed);
        assert_eq!(of(1), of(1));
        assert_ne!(of(1).schedule, of(2).schedule);
        // Not simply in turn.
        let turns: Vec<_> = pairs(&of(1)).iter().map(|p| p[0].arm.unwrap().order).collect();
        assert!(turns.windows(2).any(|w| w[0] == w[1]) && turns.windows(2).any(|w| w[0] != w[1]));
    }

    #[test]
    fn a_cni_is_compared_with_itself() {
        let plan = plan(["host", "host#2"], (2, 4), |a| a.host_rides = true, 7);
        assert!(!plan.host_rides, "neither rides along in the other's cluster");
        assert_eq!(plan.groups.len(), 2);
        let ids: HashSet<_> = plan.cases.iter().map(|c| c.id.0.as_str()).collect();
        assert_eq!(ids.len(), 10);
        assert!(ids.contains("netns/host#2/tcp_rr/cross-node"), "{ids:?}");
        assert_eq!(plan.schedule.len(), 2 * 5 * 2 * 4);
    }

    #[test]
    fn a_host_arm_is_measured_in_the_other_ones_cluster_where_it_can() {
        let plan = plan(
            ["host", "cilium"],
            (3, 4),
            |a| {
                a.host_rides = true;
                a.at_once = Some(1);
            },
            7,
        );
        let expected = vec![vec![CniSpec::named("cilium")]; 3];
        assert!(plan.host_rides && plan.interleaved && plan.groups == expected);
        assert_eq!(plan.schedule.len(), 2 * 5 * 3 * 4);
    }

    #[test]
    fn where_one_cluster_is_up_at_a_time_rebuilds_alternate_at_random() {
        let alone = |seed| plan(["a", "b"], (4, 3), |a| a.at_once = Some(1), seed);
        let plan = alone(7);
        assert!(!plan.interleaved && !plan.pairing.as_ref().unwrap().adjacent);
        assert_eq!(plan.groups.len(), 8);
        let mut first = BTreeMap::new();
        for (rebuild, two) in plan.groups.chunks(2).enumerate() {
            assert_ne!(two[0], two[1]);
            *first.entry(two[0][0].to_string()).or_insert(0) += 1;
            for scheduled in plan.schedule.iter().filter(|s| s.group / 2 == rebuild) {
                let slot = scheduled.arm.unwrap();
                assert_eq!(slot.rebuild as usize, rebuild);
                assert_eq!(plan.cases[scheduled.case].cni, plan.groups[scheduled.group][0]);
                assert_eq!(slot.order.arms()[scheduled.group % 2], slot.arm);
            }
        }
        assert_eq!(first.into_values().collect::<Vec<_>>(), [2, 2]);
        let orders: HashSet<_> = (0..20).map(|seed| format!("{:?}", alone(seed).groups)).collect();
        assert!(orders.len() > 1);
        let unique: HashSet<_> = plan.schedule.iter().map(|s| (s.case, s.index)).collect();
        assert_eq!((unique.len(), plan.schedule.len()), (120, 120));
    }
}

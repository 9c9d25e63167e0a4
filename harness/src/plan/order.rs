//! The order of trials: groups of clusters, states of a cluster, rounds, series, cnis. Pure.

use super::{Arrangement, Scheduled, TrialOrder, group, tournament};
use cnibench_model::{Case, CniSpec, Surroundings};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

/// The baseline's name.
pub(super) const HOST: &str = "host";

/// Is it the baseline, measured in every other cni's cluster?
pub(super) fn rides(arrangement: &Arrangement, cni: &CniSpec) -> bool {
    arrangement.host_rides && cni.name == HOST
}

/// Which cnis are up at a time.
pub(super) fn groups(cases: &[Case], arrangement: &Arrangement) -> Vec<Vec<CniSpec>> {
    let cnis: Vec<CniSpec> =
        group(cases, |c| c.cni.clone()).iter().map(|g| cases[g[0]].cni.clone()).collect();
    let own = |cni: &&CniSpec| !rides(arrangement, cni);
    let mut clusters: Vec<CniSpec> = cnis.iter().filter(own).cloned().collect();
    if clusters.is_empty() {
        // The baseline alone has a cluster of its own.
        clusters = cnis;
    }
    let at_once = match arrangement.order {
        TrialOrder::ByCni => 1,
        TrialOrder::Interleaved => arrangement.at_once.unwrap_or(usize::MAX).max(1),
    };
    let once: Vec<Vec<CniSpec>> =
        clusters.chunks(at_once.min(clusters.len().max(1))).map(<[CniSpec]>::to_vec).collect();
    // A, B, B, A: what drifts evenly adds nothing to either.
    let turn = |rebuild: u32| -> Vec<Vec<CniSpec>> {
        if rebuild.is_multiple_of(2) { once.clone() } else { once.iter().rev().cloned().collect() }
    };
    (0..arrangement.rebuilds.max(1)).flat_map(turn).collect()
}

/// All trials in the order in which they run; the trials of `cases` are raised to what is planned.
pub(super) fn schedule(
    cases: &mut [Case],
    groups: &[Vec<CniSpec>],
    arrangement: &Arrangement,
    seed: u64,
) -> Vec<Scheduled> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let rounds = cases.iter().map(|c| c.trials).max().unwrap_or(0);
    let asked: Vec<u32> = cases.iter().map(|c| c.trials).collect();
    let begun = vec![0; cases.len()];
    let mut order = Order { cases, asked, begun, arrangement, rounds, out: Vec::new(), batch: 0 };
    for (number, cnis) in groups.iter().enumerate() {
        let members: Vec<usize> = (0..order.cases.len())
            .filter(|&c| {
                let cni = &order.cases[c].cni;
                cnis.contains(cni) || rides(arrangement, cni)
            })
            .collect();
        match &arrangement.matrix {
            Some(matrix) => order.pairs(number, &members, matrix, &mut rng),
            None => order.trials(number, &members, &mut rng),
        }
        for case in members {
            order.begun[case] += order.asked[case];
        }
    }
    let mut planned = vec![0; order.asked.len()];
    order.out.iter().for_each(|s| planned[s.case] += 1);
    let out = order.out;
    for (case, planned) in cases.iter_mut().zip(planned) {
        case.trials = planned;
    }
    out
}

struct Order<'a> {
    cases: &'a [Case],
    /// Trials that were asked for, by case.
    asked: Vec<u32>,
    /// Trials in the groups before, by case.
    begun: Vec<u32>,
    arrangement: &'a Arrangement,
    rounds: u32,
    out: Vec<Scheduled>,
    batch: u32,
}

impl Order<'_> {
    fn push(&mut self, case: usize, index: u32, block: u32, group: usize) {
        let batch = self.batch;
        self.out.push(Scheduled { case, index, block, group, batch, pair: None, arm: None });
        self.batch += 1;
    }

    /// The trials of one group of clusters. States of the cluster are outermost, since a change takes
    /// seconds to minutes; where Hubble is switched there are two passes, the second backwards, so
    /// that drift does not look like Hubble.
    fn trials(&mut self, number: usize, members: &[usize], rng: &mut ChaCha8Rng) {
        let first = number as u32 * self.rounds;
        let states = group_of(self.cases, members, |c| c.surroundings);
        let switches = states.len() > 1
            && states.iter().any(|s| self.cases[s[0]].surroundings.hubble.is_some());
        let half = if switches { self.rounds.div_ceil(2) } else { self.rounds };
        let passes = [(0, half, false), (half, self.rounds, true)];
        for (from, to, backwards) in passes {
            let mut states: Vec<&Vec<usize>> = states.iter().collect();
            states.sort_by_key(|s| self.cases[s[0]].surroundings);
            if backwards {
                states.reverse();
            }
            for state in states {
                for round in from..to {
                    self.round(number, state, round, first, rng);
                }
            }
        }
    }

    fn round(
        &mut self,
        number: usize,
        state: &[usize],
        round: u32,
        first: u32,
        rng: &mut ChaCha8Rng,
    ) {
        let mut series = group_of(self.cases, state, Case::series);
        // One cni after the other means: nothing is shuffled, but for a baseline that rides along.
        let shuffled =
            self.arrangement.order == TrialOrder::Interleaved || self.arrangement.host_rides;
        if shuffled {
            series.shuffle(rng);
        }
        for members in series {
            let mut due: Vec<usize> =
                members.into_iter().filter(|&c| self.asked[c] > round).collect();
            if shuffled {
                due.shuffle(rng);
            }
            for case in due {
                let index = self.begun[case] + round;
                self.push(case, index, first + round, number);
            }
        }
    }

    /// The trials of the node-pair matrix: every pair is a block, the pairs of a round run at the same
    /// time, every other repetition goes the other way.
    fn pairs(
        &mut self,
        number: usize,
        members: &[usize],
        matrix: &tournament::Matrix,
        rng: &mut ChaCha8Rng,
    ) {
        let rounds = tournament::rounds(matrix, rng);
        let pairs: u32 = rounds.iter().map(|r| r.len() as u32).sum();
        for repetition in 0..self.rounds {
            let mut begun = 0;
            for round in &rounds {
                let mut series = group_of(self.cases, members, Case::series);
                series.shuffle(rng);
                for mut due in series {
                    due.retain(|&c| self.asked[c] > repetition);
                    due.shuffle(rng);
                    for case in due {
                        for (i, &(a, b)) in round.iter().enumerate() {
                            let block = repetition * pairs + begun + i as u32;
                            let pair = if repetition % 2 == 0 { (a, b) } else { (b, a) };
                            self.out.push(Scheduled {
                                case,
                                index: block,
                                block,
                                group: number,
                                batch: self.batch,
                                pair: Some(pair),
                                arm: None,
                            });
                        }
                        self.batch += 1;
                    }
                }
                begun += round.len() as u32;
            }
        }
    }
}

/// Groups of members with equal keys, in order of first appearance.
pub(super) fn group_of<K: std::hash::Hash + Eq>(
    cases: &[Case],
    members: &[usize],
    key: impl Fn(&Case) -> K,
) -> Vec<Vec<usize>> {
    let mut at = std::collections::HashMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for &index in members {
        let slot = *at.entry(key(&cases[index])).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[slot].push(index);
    }
    groups
}

/// True when the cases ask for different states of their cluster.
pub(super) fn changes_state(cases: &[Case]) -> usize {
    group(cases, |c| c.surroundings)
        .iter()
        .filter(|g| cases[g[0]].surroundings != Surroundings::default())
        .count()
}

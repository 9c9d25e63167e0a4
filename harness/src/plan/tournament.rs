//! Rounds of node pairs in which no node is used twice. Pure.
//!
//! The circle method of round-robin tournaments (Kirkman 1847; Lucas, Récréations mathématiques,
//! 1883): n - 1 rounds of n/2 pairs for even n, n rounds of (n - 1)/2 for odd n, which is the least
//! that any schedule needs.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// A pair of nodes by number: client and server.
pub type Pair = (u32, u32);

/// How the node-pair matrix is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// Nodes.
    pub nodes: u32,
    /// Pairs to measure; none: all of them.
    pub pairs: Option<u32>,
    /// Pairs measured at the same time, at most.
    pub at_once: u32,
}

/// How many pairs there are among `nodes`.
pub fn all_pairs(nodes: u32) -> u64 {
    u64::from(nodes) * u64::from(nodes.saturating_sub(1)) / 2
}

/// Rounds of pairs. Nodes are numbered at random first, so that a sample, which is the first rounds,
/// is a random one in which every node occurs about equally often.
pub fn rounds(matrix: &Matrix, rng: &mut ChaCha8Rng) -> Vec<Vec<Pair>> {
    let mut labels: Vec<u32> = (0..matrix.nodes).collect();
    labels.shuffle(rng);
    let mut left = matrix.pairs.map_or(usize::MAX, |k| k as usize);
    let at_once = matrix.at_once.max(1) as usize;
    let mut all = Vec::new();
    for round in 0..round_count(matrix.nodes) {
        let mut pairs = circle(matrix.nodes, round);
        pairs.truncate(left);
        left -= pairs.len();
        for (a, b) in &mut pairs {
            (*a, *b) = (labels[*a as usize], labels[*b as usize]);
        }
        all.extend(pairs.chunks(at_once).map(<[Pair]>::to_vec));
        if left == 0 {
            break;
        }
    }
    all
}

/// Rounds that cover every pair once.
fn round_count(nodes: u32) -> u32 {
    match nodes {
        0 | 1 => 0,
        n if n % 2 == 0 => n - 1,
        n => n,
    }
}

/// One round: node `m` (of an even `m + 1`) stays, the others turn around it. With an odd number
/// of nodes the one that meets the absent partner rests.
fn circle(nodes: u32, round: u32) -> Vec<Pair> {
    let even = nodes + nodes % 2;
    let turning = even - 1;
    let at = |place: u32| if place == turning { turning } else { (place + round) % turning };
    (0..even / 2)
        .map(|i| {
            let (a, b) = if i == 0 { (turning, at(0)) } else { (at(i), at(turning - i)) };
            // A node moves one place a round: by turns it is client and server. The one that stays
            // alternates by rounds.
            let turn = if i == 0 { round } else { i };
            if turn.is_multiple_of(2) { (a, b) } else { (b, a) }
        })
        .filter(|&(a, b)| a < nodes && b < nodes)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use std::collections::HashSet;

    fn of(nodes: u32, pairs: Option<u32>, at_once: u32) -> Vec<Vec<Pair>> {
        let matrix = Matrix { nodes, pairs, at_once };
        rounds(&matrix, &mut ChaCha8Rng::seed_from_u64(7))
    }

    proptest! {
        #[test]
        fn every_pair_once_no_node_twice_in_a_round_and_no_round_too_many(nodes in 2u32..60) {
            let rounds = of(nodes, None, u32::MAX);
            let mut seen = HashSet::new();
            for round in &rounds {
                let mut used = HashSet::new();
                for &(a, b) in round {
                    prop_assert!(used.insert(a) && used.insert(b));
                    prop_assert!(seen.insert((a.min(b), a.max(b))));
                }
            }
            prop_assert_eq!(seen.len() as u64, all_pairs(nodes));
            let least = if nodes % 2 == 0 { nodes - 1 } else { nodes };
            prop_assert_eq!(rounds.len(), least as usize);
        }

        #[test]
        fn a_sample_uses_nodes_evenly(nodes in 4u32..60, pairs in 1u32..500) {
            let rounds = of(nodes, Some(pairs), 8);
            let all: Vec<Pair> = rounds.concat();
            prop_assert_eq!(all.len() as u64, u64::from(pairs).min(all_pairs(nodes)));
            prop_assert!(rounds.iter().all(|r| r.len() <= 8));
            let mut count = vec![0u32; nodes as usize];
            for (a, b) in all {
                count[a as usize] += 1;
                count[b as usize] += 1;
            }
            let (low, high) = (count.iter().min().unwrap(), count.iter().max().unwrap());
            prop_assert!(high - low <= 2, "{:?}", count);
        }
    }

    #[test]
    fn no_node_is_always_the_client() {
        let mut client = [0; 10];
        let mut server = [0; 10];
        for (a, b) in of(10, None, 99).concat() {
            client[a as usize] += 1;
            server[b as usize] += 1;
        }
        assert!((0..10).all(|n| client[n] >= 2 && server[n] >= 2), "{client:?} {server:?}");
    }

    #[test]
    fn nobody_plays_alone() {
        assert!(of(0, None, 9).is_empty() && of(1, None, 9).is_empty());
        assert_eq!(of(2, None, 9), of(2, Some(1), 1));
    }
}

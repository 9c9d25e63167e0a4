//! The cliff: the payload size at which throughput falls, found by a search over sizes.
//!
//! Owns which sizes are tried next and what is called a cliff; called by the runner while it searches and by
//! the figure. A machine drifts, so that sizes are compared only within a round, in which each was
//! measured next to the others. A grid of sizes comes first. What grows with the size hides a fall between
//! two sizes of it, so that the search goes by datagrams a second, which a size alone hardly changes: where
//! they first fall from one size to the next is bisected, down to a single byte, by which of both ends the
//! middle is like. A cliff is a fall of throughput by more than half at that byte.

use crate::stats::median;
use cnibench_model::{Metric, SizeTrial};
use std::collections::BTreeMap;

/// Sizes that are tried first, in bytes of payload.
const GRID: [u64; 8] = [64, 128, 256, 512, 1024, 2048, 4096, 8192];
/// Datagrams a second at a size have to be less than this share of those at the size before, in the median
/// of rounds, for it to be looked between the two,
const DIP: f64 = 0.75;
/// and less than this share in every round.
const EVERY_DIP: f64 = 0.9;
/// A fall that leaves more than this is not confirmed by the two sizes next to it.
const NOTHING: f64 = 0.95;
/// Throughput that is less than this share of that at the size before is a cliff.
pub const CLIFF: f64 = 0.5;

/// What was seen so far: throughput by round and size, in bits of payload a second.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen(BTreeMap<u32, BTreeMap<u64, f64>>);

/// What the trials at a size say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Bytes of payload.
    pub size: u64,
    /// Bits of payload a second, the median of trials.
    pub throughput: f64,
    /// The lowest and the highest of the trials.
    pub range: (f64, f64),
    /// Trials.
    pub trials: usize,
}

/// A fall of throughput from one size to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fall {
    /// The last size before it.
    pub before: u64,
    /// The first size behind it.
    pub at: u64,
    /// What is left of the throughput, as a share: the median of the rounds that have both sizes.
    pub left: f64,
    /// Those rounds.
    pub rounds: usize,
}

impl Fall {
    /// Is more than half of the throughput gone?
    pub fn is_cliff(&self) -> bool {
        self.left < CLIFF
    }

    /// Do the two sizes differ, as those further away did?
    pub fn is_confirmed(&self) -> bool {
        self.left <= NOTHING
    }

    /// Is the size known to the byte?
    pub fn is_exact(&self) -> bool {
        self.at == self.before + 1
    }
}

/// Where a search stands.
enum Place {
    /// These are to be measured in turns.
    Open(Vec<u64>),
    /// Nowhere do datagrams a second fall.
    Flat,
    /// It falls between these.
    Found(u64, u64),
}

impl Seen {
    /// Of the trials of one case; a round is a block.
    pub fn of<'a>(trials: impl IntoIterator<Item = &'a SizeTrial>) -> Self {
        let mut seen = Self::default();
        for trial in trials {
            // Where nothing arrived there is no value, and that is what there is.
            let throughput = trial.trial.value(Metric::Throughput).unwrap_or(0.0);
            seen.note(trial.trial.block, trial.size, throughput);
        }
        seen
    }

    fn note(&mut self, round: u32, size: u64, throughput: f64) {
        self.0.entry(round).or_default().insert(size, throughput);
    }

    /// What is known of each size, ascending.
    pub fn steps(&self) -> Vec<Step> {
        let mut by_size: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for (size, throughput) in self.0.values().flatten() {
            by_size.entry(*size).or_default().push(*throughput);
        }
        let step = |(size, values): (u64, Vec<f64>)| {
            let ends = (f64::INFINITY, 0.0f64);
            let range = values.iter().fold(ends, |(low, high), v| (low.min(*v), high.max(*v)));
            Some(Step { size, throughput: median(&values)?, range, trials: values.len() })
        };
        by_size.into_iter().filter_map(step).collect()
    }

    /// Sizes to measure next, in turns, a number of rounds; none when the fall is known to the byte, or
    /// there is none.
    pub fn next(&self) -> Option<Vec<u64>> {
        match self.place() {
            Place::Open(sizes) => Some(sizes),
            Place::Flat | Place::Found(..) => None,
        }
    }

    /// The first fall; none where there is none. While it is searched: as far as it is known.
    pub fn fall(&self) -> Option<Fall> {
        let (before, at) = match self.place() {
            Place::Flat => return None,
            Place::Found(before, at) => (before, at),
            Place::Open(sizes) => (*sizes.first()?, *sizes.last()?),
        };
        let of = |round: &BTreeMap<u64, f64>| {
            let (from, to) = (*round.get(&before)?, *round.get(&at)?);
            (from > 0.0).then(|| to / from)
        };
        let left: Vec<f64> = self.0.values().filter_map(of).collect();
        Some(Fall { before, at, left: median(&left)?, rounds: left.len() })
    }

    fn place(&self) -> Place {
        let have = |sizes: &[u64]| {
            self.0.values().any(|round| sizes.iter().all(|size| round.contains_key(size)))
        };
        if !have(&GRID) {
            return Place::Open(GRID.to_vec());
        }
        let dips = |pair: &&[u64]| {
            let shares = self.shares(pair[0], pair[1]);
            shares.iter().all(|share| *share < EVERY_DIP)
                && median(&shares).is_some_and(|share| share < DIP)
        };
        let Some(&[mut low, mut high]) = GRID.windows(2).find(dips) else { return Place::Flat };
        while high - low > 1 {
            let middle = u64::midpoint(low, high);
            if !have(&[low, middle, high]) {
                return Place::Open(vec![low, middle, high]);
            }
            if self.is_like_the_first(low, middle, high) { low = middle } else { high = middle }
        }
        if have(&[low, high]) { Place::Found(low, high) } else { Place::Open(vec![low, high]) }
    }

    /// Datagrams a second at one size as a share of those at another, by round.
    fn shares(&self, from: u64, to: u64) -> Vec<f64> {
        let of = |round: &BTreeMap<u64, f64>| {
            let (a, b) = (rate(round, from)?, rate(round, to)?);
            (a > 0.0).then(|| b / a)
        };
        self.0.values().filter_map(of).collect()
    }

    /// Is the middle rather like the first than like the last, in most of the rounds that have all three
    /// and in which there is a fall at all?
    fn is_like_the_first(&self, first: u64, middle: u64, last: u64) -> bool {
        let vote = |round: &BTreeMap<u64, f64>| {
            let (a, m, b) = (rate(round, first)?, rate(round, middle)?, rate(round, last)?);
            (b < a).then(|| m > (a * b).sqrt())
        };
        let votes: Vec<bool> = self.0.values().filter_map(vote).collect();
        2 * votes.iter().filter(|like| **like).count() > votes.len()
    }
}

/// Datagrams a second.
fn rate(round: &BTreeMap<u64, f64>, size: u64) -> Option<f64> {
    Some(round.get(&size)? / size as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    /// A path that takes so much time for each packet, and cuts datagrams into packets of `fits` payload.
    fn throughput(size: u64, fits: u64, packet: f64, byte: f64) -> f64 {
        let packets = size.div_ceil(fits) as f64;
        8.0 * size as f64 / (packets * packet + size as f64 * byte)
    }

    /// Searches on a machine whose speed drifts by half between rounds and by `noise` within.
    fn search(noise: f64, mut path: impl FnMut(u64) -> f64) -> Seen {
        let (mut seen, mut rng) = (Seen::default(), ChaCha8Rng::seed_from_u64(5));
        let mut round = 0;
        while let Some(sizes) = seen.next() {
            for _ in 0..5 {
                let drift = 0.5 + rng.random::<f64>();
                for &size in &sizes {
                    let jitter = 1.0 + noise * (rng.random::<f64>() - 0.5);
                    seen.note(round, size, path(size) * drift * jitter);
                }
                round += 1;
            }
            assert!(round < 100, "no end");
        }
        seen
    }

    #[test]
    fn the_size_is_found_to_the_byte_on_a_machine_that_drifts() {
        for fits in [1100, 1392, 1422, 1443, 1472, 1500, 3000] {
            let seen = search(0.3, |size| throughput(size, fits, 5e-6, 0.1e-9));
            let fall = seen.fall().unwrap();
            assert_eq!((fall.before, fall.at), (fits, fits + 1));
            assert!(fall.is_exact() && fall.rounds >= 5, "{fall:?}");
            assert!((0.4..0.65).contains(&fall.left), "{fall:?}");
        }
    }

    #[test]
    fn a_path_without_a_fall_ends_with_the_grid() {
        let seen = search(0.2, |size| throughput(size, 1 << 20, 5e-6, 0.05e-9));
        assert_eq!((seen.steps().len(), seen.fall()), (8, None));
    }

    #[test]
    fn more_than_half_is_a_cliff_and_nothing_at_all_is_one() {
        let fall = |left| Fall { before: 9, at: 10, left, rounds: 1 };
        assert!(fall(0.499).is_cliff() && !fall(0.5).is_cliff());
        let seen = search(0.0, |size| if size > 1400 { 0.0 } else { size as f64 });
        let fall = seen.fall().unwrap();
        assert_eq!((fall.before, fall.at, fall.left), (1400, 1401, 0.0));
        assert!(fall.is_cliff());
    }

    #[test]
    fn a_search_that_was_cut_short_says_how_far_it_came() {
        let mut seen = Seen::default();
        assert_eq!(seen.fall(), None);
        for size in seen.next().unwrap() {
            seen.note(0, size, throughput(size, 1472, 5e-6, 0.0));
        }
        let fall = seen.fall().unwrap();
        assert_eq!((fall.before, fall.at, fall.is_exact()), (1024, 2048, false));
    }
}

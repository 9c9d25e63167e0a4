//! The cliff: the payload size at which throughput falls, found by a search over sizes.
//!
//! Owns which size is tried next and what is called a cliff; called by the runner while it searches and by
//! the figure. A grid of sizes comes first. What grows with the size hides a fall between two sizes of it,
//! so that the search goes by datagrams a second, which a size alone hardly changes: where they fall the
//! most from one size to the next is bisected, down to a single byte. A cliff is a fall of throughput by
//! more than half at that byte.

use crate::stats::median;
use cnibench_model::{Metric, Trial};
use std::collections::BTreeMap;

/// Sizes that are tried first, in bytes of payload.
const GRID: [u64; 8] = [64, 128, 256, 512, 1024, 2048, 4096, 8192];
/// Datagrams a second at a size have to be less than this share of those at the size before, for it to be
/// looked between the two.
const DIP: f64 = 0.8;
/// Throughput that is less than this share of that at the size before is a cliff.
pub const CLIFF: f64 = 0.5;

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

impl Step {
    /// Of the trials at one size; none where nothing arrived in any.
    pub fn of<'a>(size: u64, trials: impl IntoIterator<Item = &'a Trial>) -> Option<Self> {
        let values: Vec<f64> =
            trials.into_iter().filter_map(|t| t.value(Metric::Throughput)).collect();
        let range = values
            .iter()
            .fold((f64::INFINITY, 0.0f64), |(low, high), v| (low.min(*v), high.max(*v)));
        Some(Self { size, throughput: median(&values)?, range, trials: values.len() })
    }

    fn datagrams(&self) -> f64 {
        self.throughput / self.size as f64
    }
}

/// A fall of throughput from one size to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fall {
    /// The last size before it.
    pub before: Step,
    /// The first size behind it.
    pub at: Step,
}

impl Fall {
    /// What is left of the throughput, as a share.
    pub fn left(&self) -> f64 {
        self.at.throughput / self.before.throughput
    }

    /// Is more than half of the throughput gone?
    pub fn is_cliff(&self) -> bool {
        self.left() < CLIFF
    }

    /// Is the size known to the byte?
    pub fn is_exact(&self) -> bool {
        self.at.size == self.before.size + 1
    }
}

/// The size to try next; none when the steepest fall is known to the byte, or there is none.
pub fn next(tried: &BTreeMap<u64, Step>) -> Option<u64> {
    if let Some(open) = GRID.iter().find(|size| !tried.contains_key(*size)) {
        return Some(*open);
    }
    let fall = steepest(tried.values())?;
    (!fall.is_exact()).then(|| u64::midpoint(fall.before.size, fall.at.size))
}

/// Where datagrams a second fall the most between neighbours of ascending sizes; none where they hardly
/// fall anywhere.
pub fn steepest<'a>(steps: impl IntoIterator<Item = &'a Step>) -> Option<Fall> {
    let steps: Vec<&Step> = steps.into_iter().collect();
    let falls = steps.windows(2).map(|pair| Fall { before: *pair[0], at: *pair[1] });
    let share = |fall: &Fall| fall.at.datagrams() / fall.before.datagrams();
    falls.min_by(|a, b| share(a).total_cmp(&share(b))).filter(|fall| share(fall) < DIP)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that takes so much time for each packet, and cuts datagrams into packets of `mtu` payload.
    fn step(size: u64, mtu: u64, packet: f64, byte: f64) -> Step {
        let packets = size.div_ceil(mtu) as f64;
        let throughput = 8.0 * size as f64 / (packets * packet + size as f64 * byte);
        Step { size, throughput, range: (throughput, throughput), trials: 3 }
    }

    fn search(mtu: u64, packet: f64, byte: f64) -> (BTreeMap<u64, Step>, Option<Fall>) {
        let mut tried = BTreeMap::new();
        while let Some(size) = next(&tried) {
            assert!(tried.insert(size, step(size, mtu, packet, byte)).is_none(), "{size} twice");
            assert!(tried.len() < 40, "no end");
        }
        let fall = steepest(tried.values());
        (tried, fall)
    }

    #[test]
    fn the_size_is_found_to_the_byte() {
        for mtu in [1392, 1422, 1472, 1443, 3000] {
            let (tried, fall) = search(mtu, 5e-6, 0.1e-9);
            let fall = fall.unwrap();
            assert_eq!((fall.before.size, fall.at.size), (mtu, mtu + 1));
            assert!(fall.is_exact() && !fall.is_cliff(), "{}", fall.left());
            assert!((0.49..0.6).contains(&fall.left()), "{}", fall.left());
            assert!(tried.len() <= 8 + 12, "{}", tried.len());
        }
    }

    #[test]
    fn a_path_without_a_fall_ends_with_the_grid() {
        let (tried, fall) = search(1 << 20, 5e-6, 0.05e-9);
        assert_eq!((tried.len(), fall), (8, None));
    }

    #[test]
    fn more_than_half_is_a_cliff() {
        let flat = |size, throughput| Step { size, throughput, range: (0.0, 1.0), trials: 1 };
        let fall = |left| Fall { before: flat(9, 100.0), at: flat(10, left) };
        assert!(fall(49.9).is_cliff() && !fall(50.0).is_cliff());
        let steps = [flat(10, 100.0), flat(11, 0.0)];
        assert!(steepest(&steps).unwrap().is_cliff(), "nothing arrives any more");
    }
}

//! The change of a cell against its baseline, as a ratio or a difference with an interval.
//!
//! Owns pairing by block and the choice of interval. Direction (is more better?) is the metric's:
//! it is given as an argument where it is needed. Called by the matrix and the sentences.

use super::{ENOUGH, Interval, mean_and_deviation, median, ranks, sorted, t_factor};
use cnibench_model::Direction;
use serde::Serialize;
use std::collections::BTreeMap;

/// One trial's value and the block in which it ran.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Trials of one block ran next to each other.
    pub block: u32,
    /// The value.
    pub value: f64,
}

/// What a change counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Candidate divided by baseline.
    Ratio,
    /// Candidate minus baseline, for shares of a whole: many baselines are at zero, where "11 times"
    /// or "no ratio" hides that nothing worth a word changed.
    Difference,
}

impl Basis {
    /// The size of no change.
    pub fn neutral(self) -> f64 {
        match self {
            Self::Ratio => 1.0,
            Self::Difference => 0.0,
        }
    }

    fn forth(self, value: f64) -> f64 {
        match self {
            Self::Ratio => value.ln(),
            Self::Difference => value,
        }
    }

    fn back(self, value: f64) -> f64 {
        match self {
            Self::Ratio => value.exp(),
            Self::Difference => value,
        }
    }
}

/// How a change was estimated. Of ratios everything is done on logarithms, of differences on values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeMethod {
    /// Fewer pairs, or trials at a side, than an interval needs ([`super::ENOUGH`]).
    TooFew,
    /// Student t on pairs.
    PairedT,
    /// Hodges-Lehmann on pairs, exact signed-rank interval.
    PairedRank,
    /// Welch t; the trials were not paired.
    UnpairedT,
    /// Hodges-Lehmann shift, exact rank-sum interval; the trials were not paired.
    UnpairedRank,
}

impl ChangeMethod {
    /// What a page says of it.
    pub fn describe(self) -> &'static str {
        match self {
            Self::TooFew => "fewer than 3 trials: a change without an interval",
            Self::PairedT => "adjacent trials paired, Student t",
            Self::PairedRank => "adjacent trials paired, Hodges-Lehmann with signed-rank interval",
            Self::UnpairedT => "trials not interleaved, Welch t",
            Self::UnpairedRank => {
                "trials not interleaved, Hodges-Lehmann shift with rank-sum interval"
            }
        }
    }
}

/// What a change means for the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The whole interval is on the good side.
    Better,
    /// The whole interval is on the bad side.
    Worse,
    /// The interval includes "no change".
    NotShown,
    /// There is no interval to judge by.
    Unknown,
}

/// A change against the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Change {
    /// What `size` counts in.
    pub basis: Basis,
    /// A ratio, of which 1 is no change, or a difference in the metric's unit, of which 0 is none.
    pub size: f64,
    /// 95 % interval of the size.
    pub interval: Option<Interval>,
    /// Pairs, or the smaller number of trials where they are not paired.
    pub n: usize,
    /// How it was made.
    pub method: ChangeMethod,
}

impl Change {
    /// How much more there is than before, 0 for no change: the logarithm of a ratio, or the
    /// difference. Of changes of one basis a larger one is a larger change.
    pub fn growth(&self) -> f64 {
        self.basis.forth(self.size)
    }

    /// What it means for a metric that improves in this direction.
    pub fn effect(&self, direction: Direction) -> Effect {
        let Some(interval) = self.interval else { return Effect::Unknown };
        let none = self.basis.neutral();
        let more = match (interval.low > none, interval.high < none) {
            (true, _) => true,
            (_, true) => false,
            _ => return Effect::NotShown,
        };
        if more == (direction == Direction::HigherIsBetter) {
            Effect::Better
        } else {
            Effect::Worse
        }
    }
}

/// The change from `baseline` to `candidate`; none when a side has no finite value, or when a ratio
/// is asked for and a value is not above zero (a ratio to nothing says nothing). Nothing at all on
/// both sides is no change.
///
/// With `interleaved` trials of the same block are paired (several of one block by their median);
/// where fewer than two blocks are shared although both sides have more trials, they are compared
/// unpaired.
pub fn change(
    candidate: &[Point],
    baseline: &[Point],
    basis: Basis,
    interleaved: bool,
) -> Option<Change> {
    let mut sides = [finite(candidate), finite(baseline)];
    if sides.iter().any(Vec::is_empty) {
        return None;
    }
    if basis == Basis::Ratio {
        let mut all = sides.iter_mut().flatten();
        if all.all(|p| p.value == 0.0) {
            sides.iter_mut().flatten().for_each(|p| p.value = 1.0);
        }
        if sides.iter().flatten().any(|p| p.value <= 0.0) {
            return None;
        }
    }
    let [candidate, baseline] = sides.map(|side| by_block(&side, basis));
    if interleaved {
        let pairs: Vec<f64> = candidate
            .iter()
            .filter_map(|(block, c)| Some(median(c)? - median(baseline.get(block)?)?))
            .collect();
        if pairs.len() >= 2 {
            return Some(paired(&pairs, basis));
        }
    }
    let flat = |side: BTreeMap<u32, Vec<f64>>| sorted(side.into_values().flatten());
    Some(unpaired(&flat(candidate), &flat(baseline), basis))
}

fn finite(points: &[Point]) -> Vec<Point> {
    points.iter().copied().filter(|p| p.value.is_finite()).collect()
}

/// Values by block, as logarithms where ratios are wanted.
fn by_block(points: &[Point], basis: Basis) -> BTreeMap<u32, Vec<f64>> {
    let mut blocks: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for point in points {
        blocks.entry(point.block).or_default().push(basis.forth(point.value));
    }
    blocks
}

/// Brings estimate and interval back from where they were made.
fn made(
    basis: Basis,
    estimate: f64,
    interval: Option<(f64, f64)>,
    n: usize,
    method: ChangeMethod,
) -> Change {
    let interval =
        interval.map(|(low, high)| Interval { low: basis.back(low), high: basis.back(high) });
    Change { basis, size: basis.back(estimate), interval, n, method }
}

fn paired(pairs: &[f64], basis: Basis) -> Change {
    let pairs = sorted(pairs.iter().copied());
    let n = pairs.len();
    let averages = n * (n + 1) / 2;
    let Some(cut) = ranks::signed_rank_cut(n) else {
        if n < ENOUGH {
            return made(basis, median(&pairs).unwrap_or(f64::NAN), None, n, ChangeMethod::TooFew);
        }
        let (mean, deviation) = mean_and_deviation(&pairs);
        let half = t_factor(n as f64 - 1.0) * deviation / (n as f64).sqrt();
        return made(basis, mean, Some((mean - half, mean + half)), n, ChangeMethod::PairedT);
    };
    let estimate = middle(averages, |k| ranks::walsh(&pairs, k));
    let ends = (ranks::walsh(&pairs, cut + 1), ranks::walsh(&pairs, averages - cut));
    made(basis, estimate, Some(ends), n, ChangeMethod::PairedRank)
}

fn unpaired(c: &[f64], b: &[f64], basis: Basis) -> Change {
    let n = c.len().min(b.len());
    if n < ENOUGH {
        let estimate = median(c).unwrap_or(f64::NAN) - median(b).unwrap_or(f64::NAN);
        return made(basis, estimate, None, n, ChangeMethod::TooFew);
    }
    let pairs = c.len() * b.len();
    let Some(cut) = ranks::rank_sum_cut(c.len(), b.len()) else {
        let (estimate, half) = welch(c, b);
        return made(
            basis,
            estimate,
            Some((estimate - half, estimate + half)),
            n,
            ChangeMethod::UnpairedT,
        );
    };
    let estimate = middle(pairs, |k| ranks::difference(c, b, k));
    let ends = (ranks::difference(c, b, cut + 1), ranks::difference(c, b, pairs - cut));
    made(basis, estimate, Some(ends), n, ChangeMethod::UnpairedRank)
}

/// The median of `count` ordered values of which `kth` gives the k-th, from 1.
pub(super) fn middle(count: usize, kth: impl Fn(usize) -> f64) -> f64 {
    if count % 2 == 1 {
        return kth(count / 2 + 1);
    }
    kth(count / 2).midpoint(kth(count / 2 + 1))
}

/// Difference of means and half the width of its interval (Welch 1947, Welch-Satterthwaite degrees
/// of freedom).
fn welch(c: &[f64], b: &[f64]) -> (f64, f64) {
    let (c_mean, c_deviation) = mean_and_deviation(c);
    let (b_mean, b_deviation) = mean_and_deviation(b);
    let (n, m) = (c.len() as f64, b.len() as f64);
    let (c_error, b_error) = (c_deviation.powi(2) / n, b_deviation.powi(2) / m);
    let error = c_error + b_error;
    if error == 0.0 {
        return (c_mean - b_mean, 0.0);
    }
    let freedom = error.powi(2) / (c_error.powi(2) / (n - 1.0) + b_error.powi(2) / (m - 1.0));
    (c_mean - b_mean, t_factor(freedom) * error.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn points(values: &[f64]) -> Vec<Point> {
        values.iter().enumerate().map(|(i, v)| Point { block: i as u32, value: *v }).collect()
    }

    #[test]
    fn drift_cancels_in_pairs_only() {
        let host: Vec<f64> = (0..10).map(|i| 100.0 * 1.2f64.powi(i)).collect();
        let wobble = [1.0, 1.01, 0.99, 1.005, 0.995, 1.0, 1.01, 0.99, 1.002, 0.998];
        let slow: Vec<f64> = host.iter().zip(wobble).map(|(h, w)| h * 1.1 * w).collect();
        let together = change(&points(&slow), &points(&host), Basis::Ratio, true).unwrap();
        assert!((together.size - 1.1).abs() < 0.01);
        assert_eq!(together.method, ChangeMethod::PairedRank);
        assert_eq!(together.effect(Direction::LowerIsBetter), Effect::Worse);
        assert_eq!(together.effect(Direction::HigherIsBetter), Effect::Better);
        let apart = change(&points(&slow), &points(&host), Basis::Ratio, false).unwrap();
        assert_eq!(apart.effect(Direction::LowerIsBetter), Effect::NotShown);
    }

    #[test]
    fn few_or_odd_values_are_honest() {
        let one = change(&points(&[2.0]), &points(&[1.0]), Basis::Ratio, true).unwrap();
        assert_eq!((one.interval, one.method), (None, ChangeMethod::TooFew));
        assert_eq!(one.effect(Direction::LowerIsBetter), Effect::Unknown);
        assert_eq!(change(&[], &points(&[1.0]), Basis::Ratio, true), None);
        assert_eq!(change(&points(&[0.0, 1.0]), &points(&[1.0, 1.0]), Basis::Ratio, true), None);
        assert_eq!(change(&points(&[f64::NAN]), &points(&[1.0]), Basis::Ratio, true), None);
        let same = change(&points(&[5.0; 3]), &points(&[5.0; 3]), Basis::Ratio, false).unwrap();
        assert_eq!(same.interval, Some(Interval { low: 1.0, high: 1.0 }));
        let methods: Vec<_> = [2, 5, 6]
            .map(|n| {
                change(&points(&vec![2.0; n]), &points(&vec![1.0; n]), Basis::Ratio, true)
                    .unwrap()
                    .method
            })
            .into();
        assert_eq!(
            methods,
            [ChangeMethod::TooFew, ChangeMethod::PairedT, ChangeMethod::PairedRank]
        );
    }

    #[test]
    fn blocks_that_do_not_meet_are_compared_unpaired() {
        let a: Vec<Point> =
            (0..5).map(|i| Point { block: i, value: 2.0 + f64::from(i) / 100.0 }).collect();
        let b: Vec<Point> = (9..14).map(|i| Point { block: i, value: 1.0 }).collect();
        assert_eq!(change(&a, &b, Basis::Ratio, true).unwrap().method, ChangeMethod::UnpairedRank);
    }

    proptest! {
        #[test]
        fn swapping_the_sides_inverts_the_ratio(a in prop::collection::vec(0.1..10.0f64, 3..30), b in prop::collection::vec(0.1..10.0f64, 3..30), interleaved: bool) {
            let forth = change(&points(&a), &points(&b), Basis::Ratio, interleaved).unwrap();
            let back = change(&points(&b), &points(&a), Basis::Ratio, interleaved).unwrap();
            prop_assert!((forth.size * back.size - 1.0).abs() < 1e-6);
            let (f, k) = (forth.interval.unwrap(), back.interval.unwrap());
            prop_assert!((f.low * k.high - 1.0).abs() < 1e-6);
            prop_assert!(f.low <= forth.size * (1.0 + 1e-9) && forth.size <= f.high * (1.0 + 1e-9));
        }
    }
}

//! Statistics of trial values: the centre of one cell, the change between two, percentile curves.
//!
//! Owns every formula of the reports. Knows no metric, no direction and no text: words and colours
//! are made elsewhere from what is here. Called by the matrix, the figures and the sentences.
//!
//! Which interval is used where, and why (the coverage is simulated in `tests/coverage.rs`):
//!
//! | question | trials | interval (95 %) | source |
//! |---|---|---|---|
//! | centre of one cell | 1 and 2 | none | of two values t makes an interval orders of magnitude wide that bimodal trials still escape |
//! | | 3-5 | Student t on ln(value) | a distribution-free interval cannot reach 95 % below 6 values |
//! | | 6 and more | order statistics | Hahn & Meeker, *Statistical Intervals*, 5.2: holds for any shape, so for bimodal trials too |
//! | change (a ratio), interleaved | 1 and 2 pairs | none | the same |
//! | | 3-5 pairs | Student t on ln(ratio) | the exact signed-rank interval cannot reach 95 % below 6 pairs |
//! | | 6 and more pairs | Hodges-Lehmann, signed rank | Hollander, Wolfe & Chicken, *Nonparametric Statistical Methods*, 3.2-3.3 |
//! | change, not interleaved | too few for the next line | Welch t on ln(value) | Welch 1947 |
//! | | enough for 95 % (4 + 4, say) | Hodges-Lehmann, rank sum | the same book, 4.2-4.3 |
//!
//! Shares of a whole (loss, reordering) change by a difference: the same intervals on plain values.
//!
//! Of two arms in pairs, whose clusters are made several times, the gate's own estimate is `clustered`.
//!
//! A bootstrap is not used for these: on fewer than about ten trials its percentile interval of a median covers
//! far less than it promises, and where trials are many the rank intervals are exact without a seed.

mod centre;
mod change;
pub(crate) mod clustered;
mod percentiles;
mod ranks;

pub use centre::{Centre, CentreMethod, centre, median};
pub use change::{Basis, Change, ChangeMethod, Effect, Point, change};
pub use percentiles::{Curve, CurvePoint, Merged, curve, merge};
pub(crate) use ranks::{midranks, rank_sum_tail};

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

/// The confidence of every interval.
pub const CONFIDENCE: f64 = 0.95;

/// Trials, or pairs, from which on there is an interval.
pub const ENOUGH: usize = 3;

/// "1 trial", "2 trials".
pub fn trials(n: usize) -> String {
    crate::units::counted(n as u64, "trial")
}

/// A closed interval, `low <= high`, in the unit of what it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// True when `value` lies inside or on an end.
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// True when the two share a value.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.low <= other.high && other.low <= self.high
    }
}

/// The two-sided Student t factor for [`CONFIDENCE`].
fn t_factor(degrees_of_freedom: f64) -> f64 {
    // Every caller has at least one degree of freedom; a failure would mean a NaN came in, and an
    // interval without bounds is the honest answer to that.
    StudentsT::new(0.0, 1.0, degrees_of_freedom)
        .map_or(f64::INFINITY, |t| t.inverse_cdf(0.5 + CONFIDENCE / 2.0))
}

/// Mean and standard deviation (n - 1). Needs two values.
fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0)).sqrt())
}

/// Finite values, ascending.
fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

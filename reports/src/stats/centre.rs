//! The centre of one cell: the median of its trial values with an interval.
//!
//! Owns the choice of interval by the number of trials. Called by the matrix and the strips.

use super::{CONFIDENCE, ENOUGH, Interval, mean_and_deviation, sorted, t_factor};
use serde::Serialize;

/// How the interval of a [`Centre`] was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CentreMethod {
    /// Fewer trials than an interval needs ([`super::ENOUGH`]).
    TooFew,
    /// Student t on the logarithms.
    LogT,
    /// Student t on the values themselves, because one of them is not above zero.
    PlainT,
    /// Order statistics (the binomial interval of a median).
    OrderStatistics,
}

impl CentreMethod {
    /// What a caption says of the interval.
    pub fn describe(self) -> &'static str {
        match self {
            Self::TooFew => "fewer than 3 trials: no interval",
            Self::LogT => "95 % interval: t on log values",
            Self::PlainT => "95 % interval: t",
            Self::OrderStatistics => "95 % interval of the median: order statistics",
        }
    }
}

/// The median of a cell's trial values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Centre {
    /// The median.
    pub median: f64,
    /// The 95 % interval; none for fewer than [`super::ENOUGH`] trials.
    pub interval: Option<Interval>,
    /// Number of values.
    pub n: usize,
    /// How the interval was made.
    pub method: CentreMethod,
}

/// The median; of an even number the mean of the middle two. Values that are not finite do not count.
pub fn median(values: &[f64]) -> Option<f64> {
    median_of_sorted(&sorted(values.iter().copied()))
}

fn median_of_sorted(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = sorted[sorted.len() / 2 - 1];
    // Halved first: the sum of two huge values must not overflow.
    Some(lower / 2.0 + upper / 2.0)
}

/// Median and 95 % interval of trial values, none when there is no finite value.
///
/// One or two values have no interval: of two, t makes one that is many orders of magnitude wide and
/// on bimodal trials still covers too little. 3 to 5 get Student t on the logarithms (on the values
/// when one is not above zero, cut at zero when none is below); 6 and more the order-statistics
/// interval, which covers the median of any distribution.
pub fn centre(values: &[f64]) -> Option<Centre> {
    let sorted = sorted(values.iter().copied());
    let median = median_of_sorted(&sorted)?;
    let n = sorted.len();
    let (interval, method) = match n {
        1..ENOUGH => (None, CentreMethod::TooFew),
        3..=5 if sorted[0] > 0.0 => {
            let logs: Vec<f64> = sorted.iter().map(|v| v.ln()).collect();
            let t = t_interval(&logs);
            let interval = Interval { low: t.low.exp(), high: t.high.exp() };
            (Some(interval), CentreMethod::LogT)
        }
        3..=5 => {
            let mut t = t_interval(&sorted);
            if sorted[0] >= 0.0 {
                t.low = t.low.max(0.0);
            }
            (Some(t), CentreMethod::PlainT)
        }
        _ => {
            let skip = order_statistic_skip(n);
            let interval = Interval { low: sorted[skip], high: sorted[n - 1 - skip] };
            (Some(interval), CentreMethod::OrderStatistics)
        }
    };
    Some(Centre { median, interval, n, method })
}

impl Centre {
    /// The same with an interval that stays within what the value can be.
    pub fn within(mut self, bounds: Interval) -> Self {
        if let Some(i) = &mut self.interval {
            (i.low, i.high) = (i.low.max(bounds.low), i.high.min(bounds.high));
        }
        self
    }
}

fn t_interval(values: &[f64]) -> Interval {
    let (mean, deviation) = mean_and_deviation(values);
    let n = values.len() as f64;
    let half = t_factor(n - 1.0) * deviation / n.sqrt();
    Interval { low: mean - half, high: mean + half }
}

/// How many values to leave out at either end so that the rest still covers the median with at
/// least 95 %: the largest k with P(Binomial(n, 1/2) <= k - 1) <= 2.5 %, minus one as an index.
fn order_statistic_skip(n: usize) -> usize {
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let mut ln_mass = -(n as f64) * std::f64::consts::LN_2;
    let mut cumulative = 0.0;
    for k in 0..n {
        cumulative += ln_mass.exp();
        if cumulative > tail {
            return k.saturating_sub(1);
        }
        ln_mass += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranks_are_those_of_the_tables() {
        // Hahn & Meeker, table A.15a, two-sided 95 %: n = 10 -> 2 and 9, n = 20 -> 6 and 15,
        // n = 50 -> 18 and 33, n = 100 -> 40 and 61.
        for (n, low) in [(6, 1), (10, 2), (20, 6), (50, 18), (100, 40)] {
            assert_eq!(order_statistic_skip(n) + 1, low, "n = {n}");
        }
        assert!(order_statistic_skip(10_000) > 4800);
    }

    #[test]
    fn t_on_logs_by_hand() {
        // ln 1, ln e, ln e^2: mean 1, deviation 1, t(2) = 4.302653.
        let values = [1.0, std::f64::consts::E, std::f64::consts::E.powi(2)];
        let c = centre(&values).unwrap();
        let half = 4.302_653 / 3f64.sqrt();
        let interval = c.interval.unwrap();
        assert!((interval.low.ln() - (1.0 - half)).abs() < 1e-5);
        assert!((interval.high.ln() - (1.0 + half)).abs() < 1e-5);
        assert_eq!(c.method, CentreMethod::LogT);
    }

    #[test]
    fn odd_values_do_not_panic() {
        assert_eq!(centre(&[]), None);
        assert_eq!(centre(&[f64::NAN, f64::INFINITY]), None);
        for few in [vec![7.0], vec![7.0, 8.0]] {
            let c = centre(&few).unwrap();
            assert_eq!((c.interval, c.method), (None, CentreMethod::TooFew));
        }
        let share =
            Centre { interval: Some(Interval { low: -0.2, high: 1.3 }), ..centre(&[0.5]).unwrap() };
        let bounds = Interval { low: 0.0, high: 1.0 };
        assert_eq!(share.within(bounds).interval, Some(bounds));
        let zero = centre(&[0.0, 0.0, 0.0]).unwrap();
        assert_eq!(zero.interval, Some(Interval { low: 0.0, high: 0.0 }));
        assert_eq!(zero.method, CentreMethod::PlainT);
        assert_eq!(centre(&[f64::MAX, f64::MAX]).unwrap().median, f64::MAX);
        assert_eq!(centre(&[0.0, 0.1, 5.0]).unwrap().interval.unwrap().low, 0.0);
    }

    proptest! {
        #[test]
        fn the_median_lies_in_its_interval(values in prop::collection::vec(1e-9..1e12f64, 3..60)) {
            let c = centre(&values).unwrap();
            let i = c.interval.unwrap();
            prop_assert!(i.low <= c.median * (1.0 + 1e-9) && c.median <= i.high * (1.0 + 1e-9));
        }

        #[test]
        fn scale_changes_nothing_else(values in prop::collection::vec(0.5..2.0f64, 3..20), scale in 0.001..1e6f64) {
            let a = centre(&values).unwrap().interval.unwrap();
            let scaled: Vec<f64> = values.iter().map(|v| v * scale).collect();
            let b = centre(&scaled).unwrap().interval.unwrap();
            prop_assert!((b.low / a.low / scale - 1.0).abs() < 1e-6);
            prop_assert!((b.high / a.high / scale - 1.0).abs() < 1e-6);
        }
    }
}

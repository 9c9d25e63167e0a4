//! From an estimate and a floor to a verdict; and the correction for how many verdicts there are.
//!
//! Owns the rule and nothing else: no record, no policy, no text. Called by `judge`.

use crate::stats::Basis;
use cnibench_model::{Direction, Verdict};

/// A change with its interval, on the scale on which it was estimated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Judged {
    pub estimate: f64,
    /// None: too little for one.
    pub interval: Option<(f64, f64)>,
}

/// Sizes from which on a change counts, and which way is bad.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bounds {
    pub basis: Basis,
    pub direction: Direction,
    /// A share of the baseline, or a difference.
    pub floor: f64,
    /// The same, of the largest improvement that is believed.
    pub allowed_improvement: Option<f64>,
}

/// What the rule found, with what a sentence needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    Regression,
    Improvement,
    /// An improvement larger than is believed.
    TooGood,
    /// No change for the worse that is as large as the floor.
    NoneAsLarge,
    /// A change that is shown and smaller than the floor.
    Small,
    /// The interval reaches beyond the floor and is wider than it.
    Wide,
    /// There is no interval.
    NoInterval,
}

impl Finding {
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Regression => Verdict::Regression,
            Self::Improvement => Verdict::Improvement,
            Self::NoneAsLarge | Self::Small => Verdict::Pass,
            Self::TooGood | Self::Wide | Self::NoInterval => Verdict::Inconclusive,
        }
    }
}

/// Two sizes that differ by less are the same: a record's numbers come back from text.
const SAME: f64 = 1e-9;

impl Bounds {
    /// A size as the estimate's scale has it, on the side where there is more than before or less. A
    /// share of the whole or more can never be lost.
    pub fn on_scale(&self, size: f64, more: bool) -> f64 {
        match (self.basis, more) {
            (Basis::Difference, _) => size,
            (Basis::Ratio, true) => size.ln_1p(),
            (Basis::Ratio, false) if size < 1.0 => -(-size).ln_1p(),
            (Basis::Ratio, false) => f64::INFINITY,
        }
    }

    /// Judges a change.
    pub fn judge(&self, judged: Judged) -> Finding {
        let more_is_bad = self.direction == Direction::LowerIsBetter;
        let floor = self.on_scale(self.floor, more_is_bad);
        let good_floor = self.on_scale(self.floor, !more_is_bad);
        let Some((low, high)) = judged.interval else { return Finding::NoInterval };
        // From here on larger is worse.
        let (estimate, low, high) = match more_is_bad {
            true => (judged.estimate, low, high),
            false => (-judged.estimate, -high, -low),
        };
        if low > 0.0 && estimate >= floor - SAME {
            return Finding::Regression;
        }
        if high < 0.0 && -estimate >= good_floor - SAME {
            let most = self.allowed_improvement.map(|size| self.on_scale(size, !more_is_bad));
            return match most {
                Some(most) if -estimate > most + SAME => Finding::TooGood,
                _ => Finding::Improvement,
            };
        }
        if high > floor && high - low > floor {
            return Finding::Wide;
        }
        if low > 0.0 || high < 0.0 { Finding::Small } else { Finding::NoneAsLarge }
    }
}

/// The error rate that each of several tests may use, so that the chance of any false one stays below
/// `alpha` (Holm, "A simple sequentially rejective multiple test procedure", 1979): the clearest is
/// tested as one of all, the next, if that one held, as one of those that are left, and from the first
/// that does not hold on all the others as one of as many. Intervals at these rates leave out no change
/// exactly where the test does.
pub(crate) fn holm(p_values: &[f64], alpha: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut out = vec![alpha; p_values.len()];
    let mut held = true;
    let mut rate = alpha;
    for (done, index) in order.into_iter().enumerate() {
        if held {
            rate = alpha / (p_values.len() - done) as f64;
            held = p_values[index] <= rate;
        }
        out[index] = rate;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bounds(direction: Direction) -> Bounds {
        Bounds { basis: Basis::Ratio, direction, floor: 0.03, allowed_improvement: Some(0.5) }
    }

    fn of(direction: Direction, low: f64, size: f64, high: f64) -> Finding {
        let interval = Some((low.ln(), high.ln()));
        bounds(direction).judge(Judged { estimate: size.ln(), interval })
    }

    #[test]
    fn every_kind_of_finding_in_both_directions() {
        use Finding::*;
        for (low, size, high, latency, throughput) in [
            (1.01, 1.04, 1.07, Regression, Improvement),
            (1.03, 1.03, 1.03, Regression, Improvement),
            (0.93, 0.96, 0.99, Improvement, Regression),
            (0.97, 0.97, 0.97, Improvement, Regression),
            (0.30, 0.40, 0.45, TooGood, Regression),
            (1.60, 1.70, 1.80, Regression, TooGood),
            (0.99, 1.00, 1.01, NoneAsLarge, NoneAsLarge),
            (1.01, 1.02, 1.035, Small, Small),
            (0.96, 1.01, 1.06, Wide, Wide),
            // Far to the good side and wide: no regression as large as the floor is left in it.
            (0.90, 0.98, 1.02, NoneAsLarge, Wide),
            (1.0, 1.0, 1.0, NoneAsLarge, NoneAsLarge),
        ] {
            let told = of(Direction::LowerIsBetter, low, size, high);
            assert_eq!(told, latency, "latency {low} {size} {high}");
            let told = of(Direction::HigherIsBetter, low, size, high);
            assert_eq!(told, throughput, "throughput {low} {size} {high}");
        }
        let nothing = Judged { estimate: 0.5, interval: None };
        assert_eq!(bounds(Direction::LowerIsBetter).judge(nothing), NoInterval);
    }

    #[test]
    fn a_floor_of_everything_is_never_lost_and_shares_differ_by_points() {
        let all = Bounds { floor: 1.0, ..bounds(Direction::HigherIsBetter) };
        let lost = Judged { estimate: 0.01f64.ln(), interval: Some((0.005f64.ln(), 0.02f64.ln())) };
        assert_eq!(all.judge(lost), Finding::Small);
        let points =
            Bounds { basis: Basis::Difference, floor: 0.01, ..bounds(Direction::LowerIsBetter) };
        let more = Judged { estimate: 0.02, interval: Some((0.005, 0.03)) };
        assert_eq!(points.judge(more), Finding::Regression);
    }

    #[test]
    fn holm_steps_down_and_stops_at_the_first_that_does_not_hold() {
        let alphas = holm(&[0.5, 0.001, 0.012, 0.2], 0.04);
        // 0.001 <= 0.04 / 4, 0.012 <= 0.04 / 3, 0.2 > 0.04 / 2: it and the last stay at that.
        assert_eq!(alphas, [0.02, 0.01, 0.04 / 3.0, 0.02]);
        assert_eq!(holm(&[], 0.04), [0.0; 0]);
    }

    proptest! {
        #[test]
        fn the_direction_mirrors_the_rule(low in -0.2..0.1f64, up in 0.0..0.2f64, share in 0.0..1.0f64) {
            let (high, estimate) = (low + up, low + up * share);
            let symmetric = |direction| Bounds {
                basis: Basis::Difference,
                direction,
                floor: 0.03,
                allowed_improvement: None,
            };
            let one = symmetric(Direction::LowerIsBetter)
                .judge(Judged { estimate, interval: Some((low, high)) });
            let other = symmetric(Direction::HigherIsBetter)
                .judge(Judged { estimate: -estimate, interval: Some((-high, -low)) });
            prop_assert_eq!(one, other);
        }
    }
}

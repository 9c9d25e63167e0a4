//! Axes: from values to places, and where ticks stand.
//!
//! Owns ranges and round numbers. Called by the figures that have an axis.

/// A linear or logarithmic axis between two places.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Axis {
    low: f64,
    high: f64,
    log: bool,
    from: f64,
    to: f64,
}

/// Values further apart than this are drawn on a logarithmic axis.
const LOG_FROM: f64 = 12.0;

impl Axis {
    /// From zero to a little above the largest value.
    pub fn from_zero(values: &[f64], from: f64, to: f64) -> Self {
        let largest = finite(values).fold(0.0, f64::max);
        let high = if largest > 0.0 { largest * 1.06 } else { 1.0 };
        Self { low: 0.0, high, log: false, from, to }
    }

    /// From zero to exactly `high`.
    pub fn to(high: f64, from: f64, to: f64) -> Self {
        Self { low: 0.0, high, log: false, from, to }
    }

    /// Around the values; logarithmic when they span more than an order of magnitude.
    pub fn around(values: &[f64], from: f64, to: f64) -> Self {
        let low = finite(values).fold(f64::INFINITY, f64::min);
        let high = finite(values).fold(f64::NEG_INFINITY, f64::max).min(1e300);
        if low > 0.0 && high / low > LOG_FROM {
            return Self::log(values, from, to);
        }
        if !(low.is_finite() && high.is_finite()) {
            return Self { low: 0.0, high: 1.0, log: false, from, to };
        }
        // A margin at either end, and no axis so short that noise fills it.
        let span = (high - low).max(high.abs() * 0.02).max(f64::MIN_POSITIVE * 1e6);
        let below = low - span * 0.08;
        let low = if low >= 0.0 { below.max(0.0) } else { below };
        Self { low, high: high + span * 0.08, log: false, from, to }
    }

    /// Logarithmic, a little wider than the values above zero.
    pub fn log(values: &[f64], from: f64, to: f64) -> Self {
        let positive = || finite(values).filter(|v| *v > 0.0);
        let low = positive().fold(f64::INFINITY, f64::min);
        let high = positive().fold(0.0, f64::max);
        if !(low.is_finite() && high > 0.0) {
            return Self { low: 1.0, high: 10.0, log: true, from, to };
        }
        let pad = (high / low).powf(0.06).max(1.05);
        // Kept finite: a sick record must not make an axis without end.
        let (low, high) = ((low / pad).max(1e-300), (high * pad).min(1e300));
        Self { low, high, log: true, from, to }
    }

    /// Where a value stands; values outside are put on the nearer end.
    pub fn at(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
        self.from + (self.to - self.from) * share
    }

    /// True when the value is on the axis and not beyond an end.
    pub fn covers(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// Round values inside the axis, about as many as asked for.
    pub fn ticks(&self, about: usize) -> Vec<f64> {
        if self.log { self.log_ticks(about) } else { self.linear_ticks(about) }
    }

    fn linear_ticks(&self, about: usize) -> Vec<f64> {
        let rough = (self.high - self.low) / about.max(1) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|s| s * power)
            .into_iter()
            .find(|s| *s >= rough * 0.999)
            .unwrap_or(rough);
        if !(step.is_finite() && step > 0.0) {
            return Vec::new();
        }
        let first = (self.low / step).ceil() as i64;
        (first..=first + 40)
            .map(|i| i as f64 * step)
            .take_while(|v| *v <= self.high * (1.0 + 1e-9))
            .collect()
    }

    fn log_ticks(&self, about: usize) -> Vec<f64> {
        let every: [&[f64]; 3] =
            [&[1.0], &[1.0, 2.0, 5.0], &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]];
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        // Far too many decades for the room: every second, third, ... of them.
        let step = (last - first).unsigned_abs() as usize / (about.max(1) * 2) + 1;
        let ticks = |mantissas: &[f64]| -> Vec<f64> {
            (first..=last)
                .step_by(step)
                .flat_map(|d| mantissas.iter().map(move |m| m * 10f64.powi(d)))
                .filter(|v| (self.low..=self.high).contains(v))
                .collect()
        };
        let mut best = ticks(every[0]);
        for mantissas in &every[1..] {
            let more = ticks(mantissas);
            if best.len() < 3 && more.len() <= about * 2 {
                best = more;
            }
        }
        if best.len() < 2 { self.linear_ticks(about) } else { best }
    }
}

/// Values that can be drawn; those beyond 1e300 would overflow on the way.
fn finite(values: &[f64]) -> impl Iterator<Item = f64> + '_ {
    values.iter().copied().filter(|v| v.abs() <= 1e300)
}

/// Decimals that tell the ticks apart, after division by the unit's divisor.
pub(crate) fn tick_decimals(ticks: &[f64], divisor: f64) -> usize {
    let gap = ticks.windows(2).map(|w| (w[1] - w[0]) / divisor).fold(f64::INFINITY, f64::min);
    if !gap.is_finite() || gap <= 0.0 {
        return 1;
    }
    // 0.25 and 0.5 need a digit more than their magnitude says: try until nothing is lost.
    (0..6)
        .find(|d| {
            let scale = 10f64.powi(*d as i32);
            ticks.iter().all(|t| {
                let v = t / divisor * scale;
                (v - v.round()).abs() < 1e-6 * scale.max(v.abs())
            })
        })
        .unwrap_or(6)
}

/// Moves labels apart: places as near to `wanted` as they can be with `gap` between neighbours,
/// inside `low..=high` as far as there is room. The order of `wanted` is kept by value.
pub(crate) fn spread(wanted: &[f64], gap: f64, low: f64, high: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    // Less `i` gaps each, the places only have to ascend: the nearest that do are means of runs that
    // did not (pooling of adjacent violators).
    let mut runs: Vec<(f64, usize)> = Vec::new();
    for (i, index) in order.iter().enumerate() {
        let mut run = (wanted[*index] - i as f64 * gap, 1);
        while let Some(before) = runs.pop_if(|before| before.0 > run.0) {
            let n = before.1 + run.1;
            run = ((before.0 * before.1 as f64 + run.0 * run.1 as f64) / n as f64, n);
        }
        runs.push(run);
    }
    let last = (high - order.len().saturating_sub(1) as f64 * gap).max(low);
    let placed = runs.into_iter().flat_map(|(place, n)| vec![place.clamp(low, last); n]);
    let mut out = vec![0.0; wanted.len()];
    for (i, (place, index)) in placed.zip(order).enumerate() {
        out[index] = place + i as f64 * gap;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ticks_are_round() {
        let axis = Axis::from_zero(&[36.2], 0.0, 100.0);
        assert_eq!(axis.ticks(4), [0.0, 10.0, 20.0, 30.0]);
        let axis = Axis::log(&[18.0, 2400.0], 0.0, 100.0);
        assert_eq!(axis.ticks(6), [20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0]);
        assert_eq!(tick_decimals(&[0.0, 0.25, 0.5], 1.0), 2);
        assert_eq!(tick_decimals(&[0.0, 1e9, 2e9], 1e9), 0);
    }

    #[test]
    fn odd_ranges_do_not_panic() {
        for values in
            [&[][..], &[0.0], &[f64::NAN], &[5.0, 5.0], &[1e300, 1.0], &[-1.0, 1.0], &[1e-300]]
        {
            for axis in [
                Axis::from_zero(values, 0.0, 9.0),
                Axis::around(values, 0.0, 9.0),
                Axis::log(values, 9.0, 0.0),
            ] {
                assert!(axis.ticks(5).len() < 60);
                assert!(values.iter().all(|v| (0.0..=9.0).contains(&axis.at(*v))));
            }
        }
    }

    #[test]
    fn crowded_labels_give_way_to_both_sides() {
        assert_eq!(spread(&[100.0, 100.0, 100.0], 40.0, 0.0, 500.0), [60.0, 100.0, 140.0]);
        assert_eq!(spread(&[10.0, 20.0, 300.0], 40.0, 0.0, 500.0), [0.0, 40.0, 300.0]);
        assert_eq!(spread(&[490.0, 495.0], 40.0, 0.0, 500.0), [460.0, 500.0]);
    }

    proptest! {
        #[test]
        fn spread_labels_keep_their_distance(wanted in prop::collection::vec(0.0..500.0f64, 1..12)) {
            let placed = spread(&wanted, 40.0, 0.0, 500.0);
            let mut sorted = placed.clone();
            sorted.sort_by(f64::total_cmp);
            prop_assert!(sorted.windows(2).all(|w| w[1] - w[0] > 39.999));
            prop_assert!(sorted.iter().all(|p| (-0.001..=500.001).contains(p)));
        }
    }
}

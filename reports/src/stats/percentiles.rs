//! Percentiles over all transactions of a cell, from its trials' merged histograms.
//!
//! Owns where a curve may honestly end. Called by the percentile figure.

use cnibench_model::StoredHistogram;
use hdrhistogram::Histogram;

/// A percentile needs at least this many samples beyond it to be drawn.
pub const SAMPLES_BEYOND: f64 = 10.0;
/// Points of a curve from p50 to p99.99; more cannot be told apart at the width of a figure.
const POINTS: u32 = 160;

/// Histograms of trials added up.
#[derive(Debug, Clone)]
pub struct Merged {
    /// All of them together.
    pub histogram: Histogram<u64>,
    /// How many could not be decoded or did not fit; the report says so.
    pub unreadable: usize,
}

/// Adds up stored histograms; none when none could be read.
pub fn merge<'a>(stored: impl IntoIterator<Item = &'a StoredHistogram>) -> Option<Merged> {
    let mut sum: Option<Histogram<u64>> = None;
    let mut unreadable = 0;
    for text in stored {
        let Ok(mut histogram) = text.decode() else {
            unreadable += 1;
            continue;
        };
        match &mut sum {
            // Histograms of other tools may have other bounds: the sum grows as needed.
            None => {
                histogram.auto(true);
                sum = Some(histogram);
            }
            Some(sum) => unreadable += usize::from(sum.add(&histogram).is_err()),
        }
    }
    sum.map(|histogram| Merged { histogram, unreadable })
}

/// One point of a [`Curve`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CurvePoint {
    /// Share of samples at or below the value, 0.5 to 0.9999.
    pub quantile: f64,
    /// The value, in the histogram's unit.
    pub value: f64,
}

/// A percentile curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Points with ascending quantile, evenly spaced in -log10(1 - quantile).
    pub points: Vec<CurvePoint>,
    /// Samples in the histogram.
    pub samples: u64,
}

/// The curve from p50 to p99.99, cut where fewer than [`SAMPLES_BEYOND`] samples remain; without
/// points when even the median has fewer.
pub fn curve(histogram: &Histogram<u64>) -> Curve {
    let samples = histogram.len();
    let last = (samples as f64 / SAMPLES_BEYOND).log10().min(4.0);
    let first = 2f64.log10();
    let mut points = Vec::new();
    if last >= first {
        for i in 0..=POINTS {
            let depth = first + (last - first) * f64::from(i) / f64::from(POINTS);
            let quantile = 1.0 - 10f64.powf(-depth);
            let value = histogram.value_at_quantile(quantile) as f64;
            points.push(CurvePoint { quantile, value });
        }
    }
    Curve { points, samples }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnibench_model::histogram;

    fn stored(values: impl Iterator<Item = u64>) -> StoredHistogram {
        let mut h = histogram::empty();
        values.for_each(|v| h.record(v).unwrap());
        StoredHistogram::encode(&h).unwrap()
    }

    #[test]
    fn a_merged_histogram_is_that_of_all_samples() {
        let (a, b) = (stored(1..=500), stored(501..=1000));
        let merged = merge([&a, &b]).unwrap();
        assert_eq!(merged.histogram.len(), 1000);
        assert_eq!(merged.histogram.value_at_quantile(0.5), 500);
        assert_eq!(merged.unreadable, 0);
    }

    #[test]
    fn what_cannot_be_read_is_counted_and_no_more() {
        let merged = merge([&StoredHistogram("rubbish".to_owned()), &stored(1..=5)]).unwrap();
        assert_eq!((merged.histogram.len(), merged.unreadable), (5, 1));
        assert!(merge([&StoredHistogram(String::new())]).is_none());
    }

    #[test]
    fn the_curve_ends_with_ten_samples_beyond() {
        let c = curve(&stored(1..=1000).decode().unwrap());
        assert!((c.points.last().unwrap().quantile - 0.99).abs() < 1e-9);
        assert!((c.points.last().unwrap().value - 990.0).abs() <= 1.0);
        assert!((c.points[0].quantile - 0.5).abs() < 1e-9);
        assert!(curve(&stored(1..=19).decode().unwrap()).points.is_empty());
        let million = curve(&stored((0..1_000_000).map(|i| 1 + i % 1000)).decode().unwrap());
        assert!((million.points.last().unwrap().quantile - 0.9999).abs() < 1e-9);
    }
}

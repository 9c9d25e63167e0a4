//! Numbers as people read them: prefix, digits and unit for a set of values shown together.
//!
//! Owns prefixes and rounding. One scale serves a whole row, so that numbers which are compared have
//! one unit and one number of decimals. Called by every renderer.

use crate::stats::Interval;
use cnibench_model::{Clock, Metric, Rate, Unit, Workload};

/// How the values of one row or axis are written.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    /// Stored values are divided by this.
    pub divisor: f64,
    /// The unit with its prefix, e.g. "Gbit/s".
    pub unit: String,
    /// Digits after the decimal point.
    pub decimals: usize,
}

const LARGE: [(f64, &str); 5] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")];
const TIMES: [(f64, &str); 4] = [(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")];
const CPU_TIMES: [(f64, &str); 4] = [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")];

fn prefix<'a>(largest: f64, table: &[(f64, &'a str)]) -> (f64, &'a str) {
    let fitting = table.iter().find(|(step, _)| largest >= *step);
    fitting.or(table.last()).copied().unwrap_or((1.0, ""))
}

impl Scale {
    /// A scale for values of a metric and the intervals around them.
    ///
    /// Three significant digits of the largest, at least two of the smallest, and no digit that the
    /// narrowest interval does not justify.
    pub fn of(metric: Metric, clock: Clock, values: &[f64], intervals: &[Interval]) -> Self {
        let (divisor, unit) = Self::unit_for(metric, clock, values);
        let sizes =
            || values.iter().map(|v| (v / divisor).abs()).filter(|v| v.is_finite() && *v > 0.0);
        let digits_before = |v: f64| v.log10().floor() as i32 + 1;
        let largest = sizes().fold(f64::NAN, f64::max);
        let smallest = sizes().fold(f64::NAN, f64::min);
        let mut decimals = 0;
        if largest.is_finite() {
            decimals = (3 - digits_before(largest)).max(2 - digits_before(smallest));
        }
        let widths = intervals.iter().map(|i| (i.high - i.low) / divisor);
        let narrowest = widths.filter(|w| w.is_finite() && *w > 0.0).fold(f64::NAN, f64::min);
        if narrowest.is_finite() {
            decimals = decimals.min(2 - digits_before(narrowest));
        }
        Self { divisor, unit, decimals: decimals.clamp(0, 3) as usize }
    }

    fn unit_for(metric: Metric, clock: Clock, values: &[f64]) -> (f64, String) {
        let finite = values.iter().map(|v| v.abs()).filter(|v| v.is_finite());
        let largest = finite.fold(0.0, f64::max);
        let large = || prefix(largest, &LARGE);
        match metric.unit() {
            Unit::BitsPerSecond => {
                let (divisor, prefix) = large();
                (divisor, format!("{prefix}bit/s"))
            }
            Unit::TransactionsPerSecond | Unit::PacketsPerSecond | Unit::Count => {
                let (divisor, prefix) = large();
                let space = if prefix.is_empty() { "" } else { " " };
                let what = match metric.unit() {
                    Unit::TransactionsPerSecond => "transactions/s",
                    Unit::PacketsPerSecond => "packets/s",
                    _ => "",
                };
                (divisor, format!("{prefix}{space}{what}").trim_end().to_owned())
            }
            Unit::Nanoseconds if clock == Clock::Instructions => {
                let (divisor, prefix) = large();
                let space = if prefix.is_empty() { "" } else { " " };
                (divisor, format!("{prefix}{space}instructions"))
            }
            Unit::Nanoseconds => {
                let (divisor, unit) = prefix(largest, &TIMES);
                (divisor, unit.to_owned())
            }
            Unit::Ratio => (0.01, "%".to_owned()),
            Unit::CpuSecondsPerGigabit => {
                let (divisor, unit) = prefix(largest, &CPU_TIMES);
                (divisor, format!("CPU {unit}/Gbit"))
            }
            Unit::CpuSecondsPerTransaction => {
                let (divisor, unit) = prefix(largest, &CPU_TIMES);
                (divisor, format!("CPU {unit}/transaction"))
            }
        }
    }

    /// A value without its unit.
    pub fn number(&self, value: f64) -> String {
        number(value / self.divisor, self.decimals)
    }

    /// A value with its unit.
    pub fn text(&self, value: f64) -> String {
        format!("{} {}", self.number(value), self.unit).trim_end().to_owned()
    }

    /// "low–high" without the unit.
    pub fn interval(&self, interval: Interval) -> String {
        let (low, high) = (self.number(interval.low), self.number(interval.high));
        if low == high { low } else { format!("{low}–{high}") }
    }
}

/// A number with so many decimals; without a minus before zero, and in powers of ten where digits
/// would fill the page.
pub(crate) fn number(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    if value.abs() >= 1e7 {
        return format!("{value:.2e}");
    }
    let text = format!("{value:.decimals$}");
    let zero = text.starts_with('-') && text.chars().all(|c| matches!(c, '-' | '0' | '.'));
    if zero { text[1..].to_owned() } else { text.replace('-', "−") }
}

/// A count with its thousands apart: "2,415,960".
pub(crate) fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A time in words: "0.5 s", "250 ms".
pub(crate) fn seconds(value: f64) -> String {
    if value >= 1.0 || value <= 0.0 {
        let text = format!("{value:.2}");
        return format!("{} s", text.trim_end_matches('0').trim_end_matches('.'));
    }
    format!("{} ms", number(value * 1e3, 0))
}

/// An offered rate with its unit: "2 Gbit/s" of a stream, "5,000 transactions/s" of the others.
pub(crate) fn rate(rate: Rate, workload: Workload) -> String {
    if workload.is_transactional() {
        return match rate.0 {
            r if r >= 1.0 => format!("{} transactions/s", thousands(r.round() as u64)),
            r => format!("{r} transactions/s"),
        };
    }
    let (divisor, prefix) = prefix(rate.0, &LARGE);
    let text = format!("{:.3}", rate.0 / divisor);
    format!("{} {prefix}bit/s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Bytes with a binary prefix.
pub(crate) fn bytes(value: u64) -> String {
    let steps = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match steps.iter().find(|(step, _)| value >= *step) {
        Some((step, unit)) => {
            let text = format!("{:.1}", value as f64 / *step as f64);
            format!("{} {unit}", text.trim_end_matches(".0"))
        }
        None if value == 1 => "1 byte".to_owned(),
        None => format!("{value} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(metric: Metric, values: &[f64]) -> Scale {
        Scale::of(metric, Clock::Wall, values, &[])
    }

    #[test]
    fn a_row_has_one_unit_and_one_number_of_decimals() {
        let s = scale(Metric::Throughput, &[36.24e9, 2.913e9]);
        assert_eq!(
            (s.text(36.24e9), s.text(2.913e9)),
            ("36.2 Gbit/s".to_owned(), "2.9 Gbit/s".to_owned())
        );
        let s = scale(Metric::LatencyP50, &[18_432.0, 61_001.0]);
        assert_eq!((s.number(18_432.0), s.unit.as_str()), ("18.4".to_owned(), "µs"));
        assert_eq!(scale(Metric::Loss, &[0.0123]).text(0.0123), "1.23 %");
        assert_eq!(
            scale(Metric::CpuPerTransaction, &[2.1e-5]).text(2.1e-5),
            "21.0 CPU µs/transaction"
        );
        assert_eq!(scale(Metric::Retransmits, &[12.0]).text(12.0), "12.0");
    }

    #[test]
    fn digits_stop_where_the_interval_ends_them() {
        let wide = Interval { low: 30.1e9, high: 39.7e9 };
        let s = Scale::of(Metric::Throughput, Clock::Wall, &[36.24e9], &[wide]);
        assert_eq!(
            (s.number(36.24e9), s.interval(wide)),
            ("36.2".to_owned(), "30.1–39.7".to_owned())
        );
        let wider = Interval { low: 20.1e9, high: 49.7e9 };
        let s = Scale::of(Metric::Throughput, Clock::Wall, &[36.24e9], &[wider]);
        assert_eq!(s.interval(wider), "20–50");
    }

    #[test]
    fn instructions_are_not_nanoseconds() {
        let s = Scale::of(Metric::LatencyP50, Clock::Instructions, &[40_181.0], &[]);
        assert_eq!(s.text(40_181.0), "40.2 k instructions");
    }

    #[test]
    fn odd_values_have_a_text() {
        for values in [&[][..], &[0.0], &[f64::NAN], &[1e300], &[f64::MIN_POSITIVE]] {
            for metric in Metric::ALL {
                let s = scale(*metric, values);
                assert!(values.iter().all(|v| s.text(*v).len() < 40), "{metric} {values:?}");
            }
        }
        assert_eq!([0, 999, 1000, 2_415_960].map(thousands), ["0", "999", "1,000", "2,415,960"]);
        assert_eq!(rate(Rate(2e9), Workload::UdpStream), "2 Gbit/s");
        assert_eq!(rate(Rate(2.5e8), Workload::TcpStream), "250 Mbit/s");
        assert_eq!(rate(Rate(5000.0), Workload::UdpRr), "5,000 transactions/s");
        assert_eq!(number(-0.0001, 2), "0.00");
        assert_eq!(number(f64::NAN, 2), "–");
        assert_eq!(
            (seconds(0.5), seconds(2.0), bytes(24 << 30)),
            ("500 ms".into(), "2 s".into(), "24 GiB".into())
        );
    }
}

//! Numbers as people read them: prefix, digits and unit for a set of values shown together.
//!
//! Owns prefixes and rounding. One scale serves a whole row, so that numbers which are compared have
//! one unit; each value has the digits that its own size and interval are worth. Called by every renderer.

use crate::stats::{Centre, Interval};
use cnibench_model::{Clock, Metric, Rate, Unit, Workload};

/// How the values of one row or axis are written.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    /// Stored values are divided by this.
    pub divisor: f64,
    /// The unit with its prefix, e.g. "Gbit/s".
    pub unit: String,
}

/// Significant digits of a value; its interval may leave fewer, never more.
const DIGITS: i32 = 3;
/// Significant digits that even a wide interval leaves, so that its lower end is not rounded to zero.
const DIGITS_LEFT: i32 = 2;
/// Significant digits of an interval's width that are worth showing.
const DIGITS_OF_WIDTH: i32 = 2;

const LARGE: [(f64, &str); 5] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")];
const TIMES: [(f64, &str); 4] = [(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")];
const CPU_TIMES: [(f64, &str); 4] = [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")];

fn prefix<'a>(largest: f64, table: &[(f64, &'a str)]) -> (f64, &'a str) {
    let fitting = table.iter().find(|(step, _)| largest >= *step);
    fitting.or(table.last()).copied().unwrap_or((1.0, ""))
}

impl Scale {
    /// A scale for values of a metric that are shown together.
    pub fn of(metric: Metric, clock: Clock, values: &[f64]) -> Self {
        let (divisor, unit) = Self::unit_for(metric, clock, values);
        Self { divisor, unit }
    }

    fn unit_for(metric: Metric, clock: Clock, values: &[f64]) -> (f64, String) {
        let finite = values.iter().map(|v| v.abs()).filter(|v| v.is_finite());
        let largest = finite.fold(0.0, f64::max);
        let large = || prefix(largest, &LARGE);
        let instructions = |(divisor, prefix): (f64, &str)| {
            let space = if prefix.is_empty() { "" } else { " " };
            (divisor, format!("{prefix}{space}instructions"))
        };
        match metric.unit() {
            // A second is 10^9 instructions of such a clock.
            Unit::BitsPerSecond if clock == Clock::Instructions => {
                (1e9, "bit/instruction".to_owned())
            }
            Unit::TransactionsPerSecond if clock == Clock::Instructions => {
                (1e3, "transactions/M instructions".to_owned())
            }
            Unit::PacketsPerSecond if clock == Clock::Instructions => {
                (1e3, "packets/M instructions".to_owned())
            }
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
            Unit::Nanoseconds if clock == Clock::Instructions => instructions(large()),
            Unit::Instructions => instructions(large()),
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

    /// Decimals of a value: three significant digits, and none that its own interval does not justify.
    fn decimals(&self, value: f64, interval: Option<Interval>) -> usize {
        let digits_before = |v: f64| (v / self.divisor).abs().log10().floor() as i32 + 1;
        let usable = |v: &f64| v.is_finite() && *v != 0.0;
        let ends = interval.into_iter().flat_map(|i| [i.low, i.high]);
        // A zero has no digits of its own: the interval's ends tell what is worth showing.
        let size = [value].into_iter().chain(ends).find(usable);
        let mut decimals = size.map_or(0, |v| DIGITS - digits_before(v));
        let width = interval.map(|i| i.high - i.low).filter(usable);
        if let Some(width) = width {
            let least = size.map_or(0, |v| DIGITS_LEFT - digits_before(v));
            decimals = decimals.min(least.max(DIGITS_OF_WIDTH - digits_before(width)));
        }
        decimals.clamp(0, 3) as usize
    }

    /// A value alone, without its unit.
    pub fn number(&self, value: f64) -> String {
        number(value / self.divisor, self.decimals(value, None))
    }

    /// A value alone with its unit.
    pub fn text(&self, value: f64) -> String {
        format!("{} {}", self.number(value), self.unit).trim_end().to_owned()
    }

    /// A median and its interval, "low–high", without the unit and with the same decimals.
    pub fn centre(&self, centre: &Centre) -> (String, Option<String>) {
        let decimals = self.decimals(centre.median, centre.interval);
        let text = |value: f64| number(value / self.divisor, decimals);
        let interval = centre.interval.map(|i| {
            let (low, high) = (text(i.low), text(i.high));
            if low == high { low } else { format!("{low}–{high}") }
        });
        (text(centre.median), interval)
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

/// "1 pair", "2,415,960 pairs".
pub(crate) fn counted(count: u64, one: &str) -> String {
    format!("{} {one}{}", thousands(count), if count == 1 { "" } else { "s" })
}

/// A time in words: "0.5 s", "250 ms".
pub(crate) fn seconds(value: f64) -> String {
    if value >= 1.0 || value <= 0.0 {
        let text = format!("{value:.2}");
        return format!("{} s", text.trim_end_matches('0').trim_end_matches('.'));
    }
    format!("{} ms", number(value * 1e3, 0))
}

/// A span of a run in words: "40 ms", "42 s", "9 min 40 s", "2 h 5 min".
pub(crate) fn duration(seconds: f64) -> String {
    if seconds > 0.0 && seconds < 0.95 {
        return format!("{} ms", number(seconds * 1e3, 0));
    }
    let whole = seconds.round() as u64;
    let two = |large: u64, name: &str, small: u64, rest: &str| match small {
        0 => format!("{large} {name}"),
        small => format!("{large} {name} {small} {rest}"),
    };
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => two(whole / 60, "min", whole % 60, "s"),
        _ => two(whole / 3600, "h", whole % 3600 / 60, "min"),
    }
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
    use crate::stats::CentreMethod;

    fn scale(metric: Metric, values: &[f64]) -> Scale {
        Scale::of(metric, Clock::Wall, values)
    }

    fn centre(median: f64, low: f64, high: f64) -> Centre {
        let interval = Some(Interval { low, high });
        Centre { median, interval, n: 5, method: CentreMethod::LogT }
    }

    #[test]
    fn a_row_has_one_unit_and_every_value_its_digits() {
        let s = scale(Metric::Throughput, &[36.24e9, 2.913e9]);
        assert_eq!(
            (s.text(36.24e9), s.text(2.913e9)),
            ("36.2 Gbit/s".to_owned(), "2.91 Gbit/s".to_owned())
        );
        let s = scale(Metric::LatencyP50, &[18_432.0, 61_001.0]);
        assert_eq!((s.number(18_432.0), s.unit.as_str()), ("18.4".to_owned(), "µs"));
        // One of a thousand times the size takes no digits from the others.
        let s = scale(Metric::LatencyP50, &[15_500.0, 24_800.0, 940_000.0]);
        assert_eq!([15_500.0, 24_800.0, 940_000.0].map(|v| s.number(v)), ["15.5", "24.8", "940"]);
        assert_eq!(scale(Metric::Loss, &[0.0123]).text(0.0123), "1.23 %");
        assert_eq!(
            scale(Metric::CpuPerTransaction, &[2.1e-5]).text(2.1e-5),
            "21.0 CPU µs/transaction"
        );
        assert_eq!(scale(Metric::Retransmits, &[12.0]).text(12.0), "12.0");
    }

    #[test]
    fn digits_stop_where_the_own_interval_ends_them() {
        let s = scale(Metric::Throughput, &[36.24e9]);
        let written = |median: f64, low: f64, high: f64| {
            let (value, interval) = s.centre(&centre(median, low, high));
            format!("{value} ({})", interval.unwrap())
        };
        assert_eq!(written(36.24e9, 30.1e9, 39.7e9), "36.2 (30.1–39.7)");
        assert_eq!(written(36.24e9, 20.1e9, 49.7e9), "36 (20–50)");
        assert_eq!(written(15.52e9, 15.41e9, 15.63e9), "15.5 (15.4–15.6)");
        assert_eq!(written(4.02e9, 0.31e9, 34.1e9), "4.0 (0.3–34.1)");
        assert_eq!(written(0.0, 0.0, 0.42e9), "0.00 (0.00–0.42)");
    }

    #[test]
    fn instructions_are_not_nanoseconds() {
        let s = Scale::of(Metric::LatencyP50, Clock::Instructions, &[40_181.0]);
        assert_eq!(s.text(40_181.0), "40.2 k instructions");
        let counted = Metric::InstructionsPerTransaction;
        let s = Scale::of(counted, Clock::Instructions, &[40_181.0]);
        assert_eq!(s.text(40_181.0), "40.2 k instructions");
        let text = |metric, value| Scale::of(metric, Clock::Instructions, &[value]).text(value);
        assert_eq!(text(Metric::Throughput, 2.5e9), "2.50 bit/instruction");
        assert_eq!(text(Metric::TransactionRate, 12_400.0), "12.4 transactions/M instructions");
        assert_eq!(text(Metric::PacketRate, 900.0), "0.900 packets/M instructions");
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
        assert_eq!(
            [0.0415, 42.4, 60.0, 104.902, 580.0, 7500.0].map(duration),
            ["42 ms", "42 s", "1 min", "1 min 45 s", "9 min 40 s", "2 h 5 min"]
        );
        assert_eq!(number(-0.0001, 2), "0.00");
        assert_eq!(number(f64::NAN, 2), "–");
        assert_eq!(
            (seconds(0.5), seconds(2.0), bytes(24 << 30)),
            ("500 ms".into(), "2 s".into(), "24 GiB".into())
        );
    }
}

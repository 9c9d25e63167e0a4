//! Changes in the words of their metric: "31 % slower", never a bare sign.
//!
//! Owns the vocabulary. What is better is `Metric::direction`'s to say, not decided here. Called by
//! the matrix and the sentences.

use crate::{
    stats::{Change, Interval, trials},
    units::number,
};
use cnibench_model::{Metric, Unit};

/// A ratio from which on "times" is easier to read than per cent.
const TIMES_FROM: f64 = 2.0;
/// A ratio up to which a fraction is easier to read than per cent: "99 % less" hides how much is left.
const FRACTION_UP_TO: f64 = 0.1;

/// The words of one metric: what a larger and a smaller value is called.
struct Vocabulary {
    /// After a percentage, when the value is larger: "31 % slower".
    larger: &'static str,
    /// The same when it is smaller.
    smaller: &'static str,
    /// After "2.4 times": "2.4 times the time".
    times: &'static str,
    /// A sentence's verb, "takes 31 % longer".
    verb: &'static str,
    /// What follows the percentage in a sentence when the value is larger, with its "than".
    more: &'static str,
    /// And when it is smaller.
    less: &'static str,
}

fn vocabulary(metric: Metric) -> Vocabulary {
    let words = |larger, smaller, times, verb, more, less| Vocabulary {
        larger,
        smaller,
        times,
        verb,
        more,
        less,
    };
    match (metric, metric.unit()) {
        (Metric::Jitter, _) => {
            words("more jitter", "less jitter", "the jitter", "has", "more jitter", "less jitter")
        }
        (_, Unit::Nanoseconds) => {
            words("slower", "faster", "the time", "takes", "longer", "less time")
        }
        (_, Unit::BitsPerSecond) => {
            words("more throughput", "less throughput", "the throughput", "carries", "more", "less")
        }
        (_, Unit::TransactionsPerSecond) => words(
            "more transactions",
            "fewer transactions",
            "the transactions",
            "completes",
            "more transactions",
            "fewer transactions",
        ),
        (_, Unit::PacketsPerSecond) => words(
            "more packets",
            "fewer packets",
            "the packets",
            "carries",
            "more packets",
            "fewer packets",
        ),
        (Metric::Loss, _) => {
            words("more loss", "less loss", "the loss", "has", "more loss", "less loss")
        }
        (Metric::Reordering, _) => words(
            "more reordering",
            "less reordering",
            "the reordering",
            "has",
            "more reordering",
            "less reordering",
        ),
        (Metric::Retransmits, _) => words(
            "more retransmits",
            "fewer retransmits",
            "the retransmits",
            "has",
            "more retransmits",
            "fewer retransmits",
        ),
        (_, Unit::CpuSecondsPerGigabit | Unit::CpuSecondsPerTransaction) => {
            words("more CPU", "less CPU", "the CPU", "uses", "more CPU", "less CPU")
        }
        (_, Unit::Ratio | Unit::Count) => words("more", "less", "as many", "has", "more", "less"),
    }
}

/// A cell's change in as few words as are true: "31 % slower", "2.4 times the time",
/// "no difference shown".
pub fn change(metric: Metric, change: &Change) -> String {
    match change.interval {
        Some(i) if i.contains(1.0) => "no difference shown".to_owned(),
        Some(i) => size(metric, change.ratio, Some(i)).0,
        None => format!("{} ({})", size(metric, change.ratio, None).0, trials(change.n)),
    }
}

/// The change's interval in the same terms, e.g. "29–33 %"; none for too few trials.
pub fn interval(metric: Metric, change: &Change) -> Option<String> {
    let i = change.interval?;
    if i.contains(1.0) {
        let (low, high) = (signed(metric, i.low, i), signed(metric, i.high, i));
        return Some(if low == high { low } else { format!("{low} to {high}") });
    }
    Some(size(metric, change.ratio, Some(i)).1)
}

/// A sentence's part: "takes 31 % (29–33 %) longer than". `verb` false leaves out verb and "than"
/// where the same ones were said before: "12 % (11–14 %)".
pub(crate) fn clause(metric: Metric, change: &Change, verb: bool) -> String {
    let words = vocabulary(metric);
    let (_, range) = size(metric, change.ratio, change.interval);
    let range = if range.is_empty() { String::new() } else { format!(" ({range})") };
    if change.ratio >= TIMES_FROM {
        let figure = times_figure(change.ratio, change.interval);
        return match verb {
            true => format!("{} {figure} times{range} {} of", words.verb, words.times),
            false => format!("{figure} times{range}"),
        };
    }
    if change.ratio <= FRACTION_UP_TO {
        let figure = fraction(change.ratio);
        return match verb {
            true => format!("{} {figure}{range} of {} of", words.verb, words.times),
            false => format!("{figure}{range}"),
        };
    }
    let figure = percent_figure(change.ratio, change.interval);
    let than = if change.ratio > 1.0 { words.more } else { words.less };
    match verb {
        true => format!("{} {figure} %{range} {than} than", words.verb),
        false => format!("{figure} %{range}"),
    }
}

/// Which sentence form a change takes: clauses of one form can share a verb.
pub(crate) fn clause_kind(change: &Change) -> u8 {
    match change.ratio {
        r if r >= TIMES_FROM => 2,
        r if r <= FRACTION_UP_TO => 3,
        r if r > 1.0 => 1,
        _ => 0,
    }
}

/// The words and the interval of a ratio.
fn size(metric: Metric, ratio: f64, interval: Option<Interval>) -> (String, String) {
    let words = vocabulary(metric);
    if ratio >= TIMES_FROM {
        let decimals = times_decimals(ratio, interval);
        let range = interval.map_or_else(String::new, |i| {
            join(&number(i.low, decimals), &number(i.high, decimals), "")
        });
        return (format!("{} times {}", times_figure(ratio, interval), words.times), range);
    }
    if ratio <= FRACTION_UP_TO {
        let range =
            interval.map_or_else(String::new, |i| join(&fraction(i.low), &fraction(i.high), ""));
        return (format!("{} of {}", fraction(ratio), words.times), range);
    }
    let decimals = percent_decimals(ratio, interval);
    let range = interval.map_or_else(String::new, |i| {
        let mut ends = [percent(i.low), percent(i.high)];
        ends.sort_by(f64::total_cmp);
        let mut low = number(ends[0], decimals);
        // An interval that excludes no change must not seem to begin at it.
        if low.chars().all(|c| matches!(c, '0' | '.')) && ends[0] > 0.0 && !i.contains(1.0) {
            low = format!("<{}", number(10f64.powi(-(decimals as i32)), decimals));
        }
        join(&low, &number(ends[1], decimals), " %")
    });
    if ratio == 1.0 {
        return ("no change".to_owned(), range);
    }
    let word = if ratio > 1.0 { words.larger } else { words.smaller };
    (format!("{} % {word}", percent_figure(ratio, interval)), range)
}

fn join(low: &str, high: &str, unit: &str) -> String {
    if low == high { format!("{low}{unit}") } else { format!("{low}–{high}{unit}") }
}

/// One end of an interval around no change: "3 % faster".
fn signed(metric: Metric, ratio: f64, interval: Interval) -> String {
    let words = vocabulary(metric);
    if ratio >= TIMES_FROM {
        return format!("{} times {}", number(ratio, 1), words.times);
    }
    if ratio <= FRACTION_UP_TO {
        return format!("{} of {}", fraction(ratio), words.times);
    }
    let decimals = percent_decimals(ratio, Some(interval));
    let figure = number(percent(ratio), decimals);
    if figure.chars().all(|c| matches!(c, '0' | '.')) {
        return "no change".to_owned();
    }
    format!("{figure} % {}", if ratio > 1.0 { words.larger } else { words.smaller })
}

fn percent(ratio: f64) -> f64 {
    ((ratio - 1.0) * 100.0).abs()
}

fn percent_figure(ratio: f64, interval: Option<Interval>) -> String {
    number(percent(ratio), percent_decimals(ratio, interval))
}

/// One decimal below 10 % where the interval is narrow enough to mean it; more only where less would
/// round a shown change to nothing.
fn percent_decimals(ratio: f64, interval: Option<Interval>) -> usize {
    let size = percent(ratio);
    let narrow = interval.is_some_and(|i| (i.high - i.low) * 100.0 < 3.0);
    match () {
        () if size >= 10.0 => 0,
        () if size >= 0.95 || size == 0.0 => usize::from(narrow),
        () if size >= 0.095 => 1,
        () if narrow => 2,
        () => 1,
    }
}

fn times_decimals(ratio: f64, interval: Option<Interval>) -> usize {
    match interval.map(|i| i.high - i.low) {
        _ if ratio >= 100.0 => 0,
        Some(width) if width > 3.0 => 0,
        Some(width) if width < 0.15 => 2,
        _ => 1,
    }
}

fn times_figure(ratio: f64, interval: Option<Interval>) -> String {
    number(ratio, times_decimals(ratio, interval))
}

/// "1/73".
fn fraction(ratio: f64) -> String {
    format!("1/{}", number(1.0 / ratio, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{ChangeMethod, Effect};
    use cnibench_model::Direction;

    fn of(ratio: f64, low: f64, high: f64) -> Change {
        let interval = Some(Interval { low, high });
        Change { ratio, interval, n: 10, method: ChangeMethod::PairedRank }
    }

    #[test]
    fn words_belong_to_the_metric() {
        let more = of(1.31, 1.29, 1.33);
        let less = of(0.88, 0.86, 0.9);
        assert_eq!(change(Metric::LatencyP50, &more), "31 % slower");
        assert_eq!(change(Metric::LatencyP99, &less), "12 % faster");
        assert_eq!(change(Metric::Throughput, &more), "31 % more throughput");
        assert_eq!(change(Metric::Throughput, &less), "12 % less throughput");
        assert_eq!(change(Metric::TransactionRate, &less), "12 % fewer transactions");
        assert_eq!(change(Metric::PacketRate, &less), "12 % fewer packets");
        assert_eq!(change(Metric::CpuPerGigabit, &more), "31 % more CPU");
        assert_eq!(change(Metric::Jitter, &less), "12 % less jitter");
        assert_eq!(change(Metric::LatencyP50, &of(2.43, 2.3, 2.5)), "2.4 times the time");
        assert_eq!(interval(Metric::LatencyP50, &more).unwrap(), "29–33 %");
        assert_eq!(interval(Metric::Throughput, &less).unwrap(), "10–14 %");
    }

    #[test]
    fn what_is_nearly_nothing_is_a_fraction() {
        let little = of(1.0 / 73.0, 0.01, 0.016);
        assert_eq!(change(Metric::Throughput, &little), "1/73 of the throughput");
        assert_eq!(interval(Metric::Throughput, &little).unwrap(), "1/100–1/62");
        assert_eq!(
            clause(Metric::Throughput, &little, true),
            "carries 1/73 (1/100–1/62) of the throughput of"
        );
        assert_eq!(clause(Metric::Throughput, &little, false), "1/73 (1/100–1/62)");
        assert_eq!(
            interval(Metric::Throughput, &of(0.3, 0.05, 1.5)).unwrap(),
            "1/20 of the throughput to 50 % more throughput"
        );
    }

    #[test]
    fn every_metric_says_a_bad_change_is_worse() {
        for metric in Metric::ALL {
            let larger = of(1.2, 1.1, 1.3);
            let expected = match metric.direction() {
                Direction::HigherIsBetter => Effect::Better,
                Direction::LowerIsBetter => Effect::Worse,
            };
            assert_eq!(larger.effect(metric.direction()), expected, "{metric}");
            let words = change(*metric, &larger);
            assert!(words.starts_with("20 % "), "{words}");
            assert!(!words.contains(['+', '-', '−']), "{words}");
        }
    }

    #[test]
    fn an_interval_around_no_change_shows_no_difference() {
        let unsure = of(0.99, 0.97, 1.02);
        assert_eq!(change(Metric::LatencyP50, &unsure), "no difference shown");
        assert_eq!(interval(Metric::LatencyP50, &unsure).unwrap(), "3 % faster to 2 % slower");
        let wild = of(1.1, 0.5, 3.0);
        assert_eq!(
            interval(Metric::LatencyP50, &wild).unwrap(),
            "50 % faster to 3.0 times the time"
        );
        let equal = of(1.0, 1.0, 1.0);
        assert_eq!(interval(Metric::Throughput, &equal).unwrap(), "no change");
    }

    #[test]
    fn one_trial_says_so_and_small_changes_keep_a_digit() {
        let one = Change { ratio: 1.31, interval: None, n: 1, method: ChangeMethod::TooFew };
        assert_eq!(change(Metric::LatencyP50, &one), "31 % slower (1 trial)");
        assert_eq!(change(Metric::LatencyP50, &of(1.004, 1.003, 1.005)), "0.4 % slower");
        assert_eq!(change(Metric::LatencyP50, &of(1.0004, 1.0003, 1.0005)), "0.04 % slower");
        assert_eq!(change(Metric::LatencyP50, &of(1.052, 1.045, 1.06)), "5.2 % slower");
        assert_eq!(interval(Metric::LatencyP50, &of(1.02, 1.003, 1.05)).unwrap(), "<1–5 %");
    }

    #[test]
    fn clauses_read_as_sentences() {
        let more = of(1.31, 1.29, 1.33);
        assert_eq!(clause(Metric::LatencyP50, &more, true), "takes 31 % (29–33 %) longer than");
        assert_eq!(clause(Metric::LatencyP50, &more, false), "31 % (29–33 %)");
        assert_eq!(
            clause(Metric::Throughput, &of(0.88, 0.86, 0.9), true),
            "carries 12 % (10–14 %) less than"
        );
        assert_eq!(
            clause(Metric::LatencyP50, &of(2.43, 2.3, 2.5), true),
            "takes 2.4 times (2.3–2.5) the time of"
        );
    }
}

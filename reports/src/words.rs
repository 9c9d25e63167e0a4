//! Changes in the words of their metric: "31 % slower", "5.1 points more loss", never a bare sign.
//!
//! Owns the vocabulary. What is better is `Metric::direction`'s to say, not decided here. Called by
//! the matrix and the sentences.

use crate::{
    pairs::Over,
    stats::{Basis, Change, Interval},
    units::number,
};
use cnibench_model::{Metric, Unit};

/// A ratio from which on "times" is easier to read than per cent.
const TIMES_FROM: f64 = 2.0;
/// A ratio up to which a fraction is easier to read than per cent: "99 % less" hides how much is left.
const FRACTION_UP_TO: f64 = 0.1;
/// An end of a range of fractions above this is a share in per cent: "1/1" would be read as all of it.
const FRACTION_END_UP_TO: f64 = 0.2;

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
            words("slower", "less time", "the time", "takes", "longer", "less time")
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
        (_, Unit::Instructions) => words(
            "more instructions",
            "fewer instructions",
            "the instructions",
            "takes",
            "more instructions",
            "fewer instructions",
        ),
        (_, Unit::Ratio | Unit::Count) => words("more", "less", "as many", "has", "more", "less"),
    }
}

/// A cell's change in as few words as are true: "31 % slower", "2.4 times the time",
/// "no difference shown".
pub fn change(metric: Metric, change: &Change, over: Over) -> String {
    match change.interval {
        Some(i) if i.contains(change.basis.neutral()) => "no difference shown".to_owned(),
        Some(_) => size(metric, change).0,
        None => format!("{} ({})", size(metric, change).0, over.count(change.n)),
    }
}

/// A change's size alone, whatever its interval shows: "31 % slower", "no change".
pub(crate) fn size_alone(metric: Metric, change: &Change) -> String {
    size(metric, &Change { interval: None, ..*change }).0
}

/// The change's interval in the same terms, e.g. "29–33 %"; none for too few trials.
pub fn interval(metric: Metric, change: &Change) -> Option<String> {
    let i = change.interval?;
    if i.contains(change.basis.neutral()) {
        let end = |value| signed(metric, change.basis, value, i);
        let (low, high) = (end(i.low), end(i.high));
        return Some(if low == high { low } else { format!("{low} to {high}") });
    }
    Some(size(metric, change).1)
}

/// A sentence's part: "takes 31 % (29–33 %) longer than". `verb` false leaves out verb and "than"
/// where the same ones were said before: "12 % (11–14 %)".
pub(crate) fn clause(metric: Metric, change: &Change, verb: bool) -> String {
    let words = vocabulary(metric);
    let (_, range) = size(metric, change);
    let range = if range.is_empty() { String::new() } else { format!(" ({range})") };
    let than = if change.size > change.basis.neutral() { words.more } else { words.less };
    let (figure, rest) = match Form::of(change) {
        Form::Equal => return "equals".to_owned(),
        Form::Times => {
            let figure = format!("{} times{range}", times(change.size, change.interval));
            (figure, format!("{} of", words.times))
        }
        Form::Fraction => {
            (format!("{}{range}", fraction(change.size)), format!("of {} of", words.times))
        }
        Form::Less | Form::More => {
            let figure = percent_figure(change.size, change.interval);
            (format!("{figure} %{range}"), format!("{than} than"))
        }
        Form::FewerPoints | Form::MorePoints => {
            (format!("{} points{range}", points(change.size)), format!("{than} than"))
        }
    };
    match verb {
        true => format!("{} {figure} {rest}", words.verb),
        false => figure,
    }
}

/// How a change is said: clauses of one form can share a verb. Ordered as sentences have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    /// "1/73 of the throughput".
    Fraction,
    /// "2.4 times the time".
    Times,
    /// "31 % longer".
    More,
    /// "12 % less".
    Less,
    /// "5.1 points more loss".
    MorePoints,
    /// "0.2 points less loss".
    FewerPoints,
    /// No change at all.
    Equal,
}

impl Form {
    pub fn of(change: &Change) -> Self {
        Self::of_size(change.basis, change.size)
    }

    fn of_size(basis: Basis, size: f64) -> Self {
        match (basis, size) {
            (basis, size) if size == basis.neutral() => Self::Equal,
            (Basis::Difference, size) if size > 0.0 => Self::MorePoints,
            (Basis::Difference, _) => Self::FewerPoints,
            (Basis::Ratio, size) if size >= TIMES_FROM => Self::Times,
            (Basis::Ratio, size) if size <= FRACTION_UP_TO => Self::Fraction,
            (Basis::Ratio, size) if size > 1.0 => Self::More,
            (Basis::Ratio, _) => Self::Less,
        }
    }
}

/// The words of a change and its interval. The interval excludes no change, and must not seem to
/// reach it: every end keeps the digits that tell it apart.
fn size(metric: Metric, change: &Change) -> (String, String) {
    let words = vocabulary(metric);
    let (size, interval) = (change.size, change.interval);
    let range = |end: &dyn Fn(f64) -> String, unit: &str| {
        interval.map_or_else(String::new, |i| join(&end(i.low), &end(i.high), unit))
    };
    match Form::of(change) {
        Form::Equal => ("no change".to_owned(), String::new()),
        Form::Times => {
            let text = format!("{} times {}", times(size, interval), words.times);
            (text, range(&|end| times(end, interval), ""))
        }
        Form::Fraction => {
            (format!("{} of {}", fraction(size), words.times), range(&fraction_end, ""))
        }
        Form::MorePoints => {
            (format!("{} points {}", points(size), words.larger), range(&points, ""))
        }
        Form::FewerPoints => {
            let range =
                interval.map_or_else(String::new, |i| join(&points(i.high), &points(i.low), ""));
            (format!("{} points {}", points(size), words.smaller), range)
        }
        form @ (Form::More | Form::Less) => {
            let word = if form == Form::More { words.larger } else { words.smaller };
            if metric.unit() == Unit::Instructions && percent(size) < 10.0 {
                return counted(size, interval, word);
            }
            let text = format!("{} % {word}", percent_figure(size, interval));
            (text, interval.map_or_else(String::new, |i| percents(size, i)))
        }
    }
}

/// "0.51 % more instructions" and "0.48–0.53 %": counts repeat to the digits that are shown.
fn counted(ratio: f64, interval: Option<Interval>, word: &str) -> (String, String) {
    let figure = |ratio: f64| number(percent(ratio), 2);
    let range = interval.map(|i| {
        let mut ends = [i.low, i.high];
        ends.sort_by(|a, b| percent(*a).total_cmp(&percent(*b)));
        join(&figure(ends[0]), &figure(ends[1]), " %")
    });
    (format!("{} % {word}", figure(ratio)), range.unwrap_or_default())
}

/// "29–33 %".
fn percents(ratio: f64, interval: Interval) -> String {
    let decimals = percent_decimals(ratio, Some(interval));
    let mut ends = [interval.low, interval.high];
    ends.sort_by(|a, b| percent(*a).total_cmp(&percent(*b)));
    let mut low = number(percent(ends[0]), decimals);
    if low.chars().all(|c| matches!(c, '0' | '.')) && ends[0] != 1.0 {
        low = format!("<{}", number(10f64.powi(-(decimals as i32)), decimals));
    }
    let high = match number(percent(ends[1]), decimals) {
        // Less by all of it would be nothing left.
        all if ends[1] < 1.0 && all.starts_with("100") => ">99".to_owned(),
        other => other,
    };
    join(&low, &high, " %")
}

fn join(low: &str, high: &str, unit: &str) -> String {
    if low == high { format!("{low}{unit}") } else { format!("{low}–{high}{unit}") }
}

/// One end of an interval around no change: "3 % less time".
fn signed(metric: Metric, basis: Basis, end: f64, interval: Interval) -> String {
    let words = vocabulary(metric);
    let word = if end > basis.neutral() { words.larger } else { words.smaller };
    match Form::of_size(basis, end) {
        Form::Equal => "no change".to_owned(),
        Form::Times => format!("{} times {}", number(end, 1), words.times),
        Form::Fraction => format!("{} of {}", fraction(end), words.times),
        Form::MorePoints | Form::FewerPoints => format!("{} points {word}", points(end)),
        Form::More | Form::Less => {
            let figure = number(percent(end), percent_decimals(end, Some(interval)));
            if figure.chars().all(|c| matches!(c, '0' | '.')) {
                return "no change".to_owned();
            }
            format!("{figure} % {word}")
        }
    }
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

/// A ratio above 1, or an end of its interval: as many digits as its own size and the interval's
/// width are worth, and never "1".
fn times(ratio: f64, interval: Option<Interval>) -> String {
    let width = interval.map_or(1.0, |i| i.high - i.low);
    let least = match () {
        () if ratio >= 100.0 => 0,
        () if width > 3.0 => usize::from(ratio < 3.0),
        () if width < 0.15 => 2,
        () => 1,
    };
    let texts = || (least..=3).map(|decimals| number(ratio, decimals));
    let is_one = |text: &String| text.parse() == Ok(1.0);
    texts().find(|text| !is_one(text)).unwrap_or_else(|| number(ratio, 3))
}

/// "1/73".
fn fraction(ratio: f64) -> String {
    format!("1/{}", number(1.0 / ratio, 0))
}

/// "1/73", or "90 %" where a fraction would be too coarse.
fn fraction_end(ratio: f64) -> String {
    if ratio <= FRACTION_END_UP_TO {
        return fraction(ratio);
    }
    let texts = || (0..=2).map(|decimals| number(ratio * 100.0, decimals));
    let text = texts().find(|t| !t.starts_with("100")).unwrap_or_else(|| ">99.99".to_owned());
    format!("{text} %")
}

/// A difference of shares in percentage points, without its sign.
fn points(difference: f64) -> String {
    let size = (difference * 100.0).abs();
    let decimals = match size {
        s if s >= 10.0 => 0,
        s if s >= 1.0 => 1,
        s if s >= 0.01 => 2,
        _ => 3,
    };
    if size > 0.0 && size < 0.0005 { "<0.001".to_owned() } else { number(size, decimals) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(metric: Metric, change: &Change) -> String {
        super::change(metric, change, Over::Trials)
    }

    use crate::stats::{ChangeMethod, Effect};
    use cnibench_model::Direction;

    fn of(ratio: f64, low: f64, high: f64) -> Change {
        let interval = Some(Interval { low, high });
        Change {
            basis: Basis::Ratio,
            size: ratio,
            interval,
            n: 10,
            method: ChangeMethod::PairedRank,
        }
    }

    fn by(size: f64, low: f64, high: f64) -> Change {
        Change { basis: Basis::Difference, ..of(size, low, high) }
    }

    #[test]
    fn shares_change_by_points() {
        let more = by(0.051, 0.0203, 0.083);
        assert_eq!(change(Metric::Loss, &more), "5.1 points more loss");
        assert_eq!(interval(Metric::Loss, &more).unwrap(), "2.0–8.3");
        assert_eq!(clause(Metric::Loss, &more, true), "has 5.1 points (2.0–8.3) more loss than");
        let less = by(-0.002, -0.003, -0.000_000_1);
        assert_eq!(change(Metric::Reordering, &less), "0.20 points less reordering");
        assert_eq!(interval(Metric::Reordering, &less).unwrap(), "<0.001–0.30");
        let none = by(0.0, 0.0, 0.0);
        assert_eq!(change(Metric::Loss, &none), "no difference shown");
        let unsure = by(0.01, -0.002, 0.12);
        assert_eq!(change(Metric::Loss, &unsure), "no difference shown");
        assert_eq!(
            interval(Metric::Loss, &unsure).unwrap(),
            "0.20 points less loss to 12 points more loss"
        );
    }

    #[test]
    fn a_shown_difference_never_looks_like_none() {
        let wide = of(2.86, 1.23, 6.7);
        assert_eq!(change(Metric::LatencyP50, &wide), "2.9 times the time");
        assert_eq!(interval(Metric::LatencyP50, &wide).unwrap(), "1.2–7");
        assert_eq!(interval(Metric::LatencyP50, &of(4.0, 1.02, 10.1)).unwrap(), "1.02–10");
        assert_eq!(interval(Metric::LatencyP50, &of(2.0, 1.2, 3.9)).unwrap(), "1.2–3.9");
        let little = of(0.08, 0.02, 0.9);
        assert_eq!(change(Metric::Throughput, &little), "1/12 of the throughput");
        assert_eq!(interval(Metric::Throughput, &little).unwrap(), "1/50–90 %");
        assert_eq!(interval(Metric::Throughput, &of(0.08, 0.02, 0.998)).unwrap(), "1/50–99.8 %");
        assert_eq!(interval(Metric::Throughput, &of(0.4, 0.0001, 0.9)).unwrap(), "10–>99 %");
    }

    #[test]
    fn words_belong_to_the_metric() {
        let more = of(1.31, 1.29, 1.33);
        let less = of(0.88, 0.86, 0.9);
        assert_eq!(change(Metric::LatencyP50, &more), "31 % slower");
        assert_eq!(change(Metric::LatencyP99, &less), "12 % less time");
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
        assert_eq!(interval(Metric::LatencyP50, &unsure).unwrap(), "3 % less time to 2 % slower");
        let wild = of(1.1, 0.5, 3.0);
        assert_eq!(
            interval(Metric::LatencyP50, &wild).unwrap(),
            "50 % less time to 3.0 times the time"
        );
        let equal = of(1.0, 1.0, 1.0);
        assert_eq!(interval(Metric::Throughput, &equal).unwrap(), "no change");
    }

    #[test]
    fn one_trial_says_so_and_small_changes_keep_a_digit() {
        let one =
            Change { interval: None, n: 1, method: ChangeMethod::TooFew, ..of(1.31, 0.0, 0.0) };
        assert_eq!(change(Metric::LatencyP50, &one), "31 % slower (1 trial)");
        let pairs = super::change(Metric::LatencyP50, &Change { n: 2, ..one }, Over::NodePairs);
        assert_eq!(pairs, "31 % slower (2 node pairs)");
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

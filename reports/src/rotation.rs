//! What a change of keys costs: latencies and losses while it is made, against the rest of the same trials.
//!
//! Owns what belongs to a change and how its cost is told. A change reaches as far as half a second from its
//! beginning, or to the next one. Its cost is the longest latency in there above the median of the
//! intervals that no change reaches, and what was lost. A cni without keys has the same trials without a
//! change: what it shows at the same moments a machine does by itself.

use crate::{
    book::Book,
    stats::median,
    units::{Scale, thousands},
};
use cnibench_model::{Interval, Metric, RotationTrial};

/// Seconds that a change reaches.
const REACH_S: f64 = 0.5;

/// One cni's trials.
pub(crate) struct Line<'a> {
    pub column: usize,
    pub trials: Vec<&'a RotationTrial>,
    /// Moments that count as changes where there were none, as shares of the window.
    control: Vec<f64>,
}

/// What the changes of one cni came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cost {
    /// True where no key was changed.
    pub control: bool,
    /// Changes, or moments in their place.
    pub changes: usize,
    /// The median of the intervals that none reaches, in nanoseconds.
    pub usual: f64,
    /// For each change the longest latency that it reaches, less that median.
    pub above: Vec<f64>,
    /// Requests that were lost in the reach of changes.
    pub lost: u64,
    /// Requests that were due there.
    pub due: u64,
    /// Seconds that a change took, the median.
    pub took: Option<f64>,
}

/// The trials of a row of the book, by cni.
pub(crate) fn lines<'a>(book: &Book<'a>, row: usize) -> Vec<Line<'a>> {
    let mut lines: Vec<Line<'_>> = (0..book.columns.len())
        .filter_map(|column| {
            let case = &book.entry(row, column)?.case.id;
            let all = book.columns[column].record.rotated.iter();
            let trials: Vec<_> =
                all.filter(|r| r.case == *case && !r.trial.intervals.is_empty()).collect();
            (!trials.is_empty()).then_some(Line { column, trials, control: Vec::new() })
        })
        .collect();
    let most = lines.iter().flat_map(|l| &l.trials).map(|t| t.rotations.len()).max().unwrap_or(0);
    for line in &mut lines {
        line.control = (1..=most).map(|n| n as f64 / (most + 1) as f64).collect();
    }
    lines
}

impl Line<'_> {
    /// True where no key was changed.
    pub fn is_control(&self) -> bool {
        self.trials.iter().all(|t| t.rotations.is_empty())
    }

    /// When changes begin in a trial, in seconds.
    fn moments(&self, trial: &RotationTrial) -> Vec<f64> {
        if !self.is_control() {
            return trial.rotations.iter().map(|r| r.at_s).collect();
        }
        let end = trial.trial.intervals.last().map_or(0.0, |i| i.at_s + i.length_s);
        self.control.iter().map(|share| share * end).collect()
    }

    /// What they came to; none where no change lies in a window.
    pub fn cost(&self) -> Option<Cost> {
        let mut cost = Cost {
            control: self.is_control(),
            changes: 0,
            usual: 0.0,
            above: Vec::new(),
            lost: 0,
            due: 0,
            took: None,
        };
        let (mut quiet, mut worst, mut took) = (Vec::new(), Vec::new(), Vec::new());
        for trial in &self.trials {
            let moments = self.moments(trial);
            let mut reached: Vec<Vec<&Interval>> = vec![Vec::new(); moments.len()];
            for interval in &trial.trial.intervals {
                // The last that began before this interval ends.
                let last = moments.iter().rposition(|at| *at < interval.at_s + interval.length_s);
                match last.filter(|n| interval.at_s < moments[*n] + REACH_S) {
                    Some(number) => reached[number].push(interval),
                    None => quiet.extend((interval.count > 0).then_some(interval.p50)),
                }
            }
            for intervals in reached.iter().filter(|r| !r.is_empty()) {
                cost.changes += 1;
                cost.lost += intervals.iter().map(|i| i.lost).sum::<u64>();
                cost.due += intervals.iter().map(|i| i.lost + i.count).sum::<u64>();
                worst.push(intervals.iter().map(|i| i.max).fold(0.0, f64::max));
            }
            took.extend(trial.rotations.iter().map(|r| r.took_s));
        }
        cost.usual = median(&quiet)?;
        cost.above = worst.into_iter().map(|max| (max - cost.usual).max(0.0)).collect();
        cost.took = median(&took);
        (cost.changes > 0).then_some(cost)
    }
}

/// What the changes of every cni cost, in words; empty where the row has none.
pub(crate) fn sentence(book: &Book<'_>, lines: &[Line<'_>]) -> String {
    if lines.iter().all(Line::is_control) {
        return String::new();
    }
    let costs: Vec<(usize, Cost)> =
        lines.iter().filter_map(|l| Some((l.column, l.cost()?))).collect();
    let all: Vec<f64> = costs.iter().flat_map(|(_, c)| c.above.iter().copied()).collect();
    let scale = Scale::of(Metric::LatencyMax, book.clock(), &all);
    let part = |(column, cost): &(usize, Cost)| {
        let name = &book.columns[*column].short;
        let middle = scale.text(median(&cost.above).unwrap_or(0.0));
        let most = scale.text(cost.above.iter().copied().fold(0.0, f64::max));
        let lost = format!("{} of {} requests lost", thousands(cost.lost), thousands(cost.due));
        let above =
            format!("{middle} above the usual median in the middle, {most} at most, {lost}");
        match cost.control {
            true => format!("{name}, no change (control): at the same moments {above}"),
            false => format!("{name}, {} changes: {above}", cost.changes),
        }
    };
    let parts: Vec<String> = costs.iter().map(part).collect();
    format!("What a change of keys costs: {}.", parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{climbed, rotated};

    #[test]
    fn a_change_costs_what_it_reaches_above_what_is_usual() {
        let records = [rotated()];
        let book = Book::new(&records);
        let found = lines(&book, 0);
        assert_eq!(found.len(), 2);
        let [host, encrypted] = [&found[0], &found[1]];
        assert!(host.is_control() && !encrypted.is_control());
        let cost = encrypted.cost().unwrap();
        assert_eq!((cost.changes, cost.lost), (6, 6 * 4));
        // 10 intervals of 50 requests each that a change reaches, and the one in which it begins.
        assert_eq!(cost.due, 6 * 10 * 50 + 6 * 4);
        assert!(cost.above.iter().all(|a| (a - (30e6 - 200e3)).abs() < 1e3), "{cost:?}");
        let still = host.cost().unwrap();
        assert_eq!((still.control, still.changes, still.lost), (true, 6, 0));
        assert!(still.above.iter().all(|a| *a < 1e6));
        let text = sentence(&book, &found);
        assert!(text.contains("host, no change (control)"), "{text}");
        assert!(text.contains("6 changes: 29.8 ms above"), "{text}");
        assert!(text.contains("24 of 3,024 requests lost"), "{text}");
    }

    #[test]
    fn a_row_without_changes_has_no_words() {
        let records = [climbed()];
        let book = Book::new(&records);
        assert_eq!(sentence(&book, &lines(&book, 0)), "");
    }
}

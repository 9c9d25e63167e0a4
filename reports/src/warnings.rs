//! What trials warned of: each text once, with the series and cnis that it concerns.
//!
//! Owns how equal texts are put together. Called by the page.

use crate::{
    book::{Book, Entry},
    stats,
};
use std::collections::{BTreeMap, BTreeSet};

/// One text and the trials that have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Warning {
    /// The text, with both ends named where both said it.
    pub text: String,
    /// "in all 64 trials", or the series and cnis.
    pub concerns: String,
    /// Rows of the book with such a trial.
    pub rows: BTreeSet<usize>,
}

/// Who of a trial can warn; a text of both ends is one text.
const ENDS: [&str; 2] = ["client", "server"];

/// A text without its end, and the end.
fn split(warning: &str) -> (&str, Option<&'static str>) {
    let of = |end: &&'static str| warning.strip_prefix(*end).and_then(|w| w.strip_prefix(": "));
    match ENDS.iter().find_map(|end| Some((of(end)?, *end))) {
        Some((text, end)) => (text, Some(end)),
        None => (warning, None),
    }
}

#[derive(Default)]
struct Found {
    ends: BTreeSet<&'static str>,
    /// Trials with the text by row and column.
    counts: BTreeMap<(usize, usize), usize>,
}

/// Every warning of every trial, those of most trials first.
pub(crate) fn warnings(book: &Book<'_>) -> Vec<Warning> {
    let mut found: BTreeMap<(&str, bool), Found> = BTreeMap::new();
    for row in 0..book.rows.len() {
        for column in 0..book.columns.len() {
            let trials = book.entry(row, column).into_iter().flat_map(|e| &e.trials);
            for trial in trials {
                let mut seen = BTreeSet::new();
                for (text, end) in trial.warnings.iter().map(|w| split(w)) {
                    let found = found.entry((text, end.is_some())).or_default();
                    found.ends.extend(end);
                    if seen.insert((text, end.is_some())) {
                        *found.counts.entry((row, column)).or_default() += 1;
                    }
                }
            }
        }
    }
    let mut order: Vec<_> = found.into_iter().collect();
    order.sort_by_key(|(_, f)| std::cmp::Reverse(f.counts.values().sum::<usize>()));
    order
        .into_iter()
        .map(|((text, _), found)| {
            let ends: Vec<&str> = found.ends.iter().copied().collect();
            let ends = if ends.is_empty() { String::new() } else { ends.join(" and ") + ": " };
            Warning {
                text: format!("{ends}{text}"),
                concerns: concerns(book, &found.counts),
                rows: found.counts.keys().map(|(row, _)| *row).collect(),
            }
        })
        .collect()
}

/// Trials of one row, of all its cnis.
fn trials(book: &Book<'_>, row: usize) -> usize {
    let entries = (0..book.columns.len()).filter_map(|c| book.entry(row, c));
    entries.map(|e: &Entry<'_>| e.trials.len()).sum()
}

fn concerns(book: &Book<'_>, counts: &BTreeMap<(usize, usize), usize>) -> String {
    let all: usize = (0..book.rows.len()).map(|row| trials(book, row)).sum();
    if counts.values().sum::<usize>() == all {
        return match all {
            1 => "in the only trial".to_owned(),
            all => format!("in all {}", stats::trials(all)),
        };
    }
    let rows: BTreeSet<usize> = counts.keys().map(|(row, _)| *row).collect();
    let of_row = |row: usize| -> usize {
        counts.iter().filter(|((r, _), _)| *r == row).map(|(_, n)| n).sum()
    };
    let (whole, part): (Vec<usize>, Vec<usize>) =
        rows.into_iter().partition(|row| of_row(*row) == trials(book, *row));
    let mut parts: Vec<String> = Vec::new();
    if !whole.is_empty() {
        let names: Vec<String> = whole.iter().map(|row| book.rows[*row].title()).collect();
        parts.push(format!("in every trial of {}", names.join("; of ")));
    }
    for row in part {
        let cnis: Vec<String> = (0..book.columns.len())
            .filter_map(|column| {
                let count = counts.get(&(row, column))?;
                let of = stats::trials(book.entry(row, column)?.trials.len());
                Some(format!("{} {count} of {of}", book.columns[column].short))
            })
            .collect();
        parts.push(format!("{}: {}", book.rows[row].title(), cnis.join(", ")));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Builder, usual};
    use cnibench_model::Record;

    fn of(change: impl Fn(&mut Record)) -> Vec<Warning> {
        let mut record =
            Builder { paths: usual()[..2].to_vec(), trials: 2, ..Builder::default() }.build();
        record.trials.iter_mut().for_each(|t| t.warnings.clear());
        change(&mut record);
        let records = [record];
        warnings(&Book::new(&records))
    }

    #[test]
    fn what_every_trial_says_is_said_once() {
        let all = of(|record| {
            for trial in &mut record.trials {
                trial.warnings =
                    vec!["client: no threads seen".into(), "server: no threads seen".into()];
            }
        });
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].text, "client and server: no threads seen");
        assert_eq!(all[0].concerns, "in all 12 trials");
        assert_eq!(all[0].rows.len(), 3);
    }

    #[test]
    fn what_some_trials_say_names_them() {
        let all = of(|record| {
            for trial in &mut record.trials {
                if trial.case.0.contains("tcp_stream") {
                    trial.warnings.push("node: CPU 1 was full".to_owned());
                }
                if trial.case.0.contains("flannel-vxlan/tcp_rr/same-node") && trial.index == 1 {
                    trial.warnings.push("node: CPU 1 was full".to_owned());
                    trial.warnings.push("server: read late".to_owned());
                }
            }
        });
        let said: Vec<(&str, &str)> =
            all.iter().map(|w| (w.text.as_str(), w.concerns.as_str())).collect();
        assert_eq!(
            said,
            [
                (
                    "node: CPU 1 was full",
                    "in every trial of tcp_stream cross-node; tcp_rr same-node: flannel-vxlan 1 of 2 trials"
                ),
                ("server: read late", "tcp_rr same-node: flannel-vxlan 1 of 2 trials"),
            ]
        );
        assert!(of(|_| {}).is_empty());
    }
}

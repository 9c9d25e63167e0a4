//! Cases that differ only in a switch of the cluster: Hubble on against off, cni by cni.
//!
//! Owns which rows belong together and whether their trials were neighbours. Called by the sentences.

use crate::{
    book::{Book, Entry},
    matrix::{change_of, primary},
    stats::{Change, Effect},
    words,
};
use cnibench_model::Metric;
use std::collections::HashMap;

/// Rows that are the same but for Hubble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Switch {
    pub off: usize,
    pub on: usize,
}

/// Every such pair of rows, in the order of the book.
pub(crate) fn switches(book: &Book<'_>) -> Vec<Switch> {
    let rest = |row: usize| {
        let row = &book.rows[row];
        (row.workload, row.placement, row.params_without(Some("hubble")))
    };
    let with = |wanted: bool| {
        (0..book.rows.len()).filter(move |r| book.rows[*r].surroundings.hubble == Some(wanted))
    };
    with(false)
        .filter_map(|off| {
            let on = with(true).find(|on| rest(*on) == rest(off))?;
            Some(Switch { off, on })
        })
        .collect()
}

impl Switch {
    /// "latency p50, Hubble on against off: cilium 6 % slower (5–7 %)"; none when no cni has both.
    pub fn sentence(&self, book: &Book<'_>) -> Option<String> {
        let metric = book.first_measured(self.off, primary(book.rows[self.off].workload))?;
        let parts: Vec<String> = (0..book.columns.len())
            .filter_map(|column| {
                let change = self.change(book, metric, column)?;
                let over = book.entry(self.on, column)?.over();
                let words = words::change(metric, &change, over);
                let range = words::interval(metric, &change)
                    .filter(|_| change.effect(metric.direction()) != Effect::NotShown)
                    .map_or_else(String::new, |r| format!(" ({r})"));
                Some(format!("{} {words}{range}", book.columns[column].short))
            })
            .collect();
        let label = metric.label();
        (!parts.is_empty()).then(|| format!("{label}, Hubble on against off: {}", parts.join("; ")))
    }

    fn change(&self, book: &Book<'_>, metric: Metric, column: usize) -> Option<Change> {
        let (on, off) = (book.entry(self.on, column)?, book.entry(self.off, column)?);
        let adjacent = neighbours(on, off, book.columns.len());
        change_of(book, metric, (self.on, column), (self.off, column), adjacent)
    }
}

/// True when the trials of every block they share ran at most so far apart that a drifting machine
/// moved both: with no more between them than each cni has in both cases.
fn neighbours(a: &Entry<'_>, b: &Entry<'_>, columns: usize) -> bool {
    let places: HashMap<u32, u32> = b.shown().iter().map(|t| (t.block, t.sequence)).collect();
    let mut apart = a
        .shown()
        .iter()
        .filter_map(|t| Some(places.get(&t.block)?.abs_diff(t.sequence) as usize))
        .peekable();
    apart.peek().is_some() && apart.all(|n| n <= 2 * columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixtures::{Builder, path},
        stats::ChangeMethod,
    };
    use cnibench_model::{Placement, Record, Surroundings, Workload};

    fn record() -> Record {
        let around = [false, true]
            .map(|on| Surroundings { hubble: Some(on), ..Surroundings::default() })
            .to_vec();
        let series = vec![(Workload::TcpRr, Placement::CrossNode)];
        let paths = vec![path("cilium", "cilium", false, 1.2, 0.8)];
        Builder { around, series, paths, trials: 10, ..Builder::default() }.build()
    }

    fn only(record: Record, check: impl Fn(&Book<'_>, &Switch)) {
        let records = [record];
        let book = Book::new(&records);
        let found = switches(&book);
        assert_eq!(found.len(), 1);
        check(&book, &found[0]);
    }

    #[test]
    fn hubble_on_is_compared_with_off() {
        only(record(), |book, switch| {
            let text = switch.sentence(book).unwrap();
            assert!(text.starts_with("latency p50, Hubble on against off: cilium "), "{text}");
            let change = switch.change(book, Metric::LatencyP50, 0).unwrap();
            assert_eq!(change.method, ChangeMethod::PairedRank);
            // The fixture makes it 6 % slower, on a machine that moves by 4 %.
            assert!(change.interval.unwrap().contains(1.06), "{change:?}");
        });
    }

    #[test]
    fn cases_one_after_the_other_are_not_compared_in_pairs() {
        let mut record = record();
        for trial in &mut record.trials {
            let later = if trial.case.0.contains("hubble=on") { 100 } else { 0 };
            trial.sequence = later + trial.block;
        }
        only(record, |book, switch| {
            let change = switch.change(book, Metric::LatencyP50, 0).unwrap();
            assert_eq!(change.method, ChangeMethod::UnpairedRank);
        });
    }
}

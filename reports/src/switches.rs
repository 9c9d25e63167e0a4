//! Cases that differ only in a switch of the cluster: Hubble on against off, cni by cni.
//!
//! Owns which rows belong together, whether their trials are compared in pairs, and how far apart in
//! time those ran. Called by the sentences.

use crate::{
    book::{Book, Entry},
    matrix::{Over, change_of, primary},
    stats::{self, Change, Effect},
    units::duration,
    words,
};
use cnibench_model::{Metric, Trial};
use std::collections::HashMap;

const PAIRS: (Over, Over) = (Over::NodePairs, Over::NodePairs);

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
    /// "latency p50, Hubble on against off: cilium 6 % slower (5–7 %); in pairs of trials that began
    /// 37 s to 1 min 29 s apart"; none when no cni has both.
    pub fn sentence(&self, book: &Book<'_>) -> Option<String> {
        let metric = book.first_measured(self.off, primary(book.rows[self.off].workload))?;
        let mut few = None;
        let parts: Vec<String> = (0..book.columns.len())
            .filter_map(|column| {
                let change = self.change(book, metric, column)?;
                let over = book.entry(self.on, column)?.over();
                if change.interval.is_none() {
                    few.get_or_insert(over);
                }
                let words = words::change(metric, &change, over);
                let range = words::interval(metric, &change)
                    .filter(|_| change.effect(metric.direction()) != Effect::NotShown)
                    .map_or_else(String::new, |r| format!(" ({r})"));
                Some(format!("{} {words}{range}", book.columns[column].short))
            })
            .collect();
        if parts.is_empty() {
            return None;
        }
        let label = metric.label();
        let mut text = format!("{label}, Hubble on against off: {}", parts.join("; "));
        text.push_str("; ");
        text.push_str(&self.distance(book));
        if let Some(over) = few {
            let few = over.count(stats::ENOUGH);
            text.push_str(&format!("; fewer than {few} have no interval: it may be chance"));
        }
        Some(text)
    }

    /// How the trials were compared: in pairs, with the time between the two of a pair, or not.
    fn distance(&self, book: &Book<'_>) -> String {
        let both = |column| Some((book.entry(self.on, column)?, book.entry(self.off, column)?));
        let entries: Vec<(&Entry<'_>, &Entry<'_>)> =
            (0..book.columns.len()).filter_map(both).collect();
        if entries.iter().all(|(on, off)| (on.over(), off.over()) == PAIRS) {
            return "each pair of nodes against itself".to_owned();
        }
        if !entries.iter().all(|(on, off)| neighbours(on, off)) {
            return "not in pairs, since the trials of one block did not run near each other"
                .to_owned();
        }
        let apart = || entries.iter().flat_map(|(on, off)| seconds_apart(on, off));
        let (least, most) = (apart().fold(f64::INFINITY, f64::min), apart().fold(0.0, f64::max));
        let between = match (duration(least), duration(most)) {
            _ if most < 1.0 => "less than 1 s".to_owned(),
            (low, high) if low == high => high,
            (low, high) => format!("{low} to {high}"),
        };
        format!("in pairs of trials that began {between} apart")
    }

    fn change(&self, book: &Book<'_>, metric: Metric, column: usize) -> Option<Change> {
        let (on, off) = (book.entry(self.on, column)?, book.entry(self.off, column)?);
        let adjacent = neighbours(on, off);
        change_of(book, metric, (self.on, column), (self.off, column), adjacent)
    }
}

/// Seconds between the starts of the two trials of every block that both cells have.
fn seconds_apart(a: &Entry<'_>, b: &Entry<'_>) -> Vec<f64> {
    let started: HashMap<u32, _> = b.shown().iter().map(|t| (t.block, t.started)).collect();
    let apart = a.shown().iter().filter_map(|t| {
        Some(t.started.duration_since(*started.get(&t.block)?).as_secs_f64().abs())
    });
    apart.collect()
}

/// True when of every block that both cells have the two trials ran nearer to each other than to those
/// of other blocks. Of cases measured one after the other a block's number says nothing of time.
fn neighbours(a: &Entry<'_>, b: &Entry<'_>) -> bool {
    let mut shared = 0;
    let near = a.shown().iter().all(|t| {
        let apart = |o: &&&Trial| o.sequence.abs_diff(t.sequence);
        let (own, others): (Vec<&Trial>, Vec<&Trial>) =
            b.shown().iter().copied().partition(|o| o.block == t.block);
        let Some(own) = own.iter().map(|o| apart(&o)).min() else { return true };
        shared += 1;
        others.iter().all(|o| own <= apart(&o))
    });
    near && shared > 0
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
    fn a_pair_says_how_far_apart_its_trials_ran() {
        let mut record = record();
        let first = record.header.started;
        for trial in &mut record.trials {
            // A switch takes 40 s, and every second block runs the other way round.
            let on = trial.case.0.contains("hubble=on");
            let place = i64::from(on != (trial.block % 2 == 1));
            let seconds = i64::from(trial.block) * 200 + place * (40 + i64::from(trial.block) * 7);
            trial.started = first + jiff::SignedDuration::from_secs(seconds);
        }
        only(record, |book, switch| {
            let text = switch.sentence(book).unwrap();
            assert!(
                text.ends_with("; in pairs of trials that began 40 s to 1 min 43 s apart"),
                "{text}"
            );
        });
    }

    #[test]
    fn what_runs_between_the_two_does_not_part_them() {
        // Block 0: off, others, on; block 1 the other way round.
        let mut record = record();
        record.trials.retain(|t| t.index < 2);
        for trial in &mut record.trials {
            let on = trial.case.0.contains("hubble=on");
            trial.sequence = [[0, 15], [31, 16]][trial.block as usize][usize::from(on)];
        }
        only(record, |book, switch| {
            assert!(switch.sentence(book).unwrap().contains("in pairs of trials"));
        });
    }

    #[test]
    fn two_trials_may_be_chance() {
        let mut record = record();
        record.trials.retain(|t| t.index < 2);
        only(record, |book, switch| {
            let text = switch.sentence(book).unwrap();
            assert!(text.contains("(2 trials); "), "{text}");
            assert!(
                text.ends_with("fewer than 3 trials have no interval: it may be chance"),
                "{text}"
            );
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
            assert!(switch.sentence(book).unwrap().contains("not in pairs"));
        });
    }
}

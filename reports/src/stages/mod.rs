//! Where the time of a round trip goes: the stages of probed trials added up against the mean round
//! trip that the generator saw in the same trials.
//!
//! Owns the accounting and which stages make the difference between two cnis; `words` says it, and
//! `tables` has the numbers. Reads probed trials only, never measured ones. Called by the figures, the
//! page and summary.md.

mod tables;
mod words;

pub(crate) use tables::{Table, accounting, per_stage, place, remarks};
pub(crate) use words::{Pairs, pairs, short};

use crate::{
    book::Book,
    stats::{self, Basis, Change, Merged, Point},
};
use cnibench_model::{
    ProbedTrial, Stage,
    probe::{Direction, DiscardKind, StageStats},
};

/// Stages that add up to more than this share of the mean round trip overlap.
const OVERLAP: f64 = 1.02;
/// Stages are named, the largest first, until together they are so near to the whole difference.
const WITHIN: f64 = 0.2;

/// The probed trials of one cell, added up.
#[derive(Debug, Clone)]
pub(crate) struct Account<'a> {
    pub column: usize,
    pub trials: Vec<&'a ProbedTrial>,
    pub transactions: u64,
    /// The mean round trip as the generator saw it, over all transactions.
    pub mean_ns: f64,
    /// Request first, then response, each in the order of the path.
    pub parts: Vec<Part>,
}

/// One stage in one direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Part {
    pub stage: Stage,
    pub direction: Direction,
    /// Of the mean round trip.
    pub ns: f64,
}

/// The accounts of a row, in the order of the columns; none of cells without a probed round trip.
pub(crate) fn accounts<'a>(book: &Book<'a>, row: usize) -> Vec<Account<'a>> {
    (0..book.columns.len()).filter_map(|column| account(book, row, column)).collect()
}

/// Rows of the book with an account.
pub(crate) fn rows(book: &Book<'_>) -> Vec<usize> {
    (0..book.rows.len()).filter(|row| !accounts(book, *row).is_empty()).collect()
}

fn account<'a>(book: &Book<'a>, row: usize, column: usize) -> Option<Account<'a>> {
    let case = &book.entry(row, column)?.case.id;
    let trials: Vec<&ProbedTrial> = book.columns[column]
        .record
        .probed
        .iter()
        .filter(|t| t.case == *case && t.result.round_trip.transactions > 0)
        .filter(|t| t.result.round_trip.mean_ns.is_finite() && t.result.round_trip.mean_ns > 0.0)
        .collect();
    let transactions: u64 = trials.iter().map(|t| t.result.round_trip.transactions).sum();
    if transactions == 0 {
        return None;
    }
    let all = transactions as f64;
    let times = trials.iter().map(|t| t.result.round_trip);
    let mean_ns = times.map(|r| r.mean_ns * r.transactions as f64).sum::<f64>() / all;
    let mut parts = Vec::new();
    for direction in Direction::ALL {
        for stage in Stage::ALL.iter().filter(|s| **s != Stage::Unattributed) {
            let own = |s: &&StageStats| s.stage == *stage && s.direction == *direction;
            let stats = || trials.iter().flat_map(|t| &t.result.stages).filter(own);
            if stats().any(|s| s.count > 0) {
                let ns = stats().map(|s| s.sum_ns as f64).sum::<f64>() / all;
                parts.push(Part { stage: *stage, direction: *direction, ns });
            }
        }
    }
    Some(Account { column, trials, transactions, mean_ns, parts })
}

impl Account<'_> {
    /// What the stages have of the mean round trip.
    pub fn attributed(&self) -> f64 {
        self.parts.iter().map(|p| p.ns).sum()
    }

    /// What is left; never below zero.
    pub fn unattributed(&self) -> f64 {
        (self.mean_ns - self.attributed()).max(0.0)
    }

    /// The share that the stages have.
    pub fn accounted(&self) -> f64 {
        self.attributed() / self.mean_ns
    }

    /// True when stages must have been counted over the same time.
    pub fn overlaps(&self) -> bool {
        self.accounted() > OVERLAP
    }

    /// A stage in both directions, or what is left over.
    pub fn stage(&self, stage: Stage) -> f64 {
        match stage {
            Stage::Unattributed => self.unattributed(),
            stage => self.parts.iter().filter(|p| p.stage == stage).map(|p| p.ns).sum(),
        }
    }

    /// Every passage of a stage in either direction.
    pub fn passages(&self, stage: Stage) -> Option<Merged> {
        let own = |s: &&StageStats| s.stage == stage && s.count > 0;
        let stats = self.trials.iter().flat_map(|t| &t.result.stages).filter(own);
        stats::merge(stats.map(|s| &s.histogram))
    }

    /// Events in no stage, by reason; reasons without any are left out.
    pub fn discards(&self) -> Vec<(DiscardKind, u64)> {
        let of = |why: &DiscardKind| -> u64 {
            let all = self.trials.iter().flat_map(|t| &t.result.discards);
            all.filter(|d| d.why == *why).map(|d| d.count).sum()
        };
        let all = DiscardKind::ALL.iter().map(|why| (*why, of(why)));
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// What probing changed in the transactions a second: as the run estimated it, else of the
    /// trials without probes that ran beside these.
    pub fn cost(&self) -> Option<Change> {
        let stored = self.trials.iter().filter_map(|t| t.result.cost);
        if let Some(cost) = stored.max_by_key(|c| c.pairs) {
            let change = cost.throughput_change;
            let interval =
                change.low.zip(change.high).map(|(low, high)| stats::Interval { low, high });
            return Some(Change {
                basis: Basis::Ratio,
                size: change.ratio,
                interval,
                n: cost.pairs as usize,
                method: stats::ChangeMethod::PairedT,
            });
        }
        let point = |number: usize, rate: Option<f64>| {
            Some(Point { block: u32::try_from(number).ok()?, value: rate? })
        };
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for (number, trial) in self.trials.iter().enumerate() {
            let Some(beside) = trial.beside else { continue };
            with.extend(point(number, trial.result.round_trip.rate()));
            without.extend(point(number, beside.rate()));
        }
        stats::change(&with, &without, Basis::Ratio, true)
    }

    fn points(&self) -> Vec<Point> {
        let point = |t: &&ProbedTrial| Point { block: t.block, value: t.result.round_trip.mean_ns };
        self.trials.iter().map(point).collect()
    }
}

/// What makes one cni slower than another.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Difference {
    /// Columns.
    pub slower: usize,
    pub faster: usize,
    /// Of the mean round trips.
    pub ns: f64,
    /// The same from trial to trial, for its interval.
    pub change: Option<Change>,
    /// Stages that make it, the largest first.
    pub named: Vec<(Stage, f64)>,
    /// Stages that go the other way and are as large.
    pub against: Vec<(Stage, f64)>,
    /// Which share all of these explain together: 1 up to [`WITHIN`].
    pub explained: f64,
}

/// The difference between two cells of a row.
pub(crate) fn difference(book: &Book<'_>, a: &Account<'_>, b: &Account<'_>) -> Difference {
    let (slow, fast) = if a.mean_ns >= b.mean_ns { (a, b) } else { (b, a) };
    let ns = slow.mean_ns - fast.mean_ns;
    let mut parts: Vec<(Stage, f64)> =
        Stage::ALL.iter().map(|s| (*s, slow.stage(*s) - fast.stage(*s))).collect();
    parts.sort_by(|x, y| y.1.abs().total_cmp(&x.1.abs()));
    let mut sum = 0.0;
    let (mut named, mut against) = (Vec::new(), Vec::new());
    for (stage, part) in parts.into_iter().filter(|(_, part)| *part != 0.0) {
        if (sum - ns).abs() <= WITHIN * ns {
            break;
        }
        sum += part;
        if part > 0.0 { named.push((stage, part)) } else { against.push((stage, part)) }
    }
    let (x, y) = (&book.columns[slow.column], &book.columns[fast.column]);
    // Probed trials of one block ran next to each other where measured ones did.
    let adjacent = std::ptr::eq(x.record, y.record) && crate::trust::interleaved(x.record);
    let change = stats::change(&slow.points(), &fast.points(), Basis::Difference, adjacent);
    let explained = if ns > 0.0 { sum / ns } else { 0.0 };
    Difference { slower: slow.column, faster: fast.column, ns, change, named, against, explained }
}

/// Stages that differ most between the accounts, the most first; of one account its largest.
pub(crate) fn differing(accounts: &[Account<'_>], most: usize) -> Vec<Stage> {
    let span = |stage: Stage| {
        let of = || accounts.iter().map(|a| a.stage(stage));
        let least = if accounts.len() > 1 { of().fold(f64::INFINITY, f64::min) } else { 0.0 };
        of().fold(0.0, f64::max) - least
    };
    let mut stages: Vec<(Stage, f64)> = Stage::ALL
        .iter()
        .filter(|s| **s != Stage::Unattributed)
        .map(|s| (*s, span(*s)))
        .filter(|(_, span)| *span > 0.0)
        .collect();
    stages.sort_by(|x, y| y.1.total_cmp(&x.1));
    stages.into_iter().take(most).map(|(stage, _)| stage).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixtures::probed, stats::Effect};
    use cnibench_model::{
        Direction as Better, Record,
        probe::{PairedChange, ProbeCost, RoundTrip},
    };

    fn with(change: impl FnOnce(&mut Record), check: impl FnOnce(&Book<'_>, Vec<Account<'_>>)) {
        let mut record = probed();
        change(&mut record);
        let records = [record];
        let book = Book::new(&records);
        let found = accounts(&book, rows(&book)[0]);
        check(&book, found);
    }

    #[test]
    fn stages_and_what_is_left_add_up_to_the_round_trip() {
        with(
            |_| {},
            |_, accounts| {
                assert_eq!(accounts.len(), 6);
                for a in &accounts {
                    let sum: f64 = Stage::ALL.iter().map(|s| a.stage(*s)).sum();
                    assert!((sum - a.mean_ns).abs() < 1e-6 * a.mean_ns, "{sum} {}", a.mean_ns);
                    assert!((0.9..1.0).contains(&a.accounted()) && !a.overlaps());
                    assert!(a.parts.is_sorted_by_key(|p| (p.direction, p.stage)));
                }
                // The host has no tunnel, and what a path does not have is no part of it.
                assert!(accounts[0].parts.iter().all(|p| p.stage != Stage::Encapsulation));
            },
        );
    }

    #[test]
    fn a_sum_beyond_the_round_trip_is_an_overlap_and_leaves_nothing_below_zero() {
        with(
            |record| {
                for trial in &mut record.probed {
                    trial.result.stages.iter_mut().for_each(|s| s.sum_ns = s.sum_ns * 11 / 10);
                }
            },
            |_, accounts| {
                assert!(accounts.iter().all(|a| a.overlaps() && a.unattributed() == 0.0));
            },
        );
    }

    #[test]
    fn the_stages_that_make_the_difference_are_named() {
        with(
            |_| {},
            |book, accounts| {
                let of = |name: &str| {
                    accounts.iter().find(|a| book.columns[a.column].short == name).unwrap()
                };
                let d = difference(book, of("flannel-host-gw"), of("flannel-vxlan"));
                assert_eq!(book.columns[d.slower].short, "flannel-vxlan");
                let names: Vec<Stage> = d.named.iter().map(|(s, _)| *s).collect();
                assert_eq!(names, [Stage::Encapsulation, Stage::Decapsulation]);
                assert!((1.0 - WITHIN..=1.0 + WITHIN).contains(&d.explained), "{}", d.explained);
                assert!(d.against.is_empty());
                let effect = d.change.unwrap().effect(Better::LowerIsBetter);
                assert_eq!(effect, Effect::Worse);
                assert_eq!(d, difference(book, of("flannel-vxlan"), of("flannel-host-gw")));
                // What one stage costs more and others less is told from both sides.
                let d = difference(book, of("ebpf-vxlan"), of("flannel-host-gw"));
                let (named, against) = (&d.named, &d.against);
                assert_eq!(named[0].0, Stage::Encapsulation, "{named:?}");
                assert_eq!(against[0].0, Stage::NodeForward, "{against:?}");
                assert!((d.explained - 1.0).abs() <= WITHIN, "{d:?}");
                let spread = differing(&accounts, 2);
                assert_eq!(spread.len(), 2);
                assert!(spread.contains(&Stage::Encapsulation), "{spread:?}");
            },
        );
    }

    #[test]
    fn cost_is_that_of_the_run_else_of_the_trials_beside() {
        with(
            |_| {},
            |_, accounts| {
                let cost = accounts[0].cost().unwrap();
                assert!((cost.size - 0.93).abs() < 0.02, "{cost:?}");
                assert_eq!(cost.n, 4);
            },
        );
        let own = ProbeCost {
            pairs: 9,
            throughput_change: PairedChange { ratio: 0.5, low: None, high: None },
        };
        with(
            |record| record.probed[0].result.cost = Some(own),
            |_, accounts| {
                let costs: Vec<f64> =
                    accounts.iter().map(|a| a.cost().unwrap().size).filter(|s| *s == 0.5).collect();
                assert_eq!(costs.len(), 1);
            },
        );
        with(
            |record| record.probed.iter_mut().for_each(|t| t.beside = None),
            |_, accounts| assert!(accounts.iter().all(|a| a.cost().is_none())),
        );
    }

    #[test]
    fn trials_without_a_round_trip_have_no_account() {
        let mut record = probed();
        for trial in &mut record.probed {
            trial.result.round_trip =
                RoundTrip { transactions: 0, mean_ns: f64::NAN, window_s: 0.5 };
        }
        let records = [record, crate::fixtures::Builder::default().build()];
        assert!(rows(&Book::new(&records)).is_empty());
    }
}

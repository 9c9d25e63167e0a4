//! Records compared for people: what changed from a baseline to others, and what else is different.
//!
//! Owns which cases meet. The medians, changes and intervals are those of the matrix, so that a report
//! and a comparison never say two things. Judges nothing. Called by `cnibench compare`.

mod text;

pub use text::{markdown, table};

use crate::{
    book::{Book, Column},
    gate::comparability,
    matrix::{self, Content, MatrixCell, primary, secondary},
    stats::{Basis, Change, Effect},
    words as vocabulary,
};
use cnibench_model::{
    COMPARISON_VERSION, CaseId, Clock, ComparedCandidate, ComparedChange, ComparedEffect,
    ComparedRow, ComparedRun, ComparedValue, Comparison, EffectBasis, Metric, Record, Unmatched,
    Workload,
};
use std::collections::BTreeMap;

/// Compares records with the first of them.
pub fn compare(baseline: &Record, candidates: &[Record]) -> Comparison {
    let records: Vec<Record> = std::iter::once(baseline).chain(candidates).cloned().collect();
    let book = Book::new(&records);
    let first: Vec<usize> = columns_of(&book, &records[0]);
    let met: Vec<Vec<Option<usize>>> =
        records[1..].iter().map(|r| meet(&book, &first, &columns_of(&book, r))).collect();
    let mut rows = Vec::new();
    for (place, column) in first.iter().enumerate() {
        for (row, about) in book.rows.iter().enumerate() {
            let Some(entry) = book.entry(row, *column) else { continue };
            let others: Vec<Option<usize>> = met.iter().map(|m| m[place]).collect();
            if others.iter().flatten().all(|c| book.entry(row, *c).is_none()) {
                continue;
            }
            for metric in metrics(&book, row, about.workload) {
                let line = matrix::line(&book, row, metric);
                let candidates = others.iter().map(|other| {
                    let other = (*other)?;
                    let value = value(&line.cells[other])?;
                    let change = matrix::change_between(&book, row, metric, other, *column);
                    Some(ComparedCandidate { value, change: change.map(|c| said(metric, &c)) })
                });
                rows.push(ComparedRow {
                    series: about.key.clone(),
                    title: format!("{}: {}", book.columns[*column].spec, about.title()),
                    case: entry.case.id.clone(),
                    metric,
                    baseline: value(&line.cells[*column]),
                    candidates: candidates.collect(),
                });
            }
        }
    }
    let mut notes = vec![
        "Changes are of different runs: what the machine did differently from one to the next is in them and in no interval. Intervals are 95 % each, and not corrected for how many there are.".to_owned(),
    ];
    notes.extend(clocks(&records));
    notes.extend(other_names(&book, &first, &met));
    Comparison {
        schema_version: COMPARISON_VERSION,
        baseline: run(baseline, baseline),
        candidates: candidates.iter().map(|c| run(baseline, c)).collect(),
        rows,
        unmatched: unmatched(&records),
        notes,
    }
}

fn run(baseline: &Record, record: &Record) -> ComparedRun {
    let found = comparability(baseline, record);
    ComparedRun {
        run: record.header.run_id.clone(),
        suite: record.header.suite.clone(),
        started: record.header.started.strftime("%F %T UTC").to_string(),
        clock: record.header.clock,
        forbidding: found.forbidding,
        telling: found.telling,
    }
}

/// The columns of one record.
fn columns_of(book: &Book<'_>, record: &Record) -> Vec<usize> {
    let own = |c: &Column<'_>| std::ptr::eq(c.record, record);
    (0..book.columns.len()).filter(|i| own(&book.columns[*i])).collect()
}

/// For each of the baseline's columns the other record's that is compared with it: that of the same
/// cni; where each record has but one cni and they are not the same, that one.
fn meet(book: &Book<'_>, first: &[usize], others: &[usize]) -> Vec<Option<usize>> {
    if let ([_], [other]) = (first, others) {
        return vec![Some(*other)];
    }
    let same = |column: &usize| {
        let spec = book.columns[*column].spec;
        others.iter().copied().find(|o| book.columns[*o].spec == spec)
    };
    first.iter().map(same).collect()
}

/// The metric that stands for the workload where it was measured, and those beside it.
fn metrics(book: &Book<'_>, row: usize, workload: Workload) -> Vec<Metric> {
    let first = book.first_measured(row, primary(workload));
    let beside = secondary(workload).iter().copied();
    let beside = beside.filter(|m| book.first_measured(row, &[*m]).is_some());
    first.into_iter().chain(beside).collect()
}

fn value(cell: &MatrixCell) -> Option<ComparedValue> {
    let Content::Value(value) = &cell.content else { return None };
    let centre = &value.centre;
    Some(ComparedValue {
        median: centre.median,
        low: centre.interval.map(|i| i.low),
        high: centre.interval.map(|i| i.high),
        n: centre.n as u32,
    })
}

fn said(metric: Metric, change: &Change) -> ComparedChange {
    let size = vocabulary::size_alone(metric, change);
    let words = match vocabulary::interval(metric, change) {
        Some(range) => format!("{size} ({range})"),
        None => size,
    };
    ComparedChange {
        basis: match change.basis {
            Basis::Ratio => EffectBasis::Ratio,
            Basis::Difference => EffectBasis::Difference,
        },
        size: change.size,
        low: change.interval.map(|i| i.low),
        high: change.interval.map(|i| i.high),
        effect: match change.effect(metric.direction()) {
            Effect::Better => ComparedEffect::Better,
            Effect::Worse => ComparedEffect::Worse,
            Effect::NotShown => ComparedEffect::NotShown,
            Effect::Unknown => ComparedEffect::Unknown,
        },
        words,
    }
}

fn clocks(records: &[Record]) -> Option<String> {
    let first = records.first()?.header.clock;
    let other = records.iter().find(|r| r.header.clock != first)?;
    let named = |clock: Clock| clock.name();
    Some(format!(
        "The clocks differ ({} and {}): do not compare times.",
        named(first),
        named(other.header.clock)
    ))
}

/// Cnis of different names that stand against each other.
fn other_names(book: &Book<'_>, first: &[usize], met: &[Vec<Option<usize>>]) -> Vec<String> {
    let mut notes = Vec::new();
    for others in met {
        for (column, other) in first.iter().zip(others) {
            let Some(other) = other else { continue };
            let (a, b) = (book.columns[*column].spec, book.columns[*other].spec);
            if a != b {
                notes.push(format!("{b} stands against {a}: each is the only cni of its record."));
            }
        }
    }
    notes
}

/// Cases that not all records have, where it is not because each has another cni.
fn unmatched(records: &[Record]) -> Vec<Unmatched> {
    let mut runs: BTreeMap<&CaseId, Vec<String>> = BTreeMap::new();
    for record in records {
        for case in &record.header.cases {
            runs.entry(&case.id).or_default().push(record.header.run_id.clone());
        }
    }
    let some = runs.into_iter().filter(|(_, runs)| runs.len() < records.len());
    some.map(|(case, runs)| Unmatched { case: case.clone(), runs }).collect()
}

/// What an effect is called in tables.
fn effect_word(effect: ComparedEffect) -> &'static str {
    match effect {
        ComparedEffect::Better => "better",
        ComparedEffect::Worse => "worse",
        ComparedEffect::NotShown => "no difference shown",
        ComparedEffect::Unknown => "too few trials",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Builder, usual};

    #[test]
    fn a_known_change_comes_out_with_its_words_and_the_fields_that_differ() {
        let before = Builder { trials: 8, ..Builder::default() }.build();
        let mut after = before.clone();
        for trial in after.trials.iter_mut().filter(|t| t.case.0.contains("/ebpf/")) {
            trial
                .samples
                .iter_mut()
                .filter(|s| s.metric == Metric::LatencyP50)
                .for_each(|s| s.value *= 1.5);
        }
        after.header.environment.kernel_release = "6.19".to_owned();
        let made = compare(&before, std::slice::from_ref(&after));
        assert_eq!(made.candidates[0].forbidding[0].field, "kernel_release");
        let row = |part: &str| {
            let own = |r: &&ComparedRow| r.case.0.contains(part) && r.metric == Metric::LatencyP50;
            made.rows.iter().find(own).unwrap().candidates[0].as_ref().unwrap().change.clone()
        };
        let ebpf = row("/ebpf/tcp_rr/cross-node").unwrap();
        assert!((ebpf.size - 1.5).abs() < 0.06 && ebpf.effect == ComparedEffect::Worse, "{ebpf:?}");
        assert!(ebpf.words.contains("% slower ("), "{ebpf:?}");
        assert_ne!(row("/host/tcp_rr/cross-node").unwrap().effect, ComparedEffect::Worse);
        assert!(made.unmatched.is_empty());
        let text = serde_json::to_string(&made).unwrap();
        assert_eq!(serde_json::from_str::<Comparison>(&text).unwrap().rows.len(), made.rows.len());
        let table = table(&made, Some(120));
        assert!(table.lines().next().unwrap().contains("differs"), "{table}");
        assert!(markdown(&made).contains("| kernel\\_release |"), "{}", markdown(&made));
    }

    #[test]
    fn cnis_that_stand_alone_meet_whatever_their_names() {
        let alone = |path: usize| {
            let paths = vec![usual()[path].clone()];
            Builder { paths, seed: path as u64, ..Builder::default() }.build()
        };
        let made = compare(&alone(1), &[alone(4)]);
        let note = "ebpf stands against flannel-vxlan: each is the only cni of its record.";
        assert!(made.notes.iter().any(|n| n == note), "{:?}", made.notes);
        assert!(made.rows.iter().all(|r| r.candidates[0].is_some()));
        assert_eq!(made.unmatched.len(), 6);
        let both = Builder::default().build();
        let made = compare(&both, &[alone(4)]);
        assert!(made.rows.iter().all(|r| r.title.starts_with("ebpf: ")), "{made:?}");
    }
}

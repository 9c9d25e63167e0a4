//! Makes the matrix: centres, changes, words, and what a cell without values says.
//!
//! Owns the comparison of a cell with its baseline. Called by `matrix` and the sentences.

use super::{
    Against, Content, End, Matrix, MatrixCell, MatrixColumn, MatrixLine, MatrixRow, Over, Side,
    Value, Weight, basis, only_if_any, primary, principal, secondary,
};
use crate::{
    book::{Book, Column, Entry},
    stats::{self, Centre, Change, Interval},
    trust,
    units::{Scale, thousands},
    words,
};
use cnibench_model::{CellStatus, Metric, Trial, Unit, Workload};

pub(crate) fn from_book(book: &Book<'_>) -> Matrix {
    let columns = book.columns.iter().map(|c| MatrixColumn {
        label: c.label.clone(),
        short: c.short.clone(),
        baseline: c.baseline,
        encrypted: c.encrypted(),
    });
    let rows = book.rows.iter().enumerate().map(|(number, row)| {
        let first = book.first_measured(number, primary(row.workload));
        let none = principal(row.workload, book.clock())[0];
        let mut lines = vec![line(book, number, first.unwrap_or(none))];
        for metric in secondary(row.workload) {
            let wanted = match only_if_any(row.workload, *metric) {
                true => any_above_zero(book, number, *metric),
                false => has_or_could(book, number, *metric),
            };
            if wanted {
                lines.push(line(book, number, *metric));
            }
        }
        MatrixRow {
            series: row.key.clone(),
            workload: row.workload,
            placement: row.placement,
            params: row.params_text(),
            pairs: book.over_pairs(number),
            lines,
        }
    });
    Matrix {
        columns: columns.collect(),
        rows: rows.collect(),
        clock: book.clock(),
        remarks: remarks(book),
    }
}

fn any_above_zero(book: &Book<'_>, row: usize, metric: Metric) -> bool {
    (0..book.columns.len())
        .filter_map(|c| book.entry(row, c))
        .any(|e| e.values(metric).iter().any(|v| *v > 0.0))
}

fn remarks(book: &Book<'_>) -> Vec<String> {
    let mut remarks = Vec::new();
    let mut without_host: Vec<&str> = Vec::new();
    for column in &book.columns {
        let base = &book.columns[column.baseline];
        // Of two arms in pairs the baseline is what was asked for.
        let asked = column.record.header.pairing.is_some();
        if !asked && !base.is_host() && !without_host.contains(&base.label.as_str()) {
            without_host.push(&base.label);
        }
    }
    if !without_host.is_empty() && book.columns.len() > 1 {
        remarks.push(format!(
            "There is no host baseline: changes are against {}.",
            without_host.join(" and ")
        ));
    }
    if book.records.iter().any(|r| r.header.clock != book.clock()) {
        remarks.push(
            "The records have different clocks: time values of one are nanoseconds, of another instructions; do not compare them."
                .to_owned(),
        );
    }
    if book.records.len() > 1 {
        remarks.push(
            "Several records stand side by side; every change is against the baseline of the same record, since machines and days differ."
                .to_owned(),
        );
    }
    remarks.extend(trust::remarks(book));
    remarks
}

/// True where a trial of the row has the metric, or had transactions, only too few for it: a row that
/// is missing without a word would look as if nobody had asked.
fn has_or_could(book: &Book<'_>, row: usize, metric: Metric) -> bool {
    let could = transactions_needed(metric).map(|_| Metric::LatencyMax);
    let wanted: Vec<Metric> = [metric].into_iter().chain(could).collect();
    book.first_measured(row, &wanted).is_some()
}

/// Transactions of a trial from which on it has a percentile: ten lie beyond it then.
fn transactions_needed(metric: Metric) -> Option<u64> {
    match metric {
        Metric::LatencyP50 => Some(20),
        Metric::LatencyP90 => Some(100),
        Metric::LatencyP99 => Some(1_000),
        Metric::LatencyP999 => Some(10_000),
        _ => None,
    }
}

/// Row and column of a cell.
pub(crate) type Place = (usize, usize);

/// The change of a metric between two columns of a row.
pub(crate) fn change_between(
    book: &Book<'_>,
    row: usize,
    metric: Metric,
    candidate: usize,
    baseline: usize,
) -> Option<Change> {
    let same_record = std::ptr::eq(book.columns[candidate].record, book.columns[baseline].record);
    let adjacent = same_record && book.columns[candidate].interleaved;
    change_of(book, metric, (row, candidate), (row, baseline), adjacent)
}

/// The change of a metric from one cell to another. Of cells whose trials ran adjacent block by block
/// they are compared in pairs; of cells over pairs of nodes each pair of nodes is compared with itself.
pub(crate) fn change_of(
    book: &Book<'_>,
    metric: Metric,
    candidate: Place,
    baseline: Place,
    adjacent: bool,
) -> Option<Change> {
    let (c, b) = (book.entry(candidate.0, candidate.1)?, book.entry(baseline.0, baseline.1)?);
    let same_record =
        std::ptr::eq(book.columns[candidate.1].record, book.columns[baseline.1].record);
    let paired = match (c.over(), b.over()) {
        (Over::Trials, Over::Trials) => adjacent,
        (Over::NodePairs, Over::NodePairs) => same_record,
        // A block of one is no pair of nodes of the other.
        _ => false,
    };
    stats::change(&c.points(metric), &b.points(metric), basis(metric), paired)
}

/// One metric of a series over all columns.
pub(crate) fn line(book: &Book<'_>, row: usize, metric: Metric) -> MatrixLine {
    let centres: Vec<Option<Centre>> = (0..book.columns.len())
        .map(|c| Some(stats::centre(&book.entry(row, c)?.values(metric))?.within(possible(metric))))
        .collect();
    let medians: Vec<f64> = centres.iter().flatten().map(|c| c.median).collect();
    let scale = Scale::of(metric, book.clock(), &medians);
    let cells = book.columns.iter().zip(&centres).enumerate().map(|(number, (column, centre))| {
        let entry = book.entry(row, number);
        let content = match (entry, centre) {
            (Some(entry), Some(centre)) => {
                let against = against(book, row, metric, number, column, &centres);
                Content::Value(Box::new(value(entry, *centre, &scale, against)))
            }
            (entry, _) => nothing(entry, metric),
        };
        MatrixCell { case: entry.map(|e| e.case.id.clone()), content }
    });
    let cells = cells.collect();
    let series = &book.rows[row];
    let flat_out = series.workload == Workload::UdpStream && series.params.rate.is_none();
    let weight = if flat_out && metric == Metric::Loss { Weight::Informs } else { Weight::Judges };
    // Where no cell has a value, nothing is in a unit.
    let unit = if medians.is_empty() { String::new() } else { scale.unit.clone() };
    MatrixLine { metric, unit, weight, cells, scale }
}

/// What values of a metric can be: a share is 0 to 1.
fn possible(metric: Metric) -> Interval {
    Interval { low: 0.0, high: if metric.unit() == Unit::Ratio { 1.0 } else { f64::INFINITY } }
}

fn value(entry: &Entry<'_>, centre: Centre, scale: &Scale, against: Against) -> Value {
    let interrupted = matches!(entry.status, Some(CellStatus::Interrupted { .. }));
    let finished = entry.trials.len();
    let (text, interval) = scale.centre(&centre);
    Value {
        centre,
        over: entry.over(),
        text,
        interval_text: interval
            .unwrap_or_else(|| format!("{}: no interval", entry.over().count(centre.n))),
        against,
        partial: interrupted
            .then(|| format!("{finished} of {}", stats::trials(entry.case.trials as usize))),
    }
}

fn against(
    book: &Book<'_>,
    row: usize,
    metric: Metric,
    number: usize,
    column: &Column<'_>,
    centres: &[Option<Centre>],
) -> Against {
    if column.baseline == number {
        return Against::Baseline;
    }
    let base = &book.columns[column.baseline];
    let name = if base.is_host() { "host" } else { "baseline" };
    if centres[column.baseline].is_none() {
        return Against::None { why: format!("no {name} value"), side: Side::Baseline };
    }
    let Some(change) = change_between(book, row, metric, number, column.baseline) else {
        let zeros = |column| zeros(book.entry(row, column), metric);
        return match zeros(number) {
            Some(own) => Against::None { why: own, side: Side::Candidate },
            None => {
                let what = zeros(column.baseline).unwrap_or_else(|| "has no ratio".to_owned());
                Against::None { why: format!("the {name} {what}"), side: Side::Baseline }
            }
        };
    };
    let over = book.entry(row, number).map_or(Over::Trials, Entry::over);
    Against::Change {
        effect: change.effect(metric.direction()),
        words: words::change(metric, &change, over),
        interval_words: words::interval(metric, &change),
        change,
    }
}

/// "delivered nothing in 1 of 5 trials": why a cell has no ratio to or from another.
fn zeros(entry: Option<&Entry<'_>>, metric: Metric) -> Option<String> {
    let entry = entry?;
    let values = entry.values(metric);
    let zeros = values.iter().filter(|v| **v <= 0.0).count();
    let what = match metric.unit() {
        Unit::BitsPerSecond | Unit::PacketsPerSecond => "delivered nothing",
        Unit::TransactionsPerSecond => "completed nothing",
        _ => "was zero",
    };
    (zeros > 0).then(|| format!("{what} in {zeros} of {}", entry.over().count(values.len())))
}

fn nothing(entry: Option<&Entry<'_>>, metric: Metric) -> Content {
    let (end, short, reason) = match entry.map(|e| e.status) {
        None => (End::Absent, "not planned", "the plan has no such case".to_owned()),
        Some(Some(CellStatus::Failed { short, reason })) => {
            (End::Failed, short.as_str(), reason.clone())
        }
        Some(Some(CellStatus::Invalid { short, reason })) => {
            (End::Invalid, short.as_str(), reason.clone())
        }
        Some(Some(CellStatus::Skipped { reason })) => (End::Skipped, "skipped", reason.clone()),
        Some(Some(CellStatus::Interrupted { reason })) => {
            (End::Interrupted, "cut off", reason.clone())
        }
        Some(Some(CellStatus::Measured) | None) => match entry.and_then(|e| too_few(e, metric)) {
            Some(reason) => (End::TooFew, "too few transactions", reason),
            None => {
                (End::Absent, "no value", format!("no trial has a value of {}", metric.label()))
            }
        },
    };
    Content::Nothing { end, short: three_words(short), reason }
}

/// How many transactions the trials of a cell had where they were too few for a percentile.
fn too_few(entry: &Entry<'_>, metric: Metric) -> Option<String> {
    let needed = transactions_needed(metric)?;
    let lacks = |t: &&&Trial| t.value(Metric::LatencyMax).is_some() && t.value(metric).is_none();
    entry.shown().iter().find(lacks)?;
    let counts: Vec<u64> =
        entry.histograms().filter_map(|h| h.decode().ok()).map(|h| h.len()).collect();
    let (Some(least), Some(most)) = (counts.iter().min(), counts.iter().max()) else {
        return Some(format!("not every trial had ten beyond its {}", metric.label()));
    };
    let had = match least == most {
        true => thousands(*least),
        false => format!("{} to {}", thousands(*least), thousands(*most)),
    };
    Some(format!("{had} a trial, {} needed", thousands(needed)))
}

/// The first three words: what a cell has room for.
fn three_words(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().take(3).collect();
    match words.is_empty() {
        true => "no reason given".to_owned(),
        false => words.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Builder, mixed, set_status, usual};
    use crate::{
        matrix::{matrix, tint},
        stats::Effect,
    };
    use cnibench_model::{Placement, Rate, Record, Sample};

    fn row<'m>(m: &'m Matrix, series: &str) -> &'m MatrixRow {
        m.rows.iter().find(|r| r.series.0 == series).unwrap()
    }

    #[test]
    fn known_changes_come_out() {
        let m = matrix(&[Builder { trials: 10, ..Builder::default() }.build()]);
        let rr = row(&m, "tcp_rr/cross-node");
        assert_eq!(rr.lines[0].metric, Metric::LatencyP50);
        assert_eq!(rr.lines[1].metric, Metric::LatencyP99);
        let vxlan = rr.lines[0].cells[1].change().unwrap();
        assert!((vxlan.size - 1.31).abs() < 0.03, "{vxlan:?}");
        let Against::Change { effect, words, .. } = &rr.lines[0].cells[1].value().unwrap().against
        else {
            panic!("no change")
        };
        assert_eq!(*effect, Effect::Worse);
        assert!(words.ends_with("% slower"), "{words}");
        let stream = &row(&m, "tcp_stream/cross-node").lines[0];
        let Against::Change { effect, words, .. } = &stream.cells[1].value().unwrap().against
        else {
            panic!("no change")
        };
        assert_eq!(*effect, Effect::Worse);
        assert!(words.ends_with("% less throughput"), "{words}");
        assert!(tint(stream, &stream.cells[1].value().unwrap().against) > 0.2);
        assert!(m.remarks.is_empty());
    }

    #[test]
    fn cells_without_values_say_why() {
        let m = matrix(&[mixed()]);
        let text =
            |series: &str, column: usize| match &row(&m, series).lines[0].cells[column].content {
                Content::Nothing { end, short, .. } => (*end, short.clone()),
                Content::Value(v) => panic!("{v:?}"),
            };
        assert_eq!(text("tcp_rr/cross-node", 1), (End::Failed, "peer never answered".to_owned()));
        assert_eq!(text("tcp_rr/cross-node", 3), (End::Invalid, "payload in clear".to_owned()));
        let cut = &row(&m, "tcp_stream/cross-node").lines[0].cells[2];
        assert_eq!(cut.value().unwrap().partial.as_deref(), Some("3 of 6 trials"));
    }

    #[test]
    fn without_host_the_first_cni_is_the_baseline_and_is_named() {
        let m = matrix(&[Builder { paths: usual()[1..].to_vec(), ..Builder::default() }.build()]);
        assert_eq!(m.remarks, ["There is no host baseline: changes are against flannel-vxlan."]);
        assert_eq!(m.rows[0].lines[0].cells[0].value().unwrap().against, Against::Baseline);
    }

    #[test]
    fn a_failed_host_leaves_no_comparison() {
        let mut record = Builder::default().build();
        set_status(
            &mut record,
            "host/tcp_stream",
            CellStatus::Failed { short: "a b c d".into(), reason: "r".into() },
        );
        let m = matrix(&[record]);
        let line = &row(&m, "tcp_stream/cross-node").lines[0];
        assert_eq!(
            line.cells[1].value().unwrap().against,
            Against::None { why: "no host value".into(), side: Side::Baseline }
        );
        assert!(
            matches!(&line.cells[0].content, Content::Nothing { short, .. } if short == "a b c")
        );
    }

    #[test]
    fn zeros_and_odd_numbers_have_no_ratio() {
        let mut record = Builder::default().build();
        for trial in &mut record.trials {
            if trial.case.0.contains("/ebpf/") {
                let metrics: Vec<_> = trial.samples.iter().map(|s| s.metric).collect();
                trial.samples =
                    metrics.into_iter().map(|metric| Sample { metric, value: 0.0 }).collect();
            }
            if trial.case.0.contains("/flannel-vxlan/") {
                trial.samples.iter_mut().for_each(|s| s.value = f64::NAN);
            }
            if trial.case.0.contains("/flannel-host-gw/") {
                trial.samples.iter_mut().for_each(|s| s.value = 1e300);
            }
        }
        let m = matrix(&[record]);
        let cells = &row(&m, "tcp_rr/cross-node").lines[0].cells;
        assert_eq!(
            cells[4].value().unwrap().against,
            Against::None { why: "was zero in 6 of 6 trials".into(), side: Side::Candidate }
        );
        assert!(matches!(cells[1].content, Content::Nothing { end: End::Absent, .. }));
        assert!(cells[2].change().unwrap().size > 1e200);
        serde_json::to_string(&m).unwrap();
    }

    #[test]
    fn loss_changes_by_points_and_judges_only_a_held_rate() {
        let mut record = Builder {
            series: vec![(Workload::UdpStream, Placement::CrossNode)],
            ..Builder::default()
        }
        .build();
        for trial in &mut record.trials {
            let lost = match trial.case.0.contains("/flannel-vxlan/") {
                true => 0.05 + f64::from(trial.block) * 0.0012,
                false => 0.0,
            };
            let loss = trial.samples.iter_mut().find(|s| s.metric == Metric::Loss).unwrap();
            loss.value = lost;
        }
        let words = |m: &Matrix, column: usize| match &m.rows[0].lines[1].cells[column]
            .value()
            .unwrap()
            .against
        {
            Against::Change { words, .. } => words.clone(),
            other => panic!("{other:?}"),
        };
        let flat_out = matrix(std::slice::from_ref(&record));
        assert_eq!(words(&flat_out, 1), "5.3 points more loss");
        assert_eq!(words(&flat_out, 4), "no difference shown");
        let line = &flat_out.rows[0].lines[1];
        assert_eq!(tint(line, &line.cells[1].value().unwrap().against), 0.0);
        for case in &mut record.header.cases {
            case.params.rate = Some(Rate(2e9));
        }
        let held = matrix(&[record]);
        let line = &held.rows[0].lines[1];
        let tinted = tint(line, &line.cells[1].value().unwrap().against);
        assert!((tinted - 0.53).abs() < 1e-9, "{tinted}");
    }

    #[test]
    fn a_percentile_of_too_few_transactions_keeps_its_row_and_says_why() {
        let series = vec![(Workload::TcpCrr, Placement::CrossNode)];
        let builder = Builder { series, transactions: 400, ..Builder::default() };
        let mut record = builder.build();
        for trial in &mut record.trials {
            trial.samples.retain(|s| s.metric != Metric::LatencyP99);
        }
        let m = matrix(std::slice::from_ref(&record));
        let line = &m.rows[0].lines[1];
        assert_eq!(line.metric, Metric::LatencyP99);
        for cell in &line.cells {
            let Content::Nothing { end: End::TooFew, short, reason } = &cell.content else {
                panic!("{cell:?}")
            };
            assert_eq!(short, "too few transactions");
            assert_eq!(reason, "402 a trial, 1,000 needed");
        }
        // Without any transaction there is nothing to have a percentile of.
        record.trials.iter_mut().for_each(|t| t.samples.clear());
        assert_eq!(matrix(&[record]).rows[0].lines.len(), 1);
    }

    #[test]
    fn lost_requests_are_shown_where_there_are_any() {
        let mut record =
            Builder { series: vec![(Workload::UdpRr, Placement::CrossNode)], ..Builder::default() }
                .build();
        let metrics = |record: &Record| -> Vec<Metric> {
            let m = matrix(std::slice::from_ref(record));
            m.rows[0].lines.iter().map(|l| l.metric).collect()
        };
        for trial in &mut record.trials {
            trial.samples.push(Sample { metric: Metric::Loss, value: 0.0 });
        }
        assert_eq!(metrics(&record), [Metric::LatencyP50, Metric::LatencyP99]);
        let last = record.trials[7].samples.last_mut().unwrap();
        last.value = 0.001;
        assert_eq!(metrics(&record), [Metric::LatencyP50, Metric::LatencyP99, Metric::Loss]);
    }

    #[test]
    fn one_trial_has_no_interval() {
        let m = matrix(&[Builder { trials: 1, ..Builder::default() }.build()]);
        let cell = m.rows[0].lines[0].cells[1].value().unwrap();
        assert_eq!(cell.interval_text, "1 trial: no interval");
        assert!(
            matches!(&cell.against, Against::Change { effect: Effect::Unknown, words, .. } if words.ends_with("(1 trial)"))
        );
    }
}

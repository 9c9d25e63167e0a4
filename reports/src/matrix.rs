//! The matrix: series by cnis, each cell with its centre, its interval and its change in words.
//!
//! Owns which metric stands for a workload and what a cell without values says. Serialisable as it
//! is. Called by every renderer; drawing it is theirs.

use crate::{
    book::{Book, Column, Entry},
    stats::{self, Centre, Change, Effect, Interval, Point},
    units::Scale,
    words,
};
use cnibench_model::{
    CaseId, CellStatus, Clock, Direction, Metric, Placement, Record, SeriesKey, Workload,
};
use serde::Serialize;

/// The whole matrix.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Matrix {
    /// One for each cni (of each record).
    pub columns: Vec<MatrixColumn>,
    /// One for each series.
    pub rows: Vec<MatrixRow>,
    /// What time values count.
    pub clock: Clock,
    /// What a reader must know of the comparison, e.g. that there was no host to compare with.
    pub remarks: Vec<String>,
}

/// A cni.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MatrixColumn {
    /// The cni as asked for, with the record's label where there are several.
    pub label: String,
    /// The same, shortened.
    pub short: String,
    /// Position of the column that this one is compared with.
    pub baseline: usize,
    /// True when it claims to encrypt.
    pub encrypted: bool,
}

/// A series.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MatrixRow {
    /// Its key.
    pub series: SeriesKey,
    /// The traffic.
    pub workload: Workload,
    /// Where it ran.
    pub placement: Placement,
    /// Parameters that differ from the workload's defaults, `key=value, ...`.
    pub params: String,
    /// The metric that stands for the workload, then those that belong beside it.
    pub lines: Vec<MatrixLine>,
}

/// One metric of a series over all cnis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MatrixLine {
    /// The metric.
    pub metric: Metric,
    /// The unit in which texts are written.
    pub unit: String,
    /// One for each column.
    pub cells: Vec<MatrixCell>,
    /// How numbers are written.
    #[serde(skip)]
    pub scale: Scale,
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MatrixCell {
    /// The case; none where the plan has none.
    pub case: Option<CaseId>,
    /// What it shows.
    #[serde(flatten)]
    pub content: Content,
}

/// What a cell shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Content {
    /// A measured value.
    Value(Box<Value>),
    /// Why there is none.
    Nothing {
        /// How it ended.
        end: End,
        /// At most three words.
        short: String,
        /// The whole reason.
        reason: String,
    },
}

/// How a cell without values ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Something went wrong.
    Failed,
    /// A proof failed.
    Invalid,
    /// Left out, for a reason known beforehand.
    Skipped,
    /// Cut off before a trial ended.
    Interrupted,
    /// This metric was not measured in this cell, or the plan has no such case.
    Absent,
}

/// A measured cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Value {
    /// Median of trial values with its interval, in the metric's unit.
    pub centre: Centre,
    /// The median as text, without unit.
    pub text: String,
    /// Its interval as text: "20.9–21.8" or "1 trial: no interval".
    pub interval_text: String,
    /// The change against the baseline.
    pub against: Against,
    /// "4 of 10 trials" when the cell was cut off.
    pub partial: Option<String>,
}

/// A cell's relation to its baseline.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Against {
    /// This is the baseline.
    Baseline,
    /// A change.
    Change {
        /// The ratio and its interval.
        change: Change,
        /// Better, worse or not shown.
        effect: Effect,
        /// In the metric's words.
        words: String,
        /// The interval in the same terms.
        interval_words: Option<String>,
    },
    /// There is nothing to compare with, and why.
    None {
        /// A few words.
        why: String,
    },
}

impl MatrixCell {
    /// The value, where there is one.
    pub fn value(&self) -> Option<&Value> {
        match &self.content {
            Content::Value(value) => Some(value),
            Content::Nothing { .. } => None,
        }
    }

    /// The change against the baseline, where there is one.
    pub fn change(&self) -> Option<&Change> {
        match &self.value()?.against {
            Against::Change { change, .. } => Some(change),
            Against::Baseline | Against::None { .. } => None,
        }
    }
}

impl MatrixRow {
    /// "tcp_rr cross-node" and the parameters that differ.
    pub fn title(&self) -> String {
        let mut title = format!("{} {}", self.workload, self.placement);
        if !self.params.is_empty() {
            title.push_str(", ");
            title.push_str(&self.params);
        }
        title
    }
}

/// The matrix of some records.
pub fn matrix(records: &[Record]) -> Matrix {
    from_book(&Book::new(records))
}

/// Metrics that may stand for a workload, best first.
pub(crate) fn primary(workload: Workload) -> &'static [Metric] {
    match workload {
        Workload::TcpStream | Workload::UdpStream => &[Metric::Throughput, Metric::PacketRate],
        Workload::TcpRr | Workload::TcpCrr | Workload::UdpRr => {
            &[Metric::LatencyP50, Metric::LatencyMean, Metric::TransactionRate]
        }
    }
}

/// Metrics shown beside the primary one.
pub(crate) fn secondary(workload: Workload) -> &'static [Metric] {
    match workload {
        Workload::TcpStream => &[],
        Workload::UdpStream => &[Metric::Loss],
        Workload::TcpRr | Workload::TcpCrr | Workload::UdpRr => &[Metric::LatencyP99],
    }
}

pub(crate) fn from_book(book: &Book<'_>) -> Matrix {
    let columns = book.columns.iter().map(|c| MatrixColumn {
        label: c.label.clone(),
        short: c.short.clone(),
        baseline: c.baseline,
        encrypted: c.encrypted(),
    });
    let rows = book.rows.iter().enumerate().map(|(number, row)| {
        let first = book.first_measured(number, primary(row.workload));
        let mut lines = vec![line(book, number, first.unwrap_or(primary(row.workload)[0]))];
        for metric in secondary(row.workload) {
            if book.first_measured(number, &[*metric]).is_some() {
                lines.push(line(book, number, *metric));
            }
        }
        MatrixRow {
            series: row.key.clone(),
            workload: row.workload,
            placement: row.placement,
            params: row.params_text(),
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

fn remarks(book: &Book<'_>) -> Vec<String> {
    let mut remarks = Vec::new();
    let mut without_host: Vec<&str> = Vec::new();
    for column in &book.columns {
        let base = &book.columns[column.baseline];
        if !base.is_host() && !without_host.contains(&base.label.as_str()) {
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
    if book.records.iter().any(|r| !r.header.interleaved) && book.columns.len() > 1 {
        remarks.push(
            "Trials of different cnis were not interleaved: a machine that drifts shows up as a difference between them."
                .to_owned(),
        );
    }
    remarks
}

fn points(entry: &Entry<'_>, metric: Metric) -> Vec<Point> {
    entry
        .shown()
        .iter()
        .filter_map(|t| Some(Point { block: t.block, value: t.value(metric)? }))
        .collect()
}

/// The change of a metric between two columns of a row.
pub(crate) fn change_between(
    book: &Book<'_>,
    row: usize,
    metric: Metric,
    candidate: usize,
    baseline: usize,
) -> Option<Change> {
    let (c, b) = (book.entry(row, candidate)?, book.entry(row, baseline)?);
    let same_record = std::ptr::eq(book.columns[candidate].record, book.columns[baseline].record);
    let interleaved = same_record && book.columns[candidate].record.header.interleaved;
    stats::change(&points(c, metric), &points(b, metric), interleaved)
}

fn line(book: &Book<'_>, row: usize, metric: Metric) -> MatrixLine {
    let centres: Vec<Option<Centre>> = (0..book.columns.len())
        .map(|c| stats::centre(&book.entry(row, c)?.values(metric)))
        .collect();
    let medians: Vec<f64> = centres.iter().flatten().map(|c| c.median).collect();
    let intervals: Vec<Interval> = centres.iter().flatten().filter_map(|c| c.interval).collect();
    let scale = Scale::of(metric, book.clock(), &medians, &intervals);
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
    MatrixLine { metric, unit: scale.unit.clone(), cells, scale }
}

fn value(entry: &Entry<'_>, centre: Centre, scale: &Scale, against: Against) -> Value {
    let interrupted = matches!(entry.status, Some(CellStatus::Interrupted { .. }));
    let finished = entry.trials.len();
    Value {
        centre,
        text: scale.number(centre.median),
        interval_text: centre
            .interval
            .map_or_else(|| "1 trial: no interval".to_owned(), |i| scale.interval(i)),
        against,
        partial: interrupted.then(|| format!("{finished} of {} trials", entry.case.trials)),
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
    if centres[column.baseline].is_none() {
        let name = if base.is_host() { "host" } else { "baseline" };
        return Against::None { why: format!("no {name} value") };
    }
    let Some(change) = change_between(book, row, metric, number, column.baseline) else {
        return Against::None { why: "a zero has no ratio".to_owned() };
    };
    Against::Change {
        effect: change.effect(metric.direction()),
        words: words::change(metric, &change),
        interval_words: words::interval(metric, &change),
        change,
    }
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
        Some(Some(CellStatus::Measured) | None) => {
            (End::Absent, "no value", format!("no trial has a value of {}", metric.label()))
        }
    };
    Content::Nothing { end, short: three_words(short), reason }
}

/// The first three words: what a cell has room for.
fn three_words(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().take(3).collect();
    match words.is_empty() {
        true => "no reason given".to_owned(),
        false => words.join(" "),
    }
}

/// How far a change is to the bad side, as a tint: -1 (much better) to 1 (much worse), 0 where no
/// difference is shown. Twice as bad, or half as good, is full tint.
pub(crate) fn tint(metric: Metric, against: &Against) -> f64 {
    let Against::Change { change, effect: Effect::Better | Effect::Worse, .. } = against else {
        return 0.0;
    };
    let bad = match metric.direction() {
        Direction::HigherIsBetter => -change.ratio.ln(),
        Direction::LowerIsBetter => change.ratio.ln(),
    };
    (bad / std::f64::consts::LN_2).clamp(-1.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Builder, mixed, set_status, usual};
    use cnibench_model::Sample;

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
        assert!((vxlan.ratio - 1.31).abs() < 0.03, "{vxlan:?}");
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
        assert!(tint(Metric::Throughput, &stream.cells[1].value().unwrap().against) > 0.5);
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
            Against::None { why: "no host value".into() }
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
            Against::None { why: "a zero has no ratio".into() }
        );
        assert!(matches!(cells[1].content, Content::Nothing { end: End::Absent, .. }));
        assert!(cells[2].change().unwrap().ratio > 1e200);
        serde_json::to_string(&m).unwrap();
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

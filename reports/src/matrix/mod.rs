//! The matrix: series by cnis, each cell with its centre, its interval and its change in words.
//!
//! Owns what a matrix is, as it is serialised, and which metric stands for a workload; `build` makes
//! one. Called by every renderer; drawing it is theirs.

mod build;

pub(crate) use build::{change_between, from_book};

use crate::{
    book::Book,
    stats::{Centre, Change, Effect},
    units::Scale,
};
use cnibench_model::{CaseId, Clock, Direction, Metric, Placement, Record, SeriesKey, Workload};
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
    /// Its interval as text: "20.9–21.8" or "2 trials: no interval".
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

/// How far a change is to the bad side, as a tint: -1 (much better) to 1 (much worse), 0 where no
/// difference is shown. Ten times as bad, or a tenth as good, is full tint, on a logarithmic scale.
pub(crate) fn tint(metric: Metric, against: &Against) -> f64 {
    let Against::Change { change, effect: Effect::Better | Effect::Worse, .. } = against else {
        return 0.0;
    };
    let bad = match metric.direction() {
        Direction::HigherIsBetter => -change.ratio.ln(),
        Direction::LowerIsBetter => change.ratio.ln(),
    };
    (bad / std::f64::consts::LN_10).clamp(-1.0, 1.0)
}

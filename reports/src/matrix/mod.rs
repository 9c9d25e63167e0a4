//! The matrix: series by cnis, each cell with its centre, its interval and its change in words.
//!
//! Owns what a matrix is, as it is serialised, and which metric stands for a workload; `build` makes
//! one. Called by every renderer; drawing it is theirs.

mod build;

pub(crate) use build::{Place, change_between, change_of, from_book, line};

pub use crate::pairs::Over;

use crate::{
    book::Book,
    stats::{Basis, Centre, Change, Effect},
    units::Scale,
};
use cnibench_model::{
    CaseId, Clock, Direction, Metric, Placement, Record, SeriesKey, Unit, Workload,
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
    /// Parameters that differ from the workload's defaults and what was asked of the cluster around,
    /// `key=value, ...`.
    pub params: String,
    /// "over 12 node pairs" where trials ran between several pairs of nodes.
    pub pairs: Option<String>,
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
    /// Whether a change speaks of the datapath enough to be tinted.
    pub weight: Weight,
    /// One for each column.
    pub cells: Vec<MatrixCell>,
    /// How numbers are written.
    #[serde(skip)]
    pub scale: Scale,
}

/// Whether a metric's change judges a datapath.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// It does.
    Judges,
    /// It is shown and not tinted: the loss of a UDP stream sent flat out is set by the size of the
    /// receive buffer and the speed of the sender.
    Informs,
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
    /// Measured, but with too few transactions for this metric.
    TooFew,
    /// This metric was not measured in this cell, or the plan has no such case.
    Absent,
}

/// A measured cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Value {
    /// Median of the values with its interval, in the metric's unit.
    pub centre: Centre,
    /// What those values are.
    pub over: Over,
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
        /// Its size and interval.
        change: Change,
        /// Better, worse or not shown.
        effect: Effect,
        /// In the metric's words.
        words: String,
        /// The interval in the same terms.
        interval_words: Option<String>,
    },
    /// No comparison, and why.
    None {
        /// A few words.
        why: String,
        /// Which side stands in its way.
        side: Side,
    },
}

/// One of the two sides of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The cell itself.
    Candidate,
    /// What it is compared with.
    Baseline,
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
    /// "tcp_rr cross-node", the parameters that differ, and "over 12 node pairs" where it is so.
    pub fn title(&self) -> String {
        let mut parts = vec![format!("{} {}", self.workload, self.placement)];
        parts.extend(self.notes());
        parts.join(", ")
    }

    /// What belongs beside workload and placement: parameters, and over how many pairs of nodes.
    pub(crate) fn notes(&self) -> impl Iterator<Item = String> + '_ {
        let params = Some(self.params.clone()).filter(|p| !p.is_empty());
        params.into_iter().chain(self.pairs.clone())
    }
}

/// The matrix of some records.
pub fn matrix(records: &[Record]) -> Matrix {
    from_book(&Book::new(records))
}

/// Metrics that may stand for a workload, best first.
pub(crate) fn primary(workload: Workload) -> &'static [Metric] {
    match workload {
        Workload::TcpStream | Workload::UdpStream => {
            &[Metric::InstructionsPerMebibyte, Metric::Throughput, Metric::PacketRate]
        }
        Workload::TcpRr | Workload::TcpCrr | Workload::UdpRr => &[
            Metric::InstructionsPerTransaction,
            Metric::LatencyP50,
            Metric::LatencyMean,
            Metric::TransactionRate,
        ],
    }
}

/// The one that stands for a workload by a clock: what the gate judges unless its policy says otherwise.
pub(crate) fn principal(workload: Workload, clock: Clock) -> &'static [Metric] {
    match (clock, workload) {
        (Clock::Wall, Workload::TcpStream) | (_, Workload::UdpStream) => &[Metric::Throughput],
        (Clock::Wall, _) => &[Metric::LatencyP50],
        (Clock::Instructions, Workload::TcpStream) => &[Metric::InstructionsPerMebibyte],
        (Clock::Instructions, _) => &[Metric::InstructionsPerTransaction],
    }
}

/// Metrics shown beside the primary one where they were measured; see also [`only_if_any`].
pub(crate) fn secondary(workload: Workload) -> &'static [Metric] {
    match workload {
        Workload::TcpStream => &[],
        Workload::UdpStream => &[Metric::Loss],
        Workload::TcpRr | Workload::TcpCrr => &[Metric::LatencyP99],
        Workload::UdpRr => &[Metric::LatencyP99, Metric::Loss],
    }
}

/// Metrics worth a line only where a trial had any: a request that is lost is rare, and then it
/// explains the latency.
pub(crate) fn only_if_any(workload: Workload, metric: Metric) -> bool {
    (workload, metric) == (Workload::UdpRr, Metric::Loss)
}

/// How much work a second: the metric by which many nodes or many points are compared first.
pub fn main_rate(workload: Workload) -> Metric {
    match workload.is_transactional() {
        true => Metric::TransactionRate,
        false => Metric::Throughput,
    }
}

/// What changes of a metric count in.
pub(crate) fn basis(metric: Metric) -> Basis {
    match metric.unit() {
        Unit::Ratio => Basis::Difference,
        _ => Basis::Ratio,
    }
}

/// Percentage points of difference at which the tint is full.
const FULL_TINT: f64 = 0.1;

/// How far a change is to the bad side, as a tint: -1 (much better) to 1 (much worse), 0 where no
/// difference is shown. Ten times as bad, or a tenth as good, is full tint, on a logarithmic scale;
/// of shares ten percentage points, on a linear one.
pub(crate) fn tint(line: &MatrixLine, against: &Against) -> f64 {
    let Against::Change { change, effect: Effect::Better | Effect::Worse, .. } = against else {
        return 0.0;
    };
    let size = match (line.weight, change.basis) {
        (Weight::Informs, _) => 0.0,
        (_, Basis::Ratio) => change.size.log10(),
        (_, Basis::Difference) => change.size / FULL_TINT,
    };
    let bad = match line.metric.direction() {
        Direction::HigherIsBetter => -size,
        Direction::LowerIsBetter => size,
    };
    bad.clamp(-1.0, 1.0)
}

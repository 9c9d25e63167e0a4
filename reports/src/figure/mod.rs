//! Figures: from the book to scenes, and from scenes to SVG and PNG.
//!
//! Owns which figures a report has and in which order. Owns no statistics and no files.

mod axis;
mod cpu;
mod curve;
mod forest;
mod frame;
mod heat;
pub(crate) mod knee;
mod percentiles;
pub(crate) mod raster;
pub(crate) mod scene;
pub(crate) mod sizes;
mod strips;
pub(crate) mod svg;
mod table;
pub(crate) mod text;
pub(crate) mod theme;
mod timeline;
mod waterfall;

use crate::{
    book::Book,
    curves::{self, Curve},
    matrix::{Matrix, main_rate},
    pairs::Over,
    stages,
};
use cnibench_model::{Gate, Metric, Stage};
use scene::Scene;
use theme::Theme;

/// Stages of a row whose distribution is drawn: those that differ most.
const DISTRIBUTIONS: usize = 2;

/// A figure that may exist: whether there is anything to draw is known when it is tried.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Plan {
    /// The matrix.
    Matrix,
    /// Raw points of the matrix row's n-th metric.
    Strips { row: usize, line: usize },
    /// Percentiles of a row.
    Percentiles { row: usize },
    /// CPU cost of a row.
    Cpu { row: usize },
    /// A metric of one cell over pairs of nodes.
    Heat { row: usize, column: usize, metric: Metric },
    /// Where the time of a row's round trips goes.
    Waterfall { row: usize },
    /// How long one stage of a row takes, over all its passages.
    Stage { row: usize, stage: Stage },
    /// Throughput against latency over offered rates of a row.
    Knee { row: usize },
    /// Throughput over payload sizes of a row, and where it falls.
    Sizes { row: usize },
    /// Latency over time of a row, while keys are changed.
    Timeline { row: usize },
    /// A metric over a number that rows differ in.
    Curve { curve: Curve, metric: Metric },
    /// What the gate says.
    Forest { gate: Box<Gate> },
}

/// Where the page has a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// At the head, where the page itself has a table.
    Head,
    /// With a row of the book.
    Row(usize),
    /// With the stages of a row of the book.
    Stages(usize),
    /// Among the curves.
    Curves,
    /// With the verdicts.
    Verdicts,
}

impl Plan {
    /// Where it belongs.
    pub fn place(&self) -> Place {
        match self {
            Self::Matrix => Place::Head,
            Self::Strips { row, .. }
            | Self::Percentiles { row }
            | Self::Cpu { row }
            | Self::Heat { row, .. } => Place::Row(*row),
            Self::Waterfall { row } | Self::Stage { row, .. } => Place::Stages(*row),
            Self::Curve { .. } | Self::Knee { .. } | Self::Sizes { .. } | Self::Timeline { .. } => {
                Place::Curves
            }
            Self::Forest { .. } => Place::Verdicts,
        }
    }
}

/// All figures, in the order of the page.
pub(crate) fn plan(book: &Book<'_>, matrix: &Matrix, gates: &[Gate]) -> Vec<Plan> {
    let mut plans = vec![Plan::Matrix];
    for (row, matrix_row) in matrix.rows.iter().enumerate() {
        plans.extend((0..matrix_row.lines.len()).map(|line| Plan::Strips { row, line }));
        let workload = book.rows[row].workload;
        if workload.is_transactional() {
            plans.push(Plan::Percentiles { row });
        }
        plans.push(Plan::Cpu { row });
        let latency = workload.is_transactional().then_some(Metric::LatencyP50);
        let metrics = [Some(main_rate(workload)), latency];
        for column in 0..book.columns.len() {
            if book.entry(row, column).is_some_and(|e| e.over() == Over::NodePairs) {
                let map = |metric| Plan::Heat { row, column, metric };
                plans.extend(metrics.into_iter().flatten().map(map));
            }
        }
    }
    for row in stages::rows(book) {
        plans.push(Plan::Waterfall { row });
        let differing = stages::differing(&stages::accounts(book, row), DISTRIBUTIONS);
        plans.extend(differing.into_iter().map(|stage| Plan::Stage { row, stage }));
    }
    plans.extend((0..book.rows.len()).map(|row| Plan::Knee { row }));
    plans.extend((0..book.rows.len()).map(|row| Plan::Sizes { row }));
    plans.extend((0..book.rows.len()).map(|row| Plan::Timeline { row }));
    for curve in curves::curves(book) {
        let metrics = curve.metrics().into_iter();
        plans.extend(metrics.map(|metric| Plan::Curve { curve: curve.clone(), metric }));
    }
    plans.extend(gates.iter().map(|gate| Plan::Forest { gate: Box::new(gate.clone()) }));
    plans
}

/// Draws one; none when there is nothing to show.
pub(crate) fn build(book: &Book<'_>, theme: &Theme, matrix: &Matrix, plan: &Plan) -> Option<Scene> {
    match plan {
        Plan::Matrix => table::table(book, theme, matrix),
        Plan::Strips { row, line } => {
            strips::strips(book, theme, *row, matrix.rows.get(*row)?.lines.get(*line)?)
        }
        Plan::Percentiles { row } => percentiles::percentiles(book, theme, *row),
        Plan::Cpu { row } => cpu::cpu(book, theme, *row),
        Plan::Heat { row, column, metric } => heat::heat(book, *row, *column, *metric),
        Plan::Waterfall { row } => waterfall::waterfall(book, theme, *row),
        Plan::Stage { row, stage } => waterfall::distribution(book, theme, *row, *stage),
        Plan::Knee { row } => knee::knee(book, theme, *row),
        Plan::Timeline { row } => timeline::timeline(book, theme, *row),
        Plan::Sizes { row } => sizes::sizes(book, theme, *row),
        Plan::Curve { curve, metric } => curve::curve(book, theme, curve, *metric),
        Plan::Forest { gate } => forest::forest(book, gate),
    }
}

//! Figures: from the book to scenes, and from scenes to SVG and PNG.
//!
//! Owns which figures a report has and in which order. Owns no statistics and no files.

mod axis;
mod cpu;
mod frame;
mod percentiles;
pub(crate) mod raster;
pub(crate) mod scene;
mod strips;
pub(crate) mod svg;
mod table;
pub(crate) mod text;
pub(crate) mod theme;

use crate::{book::Book, matrix::Matrix};
use scene::Scene;
use theme::Theme;

/// A figure that may exist: whether there is anything to draw is known when it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    /// The matrix.
    Matrix,
    /// Raw points of the matrix row's n-th metric.
    Strips { row: usize, line: usize },
    /// Percentiles of a row.
    Percentiles { row: usize },
    /// CPU cost of a row.
    Cpu { row: usize },
}

impl Plan {
    /// The row it belongs to.
    pub fn row(self) -> Option<usize> {
        match self {
            Self::Matrix => None,
            Self::Strips { row, .. } | Self::Percentiles { row } | Self::Cpu { row } => Some(row),
        }
    }
}

/// All figures, in the order of the page.
pub(crate) fn plan(book: &Book<'_>, matrix: &Matrix) -> Vec<Plan> {
    let mut plans = vec![Plan::Matrix];
    for (row, matrix_row) in matrix.rows.iter().enumerate() {
        plans.extend((0..matrix_row.lines.len()).map(|line| Plan::Strips { row, line }));
        if book.rows[row].workload.is_transactional() {
            plans.push(Plan::Percentiles { row });
        }
        plans.push(Plan::Cpu { row });
    }
    plans
}

/// Draws one; none when there is nothing to show.
pub(crate) fn build(book: &Book<'_>, theme: &Theme, matrix: &Matrix, plan: Plan) -> Option<Scene> {
    match plan {
        Plan::Matrix => table::table(book, theme, matrix),
        Plan::Strips { row, line } => {
            strips::strips(book, theme, row, matrix.rows.get(row)?.lines.get(line)?)
        }
        Plan::Percentiles { row } => percentiles::percentiles(book, theme, row),
        Plan::Cpu { row } => cpu::cpu(book, theme, row),
    }
}

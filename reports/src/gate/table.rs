//! The verdicts as a table for a terminal.
//!
//! Owns its layout. Called by the commands.

use super::summary;
use crate::terminal::printable;
use cnibench_model::{Gate, Role};
use tabled::{
    builder::Builder,
    settings::{Style, Width, peaker::Priority},
};

/// Width assumed where the output is no terminal.
const DEFAULT_WIDTH: usize = 120;

/// Headline, table, reasons of what did not pass, and how sure it is; at most `width` columns wide.
pub fn table(gate: &Gate, width: Option<usize>) -> String {
    let width = width.unwrap_or(DEFAULT_WIDTH).max(60);
    let mut out = String::new();
    if !gate.differences.is_empty() {
        out.push_str("The records differ in (baseline and candidate):\n");
        for difference in &gate.differences {
            out.push_str(&format!("  {}\n", printable(&difference.to_string())));
        }
        out.push('\n');
    }
    let mut builder = Builder::default();
    builder.push_record([
        "verdict",
        "case",
        "metric",
        "baseline",
        "candidate",
        "change (interval)",
        "floor",
    ]);
    let lines = summary::lines(gate);
    for line in &lines {
        let [baseline, candidate] = &line.values;
        let cells = [
            &line.verdict,
            &line.case,
            &line.metric,
            baseline,
            candidate,
            &line.change,
            &line.floor,
        ];
        builder.push_record(cells.map(|c| printable(c)));
    }
    let mut table = builder.build();
    table.with(Style::modern_rounded());
    table.with(Width::wrap(width).priority(Priority::max(true)).keep_words(true));
    out.push_str(&format!("{table}\n"));
    if gate.judgements.iter().any(|j| j.role == Role::Informs) {
        out.push_str("in brackets: reported, does not gate\n");
    }
    for (line, judgement) in lines.iter().zip(&gate.judgements) {
        if judgement.role == Role::Gates {
            let metric = line.metric.split(',').next().unwrap_or_default();
            let reason = printable(&line.reason);
            out.push_str(&format!("{}: {} {metric}: {reason}\n", line.verdict, line.case));
        }
    }
    for left in gate.gating().filter_map(summary::left_out) {
        out.push_str(&format!("note: {}\n", printable(&left)));
    }
    for sentence in summary::how_sure(gate) {
        out.push_str(&format!("note: {}\n", printable(&sentence)));
    }
    out.push_str(&format!("\n{}\n", printable(&summary::headline(gate))));
    out
}

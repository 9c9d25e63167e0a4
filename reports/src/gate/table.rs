//! The verdicts as a table for a terminal.
//!
//! Owns its layout: the headline stands last, where a terminal's eye is. Called by the commands.

use super::summary;
use crate::terminal::printable;
use cnibench_model::{Gate, Role, Verdict};
use tabled::{
    builder::Builder,
    settings::{Style, Width, peaker::Priority},
};

/// Width assumed where the output is no terminal.
const DEFAULT_WIDTH: usize = 120;

/// What differs, table, reasons of what did not pass, how sure it is, and the headline; the table at most
/// `width` columns wide.
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
        // A number stays with its sign of per cent.
        builder.push_record(cells.map(|c| printable(c).replace(" %", "\u{a0}%")));
    }
    let mut table = builder.build();
    table.with(Style::rounded());
    table.with(Width::wrap(width).priority(Priority::max(true)).keep_words(true));
    out.push_str(&format!("{table}\n"));
    if gate.judgements.iter().any(|j| j.role == Role::Informs) {
        out.push_str("in brackets: reported, does not gate\n");
    }
    for (line, judgement) in lines.iter().zip(&gate.judgements) {
        let clear = matches!(judgement.verdict, Verdict::Pass | Verdict::Improvement);
        if judgement.role == Role::Gates && !clear {
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

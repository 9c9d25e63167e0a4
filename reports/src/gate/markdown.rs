//! The verdicts for a pull request.
//!
//! Owns the layout of that comment: the verdict first, then the table, how sure it is, what differed and
//! how to get the same. Called by the commands and by summary.md.

use super::summary::{self, Line};
use crate::{
    facts,
    markdown::{fence, plain},
};
use cnibench_model::{Gate, Role};
use std::fmt::Write;

/// The whole comment; `command` is what makes the same again, argument by argument.
pub fn markdown(gate: &Gate, command: &[String]) -> String {
    // Writing to a String cannot fail, here and below.
    let mut out = String::new();
    let _ = writeln!(out, "## cnibench: {}\n", plain(&summary::headline(gate)));
    let _ = writeln!(out, "{}.\n", plain(&summary::about(gate)));
    out.push_str(&body(gate));
    let _ = writeln!(out, "To get the same:\n\n{}", fence(&facts::shell(command)));
    out
}

/// Table, sureness and differences: what summary.md has, too.
pub(crate) fn body(gate: &Gate) -> String {
    let mut out = String::new();
    let lines = summary::lines(gate);
    let (gating, informing): (Vec<_>, Vec<_>) =
        lines.iter().zip(&gate.judgements).partition(|(_, j)| j.role == Role::Gates);
    table(&mut out, gating.iter().map(|(line, _)| *line));
    if !informing.is_empty() {
        let _ = writeln!(out, "<details><summary>What does not gate</summary>\n");
        table(&mut out, informing.iter().map(|(line, _)| *line));
        let _ = writeln!(out, "</details>\n");
    }
    let left: Vec<String> = gate.gating().filter_map(summary::left_out).collect();
    let _ = writeln!(out, "<details><summary>How sure</summary>\n");
    for sentence in summary::how_sure(gate).iter().chain(&left) {
        let _ = writeln!(out, "- {}", plain(sentence));
    }
    let _ = writeln!(out, "\n</details>\n");
    if !gate.differences.is_empty() {
        let _ = writeln!(out, "What differed between the records:\n");
        let _ = writeln!(out, "| field | baseline | candidate |\n|---|---|---|");
        for d in &gate.differences {
            let cells = [&d.field, &d.baseline, &d.candidate].map(|text| plain(text));
            let _ = writeln!(out, "| {} |", cells.join(" | "));
        }
        out.push('\n');
    }
    out
}

fn table<'a>(out: &mut String, lines: impl Iterator<Item = &'a Line>) {
    let _ = writeln!(
        out,
        "| verdict | case | metric | baseline | candidate | change (interval) | floor | why |"
    );
    let _ = writeln!(out, "|---|---|---|--:|--:|---|--:|---|");
    for line in lines {
        let verdict = match line.verdict.as_str() {
            word @ ("regression" | "inconclusive" | "missing") => format!("**{word}**"),
            word => word.to_owned(),
        };
        let [baseline, candidate] = &line.values;
        let cells = [&line.case, &line.metric, baseline, candidate, &line.change, &line.floor];
        let cells: Vec<String> = cells.iter().map(|c| plain(c)).collect();
        let _ = writeln!(out, "| {verdict} | {} | {} |", cells.join(" | "), plain(&line.why));
    }
    out.push('\n');
}

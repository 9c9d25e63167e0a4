//! A comparison as a table for a terminal and as Markdown.
//!
//! Owns their layout: what differs between the records comes first. Called by `cnibench compare`.

use super::effect_word;
use crate::{
    markdown::plain,
    stats::{Centre, CentreMethod, Interval},
    terminal::printable,
    units::Scale,
};
use cnibench_model::{Clock, ComparedRow, ComparedValue, Comparison, Metric};
use std::fmt::Write;
use tabled::{
    builder::Builder,
    settings::{Style, Width, peaker::Priority},
};

/// Width assumed where the output is no terminal.
const DEFAULT_WIDTH: usize = 120;

/// Differences, then the table, then what to keep in mind; at most `width` columns wide.
pub fn table(comparison: &Comparison, width: Option<usize>) -> String {
    let mut out = String::new();
    for run in &comparison.candidates {
        let all = run.forbidding.iter().chain(&run.telling);
        let lines: Vec<String> =
            all.map(|d| format!("  {}\n", printable(&d.to_string()))).collect();
        if !lines.is_empty() {
            let _ = write!(
                out,
                "{} differs from the baseline {} in:\n{}\n",
                run.run,
                comparison.baseline.run,
                lines.concat()
            );
        }
    }
    let mut builder = Builder::default();
    builder.push_record(heads(comparison));
    for row in &comparison.rows {
        builder.push_record(
            cells(row, comparison.baseline.clock)
                .iter()
                .map(|c| printable(c).replace(" %", "\u{a0}%")),
        );
    }
    let mut table = builder.build();
    table.with(Style::rounded());
    let width = width.unwrap_or(DEFAULT_WIDTH).max(60);
    table.with(Width::wrap(width).priority(Priority::max(true)).keep_words(true));
    match comparison.rows.is_empty() {
        true => out.push_str("No case stands in the baseline and in another record.\n"),
        false => out.push_str(&format!("{table}\n")),
    }
    for line in unmatched(comparison).iter().chain(&comparison.notes) {
        out.push_str(&format!("note: {}\n", printable(line)));
    }
    out
}

/// The same for a pull request.
pub fn markdown(comparison: &Comparison) -> String {
    let mut out = String::new();
    let runs: Vec<&str> = comparison.candidates.iter().map(|c| c.run.as_str()).collect();
    let title = format!("{} against {}", runs.join(", "), comparison.baseline.run);
    let _ = writeln!(out, "## cnibench: {}\n", plain(&title));
    for run in
        comparison.candidates.iter().filter(|r| !(r.forbidding.is_empty() && r.telling.is_empty()))
    {
        let _ = writeln!(out, "| field | baseline | {} |\n|---|---|---|", plain(&run.run));
        for d in run.forbidding.iter().chain(&run.telling) {
            let cells = [&d.field, &d.baseline, &d.candidate].map(|text| plain(text));
            let _ = writeln!(out, "| {} |", cells.join(" | "));
        }
        out.push('\n');
    }
    let heads: Vec<String> = heads(comparison).iter().map(|h| plain(h)).collect();
    let _ = writeln!(out, "| {} |\n|{}", heads.join(" | "), "---|".repeat(heads.len()));
    for row in &comparison.rows {
        let cells: Vec<String> =
            cells(row, comparison.baseline.clock).iter().map(|c| plain(c)).collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    for line in unmatched(comparison).iter().chain(&comparison.notes) {
        let _ = writeln!(out, "\n> {}", plain(line));
    }
    out
}

fn heads(comparison: &Comparison) -> Vec<String> {
    let mut heads = vec!["case".to_owned(), "metric".to_owned(), "baseline".to_owned()];
    for run in &comparison.candidates {
        let name = match comparison.candidates.len() {
            1 => "candidate".to_owned(),
            _ => run.run.clone(),
        };
        heads.extend([name, "change (95 % interval)".to_owned()]);
    }
    heads
}

fn cells(row: &ComparedRow, clock: Clock) -> Vec<String> {
    let others = row.candidates.iter().flatten().map(|c| &c.value);
    let medians: Vec<f64> = row.baseline.iter().chain(others).map(|v| v.median).collect();
    let scale = Scale::of(row.metric, clock, &medians);
    let mut out = vec![
        row.title.clone(),
        head(row.metric, &scale, !medians.is_empty()),
        row.baseline.as_ref().map_or_else(|| "no value".to_owned(), |v| value(v, &scale)),
    ];
    for candidate in &row.candidates {
        let Some(candidate) = candidate else {
            out.extend(["no value".to_owned(), String::new()]);
            continue;
        };
        out.push(value(&candidate.value, &scale));
        out.push(candidate.change.as_ref().map_or_else(
            || "no ratio".to_owned(),
            |c| format!("{}: {}", effect_word(c.effect), c.words),
        ));
    }
    out
}

fn head(metric: Metric, scale: &Scale, any: bool) -> String {
    match any && !scale.unit.is_empty() {
        true => format!("{}, {}", metric.label(), scale.unit),
        false => metric.label().to_owned(),
    }
}

fn value(value: &ComparedValue, scale: &Scale) -> String {
    let interval = value.low.zip(value.high).map(|(low, high)| Interval { low, high });
    let (text, interval) = scale.centre(&Centre {
        median: value.median,
        interval,
        n: value.n as usize,
        method: CentreMethod::TooFew,
    });
    interval.map_or(text.clone(), |range| format!("{text} ({range})"))
}

/// Cases that not all records have.
fn unmatched(comparison: &Comparison) -> Vec<String> {
    let line =
        |u: &cnibench_model::Unmatched| format!("{} stands only in {}", u.case, u.runs.join(", "));
    comparison.unmatched.iter().map(line).collect()
}

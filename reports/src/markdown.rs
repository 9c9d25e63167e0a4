//! summary.md: what is pasted into a pull request.
//!
//! Owns its layout. Called by `render`.

use crate::{
    book::Book,
    facts, footprint,
    gate::{markdown::body, summary},
    matrix::{Against, Content, End, Matrix, MatrixCell, MatrixLine},
    page::end_name,
    paired::{CHANGE_HEADS, Paired, paired},
    proofs, sentences,
    stages::{self, Table},
    stats::Effect,
};
use cnibench_model::Gate;
use std::fmt::Write;

/// Escapes what GitHub would read as markup or as the end of a cell.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' | '#' | '~' => {
                out.push('\\');
                out.push(c);
            }
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '@' => out.push_str("&#64;"),
            '\n' | '\r' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Text as code, whatever stands in it.
pub(crate) fn fence(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let ticks = "`".repeat(longest.max(2) + 1);
    format!("{ticks}sh\n{text}\n{ticks}\n")
}

/// The whole file.
pub(crate) fn markdown(book: &Book<'_>, matrix: &Matrix, gates: &[Gate]) -> String {
    // Writing to a String cannot fail, here and below.
    let mut out = String::new();
    let _ = writeln!(out, "## {}\n", plain(&facts::title(book)));
    for gate in gates {
        let _ = writeln!(out, "**{}**\n", plain(&summary::headline(gate)));
    }
    for sentence in sentences::sentences(book, matrix).iter().filter(|s| !s.folded) {
        let _ = writeln!(out, "- {}", plain(&sentence.text));
    }
    let notes = book.records.iter().flat_map(|r| &r.notes);
    for remark in matrix.remarks.iter().chain(notes) {
        let _ = writeln!(out, "\n> {}", plain(remark));
    }
    out.push('\n');
    table(&mut out, matrix);
    for gate in gates {
        let _ = writeln!(out, "### Verdicts\n\n{}.\n", plain(&summary::about(gate)));
        out.push_str(&body(gate));
    }
    book.records.iter().filter_map(paired).for_each(|pairs| in_pairs(&mut out, &pairs));
    let missing = missing(matrix);
    if !missing.is_empty() {
        let _ = writeln!(out, "### Failed and skipped\n");
        for line in missing {
            let _ = writeln!(out, "- {line}");
        }
        out.push('\n');
    }
    let left_out = book.records.iter().flat_map(|r| &r.header.skipped_cnis);
    let left_out: Vec<String> = left_out
        .map(|s| format!("- {}: {}", plain(&s.cni.to_string()), plain(&s.reason)))
        .collect();
    if !left_out.is_empty() {
        let _ = writeln!(out, "### Cnis left out\n\n{}\n", left_out.join("\n"));
    }
    stage_tables(&mut out, book);
    footprint_table(&mut out, book);
    proof_list(&mut out, book);
    for record in book.records {
        let _ = writeln!(out, "{}\n", plain(&facts::one_line(record)));
        out.push_str(&fence(&facts::shell(&record.header.command)));
    }
    out
}

fn table(out: &mut String, matrix: &Matrix) {
    if matrix.columns.is_empty() || matrix.rows.is_empty() {
        return;
    }
    let heads: Vec<String> = matrix.columns.iter().map(|c| plain(&c.short)).collect();
    let _ = writeln!(out, "| case | metric | {} |", heads.join(" | "));
    let _ = writeln!(out, "|---|---|{}", "--:|".repeat(heads.len()));
    for row in &matrix.rows {
        for (number, line) in row.lines.iter().enumerate() {
            let title = if number == 0 { plain(&row.title()) } else { String::new() };
            let cells: Vec<String> = line.cells.iter().map(cell).collect();
            let metric = plain(&metric_and_unit(line));
            let _ = writeln!(out, "| {title} | {metric} | {} |", cells.join(" | "));
        }
    }
    let _ = writeln!(
        out,
        "\nMedian of trials (95 % interval), then the change against the baseline. No corrections for the number of cells.{}\n",
        match matrix.rows.iter().any(|r| r.pairs.is_some()) {
            true => " Over node pairs: median and interval of the pairs' own medians.",
            false => "",
        }
    );
}

/// "p50 latency, µs"; of a count its name alone.
fn metric_and_unit(line: &MatrixLine) -> String {
    match line.unit.as_str() {
        "" => line.metric.label().to_owned(),
        unit => format!("{}, {unit}", line.metric.label()),
    }
}

fn in_pairs(out: &mut String, table: &Paired) {
    let arms = [&table.pairing.baseline, &table.pairing.candidate];
    let arms = arms.map(|arm| plain(&arm.to_string()));
    let _ = writeln!(out, "### In pairs\n\n{}\n", plain(&table.explained()));
    if table.measured.most == 0 {
        return;
    }
    let heads = arms.iter().map(String::as_str).chain(CHANGE_HEADS);
    let _ = writeln!(out, "| case | metric | {} |", heads.collect::<Vec<_>>().join(" | "));
    let _ = writeln!(out, "|---|---|--:|--:|---|---|");
    for rows in table.rows.chunk_by(|a, b| a.series == b.series) {
        for (number, row) in rows.iter().enumerate() {
            let title = if number == 0 { plain(&row.title) } else { String::new() };
            let metric = metric_and_unit(&row.line);
            let cells = row.values().into_iter().chain([row.change(), row.by_rebuild()]);
            let cells: Vec<String> = cells.map(|c| plain(&c)).collect();
            let _ = writeln!(out, "| {title} | {} | {} |", plain(&metric), cells.join(" | "));
        }
    }
    out.push('\n');
}

fn stage_tables(out: &mut String, book: &Book<'_>) {
    for row in stages::rows(book) {
        let accounts = stages::accounts(book, row);
        let title = plain(&book.rows[row].title());
        let _ = writeln!(out, "### Where the time goes: {title}\n");
        for sentence in stages::pairs(book, &accounts).shown {
            let _ = writeln!(out, "- {}", plain(&sentence));
        }
        for remark in stages::remarks(book, &accounts) {
            let _ = writeln!(out, "\n> {}", plain(&remark));
        }
        let _ = writeln!(
            out,
            "\nMean of a round trip in trials of their own with probes, request + response. Means add up, quantiles do not.\n"
        );
        for table in [stages::per_stage(book, &accounts), stages::accounting(book, &accounts)] {
            lines(out, &table);
        }
    }
}

fn lines(out: &mut String, table: &Table) {
    let cells = |cells: &[String]| cells.iter().map(|c| plain(c)).collect::<Vec<_>>().join(" | ");
    let _ = writeln!(out, "| {} |", cells(&table.heads));
    let _ = writeln!(out, "|---|{}", "--:|".repeat(table.heads.len() - 1));
    for (name, values) in &table.lines {
        let _ = writeln!(out, "| {} | {} |", plain(name), cells(values));
    }
    out.push('\n');
}

fn footprint_table(out: &mut String, book: &Book<'_>) {
    let rows = footprint::rows(book);
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(out, "### Footprint\n\n{}\n", plain(&footprint::explained(book)));
    let _ = writeln!(out, "| {} |", footprint::HEADS.join(" | "));
    let _ = writeln!(out, "|---|{}", "--:|".repeat(footprint::HEADS.len() - 1));
    for row in rows {
        let cells: Vec<String> = row.cells.iter().map(|c| plain(c)).collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    out.push('\n');
}

fn proof_list(out: &mut String, book: &Book<'_>) {
    let (other, passed) = (proofs::not_passed(book), proofs::passed(book));
    if other.is_empty() && passed.is_empty() {
        return;
    }
    let _ = writeln!(out, "### Proofs\n");
    for line in &other {
        let _ = writeln!(out, "- {}", plain(line));
    }
    if !passed.is_empty() {
        let _ = writeln!(out, "- passed: {}", plain(&passed.join("; ")));
    }
    out.push('\n');
}

fn cell(cell: &MatrixCell) -> String {
    match &cell.content {
        Content::Nothing { end, short, reason } => match end {
            End::Failed | End::Invalid => format!("**{}**: {}", end_name(*end), plain(short)),
            End::TooFew => format!("{}<br>{}", plain(short), plain(reason)),
            End::Skipped | End::Interrupted | End::Absent => plain(short),
        },
        Content::Value(value) => {
            let mut out = format!("**{}** ({})", value.text, value.interval_text);
            match &value.against {
                Against::Baseline => {}
                Against::Change { words, interval_words: Some(range), effect, .. }
                    if *effect != Effect::NotShown =>
                {
                    let _ = write!(out, "<br>{words} ({range})");
                }
                Against::Change { words, .. } => {
                    let _ = write!(out, "<br>{words}");
                }
                Against::None { why, .. } => {
                    let _ = write!(out, "<br>{why}");
                }
            }
            if let Some(partial) = &value.partial {
                let _ = write!(out, "<br>cut off: {partial}");
            }
            out
        }
    }
}

fn missing(matrix: &Matrix) -> Vec<String> {
    let cells = matrix.rows.iter().flat_map(|r| &r.lines[0].cells);
    cells
        .filter_map(|cell| {
            let Content::Nothing { end, reason, .. } = &cell.content else { return None };
            let case = cell.case.as_ref()?;
            (!matches!(end, End::Absent | End::TooFew))
                .then(|| format!("{} {}: {}", plain(&case.0), end_name(*end), plain(reason)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixtures::{Builder, mixed},
        matrix::from_book,
    };
    use cnibench_model::Record;

    fn of(records: &[Record]) -> String {
        let book = Book::new(records);
        markdown(&book, &from_book(&book), &[])
    }

    #[test]
    fn a_usual_run() {
        insta::assert_snapshot!(of(&[Builder::default().build()]));
    }

    #[test]
    fn a_run_on_real_clusters() {
        insta::assert_snapshot!(of(&[crate::fixtures::policies()]));
    }

    #[test]
    fn two_arms_in_pairs() {
        let text = of(&[crate::fixtures::in_pairs(3, 6, 1.0)]);
        let table = &text[text.find("### In pairs").unwrap()..];
        assert!(
            table.contains("| case | metric | host | flannel-vxlan | change (95 % interval) |")
        );
        let p50 = table.lines().find(|l| l.contains("latency p50")).unwrap();
        assert!(p50.contains("% slower (") && p50.ends_with(" % slower |"), "{p50}");
    }

    #[test]
    fn a_run_with_probes() {
        let text = of(&[crate::fixtures::probed()]);
        let from = text.find("### Where").unwrap();
        let to = text.find("### Proofs").unwrap();
        insta::assert_snapshot!(&text[from..to]);
    }

    #[test]
    fn a_run_with_every_bad_end() {
        let text = of(&[mixed()]);
        assert!(!text.contains("<script"));
        insta::assert_snapshot!(text);
    }
}

//! The table at the end of `cnibench run`.
//!
//! Owns its two layouts: cnis side by side where the terminal is wide enough, else one line for each
//! cell. Called by the command.

use crate::{
    book::{Book, ellipsis},
    footprint,
    matrix::{Against, Content, End, Matrix, MatrixCell, MatrixRow, from_book},
    page::end_name,
    paired::{CHANGE_HEADS, Paired, paired},
    proofs,
    stats::Effect,
};
use cnibench_model::Record;
use tabled::{
    builder::Builder,
    settings::{
        Alignment, Span, Style, Width,
        formatting::AlignmentStrategy,
        object::{Columns, Rows},
        peaker::Priority,
    },
};

/// Most characters of an arm's name in the head of its column.
const ARM: usize = 28;
/// Width assumed where the output is no terminal.
const DEFAULT_WIDTH: usize = 120;

/// The matrix as a table and what is missing from it, at most `width` columns wide (120 without).
pub fn terminal_summary(record: &Record, width: Option<usize>) -> String {
    let width = width.unwrap_or(DEFAULT_WIDTH).max(40);
    let records = std::slice::from_ref(record);
    let book = Book::new(records);
    let matrix = from_book(&book);
    let mut out = String::new();
    let pairs = paired(record);
    let nothing = pairs.as_ref().is_some_and(|table| table.measured.most == 0);
    if nothing && !matrix.rows.is_empty() {
        // The reasons follow.
        out.push_str("No pair was measured, so that there is nothing to compare.\n");
    } else if matrix.rows.is_empty() {
        out.push_str("No case was planned.\n");
    } else {
        let side_by_side = side_by_side(&matrix);
        out.push_str(&match widest(&side_by_side) <= width {
            true => side_by_side,
            false => one_by_one(&matrix, width),
        });
        out.push_str("\nmedian of trials (95 % interval), change against ");
        let host = book.columns.iter().all(|c| book.columns[c.baseline].is_host());
        out.push_str(match (host, &record.header.pairing) {
            (true, _) => "the host\n",
            (false, Some(_)) => "the baseline\n",
            (false, None) => "the first cni\n",
        });
        if matrix.rows.iter().any(|r| r.pairs.is_some()) {
            out.push_str("over node pairs: median and interval of the pairs' own medians\n");
        }
    }
    if let Some(table) = pairs.filter(|_| !nothing) {
        out.push_str(&in_pairs(&table, width));
    }
    for remark in &matrix.remarks {
        out.push_str(&format!("note: {}\n", printable(remark)));
    }
    out.push_str(&footprints(&book, width));
    for proof in proofs::not_passed(&book) {
        out.push_str(&format!("proof {}\n", printable(&proof)));
    }
    out.push_str(&missing(&matrix));
    for skipped in &record.header.skipped_cnis {
        let (cni, reason) = (printable(&skipped.cni.to_string()), printable(&skipped.reason));
        out.push_str(&format!("left out: {cni}: {reason}\n"));
    }
    for note in &record.notes {
        out.push_str(&format!("note: {}\n", printable(note)));
    }
    out
}

/// Control characters of a terminal do not come from a record.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn widest(text: &str) -> usize {
    text.lines().map(|l| l.chars().count()).max().unwrap_or(0)
}

fn side_by_side(matrix: &Matrix) -> String {
    let mut builder = Builder::default();
    let heads = matrix.columns.iter().map(|c| printable(&c.short));
    builder.push_record(["case".to_owned(), "metric".to_owned()].into_iter().chain(heads));
    for row in &matrix.rows {
        for (number, line) in row.lines.iter().enumerate() {
            let title = if number == 0 { stacked(row) } else { String::new() };
            let metric = format!("{}\n{}", line.metric.label(), line.unit);
            let cells = line.cells.iter().map(|c| {
                let [value, interval, change] = texts(c);
                format!("{value}\n{interval}\n{change}").trim_end().to_owned()
            });
            builder.push_record([title, metric].into_iter().chain(cells));
        }
    }
    let mut table = builder.build();
    table.with(Style::modern_rounded()).modify(Columns::new(2..), Alignment::right());
    table.with(AlignmentStrategy::PerLine);
    table.modify(Rows::first(), Alignment::left());
    table.to_string()
}

/// A row's title, one part a line.
fn stacked(row: &MatrixRow) -> String {
    let parts = [row.workload.name().to_owned(), row.placement.name().to_owned()];
    let notes = row.notes().flat_map(|n| n.split(", ").map(str::to_owned).collect::<Vec<_>>());
    parts.into_iter().chain(notes).collect::<Vec<_>>().join("\n")
}

/// One line for each cell under a heading for each metric of a series.
fn one_by_one(matrix: &Matrix, width: usize) -> String {
    let mut builder = Builder::default();
    builder.push_record(["cni", "median", "95 % interval", "against the baseline"]);
    let mut headings = Vec::new();
    let mut longest = 0;
    for row in &matrix.rows {
        for line in &row.lines {
            headings.push(builder.count_records());
            let unit =
                if line.unit.is_empty() { String::new() } else { format!(" in {}", line.unit) };
            let heading = format!("{}: {}{unit}", row.title(), line.metric.label());
            builder.push_record([heading, String::new(), String::new(), String::new()]);
            for (column, cell) in matrix.columns.iter().zip(&line.cells) {
                let [value, interval, change] = texts(cell);
                longest = longest.max(change.chars().count());
                builder.push_record([
                    format!("  {}", printable(&column.short)),
                    value,
                    interval,
                    change,
                ]);
            }
        }
    }
    let mut table = builder.build();
    table.with(Style::rounded()).modify(Columns::new(1..3), Alignment::right());
    for heading in headings {
        table.modify((heading, 0), Span::column(4));
        table.modify((heading, 0), Alignment::left());
    }
    let wide = widest(&table.to_string());
    if wide > width {
        // The last column has the words; the numbers before it stay whole as long as they can.
        let room = longest.saturating_sub(wide - width).max(12);
        table.modify(Columns::one(3), Width::wrap(room).keep_words(true));
        table.with(Width::wrap(width).priority(Priority::left()).keep_words(true));
    }
    table.to_string()
}

/// Value, interval and change.
fn texts(cell: &MatrixCell) -> [String; 3] {
    match &cell.content {
        Content::Nothing { end, short, reason } => match end {
            End::Failed | End::Invalid => {
                [end_name(*end).to_uppercase(), String::new(), printable(short)]
            }
            End::TooFew => [printable(short), String::new(), printable(reason)],
            End::Skipped | End::Interrupted | End::Absent => {
                [printable(short), String::new(), String::new()]
            }
        },
        Content::Value(value) => {
            let mut change = match &value.against {
                Against::Baseline => "baseline".to_owned(),
                Against::Change { words, interval_words: Some(range), effect, .. }
                    if *effect != Effect::NotShown =>
                {
                    format!("{words} ({range})")
                }
                Against::Change { words, .. } => words.clone(),
                Against::None { why, .. } => why.clone(),
            };
            if let Some(partial) = &value.partial {
                change.push_str(&format!(", cut off: {partial}"));
            }
            let interval = match value.centre.interval {
                Some(_) => format!("({})", value.interval_text),
                None => value.over.count(value.centre.n),
            };
            [value.text.clone(), interval, change]
        }
    }
}

/// Two arms in pairs: every case and metric.
fn in_pairs(table: &Paired, width: usize) -> String {
    let mut builder = Builder::default();
    let arms = [&table.pairing.baseline, &table.pairing.candidate];
    let arms = arms.map(|arm| printable(&ellipsis(&arm.to_string(), ARM)));
    let heads = ["metric".to_owned()].into_iter().chain(arms);
    builder.push_record(heads.chain(CHANGE_HEADS.map(str::to_owned)));
    let mut headings = Vec::new();
    for rows in table.rows.chunk_by(|a, b| a.series == b.series) {
        headings.push(builder.count_records());
        builder.push_record(
            [rows[0].title.clone()].into_iter().chain(std::iter::repeat_n(String::new(), 4)),
        );
        for row in rows {
            let unit = match row.line.unit.is_empty() {
                true => String::new(),
                false => format!(", {}", row.line.unit),
            };
            let metric = format!("{}{unit}", row.line.metric.label());
            let cells = [metric].into_iter().chain(row.values());
            let cells = cells.chain([row.change(), row.by_rebuild()]);
            builder.push_record(cells.map(|c| printable(&c)));
        }
    }
    let mut out = builder.build();
    out.with(Style::rounded()).modify(Columns::new(1..3), Alignment::right());
    for heading in headings {
        out.modify((heading, 0), Span::column(5));
        out.modify((heading, 0), Alignment::left());
    }
    if widest(&out.to_string()) > width {
        out.with(Width::wrap(width).priority(Priority::max(true)).keep_words(true));
    }
    format!("\nin pairs: {}\n{out}\n", table.explained())
}

/// What the cnis' own pods used; nothing where it was not looked at.
fn footprints(book: &Book<'_>, width: usize) -> String {
    let rows = footprint::rows(book);
    if rows.is_empty() {
        return String::new();
    }
    let mut builder = Builder::default();
    builder.push_record(footprint::HEADS);
    for row in rows {
        builder.push_record(row.cells.map(|c| printable(&c)));
    }
    let mut table = builder.build();
    table.with(Style::rounded()).modify(Columns::new(1..), Alignment::right());
    if widest(&table.to_string()) > width {
        table.with(Width::wrap(width).priority(Priority::max(true)).keep_words(true));
    }
    let note = footprint::left_out(book).map_or_else(String::new, |note| format!("{note}\n"));
    format!(
        "\nthe cnis' own pods on one node: mean over nodes (node with the most)\n{table}\n{note}"
    )
}

fn missing(matrix: &Matrix) -> String {
    let mut out = String::new();
    for cell in matrix.rows.iter().flat_map(|r| &r.lines[0].cells) {
        let Content::Nothing { end, reason, .. } = &cell.content else { continue };
        let told = matches!(end, End::Absent | End::TooFew);
        if let (Some(case), false) = (&cell.case, told) {
            let (case, reason) = (printable(&case.0), printable(reason));
            out.push_str(&format!("{}: {case}: {reason}\n", end_name(*end)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Builder, mixed, twelve};

    #[test]
    fn wide() {
        insta::assert_snapshot!(terminal_summary(&Builder::default().build(), Some(180)));
    }

    #[test]
    fn narrow() {
        insta::assert_snapshot!(terminal_summary(&Builder::default().build(), Some(100)));
    }

    #[test]
    fn with_every_bad_end() {
        insta::assert_snapshot!(terminal_summary(&mixed(), None));
    }

    #[test]
    fn on_real_clusters() {
        let text = terminal_summary(&crate::fixtures::policies(), Some(100));
        let after = text.find("median of trials").unwrap();
        insta::assert_snapshot!(&text[after..]);
    }

    #[test]
    fn two_arms_in_pairs() {
        let text = terminal_summary(&crate::fixtures::in_pairs(3, 6, 1.0), Some(140));
        insta::assert_snapshot!(&text[text.find("in pairs").unwrap()..]);
        let text = terminal_summary(&crate::fixtures::in_pairs(3, 6, 1.0), Some(80));
        let table = text.lines().filter(|l| l.starts_with(['│', '╭', '├', '╰']));
        assert!(table.map(widest).all(|w| w <= 80), "{text}");
    }

    #[test]
    fn over_pairs_of_nodes() {
        let record = crate::fixtures::many_nodes(6, usize::MAX);
        insta::assert_snapshot!(terminal_summary(&record, Some(120)));
    }

    #[test]
    fn tables_fit_the_width_they_are_given() {
        let record = Builder { paths: twelve(), footprints: true, ..Builder::default() }.build();
        for width in [80, 100, 160, 400] {
            let text = terminal_summary(&record, Some(width));
            let table: String = text
                .lines()
                .filter(|l| l.starts_with(['│', '╭', '├', '╰']))
                .map(|l| format!("{l}\n"))
                .collect();
            assert!(widest(&table) <= width, "{width}: {}\n{table}", widest(&table));
            assert!(table.lines().count() > 10);
        }
    }
}

//! The matrix as a picture for slides, at most six cnis side by side.

use super::{
    frame,
    scene::{Anchor, Item, MARGIN, Scene, Size, WIDTH, Weight},
    text,
    theme::{Paint, Theme, tint_paint},
};
use crate::{
    book::Book,
    matrix::{Against, Content, End, Matrix, MatrixCell, MatrixLine, tint},
    stats::Effect,
};

/// Most cnis side by side; more go into a band of their own under the first.
const ACROSS: usize = 6;
const NAMES: f64 = 360.0;
/// A column is not wider than this, and the picture not wider than its columns.
const COLUMN: f64 = 330.0;
/// Least width: heading and caption need room.
const LEAST: f64 = 1040.0;

/// The picture; none without columns or rows.
pub(crate) fn table(book: &Book<'_>, theme: &Theme, matrix: &Matrix) -> Option<Scene> {
    if matrix.columns.is_empty() || matrix.rows.is_empty() {
        return None;
    }
    let host = matrix.columns.iter().all(|c| book.columns[c.baseline].is_host());
    let (title, note) = match (matrix.columns.len(), host) {
        (1, _) => ("Every case", ""),
        (_, true) => ("Every case against the host", "orange: worse   blue: better"),
        (_, false) => ("Every case against the baseline", "orange: worse   blue: better"),
    };
    let mut scene = Scene::new("matrix".to_owned(), title.to_owned());
    let bands = matrix.columns.len().div_ceil(ACROSS);
    let across = matrix.columns.len().div_ceil(bands);
    scene.width = (2.0 * MARGIN + NAMES + COLUMN * across as f64).clamp(LEAST, WIDTH);
    let mut y = frame::heading(&mut scene, note);
    for band in 0..bands {
        let columns: Vec<usize> =
            (band * across..((band + 1) * across).min(matrix.columns.len())).collect();
        y = draw_band(&mut scene, theme, matrix, &columns, across, y) + 28.0;
    }
    let trials = book.rows.iter().enumerate().map(|(row, _)| frame::source(book, row));
    let mut sources: Vec<String> = Vec::new();
    for source in trials {
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
    let source = match sources.as_slice() {
        [one] => one.clone(),
        _ => frame::hosts(book),
    };
    let mut caption = format!(
        "median of trials, under it the 95 % interval (see What the numbers mean), then the change · tinted only where the change's 95 % interval excludes no change, full tint at ten times as bad or ten points · {source}",
    );
    for remark in &matrix.remarks {
        caption.push_str(" · ");
        caption.push_str(remark);
    }
    scene.description = matrix
        .rows
        .iter()
        .map(|row| {
            let cells = matrix.columns.iter().zip(&row.lines[0].cells);
            let cells: Vec<String> =
                cells.map(|(c, cell)| format!("{} {}", c.label, lines(cell).join(" "))).collect();
            let line = &row.lines[0];
            format!(
                "{}, {} in {}: {}.",
                row.title(),
                line.metric.label(),
                line.unit,
                cells.join("; ")
            )
        })
        .collect::<Vec<_>>()
        .join(" ");
    frame::caption(&mut scene, y - 24.0, &caption);
    Some(scene)
}

fn draw_band(
    scene: &mut Scene,
    theme: &Theme,
    matrix: &Matrix,
    columns: &[usize],
    across: usize,
    top: f64,
) -> f64 {
    let width = (scene.width - 2.0 * MARGIN - NAMES) / across as f64;
    let left = |place: usize| MARGIN + NAMES + width * place as f64;
    let heads: Vec<Vec<String>> =
        columns.iter().map(|c| head(&matrix.columns[*c].short, width - 48.0)).collect();
    let head_lines = heads.iter().map(Vec::len).max().unwrap_or(1) as f64;
    let mut y = top + head_lines * Size::Small.line() + 8.0;
    for (place, (column, lines)) in columns.iter().zip(&heads).enumerate() {
        let first = y - 12.0 - (lines.len() as f64 - 1.0) * Size::Small.line();
        scene.mark(
            (left(place) + 16.0, first - 9.0),
            10.0,
            theme.mark(*column),
            Paint::Series(*column),
        );
        for (i, line) in lines.iter().enumerate() {
            let at = (left(place) + 36.0, first + i as f64 * Size::Small.line());
            scene.text(at, line, (Size::Small, Weight::SemiBold, Anchor::Start), Paint::Ink);
        }
    }
    let end = MARGIN + NAMES + width * columns.len() as f64;
    for row in &matrix.rows {
        scene.line((MARGIN, y), (end, y), 2.0, Paint::Grid);
        let title_lines = [
            text::wrap(row.workload.name(), Size::Body, Weight::SemiBold, NAMES - 150.0),
            text::wrap(row.placement.name(), Size::Body, Weight::Regular, NAMES - 20.0),
        ];
        let notes = row.notes().collect::<Vec<_>>().join(", ");
        let extra = text::wrap(&notes, Size::Small, Weight::Regular, NAMES - 20.0);
        let name_height = 2.0 * Size::Body.line() + extra.len() as f64 * Size::Small.line() + 20.0;
        let mut row_end = y;
        for (number, line) in row.lines.iter().enumerate() {
            let cells: Vec<Vec<String>> = columns
                .iter()
                .map(|c| {
                    lines(&line.cells[*c])
                        .into_iter()
                        .enumerate()
                        .flat_map(|(i, t)| {
                            let (size, weight) = style(i);
                            text::wrap(&t, size, weight, width - 20.0)
                                .into_iter()
                                .map(move |w| format!("{i}{w}"))
                        })
                        .collect()
                })
                .collect();
            let tallest = cells.iter().map(|c| cell_height(c)).fold(0.0, f64::max);
            let mut height = tallest + 22.0;
            if number + 1 == row.lines.len() {
                height = height.max(y + name_height - row_end);
            }
            for (place, column) in columns.iter().enumerate() {
                let at = (left(place) + 3.0, row_end + 3.0);
                let cell = &line.cells[*column];
                let size = (width - 6.0, height - 6.0);
                draw_ground(scene, cell, line, at, size);
                let x = left(place) + width - 12.0;
                let mut baseline = row_end + 6.0;
                for text_line in &cells[place] {
                    let (index, content) = text_line.split_at(1);
                    let (size, weight) = style(index.parse().unwrap_or(1));
                    baseline += size.line();
                    let paint = match &cell.content {
                        Content::Nothing { end: End::Failed | End::Invalid, .. } => Paint::Alarm,
                        Content::Nothing { .. } => Paint::Muted,
                        Content::Value(_) => Paint::Ink,
                    };
                    scene.text((x, baseline - 8.0), content, (size, weight, Anchor::End), paint);
                }
            }
            let at = (MARGIN + NAMES - 16.0, row_end + Size::Body.line() - 2.0);
            let style = (Size::Small, Weight::Regular, Anchor::End);
            scene.text(at, line.metric.label(), style, Paint::Muted);
            scene.text((at.0, at.1 + Size::Small.line()), &line.unit, style, Paint::Muted);
            row_end += height;
        }
        let mut baseline = y + 6.0;
        for (i, part) in title_lines.iter().enumerate() {
            for line in part {
                baseline += Size::Body.line();
                let weight = if i == 0 { Weight::SemiBold } else { Weight::Regular };
                scene.text(
                    (MARGIN, baseline - 6.0),
                    line,
                    (Size::Body, weight, Anchor::Start),
                    Paint::Ink,
                );
            }
        }
        for line in &extra {
            baseline += Size::Small.line();
            scene.text(
                (MARGIN, baseline - 6.0),
                line,
                (Size::Small, Weight::Regular, Anchor::Start),
                Paint::Muted,
            );
        }
        y = row_end;
    }
    scene.line((MARGIN, y), (end, y), 2.0, Paint::Grid);
    y
}

fn draw_ground(
    scene: &mut Scene,
    cell: &MatrixCell,
    line: &MatrixLine,
    at: (f64, f64),
    size: (f64, f64),
) {
    match &cell.content {
        Content::Value(value) => {
            if let Some(paint) = tint_paint(tint(line, &value.against)) {
                scene.rect(at, size, paint);
            }
        }
        Content::Nothing { end: End::Failed | End::Invalid, .. } => {
            scene.items.push(Item::Frame { at, size, paint: Paint::Alarm, width: 2.0 });
        }
        Content::Nothing { .. } => scene.rect(at, size, Paint::Band),
    }
}

fn style(index: usize) -> (Size, Weight) {
    match index {
        0 => (Size::Body, Weight::SemiBold),
        _ => (Size::Small, Weight::Regular),
    }
}

fn cell_height(lines: &[String]) -> f64 {
    lines
        .iter()
        .map(|l| if l.starts_with('0') { Size::Body.line() } else { Size::Small.line() })
        .sum()
}

/// A cni's name over its column: broken after separators where it does not fit.
fn head(name: &str, room: f64) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for piece in name.split_inclusive(['-', ':', '/', ',', '=', ' ']) {
        let piece = text::fit(piece, Size::Small, Weight::SemiBold, room);
        let longer = format!("{}{piece}", lines[lines.len() - 1]);
        if text::width(&longer, Size::Small, Weight::SemiBold) <= room {
            let last = lines.len() - 1;
            lines[last] = longer;
        } else {
            lines.push(piece);
        }
    }
    lines.retain(|l| !l.is_empty());
    lines
}

/// A cell's lines: value, interval, change.
fn lines(cell: &MatrixCell) -> Vec<String> {
    match &cell.content {
        Content::Nothing { end: End::TooFew, short, reason } => vec![short.clone(), reason.clone()],
        Content::Nothing { short, .. } => vec![short.clone()],
        Content::Value(value) => {
            let mut out = vec![value.text.clone(), value.interval_text.clone()];
            out.push(match &value.against {
                Against::Baseline => "baseline".to_owned(),
                Against::Change { words, effect: Effect::Unknown, .. } => words.clone(),
                Against::Change { words, .. } => words.clone(),
                Against::None { why, .. } => why.clone(),
            });
            out.extend(value.partial.as_ref().map(|p| format!("cut off: {p}")));
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixtures::{Builder, twelve},
        matrix::from_book,
    };

    #[test]
    fn a_picture_is_as_wide_as_its_columns() {
        let width = |cnis: usize| {
            let records =
                [Builder { paths: twelve()[..cnis].to_vec(), ..Builder::default() }.build()];
            let book = Book::new(&records);
            let scene = table(&book, &Theme::new(&book), &from_book(&book)).unwrap();
            let ends = scene.items.iter().filter_map(|item| match item {
                Item::Path { points, paint: Paint::Grid, .. } => Some(points[1].0),
                _ => None,
            });
            (scene.width, ends.fold(0.0, f64::max))
        };
        for cnis in [1, 2, 3, 4, 6, 12] {
            let (width, end) = width(cnis);
            assert!((width - MARGIN - end).abs() < 1.0, "{cnis}: {width} {end}");
        }
        assert_eq!([1, 2, 3, 12].map(|n| width(n).0), [LEAST, 1100.0, 1430.0, WIDTH]);
    }
}

//! Throughput over payload sizes: one line for each cni, the size at which it falls ringed.
//!
//! The x axis is log2 of the payload in bytes. The rule of the search and of a cliff is `crate::cliff`'s.

use super::{
    axis::{Axis, tick_decimals},
    frame,
    scene::{Anchor, At, MARGIN, Mark, Scene, Size, WIDTH, Weight, outline},
    theme::{Paint, Theme},
};
use crate::{
    book::Book,
    cliff::{Fall, Seen, Step},
    units::{Scale, number, thousands},
};
use cnibench_model::Metric;

const HEIGHT: f64 = 620.0;

/// One cni's search.
pub(crate) struct Line {
    pub column: usize,
    /// Ascending by size.
    pub steps: Vec<Step>,
    /// Where it falls.
    pub fall: Option<Fall>,
}

/// The searches of a row of the book.
pub(crate) fn lines(book: &Book<'_>, row: usize) -> Vec<Line> {
    let line = |column: usize| {
        let case = &book.entry(row, column)?.case.id;
        let sizes = &book.columns[column].record.sizes;
        let seen = Seen::of(sizes.iter().filter(|s| s.case == *case));
        let (steps, fall) = (seen.steps(), seen.fall());
        (!steps.is_empty()).then_some(Line { column, steps, fall })
    };
    (0..book.columns.len()).filter_map(line).collect()
}

/// Where the throughput of every cni falls, in words; empty where the row has no search.
pub(crate) fn sentence(book: &Book<'_>, lines: &[Line]) -> String {
    let part = |line: &Line| {
        let name = &book.columns[line.column].short;
        let Some(fall) = line.fall else {
            let last = line.steps.last().map_or(0, |s| s.size);
            return format!("{name} nowhere up to {} bytes", thousands(last));
        };
        let lost = 100.0 * (1.0 - fall.left);
        let what = match (fall.is_cliff(), fall.is_confirmed()) {
            (true, _) => format!("a cliff: {lost:.0} % less than at"),
            (false, true) => format!("{lost:.0} % less than at"),
            (false, false) => "not confirmed: as much as at".to_owned(),
        };
        let (at, before) = (thousands(fall.at), thousands(fall.before));
        let unsure = if fall.is_exact() { "" } else { "; not searched to the end" };
        format!("{name} at {at} bytes ({what} {before}{unsure})")
    };
    match lines.is_empty() {
        true => String::new(),
        false => {
            let parts: Vec<String> = lines.iter().map(part).collect();
            format!("Throughput falls: {}.", parts.join("; "))
        }
    }
}

/// The figure; none where the row has no search.
pub(crate) fn sizes(book: &Book<'_>, theme: &Theme, row: usize) -> Option<Scene> {
    let (series, lines) = (&book.rows[row], lines(book, row));
    let all = || lines.iter().flat_map(|l| &l.steps);
    let (least, most) = (all().map(|s| s.size).min()?, all().map(|s| s.size).max()?);
    let title = format!("{}: throughput over payload sizes", series.title());
    let mut scene = Scene::new(format!("sizes-{}", series.slug()), title);
    let top = frame::heading(&mut scene, "higher is better");
    let bottom = top + HEIGHT.max(frame::LABEL_GAP * (lines.len() as f64 + 2.0));
    let names = frame::names_width(book, 470.0);
    let (left, right) = (MARGIN + 104.0, WIDTH - MARGIN - names - 74.0);

    let values: Vec<f64> = all().flat_map(|s| [s.throughput, s.range.0, s.range.1]).collect();
    let scale = Scale::of(Metric::Throughput, book.clock(), &values);
    let y = Axis::from_zero(&values, bottom, top + 34.0);
    let span = ((most as f64).log2() - (least as f64).log2()).max(f64::MIN_POSITIVE);
    let x = |size: u64| {
        let along = ((size as f64).log2() - (least as f64).log2()) / span;
        left + 24.0 + (right - 16.0 - left - 24.0) * along
    };
    let ticks = y.ticks(7);
    let decimals = tick_decimals(&ticks, scale.divisor).min(3);
    for tick in &ticks {
        let at = y.at(*tick);
        scene.line((left, at), (right, at), 2.0, Paint::Grid);
        let style = (Size::Small, Weight::Regular, Anchor::End);
        let label = number(tick / scale.divisor, decimals);
        scene.text((left - 14.0, at + 9.0), &label, style, Paint::Muted);
    }
    let style = (Size::Small, Weight::Regular, Anchor::Start);
    scene.text((MARGIN, top + 12.0), &scale.unit, style, Paint::Muted);
    let labels: Vec<(f64, String)> = (0..64)
        .map(|power| 1u64 << power)
        .filter(|size| (least..=most).contains(size))
        .map(|size| (x(size), thousands(size)))
        .collect();
    let what = "bytes of payload in a datagram, logarithmic";
    let mut end = frame::bottom_axis(&mut scene, &labels, (left, right), (top, bottom), what);

    let mut ends: Vec<(usize, At)> = Vec::new();
    for line in &lines {
        let paint = Paint::Series(line.column);
        let points: Vec<At> = line.steps.iter().map(|s| (x(s.size), y.at(s.throughput))).collect();
        for step in &line.steps {
            let at = x(step.size);
            scene.line((at, y.at(step.range.0)), (at, y.at(step.range.1)), 2.0, paint);
        }
        scene.path(points.clone(), 4.0, paint);
        for at in &points {
            scene.mark(*at, 8.0, theme.mark(line.column), paint);
        }
        ends.extend(points.last().map(|at| (line.column, *at)));
    }
    for (line, fall) in lines.iter().filter_map(|l| Some((l, l.fall?))) {
        let Some(step) = line.steps.iter().find(|s| s.size == fall.at) else { continue };
        let mut ring = outline(Mark::Circle, (x(step.size), y.at(step.throughput)), 18.0);
        ring.extend_from_within(..1);
        scene.path(ring, if fall.is_cliff() { 6.0 } else { 3.0 }, Paint::Ink);
    }
    frame::end_labels(&mut scene, theme, book, &ends, (top + 20.0, bottom - 8.0), right, names);

    let sentence = sentence(book, &lines);
    let style = (Size::Small, Weight::Regular);
    end += Size::Small.line();
    end = scene.paragraph((MARGIN, end), WIDTH - 2.0 * MARGIN, &sentence, style, Paint::Ink);
    end -= Size::Small.line() * 0.6;
    scene.description = describe(book, &lines, &scale, &sentence);
    let trials = all().map(|s| s.trials).max().unwrap_or(0);
    let caption = format!(
        "throughput over payload sizes, sizes between two that differ found by bisection · mark: median of up to {trials} trials, upright bar: from the lowest of them to the highest · ring: the first size at which fewer datagrams a second arrive, heavy where more than half of the throughput is gone (a cliff), in the median of rounds in which it was measured next to the size before · {}",
        frame::source(book, row),
    );
    frame::caption(&mut scene, end, &caption);
    Some(scene)
}

fn describe(book: &Book<'_>, lines: &[Line], scale: &Scale, sentence: &str) -> String {
    let parts: Vec<String> = lines
        .iter()
        .map(|line| {
            let steps: Vec<String> = line
                .steps
                .iter()
                .map(|s| format!("{} at {}", scale.number(s.throughput), thousands(s.size)))
                .collect();
            format!("{}: {}.", book.columns[line.column].label, steps.join(", "))
        })
        .collect();
    format!("In {}: {} {sentence}", scale.unit, parts.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        figure::scene::Item,
        fixtures::{climbed, searched},
    };

    #[test]
    fn every_cni_has_its_line_and_a_ring_where_it_falls() {
        let records = [searched()];
        let book = Book::new(&records);
        let found = lines(&book, 1);
        assert_eq!(found.len(), 4);
        let text = sentence(&book, &found);
        assert!(text.starts_with("Throughput falls: host at 1,473 bytes (4"), "{text}");
        assert!(text.contains("a cliff: 70 % less than at 1,422"), "{text}");
        let scene = sizes(&book, &Theme::new(&book), 1).unwrap();
        let rings = scene.items.iter().filter(
            |i| matches!(i, Item::Path { paint: Paint::Ink, points, .. } if points.len() > 8),
        );
        assert_eq!(rings.count(), 4);
        assert!(scene.description.contains(&text), "{}", scene.description);
    }

    #[test]
    fn a_row_without_a_search_has_no_figure_and_no_words() {
        let records = [climbed()];
        let book = Book::new(&records);
        assert!(sizes(&book, &Theme::new(&book), 1).is_none());
        assert_eq!(sentence(&book, &lines(&book, 1)), "");
    }
}

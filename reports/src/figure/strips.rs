//! Raw points: one strip for each cni, every trial a dot, the median and its interval under them.

use super::{
    axis::{Axis, tick_decimals},
    frame,
    scene::{Anchor, Item, MARGIN, Scene, Size, WIDTH, Weight},
    text,
    theme::{Paint, Theme},
};
use crate::{
    book::Book,
    matrix::{Against, Content, End, MatrixCell, MatrixLine, Over},
    stats::CentreMethod,
    units::number,
};
use cnibench_model::{Direction, Unit};
use std::collections::BTreeSet;

/// Most dots drawn in one strip; the caption says when there are more.
const DOTS: usize = 400;

/// The strips of one metric of a row; none when no cni has a value.
pub(crate) fn strips(
    book: &Book<'_>,
    theme: &Theme,
    row: usize,
    line: &MatrixLine,
) -> Option<Scene> {
    let metric = line.metric;
    let values: Vec<Vec<f64>> = (0..book.columns.len())
        .map(|c| book.entry(row, c).map_or_else(Vec::new, |e| e.values(metric)))
        .collect();
    let mut all: Vec<f64> = values.iter().flatten().copied().filter(|v| v.is_finite()).collect();
    if all.is_empty() {
        return None;
    }
    let series = &book.rows[row];
    let name = format!("strips-{}-{}", series.slug(), metric.name());
    let mut scene = Scene::new(name, format!("{}: {}", series.title(), metric.label()));
    scene.description = describe(book, line);
    let note = match metric.direction() {
        Direction::HigherIsBetter => "further right is better",
        Direction::LowerIsBetter => "further left is better",
    };
    let top = frame::heading(&mut scene, note);

    let facts: Vec<[String; 2]> = line.cells.iter().map(|c| fact(c, line)).collect();
    let fact_width = facts
        .iter()
        .map(|[a, b]| {
            text::width(a, Size::Body, Weight::SemiBold).max(text::width(
                b,
                Size::Small,
                Weight::Regular,
            ))
        })
        .fold(0.0, f64::max)
        .min(540.0);
    let names = frame::names_width(book, 480.0);
    let (left, right) = (MARGIN + names + 28.0, WIDTH - MARGIN - fact_width - 36.0);
    let height = if book.columns.len() > 8 { 84.0 } else { 100.0 };
    let bottom = top + height * book.columns.len() as f64;

    // Intervals of very few trials can be far wider than the data: the axis shows twice the data's
    // span at most, and an interval that goes on beyond it ends in an arrow.
    let ends = line.cells.iter().filter_map(|c| c.value()?.centre.interval);
    let (low, high) = all.iter().fold((f64::INFINITY, 0.0f64), |(l, h), v| (l.min(*v), h.max(*v)));
    let room = (high - low).max(high * 0.05) * 0.5;
    all.extend(ends.flat_map(|i| [i.low.max(low - room), i.high.min(high + room)]));
    let from_zero = metric.unit() != Unit::Nanoseconds;
    let axis = if from_zero {
        Axis::from_zero(&all, left, right)
    } else {
        Axis::around(&all, left, right)
    };

    for number in (1..book.columns.len()).step_by(2) {
        let y = top + height * number as f64;
        scene.rect((MARGIN - 16.0, y), (WIDTH - 2.0 * MARGIN + 32.0, height), Paint::Band);
    }
    let ticks = axis.ticks(5);
    let decimals = tick_decimals(&ticks, line.scale.divisor);
    let labelled: Vec<(f64, String)> =
        ticks.iter().map(|t| (axis.at(*t), number(t / line.scale.divisor, decimals))).collect();
    let unit = format!("{} in {}", metric.label(), line.unit);
    let end = frame::bottom_axis(&mut scene, &labelled, (left, right), (top, bottom), &unit);

    // The baseline's median through all strips, to compare by eye.
    let bases: BTreeSet<usize> = book.columns.iter().map(|c| c.baseline).collect();
    for base in bases {
        if let Some(value) = line.cells[base].value().filter(|_| book.columns.len() > 1) {
            let x = axis.at(value.centre.median);
            scene.line((x, top), (x, bottom), 2.5, Paint::Series(base));
        }
    }
    for (number, column) in book.columns.iter().enumerate() {
        let middle = top + height * (number as f64 + 0.5);
        frame::name(&mut scene, theme, number, column, (MARGIN, middle), names);
        let cell = &line.cells[number];
        let [first, second] = &facts[number];
        let paint = match &cell.content {
            Content::Nothing { end: End::Failed | End::Invalid, .. } => Paint::Alarm,
            Content::Nothing { .. } => Paint::Muted,
            Content::Value(_) => Paint::Ink,
        };
        let x = WIDTH - MARGIN;
        let room = fact_width + 4.0;
        let style = (Size::Body, Weight::SemiBold, Anchor::End);
        scene.text((x, middle - 5.0), &text::fit(first, style.0, style.1, room), style, paint);
        let style = (Size::Small, Weight::Regular, Anchor::End);
        scene.text(
            (x, middle + 29.0),
            &text::fit(second, style.0, style.1, room),
            style,
            Paint::Ink,
        );
        strip(&mut scene, &axis, number, &values[number], middle, cell);
    }
    let thinned = values.iter().map(Vec::len).max().filter(|n| *n > DOTS);
    frame::caption(&mut scene, end, &caption(book, row, line, thinned));
    Some(scene)
}

fn strip(
    scene: &mut Scene,
    axis: &Axis,
    number: usize,
    values: &[f64],
    middle: f64,
    cell: &MatrixCell,
) {
    let Some(value) = cell.value() else { return };
    let points = thin(values)
        .into_iter()
        .enumerate()
        .map(|(i, v)| {
            // The golden ratio's multiples spread evenly and are the same every time.
            let jitter = (i as f64 * 0.618_033_988_75).fract() - 0.5;
            (axis.at(v), middle - 16.0 + jitter * 34.0)
        })
        .collect();
    let radius = if values.len() > 60 { 6.0 } else { 8.0 };
    let alpha = if values.len() > 20 { 0.55 } else { 0.75 };
    scene.items.push(Item::Dots { points, radius, paint: Paint::Series(number), alpha });
    let y = middle + 24.0;
    if let Some(interval) = value.centre.interval {
        let (a, b) = (axis.at(interval.low), axis.at(interval.high));
        scene.line((a, y), (b.max(a + 2.0), y), 5.0, Paint::Ink);
        // An arrow where the interval goes on beyond the axis.
        for (end, x, way) in [(interval.low, a, 1.0), (interval.high, b, -1.0)] {
            if !axis.covers(end) {
                let head = vec![(x + way * 14.0, y - 9.0), (x, y), (x + way * 14.0, y + 9.0)];
                scene.path(head, 4.0, Paint::Ink);
            }
        }
    }
    let x = axis.at(value.centre.median);
    scene.line((x, y - 13.0), (x, y + 13.0), 7.0, Paint::Ink);
}

/// All values, or `DOTS` of them evenly by rank, the extremes among them.
fn thin(values: &[f64]) -> Vec<f64> {
    if values.len() <= DOTS {
        return values.to_vec();
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (0..DOTS).map(|i| sorted[i * (sorted.len() - 1) / (DOTS - 1)]).collect()
}

/// The two lines at a strip's right: the value, and what it is against the baseline.
fn fact(cell: &MatrixCell, line: &MatrixLine) -> [String; 2] {
    match &cell.content {
        Content::Nothing { end, short, reason } => {
            let second = match end {
                End::Failed => "failed",
                End::Invalid => "invalid",
                End::TooFew => reason,
                End::Skipped | End::Interrupted | End::Absent => "",
            };
            [short.clone(), second.to_owned()]
        }
        Content::Value(value) => {
            let interval = match value.centre.interval {
                Some(_) => format!(" ({})", value.interval_text),
                None => String::new(),
            };
            let first = format!("{} {}{interval}", value.text, line.unit);
            let second = match (&value.against, &value.partial) {
                (_, Some(partial)) => format!("cut off: {partial}"),
                (Against::Baseline, _) => "baseline".to_owned(),
                (Against::Change { words, interval_words: Some(i), effect, .. }, _)
                    if *effect != crate::stats::Effect::NotShown =>
                {
                    format!("{words} ({i})")
                }
                (Against::Change { words, .. }, _) => words.clone(),
                (Against::None { why, .. }, _) => why.clone(),
            };
            [first.trim().to_owned(), second]
        }
    }
}

fn describe(book: &Book<'_>, line: &MatrixLine) -> String {
    let parts: Vec<String> = book
        .columns
        .iter()
        .zip(&line.cells)
        .map(|(column, cell)| {
            let [first, second] = fact(cell, line);
            format!("{}: {first}, {second}.", column.label)
        })
        .collect();
    parts.join(" ")
}

fn caption(book: &Book<'_>, row: usize, line: &MatrixLine, thinned: Option<usize>) -> String {
    let mut methods: Vec<&str> = Vec::new();
    for value in line.cells.iter().filter_map(MatrixCell::value) {
        let method = value.centre.method.describe();
        if !methods.contains(&method) {
            methods.push(method);
        }
    }
    let baseline = match book.columns.len() {
        1 => "",
        _ => " · long line: the baseline's median",
    };
    let bar = match methods.as_slice() {
        [one] if *one == CentreMethod::TooFew.describe() => (*one).to_owned(),
        _ => format!("level bar: {}", methods.join("; ")),
    };
    let dot =
        match line.cells.iter().filter_map(MatrixCell::value).any(|v| v.over == Over::NodePairs) {
            true => "dot: median of one node pair in one direction",
            false => "dot: one trial",
        };
    let mut caption = format!(
        "{} in {} · {dot} · upright bar: median · {bar}{baseline} · {}",
        line.metric.label(),
        line.unit,
        frame::source(book, row),
    );
    if let Some(most) = thinned {
        caption.push_str(&format!(
            " · of up to {most} dots a strip {DOTS} are drawn, evenly by rank; all are in samples.csv"
        ));
    }
    caption
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixtures::{Builder, usual},
        matrix::from_book,
    };
    use cnibench_model::{Metric, Placement, Workload};

    #[test]
    fn the_numbers_are_those_of_the_trials() {
        let series = vec![(Workload::TcpStream, Placement::CrossNode)];
        let paths = usual()[..4].to_vec();
        let mut record =
            Builder { paths, series, trials: 5, two_machines: true, ..Builder::default() }.build();
        let values = [
            ("/host/", [40.0, 40.1, 40.2, 40.3, 40.4]),
            // One trial far out, one without anything, one half as fast in every block.
            ("/flannel-vxlan/", [20.0, 20.1, 20.2, 20.3, 1.0]),
            ("/flannel-wireguard-userspace/", [0.0, 2.0, 2.1, 2.2, 2.3]),
            ("/flannel-host-gw/", [20.0, 20.05, 20.1, 20.15, 20.2]),
        ];
        for trial in &mut record.trials {
            let own = values.iter().find(|(cni, _)| trial.case.0.contains(cni)).unwrap();
            let sample = trial.samples.iter_mut().find(|s| s.metric == Metric::Throughput);
            sample.unwrap().value = own.1[trial.index as usize] * 1e9;
        }
        let records = [record];
        let book = Book::new(&records);
        let matrix = from_book(&book);
        let scene = strips(&book, &Theme::new(&book), 0, &matrix.rows[0].lines[0]).unwrap();
        let text = &scene.description;
        for expected in [
            "host: 40.2 Gbit/s (40.0–40.4), baseline.",
            "flannel-vxlan: 20 Gbit/s (2–59), no difference shown.",
            "flannel-wireguard-userspace: 2.1 Gbit/s (0.5–2.9), delivered nothing in 1 of 5 trials.",
            "flannel-host-gw: 20.1 Gbit/s (20.0–20.2), 50 % less throughput (50 %).",
            "dot: one trial",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        let dots = scene.items.iter().filter(|i| matches!(i, Item::Dots { .. })).count();
        assert_eq!(dots, 4);
    }
}

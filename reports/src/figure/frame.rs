//! What every figure has: a heading, a caption that tells the truth alone, labelled rows.
//!
//! Owns captions and the column of names. Called by each figure.

use super::{
    axis::{Axis, spread},
    scene::{Anchor, At, MARGIN, Scene, Size, Weight},
    text,
    theme::{Paint, Theme},
};
use crate::{
    book::{Book, Column},
    stats::Centre,
    units::seconds,
};
use cnibench_model::{Clock, ProviderKind, Record};
use std::collections::BTreeSet;

/// Heading and a note at its right; returns where content begins.
pub(crate) fn heading(scene: &mut Scene, note: &str) -> f64 {
    let baseline = MARGIN + Size::Title.px() * 0.8;
    let note_width = text::width(note, Size::Small, Weight::Regular);
    let room = scene.width - 2.0 * MARGIN - note_width - 40.0;
    let title = text::fit(&scene.title, Size::Title, Weight::SemiBold, room);
    let style = (Size::Title, Weight::SemiBold, Anchor::Start);
    scene.text((MARGIN, baseline), &title, style, Paint::Ink);
    let style = (Size::Small, Weight::Regular, Anchor::End);
    scene.text((scene.width - MARGIN, baseline), note, style, Paint::Muted);
    baseline + 30.0
}

/// The caption under everything; ends the figure. The description gets it too.
pub(crate) fn caption(scene: &mut Scene, y: f64, content: &str) {
    let first = y + Size::Small.line();
    let room = scene.width - 2.0 * MARGIN;
    let style = (Size::Small, Weight::Regular);
    let after = scene.paragraph((MARGIN, first), room, content, style, Paint::Muted);
    scene.height = (after - Size::Small.line() + MARGIN * 0.8).ceil();
    if !scene.description.is_empty() {
        scene.description.push(' ');
    }
    scene.description.push_str(content);
}

/// Where the numbers come from: clock, trials, host and kernel.
pub(crate) fn source(book: &Book<'_>, row: usize) -> String {
    let clock = match book.clock() {
        Clock::Wall => "wall clock",
        Clock::Instructions => "instruction clock",
    };
    let mut counts = BTreeSet::new();
    let mut durations: Vec<f64> = Vec::new();
    for entry in (0..book.columns.len()).filter_map(|c| book.entry(row, c)) {
        if !entry.shown().is_empty() {
            counts.insert(entry.shown().len());
            if !durations.contains(&entry.case.duration_s) {
                durations.push(entry.case.duration_s);
            }
        }
    }
    let trials = match (counts.first(), counts.last()) {
        (Some(1), Some(1)) => "1 trial".to_owned(),
        (Some(low), Some(high)) if low == high => format!("{low} trials"),
        (Some(low), Some(high)) => format!("{low} to {high} trials"),
        _ => "no trial".to_owned(),
    };
    let durations: Vec<String> = durations.into_iter().map(seconds).collect();
    let over = book.over_pairs(row).map_or_else(String::new, |over| format!(" {over}"));
    let trials = match book.clock() {
        Clock::Wall => format!("{trials} × {}", durations.join(" or ")),
        // How long they took is what they measured.
        Clock::Instructions => trials,
    };
    format!("{clock} · {trials}{over} each cni · {}", hosts(book))
}

/// Host and kernel of every record, each once; of an existing cluster only where it was measured from,
/// since the kernels are those of its nodes.
pub(crate) fn hosts(book: &Book<'_>) -> String {
    let host = |r: &Record| {
        let e = &r.header.environment;
        match r.header.cases.first().map(|c| c.provider) {
            Some(ProviderKind::Kubeconfig) => format!("a cluster reached from {}", e.hostname),
            _ => format!("{}, kernel {}", e.hostname, e.kernel_release),
        }
    };
    let hosts: BTreeSet<String> = book.records.iter().map(host).collect();
    hosts.into_iter().collect::<Vec<_>>().join(" and ")
}

/// The column of names: how wide it is for these columns, at most `most`.
pub(crate) fn names_width(book: &Book<'_>, most: f64) -> f64 {
    let widths = book.columns.iter().map(|c| text::width(&c.short, Size::Body, Weight::Regular));
    (widths.fold(0.0, f64::max) + 44.0).min(most)
}

/// A cni's mark and name, the text centred on `at.1`.
pub(crate) fn name(
    scene: &mut Scene,
    theme: &Theme,
    number: usize,
    column: &Column<'_>,
    at: At,
    width: f64,
) {
    scene.mark((at.0 + 12.0, at.1), 11.0, theme.mark(number), Paint::Series(number));
    let label = text::fit(&column.short, Size::Body, Weight::Regular, width - 44.0);
    let style = (Size::Body, Weight::Regular, Anchor::Start);
    scene.text((at.0 + 38.0, at.1 + 10.0), &label, style, Paint::Ink);
}

/// Distance between the names at the ends of lines.
pub(crate) const LABEL_GAP: f64 = 40.0;

/// Names at the right of lines that end at these places, moved apart between `low` and `high`.
pub(crate) fn end_labels(
    scene: &mut Scene,
    theme: &Theme,
    book: &Book<'_>,
    ends: &[(usize, At)],
    (low, high): (f64, f64),
    right: f64,
    names: f64,
) {
    let wanted: Vec<f64> = ends.iter().map(|(_, end)| end.1).collect();
    let places = spread(&wanted, LABEL_GAP, low, high);
    for ((number, end), place) in ends.iter().zip(&places) {
        let label = (right + 74.0, *place);
        // Dotted and muted: a line in the series' colour would read as values beyond the last point.
        let (from, to) = ((end.0 + 16.0, end.1), (label.0 - 6.0, label.1));
        let knee = (from.0.max(right - 8.0) + 8.0, end.1);
        scene.dotted(&[from, knee, to], 2.0, Paint::Muted);
        name(scene, theme, *number, &book.columns[*number], label, names);
    }
}

/// A level bar for an interval with an arrow where it goes on beyond the axis, edged so that it
/// stands out from what is under it; nothing where there is none.
pub(crate) fn interval(scene: &mut Scene, axis: &Axis, centre: &Centre, y: f64) {
    let Some(interval) = centre.interval else { return };
    let (a, b) = (axis.at(interval.low), axis.at(interval.high).max(axis.at(interval.low) + 2.0));
    scene.line((a - 2.0, y), (b + 2.0, y), 10.0, Paint::Card);
    scene.line((a, y), (b, y), 5.0, Paint::Ink);
    for (end, x, way) in [(interval.low, a, 1.0), (interval.high, b, -1.0)] {
        if axis.covers(end) {
            scene.line((x, y - 9.0), (x, y + 9.0), 4.0, Paint::Ink);
        } else {
            let head = vec![(x + way * 14.0, y - 9.0), (x, y), (x + way * 14.0, y + 9.0)];
            scene.path(head, 4.0, Paint::Ink);
        }
    }
}

/// A horizontal axis under rows: ticks, grid lines and the unit.
pub(crate) fn bottom_axis(
    scene: &mut Scene,
    ticks: &[(f64, String)],
    (left, right): (f64, f64),
    (top, bottom): (f64, f64),
    unit: &str,
) -> f64 {
    scene.line((left, bottom), (right, bottom), 2.0, Paint::Muted);
    let style = (Size::Small, Weight::Regular, Anchor::Middle);
    let mut free_from = f64::NEG_INFINITY;
    for (x, label) in ticks {
        scene.line((*x, top), (*x, bottom), 2.0, Paint::Grid);
        let half = text::width(label, Size::Small, Weight::Regular) / 2.0;
        if x - half < free_from {
            continue;
        }
        scene.text((*x, bottom + 32.0), label, style, Paint::Muted);
        free_from = x + half + 16.0;
    }
    let y = bottom + 32.0 + Size::Small.line();
    let style = (Size::Small, Weight::Regular, Anchor::Middle);
    scene.text(((left + right) / 2.0, y), unit, style, Paint::Muted);
    y + 16.0
}

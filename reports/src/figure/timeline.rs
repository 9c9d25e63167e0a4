//! Timelines: latency over time while keys are changed, a panel for each cni, one trial of each.
//!
//! Lines are the median and the 99th percentile of the requests that were due in each short interval, marks
//! the longest; a vertical band is a change of keys. What belongs to a change is `crate::rotation`'s.

use super::{
    axis::{Axis, tick_decimals},
    frame,
    scene::{Anchor, At, Item, MARGIN, Mark, Scene, Size, WIDTH, Weight},
    theme::{Paint, Theme},
};
use crate::{
    book::Book,
    rotation::{self, Line},
    units::{Scale, number, thousands},
};
use cnibench_model::{Clock, Interval, Metric, RotationTrial};

/// Height of a panel, and what lies between two.
const PANEL: f64 = 250.0;
const GAP: f64 = 64.0;
/// A change is drawn at least so wide.
const NARROW: f64 = 5.0;

/// The figure; none where no keys were changed in the row.
pub(crate) fn timeline(book: &Book<'_>, theme: &Theme, row: usize) -> Option<Scene> {
    let (series, lines) = (&book.rows[row], rotation::lines(book, row));
    let text = rotation::sentence(book, &lines);
    if text.is_empty() {
        return None;
    }
    // The first of each: they are alike, and the words are of all.
    let shown: Vec<(&Line<'_>, &RotationTrial)> =
        lines.iter().filter_map(|l| Some((l, *l.trials.first()?))).collect();
    let intervals = || shown.iter().flat_map(|(_, t)| &t.trial.intervals).filter(|i| i.count > 0);
    let values: Vec<f64> = intervals().flat_map(|i| [i.p50, i.max]).collect();
    let ends = (
        values.iter().copied().fold(f64::INFINITY, f64::min),
        values.iter().copied().fold(0.0, f64::max),
    );
    let until = intervals().map(|i| i.at_s + i.length_s).fold(0.0, f64::max);
    let title = format!("{}: latency while keys change", series.title());
    let mut scene = Scene::new(format!("timeline-{}", series.slug()), title);
    let mut top = frame::heading(&mut scene, "lower is better") + 34.0;
    let (left, right) = (MARGIN + 104.0, WIDTH - MARGIN - 24.0);
    let scale = Scale::of(Metric::LatencyP50, book.clock(), &[(ends.0 * ends.1).sqrt()]);
    let x = Axis::to(until, left, right);
    let mut end = top;
    for (place, (line, trial)) in shown.iter().enumerate() {
        let bottom = top + PANEL;
        let y = Axis::log(&values, bottom, top + 40.0);
        for tick in y.ticks(4) {
            let at = y.at(tick);
            scene.line((left, at), (right, at), 2.0, Paint::Grid);
            let decimals = tick_decimals(&[0.0, tick], scale.divisor).min(3);
            let style = (Size::Small, Weight::Regular, Anchor::End);
            let label = number(tick / scale.divisor, decimals);
            scene.text((left - 14.0, at + 9.0), &label, style, Paint::Muted);
        }
        for change in trial.rotations.iter().filter(|r| (0.0..until).contains(&r.at_s)) {
            let from = x.at(change.at_s);
            let width = (x.at(change.at_s + change.took_s) - from).max(NARROW);
            let points = [(from, top), (from + width, top), (from + width, bottom), (from, bottom)];
            let points = points.to_vec();
            scene.items.push(Item::Area { points, paint: Paint::Ink, alpha: 0.45 });
        }
        let paint = Paint::Series(line.column);
        let middle = |i: &Interval| x.at(i.at_s + i.length_s / 2.0);
        let along = |value: fn(&Interval) -> f64| -> Vec<Vec<At>> {
            // Intervals in which nothing was answered cut the line.
            let runs = trial.trial.intervals.chunk_by(|a, b| (a.count > 0) == (b.count > 0));
            let runs = runs.filter(|run| run[0].count > 0);
            runs.map(|run| run.iter().map(|i| (middle(i), y.at(value(i)))).collect()).collect()
        };
        for run in along(|i| i.p99) {
            scene.dotted(&run, 3.0, paint);
        }
        for run in along(|i| i.p50) {
            scene.path(run, 4.5, paint);
        }
        for interval in trial.trial.intervals.iter().filter(|i| i.count > 0) {
            let at = (middle(interval), y.at(interval.max));
            scene.mark(at, 4.5, theme.mark(line.column), paint);
        }
        for interval in trial.trial.intervals.iter().filter(|i| i.lost > 0) {
            let at = (middle(interval), bottom - 12.0);
            scene.mark(at, 7.0, Mark::Cross, Paint::Alarm);
        }
        let lost: u64 = trial.trial.intervals.iter().map(|i| i.lost).sum();
        let what = match trial.rotations.len() {
            0 => "no change of keys (control)".to_owned(),
            n => format!("{n} changes of keys"),
        };
        let name = &book.columns[line.column].short;
        let label = format!("{name}: {what}, {} lost", thousands(lost));
        let style = (Size::Small, Weight::SemiBold, Anchor::Start);
        scene.text((left, top - 2.0), &label, style, Paint::Ink);
        if place == 0 {
            let style = (Size::Small, Weight::Regular, Anchor::End);
            scene.text((right, top - 2.0), &scale.unit, style, Paint::Muted);
        }
        let ticks = x.ticks(8);
        let decimals = tick_decimals(&ticks, 1.0).min(2);
        let labels: Vec<(f64, String)> = match place + 1 == shown.len() {
            true => ticks.iter().map(|t| (x.at(*t), number(*t, decimals))).collect(),
            false => Vec::new(),
        };
        let unit = if labels.is_empty() { "" } else { along_unit(book.clock()) };
        end = frame::bottom_axis(&mut scene, &labels, (left, right), (top, bottom), unit);
        top = bottom + GAP;
    }
    let style = (Size::Small, Weight::Regular);
    end += Size::Small.line();
    end = scene.paragraph((MARGIN, end), WIDTH - 2.0 * MARGIN, &text, style, Paint::Ink);
    end -= Size::Small.line() * 0.6;
    scene.description = describe(book, &shown, &scale, &text);
    let length =
        shown.iter().find_map(|(_, t)| t.trial.intervals.first()).map_or(0.0, |i| i.length_s);
    let trials = lines.iter().map(|l| l.trials.len()).max().unwrap_or(0);
    let how: Vec<&str> =
        lines.iter().flat_map(|l| &l.trials).filter_map(|t| t.how.as_deref()).collect();
    let how = how.first().map_or_else(String::new, |how| format!(" · a key: {how}"));
    let caption = format!(
        "latency from when a request was due, logarithmic, over intervals of {:.0} {} · line: median, dotted: p99, marks: the longest, crosses: something was lost · band: a change of the keys of all nodes · the first of {trials} trials, the sentence is of all; it counts what a change reaches, half a second or to the next{how} · {}",
        length * 1e3,
        match book.clock() {
            Clock::Wall => "ms",
            Clock::Instructions => "M instructions",
        },
        frame::source(book, row),
    );
    frame::caption(&mut scene, end, &caption);
    Some(scene)
}

/// What the time along a trial is counted in: a guest's second is 10⁹ of its instructions.
fn along_unit(clock: Clock) -> &'static str {
    match clock {
        Clock::Wall => "seconds from the opening of the window",
        Clock::Instructions => "10⁹ instructions from the opening of the window",
    }
}

fn describe(
    book: &Book<'_>,
    shown: &[(&Line<'_>, &RotationTrial)],
    scale: &Scale,
    text: &str,
) -> String {
    let parts: Vec<String> = shown
        .iter()
        .map(|(line, trial)| {
            let moments: Vec<String> =
                trial.rotations.iter().map(|r| format!("{:.2} s", r.at_s)).collect();
            let most = trial.trial.intervals.iter().map(|i| i.max).fold(0.0, f64::max);
            let name = &book.columns[line.column].label;
            let changes = match moments.is_empty() {
                true => "no change".to_owned(),
                false => format!("changes at {}", moments.join(", ")),
            };
            format!("{name}: {changes}, at most {}.", scale.text(most))
        })
        .collect();
    format!("{} {text}", parts.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{climbed, rotated};

    #[test]
    fn every_cni_has_a_panel_and_every_change_a_band() {
        let records = [rotated()];
        let book = Book::new(&records);
        let theme = Theme::new(&book);
        let scene = timeline(&book, &theme, 0).unwrap();
        let bands =
            scene.items.iter().filter(|i| matches!(i, Item::Area { paint: Paint::Ink, .. }));
        assert_eq!(bands.count(), 3);
        let texts = scene.texts();
        assert!(
            texts.iter().any(|t| t.contains("no change of keys (control), 0 lost")),
            "{texts:?}"
        );
        assert!(texts.iter().any(|t| t.contains("3 changes of keys, 12 lost")), "{texts:?}");
        assert!(scene.description.contains("changes at 1.00 s, 2.00 s, 3.00 s"));
    }

    #[test]
    fn a_row_without_changes_has_no_figure() {
        let records = [climbed()];
        let book = Book::new(&records);
        assert!(timeline(&book, &Theme::new(&book), 0).is_none());
    }
}

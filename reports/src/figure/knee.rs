//! Throughput against latency: what each offered rate came to, one line for each cni, its knee ringed.
//!
//! The x axis is what was done; y the p99, or for datagrams the jitter. Open marks: the rate was not
//! held, or datagrams were lost. The rule of the knee is `crate::knee`'s.

use super::{
    axis::{Axis, tick_decimals},
    frame,
    scene::{Anchor, At, MARGIN, Mark, Scene, Size, WIDTH, Weight, outline},
    theme::{Paint, Theme},
};
use crate::{
    book::Book,
    knee::{self, Rung},
    matrix::main_rate,
    units::{self, Scale, number},
};
use cnibench_model::{Metric, Rate, RungTrial, Workload};
use std::collections::BTreeMap;

const HEIGHT: f64 = 640.0;

/// One cni's ladder.
pub(crate) struct Line {
    pub column: usize,
    /// Ascending by offered rate.
    pub rungs: Vec<Rung>,
}

/// The ladders of a row of the book.
pub(crate) fn lines(book: &Book<'_>, row: usize) -> Vec<Line> {
    let workload = book.rows[row].workload;
    let line = |column: usize| {
        let case = &book.entry(row, column)?.case.id;
        let mut by_rate: BTreeMap<u64, Vec<&RungTrial>> = BTreeMap::new();
        for rung in book.columns[column].record.rungs.iter().filter(|r| r.case == *case) {
            // Rates are positive: their bits are in their order.
            by_rate.entry(rung.rate.0.to_bits()).or_default().push(rung);
        }
        let rungs: Vec<Rung> = by_rate
            .into_iter()
            .filter_map(|(bits, trials)| {
                let rate = Rate(f64::from_bits(bits));
                Rung::of(workload, rate, trials.into_iter().map(|r| &r.trial))
            })
            .collect();
        (!rungs.is_empty()).then_some(Line { column, rungs })
    };
    (0..book.columns.len()).filter_map(line).collect()
}

/// Where the knee of every cni is, in words; empty where the row has no ladder.
pub(crate) fn sentence(book: &Book<'_>, row: usize, lines: &[Line]) -> String {
    let workload = book.rows[row].workload;
    let parts: Vec<String> = lines
        .iter()
        .map(|line| {
            let name = &book.columns[line.column].short;
            let text = |rung: &Rung| units::rate(Rate(rung.rate), workload);
            match knee::knee(&line.rungs).and_then(|at| Some((at, line.rungs.get(at)?))) {
                Some((at, rung)) => match line.rungs.get(at + 1) {
                    Some(next) => format!("{name} {} ({} is beyond it)", text(rung), text(next)),
                    None => format!("{name} not reached at {}", text(rung)),
                },
                None => {
                    format!("{name} below {}", line.rungs.first().map_or_else(String::new, text))
                }
            }
        })
        .collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!("Knee: {}.", parts.join("; ")),
    }
}

/// The metric that is drawn upwards.
fn vertical(workload: Workload) -> Metric {
    if workload.is_transactional() { Metric::LatencyP99 } else { Metric::Jitter }
}

fn height(rung: &Rung, workload: Workload) -> Option<f64> {
    if workload.is_transactional() { rung.p99 } else { rung.jitter }
}

/// The figure; none where the row has no ladder.
pub(crate) fn knee(book: &Book<'_>, theme: &Theme, row: usize) -> Option<Scene> {
    let (series, lines) = (&book.rows[row], lines(book, row));
    let workload = series.workload;
    let (across, up) = (main_rate(workload), vertical(workload));
    let places = |f: fn(&Rung, Workload) -> Option<f64>| -> Vec<f64> {
        lines.iter().flat_map(|l| &l.rungs).filter_map(|r| f(r, workload)).collect()
    };
    let ups = places(height);
    if ups.is_empty() {
        return None;
    }
    let title = format!("{}: throughput against {}", series.title(), up.label());
    let mut scene = Scene::new(format!("knee-{}", series.slug()), title);
    let top = frame::heading(&mut scene, "right and low is better");
    let bottom = top + HEIGHT.max(frame::LABEL_GAP * (lines.len() as f64 + 2.0));
    let names = frame::names_width(book, 470.0);
    let (left, right) = (MARGIN + 104.0, WIDTH - MARGIN - names - 74.0);

    let done = places(|r, _| Some(r.done));
    let x = Axis::from_zero(&done, left, right);
    let x_scale = Scale::of(across, book.clock(), &done);
    let y = Axis::around(&ups, bottom, top + 40.0);
    let y_scale = Scale::of(up, book.clock(), &ups);
    y_ticks(&mut scene, &y, &y_scale, (left, right), top);
    let ticks = x.ticks(8);
    let decimals = tick_decimals(&ticks, x_scale.divisor).min(3);
    let labels: Vec<(f64, String)> =
        ticks.iter().map(|t| (x.at(*t), number(t / x_scale.divisor, decimals))).collect();
    let what = format!("{} that was done, {}", across.label(), x_scale.unit);
    let mut end = frame::bottom_axis(&mut scene, &labels, (left, right), (top, bottom), &what);

    let mut ends: Vec<(usize, At)> = Vec::new();
    for line in &lines {
        let paint = Paint::Series(line.column);
        let points: Vec<(At, &Rung)> = line
            .rungs
            .iter()
            .filter_map(|r| Some(((x.at(r.done), y.at(height(r, workload)?)), r)))
            .collect();
        for (at, rung) in &points {
            if let Some((low, high)) = rung.range {
                scene.line((at.0, y.at(low)), (at.0, y.at(high)), 2.0, paint);
            }
        }
        scene.path(points.iter().map(|(at, _)| *at).collect(), 4.0, paint);
        for (at, rung) in &points {
            scene.mark(*at, 10.0, theme.mark(line.column), paint);
            if !rung.keeps_up() {
                scene.mark(*at, 5.0, theme.mark(line.column), Paint::Card);
            }
        }
        ends.extend(points.last().map(|(at, _)| (line.column, *at)));
    }
    for line in lines.iter().filter(|l| knee::is_found(&l.rungs)) {
        let Some(rung) = knee::knee(&line.rungs).and_then(|at| line.rungs.get(at)) else {
            continue;
        };
        let Some(value) = height(rung, workload) else { continue };
        let mut ring = outline(Mark::Circle, (x.at(rung.done), y.at(value)), 20.0);
        ring.extend_from_within(..1);
        scene.path(ring, 4.0, Paint::Ink);
    }
    frame::end_labels(&mut scene, theme, book, &ends, (top + 20.0, bottom - 8.0), right, names);

    let sentence = sentence(book, row, &lines);
    let style = (Size::Small, Weight::Regular);
    end += Size::Small.line();
    end = scene.paragraph((MARGIN, end), WIDTH - 2.0 * MARGIN, &sentence, style, Paint::Ink);
    end -= Size::Small.line() * 0.6;
    scene.description = describe(book, &lines, workload, (&x_scale, &y_scale), &sentence);
    frame::caption(&mut scene, end, &caption(book, row, &lines, up));
    Some(scene)
}

fn y_ticks(scene: &mut Scene, y: &Axis, scale: &Scale, (left, right): (f64, f64), top: f64) {
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
}

fn describe(
    book: &Book<'_>,
    lines: &[Line],
    workload: Workload,
    (x, y): (&Scale, &Scale),
    sentence: &str,
) -> String {
    let parts: Vec<String> = lines
        .iter()
        .map(|line| {
            let rungs: Vec<String> = line
                .rungs
                .iter()
                .map(|r| {
                    let up = height(r, workload).map_or_else(|| "-".to_owned(), |v| y.number(v));
                    let kept = if r.keeps_up() { "" } else { " (not held)" };
                    format!("{up} at {}{kept}", x.number(r.done))
                })
                .collect();
            format!("{}: {}.", book.columns[line.column].label, rungs.join(", "))
        })
        .collect();
    format!("{} against {}: {} {sentence}", y.unit, x.unit, parts.join(" "))
}

fn caption(book: &Book<'_>, row: usize, lines: &[Line], up: Metric) -> String {
    let counts = lines.iter().flat_map(|l| &l.rungs).map(|r| r.trials);
    let trials = counts.max().unwrap_or(0);
    let rule = match up {
        Metric::Jitter => {
            format!("with at least {} % of the datagrams there", 100.0 * (1.0 - knee::MOST_LOST))
        }
        _ => format!("with a p99 of at most {} times the least of a lower rate", knee::SLOWER),
    };
    format!(
        "{} over offered rates, open loop · mark: median of up to {trials} trials, upright bar: from the lowest \
         of them to the highest · open mark: less than the offered rate was done, or datagrams were lost · ring: the knee, the highest rate below the first that is \
         not held within 0.1 % by most trials, {rule} · {}",
        up.label(),
        frame::source(book, row),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{figure::scene::Item, fixtures::climbed};

    #[test]
    fn every_cni_has_its_curve_and_its_knee_in_a_ring() {
        let records = [climbed()];
        let book = Book::new(&records);
        let theme = Theme::new(&book);
        for (row, up) in [(0, "latency p99"), (1, "jitter")] {
            let found = lines(&book, row);
            assert_eq!(found.len(), 4);
            for line in &found {
                assert_eq!(line.rungs.len(), 9);
                assert!(line.rungs.windows(2).all(|w| w[0].rate < w[1].rate));
                assert!(knee::is_found(&line.rungs));
                assert!(line.rungs.last().is_some_and(|r| !r.keeps_up()));
            }
            let scene = knee(&book, &theme, row).unwrap();
            assert!(scene.title.ends_with(&format!("throughput against {up}")), "{}", scene.title);
            let rings = scene.items.iter().filter(
                |i| matches!(i, Item::Path { paint: Paint::Ink, points, .. } if points.len() > 8),
            );
            assert_eq!(rings.count(), 4);
            assert!(scene.description.contains("Knee: host "), "{}", scene.description);
            assert!(scene.description.contains("(not held)"), "{}", scene.description);
        }
        // At 0.62 of what it carries a p99 is 2.3 times that at 0.11, at 0.74 3.4 times.
        let host = &lines(&book, 0)[0];
        assert_eq!(host.rungs[knee::knee(&host.rungs).unwrap()].rate, 31_000.0);
        let text = sentence(&book, 0, &lines(&book, 0));
        assert!(text.starts_with("Knee: host 31,000 transactions/s (37,000 "), "{text}");
    }

    #[test]
    fn a_row_without_a_ladder_has_no_figure_and_no_words() {
        let mut record = climbed();
        record.rungs.clear();
        let records = [record];
        let book = Book::new(&records);
        assert!(knee(&book, &Theme::new(&book), 0).is_none());
        assert_eq!(sentence(&book, 0, &lines(&book, 0)), "");
    }

    #[test]
    fn a_ladder_that_ended_before_the_knee_says_so() {
        let mut record = climbed();
        record.rungs.retain(|r| r.rate.0 < 12_000.0);
        let records = [record];
        let book = Book::new(&records);
        let text = sentence(&book, 0, &lines(&book, 0));
        assert!(text.starts_with("Knee: host not reached at 11,000 transactions/s; "), "{text}");
    }
}

//! A curve: one metric over a number that the cases differ in, one line for each cni with the band of
//! its intervals, cliffs marked.
//!
//! The x axis is log2 of the number; 0, which has no logarithm, is a tick of its own before the first.

use super::{
    axis::{Axis, tick_decimals},
    frame,
    scene::{Anchor, At, Item, MARGIN, Mark, Scene, Size, WIDTH, Weight, outline},
    text,
    theme::{Paint, Theme},
};
use crate::{
    book::Book,
    curves::{self, Cliffs, Curve, Dimension, Line},
    stats::CentreMethod,
    units::{Scale, number},
};
use cnibench_model::{Direction, Metric, Unit};

const HEIGHT: f64 = 620.0;
/// Where the numbers above zero begin when there is a zero, as a share of the axis.
const AFTER_ZERO: f64 = 0.16;

/// The figure; none when no cni has two points.
pub(crate) fn curve(
    book: &Book<'_>,
    theme: &Theme,
    curve: &Curve,
    metric: Metric,
) -> Option<Scene> {
    let lines = curve.lines(book, metric);
    if lines.is_empty() {
        return None;
    }
    let title = format!("{}: {}", curve.title(), metric.label());
    let mut scene = Scene::new(format!("curve-{}-{}", curve.slug(), metric.name()), title);
    let better = match metric.direction() {
        Direction::HigherIsBetter => "higher is better",
        Direction::LowerIsBetter => "lower is better",
    };
    let top = frame::heading(&mut scene, better);
    let bottom = top + HEIGHT.max(frame::LABEL_GAP * (lines.len() as f64 + 2.0));
    let names = frame::names_width(book, 470.0);
    let (left, right) = (MARGIN + 104.0, WIDTH - MARGIN - names - 74.0);

    let medians: Vec<f64> = points(&lines).map(|p| p.centre.median).collect();
    let scale = Scale::of(metric, book.clock(), &medians);
    let y = y_axis(&lines, metric, (bottom, top + 34.0));
    let x = XAxis::new(curve, (left, right));
    for tick in y.ticks(7) {
        let at = y.at(tick);
        scene.line((left, at), (right, at), 2.0, Paint::Grid);
    }
    let ticks = y.ticks(7);
    let decimals = tick_decimals(&ticks, scale.divisor).min(3);
    for tick in &ticks {
        let label = number(tick / scale.divisor, decimals);
        let style = (Size::Small, Weight::Regular, Anchor::End);
        scene.text((left - 14.0, y.at(*tick) + 9.0), &label, style, Paint::Muted);
    }
    let style = (Size::Small, Weight::Regular, Anchor::Start);
    scene.text((MARGIN, top + 12.0), &scale.unit, style, Paint::Muted);
    let labels: Vec<(f64, String)> = curve
        .points
        .iter()
        .map(|(value, _)| (x.at(*value), curve.dimension.text(*value, curve.workload)))
        .collect();
    let unit = x_label(curve.dimension);
    let mut end = frame::bottom_axis(&mut scene, &labels, (left, right), (top, bottom), &unit);
    if x.zero {
        axis_break(&mut scene, left + (right - left) * AFTER_ZERO * 0.5, bottom);
    }

    for line in &lines {
        band(&mut scene, line, |v| x.at(v), |v| y.at(v));
    }
    for line in &lines {
        let places: Vec<At> =
            line.points.iter().map(|p| (x.at(p.x), y.at(p.centre.median))).collect();
        // From zero on there is no scale: a dotted line says so.
        let from = usize::from(line.points.first().is_some_and(|p| p.x == 0.0));
        scene.dotted(&places[..=from], 4.0, Paint::Series(line.column));
        scene.path(places[from..].to_vec(), 4.5, Paint::Series(line.column));
        for place in &places {
            scene.mark(*place, 11.0, theme.mark(line.column), Paint::Series(line.column));
        }
    }
    cliffs(&mut scene, curve, &lines, |v| x.at(v), |v| y.at(v), (left, top, bottom));
    let ends: Vec<(usize, At)> = lines
        .iter()
        .filter_map(|l| {
            let last = l.points.last()?;
            Some((l.column, (x.at(last.x), y.at(last.centre.median))))
        })
        .collect();
    frame::end_labels(&mut scene, theme, book, &ends, (top + 20.0, bottom - 8.0), right, names);

    let sentence = curve.sentence(book, metric, &lines);
    let style = (Size::Small, Weight::Regular);
    end += Size::Small.line();
    end = scene.paragraph((MARGIN, end), WIDTH - 2.0 * MARGIN, &sentence, style, Paint::Ink);
    end -= Size::Small.line() * 0.6;
    scene.description = describe(book, curve, &lines, &scale, &sentence);
    let caption = caption(book, curve, metric, &lines, &scale);
    frame::caption(&mut scene, end, &caption);
    Some(scene)
}

fn points(lines: &[Line]) -> impl Iterator<Item = &crate::curves::Point> {
    lines.iter().flat_map(|l| &l.points)
}

fn x_label(dimension: Dimension) -> String {
    match dimension {
        // Its ticks carry the unit.
        Dimension::Rate | Dimension::Size => format!("{}, logarithmic", dimension.label()),
        _ => format!("{} (log2)", dimension.label()),
    }
}

/// Work a second starts at zero; a time only where the values are that far apart.
fn y_axis(lines: &[Line], metric: Metric, (low, high): (f64, f64)) -> Axis {
    let medians: Vec<f64> = points(lines).map(|p| p.centre.median).collect();
    let (least, most) =
        medians.iter().fold((f64::INFINITY, 0.0f64), |(l, h), v| (l.min(*v), h.max(*v)));
    // An interval of few trials can be far wider than the data, and must not flatten it.
    let room = (most - least).max(most * 0.05) * 0.5;
    let ends = points(lines).filter_map(|p| p.centre.interval);
    let ends = ends.flat_map(|i| [i.low.max(least - room), i.high.min(most + room)]);
    let all: Vec<f64> = medians.iter().copied().chain(ends).collect();
    match metric.unit() {
        Unit::Nanoseconds => Axis::around(&all, low, high),
        _ => Axis::from_zero(&all, low, high),
    }
}

/// log2 of the numbers above zero, after a place for zero where there is one.
struct XAxis {
    zero: bool,
    from: f64,
    left: f64,
    right: f64,
    low: f64,
    high: f64,
}

impl XAxis {
    fn new(curve: &Curve, (left, right): (f64, f64)) -> Self {
        let zero = curve.points.first().is_some_and(|p| p.0 <= 0.0);
        let positive: Vec<f64> =
            curve.points.iter().map(|p| p.0).filter(|x| *x > 0.0).map(f64::log2).collect();
        let low = positive.first().copied().unwrap_or(0.0);
        let high = positive.last().copied().unwrap_or(1.0);
        let from = if zero { left + (right - left) * AFTER_ZERO } else { left + 24.0 };
        Self { zero, from, left, right, low, high }
    }

    fn at(&self, value: f64) -> f64 {
        if value <= 0.0 {
            return self.left + 24.0;
        }
        let span = (self.high - self.low).max(f64::MIN_POSITIVE);
        self.from + (self.right - 16.0 - self.from) * (value.log2() - self.low) / span
    }
}

/// Two slanted strokes over the axis: here the scale begins anew.
fn axis_break(scene: &mut Scene, x: f64, y: f64) {
    scene.line((x - 9.0, y), (x + 9.0, y), 8.0, Paint::Card);
    for offset in [-9.0, 9.0] {
        scene.line((x + offset - 6.0, y + 12.0), (x + offset + 6.0, y - 12.0), 3.0, Paint::Muted);
    }
}

/// The band of the intervals, in pieces where points between have none.
fn band(scene: &mut Scene, line: &Line, x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) {
    for run in
        line.points.chunk_by(|a, b| a.centre.interval.is_some() == b.centre.interval.is_some())
    {
        let ends: Vec<(f64, f64, f64)> = run
            .iter()
            .filter_map(|p| p.centre.interval.map(|i| (x(p.x), y(i.low), y(i.high))))
            .collect();
        if ends.len() >= 2 {
            let upper = ends.iter().map(|(x, _, high)| (*x, *high));
            let lower = ends.iter().rev().map(|(x, low, _)| (*x, *low));
            let points = upper.chain(lower).collect();
            scene.items.push(Item::Area { points, paint: Paint::Series(line.column), alpha: 0.18 });
        }
        for (x, low, high) in ends {
            scene.line((x, low), (x, high), 3.0, Paint::Series(line.column));
        }
    }
}

/// A ring around the point after every cliff, and its x value beside it, clear of other such texts.
fn cliffs(
    scene: &mut Scene,
    curve: &Curve,
    lines: &[Line],
    x: impl Fn(f64) -> f64,
    y: impl Fn(f64) -> f64,
    (left, top, bottom): (f64, f64, f64),
) {
    let mut taken: Vec<(At, At)> = Vec::new();
    for line in lines {
        for cliff in &line.cliffs {
            let point = line.points[cliff.point];
            let at = (x(point.x), y(point.centre.median));
            let mut ring = outline(Mark::Circle, at, 21.0);
            ring.extend_from_within(..1);
            scene.path(ring, 4.0, Paint::Ink);
            let label = format!("cliff at {}", curve.dimension.text(point.x, curve.workload));
            let width = text::width(&label, Size::Small, Weight::SemiBold) + 12.0;
            let height = Size::Small.line();
            let start = (at.0 - 28.0 - width).max(left + 4.0);
            // On the side of the ring from which the line does not come.
            let before = y(line.points[cliff.point - 1].centre.median);
            let wanted = if before < at.1 { at.1 + 18.0 + height } else { at.1 - 18.0 };
            let mut baseline = wanted.clamp(top + height, bottom - 6.0);
            let hits = |baseline: f64| {
                taken.iter().any(|(from, size)| {
                    start < from.0 + size.0
                        && from.0 < start + width
                        && baseline - height < from.1 + size.1
                        && from.1 < baseline
                })
            };
            while hits(baseline) {
                baseline += 4.0;
            }
            let corner = (start, baseline - height + 6.0);
            scene.rect(corner, (width, height), Paint::Card);
            let style = (Size::Small, Weight::SemiBold, Anchor::Start);
            scene.text((start + 6.0, baseline - 3.0), &label, style, Paint::Ink);
            taken.push(((start, baseline - height), (width, height)));
        }
    }
}

fn describe(
    book: &Book<'_>,
    curve: &Curve,
    lines: &[Line],
    scale: &Scale,
    sentence: &str,
) -> String {
    let parts: Vec<String> = lines
        .iter()
        .map(|line| {
            let values: Vec<String> = line
                .points
                .iter()
                .map(|p| {
                    let (median, interval) = scale.centre(&p.centre);
                    let interval = interval.map_or_else(String::new, |i| format!(" ({i})"));
                    let at = curve.dimension.text(p.x, curve.workload);
                    format!("{median}{interval} at {at}")
                })
                .collect();
            format!("{}: {}.", book.columns[line.column].label, values.join(", "))
        })
        .collect();
    format!("In {}: {} {sentence}", scale.unit, parts.join(" "))
}

fn caption(
    book: &Book<'_>,
    curve: &Curve,
    metric: Metric,
    lines: &[Line],
    scale: &Scale,
) -> String {
    let mut methods: Vec<&str> = points(lines).map(|p| p.centre.method.describe()).collect();
    methods.sort_unstable();
    methods.dedup();
    let band = match methods.as_slice() {
        [one] if *one == CentreMethod::TooFew.describe() => (*one).to_owned(),
        _ => format!("band: {}", methods.join("; ")),
    };
    let zero = match curve.points.first() {
        Some((x, _)) if *x <= 0.0 => " · 0 has no logarithm and stands before the scale",
        _ => "",
    };
    let cliff = match curves::cliffs(lines) {
        Cliffs::None => {
            "no cliff shown: no step to the next value is worse by more than 20 % with its whole 95 % interval".to_owned()
        }
        Cliffs::NoneOf { judged: 0, .. } => {
            "whether there is a cliff cannot be told: no step between two values has an interval".to_owned()
        }
        Cliffs::NoneOf { judged, steps } => format!(
            "no cliff shown in the {judged} of {steps} steps between two values that have an interval; of the others it cannot be told"
        ),
        Cliffs::Some => {
            "ring: a cliff, a step from the value before whose whole 95 % interval is worse by more than 20 %, trials not paired".to_owned()
        }
    };
    let row = curve.points.first().map_or(0, |(_, row)| *row);
    format!(
        "{} in {} · mark: median · {band}{zero} · {cliff} · {}",
        metric.label(),
        scale.unit,
        frame::source(book, row),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{curves::curves, fixtures::policies};

    #[test]
    fn every_cni_has_a_line_a_band_and_a_label_and_cliffs_have_their_value() {
        let records = [policies()];
        let book = Book::new(&records);
        let theme = Theme::new(&book);
        let found = curves(&book);
        let scene = curve(&book, &theme, &found[0], Metric::LatencyP50).unwrap();
        assert_eq!(scene.name, "curve-tcp_rr-cross-node-policies-latency_p50");
        let areas = scene.items.iter().filter(|i| matches!(i, Item::Area { .. })).count();
        assert_eq!(areas, 4);
        let texts = scene.texts();
        for expected in ["host", "flannel-vxlan", "cilium", "0", "1", "10", "100", "1,000"] {
            assert_eq!(texts.iter().filter(|t| **t == expected).count(), 1, "{expected} {texts:?}");
        }
        assert_eq!(texts.iter().filter(|t| **t == "cliff at 100").count(), 2);
        assert_eq!(texts.iter().filter(|t| **t == "cliff at 1,000").count(), 1);
        assert!(scene.description.contains("From 0 to 1,000 policies"), "{}", scene.description);
    }

    #[test]
    fn a_caption_denies_no_cliff_that_two_trials_could_not_show() {
        let mut record = policies();
        record.trials.retain(|t| t.index < 2);
        let records = [record];
        let book = Book::new(&records);
        let found = curves(&book);
        let scene = curve(&book, &Theme::new(&book), &found[0], Metric::LatencyP50).unwrap();
        assert!(scene.description.contains("cannot be told"), "{}", scene.description);
        assert!(!scene.description.contains("no cliff"), "{}", scene.description);
    }

    #[test]
    fn zero_stands_before_the_first_power() {
        let records = [policies()];
        let found = curves(&Book::new(&records));
        let axis = XAxis::new(&found[0], (100.0, 1100.0));
        let at: Vec<f64> = [0.0, 1.0, 10.0, 100.0, 1000.0].map(|v| axis.at(v)).to_vec();
        assert!(at.windows(2).all(|w| w[1] - w[0] > 80.0), "{at:?}");
        let steps: Vec<f64> = at[1..].windows(2).map(|w| w[1] - w[0]).collect();
        assert!(steps.iter().all(|s| (s - steps[0]).abs() < 1e-6), "{steps:?}");
    }
}

//! The gate's forest plot: for every case and metric the change with its interval, the floor as a band,
//! and the verdict by mark and word; worse is always to the right.

use super::{
    axis::tick_decimals,
    frame,
    scene::{Anchor, MARGIN, Mark, Scene, Size, WIDTH, Weight},
    text,
    theme::Paint,
};
use crate::{
    book::{Book, slug},
    gate::{summary, words},
    units::number,
};
use cnibench_model::{
    Clock, Direction, EffectBasis, Estimate, Floor, Gate, Judgement, Metric, Role, Verdict,
};

/// Height of a row, and of the line over those that do not gate.
const ROW: f64 = 104.0;
const PART: f64 = 56.0;
/// Widest column of names, and of what is said at the right.
const NAMES: f64 = 470.0;
const FACTS: f64 = 520.0;
/// The axis reaches this many times as far as the largest change or floor; an interval may go on
/// beyond it in an arrow, since those of few rebuilds can be far wider than anything worth seeing.
const REACH: f64 = 1.35;
/// Least reach in per cent, so that noise does not fill the figure.
const LEAST: f64 = 1.0;

/// A linear axis through zero.
struct Axis {
    low: f64,
    high: f64,
    left: f64,
    right: f64,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let share = (value.clamp(self.low, self.high) - self.low) / (self.high - self.low);
        self.left + share * (self.right - self.left)
    }

    fn covers(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// Round values, zero among them.
    fn ticks(&self) -> Vec<f64> {
        let rough = (self.high - self.low) / 8.0;
        let power = 10f64.powf(rough.log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0].map(|s| s * power);
        let step = steps.into_iter().find(|s| *s >= rough * 0.999).unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).map(|i| i as f64 * step).collect()
    }
}

/// A size in per cent of the baseline (of shares in points), worse above zero.
fn worse(metric: Metric, basis: EffectBasis, size: f64) -> f64 {
    let change = match basis {
        EffectBasis::Ratio => (size - 1.0) * 100.0,
        EffectBasis::Difference => size * 100.0,
    };
    match metric.direction() {
        Direction::LowerIsBetter => change,
        Direction::HigherIsBetter => -change,
    }
}

/// One row: what of a judgement can be drawn.
struct Row<'a> {
    judgement: &'a Judgement,
    /// Estimate, and its interval's better and worse end.
    change: Option<(f64, Option<(f64, f64)>)>,
    rebuilds: Vec<f64>,
    floor: Option<f64>,
}

impl<'a> Row<'a> {
    fn of(judgement: &'a Judgement) -> Self {
        let drawn = judgement.metric.zip(judgement.estimate.as_ref());
        let ends = |m: Metric, e: &Estimate| {
            let (low, high) = e.low.zip(e.high)?;
            let (a, b) = (worse(m, e.basis, low), worse(m, e.basis, high));
            Some((a.min(b), a.max(b)))
        };
        let rebuilds = drawn.map_or_else(Vec::new, |(m, e)| {
            e.by_rebuild.iter().flatten().map(|size| worse(m, e.basis, *size)).collect()
        });
        Self {
            judgement,
            change: drawn.map(|(m, e)| (worse(m, e.basis, e.size), ends(m, e))),
            rebuilds,
            floor: judgement.floor.map(|f: Floor| f.size * 100.0),
        }
    }
}

/// The figure; none where nothing can be drawn.
pub(crate) fn forest(book: &Book<'_>, gate: &Gate) -> Option<Scene> {
    let rows: Vec<Row<'_>> = gate.judgements.iter().map(Row::of).collect();
    if rows.iter().all(|r| r.change.is_none()) {
        return None;
    }
    let run = gate.runs.join("-");
    let name = match book.records.len() {
        1 => "verdicts".to_owned(),
        _ => format!("verdicts-{}", slug(&run, 80)),
    };
    let mut scene = Scene::new(name, title(gate));
    scene.description = describe(gate);
    let top = frame::heading(&mut scene, "further right is worse");
    let names = rows.iter().map(|r| name_width(r.judgement)).fold(0.0, f64::max).min(NAMES);
    let facts = rows.iter().map(|r| fact_width(r.judgement)).fold(0.0, f64::max).min(FACTS);
    let axis =
        Axis { left: MARGIN + names + 32.0, right: WIDTH - MARGIN - facts - 36.0, ..reach(&rows) };
    let gating = rows.iter().filter(|r| r.judgement.role == Role::Gates).count();
    let part = if gating > 0 && gating < rows.len() { PART } else { 0.0 };
    let bottom = top + rows.len() as f64 * ROW + part;
    let place =
        |number: usize| top + number as f64 * ROW + if number >= gating { part } else { 0.0 };
    for number in (1..rows.len()).step_by(2) {
        let ground = (WIDTH - 2.0 * MARGIN + 32.0, ROW);
        scene.rect((MARGIN - 16.0, place(number)), ground, Paint::Band);
    }
    let ticks = axis.ticks();
    let decimals = tick_decimals(&ticks, 1.0);
    let label = |tick: &f64| match number(*tick, decimals) {
        text if *tick > 0.0 => format!("+{text}"),
        text => text,
    };
    let labelled: Vec<(f64, String)> = ticks.iter().map(|t| (axis.at(*t), label(t))).collect();
    let unit = "change in % of the baseline (of shares: in points), + is worse";
    let end =
        frame::bottom_axis(&mut scene, &labelled, (axis.left, axis.right), (top, bottom), unit);
    for (number, row) in rows.iter().enumerate() {
        floor(&mut scene, &axis, row, place(number));
    }
    let zero = axis.at(0.0);
    for (number, _) in rows.iter().enumerate().filter(|(_, row)| row.change.is_some()) {
        scene.line((zero, place(number)), (zero, place(number) + ROW), 3.0, Paint::Ink);
    }
    if part > 0.0 {
        let y = place(gating) - PART;
        scene.rect((MARGIN - 16.0, y), (WIDTH - 2.0 * MARGIN + 32.0, PART), Paint::Card);
        scene.line((MARGIN, y + 4.0), (WIDTH - MARGIN, y + 4.0), 2.0, Paint::Muted);
        let style = (Size::Small, Weight::SemiBold, Anchor::Start);
        scene.text((MARGIN, y + 40.0), "Reported, does not gate", style, Paint::Muted);
    }
    for (number, row) in rows.iter().enumerate() {
        let middle = place(number) + ROW / 2.0;
        said(&mut scene, row.judgement, middle, names, facts);
        drawn(&mut scene, &axis, row, middle);
    }
    frame::caption(&mut scene, end, &caption(book, gate, &rows));
    Some(scene)
}

fn title(gate: &Gate) -> String {
    match (&gate.candidate, &gate.baseline) {
        (Some(candidate), Some(baseline)) => {
            format!("Verdicts: {candidate} against {baseline}: {}", gate.outcome)
        }
        _ => format!("Verdicts: {}", gate.outcome),
    }
}

/// How far the axis goes to either side.
fn reach(rows: &[Row<'_>]) -> Axis {
    let mut high = LEAST;
    let mut low = -LEAST;
    let floors = rows.iter().filter_map(|r| r.floor);
    let least = floors.clone().fold(f64::INFINITY, f64::min);
    if least.is_finite() {
        high = f64::max(high, least);
        low = f64::min(low, -least);
    }
    for row in rows {
        let rebuilds = row.rebuilds.iter().copied();
        for value in row.change.iter().map(|c| c.0).chain(rebuilds).filter(|v| v.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
    }
    // Ends of intervals, as far as twice what is there without them.
    let most = (high - low) * 0.5;
    let (inner_low, inner_high) = (low, high);
    for (a, b) in rows.iter().filter_map(|r| r.change?.1) {
        low = low.min(a.max(inner_low - most));
        high = high.max(b.min(inner_high + most));
    }
    let widen = |v: f64| v * (1.0 + (REACH - 1.0) / 4.0);
    Axis { low: widen(low), high: widen(high), left: 0.0, right: 0.0 }
}

/// The floor as a band around no change, edged where it ends.
fn floor(scene: &mut Scene, axis: &Axis, row: &Row<'_>, top: f64) {
    let Some(floor) = row.floor.filter(|_| row.change.is_some()) else { return };
    let (a, b) = (axis.at(-floor), axis.at(floor));
    let (from, to) = (top + 8.0, top + ROW - 8.0);
    scene.rect((a, from), (b - a, to - from), Paint::Grid);
    for (edge, x) in [(-floor, a), (floor, b)] {
        if axis.covers(edge) {
            scene.dotted(&[(x, from), (x, to)], 3.0, Paint::Muted);
        }
    }
}

/// Change, interval and what each rebuild says.
fn drawn(scene: &mut Scene, axis: &Axis, row: &Row<'_>, middle: f64) {
    let Some((estimate, interval)) = row.change else {
        // In place of what there is none of.
        let style = (Size::Small, Weight::Regular);
        let mut lines = text::wrap(&row.judgement.reason, style.0, style.1, axis.right - axis.left);
        if lines.len() > 2 {
            lines.truncate(2);
            lines[1].push('…');
        }
        for (number, line) in lines.iter().enumerate() {
            let at = (axis.left, middle - 6.0 + 36.0 * number as f64);
            scene.text(at, line, (style.0, style.1, Anchor::Start), Paint::Ink);
        }
        return;
    };
    let paint = paint(row.judgement);
    let y = middle - 8.0;
    if let Some((low, high)) = interval {
        let (a, b) = (axis.at(low), axis.at(high).max(axis.at(low) + 2.0));
        scene.line((a - 2.0, y), (b + 2.0, y), 11.0, Paint::Card);
        scene.line((a, y), (b, y), 6.0, paint);
        for (end, x, way) in [(low, a, 1.0), (high, b, -1.0)] {
            match axis.covers(end) {
                true => scene.line((x, y - 11.0), (x, y + 11.0), 5.0, paint),
                // An arrow where it goes on.
                false => {
                    let head = vec![(x + way * 16.0, y - 11.0), (x, y), (x + way * 16.0, y + 11.0)];
                    scene.path(head, 5.0, paint);
                }
            }
        }
    }
    for rebuild in row.rebuilds.iter().filter(|v| axis.covers(**v)) {
        let x = axis.at(*rebuild);
        scene.line((x, middle + 20.0), (x, middle + 36.0), 4.0, Paint::Muted);
    }
    let mark = mark(row.judgement.verdict);
    scene.mark((axis.at(estimate), y), 15.0, mark, Paint::Card);
    scene.mark((axis.at(estimate), y), 12.0, mark, paint);
}

/// The names at the left, and at the right verdict and change.
fn said(scene: &mut Scene, judgement: &Judgement, middle: f64, names: f64, facts: f64) {
    let body = (Size::Body, Weight::Regular, Anchor::Start);
    let small = (Size::Small, Weight::Regular, Anchor::Start);
    let [title, metric] = name(judgement);
    let fitted = text::fit(&title, body.0, body.1, names);
    scene.text((MARGIN, middle - 6.0), &fitted, body, Paint::Ink);
    let fitted = text::fit(&metric, small.0, small.1, names);
    scene.text((MARGIN, middle + 30.0), &fitted, small, Paint::Muted);
    let x = WIDTH - MARGIN;
    let [word, change] = fact(judgement);
    let width = text::width(&word, Size::Body, Weight::SemiBold);
    let style = (Size::Body, Weight::SemiBold, Anchor::End);
    scene.text((x, middle - 6.0), &word, style, paint(judgement));
    let place = (x - width - 26.0, middle - 16.0);
    scene.mark(place, 12.0, mark(judgement.verdict), paint(judgement));
    let style = (Size::Small, Weight::Regular, Anchor::End);
    let fitted = text::fit(&change, Size::Small, Weight::Regular, facts);
    scene.text((x, middle + 30.0), &fitted, style, Paint::Ink);
}

/// Case and metric.
fn name(judgement: &Judgement) -> [String; 2] {
    let metric = judgement.metric.map_or("required by the policy", Metric::label);
    [judgement.title.clone(), metric.to_owned()]
}

/// Verdict and change, or why there is none.
fn fact(judgement: &Judgement) -> [String; 2] {
    let change = judgement.metric.zip(judgement.estimate.as_ref());
    let said = change.map_or_else(String::new, |(metric, estimate)| said_of(metric, estimate));
    [words::verdict(judgement.verdict, judgement.role), said]
}

/// "7 % less throughput (6–9 %)"; where the interval has both sides, its ends with the axis' signs: in
/// words they would be twice as long.
fn said_of(metric: Metric, estimate: &Estimate) -> String {
    let ends = estimate.low.zip(estimate.high);
    let ends = ends.map(|(a, b)| [a, b].map(|end| worse(metric, estimate.basis, end)));
    match ends.map(|[a, b]| [a.min(b), a.max(b)]) {
        Some([better, worse]) if better < 0.0 && worse > 0.0 => {
            let digits = usize::from(worse - better < 10.0);
            let [better, worse] = [better, worse].map(|end| number(end, digits));
            format!("{} ({better} to +{worse})", words::size(metric, estimate))
        }
        _ => words::change(metric, estimate),
    }
}

fn name_width(judgement: &Judgement) -> f64 {
    let [title, metric] = name(judgement);
    let title = text::width(&title, Size::Body, Weight::Regular);
    title.max(text::width(&metric, Size::Small, Weight::Regular))
}

fn fact_width(judgement: &Judgement) -> f64 {
    let [word, change] = fact(judgement);
    let word = text::width(&word, Size::Body, Weight::SemiBold) + 40.0;
    word.max(text::width(&change, Size::Small, Weight::Regular))
}

/// What tells a verdict without colour and without its word.
fn mark(verdict: Verdict) -> Mark {
    match verdict {
        Verdict::Pass => Mark::Circle,
        Verdict::Regression => Mark::Cross,
        Verdict::Improvement => Mark::Diamond,
        Verdict::Inconclusive => Mark::Down,
        Verdict::Missing => Mark::Square,
    }
}

fn paint(judgement: &Judgement) -> Paint {
    match (judgement.role, judgement.verdict) {
        (Role::Informs, _) => Paint::Muted,
        (_, Verdict::Regression) => Paint::Alarm,
        (_, Verdict::Improvement) => Paint::Good,
        (_, Verdict::Inconclusive | Verdict::Missing) => Paint::Muted,
        (_, Verdict::Pass) => Paint::Ink,
    }
}

fn describe(gate: &Gate) -> String {
    let rows = gate.judgements.iter().map(|j| {
        let [title, metric] = name(j);
        let word = words::verdict(j.verdict, j.role);
        format!("{title}, {metric}: {word}, {}.", j.reason)
    });
    let rows: Vec<String> = rows.collect();
    format!("{}. {}", summary::headline(gate), rows.join(" "))
}

fn caption(book: &Book<'_>, gate: &Gate, rows: &[Row<'_>]) -> String {
    let clock = match gate.clock {
        Clock::Wall => "wall clock",
        Clock::Instructions => "instruction clock",
    };
    let cut = rows.iter().filter_map(|r| r.floor);
    let (least, most) =
        cut.fold((f64::INFINITY, 0.0f64), |(l, m), floor| (l.min(floor), m.max(floor)));
    let floors = match least {
        l if !l.is_finite() => String::new(),
        l if (l - most).abs() < 1e-9 => format!(" ({} %)", number(l, usize::from(l.fract() > 0.0))),
        l => format!(" ({} to {} %)", number(l, 1), number(most, 1)),
    };
    let ticks = match rows.iter().any(|r| !r.rebuilds.is_empty()) {
        true => " · short strokes: each rebuild alone",
        false => "",
    };
    format!(
        "mark: change · bar: its interval, all that gate right together with {}; arrow: goes on beyond the axis · shaded: the floor{floors}{ticks} · a regression is right of zero with its whole interval and of the floor with its mark; inconclusive: the interval reaches beyond the floor and is wider than it · {} · {clock} · {}",
        words::confidence(1.0 - gate.alpha),
        summary::about(gate),
        frame::hosts(book),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        figure::scene::Item,
        fixtures::in_pairs,
        gate::{Policy, judge_pairs},
    };
    use cnibench_model::Record;

    fn drawn_of(record: &Record) -> Scene {
        let records = std::slice::from_ref(record);
        let gate = judge_pairs(record, &Policy::default(), None).unwrap();
        forest(&Book::new(records), &gate).unwrap()
    }

    /// Places of marks of a kind and paint.
    fn marks(scene: &Scene, wanted: Mark, ink: Paint) -> Vec<f64> {
        let place = |item: &Item| match item {
            Item::Mark { at, mark, paint, .. } if *mark == wanted && *paint == ink => Some(at.0),
            _ => None,
        };
        scene.items.iter().filter_map(place).collect()
    }

    #[test]
    fn a_regression_stands_right_of_zero_and_of_its_floor_whatever_the_metric() {
        let record = in_pairs(5, 6, 1.0);
        let scene = drawn_of(&record);
        let zero = scene.items.iter().find_map(|i| match i {
            Item::Path { points, width: 3.0, paint: Paint::Ink } => Some(points[0].0),
            _ => None,
        });
        let zero = zero.unwrap();
        // In the plot, and beside its word.
        let crosses = marks(&scene, Mark::Cross, Paint::Alarm);
        assert_eq!(crosses.len(), 2);
        assert!(crosses.iter().all(|x| *x > zero), "{crosses:?} {zero}");
        let floor_end = scene.items.iter().find_map(|i| match i {
            Item::Rect { at, size, paint: Paint::Grid } => Some(at.0 + size.0),
            _ => None,
        });
        assert!(crosses[0] > floor_end.unwrap() || crosses[1] > floor_end.unwrap());
        for part in ["regression: tcp_rr cross-node, latency p50", "31 % slower", "wall clock"] {
            assert!(scene.description.contains(part), "{part}\n{}", scene.description);
        }
        // Fewer transactions is worse, too.
        assert!(worse(Metric::Throughput, EffectBasis::Ratio, 0.9) > 9.0);
        assert!(worse(Metric::LatencyP50, EffectBasis::Ratio, 0.9) < -9.0);
        assert!(worse(Metric::Loss, EffectBasis::Difference, 0.02) > 1.9);
    }

    #[test]
    fn what_cannot_be_drawn_is_said_and_nothing_is_no_figure() {
        let scene = drawn_of(&crate::fixtures::verdicts());
        let said = |text: &str| {
            let own = |i: &Item| matches!(i, Item::Text { text: t, .. } if t.contains(text));
            scene.items.iter().any(own)
        };
        assert!(said("the candidate failed: trial 3"), "in place of the change");
        for word in ["pass", "regression", "improvement", "missing", "inconclusive", "(pass)"] {
            assert!(said(word), "{word}");
        }
        let mut empty = in_pairs(5, 6, 1.0);
        empty.trials.clear();
        let gate = judge_pairs(&empty, &Policy::default(), None).unwrap();
        assert!(forest(&Book::new(&[empty]), &gate).is_none());
    }
}

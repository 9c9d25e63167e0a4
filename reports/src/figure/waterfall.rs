//! Where the time of a round trip goes: for each cni a bar for the request and, where it ends, one for
//! the response, cut into stages in the order of the path; what no stage has is hatched, and the end
//! is the mean round trip that the generator saw.
//!
//! A stage has one colour and one number in all figures. The numbers come from `stages`.

use super::{
    axis::{Axis, spread, tick_decimals},
    frame, percentiles,
    scene::{Anchor, At, Item, MARGIN, Scene, Size, WIDTH, Weight},
    text,
    theme::{Paint, Theme},
};
use crate::{
    book::Book,
    stages::{self, Account, Part},
    stats::{self, Curve},
    units::{Scale, counted, number, thousands},
};
use cnibench_model::{Metric, Stage, probe::Direction};
use std::collections::BTreeSet;

/// Height of a bar, and of the numbers over it.
const BAR: f64 = 44.0;
const OVER: f64 = 34.0;
/// Height of a cni's name, and free space under it all.
const NAME: f64 = 44.0;
const GAP: f64 = 26.0;
/// Least distance between the middles of two numbers over a bar.
const NUMBERS: f64 = 34.0;
/// A cni that takes so many times what the next one takes is drawn on a scale of its own, so that the
/// stages of the others are more than slivers.
const OWN_SCALE_FROM: f64 = 2.0;

/// The waterfall of a row; none without a probed round trip.
pub(crate) fn waterfall(book: &Book<'_>, theme: &Theme, row: usize) -> Option<Scene> {
    let accounts = stages::accounts(book, row);
    if accounts.is_empty() {
        return None;
    }
    let series = &book.rows[row];
    let title = format!("{}: where the time goes", series.title());
    let mut scene = Scene::new(format!("stages-{}", series.slug()), title);
    let top = frame::heading(&mut scene, "shorter is better");
    let mut y = legend(&mut scene, &accounts, top) + 20.0;

    let means: Vec<f64> = accounts.iter().map(|a| a.mean_ns).collect();
    let scale = Scale::of(Metric::LatencyMean, book.clock(), &means);
    let ways = text::width("response", Size::Small, Weight::Regular) + 20.0;
    let (left, right) = (MARGIN + ways, WIDTH - MARGIN - 8.0);
    let longest = common_length(&accounts);
    let axis = Axis::from_zero(&[longest], left, right);
    let names = frame::names_width(book, 620.0);
    // Known before anything is drawn, so that the grid lies under the bars.
    let notes: Vec<Vec<String>> = accounts.iter().map(|a| note(book, a, &accounts)).collect();
    let height = |lines: &Vec<String>| {
        NAME + lines.len() as f64 * Size::Small.line() + 2.0 * (OVER + BAR) + GAP
    };
    let bottom = y + notes.iter().map(height).sum::<f64>();
    let ticks = axis.ticks(8);
    let decimals = tick_decimals(&ticks, scale.divisor);
    let labelled: Vec<(f64, String)> =
        ticks.iter().map(|t| (axis.at(*t), number(t / scale.divisor, decimals))).collect();
    let unit = format!("mean of a round trip in {}", scale.unit);
    let end = frame::bottom_axis(&mut scene, &labelled, (left, right), (y, bottom), &unit);

    let small = |anchor| (Size::Small, Weight::Regular, anchor);
    for (account, lines) in accounts.iter().zip(&notes) {
        let column = &book.columns[account.column];
        let middle = y + NAME / 2.0;
        let fact = fact(account, &scale, longest);
        ground(&mut scene, &fact, (MARGIN, y), lines.len());
        frame::name(&mut scene, theme, account.column, column, (MARGIN, middle), names);
        let at = (WIDTH - MARGIN, middle + 10.0);
        scene.text(at, &fact, (Size::Body, Weight::SemiBold, Anchor::End), Paint::Ink);
        let mut baseline = y + NAME + Size::Small.line() - 12.0;
        for line in lines {
            scene.text((MARGIN + 38.0, baseline), line, small(Anchor::Start), Paint::Ink);
            baseline += Size::Small.line();
        }
        let first = y + NAME + lines.len() as f64 * Size::Small.line();
        let factor = shrink(account, longest);
        let place = |ns: f64| axis.at(ns / factor);
        let mut from = 0.0;
        for (number, direction) in Direction::ALL.iter().enumerate() {
            let bar = first + OVER + number as f64 * (OVER + BAR);
            let at = (left - 16.0, bar + BAR / 2.0 + 9.0);
            scene.text(at, direction.name(), small(Anchor::End), Paint::Muted);
            let parts = account.parts.iter().filter(|p| p.direction == *direction);
            from = segments(&mut scene, place, parts, from, bar);
        }
        let bar = first + 2.0 * OVER + BAR;
        rest(&mut scene, (place(from), place(account.mean_ns)), bar);
        // The round trip itself: where the bars end, and in an overlap before that.
        let x = place(account.mean_ns);
        scene.line((x, bar - 8.0), (x, bar + BAR + 8.0), 5.0, Paint::Ink);
        y += height(lines);
    }
    scene.description = describe(book, &accounts, &scale);
    frame::caption(&mut scene, end, &caption(book, &accounts, &scale, longest));
    Some(scene)
}

/// Keeps the grid out of a cni's texts.
fn ground(scene: &mut Scene, fact: &str, at: At, lines: usize) {
    let width = text::width(fact, Size::Body, Weight::SemiBold) + 12.0;
    scene.rect((WIDTH - MARGIN - width, at.1), (width, NAME), Paint::Card);
    let lines = lines as f64 * Size::Small.line();
    let whole = if lines > 0.0 { WIDTH - 2.0 * MARGIN } else { 0.0 };
    scene.rect((at.0, at.1 + NAME - 4.0), (whole, lines), Paint::Card);
    scene.rect(at, (WIDTH * 0.45, NAME), Paint::Card);
}

/// What is as long as the axis: the longest, unless it leaves the next one far behind.
fn common_length(accounts: &[Account<'_>]) -> f64 {
    let mut lengths: Vec<f64> = accounts.iter().map(length).collect();
    lengths.sort_by(f64::total_cmp);
    match lengths.as_slice() {
        [.., second, longest] if *longest > second * OWN_SCALE_FROM => *second,
        [.., longest] => *longest,
        [] => 0.0,
    }
}

fn length(account: &Account<'_>) -> f64 {
    account.mean_ns.max(account.attributed())
}

/// By how much a cni is drawn smaller than the axis says; 1 for all but the one far behind.
fn shrink(account: &Account<'_>, longest: f64) -> f64 {
    (length(account) / longest).max(1.0)
}

/// What differs from the baseline, in lines.
fn note(book: &Book<'_>, account: &Account<'_>, all: &[Account<'_>]) -> Vec<String> {
    let note = stages::short(book, account, all).unwrap_or_default();
    let room = WIDTH - 2.0 * MARGIN - 38.0;
    let lines = text::wrap(&note, Size::Small, Weight::Regular, room);
    lines.into_iter().filter(|l| !l.is_empty()).collect()
}

fn paint(stage: Stage) -> Paint {
    Paint::Stage(stages::place(stage) - 1)
}

fn ink(stage: Stage) -> Paint {
    Paint::StageInk(stages::place(stage) - 1)
}

/// The stages that any cni has, numbered, and what the hatch means; returns where content begins.
fn legend(scene: &mut Scene, accounts: &[Account<'_>], top: f64) -> f64 {
    let there: BTreeSet<Stage> = accounts.iter().flat_map(|a| &a.parts).map(|p| p.stage).collect();
    let (mut x, mut y) = (MARGIN, top + 30.0);
    let style = (Size::Small, Weight::Regular);
    let box_size = (46.0, 34.0);
    let rest = accounts.iter().any(|a| a.unattributed() > 0.0).then_some(Stage::Unattributed);
    for stage in there.into_iter().chain(rest) {
        let width = box_size.0 + 10.0 + text::width(stage.name(), style.0, style.1);
        if x + width > WIDTH - MARGIN {
            (x, y) = (MARGIN, y + 46.0);
        }
        let at = (x, y - 26.0);
        match stage {
            Stage::Unattributed => hatched(scene, at, box_size),
            stage => {
                scene.rect(at, box_size, paint(stage));
                let label = stages::place(stage).to_string();
                let middle = (at.0 + box_size.0 / 2.0, y);
                scene.text(middle, &label, (style.0, Weight::SemiBold, Anchor::Middle), ink(stage));
            }
        }
        let at = (x + box_size.0 + 10.0, y);
        scene.text(at, stage.name(), (style.0, style.1, Anchor::Start), Paint::Ink);
        x += width + 30.0;
    }
    y + 16.0
}

fn hatched(scene: &mut Scene, at: At, size: At) {
    scene.rect(at, size, Paint::Band);
    scene.hatch(at, size, Paint::Muted);
    scene.items.push(Item::Frame { at, size, paint: Paint::Muted, width: 2.0 });
}

/// The stages of one direction from `from` on, each with its number in it or over it; returns where
/// they end.
fn segments<'p>(
    scene: &mut Scene,
    x: impl Fn(f64) -> f64,
    parts: impl Iterator<Item = &'p Part>,
    from: f64,
    top: f64,
) -> f64 {
    let mut from = from;
    let mut small: Vec<(Stage, f64)> = Vec::new();
    let style = (Size::Small, Weight::SemiBold, Anchor::Middle);
    let begin = x(from);
    for part in parts {
        let (a, b) = (x(from), x(from + part.ns));
        scene.rect((a, top), (b - a, BAR), paint(part.stage));
        // A seam, so that two stages never run together in grey.
        if b - a > 4.0 && a > begin {
            scene.line((a, top), (a, top + BAR), 2.0, Paint::Card);
        }
        let label = stages::place(part.stage).to_string();
        let middle = f64::midpoint(a, b);
        if b - a >= text::width(&label, style.0, style.1) + 8.0 {
            scene.text((middle, top + BAR / 2.0 + 10.0), &label, style, ink(part.stage));
        } else {
            small.push((part.stage, middle));
        }
        from += part.ns;
    }
    let wanted: Vec<f64> = small.iter().map(|(_, x)| *x).collect();
    let room = (x(0.0) + 10.0, WIDTH - MARGIN - 12.0);
    let places = spread(&wanted, NUMBERS, room.0, room.1);
    for ((stage, x), place) in small.iter().zip(places) {
        let label = stages::place(*stage).to_string();
        if (x - place).abs() > 3.0 {
            scene.line((*x, top - 1.0), (place, top - 8.0), 1.5, Paint::Muted);
        }
        scene.text(
            (place, top - 11.0),
            &label,
            (Size::Small, Weight::Regular, style.2),
            Paint::Ink,
        );
    }
    from
}

/// What no stage has.
fn rest(scene: &mut Scene, (from, to): (f64, f64), top: f64) {
    if to > from {
        hatched(scene, (from, top), (to - from, BAR));
    }
}

fn fact(account: &Account<'_>, scale: &Scale, longest: f64) -> String {
    let share = format!("{} % accounted", number(account.accounted() * 100.0, 0));
    let overlaps = if account.overlaps() { ": overlaps" } else { "" };
    let own = match shrink(account, longest) {
        1.0 => String::new(),
        factor => format!(", drawn {} times smaller", number(factor, 1)),
    };
    format!("{}, {share}{overlaps}{own}", scale.text(account.mean_ns))
}

fn describe(book: &Book<'_>, accounts: &[Account<'_>], scale: &Scale) -> String {
    let of = |a: &Account<'_>| {
        let parts: Vec<String> = a
            .parts
            .iter()
            .map(|p| format!("{} {} {}", p.direction, p.stage, scale.number(p.ns)))
            .collect();
        format!(
            "{}: {}, unattributed {}, round trip {}.",
            book.columns[a.column].label,
            parts.join(", "),
            scale.number(a.unattributed()),
            scale.number(a.mean_ns)
        )
    };
    let all: Vec<String> = accounts.iter().map(of).collect();
    format!("In {}: {}", scale.unit, all.join(" "))
}

/// "4 probed trials of each cni, 384,000 transactions".
fn source(book: &Book<'_>, accounts: &[Account<'_>]) -> String {
    let counts: BTreeSet<usize> = accounts.iter().map(|a| a.trials.len()).collect();
    let trials = match (counts.first(), counts.last()) {
        (Some(low), Some(high)) if low != high => format!("{low} to {high} probed trials"),
        (Some(n), _) => counted(*n as u64, "probed trial"),
        _ => "no probed trial".to_owned(),
    };
    let transactions = accounts.iter().map(|a| a.transactions).sum();
    format!(
        "{trials} of each cni, {} in all · {}",
        counted(transactions, "transaction"),
        frame::hosts(book)
    )
}

fn caption(book: &Book<'_>, accounts: &[Account<'_>], scale: &Scale, longest: f64) -> String {
    let own = match accounts.iter().any(|a| shrink(a, longest) > 1.0) {
        true => " · drawn smaller: on a scale of its own, not that of the axis",
        false => "",
    };
    let overlap = match accounts.iter().any(Account::overlaps) {
        true => {
            " · overlaps: the stages add up to more than the round trip, some time is counted twice"
        }
        false => "",
    };
    format!(
        "length: mean time of each stage in a round trip, in {} · the response begins where the request ends; hatched: what no stage has; upright line: the mean round trip that the generator saw in the same trials{own}{overlap} · means add up, quantiles do not · from trials with probes, not from measured ones · {}",
        scale.unit,
        source(book, accounts),
    )
}

/// Percentiles of one stage over all its passages, in both directions; none where no cni has enough.
pub(crate) fn distribution(
    book: &Book<'_>,
    theme: &Theme,
    row: usize,
    stage: Stage,
) -> Option<Scene> {
    let accounts = stages::accounts(book, row);
    let curves: Vec<(usize, Curve)> = accounts
        .iter()
        .filter_map(|a| Some((a.column, stats::curve(&a.passages(stage)?.histogram))))
        .filter(|(_, curve)| !curve.points.is_empty())
        .collect();
    let series = &book.rows[row];
    let title =
        format!("{}: percentiles of stage {} {stage}", series.title(), stages::place(stage));
    let scene = Scene::new(format!("stage-{}-{stage}", series.slug()), title);
    let samples = curves.iter().map(|(_, c)| c.samples).sum();
    percentiles::plot(book, theme, scene, &curves, |unit| {
        format!(
            "time of one passage through {stage} in {unit}, logarithmic · request and response together, {} passages in all · percentiles of stages do not add up to one of the round trip · a line ends where fewer than 10 lie beyond it · {}",
            thousands(samples),
            source(book, &accounts),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Builder, probed};
    use cnibench_model::Record;

    fn drawn(record: Record) -> Option<Scene> {
        let records = [record];
        let book = Book::new(&records);
        waterfall(&book, &Theme::new(&book), 0)
    }

    /// Left and right end of every rectangle of a paint, in the order of drawing.
    fn bars(scene: &Scene, wanted: impl Fn(Paint) -> bool) -> Vec<(f64, f64)> {
        let bar = |item: &Item| match item {
            Item::Rect { at, size, paint } if size.1 == BAR && wanted(*paint) => {
                Some((at.0, at.0 + size.0))
            }
            _ => None,
        };
        scene.items.iter().filter_map(bar).collect()
    }

    #[test]
    fn bars_follow_each_other_without_a_gap_and_end_at_the_round_trip() {
        let scene = drawn(probed()).unwrap();
        assert_eq!(scene.name, "stages-tcp_rr-cross-node");
        let stages = bars(&scene, |p| matches!(p, Paint::Stage(_)));
        let rest = bars(&scene, |p| p == Paint::Band);
        assert_eq!(rest.len(), 6);
        let zero = stages[0].0;
        let starts = stages.iter().filter(|b| (b.0 - zero).abs() < 1e-6).count();
        assert_eq!(starts, 6, "one request for each cni starts at zero");
        for pair in stages.windows(2).filter(|p| (p[1].0 - zero).abs() > 1e-6) {
            assert!((pair[0].1 - pair[1].0).abs() < 1e-6, "{pair:?}");
        }
        for (from, to) in rest {
            assert!(stages.iter().any(|b| (b.1 - from).abs() < 1e-6));
            let line = scene.items.iter().any(|i| {
                matches!(i, Item::Path { points, paint: Paint::Ink, .. } if (points[0].0 - to).abs() < 1e-6)
            });
            assert!(line, "the round trip is marked at {to}");
        }
        let factor = "drawn 2.4 times smaller";
        let said = |i: &Item| matches!(i, Item::Text { text, .. } if text.contains(factor));
        assert_eq!(scene.items.iter().filter(|i| said(i)).count(), 1);
        for text in ["means add up, quantiles do not", "4 probed trials of each cni, 384,000"] {
            assert!(scene.description.contains(text), "{}", scene.description);
        }
    }

    #[test]
    fn every_stage_of_a_bar_has_its_number_once() {
        let scene = drawn(probed()).unwrap();
        let texts = scene.texts();
        let count = |n: &str| texts.iter().filter(|t| **t == n).count();
        // In the legend, and in both directions of the cnis that have it.
        assert_eq!((count("1"), count("7"), count("11")), (13, 7, 13));
    }

    #[test]
    fn an_overlap_is_said_and_a_record_without_probes_has_no_figure() {
        let mut record = probed();
        for trial in &mut record.probed {
            trial.result.round_trip.mean_ns *= 0.8;
        }
        let scene = drawn(record).unwrap();
        assert!(bars(&scene, |p| p == Paint::Band).is_empty());
        assert!(scene.description.contains("some time is counted twice"));
        assert!(drawn(Builder::default().build()).is_none());
    }

    #[test]
    fn a_stage_has_its_distribution_for_the_cnis_that_pass_it() {
        let records = [probed()];
        let book = Book::new(&records);
        let theme = Theme::new(&book);
        let scene = distribution(&book, &theme, 0, Stage::Encapsulation).unwrap();
        assert_eq!(scene.name, "stage-tcp_rr-cross-node-encapsulation");
        assert!(scene.description.contains("flannel-vxlan: p50"), "{}", scene.description);
        assert!(!scene.description.contains("host: p50"));
        assert!(scene.description.contains("384,000 passages"), "{}", scene.description);
    }
}

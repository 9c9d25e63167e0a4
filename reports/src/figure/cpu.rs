//! What a transaction or a Gbit costs in CPU time, by where it is spent.
//!
//! Owns counting: two ends on one machine are one bar, since both read the same /proc/stat.

use super::{
    axis::{Axis, tick_decimals},
    frame,
    scene::{Anchor, MARGIN, Scene, Size, WIDTH, Weight},
    text,
    theme::{PARTS, Paint, Theme},
};
use crate::{
    book::{Book, Entry},
    units::{Scale, number},
};
use cnibench_model::{Metric, NodeCpu, Pinning, Trial};

/// A CPU is full from this busy share on.
const FULL: f64 = 0.95;
const PART_NAMES: [&str; PARTS] = ["user", "system", "softirq", "irq", "kernel threads"];
const BAR: f64 = 46.0;

/// Whose CPU time a bar shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The one machine on which both ends ran.
    Whole,
    Client,
    Server,
}

/// One bar.
#[derive(Debug, Clone, PartialEq)]
struct Bar {
    column: usize,
    side: Side,
    /// Mean over trials of each part, CPU-seconds for a unit of work.
    parts: [f64; PARTS],
    /// Trials in which a CPU was full, and all.
    full: (usize, usize),
}

impl Bar {
    fn total(&self) -> f64 {
        self.parts.iter().sum()
    }
}

fn metric_of(book: &Book<'_>, row: usize) -> Metric {
    match book.rows[row].workload.is_transactional() {
        true => Metric::CpuPerTransaction,
        false => Metric::CpuPerGigabit,
    }
}

/// Units of work a second: transactions, or Gbit.
fn work_rate(trial: &Trial) -> Option<f64> {
    let rate = match trial.workload.is_transactional() {
        true => trial.value(Metric::TransactionRate)?,
        false => trial.value(Metric::Throughput)? / 1e9,
    };
    (rate.is_finite() && rate > 0.0).then_some(rate)
}

fn one_machine(trial: &Trial) -> bool {
    trial.client.node.machine == trial.server.node.machine
}

fn parts(node: &NodeCpu, rate: f64) -> Option<[f64; PARTS]> {
    let t = &node.time;
    let parts = [t.user_s, t.system_s, t.softirq_s, t.irq_s, t.kthread_s];
    let parts = parts.map(|s| s / node.window_s / rate);
    parts.iter().all(|p| p.is_finite() && *p >= 0.0).then_some(parts)
}

fn bar(entry: &Entry<'_>, column: usize, side: Side) -> Option<Bar> {
    let mut sum = [0.0; PARTS];
    let (mut full, mut n) = (0, 0);
    for trial in entry.shown() {
        let fits = match side {
            Side::Whole => one_machine(trial),
            Side::Client | Side::Server => !one_machine(trial),
        };
        let node = if side == Side::Server { &trial.server.node } else { &trial.client.node };
        let Some(parts) = work_rate(trial).filter(|_| fits).and_then(|r| parts(node, r)) else {
            continue;
        };
        sum.iter_mut().zip(parts).for_each(|(s, p)| *s += p);
        n += 1;
        full += usize::from(node.busy.values().any(|b| *b >= FULL));
    }
    (n > 0).then(|| Bar { column, side, parts: sum.map(|s| s / n as f64), full: (full, n) })
}

/// The CPU figure of a row; none when no trial has both CPU time and work.
pub(crate) fn cpu(book: &Book<'_>, theme: &Theme, row: usize) -> Option<Scene> {
    let bars: Vec<Bar> = (0..book.columns.len())
        .filter_map(|c| Some((c, book.entry(row, c)?)))
        .flat_map(|(c, e)| [Side::Whole, Side::Client, Side::Server].map(|s| bar(e, c, s)))
        .flatten()
        .filter(|b| b.total() > 0.0)
        .collect();
    if bars.is_empty() {
        return None;
    }
    let metric = metric_of(book, row);
    let series = &book.rows[row];
    let title = format!("{}: {}", series.title(), metric.label());
    let mut scene = Scene::new(format!("cpu-{}", series.slug()), title);
    let mut top = frame::heading(&mut scene, "shorter is better");
    top = legend(&mut scene, top) + 12.0;

    let totals: Vec<f64> = bars.iter().map(Bar::total).collect();
    let scale = Scale::of(metric, book.clock(), &totals, &[]);
    let facts: Vec<(String, String)> = bars.iter().map(|b| fact(b, &scale)).collect();
    let fact_width = facts.iter().map(|(a, b)| {
        text::width(a, Size::Body, Weight::SemiBold).max(text::width(
            b,
            Size::Small,
            Weight::Regular,
        ))
    });
    let fact_width = fact_width.fold(0.0, f64::max);
    let names = frame::names_width(book, 480.0);
    let (left, right) = (MARGIN + names + 28.0, WIDTH - MARGIN - fact_width - 36.0);
    let height = if bars.len() > 8 { 72.0 } else { 84.0 };
    let bottom = top + height * bars.len() as f64;
    let axis = Axis::from_zero(&totals, left, right);
    let ticks = axis.ticks(5);
    let decimals = tick_decimals(&ticks, scale.divisor);
    let labelled: Vec<(f64, String)> =
        ticks.iter().map(|t| (axis.at(*t), number(t / scale.divisor, decimals))).collect();
    let end = frame::bottom_axis(&mut scene, &labelled, (left, right), (top, bottom), &scale.unit);

    for (place, bar) in bars.iter().enumerate() {
        let middle = top + height * (place as f64 + 0.5);
        let first = place == 0 || bars[place - 1].column != bar.column;
        if first {
            let column = &book.columns[bar.column];
            frame::name(&mut scene, theme, bar.column, column, (MARGIN, middle), names);
        }
        draw(&mut scene, bar, &axis, middle);
        let (value, note) = &facts[place];
        let style = (Size::Body, Weight::SemiBold, Anchor::End);
        let y = if note.is_empty() { middle + 10.0 } else { middle - 6.0 };
        scene.text((WIDTH - MARGIN, y), value, style, Paint::Ink);
        let style = (Size::Small, Weight::Regular, Anchor::End);
        scene.text((WIDTH - MARGIN, middle + 26.0), note, style, Paint::Ink);
    }
    scene.description = bars
        .iter()
        .zip(&facts)
        .map(|(b, (value, note))| format!("{}: {value} {note}.", book.columns[b.column].label))
        .collect::<Vec<_>>()
        .join(" ");
    frame::caption(&mut scene, end, &caption(book, row, &bars, &scale));
    Some(scene)
}

fn draw(scene: &mut Scene, bar: &Bar, axis: &Axis, middle: f64) {
    let mut sum = 0.0;
    let top = middle - BAR / 2.0;
    let start = axis.at(0.0);
    for (i, part) in bar.parts.iter().enumerate() {
        let (from, to) = (axis.at(sum), axis.at(sum + part));
        sum += part;
        scene.rect((from, top), (to - from, BAR), Paint::Part(i));
        // A seam, so that neighbours are told apart in print.
        let before =
            if i == 0 { 0.0 } else { axis.at(sum - part) - axis.at(sum - part - bar.parts[i - 1]) };
        if before > 8.0 && to - from > 8.0 {
            scene.line((from, top), (from, top + BAR), 3.0, Paint::Card);
        }
    }
    if bar.full.0 * 2 >= bar.full.1 {
        scene.hatch((start, top), (axis.at(sum) - start, BAR), Paint::Card);
        let size = (axis.at(sum) - start, BAR);
        scene.items.push(super::scene::Item::Frame {
            at: (start, top),
            size,
            paint: Paint::Ink,
            width: 3.0,
        });
    }
}

fn fact(bar: &Bar, scale: &Scale) -> (String, String) {
    let value = format!("{} {}", scale.number(bar.total()), scale.unit);
    let side = match bar.side {
        Side::Whole => "",
        Side::Client => "client's machine",
        Side::Server => "server's machine",
    };
    let full = match bar.full {
        (0, _) => String::new(),
        (full, n) => format!("a core full in {full} of {n}"),
    };
    let comma = if side.is_empty() || full.is_empty() { "" } else { ", " };
    (value, format!("{side}{comma}{full}"))
}

fn legend(scene: &mut Scene, top: f64) -> f64 {
    let mut x = MARGIN;
    let y = top + 24.0;
    for (i, name) in PART_NAMES.iter().enumerate() {
        scene.rect((x, y - 20.0), (34.0, 24.0), Paint::Part(i));
        scene.text((x + 44.0, y), name, (Size::Small, Weight::Regular, Anchor::Start), Paint::Ink);
        x += 44.0 + text::width(name, Size::Small, Weight::Regular) + 36.0;
    }
    scene.rect((x, y - 20.0), (34.0, 24.0), Paint::Muted);
    scene.hatch((x, y - 20.0), (34.0, 24.0), Paint::Card);
    let style = (Size::Small, Weight::Regular, Anchor::Start);
    scene.text((x + 44.0, y), "hatched: a core was full", style, Paint::Ink);
    y + 16.0
}

fn caption(book: &Book<'_>, row: usize, bars: &[Bar], scale: &Scale) -> String {
    let whose = if bars.iter().all(|b| b.side == Side::Whole) {
        "both ends on one machine, counted once: the whole machine's CPU time, generator included"
    } else {
        "the whole CPU time of each end's machine, generator included"
    };
    let pinned = book.rows[row].params.pinning == Pinning::Same;
    let same = if pinned && book.rows[row].workload.is_transactional() {
        " · both threads share one CPU by design, so that core being full says nothing here"
    } else {
        ""
    };
    format!(
        "{} from /proc/stat, mean of the trials · {whose} · full: a core busy 95 % or more{same} · {}",
        scale.unit,
        frame::source(book, row),
    )
}

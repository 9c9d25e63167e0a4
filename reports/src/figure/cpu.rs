//! What a transaction or a Gbit costs in CPU time, by where it is spent.
//!
//! A bar is as long as the median of the trials' own CPU metric, so that it says what samples.csv
//! says; /proc/stat only divides it into parts. Two ends on one machine are one bar, since both read
//! the same /proc/stat.

use super::{
    axis::{Axis, tick_decimals},
    frame,
    scene::{Anchor, Item, MARGIN, Scene, Size, WIDTH, Weight},
    text,
    theme::{PARTS, Paint, Theme},
};
use crate::{
    book::{Book, Entry},
    stats::{self, Centre},
    units::{Scale, number},
};
use cnibench_model::{EndpointResult, Metric, Pinning, Trial};
use std::collections::BTreeMap;

/// A CPU is full from this busy share on.
const FULL: f64 = 0.95;
const PART_NAMES: [&str; PARTS] = ["user", "system", "softirq", "irq", "kernel threads"];
const BAR: f64 = 46.0;
/// A cni that costs so many times what the next one costs is drawn broken, so that the others are
/// more than slivers.
const BREAK_FROM: f64 = 5.0;
/// Where the axis then ends, in times of the second largest.
const BREAK_AT: f64 = 1.3;
/// The flow option with which a paced generator tells the time that it spun away waiting, in ns. It
/// is not in the CPU metric and must not be in the parts.
const SPUN_NS: &str = "spun_ns";

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
    /// Over trials, CPU-seconds for a unit of work.
    total: Centre,
    /// Mean over trials of each part's share of the whole; they add up to 1.
    shares: [f64; PARTS],
    /// Trials in which a CPU was full, and all.
    full: (usize, usize),
}

fn metric_of(book: &Book<'_>, row: usize) -> Metric {
    match book.rows[row].workload.is_transactional() {
        true => Metric::CpuPerTransaction,
        false => Metric::CpuPerGigabit,
    }
}

/// True where a full core says nothing: both threads share one by design.
fn full_by_design(book: &Book<'_>, row: usize) -> bool {
    let row = &book.rows[row];
    row.params.pinning == Pinning::Same && row.workload.is_transactional()
}

fn one_machine(trial: &Trial) -> bool {
    trial.client.node.machine == trial.server.node.machine
}

/// What one end's generator spun away, in seconds.
fn spun(end: &EndpointResult) -> f64 {
    let spun = end.flows.iter().filter_map(|f| f.options.get(SPUN_NS)?.parse::<f64>().ok());
    spun.sum::<f64>() / 1e9
}

/// CPU-seconds a second of each part of one end's machine, without the `spun` seconds.
fn parts(end: &EndpointResult, spun: f64) -> Option<[f64; PARTS]> {
    let t = &end.node.time;
    let parts = [(t.user_s - spun).max(0.0), t.system_s, t.softirq_s, t.irq_s, t.kthread_s];
    let parts = parts.map(|s| s / end.node.window_s);
    parts.iter().all(|p| p.is_finite() && *p >= 0.0).then_some(parts)
}

/// A side's part of a trial's CPU metric, and how it divides.
fn side_of(trial: &Trial, metric: Metric, side: Side) -> Option<(f64, [f64; PARTS])> {
    let value = trial.value(metric).filter(|v| v.is_finite() && *v >= 0.0)?;
    let mut spins = [spun(&trial.client), spun(&trial.server)];
    if one_machine(trial) {
        // Each end's reading has what either of them spun.
        spins = [spins[0] + spins[1]; 2];
    }
    let (client, server) = (parts(&trial.client, spins[0])?, parts(&trial.server, spins[1])?);
    let sum = |parts: &[f64; PARTS]| parts.iter().sum::<f64>();
    let both = sum(&client) + sum(&server);
    let (own, share) = match (side, one_machine(trial)) {
        // Both ends read one machine's time over almost the same window.
        (Side::Whole, true) => (std::array::from_fn(|i| client[i] + server[i]), 1.0),
        (Side::Client, false) => (client, sum(&client) / both),
        (Side::Server, false) => (server, sum(&server) / both),
        _ => return None,
    };
    let all = sum(&own);
    (all > 0.0).then(|| (value * share, own.map(|part| part / all)))
}

fn bar(entry: &Entry<'_>, metric: Metric, column: usize, side: Side) -> Option<Bar> {
    let mut totals = Vec::new();
    let mut sum = [0.0; PARTS];
    let mut full = 0;
    for (position, trial) in entry.shown().iter().enumerate() {
        let Some((value, shares)) = side_of(trial, metric, side) else { continue };
        totals.push((position, value));
        sum.iter_mut().zip(shares).for_each(|(s, p)| *s += p);
        let end = if side == Side::Server { &trial.server } else { &trial.client };
        full += usize::from(end.node.busy.values().any(|b| *b >= FULL));
    }
    let n = totals.len();
    let observed: Vec<f64> = entry.observations(totals).iter().map(|p| p.value).collect();
    let total = stats::centre(&observed)?;
    Some(Bar { column, side, total, shares: sum.map(|s| s / n as f64), full: (full, n) })
}

/// Where the axis ends when one cni's cost leaves the others far behind.
fn break_at(bars: &[Bar]) -> Option<f64> {
    let mut of_column: BTreeMap<usize, f64> = BTreeMap::new();
    for bar in bars {
        let most = of_column.entry(bar.column).or_default();
        *most = most.max(bar.total.median);
    }
    let mut most: Vec<f64> = of_column.into_values().collect();
    most.sort_by(f64::total_cmp);
    let [.., second, largest] = most.as_slice() else { return None };
    (*second > 0.0 && *largest > second * BREAK_FROM).then_some(second * BREAK_AT)
}

/// The CPU figure of a row; none when no trial has both CPU time and work.
pub(crate) fn cpu(book: &Book<'_>, theme: &Theme, row: usize) -> Option<Scene> {
    let metric = metric_of(book, row);
    let bars: Vec<Bar> = (0..book.columns.len())
        .filter_map(|c| Some((c, book.entry(row, c)?)))
        .flat_map(|(c, e)| [Side::Whole, Side::Client, Side::Server].map(|s| bar(e, metric, c, s)))
        .flatten()
        .filter(|b| b.total.median > 0.0)
        .collect();
    if bars.is_empty() {
        return None;
    }
    let by_design = full_by_design(book, row);
    let hatched = |bar: &Bar| !by_design && bar.full.0 * 2 >= bar.full.1;
    let series = &book.rows[row];
    let title = format!("{}: {}", series.title(), metric.label());
    let mut scene = Scene::new(format!("cpu-{}", series.slug()), title);
    let mut top = frame::heading(&mut scene, "shorter is better");
    top = legend(&mut scene, top, bars.iter().any(hatched)) + 12.0;

    let end_of_axis = break_at(&bars);
    let broken = |bar: &Bar| end_of_axis.is_some_and(|end| bar.total.median > end);
    let medians: Vec<f64> = bars.iter().map(|b| b.total.median).collect();
    let whole: Vec<f64> = bars.iter().filter(|b| !broken(b)).map(|b| b.total.median).collect();
    let scale = Scale::of(metric, book.clock(), if whole.is_empty() { &medians } else { &whole });
    let facts: Vec<(String, String)> = bars.iter().map(|b| fact(b, &scale, by_design)).collect();
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
    let largest = medians.iter().copied().fold(0.0, f64::max);
    let axis = match end_of_axis {
        Some(end) => Axis::to(end, left, right),
        None => {
            // An interval of few trials can be far wider than the data: it ends in an arrow then.
            let ends = bars.iter().filter_map(|b| Some(b.total.interval?.high.min(largest * 1.5)));
            Axis::from_zero(&ends.chain([largest]).collect::<Vec<_>>(), left, right)
        }
    };
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
        let length = axis.at(bar.total.median) - axis.at(0.0);
        draw(&mut scene, bar, (axis.at(0.0), length), middle, hatched(bar));
        match broken(bar) {
            true => cut(&mut scene, right, middle),
            false => frame::interval(&mut scene, &axis, &bar.total, middle),
        }
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
        .map(|(b, (value, note))| {
            let comma = if note.is_empty() { "" } else { ", " };
            let parts: Vec<String> = PART_NAMES
                .iter()
                .zip(b.shares)
                .map(|(name, share)| format!("{} % {name}", number(share * 100.0, 0)))
                .collect();
            let label = &book.columns[b.column].label;
            format!("{label}: {value} {}{comma}{note} ({}).", scale.unit, parts.join(", "))
        })
        .collect::<Vec<_>>()
        .join(" ");
    let broken = bars.iter().any(broken);
    frame::caption(&mut scene, end, &caption(book, row, &bars, &scale, broken));
    Some(scene)
}

/// A bar of `length` from `start`, divided by its shares.
fn draw(scene: &mut Scene, bar: &Bar, (start, length): (f64, f64), middle: f64, hatched: bool) {
    let top = middle - BAR / 2.0;
    let mut from = start;
    let mut before = 0.0;
    for (i, share) in bar.shares.iter().enumerate() {
        let width = length * share;
        scene.rect((from, top), (width, BAR), Paint::Part(i));
        // A seam, so that neighbours are told apart in print.
        if before > 8.0 && width > 8.0 {
            scene.line((from, top), (from, top + BAR), 3.0, Paint::Card);
        }
        from += width;
        before = width;
    }
    if hatched {
        let (at, size) = ((start, top), (length, BAR));
        scene.hatch(at, size, Paint::Card);
        scene.items.push(Item::Frame { at, size, paint: Paint::Ink, width: 3.0 });
    }
}

/// Marks a bar that goes on beyond the end of the axis: two slanted gaps with an edge, and an arrow.
fn cut(scene: &mut Scene, right: f64, middle: f64) {
    let (half, slant) = (BAR / 2.0 + 8.0, 12.0);
    for x in [right - 74.0, right - 50.0] {
        let (from, to) = ((x - slant, middle + half), (x + slant, middle - half));
        scene.line(from, to, 14.0, Paint::Card);
        for edge in [-7.0, 7.0] {
            scene.line((from.0 + edge, from.1), (to.0 + edge, to.1), 2.5, Paint::Ink);
        }
    }
    let tip = right + 20.0;
    let head = vec![(tip - 14.0, middle - 12.0), (tip, middle), (tip - 14.0, middle + 12.0)];
    scene.path(head, 4.0, Paint::Ink);
}

/// The two lines at a bar's right: its length with the interval, and what to know of it.
fn fact(bar: &Bar, scale: &Scale, full_by_design: bool) -> (String, String) {
    let (value, interval) = scale.centre(&bar.total);
    let interval = interval.map_or_else(String::new, |i| format!(" ({i})"));
    let side = match bar.side {
        Side::Whole => "",
        Side::Client => "client's machine",
        Side::Server => "server's machine",
    };
    let full = match bar.full {
        (0, _) => String::new(),
        _ if full_by_design => String::new(),
        (full, n) => format!("a core full in {full} of {n}"),
    };
    let comma = if side.is_empty() || full.is_empty() { "" } else { ", " };
    (format!("{value}{interval}"), format!("{side}{comma}{full}"))
}

fn legend(scene: &mut Scene, top: f64, hatched: bool) -> f64 {
    let mut x = MARGIN;
    let y = top + 24.0;
    for (i, name) in PART_NAMES.iter().enumerate() {
        scene.rect((x, y - 20.0), (34.0, 24.0), Paint::Part(i));
        scene.text((x + 44.0, y), name, (Size::Small, Weight::Regular, Anchor::Start), Paint::Ink);
        x += 44.0 + text::width(name, Size::Small, Weight::Regular) + 36.0;
    }
    if hatched {
        scene.rect((x, y - 20.0), (34.0, 24.0), Paint::Muted);
        scene.hatch((x, y - 20.0), (34.0, 24.0), Paint::Card);
        let style = (Size::Small, Weight::Regular, Anchor::Start);
        scene.text((x + 44.0, y), "hatched: a core was full", style, Paint::Ink);
    }
    y + 16.0
}

fn caption(book: &Book<'_>, row: usize, bars: &[Bar], scale: &Scale, broken: bool) -> String {
    let whose = if bars.iter().all(|b| b.side == Side::Whole) {
        "both ends on one machine, counted once: the whole machine's CPU time, generator included"
    } else {
        "the whole CPU time of each end's machine, generator included"
    };
    let mut methods: Vec<&str> = bars.iter().map(|b| b.total.method.describe()).collect();
    methods.sort_unstable();
    methods.dedup();
    let full = match full_by_design(book, row) {
        true => "both threads share one CPU, which is full by design",
        false => "full: a core busy 95 % or more",
    };
    let broken = match broken {
        true => " · broken bar: goes on beyond the axis, its parts are shares of what is drawn",
        false => "",
    };
    let over = book.over_pairs(row).map_or("trials", |_| "node pairs");
    format!(
        "{} · length: median of the {over} · {} · parts: mean shares{broken} · {whose} · from /proc/stat in 10 ms ticks; other work of the machine counts · {full} · {}",
        scale.unit,
        methods.join("; "),
        frame::source(book, row),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixtures::{Builder, usual},
        matrix::from_book,
    };
    use cnibench_model::{Placement, Record, Sample, Workload};

    /// One series in which every trial of a cni has its own CPU cost.
    fn record(workload: Workload, costs: &[(&str, [f64; 5])], two_machines: bool) -> Record {
        let series = vec![(workload, Placement::CrossNode)];
        let paths = usual()[..costs.len()].to_vec();
        let mut record =
            Builder { paths, series, trials: 5, two_machines, ..Builder::default() }.build();
        for trial in &mut record.trials {
            let part = |cni: &&(&str, [f64; 5])| trial.case.0.contains(&format!("/{}/", cni.0));
            let value = costs.iter().find(part).unwrap().1[trial.index as usize];
            let metric = match workload.is_transactional() {
                true => Metric::CpuPerTransaction,
                false => Metric::CpuPerGigabit,
            };
            trial.samples.retain(|s| s.metric != metric);
            trial.samples.push(Sample { metric, value });
        }
        record
    }

    fn drawn(record: Record) -> Scene {
        let records = [record];
        let book = Book::new(&records);
        cpu(&book, &Theme::new(&book), 0).unwrap()
    }

    #[test]
    fn a_bar_is_the_median_of_the_samples_and_no_outlier_moves_it() {
        let scene = drawn(record(
            Workload::TcpStream,
            &[
                ("host", [0.020, 0.021, 0.022, 0.023, 0.9]),
                ("flannel-vxlan", [0.030, 0.031, 0.032, 0.033, 0.034]),
            ],
            false,
        ));
        let text = &scene.description;
        assert!(text.contains("host: 22 (6–361)"), "{text}");
        assert!(text.contains("flannel-vxlan: 32.0 (30.1–34.0) CPU ms/Gbit"), "{text}");
        assert!(text.contains("in 10 ms ticks; other work of the machine counts"), "{text}");
        assert!(!text.contains("broken"), "{text}");
        // Parts of the fixture's time, as shares of the whole.
        assert!(text.contains("% softirq"), "{text}");
    }

    #[test]
    fn a_trial_that_delivered_nothing_has_no_cost_and_is_not_in_the_median() {
        let mut record = record(
            Workload::TcpStream,
            &[("host", [0.02; 5]), ("flannel-vxlan", [0.03, 0.04, 0.05, 0.06, 0.07])],
            false,
        );
        for trial in &mut record.trials {
            if trial.index == 0 && trial.case.0.contains("/flannel-vxlan/") {
                trial.samples.retain(|s| s.metric != Metric::CpuPerGigabit);
                trial.samples.iter_mut().for_each(|s| s.value = 0.0);
            }
        }
        let text = drawn(record).description;
        assert!(text.contains("flannel-vxlan: 55 ("), "{text}");
    }

    #[test]
    fn two_machines_divide_the_metric_between_them() {
        let costs = [("host", [2e-5; 5]), ("flannel-vxlan", [4e-5; 5])];
        let text = drawn(record(Workload::TcpRr, &costs, true)).description;
        // The fixture's client is busy for 0.8 parts, its server for 1.1.
        assert!(text.contains("host: 8.42 (8.42) CPU µs/transaction, client's machine"), "{text}");
        assert!(text.contains("host: 11.6 (11.6) CPU µs/transaction, server's machine"), "{text}");
        assert!(text.contains("flannel-vxlan: 16.8 (16.8)"), "{text}");
    }

    #[test]
    fn what_a_paced_generator_spun_away_is_no_part() {
        let mut record = record(Workload::UdpRr, &[("host", [2e-5; 5])], false);
        for trial in &mut record.trials {
            trial.client.node.time.user_s += 0.25;
            trial.server.node.time.user_s += 0.25;
        }
        let with = drawn(record.clone()).description;
        for trial in &mut record.trials {
            trial.client.flows[0].options.insert(SPUN_NS.to_owned(), "250000000".to_owned());
        }
        let without = drawn(record).description;
        assert!(with.contains("(34 % user, 38 % system"), "{with}");
        assert!(without.contains("(6 % user, 54 % system"), "{without}");
    }

    #[test]
    fn one_far_behind_is_broken_and_the_others_keep_their_length() {
        let costs = [
            ("host", [0.02, 0.021, 0.022, 0.023, 0.024]),
            ("flannel-vxlan", [0.04, 0.041, 0.042, 0.043, 0.044]),
            ("flannel-host-gw", [3.0, 3.1, 3.2, 3.3, 3.4]),
        ];
        let scene = drawn(record(Workload::TcpStream, &costs, false));
        let text = &scene.description;
        assert!(text.contains("flannel-host-gw: 3200 (3006–3399) CPU ms/Gbit"), "{text}");
        assert!(text.contains("broken bar: goes on beyond the axis"), "{text}");
        let length = |top_part: usize| -> f64 {
            let of_bar = scene.items.iter().filter_map(|i| match i {
                Item::Rect { at, size, paint: Paint::Part(_) } if size.1 == BAR => {
                    Some((at.1, size.0))
                }
                _ => None,
            });
            let mut bars: BTreeMap<i64, f64> = BTreeMap::new();
            of_bar.for_each(|(y, width)| *bars.entry(y as i64).or_default() += width);
            bars.into_values().nth(top_part).unwrap()
        };
        assert!((length(0) / length(1) - 22.0 / 42.0).abs() < 1e-6);
        assert!((length(2) / length(1) - BREAK_AT).abs() < 1e-6);
    }

    #[test]
    fn the_figure_and_the_table_of_samples_order_cnis_alike() {
        let records = [Builder::default().build()];
        let book = Book::new(&records);
        let matrix = from_book(&book);
        for row in 0..matrix.rows.len() {
            let metric = metric_of(&book, row);
            for column in 0..book.columns.len() {
                let entry = book.entry(row, column).unwrap();
                let bar = bar(entry, metric, column, Side::Whole).unwrap();
                assert_eq!(Some(bar.total), stats::centre(&entry.values(metric)));
                assert!((bar.shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            }
        }
    }
}

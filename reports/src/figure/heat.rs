//! A heat map of one metric of one cni over pairs of nodes: rows are clients, columns are servers.
//!
//! Worse is darker. Few nodes have numbers in their cells; many become one embedded picture, so that
//! a thousand nodes are a drawing of a usual size.

use super::{
    frame,
    scene::{Anchor, At, Cells, Item, MARGIN, Scene, Size, WIDTH, Weight},
    text,
    theme::{HEATS, Paint},
};
use crate::{
    book::{Book, Entry, slug},
    pairs::Pairs,
    stats,
    units::{Scale, counted, number, thousands},
};
use cnibench_model::{Direction, Metric, NodePair};
use std::collections::BTreeMap;

/// Most nodes with numbers in their cells.
const NUMBERED: usize = 16;
/// Most nodes whose cells are shapes of their own.
const SHAPES: usize = 40;
/// Side of the largest map.
const SIDE: f64 = 1100.0;
/// So wide is a pair drawn at most where few of many were measured.
const DOT: f64 = 6.0;
/// Values nearer together than this are not stretched over the whole scale.
const SPAN: f64 = 1.2;
/// The scale reaches so many times above and below the median: one pair far out leaves steps for the
/// others.
const REACH: f64 = 2.0;

/// Steps of the values of one map.
struct Steps {
    /// Between step i and i + 1, from best to worst.
    edges: [f64; HEATS - 1],
    direction: Direction,
}

impl Steps {
    /// Even steps of the logarithm from the best value to the worst; none without a value above zero.
    fn of(values: &[f64], direction: Direction) -> Option<Self> {
        // The logarithm of how bad a value is.
        let sign = match direction {
            Direction::LowerIsBetter => 1.0,
            Direction::HigherIsBetter => -1.0,
        };
        let usable = values.iter().filter(|v| v.is_finite() && **v > 0.0);
        let bad: Vec<f64> = usable.map(|v| v.ln() * sign).collect();
        let middle = stats::median(&bad)?;
        let best = bad.iter().copied().fold(f64::INFINITY, f64::min).max(middle - REACH.ln());
        let worst = bad.iter().copied().fold(f64::NEG_INFINITY, f64::max).min(middle + REACH.ln());
        let missing = (SPAN.ln() - (worst - best)).max(0.0);
        let (from, to) = (best - missing / 2.0, worst + missing / 2.0);
        let step = (to - from) / HEATS as f64;
        let edge = |i: usize| (sign * (from + step * (i + 1) as f64)).exp();
        Some(Self { edges: std::array::from_fn(edge), direction })
    }

    /// From 1, the best.
    fn step(&self, value: f64) -> usize {
        let worse = |edge: &&f64| match self.direction {
            Direction::LowerIsBetter => value > **edge,
            Direction::HigherIsBetter => value < **edge,
        };
        1 + self.edges.iter().filter(worse).count()
    }
}

/// Where the cells stand.
#[derive(Clone, Copy)]
struct Grid {
    at: At,
    cell: At,
    nodes: usize,
}

impl Grid {
    fn size(&self) -> At {
        (self.cell.0 * self.nodes as f64, self.cell.1 * self.nodes as f64)
    }

    fn middle(&self, row: usize) -> f64 {
        self.at.1 + self.cell.1 * (row as f64 + 0.5)
    }
}

/// The map of one cell of the book; none where it has fewer than two pairs.
pub(crate) fn heat(book: &Book<'_>, row: usize, column: usize, metric: Metric) -> Option<Scene> {
    let entry = book.entry(row, column)?;
    let pairs = Pairs::of(entry, metric)?;
    let all: Vec<f64> = pairs.cells.values().copied().collect();
    let steps = Steps::of(&all, metric.direction())?;
    let scale = Scale::of(metric, book.clock(), &[pairs.median]);
    let series = &book.rows[row];
    let name = &book.columns[column].short;
    let file =
        format!("pairs-{}-{}-{}-{}", series.slug(), metric.name(), column + 1, slug(name, 34));
    let title = format!("{}: {} between nodes, {name}", series.title(), metric.label());
    let mut scene = Scene::new(file, title);
    let top = frame::heading(&mut scene, "darker is worse");
    let style = (Size::Small, Weight::Regular, Anchor::Start);
    let axes = "rows: the client's node · columns: the server's node, by the same numbers";
    scene.text((MARGIN, top + 14.0), axes, style, Paint::Muted);

    let grid = place(&pairs, top + 14.0 + Size::Small.line() * 2.0);
    names(&mut scene, &pairs, grid);
    // Under dots that are no wider than the strokes, a hatch would be noise.
    let hatched = pairs.nodes.len() <= SHAPES;
    empty(&mut scene, grid.at, grid.size(), hatched);
    let mut enlarged = None;
    match pairs.nodes.len() {
        0..=SHAPES => shapes(&mut scene, &pairs, grid, &steps, &scale),
        _ => enlarged = picture(&mut scene, &pairs, grid, &steps),
    }
    let outline = Item::Frame { at: grid.at, size: grid.size(), paint: Paint::Muted, width: 2.0 };
    scene.items.push(outline);

    let mut y = key(&mut scene, &steps, &scale, grid.at.1 + grid.size().1 + 34.0, hatched);
    let sentence = pairs.sentence(&scale);
    y += Size::Body.line();
    let style = (Size::Body, Weight::Regular);
    y = scene.paragraph((MARGIN, y), WIDTH - 2.0 * MARGIN, &sentence, style, Paint::Ink);
    scene.description = sentence;
    let caption = caption(book, row, &pairs, &scale, (entry, enlarged));
    frame::caption(&mut scene, y - Size::Body.line() * 0.65, &caption);
    Some(scene)
}

/// What a pair that was not measured looks like.
fn empty(scene: &mut Scene, at: At, size: At, hatched: bool) {
    scene.rect(at, size, Paint::Blank);
    if hatched {
        scene.hatch(at, size, Paint::BlankLine);
    }
}

fn place(pairs: &Pairs<'_>, top: f64) -> Grid {
    let nodes = pairs.nodes.len();
    let widest = |names: &[&str]| {
        names.iter().map(|n| text::width(n, Size::Small, Weight::Regular)).fold(0.0, f64::max)
    };
    let label = match nodes {
        0..=SHAPES => (widest(&pairs.nodes) + 78.0).min(430.0),
        _ => 96.0,
    };
    let left = MARGIN + label;
    let room = WIDTH - MARGIN - left;
    // Whole units where cells are shapes, so that no edge is blurred.
    let side = match nodes {
        0..=SHAPES => (room.min(SIDE) / nodes as f64).floor(),
        _ => SIDE / nodes as f64,
    };
    let cell = match nodes {
        0..=NUMBERED => ((room / nodes as f64).min(150.0).floor(), 58.0),
        _ => (side, side),
    };
    Grid { at: (left, top), cell, nodes }
}

/// Numbers over the columns, numbers and names before the rows, as many as have room.
fn names(scene: &mut Scene, pairs: &Pairs<'_>, grid: Grid) {
    let style = (Size::Small, Weight::Regular, Anchor::Middle);
    let widest = text::width(&grid.nodes.to_string(), Size::Small, Weight::Regular) + 14.0;
    for node in ticks(grid.nodes, widest / grid.cell.0) {
        let x = grid.at.0 + grid.cell.0 * (node as f64 + 0.5);
        scene.text((x, grid.at.1 - 12.0), &(node + 1).to_string(), style, Paint::Muted);
    }
    let rows = ticks(grid.nodes, Size::Small.px() * 1.1 / grid.cell.1);
    for node in rows {
        let y = grid.middle(node) + 9.0;
        let style = (Size::Small, Weight::Regular, Anchor::End);
        let number_end = grid.at.0 - 14.0;
        let number = (node + 1).to_string();
        scene.text((number_end, y), &number, style, Paint::Muted);
        if grid.nodes <= SHAPES {
            let room = grid.at.0 - MARGIN - 70.0;
            let name = text::fit(pairs.nodes[node], Size::Small, Weight::Regular, room);
            scene.text((number_end - 50.0, y), &name, style, Paint::Ink);
        }
    }
}

/// Positions that are labelled so that labels are at least `apart` cells from each other: all, or the
/// first and round numbers.
fn ticks(nodes: usize, apart: f64) -> Vec<usize> {
    if apart <= 1.0 {
        return (0..nodes).collect();
    }
    let rounds = (0..5).flat_map(|p| [2, 5, 10].map(|m| m * 10usize.pow(p)));
    let step = rounds.into_iter().find(|s| *s as f64 >= apart).unwrap_or(nodes).max(1);
    let first = (step as f64 >= apart + 1.0).then_some(0);
    first.into_iter().chain((step..=nodes).step_by(step).map(|n| n - 1)).collect()
}

fn shapes(scene: &mut Scene, pairs: &Pairs<'_>, grid: Grid, steps: &Steps, scale: &Scale) {
    for (&(client, server), &value) in &pairs.cells {
        let at = (grid.at.0 + grid.cell.0 * server as f64, grid.at.1 + grid.cell.1 * client as f64);
        let step = steps.step(value);
        scene.rect(at, grid.cell, Paint::Blank);
        let (inner, size) = ((at.0 + 1.5, at.1 + 1.5), (grid.cell.0 - 3.0, grid.cell.1 - 3.0));
        scene.rect(inner, size, Paint::Heat(step));
        if grid.nodes > NUMBERED {
            continue;
        }
        let fits = |t: &String| text::width(t, Size::Small, Weight::Regular) <= size.0 - 4.0;
        let whole = || number(value / scale.divisor, 0);
        let label = [scale.number(value), number(value / scale.divisor, 1), whole()];
        if let Some(label) = label.iter().find(|t| fits(t)) {
            let style = (Size::Small, Weight::Regular, Anchor::Middle);
            let place = (at.0 + grid.cell.0 / 2.0, at.1 + grid.cell.1 / 2.0 + 10.0);
            scene.text(place, label, style, Paint::HeatInk(step));
        }
    }
}

/// One picture of all cells, the worst drawn last; returns how wide a pair is where that is more than
/// its cell.
fn picture(scene: &mut Scene, pairs: &Pairs<'_>, grid: Grid, steps: &Steps) -> Option<usize> {
    let side = grid.size().0.round();
    // Enlarged as far as the measured pairs would still cover half of the map only.
    let free = (side * side / 2.0 / pairs.cells.len() as f64).sqrt();
    let wide = free.min(DOT).max(grid.cell.0).round().max(1.0) as usize;
    let mut cells = Cells::new(side as usize, side as usize);
    let mut order: Vec<(usize, (usize, usize))> =
        pairs.cells.iter().map(|(at, value)| (steps.step(*value), *at)).collect();
    order.sort_unstable();
    let enlarged = wide as f64 > grid.cell.0.ceil();
    for (step, (client, server)) in order {
        let edge = |i: usize| (i as f64 * grid.cell.0).round() as usize;
        let place = |i: usize| match enlarged {
            true => (edge(i) + (grid.cell.0 / 2.0) as usize).saturating_sub(wide / 2),
            false => edge(i),
        };
        let length = |i: usize| if enlarged { wide } else { (edge(i + 1) - edge(i)).max(1) };
        cells.fill((place(server), place(client)), (length(server), length(client)), step);
    }
    scene.items.push(Item::Cells { at: (grid.at.0.round(), grid.at.1.round()), cells });
    enlarged.then_some(wide)
}

/// The colour key; returns where it ends.
fn key(scene: &mut Scene, steps: &Steps, scale: &Scale, top: f64, hatched: bool) -> f64 {
    const WIDE: f64 = 128.0;
    const HIGH: f64 = 30.0;
    let style = (Size::Small, Weight::Regular, Anchor::Middle);
    for step in 1..=HEATS {
        let x = MARGIN + WIDE * (step - 1) as f64;
        scene.rect((x, top), (WIDE - 3.0, HIGH), Paint::Heat(step));
    }
    let mut x = MARGIN;
    for edge in steps.edges {
        x += WIDE;
        scene.text((x, top + HIGH + 30.0), &scale.number(edge), style, Paint::Muted);
    }
    let unit_at = MARGIN + WIDE * HEATS as f64 + 12.0;
    let style = (Size::Small, Weight::Regular, Anchor::Start);
    scene.text((unit_at - 60.0, top + HIGH + 30.0), &scale.unit, style, Paint::Muted);
    let (at, size) = ((unit_at + 80.0, top), (60.0, HIGH));
    empty(scene, at, size, hatched);
    scene.items.push(Item::Frame { at, size, paint: Paint::Muted, width: 2.0 });
    scene.text((at.0 + 74.0, top + 24.0), "not measured", style, Paint::Muted);
    top + HIGH + 36.0
}

/// "1 to 2 trials each": how many stand behind a pair's median.
fn each(entry: &Entry<'_>, metric: Metric) -> String {
    let mut trials: BTreeMap<&NodePair, usize> = BTreeMap::new();
    let with = entry.shown().iter().filter(|t| t.value(metric).is_some());
    with.filter_map(|t| t.nodes.as_ref()).for_each(|pair| *trials.entry(pair).or_default() += 1);
    match (trials.values().min(), trials.values().max()) {
        (Some(least), Some(most)) if least < most => {
            format!("{least} to {} each", stats::trials(*most))
        }
        (_, most) => format!("{} each", stats::trials(most.copied().unwrap_or(0))),
    }
}

fn caption(
    book: &Book<'_>,
    row: usize,
    pairs: &Pairs<'_>,
    scale: &Scale,
    (entry, enlarged): (&Entry<'_>, Option<usize>),
) -> String {
    let nodes = pairs.nodes.len();
    let same = pairs.cells.keys().filter(|(client, server)| client == server).count();
    let between = pairs.cells.len() - same;
    let mut parts = vec![
        format!("{} in {}", pairs.metric.label(), scale.unit),
        format!("cell: median of the trials of that pair in that direction ({})", each(entry, pairs.metric)),
        format!(
            "{} of {} of {} measured{}",
            thousands(between as u64),
            counted((nodes * nodes.saturating_sub(1)) as u64, "pair"),
            counted(nodes as u64, "node"),
            if same > 0 { ", and pods of one node" } else { "" },
        ),
        "colours: even steps of the logarithm over the values of this cni, open at both ends, from half to twice the median at most"
            .to_owned(),
    ];
    if let (Some(first), Some(last), true) =
        (pairs.nodes.first(), pairs.nodes.last(), nodes > SHAPES)
    {
        parts.push(format!("nodes by name, 1 is {first}, {nodes} is {last}"));
    }
    if let Some(wide) = enlarged {
        parts.push(format!("a pair is drawn {wide} units wide to be seen, the worse on top"));
    }
    parts.push(frame::source(book, row));
    parts.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        figure::{svg, theme::Theme},
        fixtures::many_nodes,
    };

    fn drawn(nodes: usize, sampled: usize, metric: Metric) -> (Scene, String) {
        let records = [many_nodes(nodes, sampled)];
        let book = Book::new(&records);
        let scene = heat(&book, 0, 1, metric).unwrap();
        let svg = svg::render(&scene, &Theme::new(&book), svg::Kind::File);
        (scene, svg)
    }

    fn heats(scene: &Scene) -> usize {
        let heat = |i: &&Item| matches!(i, Item::Rect { paint: Paint::Heat(_), .. });
        scene.items.iter().filter(heat).count()
    }

    fn numbers(scene: &Scene) -> usize {
        let ink = |i: &&Item| matches!(i, Item::Text { paint: Paint::HeatInk(_), .. });
        scene.items.iter().filter(ink).count()
    }

    #[test]
    fn both_directions_have_a_cell_and_few_nodes_a_number() {
        for metric in [Metric::LatencyP50, Metric::TransactionRate] {
            let (scene, _) = drawn(6, usize::MAX, metric);
            // Thirty pairs and the key.
            assert_eq!((heats(&scene), numbers(&scene)), (30 + HEATS, 30), "{metric}");
            assert!(scene.description.contains("30 of 30 pairs of 6 nodes"));
            assert!(scene.description.contains("ode worker2 is"), "{}", scene.description);
        }
        let (scene, _) = drawn(16, usize::MAX, Metric::LatencyP50);
        assert_eq!(numbers(&scene), 240, "numbers fit up to 16 nodes");
        let (scene, _) = drawn(30, usize::MAX, Metric::LatencyP50);
        assert_eq!((heats(&scene), numbers(&scene)), (870 + HEATS, 0));
    }

    #[test]
    fn what_was_not_measured_stays_empty() {
        let (scene, _) = drawn(10, 20, Metric::LatencyP50);
        assert_eq!(heats(&scene), 20 + HEATS);
        assert!(scene.description.contains("20 of 90 pairs"), "{}", scene.description);
    }

    #[test]
    fn a_thousand_nodes_are_one_picture_of_a_usual_size() {
        let (scene, svg) = drawn(1000, 6000, Metric::LatencyP50);
        assert_eq!(heats(&scene), HEATS);
        assert!(svg.contains("data:image/png;base64,"));
        assert!(svg.len() < 1_500_000, "{}", svg.len());
        assert!(svg.matches("<rect").count() < 50);
        assert!((800.0..2000.0).contains(&scene.height), "{}", scene.height);
        assert!(scene.description.contains("a pair is drawn 6 units wide"));
        let Some(Item::Cells { cells, .. }) =
            scene.items.iter().find(|i| matches!(i, Item::Cells { .. }))
        else {
            panic!("no picture")
        };
        // The slow node's row is dark: its cells are of the upper steps.
        let row = (2.5 * SIDE / 1000.0) as usize;
        let steps = &cells.steps()[row * cells.width()..(row + 1) * cells.width()];
        assert!(steps.iter().filter(|s| **s >= 5).count() > 5, "{steps:?}");
    }

    #[test]
    fn worse_is_darker_whichever_way_is_better() {
        let values = [10.0, 12.0, 14.5, 17.0];
        let slower = Steps::of(&values, Direction::LowerIsBetter).unwrap();
        assert_eq!(values.map(|v| slower.step(v)), [1, 3, 5, 7]);
        let less = Steps::of(&values, Direction::HigherIsBetter).unwrap();
        assert_eq!(values.map(|v| less.step(v)), [7, 5, 3, 1]);
        assert_eq!(less.step(0.0), HEATS);
        // One far out leaves the others their steps.
        let outlier = [10.0, 10.0, 10.0, 14.0, 1000.0];
        let steps = Steps::of(&outlier, Direction::LowerIsBetter).unwrap();
        assert_eq!(outlier.map(|v| steps.step(v)), [1, 1, 1, 4, 7]);
        // Noise alone does not fill the scale.
        let noise = Steps::of(&[100.0, 101.0], Direction::LowerIsBetter).unwrap();
        assert_eq!((noise.step(100.0), noise.step(101.0)), (4, 4));
        assert!(Steps::of(&[0.0, f64::NAN], Direction::LowerIsBetter).is_none());
    }

    #[test]
    fn labels_have_room() {
        assert_eq!(ticks(4, 0.5), [0, 1, 2, 3]);
        assert_eq!(ticks(45, 8.0), [0, 9, 19, 29, 39]);
        assert_eq!(ticks(1000, 60.0)[..3], [0, 99, 199]);
    }
}

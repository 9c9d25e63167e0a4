//! Curves: cases that differ in one number only, and where a cni falls off a cliff on the way.
//!
//! Owns which rows of the book make a curve and what counts as a cliff; drawing is `figure::curve`'s.

use crate::{
    book::{Book, Entry, Row, slug},
    matrix::{Over, Place, basis, change_of, main_rate},
    stats::{self, Centre, Change},
    units::{self, bytes, thousands},
    words,
};
use cnibench_model::{Direction, Metric, Placement, Rate, Workload};

/// Values from which on there is a curve.
const ENOUGH: usize = 3;
/// A step to the next value is a cliff when its whole interval is worse by more than this factor.
const CLIFF: f64 = 1.2;

/// A number that cases can differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dimension {
    Policies,
    Services,
    Streams,
    Size,
    Mss,
    Rate,
}

impl Dimension {
    const ALL: [Self; 6] =
        [Self::Policies, Self::Services, Self::Streams, Self::Size, Self::Mss, Self::Rate];

    /// The key in a case id.
    pub fn key(self) -> &'static str {
        match self {
            Self::Policies => "policies",
            Self::Services => "services",
            Self::Streams => "streams",
            Self::Size => "size",
            Self::Mss => "mss",
            Self::Rate => "rate",
        }
    }

    /// What an axis says.
    pub fn label(self) -> &'static str {
        match self {
            Self::Policies => "network policies that select the server's pod",
            Self::Services => "services beside the measured one",
            Self::Streams => "concurrent flows",
            Self::Size => "bytes of a write, request or datagram",
            Self::Mss => "most bytes of payload in a TCP segment, without its options",
            Self::Rate => "offered rate",
        }
    }

    /// The value of a row; none where it has none (flat out, or the cluster as it came up).
    fn of(self, row: &Row) -> Option<f64> {
        match self {
            Self::Policies => row.surroundings.policies.map(f64::from),
            Self::Services => row.surroundings.services.map(f64::from),
            Self::Streams => Some(f64::from(row.params.streams)),
            Self::Size => Some(row.params.size as f64),
            Self::Mss => row.params.mss.map(f64::from),
            Self::Rate => row.params.rate.map(|r| r.0),
        }
    }

    /// A value as it is read: "1,000", "16 KiB", "2 Gbit/s".
    pub fn text(self, value: f64, workload: Workload) -> String {
        match self {
            Self::Policies | Self::Services | Self::Streams | Self::Mss => thousands(value as u64),
            Self::Size => bytes(value as u64),
            Self::Rate => units::rate(Rate(value), workload),
        }
    }
}

/// Rows of the book that differ in one number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Curve {
    pub dimension: Dimension,
    pub workload: Workload,
    pub placement: Placement,
    /// What the rows have in common beside workload and placement.
    pub params: String,
    /// Value and row, ascending.
    pub points: Vec<(f64, usize)>,
}

/// One cni's way along a curve.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub column: usize,
    pub points: Vec<Point>,
    pub cliffs: Vec<Cliff>,
    /// Steps between neighbouring points that have an interval, without which none can be a cliff.
    pub judged: usize,
    /// From the first point to the last.
    pub whole: Option<Change>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Point {
    pub x: f64,
    pub row: usize,
    pub centre: Centre,
}

/// A step to a value at which a cni is worse than at the value before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cliff {
    /// Position in the line's points.
    pub point: usize,
    pub change: Change,
}

/// Every curve, in the order of the book's rows.
pub(crate) fn curves(book: &Book<'_>) -> Vec<Curve> {
    let mut out: Vec<Curve> = Vec::new();
    for dimension in Dimension::ALL {
        let mut found: Vec<Curve> = Vec::new();
        for (number, row) in book.rows.iter().enumerate() {
            let Some(x) = dimension.of(row) else { continue };
            let params = row.params_without(Some(dimension.key()));
            let same = |c: &&mut Curve| {
                (c.workload, c.placement, &c.params) == (row.workload, row.placement, &params)
            };
            match found.iter_mut().find(same) {
                Some(curve) => curve.points.push((x, number)),
                None => found.push(Curve {
                    dimension,
                    workload: row.workload,
                    placement: row.placement,
                    params,
                    points: vec![(x, number)],
                }),
            }
        }
        found.retain(|c| c.points.len() >= ENOUGH);
        found.iter_mut().for_each(|c| c.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
        out.extend(found);
    }
    out
}

impl Curve {
    /// "tcp_rr cross-node over policies".
    pub fn title(&self) -> String {
        let params = match self.params.as_str() {
            "" => String::new(),
            params => format!(", {params}"),
        };
        format!("{} {}{params} over {}", self.workload, self.placement, self.dimension.key())
    }

    /// A part of a file name.
    pub fn slug(&self) -> String {
        let params = if self.params.is_empty() { "" } else { "-" };
        let text = format!(
            "{}-{}-{}{params}{}",
            self.workload,
            self.placement,
            self.dimension.key(),
            self.params
        );
        slug(&text, 150)
    }

    /// The metrics worth a curve: work a second, and the time of a transaction.
    pub fn metrics(&self) -> Vec<Metric> {
        let mut metrics = vec![main_rate(self.workload)];
        if self.workload.is_transactional() {
            metrics.extend([Metric::LatencyP50, Metric::LatencyP99]);
        }
        metrics
    }

    /// The way of every cni with at least two points.
    pub fn lines(&self, book: &Book<'_>, metric: Metric) -> Vec<Line> {
        let lines = (0..book.columns.len()).map(|column| self.line(book, metric, column));
        lines.filter(|l| l.points.len() >= 2).collect()
    }

    fn line(&self, book: &Book<'_>, metric: Metric, column: usize) -> Line {
        let points: Vec<Point> = self
            .points
            .iter()
            .filter_map(|&(x, row)| {
                let centre = stats::centre(&book.entry(row, column)?.values(metric))?;
                Some(Point { x, row, centre })
            })
            .collect();
        // Cases of one cni are no neighbours in time as the cnis of one case are: not in pairs.
        let step = |from: &Point, to: &Point| {
            let (to, from): (Place, Place) = ((to.row, column), (from.row, column));
            change_of(book, metric, to, from, false)
        };
        let steps: Vec<(usize, Change)> = points
            .windows(2)
            .enumerate()
            .filter_map(|(i, pair)| Some((i + 1, step(&pair[0], &pair[1])?)))
            .collect();
        let judged = steps.iter().filter(|(_, change)| change.interval.is_some()).count();
        let cliffs = steps
            .into_iter()
            .filter(|(_, change)| is_cliff(metric, change))
            .map(|(point, change)| Cliff { point, change })
            .collect();
        let whole = points.first().zip(points.last()).and_then(|(a, b)| step(a, b));
        Line { column, points, cliffs, judged, whole }
    }

    /// What happens from the first value to the last, cni by cni.
    pub fn sentence(&self, book: &Book<'_>, metric: Metric, lines: &[Line]) -> String {
        let text = |x: f64| self.dimension.text(x, self.workload);
        let parts: Vec<String> = lines
            .iter()
            .filter_map(|line| {
                let (first, last) = (line.points.first()?, line.points.last()?);
                let over = book.entry(last.row, line.column)?.over();
                let change = line.whole.as_ref().map_or_else(
                    || "has no ratio".to_owned(),
                    |c| match words::interval(metric, c) {
                        Some(range) if !shows_nothing(c) => {
                            format!("{} ({range})", words::change(metric, c, over))
                        }
                        _ => words::change(metric, c, over),
                    },
                );
                let cliffs: Vec<String> = line
                    .cliffs
                    .iter()
                    .map(|c| {
                        let words = words::change(metric, &c.change, over);
                        format!(
                            "cliff at {} ({words} than before it)",
                            text(line.points[c.point].x)
                        )
                    })
                    .collect();
                let cliffs: String = cliffs.iter().map(|c| format!(", {c}")).collect();
                Some((
                    (text(first.x), text(last.x)),
                    format!("{} {change}{cliffs}", book.columns[line.column].short),
                ))
            })
            .fold(Vec::new(), |mut out: Vec<((String, String), Vec<String>)>, (ends, part)| {
                match out.iter_mut().find(|(e, _)| *e == ends) {
                    Some((_, parts)) => parts.push(part),
                    None => out.push((ends, vec![part])),
                }
                out
            })
            .into_iter()
            .map(|((first, last), parts)| {
                format!("From {first} to {last} {}: {}.", self.dimension.key(), parts.join("; "))
            })
            .collect();
        let mut text = parts.join(" ");
        if lines.iter().any(|l| l.whole.as_ref().is_some_and(|c| c.interval.is_none())) {
            let over = lines.iter().find_map(|l| book.entry(l.points.first()?.row, l.column));
            let few = over.map_or(Over::Trials, Entry::over).count(stats::ENOUGH);
            text.push_str(&format!(
                " Fewer than {few} have no interval: such a change may be chance."
            ));
        }
        text
    }
}

/// What may be said of cliffs: a step without an interval can neither be one nor be none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cliffs {
    /// At least one step is a cliff.
    Some,
    /// Every step has an interval, and none is a cliff.
    None,
    /// None of the steps that have an interval is; so many of all have one.
    NoneOf { judged: usize, steps: usize },
}

/// What may be said of the cliffs of some lines.
pub(crate) fn cliffs(lines: &[Line]) -> Cliffs {
    let judged: usize = lines.iter().map(|l| l.judged).sum();
    let steps: usize = lines.iter().map(|l| l.points.len().saturating_sub(1)).sum();
    match lines.iter().all(|l| l.cliffs.is_empty()) {
        false => Cliffs::Some,
        true if judged == steps => Cliffs::None,
        true => Cliffs::NoneOf { judged, steps },
    }
}

fn shows_nothing(change: &Change) -> bool {
    change.interval.is_some_and(|i| i.contains(change.basis.neutral()))
}

/// True when the whole interval of a change is worse by more than [`CLIFF`].
fn is_cliff(metric: Metric, change: &Change) -> bool {
    debug_assert_eq!(change.basis, basis(metric));
    let Some(interval) = change.interval else { return false };
    match metric.direction() {
        Direction::LowerIsBetter => interval.low > CLIFF,
        Direction::HigherIsBetter => interval.high < 1.0 / CLIFF,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Builder, policies, usual};
    use cnibench_model::{Record, Surroundings};

    fn all(record: Record, check: impl Fn(&Book<'_>, Vec<Curve>)) {
        let records = [record];
        let book = Book::new(&records);
        let found = curves(&book);
        check(&book, found);
    }

    #[test]
    fn policies_make_a_curve_for_each_workload_with_its_cliff() {
        all(policies(), |book, found| {
            let titles: Vec<String> = found.iter().map(Curve::title).collect();
            assert_eq!(
                titles,
                ["tcp_rr cross-node over policies", "tcp_crr cross-node over policies"]
            );
            let curve = &found[0];
            let x: Vec<f64> = curve.points.iter().map(|p| p.0).collect();
            assert_eq!(x, [0.0, 1.0, 10.0, 100.0, 1000.0]);
            for metric in curve.metrics() {
                let lines = curve.lines(book, metric);
                assert_eq!(lines.len(), 4, "{metric}");
                // The fixture's "ebpf" family falls at 100, "flannel" grows and falls at 1,000.
                let cliffs: Vec<Vec<f64>> = lines
                    .iter()
                    .map(|l| l.cliffs.iter().map(|c| l.points[c.point].x).collect())
                    .collect();
                assert_eq!(cliffs, [vec![], vec![1000.0], vec![100.0], vec![100.0]], "{metric}");
            }
            let lines = curve.lines(book, Metric::LatencyP50);
            let text = curve.sentence(book, Metric::LatencyP50, &lines);
            assert!(
                text.starts_with("From 0 to 1,000 policies: host no difference shown; "),
                "{text}"
            );
            assert!(text.contains(" % slower ("), "{text}");
            assert!(text.contains("cliff at 100"), "{text}");
        });
    }

    #[test]
    fn two_trials_tell_no_cliff_and_no_trend() {
        let few = |trials, seed| {
            let around = [0, 1, 10, 100, 1000]
                .map(|n| Surroundings { policies: Some(n), ..Surroundings::default() })
                .to_vec();
            let series = vec![(Workload::TcpRr, Placement::CrossNode)];
            Builder { around, series, trials, seed, ..Builder::default() }.build()
        };
        all(few(2, 1), |book, found| {
            let lines = found[0].lines(book, Metric::LatencyP50);
            assert_eq!(cliffs(&lines), Cliffs::NoneOf { judged: 0, steps: 20 });
            let text = found[0].sentence(book, Metric::LatencyP50, &lines);
            assert!(text.contains("(2 trials)"), "{text}");
            let caveat = "Fewer than 3 trials have no interval: such a change may be chance.";
            assert!(text.ends_with(caveat), "{text}");
        });
        all(few(6, 1), |book, found| {
            let lines = found[0].lines(book, Metric::LatencyP50);
            assert_eq!(cliffs(&lines), Cliffs::Some);
            assert!(!found[0].sentence(book, Metric::LatencyP50, &lines).contains("chance"));
            assert_eq!(cliffs(&lines[..1]), Cliffs::None);
        });
    }

    #[test]
    fn two_values_are_no_curve_and_a_product_has_one_for_each_other_value() {
        let series = vec![(Workload::TcpStream, Placement::CrossNode)];
        let builder = Builder { series, paths: usual()[..1].to_vec(), ..Builder::default() };
        let two = Builder { streams: vec![1, 16], ..builder.clone() };
        all(two.build(), |_, found| assert!(found.is_empty()));
        let around =
            [1, 5].map(|n| Surroundings { services: Some(n), ..Surroundings::default() }).to_vec();
        let product = Builder { streams: vec![16, 1, 2], around, ..builder };
        all(product.build(), |book, found| {
            assert_eq!(found.len(), 2);
            assert_eq!(found[1].title(), "tcp_stream cross-node, services=5 over streams");
            assert_eq!(found[0].points.iter().map(|p| p.0).collect::<Vec<_>>(), [1.0, 2.0, 16.0]);
            // More flows carry more: no cliff, whatever the step.
            assert!(found[0].lines(book, Metric::Throughput)[0].cliffs.is_empty());
        });
    }

    #[test]
    fn a_case_beside_the_curve_is_no_point_of_it() {
        let mut around: Vec<Surroundings> = [0, 10, 100]
            .map(|n| Surroundings { policies: Some(n), ..Surroundings::default() })
            .to_vec();
        around.insert(0, Surroundings::default());
        let series = vec![(Workload::TcpRr, Placement::CrossNode)];
        all(Builder { around, series, ..Builder::default() }.build(), |book, found| {
            assert_eq!((book.rows.len(), found.len()), (4, 1));
            assert_eq!(found[0].points.len(), 3);
        });
    }
}

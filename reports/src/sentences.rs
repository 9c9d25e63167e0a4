//! The page's first lines: one sentence for each series, made from the data.
//!
//! Owns what may be said of a ranking. Called by the page and by summary.md.

use crate::{
    book::Book,
    curves, figure, kernels,
    matrix::{Against, Content, End, Matrix, MatrixLine, Over, Side, change_between},
    rotation,
    stats::{self, Change, Effect},
    switches,
    words::{self, Form},
};
use cnibench_model::{Direction, Metric, Placement, Workload};
use std::collections::BTreeMap;

/// Most cnis named one by one for one thing; of more, so many of the worst and of the best.
const NAMED: usize = 6;

/// Something said of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sentence {
    pub text: String,
    /// True where a reader in a hurry loses nothing without it: a point between the ends of a curve.
    pub folded: bool,
}

/// One sentence per row of the matrix, then one per curve, per switch and per kernel.
pub(crate) fn sentences(book: &Book<'_>, matrix: &Matrix) -> Vec<Sentence> {
    let curves = curves::curves(book);
    let between = |row: usize| {
        curves.iter().any(|c| {
            let ends = [c.points.first(), c.points.last()];
            let is = |point: &(f64, usize)| point.1 == row;
            c.points.iter().any(is) && !ends.into_iter().flatten().any(is)
        })
    };
    let rows = (0..matrix.rows.len())
        .map(|row| Sentence { text: sentence(book, matrix, row), folded: between(row) });
    let knees = (0..book.rows.len()).filter_map(|row| {
        let lines = figure::knee::lines(book, row);
        let series = &book.rows[row];
        let subject = format!("{} {}", place(series.placement), traffic(series.workload));
        let text = figure::knee::sentence(book, row, &lines);
        (!text.is_empty()).then(|| Sentence {
            text: format!("{subject} ({}) over offered rates: {text}", series.title()),
            folded: false,
        })
    });
    let sizes = (0..book.rows.len()).filter_map(|row| {
        let text = figure::sizes::sentence(book, &figure::sizes::lines(book, row));
        let series = &book.rows[row];
        let subject = format!("{} {}", place(series.placement), traffic(series.workload));
        (!text.is_empty()).then(|| Sentence {
            text: format!("{subject} ({}) over payload sizes: {text}", series.title()),
            folded: false,
        })
    });
    let changed = (0..book.rows.len()).filter_map(|row| {
        let text = rotation::sentence(book, &rotation::lines(book, row));
        let series = &book.rows[row];
        let subject = format!("{} {}", place(series.placement), traffic(series.workload));
        (!text.is_empty()).then(|| Sentence {
            text: format!("{subject} ({}): {text}", series.title()),
            folded: false,
        })
    });
    let along = curves.iter().filter_map(|curve| {
        let (_, row) = curve.points.first()?;
        let metric = matrix.rows.get(*row)?.lines.first()?.metric;
        let lines = curve.lines(book, metric);
        let subject = format!("{} {}", place(curve.placement), traffic(curve.workload));
        let text = format!(
            "{subject} ({}), {}: {}",
            curve.title(),
            metric.label(),
            curve.sentence(book, metric, &lines)
        );
        (!lines.is_empty()).then_some(Sentence { text, folded: false })
    });
    let switched = switches::switches(book).into_iter().filter_map(|switch| {
        let row = &book.rows[switch.off];
        let subject = format!("{} {}", place(row.placement), traffic(row.workload));
        let params = row.params_without(Some("hubble"));
        let params = if params.is_empty() { params } else { format!(", {params}") };
        let text = format!("{subject} ({}{params}), {}.", row.workload, switch.sentence(book)?);
        Some(Sentence { text, folded: false })
    });
    let in_kernels = (0..book.rows.len()).flat_map(|row| {
        let series = &book.rows[row];
        let subject = format!("{} {}", place(series.placement), traffic(series.workload));
        let said = kernels::sentences(book, row).into_iter();
        said.map(move |text| Sentence {
            text: format!("{subject} ({}), {text}.", series.title()),
            folded: false,
        })
        .collect::<Vec<_>>()
    });
    rows.chain(along)
        .chain(knees)
        .chain(sizes)
        .chain(changed)
        .chain(switched)
        .chain(in_kernels)
        .collect()
}

/// What a workload is called in a sentence.
fn traffic(workload: Workload) -> &'static str {
    match workload {
        Workload::TcpStream => "TCP throughput",
        Workload::TcpRr => "request/response",
        Workload::TcpCrr => "connect/request/response",
        Workload::UdpStream => "UDP throughput",
        Workload::UdpRr => "UDP request/response",
    }
}

fn place(placement: Placement) -> &'static str {
    match placement {
        Placement::SameNode => "Same-node",
        Placement::CrossNode => "Cross-node",
        Placement::HostHost => "Host-to-host",
        Placement::HostPod => "Host-to-pod",
        Placement::PodService => "Pod-to-service",
    }
}

fn sentence(book: &Book<'_>, matrix: &Matrix, row: usize) -> String {
    let matrix_row = &matrix.rows[row];
    let line = &matrix_row.lines[0];
    let notes: String = matrix_row.notes().map(|n| format!(", {n}")).collect();
    let subject = format!(
        "{} {} ({}{notes})",
        place(matrix_row.placement),
        traffic(matrix_row.workload),
        matrix_row.workload,
    );
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (column, cell) in line.cells.iter().enumerate() {
        if cell.change().is_some() {
            groups.entry(matrix.columns[column].baseline).or_default().push(column);
        }
    }
    let mut parts: Vec<String> = groups
        .iter()
        .map(|(baseline, columns)| compare(book, matrix, row, line, *baseline, columns))
        .collect();
    let why = not_compared(matrix, line);
    if parts.is_empty() {
        parts.extend(alone(matrix, line, why.is_none()));
    }
    parts.extend(why);
    parts.extend(missing(matrix, line));
    format!("{subject}: {}.", parts.join("; "))
}

/// The columns of one baseline: who differs from it by how much, who does not, and who cannot be
/// ranked against whom.
fn compare(
    book: &Book<'_>,
    matrix: &Matrix,
    row: usize,
    line: &MatrixLine,
    baseline: usize,
    columns: &[usize],
) -> String {
    let base = match book.columns[baseline].is_host() && book.records.len() == 1 {
        true => "the host".to_owned(),
        false => matrix.columns[baseline].short.clone(),
    };
    let changes: Vec<(usize, &Change)> =
        columns.iter().filter_map(|c| Some((*c, line.cells[*c].change()?))).collect();
    let direction = line.metric.direction();
    let of = |wanted: &[Effect]| -> Vec<(usize, &Change)> {
        changes.iter().copied().filter(|(_, c)| wanted.contains(&c.effect(direction))).collect()
    };
    let (ranked, between) = extremes(of(&[Effect::Better, Effect::Worse]), direction);
    let mut parts = clauses(matrix, line.metric, &ranked, &base);
    if between > 0 {
        parts.push(format!("{between} between (see the matrix)"));
    }
    let equal: Vec<&str> =
        of(&[Effect::NotShown]).iter().map(|(c, _)| matrix.columns[*c].short.as_str()).collect();
    if !equal.is_empty() {
        let names = match equal.len() {
            0..=NAMED => list(&equal),
            many => format!("{many} cnis (see the matrix)"),
        };
        parts.push(format!("no difference from {base} is shown for {names}"));
    }
    let (unknown, between) = extremes(of(&[Effect::Unknown]), direction);
    if !unknown.is_empty() {
        parts.extend(clauses(matrix, line.metric, &unknown, &base));
        if between > 0 {
            parts.push(format!("{between} between (see the matrix)"));
        }
        let over = columns.first().and_then(|c| line.cells[*c].value()).map(|v| v.over);
        parts.push(format!(
            "but fewer than {} have no interval, so this ranks nothing",
            over.unwrap_or(Over::Trials).count(stats::ENOUGH)
        ));
    }
    let tied = ties(book, matrix, row, line.metric, &ranked);
    let mut text = parts.join(", ");
    if !tied.is_empty() {
        text.push_str(&format!("; the intervals do not rank {}", tied.join(", nor ")));
    }
    text
}

/// The worst and the best, and how many were left out between them.
fn extremes(
    mut changes: Vec<(usize, &Change)>,
    direction: Direction,
) -> (Vec<(usize, &Change)>, usize) {
    let badness = |change: &Change| match direction {
        Direction::HigherIsBetter => -change.growth(),
        Direction::LowerIsBetter => change.growth(),
    };
    changes.sort_by(|a, b| badness(b.1).total_cmp(&badness(a.1)));
    let between = changes.len().saturating_sub(NAMED);
    if between > 0 {
        changes.drain(NAMED / 2..NAMED / 2 + between);
    }
    (changes, between)
}

/// "x takes 31 % longer than the host", "y 12 %": clauses of one form stand together, the largest
/// first, and share the verb and what they are compared with.
fn clauses(
    matrix: &Matrix,
    metric: Metric,
    changes: &[(usize, &Change)],
    base: &str,
) -> Vec<String> {
    let mut changes = changes.to_vec();
    changes.sort_by(|a, b| b.1.growth().abs().total_cmp(&a.1.growth().abs()));
    changes.sort_by_key(|(_, c)| Form::of(c));
    let mut before = None;
    changes
        .iter()
        .map(|(column, change)| {
            let name = &matrix.columns[*column].short;
            let form = Form::of(change);
            let fresh = before.replace(form) != Some(form) || form == Form::Equal;
            let clause = words::clause(metric, change, fresh);
            if fresh { format!("{name} {clause} {base}") } else { format!("{name} {clause}") }
        })
        .collect()
}

/// Neighbours in the order of their changes whose direct comparison shows no difference.
fn ties(
    book: &Book<'_>,
    matrix: &Matrix,
    row: usize,
    metric: Metric,
    ranked: &[(usize, &Change)],
) -> Vec<String> {
    let mut order = ranked.to_vec();
    order.sort_by(|a, b| a.1.size.total_cmp(&b.1.size));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for pair in order.windows(2) {
        let (a, b) = (pair[0].0, pair[1].0);
        let apart = change_between(book, row, metric, b, a)
            .is_some_and(|c| c.effect(metric.direction()) != Effect::NotShown);
        match groups.last_mut() {
            _ if apart => {}
            Some(group) if group.last() == Some(&a) => group.push(b),
            _ => groups.push(vec![a, b]),
        }
    }
    groups
        .iter()
        .map(|group| {
            let names: Vec<&str> =
                group.iter().map(|c| matrix.columns[*c].short.as_str()).collect();
            list(&names)
        })
        .collect()
}

/// Values where there is no comparison; `silent` when nothing else says why.
fn alone(matrix: &Matrix, line: &MatrixLine, silent: bool) -> Option<String> {
    let values: Vec<String> = line
        .cells
        .iter()
        .enumerate()
        .filter_map(|(column, cell)| {
            let value = cell.value()?;
            let name = &matrix.columns[column].short;
            Some(format!("{name} {} {} ({})", value.text, line.unit, value.interval_text))
        })
        .collect();
    let rest = if silent { ", with nothing to compare with" } else { "" };
    (!values.is_empty()).then(|| format!("{} {}{rest}", line.metric.label(), values.join(", ")))
}

/// Cells with values that could not be compared: "x delivered nothing in 1 of 5 trials".
fn not_compared(matrix: &Matrix, line: &MatrixLine) -> Option<String> {
    let mut own = Vec::new();
    let mut of_baseline: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (column, cell) in line.cells.iter().enumerate() {
        let Some(Against::None { why, side }) = cell.value().map(|v| &v.against) else { continue };
        let name = matrix.columns[column].short.as_str();
        match side {
            Side::Candidate => own.push(format!("{name} {why}")),
            Side::Baseline => of_baseline.entry(why).or_default().push(name),
        }
    }
    let compared = line.cells.iter().any(|c| c.change().is_some());
    own.extend(of_baseline.iter().map(|(why, names)| match compared {
        true => format!("no comparison for {}: {why}", list(names)),
        false => format!("no comparison: {why}"),
    }));
    (!own.is_empty()).then(|| own.join(", "))
}

/// "x failed (why)" for cells without values; cells that were never planned are not worth a word.
fn missing(matrix: &Matrix, line: &MatrixLine) -> Option<String> {
    let mut parts = Vec::new();
    for (column, cell) in line.cells.iter().enumerate() {
        let Content::Nothing { end, short, .. } = &cell.content else { continue };
        let name = &matrix.columns[column].short;
        match end {
            End::Failed => parts.push(format!("{name} failed ({short})")),
            End::Invalid => parts.push(format!("{name} is invalid ({short})")),
            End::Skipped => parts.push(format!("{name} was skipped")),
            End::Interrupted => parts.push(format!("{name} was cut off")),
            End::TooFew => parts.push(format!("{name} has {short}")),
            End::Absent => {}
        }
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// "a", "a and b", "a, b and c".
fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixtures::{Builder, mixed, path, usual},
        matrix::from_book,
    };
    use cnibench_model::Record;

    fn said(record: Record) -> Vec<String> {
        let records = [record];
        let book = Book::new(&records);
        sentences(&book, &from_book(&book)).into_iter().map(|s| s.text).collect()
    }

    #[test]
    fn a_curve_is_one_sentence_and_folds_what_lies_between_its_ends() {
        let records = [crate::fixtures::policies()];
        let book = Book::new(&records);
        let all = sentences(&book, &from_book(&book));
        assert_eq!((all.len(), all.iter().filter(|s| s.folded).count()), (12, 6));
        let curve = &all[10];
        let start = "Cross-node request/response (tcp_rr cross-node over policies), latency p50: From 0 to 1,000 policies: host no difference shown; flannel-vxlan";
        assert!(curve.text.starts_with(start) && !curve.folded, "{}", curve.text);
    }

    #[test]
    fn a_usual_run_reads_as_sentences() {
        let lines = said(Builder { trials: 12, ..Builder::default() }.build());
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn what_went_wrong_is_in_the_sentence() {
        let lines = said(mixed()).join("\n");
        assert!(lines.contains("flannel-vxlan failed (peer never answered)"), "{lines}");
        assert!(
            lines.contains("flannel-wireguard-userspace is invalid (payload in clear)"),
            "{lines}"
        );
    }

    #[test]
    fn intervals_that_overlap_do_not_rank() {
        let mut paths = usual()[..2].to_vec();
        paths.push(path("flannel-vxlan:mtu=1450", "flannel", false, 1.31, 0.52));
        let lines = said(Builder { paths, ..Builder::default() }.build()).join("\n");
        assert!(lines.contains("the intervals do not rank"), "{lines}");
    }

    #[test]
    fn a_cni_with_a_zero_trial_stays_in_the_sentence() {
        let mut record = Builder::default().build();
        let zero = |record: &mut Record, cni: &str, trials: u32| {
            for trial in &mut record.trials {
                if trial.index < trials && trial.case.0.contains(&format!("/{cni}/tcp_stream")) {
                    trial.samples.iter_mut().for_each(|s| s.value = 0.0);
                }
            }
        };
        zero(&mut record, "flannel-wireguard-userspace", 1);
        let lines = said(record.clone()).join("\n");
        assert!(
            lines.contains("flannel-wireguard-userspace delivered nothing in 1 of 6 trials"),
            "{lines}"
        );
        assert!(lines.contains("flannel-vxlan carries 47 %"), "{lines}");
        zero(&mut record, "host", 2);
        let lines = said(record.clone()).join("\n");
        assert!(lines.contains("no comparison: the host delivered nothing in 2 of 6"), "{lines}");
        for cni in ["host", "ebpf"] {
            zero(&mut record, cni, 6);
        }
        let lines = said(record).join("\n");
        assert!(lines.contains("no difference from the host is shown for ebpf"), "{lines}");
    }

    #[test]
    fn of_many_cnis_the_worst_and_the_best_are_named() {
        let lines =
            said(Builder { paths: crate::fixtures::twelve(), ..Builder::default() }.build());
        let stream = &lines[0];
        assert!(stream.contains("between (see the matrix)"), "{stream}");
        assert!(stream.contains("flannel-wireguard-userspace carries 1/1"), "{stream}");
        assert!(!stream.contains("flannel-vxlan"), "{stream}");
    }

    #[test]
    fn one_trial_and_one_cni_claim_nothing() {
        let lines = said(Builder { trials: 1, ..Builder::default() }.build()).join("\n");
        assert!(lines.contains("so this ranks nothing"), "{lines}");
        assert!(
            lines.contains("userspace takes 3.") && lines.contains(" times the time of the host")
        );
        let lines =
            said(Builder { paths: usual()[..1].to_vec(), ..Builder::default() }.build()).join("\n");
        assert!(lines.contains("with nothing to compare with"), "{lines}");
    }
}

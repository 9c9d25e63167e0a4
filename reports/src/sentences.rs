//! The page's first lines: one sentence for each series, made from the data.
//!
//! Owns what may be said of a ranking. Called by the page and by summary.md.

use crate::{
    book::Book,
    matrix::{Against, Content, End, Matrix, MatrixLine, change_between},
    stats::{self, Change, Effect},
    words,
};
use cnibench_model::{Metric, Placement, Workload};
use std::collections::BTreeMap;

/// One sentence per row of the matrix.
pub(crate) fn sentences(book: &Book<'_>, matrix: &Matrix) -> Vec<String> {
    (0..matrix.rows.len()).map(|row| sentence(book, matrix, row)).collect()
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
    let params = match matrix_row.params.as_str() {
        "" => String::new(),
        params => format!(", {params}"),
    };
    let subject = format!(
        "{} {} ({}{params})",
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
    if parts.is_empty() {
        parts.extend(alone(matrix, line));
    }
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
    let effect = |change: &Change| change.effect(line.metric.direction());
    let shown = |change: &Change| matches!(effect(change), Effect::Better | Effect::Worse);
    let mut ranked: Vec<(usize, &Change)> =
        changes.iter().copied().filter(|(_, c)| shown(c)).collect();
    ranked.sort_by(|a, b| b.1.ratio.ln().abs().total_cmp(&a.1.ratio.ln().abs()));
    // Clauses of one form stand together and share verb and "than the host".
    ranked.sort_by_key(|(_, c)| std::cmp::Reverse(words::clause_kind(c)));
    let mut parts = Vec::new();
    let mut kind = None;
    for (column, change) in &ranked {
        let name = &matrix.columns[*column].short;
        let fresh = kind != Some(words::clause_kind(change));
        kind = Some(words::clause_kind(change));
        let clause = words::clause(line.metric, change, fresh);
        parts.push(if fresh {
            format!("{name} {clause} {base}")
        } else {
            format!("{name} {clause}")
        });
    }
    let names = |wanted: Effect| -> Vec<&str> {
        let of_effect = changes.iter().filter(|(_, c)| effect(c) == wanted);
        of_effect.map(|(c, _)| matrix.columns[*c].short.as_str()).collect()
    };
    let equal = names(Effect::NotShown);
    if !equal.is_empty() {
        parts.push(format!("no difference from {base} is shown for {}", list(&equal)));
    }
    let unknown = names(Effect::Unknown);
    if !unknown.is_empty() {
        let single: Vec<String> = changes
            .iter()
            .filter(|(_, c)| effect(c) == Effect::Unknown)
            .map(|(c, change)| {
                let words = words::change(line.metric, change);
                let few = format!(" ({})", stats::trials(change.n));
                format!("{} {}", matrix.columns[*c].short, words.replace(&few, ""))
            })
            .collect();
        parts.push(format!(
            "{} than {base}, but fewer than {} trials have no interval, so this ranks nothing",
            single.join(", "),
            stats::ENOUGH
        ));
    }
    let tied = ties(book, matrix, row, line.metric, &ranked);
    let mut text = parts.join(", ");
    if !tied.is_empty() {
        text.push_str(&format!("; the intervals do not rank {}", tied.join(", nor ")));
    }
    text
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
    order.sort_by(|a, b| a.1.ratio.total_cmp(&b.1.ratio));
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

/// Values where there is nothing to compare.
fn alone(matrix: &Matrix, line: &MatrixLine) -> Option<String> {
    let values: Vec<String> = line
        .cells
        .iter()
        .enumerate()
        .filter_map(|(column, cell)| {
            let value = cell.value()?;
            let interval = match value.centre.interval {
                Some(_) => format!(" ({})", value.interval_text),
                None => format!(" ({}: no interval)", stats::trials(value.centre.n)),
            };
            let name = &matrix.columns[column].short;
            Some(format!("{name} {} {}{interval}", value.text, line.unit))
        })
        .collect();
    (!values.is_empty()).then(|| {
        format!("{} {}, with nothing to compare with", line.metric.label(), values.join(", "))
    })
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
            End::Absent => {}
        }
    }
    let compared = line.cells.iter().filter_map(|c| c.value());
    let why: Vec<&str> = compared
        .filter_map(|v| match &v.against {
            Against::None { why } => Some(why.as_str()),
            Against::Baseline | Against::Change { .. } => None,
        })
        .collect();
    if let (Some(first), false) = (why.first(), parts.is_empty()) {
        parts.push(format!("no comparison: {first}"));
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
        sentences(&book, &from_book(&book))
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
    fn one_trial_and_one_cni_claim_nothing() {
        let lines = said(Builder { trials: 1, ..Builder::default() }.build()).join("\n");
        assert!(lines.contains("so this ranks nothing"), "{lines}");
        let lines =
            said(Builder { paths: usual()[..1].to_vec(), ..Builder::default() }.build()).join("\n");
        assert!(lines.contains("with nothing to compare with"), "{lines}");
    }
}

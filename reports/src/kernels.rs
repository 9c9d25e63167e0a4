//! Cnis that were measured in several kernels: each later kernel against the first, cni by cni.
//!
//! Owns which columns belong together. Called by the sentences, and by the book for its baselines.

use crate::{
    book::Book,
    matrix::{change_between, primary},
    stats::Effect,
    words,
};
use cnibench_model::CniSpec;

/// A cni without the kernel that it is measured in.
fn rest(spec: &CniSpec) -> CniSpec {
    let mut spec = spec.clone();
    spec.params.remove(CniSpec::KERNEL);
    spec
}

/// Is it the same cni in another kernel?
fn other_kernel(a: &CniSpec, b: &CniSpec) -> bool {
    a.kernel() != b.kernel() && rest(a) == rest(b)
}

/// The host that a cni of these is compared with: the one in its own kernel, else the first of all. Hosts
/// come first; a host of another kernel is compared with the first host.
pub(crate) fn baseline(order: &[&CniSpec], spec: &CniSpec) -> usize {
    let Some(first) = order.first() else { return 0 };
    if rest(first) == rest(spec) {
        return 0;
    }
    let own = |other: &&CniSpec| rest(other) == rest(first) && other.kernel() == spec.kernel();
    order.iter().position(own).unwrap_or(0)
}

/// "latency p50, kernel 6.12.95 against 6.1.170: host 3 % slower (2–4 %); ebpf no difference shown", a
/// line for each kernel behind the first; none where there is one kernel only.
pub(crate) fn sentences(book: &Book<'_>, row: usize) -> Vec<String> {
    let mut kernels: Vec<&str> = Vec::new();
    for kernel in book.columns.iter().filter_map(|column| column.spec.kernel()) {
        if !kernels.contains(&kernel) {
            kernels.push(kernel);
        }
    }
    let Some((first, others)) = kernels.split_first() else { return Vec::new() };
    others.iter().filter_map(|kernel| sentence(book, row, first, kernel)).collect()
}

fn sentence(book: &Book<'_>, row: usize, first: &str, kernel: &str) -> Option<String> {
    let metric = book.first_measured(row, primary(book.rows[row].workload))?;
    let of = |number: usize| {
        let column = &book.columns[number];
        let twin = book.columns.iter().position(|other| {
            std::ptr::eq(other.record, column.record)
                && other.spec.kernel() == Some(first)
                && other_kernel(other.spec, column.spec)
        })?;
        let change = change_between(book, row, metric, number, twin)?;
        let over = book.entry(row, number)?.over();
        let range = words::interval(metric, &change)
            .filter(|_| change.effect(metric.direction()) != Effect::NotShown)
            .map_or_else(String::new, |range| format!(" ({range})"));
        Some(format!("{} {}{range}", rest(column.spec), words::change(metric, &change, over)))
    };
    let parts: Vec<String> = (0..book.columns.len())
        .filter(|number| book.columns[*number].spec.kernel() == Some(kernel))
        .filter_map(of)
        .collect();
    let text = format!("{}, kernel {kernel} against {first}: {}", metric.label(), parts.join("; "));
    (!parts.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Builder, path};

    #[test]
    fn a_later_kernel_is_compared_with_the_first_cni_by_cni() {
        let paths = vec![
            path("ebpf:kernel=6.12", "ebpf", false, 1.5, 0.5),
            path("ebpf:kernel=6.1", "ebpf", false, 1.0, 1.0),
            path("host:kernel=6.1", "host", false, 1.0, 1.0),
            path("host:kernel=6.12", "host", false, 2.0, 0.5),
        ];
        let records = [Builder { paths, ..Builder::default() }.build()];
        let book = Book::new(&records);
        let names: Vec<String> = book.columns.iter().map(|c| c.spec.to_string()).collect();
        assert_eq!(names[..2], ["host:kernel=6.1", "host:kernel=6.12"]);
        for column in &book.columns {
            let base = &book.columns[column.baseline];
            let expected = if column.is_host() { Some("6.1") } else { column.spec.kernel() };
            assert!(base.is_host() && base.spec.kernel() == expected, "{}", column.label);
        }
        let said = sentences(&book, 0);
        assert_eq!(said.len(), 1);
        assert!(said[0].contains(", kernel 6.12 against 6.1: host "), "{}", said[0]);
        assert!(said[0].contains("; ebpf "), "{}", said[0]);
    }

    #[test]
    fn one_kernel_is_none_to_speak_of() {
        let records = [Builder::default().build()];
        let book = Book::new(&records);
        assert!(sentences(&book, 0).is_empty());
        assert!(book.columns.iter().all(|column| column.baseline == 0));
    }
}

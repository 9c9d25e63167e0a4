//! What the cnis' own pods cost a node, as a table: sums over the pods of a node, mean and most over
//! the nodes.
//!
//! Owns the sums and how they are written. Called by the page, summary.md and the terminal.

use crate::{
    book::Book,
    units::{bytes, number, seconds},
};
use cnibench_model::{Footprint, LEAST_WINDOW_S, Phase};
use std::collections::{BTreeMap, BTreeSet};

/// The heads of the table's columns.
pub(crate) const HEADS: [&str; 6] =
    ["cni", "nodes", "CPUs, idle", "CPUs, under load", "memory, idle", "memory, under load"];

const EXPLAINED: &str = "What the cni's own pods used on one node, all those there together: its agent, its operator where that runs, and kube-proxy where the cni leaves services to it. A cni of several components has a line for each, over the nodes that have it. The mean over the nodes and, in brackets, the node with the most. CPUs are the mean of the window, memory is the working set at its end, both as the kubelet says. What the kernel does for packets is no pod's: it is in the CPU cost of each series.";

/// What the table leaves out.
const LEFT_OUT: &str = "Under load is until Hubble was first switched: after Hubble was switched the agents restart, which costs more than the load does. What was read from then on is left out of the table; it is in the record.";

/// What the table says of itself.
pub(crate) fn explained(book: &Book<'_>) -> String {
    left_out(book).map_or_else(|| EXPLAINED.to_owned(), |note| format!("{EXPLAINED} {note}"))
}

/// What the table leaves out, if anything.
pub(crate) fn left_out(book: &Book<'_>) -> Option<&'static str> {
    let mut all = book.records.iter().flat_map(|r| &r.footprints);
    all.any(|f| !shown(f)).then_some(LEFT_OUT)
}

/// Is it in the table? Where the agents were restarted it is not what the load costs.
fn shown(footprint: &Footprint) -> bool {
    footprint.stretch == 0
}

/// One cni, or one component of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// The cells, in the order of [`HEADS`].
    pub cells: [String; 6],
    /// Every pod, one line each; of a component none.
    pub pods: Vec<String>,
}

/// The use of one node.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Use {
    /// None: no window was long enough.
    cpus: Option<f64>,
    /// None: the kubelet took no reading.
    memory: Option<f64>,
}

/// Rows for every cni with footprints, in the order of the columns: its sum, then its components.
pub(crate) fn rows(book: &Book<'_>) -> Vec<Row> {
    let mut all = Vec::new();
    for column in &book.columns {
        let own = column.record.footprints.iter().filter(|f| f.cni == *column.spec);
        let own: Vec<&Footprint> = own.collect();
        if own.is_empty() {
            continue;
        }
        let pods = own.iter().map(|f| pod(f)).collect();
        all.push(Row { cells: cells(&column.label, &own), pods });
        let mut components: Vec<&str> = Vec::new();
        for component in own.iter().filter_map(|f| f.component.as_deref()) {
            if !components.contains(&component) {
                components.push(component);
            }
        }
        for component in components.iter().filter(|_| components.len() > 1) {
            let of = |f: &&&Footprint| f.component.as_deref() == Some(*component);
            let part: Vec<&Footprint> = own.iter().filter(of).copied().collect();
            let cells = cells(&format!("{}: {component}", column.label), &part);
            all.push(Row { cells, pods: Vec::new() });
        }
    }
    all
}

fn cells(label: &str, own: &[&Footprint]) -> [String; 6] {
    let nodes: BTreeSet<&str> = own.iter().map(|f| f.node.as_str()).collect();
    let memory_text = |v: f64| bytes(v.round() as u64);
    let cell = |phase, of: fn(&Use) -> Option<f64>, text: fn(f64) -> String| {
        let values: Option<Vec<f64>> = by_node(own, phase).iter().map(of).collect();
        match values.filter(|values| !values.is_empty()) {
            Some(values) => mean_and_most(&values, text),
            None => format!("– ({})", why_not(own, phase)),
        }
    };
    [
        label.to_owned(),
        nodes.len().to_string(),
        cell(Phase::Idle, |u| u.cpus, cpu_text),
        cell(Phase::Load, |u| u.cpus, cpu_text),
        cell(Phase::Idle, |u| u.memory, memory_text),
        cell(Phase::Load, |u| u.memory, memory_text),
    ]
}

fn cpu_text(cpus: f64) -> String {
    number(cpus, if cpus >= 1.0 { 2 } else { 3 })
}

/// Why there is no mean of a phase.
fn why_not(own: &[&Footprint], phase: Phase) -> String {
    let short = own.iter().filter(|f| f.phase == phase && shown(f) && f.cpus.is_none());
    match short.map(|f| f.window_s).reduce(f64::min) {
        None => "not taken".to_owned(),
        Some(0.0) => "no two readings of the kubelet's".to_owned(),
        Some(window_s) => {
            format!("window of {}, less than {}", seconds(window_s), seconds(LEAST_WINDOW_S))
        }
    }
}

/// The sums of each node in a phase. Of a pod with several windows CPU is their mean by length, memory
/// that of the last.
fn by_node(own: &[&Footprint], phase: Phase) -> Vec<Use> {
    let mut nodes: BTreeMap<&str, BTreeMap<&str, Vec<&Footprint>>> = BTreeMap::new();
    for footprint in own.iter().filter(|f| f.phase == phase && shown(f)) {
        let pods = nodes.entry(&footprint.node).or_default();
        pods.entry(&footprint.pod).or_default().push(footprint);
    }
    nodes.values().map(sum).collect()
}

/// What the pods of a node used together. A pod whose windows are all too short leaves the sum unknown.
fn sum(pods: &BTreeMap<&str, Vec<&Footprint>>) -> Use {
    let (mut cpus, mut memory) = (Some(0.0), Some(0.0));
    for windows in pods.values() {
        let own = mean(windows.iter().filter_map(|w| Some((w.window_s, w.cpus?))));
        cpus = cpus.zip(own).map(|(sum, own)| sum + own);
        let last = windows.iter().rev().find_map(|w| w.memory_bytes);
        memory = memory.zip(last).map(|(sum, own)| sum + own as f64);
    }
    Use { cpus, memory }
}

/// The mean by length; none of nothing.
fn mean(values: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (length, sum) = values.fold((0.0, 0.0), |(l, s), (w, v)| (l + w, s + w * v));
    (length > 0.0).then(|| sum / length)
}

/// "0.021 (0.032)": mean and most; of one node its value alone.
fn mean_and_most(values: &[f64], text: fn(f64) -> String) -> String {
    let most = values.iter().copied().fold(0.0, f64::max);
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    match values.len() {
        1 => text(mean),
        _ => format!("{} ({})", text(mean), text(most)),
    }
}

fn pod(f: &Footprint) -> String {
    let component = f.component.as_ref().map(|c| format!("{c}, ")).unwrap_or_default();
    let cpus = match f.cpus {
        Some(cpus) => format!("{} CPUs over {}", cpu_text(cpus), seconds(f.window_s)),
        None => format!("no mean of its CPUs over {}", seconds(f.window_s)),
    };
    let stretch = if f.stretch > 0 { format!(" ({})", f.stretch + 1) } else { String::new() };
    format!(
        "{component}{} on {}, {}{stretch}: {cpus}, {}",
        f.pod,
        f.node,
        f.phase.name(),
        f.memory_bytes.map_or_else(|| "no reading of its memory".to_owned(), bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Builder, policies};
    use cnibench_model::CniSpec;

    fn of(footprints: Vec<Footprint>) -> Vec<Row> {
        let records = [cnibench_model::Record { footprints, ..Builder::default().build() }];
        rows(&Book::new(&records))
    }

    fn one(node: &str, pod: &str, phase: Phase, window_s: f64, cpus: f64, mib: u64) -> Footprint {
        Footprint {
            cni: CniSpec::named("ebpf"),
            phase,
            node: node.to_owned(),
            pod: format!("kube-system/{pod}"),
            component: None,
            stretch: 0,
            window_s,
            cpus: (window_s >= LEAST_WINDOW_S).then_some(cpus),
            memory_bytes: Some(mib << 20),
        }
    }

    #[test]
    fn pods_of_a_node_add_up_and_nodes_are_averaged() {
        let rows = of(vec![
            one("a", "agent-a", Phase::Idle, 10.0, 0.01, 100),
            one("a", "envoy-a", Phase::Idle, 10.0, 0.03, 20),
            one("b", "agent-b", Phase::Idle, 10.0, 0.02, 80),
            // Two windows of one pod: by length, and the last memory.
            one("a", "agent-a", Phase::Load, 10.0, 1.0, 100),
            one("a", "agent-a", Phase::Load, 30.0, 2.0, 140),
        ]);
        assert_eq!(rows.len(), 1);
        assert_eq!(
            rows[0].cells,
            ["ebpf", "2", "0.030 (0.040)", "1.75", "100 MiB (120 MiB)", "140 MiB"]
        );
        assert_eq!(
            rows[0].pods[0],
            "kube-system/agent-a on a, idle: 0.010 CPUs over 10 s, 100 MiB"
        );
    }

    #[test]
    fn without_footprints_there_is_no_row() {
        assert!(of(Vec::new()).is_empty());
        let records = [policies()];
        let names: Vec<String> =
            rows(&Book::new(&records)).into_iter().map(|r| r.cells[0].clone()).collect();
        assert_eq!(names, ["flannel-vxlan", "cilium", "cilium-wireguard"]);
    }

    #[test]
    fn a_dash_comes_with_its_reason() {
        let idle = of(vec![one("a", "x", Phase::Idle, 10.0, 0.5, 1)]);
        assert_eq!(idle[0].cells[2..], ["0.500", "– (not taken)", "1 MiB", "– (not taken)"]);
        let short = of(vec![
            one("a", "x", Phase::Idle, 0.0, 0.5, 1),
            one("a", "x", Phase::Load, 3.0, 0.5, 1),
            one("a", "y", Phase::Load, 9.0, 0.5, 1),
        ]);
        assert_eq!(short[0].cells[2], "– (no two readings of the kubelet's)");
        assert_eq!(short[0].cells[3], "– (window of 3 s, less than 5 s)");
        assert_eq!(short[0].cells[5], "2 MiB");
        assert!(short[0].pods[1].contains("no mean of its CPUs over 3 s"), "{:?}", short[0].pods);
    }

    #[test]
    fn what_follows_a_restart_of_the_agents_is_left_out_and_said_to_be() {
        let later = |f: Footprint| Footprint { stretch: 1, ..f };
        let footprints = vec![
            one("a", "agent-old", Phase::Load, 10.0, 1.0, 100),
            one("a", "proxy", Phase::Load, 10.0, 0.5, 20),
            later(one("a", "agent-new", Phase::Load, 30.0, 2.0, 140)),
            later(one("a", "proxy", Phase::Load, 30.0, 0.5, 20)),
        ];
        let records = [cnibench_model::Record { footprints, ..Builder::default().build() }];
        let book = Book::new(&records);
        let rows = rows(&book);
        assert_eq!(rows[0].cells[3], "1.50");
        assert_eq!(rows[0].cells[5], "120 MiB");
        assert_eq!(rows[0].pods.len(), 4, "all of it is kept");
        assert!(explained(&book).contains("after Hubble was switched the agents restart"));
        assert_eq!(left_out(&Book::new(&[policies()])), None);
    }

    #[test]
    fn memory_that_was_not_read_is_not_that_of_before() {
        let unread = |f: Footprint| Footprint { memory_bytes: None, ..f };
        let rows = of(vec![
            one("a", "x", Phase::Idle, 10.0, 0.5, 1),
            unread(one("a", "x", Phase::Load, 0.0, 0.5, 1)),
        ]);
        let none = "– (no two readings of the kubelet's)";
        assert_eq!(rows[0].cells[3..], [none, "1 MiB", none]);
        assert!(rows[0].pods[1].ends_with("no reading of its memory"), "{:?}", rows[0].pods);
    }

    #[test]
    fn components_have_lines_of_their_own() {
        let named = |f: Footprint, name: &str| Footprint { component: Some(name.to_owned()), ..f };
        let rows = of(vec![
            named(one("a", "agent-a", Phase::Idle, 10.0, 0.01, 100), "agent"),
            named(one("b", "agent-b", Phase::Idle, 10.0, 0.03, 100), "agent"),
            named(one("a", "proxy-a", Phase::Idle, 10.0, 0.02, 20), "kube-proxy"),
        ]);
        let seen: Vec<_> =
            rows.iter().map(|r| [&*r.cells[0], &*r.cells[1], &*r.cells[2]]).collect();
        assert_eq!(
            seen,
            [
                ["ebpf", "2", "0.030 (0.030)"],
                ["ebpf: agent", "2", "0.020 (0.030)"],
                ["ebpf: kube-proxy", "1", "0.020"],
            ]
        );
        assert!(rows[0].pods[2].starts_with("kube-proxy, kube-system/proxy-a on a"));
        let one = of(vec![named(one("a", "x", Phase::Idle, 10.0, 0.5, 1), "agent")]);
        assert_eq!(one.len(), 1);
    }
}

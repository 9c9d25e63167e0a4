//! What the cnis' own pods cost a node, as a table: sums over the pods of a node, mean and most over
//! the nodes.
//!
//! Owns the sums and how they are written. Called by the page, summary.md and the terminal.

use crate::{
    book::Book,
    units::{bytes, number, seconds},
};
use cnibench_model::{Footprint, Phase};
use std::collections::{BTreeMap, BTreeSet};

/// The heads of the table's columns.
pub(crate) const HEADS: [&str; 6] =
    ["cni", "nodes", "CPUs, idle", "CPUs, under load", "memory, idle", "memory, under load"];

/// What the table says of itself.
pub(crate) const EXPLAINED: &str = "What the cni's own pods used on one node, all its pods there together: the mean over the nodes and, in brackets, the node with the most. CPUs are the mean of the window, memory is the working set at its end, both as the kubelet says. What the kernel does for packets is no pod's: it is in the CPU cost of each series.";

/// One cni.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// The cells, in the order of [`HEADS`].
    pub cells: [String; 6],
    /// Every pod, one line each.
    pub pods: Vec<String>,
}

/// The use of one node.
#[derive(Debug, Clone, Copy, Default)]
struct Use {
    cpus: f64,
    memory: f64,
}

/// A row for every cni with footprints, in the order of the columns.
pub(crate) fn rows(book: &Book<'_>) -> Vec<Row> {
    let row = |column: &crate::book::Column<'_>| {
        let own = column.record.footprints.iter().filter(|f| f.cni == *column.spec);
        let own: Vec<&Footprint> = own.collect();
        let nodes: BTreeSet<&str> = own.iter().map(|f| f.node.as_str()).collect();
        let (idle, load) = (by_node(&own, Phase::Idle), by_node(&own, Phase::Load));
        let cpus = |u: &Use| u.cpus;
        let memory = |u: &Use| u.memory;
        let cpu_text = |v: f64| number(v, if v >= 1.0 { 2 } else { 3 });
        let memory_text = |v: f64| bytes(v.round() as u64);
        (!own.is_empty()).then(|| Row {
            cells: [
                column.label.clone(),
                nodes.len().to_string(),
                mean_and_most(&idle, cpus, cpu_text),
                mean_and_most(&load, cpus, cpu_text),
                mean_and_most(&idle, memory, memory_text),
                mean_and_most(&load, memory, memory_text),
            ],
            pods: own.iter().map(|f| pod(f, cpu_text)).collect(),
        })
    };
    book.columns.iter().filter_map(row).collect()
}

/// The sums of each node in a phase. Of a pod with several windows CPU is their mean by length, and
/// memory that of the last.
fn by_node(own: &[&Footprint], phase: Phase) -> Vec<Use> {
    let mut pods: BTreeMap<(&str, &str), Vec<&Footprint>> = BTreeMap::new();
    for footprint in own.iter().filter(|f| f.phase == phase) {
        pods.entry((&footprint.node, &footprint.pod)).or_default().push(footprint);
    }
    let mut nodes: BTreeMap<&str, Use> = BTreeMap::new();
    for ((node, _), windows) in pods {
        let length: f64 = windows.iter().map(|w| w.window_s).sum();
        let busy: f64 = windows.iter().map(|w| w.cpus * w.window_s).sum();
        let plain = windows.iter().map(|w| w.cpus).sum::<f64>() / windows.len() as f64;
        let sum = nodes.entry(node).or_default();
        sum.cpus += if length > 0.0 { busy / length } else { plain };
        sum.memory += windows.last().map_or(0.0, |w| w.memory_bytes as f64);
    }
    nodes.into_values().collect()
}

/// "0.021 (0.032)": mean and most; of one node its value alone, of none a dash.
fn mean_and_most(nodes: &[Use], of: fn(&Use) -> f64, text: impl Fn(f64) -> String) -> String {
    let values: Vec<f64> = nodes.iter().map(of).collect();
    let most = values.iter().copied().fold(0.0, f64::max);
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    match values.len() {
        0 => "–".to_owned(),
        1 => text(mean),
        _ => format!("{} ({})", text(mean), text(most)),
    }
}

fn pod(f: &Footprint, cpus: impl Fn(f64) -> String) -> String {
    format!(
        "{} on {}, {}: {} CPUs over {}, {}",
        f.pod,
        f.node,
        f.phase.name(),
        cpus(f.cpus),
        seconds(f.window_s),
        bytes(f.memory_bytes)
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
            window_s,
            cpus,
            memory_bytes: mib << 20,
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
        let idle = of(vec![one("a", "x", Phase::Idle, 0.0, 0.5, 1)]);
        assert_eq!(idle[0].cells[2..], ["0.500", "–", "1 MiB", "–"]);
    }
}

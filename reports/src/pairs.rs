//! Values over many pairs of nodes: what each pair measured, which pair is the worst, which node is
//! behind it.
//!
//! Owns the words for it; drawing is `figure::heat`'s. Called by the figures and, for [`Over`], by
//! everything that counts values.

use crate::{
    book::Entry,
    natural, stats,
    units::{Scale, counted},
};
use cnibench_model::{Direction, Metric, Unit};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// What the values behind a median are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// Repeated trials between the same nodes: their spread is repeat noise.
    Trials,
    /// Pairs of nodes, each by the median of its trials: their spread is that of the cluster.
    NodePairs,
}

impl Over {
    /// "1 trial", "12 node pairs".
    pub fn count(self, n: usize) -> String {
        match self {
            Self::Trials => stats::trials(n),
            Self::NodePairs => counted(n as u64, "node pair"),
        }
    }
}

/// A node is named when its pairs rank so much worse than the others that chance does it in fewer
/// than this share of clusters, corrected for the number of nodes.
const CHANCE: f64 = 0.05;
/// Most pairs and most nodes named.
const NAMED: usize = 3;
/// Clusters of fewer nodes have too few pairs to tell a node from its partners.
const NODES_TO_TELL: usize = 4;

/// The values of one metric of one cell, by client and server node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pairs<'a> {
    /// Names, counted as people count.
    pub nodes: Vec<&'a str>,
    /// Median by position of client and server in `nodes`.
    pub cells: BTreeMap<(usize, usize), f64>,
    pub metric: Metric,
    /// Median of all cells.
    pub median: f64,
}

/// A node whose pairs rank worse than those of the others.
#[derive(Debug, Clone, PartialEq)]
struct Slow<'a> {
    name: &'a str,
    /// Pairs of it, at either end, that are worse than the median of all.
    worse: usize,
    of: usize,
    /// Probability of such ranks by chance.
    chance: f64,
}

impl<'a> Pairs<'a> {
    /// The pairs of a cell; none where it has fewer than two with a value.
    pub fn of(entry: &Entry<'a>, metric: Metric) -> Option<Self> {
        let values = entry.by_pair(metric);
        let mut nodes: Vec<&str> =
            values.iter().flat_map(|(p, _)| [p.client.as_str(), p.server.as_str()]).collect();
        nodes.sort_by(|a, b| natural::compare(a, b));
        nodes.dedup();
        let places: HashMap<&str, usize> = nodes.iter().enumerate().map(|(i, n)| (*n, i)).collect();
        let place = |name: &str| places.get(name).copied();
        let cells: BTreeMap<(usize, usize), f64> = values
            .iter()
            .filter_map(|(p, value)| Some(((place(&p.client)?, place(&p.server)?), *value)))
            .collect();
        let all: Vec<f64> = cells.values().copied().collect();
        let median = stats::median(&all)?;
        (cells.len() >= 2).then_some(Self { nodes, cells, metric, median })
    }

    /// How bad a value is: more is worse.
    fn badness(&self, value: f64) -> f64 {
        match self.metric.direction() {
            Direction::HigherIsBetter => -value,
            Direction::LowerIsBetter => value,
        }
    }

    /// What to look at first: the worst pairs, and nodes that are behind many bad ones.
    pub fn sentence(&self, scale: &Scale) -> String {
        let mut order: Vec<(&(usize, usize), &f64)> = self.cells.iter().collect();
        order.sort_by(|a, b| self.badness(*b.1).total_cmp(&self.badness(*a.1)));
        let count = if order.len() >= 2 * NAMED { NAMED } else { 1 };
        let worst: Vec<String> = order[..count]
            .iter()
            .map(|((client, server), value)| {
                format!("{} → {} {}", self.nodes[*client], self.nodes[*server], scale.text(**value))
            })
            .collect();
        let mut out = format!(
            "Worst pair{}: {}; median of all {} {}.",
            if count == 1 { "" } else { "s" },
            worst.join(", "),
            counted(self.cells.len() as u64, "pair"),
            scale.text(self.median),
        );
        if self.nodes.len() >= NODES_TO_TELL {
            out.push(' ');
            out.push_str(&self.nodes_sentence());
        }
        out
    }

    fn nodes_sentence(&self) -> String {
        let worse = match self.metric.unit() {
            Unit::Nanoseconds => "slower than",
            Unit::BitsPerSecond | Unit::TransactionsPerSecond | Unit::PacketsPerSecond => "below",
            _ => "worse than",
        };
        let slow = self.slow_nodes();
        let named: Vec<String> = slow
            .iter()
            .take(NAMED)
            .map(|n| {
                format!(
                    "node {} is {worse} the median in {} of its {}",
                    n.name,
                    n.worse,
                    counted(n.of as u64, "pair")
                )
            })
            .collect();
        match slow.len() {
            0 => "No node's pairs stand out from those of the others.".to_owned(),
            all if all > NAMED => {
                format!("{}; {} more stand out.", capital(&named.join("; ")), all - NAMED)
            }
            _ => format!("{}.", capital(&named.join("; "))),
        }
    }

    /// Nodes whose pairs are worse than chance, the surest first.
    fn slow_nodes(&self) -> Vec<Slow<'a>> {
        let bad: Vec<f64> = self.cells.values().map(|v| self.badness(*v)).collect();
        let ranks = stats::midranks(&bad);
        let middle = self.badness(self.median);
        // Sum of ranks, pairs, pairs worse than the median; of each node.
        let mut sums = vec![(0.0, 0usize, 0usize); self.nodes.len()];
        for (((client, server), rank), bad) in self.cells.keys().zip(&ranks).zip(&bad) {
            let ends = if client == server { vec![*client] } else { vec![*client, *server] };
            for node in ends {
                let (sum, of, worse) = &mut sums[node];
                *sum += rank;
                *of += 1;
                *worse += usize::from(*bad > middle);
            }
        }
        let mut slow: Vec<Slow<'a>> = sums
            .iter()
            .zip(&self.nodes)
            .map(|(&(sum, of, worse), &name)| {
                let chance = stats::rank_sum_tail(sum, of, ranks.len());
                Slow { name, worse, of, chance }
            })
            .filter(|n| n.chance * (self.nodes.len() as f64) < CHANCE)
            .collect();
        slow.sort_by(|a, b| a.chance.total_cmp(&b.chance));
        slow
    }
}

fn capital(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |c| c.to_uppercase().chain(rest).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        book::Book,
        fixtures::{Builder, usual},
    };
    use cnibench_model::{Clock, Placement, Workload};

    fn said(nodes: usize, slow: Option<usize>) -> String {
        let series = vec![(Workload::TcpRr, Placement::CrossNode)];
        let paths = usual()[..1].to_vec();
        let builder = Builder { paths, series, nodes, slow, trials: 2, ..Builder::default() };
        let records = [builder.build()];
        let book = Book::new(&records);
        let entry = book.entry(0, 0).unwrap();
        assert_eq!(entry.pairs(), nodes * (nodes - 1));
        assert_eq!(entry.trials.len(), entry.pairs() * 2);
        let pairs = Pairs::of(entry, Metric::LatencyP50).unwrap();
        let scale = Scale::of(Metric::LatencyP50, Clock::Wall, &[pairs.median]);
        pairs.sentence(&scale)
    }

    #[test]
    fn a_slow_node_is_named_and_even_ones_are_not() {
        let text = said(12, Some(3));
        assert!(
            text.contains("Node worker3 is slower than the median in 22 of its 22 pairs"),
            "{text}"
        );
        assert!(!text.contains("; node"), "{text}");
        assert!(text.starts_with("Worst pairs: worker"), "{text}");
        assert!(text.contains("median of all 132 pairs"), "{text}");
        let text = said(12, None);
        assert!(text.ends_with("No node's pairs stand out from those of the others."), "{text}");
        // Three nodes cannot tell: two thirds of all pairs are those of any one of them.
        assert!(!said(3, Some(1)).contains("ode worker1 is"), "{}", said(3, Some(1)));
    }

    #[test]
    fn chance_names_no_node_more_often_than_it_may() {
        let named = (0..200u32)
            .filter(|seed| {
                let value = |i: usize| {
                    let x = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15 + u64::from(*seed));
                    1.0 + (x >> 40) as f64 / (1u64 << 24) as f64
                };
                let keys = (0..8).flat_map(|a| (0..8).map(move |b| (a, b)));
                let cells: BTreeMap<_, _> =
                    keys.filter(|(a, b)| a != b).enumerate().map(|(i, k)| (k, value(i))).collect();
                let nodes = ["a", "b", "c", "d", "e", "f", "g", "h"].to_vec();
                let metric = Metric::LatencyP50;
                !Pairs { nodes, cells, metric, median: 1.5 }.slow_nodes().is_empty()
            })
            .count();
        assert!(named <= 20, "{named} of 200");
    }
}

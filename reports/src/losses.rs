//! What the kernel dropped and TCP sent again in the windows of measured trials.
//!
//! Owns the sums, how they are written, and the sentence where nothing was lost. Called by the page and
//! by summary.md.

use crate::{
    book::{Book, Entry},
    stages::Table,
    units::{counted, number, thousands},
};
use cnibench_model::{Trial, Workload, probe::Losses};
use std::collections::BTreeMap;

const EXPLAINED: &str = "What the kernel dropped, by its own reason, and what TCP sent again, in the windows of measured trials and in the namespaces of both ends and of their nodes. What GSO holds together counts once.";
const NO_REASON: &str = "Of NOT_SPECIFIED the kernel says no more: it is also what becomes of some packets in the ordinary way.";

/// Everything that was lost; none where no trial had counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    /// What there is to know of the table, or that nothing was lost.
    pub explained: String,
    /// A line for each cell that lost something; none where none did.
    pub table: Option<Table>,
}

/// Everything that was lost in a book.
pub(crate) fn lost(book: &Book<'_>) -> Option<Lost> {
    let (mut lines, mut trials, mut untouched) = (Vec::new(), 0, 0);
    let mut no_reason = false;
    for row in 0..book.rows.len() {
        for column in 0..book.columns.len() {
            let Some(sum) = book.entry(row, column).and_then(Sum::of) else { continue };
            trials += sum.trials;
            if sum.retransmits == 0 && sum.drops.is_empty() {
                untouched += 1;
                continue;
            }
            no_reason |= sum.drops.keys().any(|(reason, _)| *reason == "NOT_SPECIFIED");
            let name = format!("{}, {}", book.rows[row].title(), book.columns[column].short);
            lines.push((name, sum.cells(book.rows[row].workload)));
        }
    }
    if trials == 0 {
        return None;
    }
    if lines.is_empty() {
        let trials = counted(trials, "measured trial");
        let explained = format!(
            "In the windows of {trials} with counters in the kernel no packet was dropped and no TCP segment sent again."
        );
        return Some(Lost { explained, table: None });
    }
    let mut explained = EXPLAINED.to_owned();
    if untouched > 0 {
        let cells = counted(untouched, "more cell");
        explained += &format!(" In {cells} with counters nothing was lost.");
    }
    if no_reason {
        explained += &format!(" {NO_REASON}");
    }
    let heads = ["series", "packets dropped", "segments sent again"].map(str::to_owned).to_vec();
    Some(Lost { explained, table: Some(Table { heads, lines }) })
}

/// The trials of a cell, added up.
struct Sum<'a> {
    trials: u64,
    /// By reason and place.
    drops: BTreeMap<(&'a str, &'a str), u64>,
    retransmits: u64,
    transactions: u64,
    bytes: u64,
}

impl<'a> Sum<'a> {
    /// None where no trial had counters.
    fn of(entry: &Entry<'a>) -> Option<Self> {
        let with = |trial: &&'a Trial| Some((*trial, trial.losses.as_ref()?));
        let all: Vec<(&Trial, &Losses)> = entry.trials.iter().filter_map(with).collect();
        let mut drops = BTreeMap::new();
        for drop in all.iter().flat_map(|(_, losses)| &losses.drops).filter(|d| d.count > 0) {
            *drops.entry((drop.reason.as_str(), drop.netns_role.as_str())).or_default() +=
                drop.count;
        }
        let flows = |of: fn(&Trial) -> u64| all.iter().map(|(trial, _)| of(trial)).sum();
        (!all.is_empty()).then(|| Self {
            trials: all.len() as u64,
            drops,
            retransmits: all.iter().map(|(_, losses)| losses.retransmits).sum(),
            transactions: flows(|t| t.client.flows.iter().map(|f| f.transactions).sum()),
            bytes: flows(|t| {
                let both = t.client.flows.iter().chain(&t.server.flows);
                both.map(|f| f.received_bytes).sum()
            }),
        })
    }

    fn cells(&self, workload: Workload) -> Vec<String> {
        let mut dropped: Vec<(&(&str, &str), u64)> =
            self.drops.iter().map(|(what, count)| (what, *count)).collect();
        dropped.sort_by_key(|(what, count)| (std::cmp::Reverse(*count), *what));
        let each = dropped
            .iter()
            .map(|((reason, role), count)| format!("{} {reason} in the {role}", thousands(*count)));
        let all = dropped.iter().map(|(_, count)| count).sum();
        let dropped = match each.collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => "none".to_owned(),
            each => format!("{each}{}", self.share(all, workload)),
        };
        let again = match self.retransmits {
            0 => "none".to_owned(),
            n => format!("{}{}", thousands(n), self.share(n, workload)),
        };
        vec![dropped, again]
    }

    /// " (0.52 per GiB)"; empty where nothing went through.
    fn share(&self, count: u64, workload: Workload) -> String {
        let (work, unit) = match workload.is_transactional() {
            true => (self.transactions as f64 / 1_000.0, "1,000 transactions"),
            false => (self.bytes as f64 / f64::from(1 << 30), "GiB"),
        };
        if work <= 0.0 {
            return String::new();
        }
        let share = count as f64 / work;
        let share = match share {
            s if s < 0.005 => "less than 0.01".to_owned(),
            s if s < 10.0 => number(s, 2),
            s => thousands(s.round() as u64),
        };
        format!(" ({share} per {unit})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Builder;
    use cnibench_model::{Record, probe::DropCount};

    fn of(change: impl Fn(&mut Trial)) -> Option<Lost> {
        let mut record: Record = Builder::default().build();
        record.trials.iter_mut().for_each(change);
        let records = [record];
        lost(&Book::new(&records))
    }

    fn drop(reason: &str, role: &str, count: u64) -> DropCount {
        DropCount { reason: reason.to_owned(), netns_role: role.to_owned(), count }
    }

    #[test]
    fn without_counters_nothing_is_said_and_without_losses_one_sentence() {
        assert_eq!(of(|_| {}), None);
        let none = of(|t| t.losses = Some(Losses::default())).unwrap();
        assert_eq!(none.table, None);
        let all = Builder::default().build().trials.len() as u64;
        assert_eq!(
            none.explained,
            format!(
                "In the windows of {} measured trials with counters in the kernel no packet was dropped and no TCP segment sent again.",
                thousands(all)
            )
        );
    }

    #[test]
    fn losses_are_added_up_and_set_against_the_work() {
        let lost = of(|t| {
            let own = t.case.0.contains("flannel-vxlan");
            let mut losses = Losses::default();
            if own && t.workload == Workload::TcpRr {
                losses.drops = vec![drop("NO_SOCKET", "server", 1), drop("TTL", "client", 0)];
                t.client.flows[0].transactions = 4_000;
            } else if own && t.workload == Workload::TcpStream {
                losses.retransmits = 3;
                losses.drops = vec![drop("NOT_SPECIFIED", "client's node", 1)];
                t.server.flows[0].received_bytes = 2 << 30;
            }
            t.losses = Some(losses);
        });
        let lost = lost.unwrap();
        let table = lost.table.unwrap();
        assert!(lost.explained.contains(" more cells with counters nothing was lost. Of NOT_"));
        assert!(table.lines.iter().all(|(name, _)| name.ends_with(", flannel-vxlan")), "{table:?}");
        let line = |name: &str| {
            let found = table.lines.iter().find(|(n, _)| n.starts_with(name));
            found.unwrap_or_else(|| panic!("{name}: {table:?}")).1.clone()
        };
        let [dropped, again] = &line("tcp_rr")[..] else { panic!("{table:?}") };
        assert!(dropped.ends_with(" NO_SOCKET in the server (0.25 per 1,000 transactions)"));
        assert_eq!(again, "none");
        let [dropped, again] = &line("tcp_stream")[..] else { panic!("{table:?}") };
        assert!(dropped.contains(" NOT_SPECIFIED in the client's node (0.50 per GiB)"));
        assert!(again.ends_with(" (1.50 per GiB)"), "{again}");
    }
}

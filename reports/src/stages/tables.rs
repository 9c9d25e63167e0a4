//! The numbers of the accounting: stages by cni, and what was left out, dropped or lost.
//!
//! Owns their rows and words. Called by the page and by summary.md.

use super::Account;
use crate::{
    book::Book,
    stats::Effect,
    units::{Scale, number, thousands},
    words,
};
use cnibench_model::{Direction as Better, Metric, Stage, probe::Direction};
use std::collections::BTreeSet;

/// A table: a name for each line, then one cell for each head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub heads: Vec<String>,
    pub lines: Vec<(String, Vec<String>)>,
}

/// What each stage has of the mean round trip: "request + response" in one unit.
pub(crate) fn per_stage(book: &Book<'_>, accounts: &[Account<'_>]) -> Table {
    let means: Vec<f64> = accounts.iter().map(|a| a.mean_ns).collect();
    let scale = Scale::of(Metric::LatencyMean, book.clock(), &means);
    // One number of digits for what is added up.
    let text = |ns: f64| number(ns / scale.divisor, 2);
    let mut heads = vec![format!("stage, {}", scale.unit)];
    heads.extend(accounts.iter().map(|a| book.columns[a.column].short.clone()));
    let there: BTreeSet<Stage> = accounts.iter().flat_map(|a| &a.parts).map(|p| p.stage).collect();
    let mut lines: Vec<(String, Vec<String>)> = there
        .into_iter()
        .map(|stage| {
            let cells = accounts.iter().map(|a| {
                let of = |direction| {
                    let own = a.parts.iter().find(|p| (p.stage, p.direction) == (stage, direction));
                    own.map_or_else(|| "–".to_owned(), |p| text(p.ns))
                };
                format!("{} + {}", of(Direction::Request), of(Direction::Response))
            });
            (format!("{} {stage}", place(stage)), cells.collect())
        })
        .collect();
    let mut push = |name: &str, of: &dyn Fn(&Account<'_>) -> String| {
        lines.push((name.to_owned(), accounts.iter().map(of).collect()));
    };
    push("unattributed", &|a| text(a.unattributed()));
    push("mean round trip", &|a| text(a.mean_ns));
    push("accounted for", &|a| format!("{} %", number(a.accounted() * 100.0, 1)));
    Table { heads, lines }
}

/// The number by which figures call a stage.
pub(crate) fn place(stage: Stage) -> usize {
    Stage::ALL.iter().position(|s| *s == stage).map_or(0, |i| i + 1)
}

/// What was behind the stages and what is missing from them.
pub(crate) fn accounting(book: &Book<'_>, accounts: &[Account<'_>]) -> Table {
    let mut heads = vec!["probing".to_owned()];
    heads.extend(accounts.iter().map(|a| book.columns[a.column].short.clone()));
    let mut lines = Vec::new();
    let mut push = |name: &str, of: &dyn Fn(&Account<'_>) -> String| {
        lines.push((name.to_owned(), accounts.iter().map(of).collect()));
    };
    push("probed trials", &|a| a.trials.len().to_string());
    push("transactions", &|a| thousands(a.transactions));
    push("cost of probing", &cost);
    push("events in no stage", &|a| {
        let kinds = a.discards();
        let texts = kinds.iter().map(|(why, n)| format!("{why} {}", thousands(*n)));
        or_none(texts.collect())
    });
    push("events lost", &|a| {
        let lost = a.trials.iter().map(|t| t.result.lost_events).sum();
        or_none(if lost == 0 { Vec::new() } else { vec![thousands(lost)] })
    });
    push("packets dropped", &|a| or_none(drops(a)));
    push("retransmits", &|a| {
        let sent: u64 = a.trials.iter().map(|t| t.result.retransmits).sum();
        or_none(if sent == 0 { Vec::new() } else { vec![thousands(sent)] })
    });
    Table { heads, lines }
}

fn or_none(parts: Vec<String>) -> String {
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

/// "7 % fewer transactions (5–9 %), 6 pairs".
fn cost(account: &Account<'_>) -> String {
    let Some(change) = account.cost() else { return "not measured".to_owned() };
    let metric = Metric::TransactionRate;
    let words = words::change(metric, &change, crate::pairs::Over::Trials);
    let shown = change.effect(Better::HigherIsBetter) != Effect::NotShown;
    let range = words::interval(metric, &change).filter(|_| shown);
    let range = range.map_or_else(String::new, |r| format!(" ({r})"));
    let pairs = match change.interval {
        Some(_) => format!(", {}", crate::units::counted(change.n as u64, "pair")),
        None => String::new(),
    };
    format!("{words}{range}{pairs}")
}

/// "NO_SOCKET in server pod 3", of all trials.
fn drops(account: &Account<'_>) -> Vec<String> {
    let mut counts = std::collections::BTreeMap::<(&str, &str), u64>::new();
    for drop in account.trials.iter().flat_map(|t| &t.result.drops) {
        *counts.entry((&drop.reason, &drop.netns_role)).or_default() += drop.count;
    }
    counts.retain(|_, count| *count > 0);
    let text = |((reason, role), count): (&(&str, &str), &u64)| {
        format!("{reason} in {role} {}", thousands(*count))
    };
    counts.iter().map(text).collect()
}

/// What a reader must know of an accounting before trusting it.
pub(crate) fn remarks(book: &Book<'_>, accounts: &[Account<'_>]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for account in accounts.iter().filter(|a| a.overlaps()) {
        out.push(format!(
            "{}: the stages add up to {} % of the mean round trip, so that some time is counted twice: the accounting overlaps.",
            book.columns[account.column].short,
            number(account.accounted() * 100.0, 0)
        ));
    }
    let mut of_programs: std::collections::BTreeMap<String, Vec<&str>> =
        std::collections::BTreeMap::new();
    let mut of_trials: std::collections::BTreeMap<&str, Vec<&str>> =
        std::collections::BTreeMap::new();
    for account in accounts {
        let name = book.columns[account.column].short.as_str();
        let programs = account.trials.iter().flat_map(|t| &t.result.programs);
        for program in programs.filter(|p| !p.attached) {
            let why = program.reason.as_deref().unwrap_or("no reason given");
            let cnis = of_programs.entry(format!("{} ({why})", program.name)).or_default();
            if !cnis.contains(&name) {
                cnis.push(name);
            }
        }
        let warnings: BTreeSet<&str> =
            account.trials.iter().flat_map(|t| &t.warnings).map(String::as_str).collect();
        for warning in warnings {
            of_trials.entry(warning).or_default().push(name);
        }
    }
    // Each is said once, however many cnis it is of.
    out.extend(of_trials.iter().map(|(warning, cnis)| match cnis.len() == accounts.len() {
        true => format!("In probed trials of all: {warning}."),
        false => format!("In probed trials of {}: {warning}.", cnis.join(", ")),
    }));
    out.extend(of_programs.iter().map(|(program, cnis)| match cnis.len() == accounts.len() {
        true => format!("Not attached: {program}."),
        false => format!("Not attached for {}: {program}.", cnis.join(", ")),
    }));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixtures::probed, stages};

    fn with<T>(check: impl FnOnce(&Book<'_>, &[Account<'_>]) -> T) -> T {
        let records = [probed()];
        let book = Book::new(&records);
        let accounts = stages::accounts(&book, stages::rows(&book)[0]);
        check(&book, &accounts)
    }

    #[test]
    fn a_stage_has_a_cell_for_each_cni_and_a_dash_where_the_path_has_none() {
        let table = with(per_stage);
        assert_eq!(table.heads[0], "stage, µs");
        assert!(table.lines.iter().all(|(_, cells)| cells.len() == 6));
        let line = |name: &str| table.lines.iter().find(|(n, _)| n == name).unwrap().1.clone();
        assert_eq!(line("5 encapsulation")[0], "– + –");
        assert!(line("5 encapsulation")[1].contains(" + "), "{:?}", line("5 encapsulation"));
        assert!(line("accounted for").iter().all(|c| c.starts_with("96.") || c.starts_with("97.")));
    }

    #[test]
    fn what_was_lost_is_counted_by_its_reason() {
        let table = with(accounting);
        let line = |name: &str| table.lines.iter().find(|(n, _)| n == name).unwrap().1.clone();
        assert_eq!(line("probed trials")[0], "4");
        assert_eq!(line("events in no stage")[1], "skb-reused 12, too-old 48");
        assert_eq!(line("packets dropped")[1], "NO_SOCKET in server pod 4");
        assert_eq!(line("retransmits")[0], "none");
        assert!(line("cost of probing")[0].contains("% fewer transactions ("), "{table:?}");
        assert!(line("cost of probing")[0].ends_with("4 pairs"), "{table:?}");
        let said = with(remarks);
        assert_eq!(said, ["Not attached: fentry/vxlan_xmit (no such function in this kernel)."]);
    }

    #[test]
    fn a_warning_is_said_once_with_its_cnis() {
        let mut record = probed();
        record.probed.iter_mut().for_each(|t| t.warnings.push("CPU 1 was full".to_owned()));
        let last = record.probed.last().unwrap().case.clone();
        let one = record.probed.iter_mut().find(|t| t.case == last).unwrap();
        one.warnings.push("late".to_owned());
        let records = [record];
        let book = Book::new(&records);
        let said = remarks(&book, &stages::accounts(&book, stages::rows(&book)[0]));
        assert!(said.contains(&"In probed trials of all: CPU 1 was full.".to_owned()), "{said:?}");
        let late: Vec<_> = said.iter().filter(|r| r.ends_with(": late.")).collect();
        assert!(late.len() == 1 && !late[0].contains("of all"), "{said:?}");
    }
}

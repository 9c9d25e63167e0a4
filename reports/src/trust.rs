//! How far a comparison between cnis can be trusted: whether their trials ran side by side, what the
//! machine did meanwhile, and whether all nodes are one machine.
//!
//! Owns what the head of a report says of it. Called by the book and the matrix.

use crate::{
    book::{Book, record_label},
    matrix::primary,
    paired::{Paired, paired},
    stats,
    units::{counted, duration, number},
};
use cnibench_model::{Case, CaseId, CniSpec, Placement, ProviderKind, Record, Trial};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Trials of a cell from which on its two halves say something of drift.
const ENOUGH_FOR_HALVES: usize = 4;
/// Makings of namespaces from which on their spread is stated.
const ENOUGH_MAKINGS: usize = 3;

/// True when trials of different cnis ran next to each other, so that a drifting machine cancels out.
pub(crate) fn interleaved(record: &Record) -> bool {
    record.header.interleaved && !one_after_another(record)
}

/// How the trials of different cnis followed each other.
pub(crate) fn order(record: &Record) -> &'static str {
    let cnis: BTreeSet<&CniSpec> = record.header.cases.iter().map(|c| &c.cni).collect();
    let host = cnis.iter().find(|c| c.name == "host");
    match host {
        _ if cnis.len() < 2 => "one cni only",
        _ if interleaved(record) => "cnis interleaved in random order",
        Some(host) if cnis.iter().all(|cni| side_by_side(record, cni, host)) => {
            "one cni after the other, each with trials of the host next to its own"
        }
        _ => "one cni after the other",
    }
}

/// True when every trial of a cni shares its block with one of the baseline that ran at most as many
/// trials apart as there are cnis: a baseline that is measured in every cni's cluster.
pub(crate) fn side_by_side(record: &Record, cni: &CniSpec, baseline: &CniSpec) -> bool {
    let rides = matches!(provider(record), Some(ProviderKind::Kind | ProviderKind::Kubeconfig));
    if !rides || cni == baseline {
        return rides;
    }
    let cases: HashMap<&CaseId, &Case> = record.header.cases.iter().map(|c| (&c.id, c)).collect();
    let of = |spec: &CniSpec| {
        let trials = record.trials.iter().filter_map(|t| Some((cases.get(&t.case)?, t)));
        let own: Vec<_> = trials
            .filter(|(case, _)| case.cni == *spec)
            .map(|(case, t)| ((case.series(), t.block), t.sequence))
            .collect();
        own
    };
    let host: HashMap<_, u32> = of(baseline).into_iter().collect();
    let measured: HashSet<_> = host.keys().map(|(series, _)| series.clone()).collect();
    let cnis = record.header.cases.iter().map(|c| &c.cni).collect::<BTreeSet<_>>().len();
    let mut own = of(cni);
    // Of a series that the baseline has not (a service), nothing is compared.
    own.retain(|((series, _), _)| measured.contains(series));
    let near = |at: u32, sequence: u32| at.abs_diff(sequence) as usize <= cnis;
    !own.is_empty()
        && own.iter().all(|(key, sequence)| host.get(key).is_some_and(|at| near(*at, *sequence)))
}

fn provider(record: &Record) -> Option<ProviderKind> {
    record.header.cases.first().map(|c| c.provider)
}

/// True when every cni of a real cluster had its trials before or after those of every other,
/// whatever the record's head says: clusters that came up one after another.
fn one_after_another(record: &Record) -> bool {
    if !matches!(provider(record), Some(ProviderKind::Kind | ProviderKind::Kubeconfig)) {
        return false;
    }
    let cni_of: HashMap<&CaseId, &CniSpec> =
        record.header.cases.iter().map(|c: &Case| (&c.id, &c.cni)).collect();
    let mut ranges: BTreeMap<&CniSpec, (u32, u32, usize)> = BTreeMap::new();
    for trial in &record.trials {
        let Some(cni) = cni_of.get(&trial.case) else { continue };
        let range = ranges.entry(cni).or_insert((u32::MAX, 0, 0));
        *range = (range.0.min(trial.sequence), range.1.max(trial.sequence), range.2 + 1);
    }
    let mut ranges: Vec<_> = ranges.into_values().collect();
    ranges.sort_unstable();
    let apart = ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
    ranges.len() > 1 && apart && ranges.iter().all(|(_, _, trials)| *trials > 1)
}

/// What a reader must know before comparing columns.
pub(crate) fn remarks(book: &Book<'_>) -> Vec<String> {
    let mut remarks = Vec::new();
    for record in book.records {
        let of = match book.records {
            [_] => String::new(),
            _ => format!("{}: ", record_label(book.records, record)),
        };
        let columns: Vec<_> =
            book.columns.iter().filter(|c| std::ptr::eq(c.record, record)).collect();
        if columns.len() > 1 && !interleaved(record) {
            let remark = match columns.iter().all(|c| c.interleaved) {
                true => in_every_cluster(record),
                false => apart(book, record),
            };
            remarks.push(format!("{of}{remark}"));
        }
        remarks.extend(in_pairs(record).map(|remark| format!("{of}{remark}")));
        if on_one_machine(record) {
            let kind = if provider(record) == Some(ProviderKind::Kind) {
                "containers of kind on "
            } else {
                ""
            };
            remarks.push(format!(
                "{of}All nodes are {kind}one machine (both ends of every trial name the same): they share its CPUs, its kernel and its other work, and between nodes there is no network card."
            ));
        }
    }
    remarks
}

/// How far pairs on real clusters can be trusted: their clock is the wall's.
fn in_pairs(record: &Record) -> Option<String> {
    let table = paired(record)?;
    let arms = [&table.pairing.baseline, &table.pairing.candidate];
    let one_host = arms.iter().filter(|arm| arm.name == "host").count() == 1;
    let how = match (provider(record)?, table.pairing.adjacent) {
        (ProviderKind::Netns, _) => return between_namespaces(&table),
        (ProviderKind::Kubeconfig, true) => {
            "Both arms are pods of one cluster, and whatever else runs there is beside both."
        }
        (ProviderKind::Kind, true) if one_host => {
            "Both arms were measured in one cluster, in its pods and on its nodes' own network."
        }
        (ProviderKind::Kind, true) => {
            "Both arms' clusters were up at once, so that each ran beside the other's idle pods."
        }
        (ProviderKind::Kubeconfig, false) => {
            "The arms' pods were there one after the other, in random order."
        }
        (ProviderKind::Kind, false) => {
            "The arms' clusters were up one after the other, in random order."
        }
        _ => return None,
    };
    let made = match provider(record)? {
        ProviderKind::Kubeconfig => {
            "what the pods happen to be like each time they are made, which only making them again shows. The cluster and its CNI stay the same throughout: what another installation would be like is in nothing here"
        }
        _ => {
            "what a cluster happens to be like each time it is made, which only making it again shows"
        }
    };
    let mut out = format!(
        "{how} The clock is the wall's: what the machine does within a pair is in its change, and so is {made}."
    );
    match table.between_rebuilds() {
        Some(moved) => out.push_str(&format!(" {}", between(moved))),
        None => out.push_str(" With one making that is in no interval."),
    }
    out.push_str(
        " A cni compared with itself in the same way shows what changes there are here of nothing.",
    );
    Some(out)
}

/// Of namespaces, from as many makings on as say something of their spread.
fn between_namespaces(table: &Paired) -> Option<String> {
    (table.measured.makings >= ENOUGH_MAKINGS).then_some(())?;
    table.between_rebuilds().map(between)
}

/// How far makings are apart: median and largest over the cases, with their number.
fn between((median, most, cases): (f64, f64, usize)) -> String {
    format!(
        "From one making to another the change of a case's main metric moved by {} % (median of {cases} {}) and by up to {} %: do not trust a smaller one.",
        percent(median),
        if cases == 1 { "case" } else { "cases" },
        percent(most),
    )
}

/// Do the trials themselves say that the nodes of a real cluster are one machine? Of a cluster that was
/// there only trials between nodes can.
fn on_one_machine(record: &Record) -> bool {
    let between = |t: &Trial| {
        let mut cases = record.header.cases.iter();
        cases.any(|c| c.id == t.case && c.placement == Placement::CrossNode)
    };
    let known = match provider(record) {
        Some(ProviderKind::Kind) => !record.trials.is_empty(),
        Some(ProviderKind::Kubeconfig) => record.trials.iter().any(between),
        _ => false,
    };
    known && record.trials.iter().all(|t| t.client.node.machine == t.server.node.machine)
}

/// The cnis had a time of their own each, but the baseline was measured in every one.
fn in_every_cluster(record: &Record) -> String {
    let span = span(record).map_or_else(String::new, |s| format!(", over {}", duration(s)));
    format!(
        "Clusters came up one after another{span}. Each change against the host is estimated from trials next to each other in the cni's own cluster, so that the machine's drift is not in it: compare cnis by their changes. Medians of different cnis were taken at different times, and the host's is over all clusters."
    )
}

/// Trials of the cnis did not run side by side: what that means, with what can be measured of it.
fn apart(book: &Book<'_>, record: &Record) -> String {
    let clusters = matches!(provider(record), Some(ProviderKind::Kind | ProviderKind::Kubeconfig));
    let how = match clusters {
        true => "Each cni was measured in a time of its own, one after another",
        false => "Trials of different cnis were not interleaved",
    };
    let span = span(record).map_or_else(String::new, |s| format!(", over {}", duration(s)));
    let mut out = format!(
        "{how}{span}: what the machine did differently from one cni to the next is not cancelled, counts as a difference between them, and is in no interval."
    );
    match drift(book, record) {
        Some(drift) => out.push_str(&format!(
            " Between the first and the second half of a cni's own trials values moved by {} % (median of {}) and by up to {} %: do not trust a difference between cnis that is not clearly larger.",
            percent(drift.median),
            counted(drift.cells as u64, "cell"),
            percent(drift.most),
        )),
        None => out.push_str(
            " How much it drifted meanwhile cannot be told from these trials: compare large differences only.",
        ),
    }
    out
}

/// Seconds from the first trial's start to the last one's.
fn span(record: &Record) -> Option<f64> {
    let started = || record.trials.iter().map(|t| t.started);
    let seconds = started().max()?.duration_since(started().min()?).as_secs_f64();
    (seconds >= 1.0).then_some(seconds)
}

/// How much values moved within cells.
struct Drift {
    /// Of all cells, as a share: 0.02 is 2 %.
    median: f64,
    most: f64,
    cells: usize,
}

fn drift(book: &Book<'_>, record: &Record) -> Option<Drift> {
    let mut moved = Vec::new();
    for row in 0..book.rows.len() {
        let Some(metric) = book.first_measured(row, primary(book.rows[row].workload)) else {
            continue;
        };
        for (column, _) in
            book.columns.iter().enumerate().filter(|(_, c)| std::ptr::eq(c.record, record))
        {
            let Some(entry) = book.entry(row, column) else { continue };
            // Pairs of nodes follow each other in time, and differ for reasons of their own.
            if entry.over() != crate::pairs::Over::Trials {
                continue;
            }
            let mut trials = entry.shown().to_vec();
            trials.sort_by_key(|t| t.sequence);
            let values: Vec<f64> = trials.iter().filter_map(|t| t.value(metric)).collect();
            if values.len() < ENOUGH_FOR_HALVES {
                continue;
            }
            let (first, second) = values.split_at(values.len() / 2);
            if let (Some(a), Some(b)) = (stats::median(first), stats::median(second)) {
                moved.push((b / a).ln().abs().exp() - 1.0);
            }
        }
    }
    moved.retain(|m| m.is_finite());
    let most = moved.iter().copied().fold(0.0, f64::max);
    Some(Drift { median: stats::median(&moved)?, most, cells: moved.len() })
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    number(percent, usize::from(percent < 10.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Builder;
    use cnibench_model::Workload;

    fn kind() -> Builder {
        let series = vec![(Workload::TcpRr, Placement::CrossNode)];
        Builder { provider: ProviderKind::Kind, series, ..Builder::default() }
    }

    fn said(record: Record) -> String {
        let records = [record];
        remarks(&Book::new(&records)).join("\n")
    }

    /// The same trials, but one cni after another.
    fn sequential(mut record: Record) -> Record {
        record.trials.sort_by(|a, b| (&a.case, a.index).cmp(&(&b.case, b.index)));
        for (i, trial) in record.trials.iter_mut().enumerate() {
            trial.sequence = i as u32;
            trial.started = record.header.started + jiff::SignedDuration::from_secs(i as i64 * 20);
        }
        record
    }

    #[test]
    fn clusters_one_after_another_are_found_whatever_the_head_says() {
        let record = sequential(kind().build());
        assert!(record.header.interleaved && !interleaved(&record));
        let text = said(record);
        assert!(text.contains("one after another, over 9 min 40 s: what the machine"), "{text}");
        assert!(text.contains("is not cancelled"), "{text}");
        assert!(text.contains("% (median of 5 cells) and by up to"), "{text}");
        assert!(text.contains("containers of kind on one machine"), "{text}");
        assert!(interleaved(&kind().build()));
    }

    /// Clusters one after another, the baseline in each: blocks of two trials.
    fn riding() -> Record {
        let mut record = kind().build();
        let cases = record.header.cases.clone();
        let host: Vec<_> = cases.iter().filter(|c| c.cni.name == "host").collect();
        let mut trials = Vec::new();
        for (cluster, case) in cases.iter().filter(|c| c.cni.name != "host").enumerate() {
            for trial in record.trials.iter().filter(|t| t.case == case.id) {
                let block = cluster as u32 * 100 + trial.block;
                for own in [&case.id, &host[0].id] {
                    let like =
                        |t: &&cnibench_model::Trial| t.case == *own && t.block == trial.block;
                    let mut trial = record.trials.iter().find(like).unwrap().clone();
                    trial.block = block;
                    trial.sequence = trials.len() as u32;
                    trials.push(trial);
                }
            }
        }
        record.trials = trials;
        record.header.interleaved = false;
        record
    }

    #[test]
    fn a_baseline_in_every_cluster_is_compared_in_pairs() {
        let records = [riding()];
        let book = Book::new(&records);
        assert!(book.columns.iter().all(|c| c.interleaved));
        let text = remarks(&book).join("\n");
        assert!(text.contains("next to each other in the cni's own cluster"), "{text}");
        assert!(order(&records[0]).ends_with("trials of the host next to its own"));
        let changes = crate::meaning::meaning(&book).into_iter().find(|(t, _)| *t == "Changes");
        assert!(changes.unwrap().1.contains("of different clusters ran at different times"));
        let mut apart = riding();
        let last = apart.trials.len() as u32;
        // One block whose baseline ran at the other end of the run: nothing is adjacent any more.
        apart.trials[1].sequence = last + 500;
        let records = [apart];
        assert!(!Book::new(&records).columns.iter().all(|c| c.interleaved));
    }

    #[test]
    fn pairs_on_real_clusters_say_how_far_they_can_be_trusted() {
        let on = |provider, last| {
            let mut record = crate::fixtures::in_pairs(3, 6, last);
            record.header.cases.iter_mut().for_each(|c| c.provider = provider);
            said(record)
        };
        let text = on(ProviderKind::Netns, 1.2);
        assert!(text.starts_with("From one making to another"), "{text}");
        assert!(text.contains("by up to 2"), "{text}");
        assert_eq!(said(crate::fixtures::in_pairs(2, 6, 1.0)), "");
        let text = on(ProviderKind::Kind, 1.2);
        assert!(
            text.contains("in one cluster") && text.contains("The clock is the wall's"),
            "{text}"
        );
        assert!(text.contains("by up to 2"), "{text}");
        let text = on(ProviderKind::Kubeconfig, 1.0);
        assert!(text.contains("pods of one cluster") && text.contains("stay the same"), "{text}");
        let mut record = crate::fixtures::in_pairs(1, 6, 1.0);
        record.header.cases.iter_mut().for_each(|c| c.provider = ProviderKind::Kind);
        record.header.pairing.as_mut().unwrap().adjacent = false;
        record.header.interleaved = false;
        let text = said(sequential(record));
        assert!(text.contains("up one after the other, in random order"), "{text}");
        assert!(text.contains("With one making that is in no interval"), "{text}");
    }

    #[test]
    fn drift_is_measured_within_cells() {
        let mut record = sequential(kind().build());
        let metric = cnibench_model::Metric::LatencyP50;
        for trial in &mut record.trials {
            let value = if trial.index < 3 { 100.0 } else { 107.0 };
            trial.samples.iter_mut().filter(|s| s.metric == metric).for_each(|s| s.value = value);
        }
        let text = said(record);
        assert!(text.contains("moved by 7.0 % (median of 5 cells) and by up to 7.0 %"), "{text}");
        let few = sequential(Builder { trials: 2, ..kind() }.build());
        assert!(said(few).contains("cannot be told from these trials"));
    }

    #[test]
    fn side_by_side_in_namespaces_needs_no_word() {
        assert_eq!(said(Builder::default().build()), "");
        let apart = said(Builder { interleaved: false, ..Builder::default() }.build());
        assert!(apart.starts_with("Trials of different cnis were not interleaved"), "{apart}");
        let two = Builder { two_machines: true, ..kind() }.build();
        assert!(!said(two).contains("one machine"));
        let there = |two_machines| {
            said(Builder { two_machines, provider: ProviderKind::Kubeconfig, ..kind() }.build())
        };
        assert!(there(false).contains("All nodes are one machine"), "{}", there(false));
        assert!(!there(true).contains("one machine"));
    }
}

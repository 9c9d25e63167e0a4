//! Proofs as a report shows them: in which order, and what their ends are called.
//!
//! Owns the words for an outcome. Called by the page, summary.md and the terminal.

use crate::book::{Book, label};
use crate::units::thousands;
use cnibench_model::{Proof, ProofKind, ProofOutcome, Record};
use std::{borrow::Cow, collections::BTreeMap};

/// The word for an outcome.
pub(crate) fn outcome(outcome: ProofOutcome) -> &'static str {
    match outcome {
        ProofOutcome::Passed => "passed",
        ProofOutcome::Failed => "failed",
        ProofOutcome::NotEnforced => "not enforced",
        ProofOutcome::NotTaken => "not taken",
    }
}

/// What an outcome means where its word could be taken for a failure.
pub(crate) fn remark(outcome: ProofOutcome) -> Option<&'static str> {
    match outcome {
        ProofOutcome::NotEnforced => Some("a finding, not a failure"),
        ProofOutcome::NotTaken => Some("nothing rests on it"),
        ProofOutcome::Passed | ProofOutcome::Failed => None,
    }
}

/// A mark that tells an outcome without colour.
pub(crate) fn mark(outcome: ProofOutcome) -> &'static str {
    match outcome {
        ProofOutcome::Passed => "✓",
        ProofOutcome::Failed => "✗",
        ProofOutcome::NotEnforced => "–",
        ProofOutcome::NotTaken => "…",
    }
}

/// Proofs with their records, in the order in which a reader wants them: failed ones, findings, those
/// that were not taken, the rest. Those of single trials stand alone where they failed; those that
/// passed are one line for each cni.
pub(crate) fn in_order<'a>(book: &Book<'a>) -> Vec<(&'a Record, Cow<'a, Proof>)> {
    let mut all: Vec<(&Record, Cow<'a, Proof>)> = Vec::new();
    for record in book.records {
        let of_trials = record.trials.iter().flat_map(|t| &t.proofs);
        let failed = of_trials.filter(|p| p.outcome == ProofOutcome::Failed);
        all.extend(record.proofs.iter().chain(failed).map(|p| (record, Cow::Borrowed(p))));
        all.extend(of_trials_that_passed(record).into_iter().map(|p| (record, Cow::Owned(p))));
    }
    all.sort_by_key(|(_, p)| match p.outcome {
        ProofOutcome::Failed => 0,
        ProofOutcome::NotEnforced => 1,
        ProofOutcome::NotTaken => 2,
        ProofOutcome::Passed => 3,
    });
    all
}

/// For each cni and kind how many trials passed, with the evidence of the last one.
fn of_trials_that_passed(record: &Record) -> Vec<Proof> {
    let mut groups: BTreeMap<(String, ProofKind), Vec<&Proof>> = BTreeMap::new();
    for proof in record.trials.iter().flat_map(|t| &t.proofs) {
        groups.entry((proof.cni.to_string(), proof.kind)).or_default().push(proof);
    }
    let one = |proofs: Vec<&Proof>| {
        let mut passed = proofs.iter().filter(|p| p.outcome == ProofOutcome::Passed);
        let (count, last) = (passed.clone().count(), passed.next_back()?);
        let summary = format!(
            "{} of {} trials were each looked at by themselves and passed; the last one: {}",
            thousands(count as u64),
            thousands(proofs.len() as u64),
            last.summary
        );
        Some(Proof { summary, ..(*last).clone() })
    };
    groups.into_values().filter_map(one).collect()
}

/// Proofs that did not pass, each with "not enforced (a finding, not a failure): cni, kind: summary".
pub(crate) fn not_passed(book: &Book<'_>) -> Vec<String> {
    in_order(book)
        .into_iter()
        .filter(|(_, p)| p.outcome != ProofOutcome::Passed)
        .map(|(record, p)| {
            let remark = remark(p.outcome).map_or_else(String::new, |r| format!(" ({r})"));
            format!(
                "{}{remark}: {}, {}: {}",
                outcome(p.outcome),
                label(book.records, record, &p.cni),
                p.kind.name(),
                p.summary
            )
        })
        .collect()
}

/// For each cni the kinds of proof that passed: "cilium: path, policy".
pub(crate) fn passed(book: &Book<'_>) -> Vec<String> {
    let kinds = |column: &crate::book::Column<'_>| {
        let own = column.record.proofs.iter().filter(|p| p.cni == *column.spec);
        let passed = own.filter(|p| p.outcome == ProofOutcome::Passed);
        let mut kinds: Vec<_> = passed.map(|p| p.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let mut names: Vec<String> = kinds.iter().map(|k| k.name().to_owned()).collect();
        let trials = column.record.trials.iter().flat_map(|t| &t.proofs);
        let trials = trials.filter(|p| p.cni == *column.spec && p.outcome == ProofOutcome::Passed);
        match trials.count() {
            0 => {}
            1 => names.push("encryption of 1 trial by itself".to_owned()),
            n => names.push(format!("encryption of {} trials by themselves", thousands(n as u64))),
        }
        (!names.is_empty()).then(|| format!("{}: {}", column.label, names.join(", ")))
    };
    book.columns.iter().filter_map(kinds).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::policies;

    #[test]
    fn failed_ones_come_first_and_a_finding_is_none_of_them() {
        let records = [policies()];
        let book = Book::new(&records);
        let lines = not_passed(&book);
        assert_eq!(
            lines,
            [
                "failed: cilium-wireguard, mtu: 1,420 bytes were cut into two",
                "not enforced (a finding, not a failure): flannel-vxlan, policy: the denied flow arrived: 20 of 20 connections, with and without the policy",
                "not taken (nothing rests on it): cilium-wireguard, policy: no right to create networkpolicies in the namespace",
            ]
        );
        assert!(passed(&book).contains(&"cilium: path, policy, flows".to_owned()));
        let order: Vec<_> = in_order(&book).iter().map(|(_, p)| p.outcome).collect();
        assert_eq!(order[0], ProofOutcome::Failed);
        assert_eq!(order.last(), Some(&ProofOutcome::Passed));
    }

    #[test]
    fn trials_that_passed_are_one_line_and_one_that_failed_stands_alone() {
        let mut record = policies();
        let cni = record.header.cases[0].cni.clone();
        let proof = |outcome| Proof {
            kind: ProofKind::Encryption,
            cni: cni.clone(),
            outcome,
            summary: format!("none of 7 frames ({})", super::outcome(outcome)),
            evidence: vec!["seen".to_owned()],
        };
        for trial in record.trials.iter_mut().take(3) {
            trial.proofs.push(proof(ProofOutcome::Passed));
        }
        record.trials[3].proofs.push(proof(ProofOutcome::Failed));
        let records = [record];
        let book = Book::new(&records);
        let shown: Vec<_> = in_order(&book)
            .into_iter()
            .filter(|(_, p)| p.kind == ProofKind::Encryption && p.evidence == ["seen"])
            .map(|(_, p)| (p.outcome, p.summary.clone()))
            .collect();
        assert_eq!(shown[0], (ProofOutcome::Failed, "none of 7 frames (failed)".to_owned()));
        assert!(shown[1].1.starts_with("3 of 4 trials were each looked at"), "{shown:?}");
        assert_eq!(shown.len(), 2);
        let label = passed(&book).into_iter().find(|l| l.contains("by themselves")).unwrap();
        assert!(label.ends_with("encryption of 3 trials by themselves"), "{label}");
    }
}

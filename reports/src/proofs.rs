//! Proofs as a report shows them: in which order, and what their ends are called.
//!
//! Owns the words for an outcome. Called by the page, summary.md and the terminal.

use crate::book::{Book, label};
use cnibench_model::{Proof, ProofOutcome, Record};

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
/// that were not taken, the rest; those of single trials only where they failed.
pub(crate) fn in_order<'a>(book: &Book<'a>) -> Vec<(&'a Record, &'a Proof)> {
    let mut all: Vec<(&Record, &Proof)> = Vec::new();
    for record in book.records {
        let of_trials = record.trials.iter().flat_map(|t| &t.proofs);
        let failed = of_trials.filter(|p| p.outcome == ProofOutcome::Failed);
        all.extend(record.proofs.iter().chain(failed).map(|p| (record, p)));
    }
    all.sort_by_key(|(_, p)| match p.outcome {
        ProofOutcome::Failed => 0,
        ProofOutcome::NotEnforced => 1,
        ProofOutcome::NotTaken => 2,
        ProofOutcome::Passed => 3,
    });
    all
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
        let names: Vec<&str> = kinds.iter().map(|k| k.name()).collect();
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
}

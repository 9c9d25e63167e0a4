//! Whole runs: what a person types and what they then find.

use crate::running::{record, run_command, run_id, stderr, traces_of};
use cnibench_model::{CellStatus, Metric, ProofOutcome};
use std::collections::HashSet;

#[test]
fn a_run_measures_proves_reports_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let output = run_command(&out)
        .args(["--cni", "host,flannel-vxlan", "--trials", "2", "--seed", "7"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let record = record(&out);
    assert_eq!(record.header.seed, 7);
    assert_eq!(record.header.cases.len(), 2 * 5);
    assert!(record.cells.iter().all(|c| c.status == CellStatus::Measured), "{:?}", record.cells);
    assert_eq!(record.trials.len(), 2 * 5 * 2);
    assert!(record.finished.is_some());
    let mut moved = std::collections::BTreeMap::new();
    for trial in &record.trials {
        let rate = trial.value(Metric::Throughput).or(trial.value(Metric::TransactionRate));
        // One window of 100 ms may see nothing: a lost SYN waits for a second, a lost tail for 200 ms.
        assert!(rate.is_some(), "{}: {:?}", trial.case, trial.samples);
        moved.entry(trial.case.clone()).or_insert(false);
        if rate.is_some_and(|r| r > 0.0) {
            moved.insert(trial.case.clone(), true);
        }
        assert_eq!(trial.histogram.is_some(), trial.workload.is_transactional());
        if let Some(histogram) = &trial.histogram {
            assert_eq!(!histogram.decode().unwrap().is_empty(), rate.is_some_and(|r| r > 0.0));
        }
    }
    assert!(moved.values().all(|m| *m), "{moved:?}");
    assert!(!record.proofs.is_empty());
    assert!(record.proofs.iter().all(|p| p.outcome == ProofOutcome::Passed), "{:?}", record.proofs);
    // Interleaved: the two trials of a block stand next to each other.
    for pair in record.trials.chunks(2) {
        let series: HashSet<_> =
            pair.iter().map(|t| record.case(&t.case).unwrap().series()).collect();
        assert_eq!(series.len(), 1);
        assert_ne!(pair[0].case, pair[1].case);
    }
    for file in ["index.html", "samples.csv", "summary.md"] {
        assert!(out.join("report").join(file).metadata().unwrap().len() > 100, "{file}");
    }
    assert!(String::from_utf8_lossy(&output.stdout).contains("flannel-vxlan"));
    assert_eq!(traces_of(&run_id(&out)).len(), 0, "{:?}", traces_of(&run_id(&out)));
}

#[test]
fn two_runs_side_by_side_do_not_meet() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let start = |out| {
        run_command(out)
            .args(["--cni", "host,flannel-host-gw", "--workload", "tcp_rr", "--trials", "3"])
            .spawn()
            .unwrap()
    };
    let children = [start(&one), start(&two)];
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    assert_ne!(run_id(&one), run_id(&two));
    for out in [&one, &two] {
        assert_eq!(record(out).trials.len(), 6);
        assert!(traces_of(&run_id(out)).is_empty());
    }
}

#[test]
fn every_placement_is_measured_or_says_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let placements = "same-node,cross-node,host-host,host-pod,pod-service";
    let output = run_command(&out)
        .args(["--cni", "host,flannel-vxlan", "--workload", "tcp_rr,udp_stream", "--trials", "1"])
        .args(["--placement", placements])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for cell in record(&out).cells {
        let refused = cell.case.0.contains("/host/") && cell.case.0.contains("pod-service");
        match cell.status {
            CellStatus::Measured => assert!(!refused, "{}", cell.case),
            CellStatus::Skipped { reason } => {
                assert!(
                    refused && reason.contains("connection tracking"),
                    "{}: {reason}",
                    cell.case
                );
            }
            other => panic!("{}: {other:?}", cell.case),
        }
    }
}

#[test]
fn a_dry_run_plans_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let output =
        run_command(&out).args(["--dry-run", "--cni", "host,flannel-vxlan"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text.contains("netns/flannel-vxlan/tcp_crr/cross-node  5 x 0.1 s"), "{text}");
    assert!(text.contains("10 cases, 50 trials, about"), "{text}");
    assert!(!out.exists());
}

#[test]
fn by_cni_runs_one_cni_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let output = run_command(&out)
        .args(["--cni", "flannel-host-gw,host", "--workload", "udp_rr", "--trials", "2"])
        .args(["--order", "by-cni"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let record = record(&out);
    assert!(!record.header.interleaved);
    let mut cnis: Vec<_> =
        record.trials.iter().map(|t| record.case(&t.case).unwrap().cni.to_string()).collect();
    cnis.dedup();
    assert_eq!(cnis, ["flannel-host-gw", "host"]);
}

//! Trials that are proved each by themselves, keys that are taken away and keys that are changed, with the
//! kernel's own WireGuard and IPsec.

use super::stderr;
use cnibench_model::{ProofKind, ProofOutcome, Record};
use std::{fs, process::Command};

const SUITE: &str = r#"
name = "keys"
[defaults]
trials = 1
duration = "1500ms"
warmup = "100ms"
[[scenario]]
workloads = "udp_rr"
placements = "cross-node"
rate = "100"
rotations = 2
"#;

#[test]
fn trials_in_guests_are_proved_and_lose_nothing_when_ipsec_changes_its_keys() {
    let folder = tempfile::tempdir().unwrap();
    let (suite, out) = (folder.path().join("keys.toml"), folder.path().join("results"));
    fs::write(&suite, SUITE).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_cnibench"))
        .arg("run")
        .arg(&suite)
        .args(["--provider", "vm", "--clock", "instructions", "--quiet"])
        .args(["--cni", "flannel-vxlan,flannel-ipsec,flannel-wireguard", "--out"])
        .arg(&out)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let record: Record =
        serde_json::from_slice(&fs::read(out.join("record.json")).unwrap()).unwrap();
    assert_eq!((record.trials.len(), record.rotated.len()), (3, 3), "{:?}", record.notes);
    let all = record.trials.iter().chain(record.rotated.iter().map(|r| &r.trial));
    for trial in all {
        let passed = trial.proofs.iter().filter(|p| p.outcome == ProofOutcome::Passed).count();
        let encrypted = !trial.case.0.contains("vxlan");
        assert_eq!(passed, usize::from(encrypted), "{}: {:?}", trial.case, trial.proofs);
    }
    let removed: Vec<_> =
        record.proofs.iter().filter(|p| p.kind == ProofKind::KeyRemoval).collect();
    assert_eq!(removed.len(), 2);
    assert!(removed.iter().all(|p| p.outcome == ProofOutcome::Passed), "{removed:#?}");
    for rotated in &record.rotated {
        let ipsec = rotated.case.0.contains("ipsec");
        let lost: u64 = rotated.trial.intervals.iter().map(|i| i.lost).sum();
        let worst = rotated.trial.intervals.iter().map(|i| i.max).fold(0.0, f64::max);
        let changes = if rotated.case.0.contains("vxlan") { 0 } else { 2 };
        assert_eq!(rotated.rotations.len(), changes, "{}", rotated.case);
        // New states are accepted before they are sent with: no request waits for a handshake.
        assert!(!ipsec || (lost == 0 && worst < 2e6), "{lost} lost, {worst} instructions");
    }
}

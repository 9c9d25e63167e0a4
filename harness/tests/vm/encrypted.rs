//! The profiles that encrypt with the kernel, in guests whose kernel can.

use super::{run, stderr};
use cnibench_model::{CellStatus, CniSpec, Metric, Proof, ProofKind, ProofOutcome, Record};
use std::{fs, path::Path};

/// What one profile left in a record.
struct Arm<'a> {
    cni: CniSpec,
    record: &'a Record,
}

fn arm<'a>(cni: &str, record: &'a Record) -> Arm<'a> {
    Arm { cni: cni.parse().unwrap(), record }
}

fn read(out: &Path) -> Record {
    serde_json::from_slice(&fs::read(out.join("record.json")).unwrap()).unwrap()
}

impl Arm<'_> {
    fn proof(&self, kind: ProofKind) -> &Proof {
        let found = self.record.proofs.iter().find(|p| p.kind == kind && p.cni == self.cni);
        assert!(found.is_some(), "{}: no proof of {kind:?}", self.cni);
        found.unwrap()
    }

    /// Instructions of a round trip.
    fn p50(&self) -> f64 {
        let own = format!("/{}/", self.cni);
        let trial = self.record.trials.iter().find(|t| t.case.0.contains(&own)).unwrap();
        trial.samples.iter().find(|s| s.metric == Metric::LatencyP50).unwrap().value
    }

    fn details(&self) -> String {
        let found = self.record.cnis.iter().find(|c| c.spec == self.cni);
        found.unwrap().details.join("; ")
    }

    fn proved(&self, mtu: u32, wrapped: &str) {
        let all = [ProofKind::Connectivity, ProofKind::Path, ProofKind::Mtu, ProofKind::Encryption];
        for kind in all {
            let proof = self.proof(kind);
            assert_eq!(proof.outcome, ProofOutcome::Passed, "{}: {proof:#?}", self.cni);
        }
        let crossed = &self.proof(ProofKind::Mtu).summary;
        assert!(crossed.contains(&format!("packets of {mtu} bytes cross whole")), "{crossed}");
        let covered = &self.proof(ProofKind::Encryption).summary;
        assert!(covered.contains(&format!("bytes of {wrapped} cover them")), "{covered}");
    }
}

/// One run of these; no cell fails. At its end the agents compare what the kernel has
/// (states, policies, peers) with what they programmed.
fn measured(out: &Path, cnis: &str) -> Record {
    let output = run(out, cnis, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    read(out)
}

#[test]
fn each_profile_that_encrypts_is_proved_and_costs_more_than_none() {
    let folder = tempfile::tempdir().unwrap();
    // Of each kind one as the CNI has it, and one with the largest packets that fit.
    let cnis = [
        ("flannel-wireguard", 1420, "UDP port 51820"),
        ("flannel-ipsec", 1423, "ESP"),
        ("ebpf-wireguard:mtu=1440", 1440, "UDP port 51871"),
        ("ebpf-ipsec:mtu=1446", 1446, "ESP"),
    ];
    let specs: Vec<&str> = cnis.iter().map(|c| c.0).chain(["host"]).collect();
    let record = measured(folder.path(), &specs.join(","));
    let host = arm("host", &record).p50();
    for (cni, mtu, wrapped) in cnis {
        let arm = arm(cni, &record);
        arm.proved(mtu, wrapped);
        let cost = arm.p50() / host;
        assert!((1.5..10.0).contains(&cost), "{cni}: {cost} times the host's instructions");
        if wrapped == "ESP" {
            // The cipher that this emulated CPU always has: another one would be other instructions.
            let details = arm.details();
            assert!(details.contains("the kernel's cipher: seqiv(rfc4106-gcm-aesni"), "{details}");
        }
    }
}

#[test]
fn encryption_that_is_silently_off_is_caught_and_its_cell_invalid() {
    let folder = tempfile::tempdir().unwrap();
    let cnis = ["flannel-ipsec:leak=true", "ebpf-ipsec:leak=true"];
    let output = run(folder.path(), &cnis.join(","), &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let record = read(folder.path());
    for cni in cnis {
        let arm = arm(cni, &record);
        let proof = arm.proof(ProofKind::Encryption);
        assert_eq!(proof.outcome, ProofOutcome::Failed, "{proof:#?}");
        assert!(proof.summary.starts_with("payload in clear: "), "{proof:#?}");
        // Traffic flows all the same: nothing else would tell.
        for kind in [ProofKind::Connectivity, ProofKind::Path, ProofKind::Mtu] {
            assert_eq!(arm.proof(kind).outcome, ProofOutcome::Passed);
        }
    }
    assert_eq!(record.cells.len(), 2);
    for cell in &record.cells {
        let CellStatus::Invalid { reason, .. } = &cell.status else { panic!("{cell:?}") };
        assert!(reason.starts_with("encryption proof failed: payload in clear"), "{reason}");
    }
}

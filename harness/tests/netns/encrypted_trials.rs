//! Every trial of an encrypting cni has its own proof; one whose traffic goes in clear is no number.

use crate::{
    rig::{Rig, apply},
    running::{Running, record, run_command, run_id, stderr, traces_of},
    support::space,
};
use async_trait::async_trait;
use cnibench::{
    cluster::IpFamily,
    cni::{Facts, Keys, Peer, Wrapping},
    proof::{
        encryption::Line,
        key_removal::{Removal, prove},
    },
};
use cnibench_model::{CellStatus, ProofKind, ProofOutcome, Trial};
use std::{path::Path, sync::Arc};

const WIREGUARD: &str = "flannel-wireguard-userspace";

fn encryption(trial: &Trial) -> Option<&cnibench_model::Proof> {
    trial.proofs.iter().find(|p| p.kind == ProofKind::Encryption)
}

#[test]
fn each_trial_is_proved_and_without_its_key_nothing_goes() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let output = run_command(&out)
        .args(["--cni", &format!("flannel-vxlan,{WIREGUARD}"), "--trials", "2"])
        .args(["--placement", "cross-node,same-node"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let record = record(&out);
    assert_eq!(record.trials.len(), 2 * 5 * 2 * 2);
    for trial in &record.trials {
        let case = record.case(&trial.case).unwrap();
        let claimed = case.cni.name == WIREGUARD && trial.case.0.contains("cross-node");
        let Some(proof) = encryption(trial) else {
            assert!(!claimed, "{} has no proof", trial.case);
            continue;
        };
        assert!(claimed, "{}: {proof:#?}", trial.case);
        assert_eq!(proof.outcome, ProofOutcome::Passed, "{}: {proof:#?}", trial.case);
        let short = !trial.case.0.contains("stream");
        assert_eq!(proof.summary.contains("shows headers of"), short, "{proof:#?}");
    }
    let removed: Vec<_> =
        record.proofs.iter().filter(|p| p.kind == ProofKind::KeyRemoval).collect();
    assert_eq!(removed.len(), 1, "{removed:#?}");
    assert_eq!(removed[0].outcome, ProofOutcome::Passed, "{removed:#?}");
    assert!(removed[0].summary.contains("the control in clear was seen"), "{removed:#?}");
    let page = std::fs::read_to_string(out.join("report/index.html")).unwrap();
    assert!(page.contains("key removal"));
    assert!(traces_of(&run_id(&out)).is_empty());
}

/// Sends what pods of node 0 send to those of node 1 around the tunnel.
fn around(run: &str) {
    apply(&space(run, "n0"), |rtnl, batch| {
        let eth0 = rtnl.link("eth0").unwrap().index;
        batch.route_via(
            "10.244.1.0/24".parse().unwrap(),
            "10.66.0.2".parse().unwrap(),
            eth0,
            false,
        );
    });
}

fn turned_off_between_trials(workload: &str, seen: &str) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let mut command = run_command(&out);
    // The first has cluster 0, whose namespaces the test goes into.
    command.args(["--cni", &format!("{WIREGUARD},flannel-vxlan"), "--workload", workload]);
    command.args(["--trials", "60"]);
    let running = Running::until_trials(command, &out, 4);
    around(&run_id(&out));
    let output = running.wait();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let record = record(&out);
    for cell in &record.cells {
        let plain = cell.case.0.contains("vxlan");
        match &cell.status {
            CellStatus::Measured => assert!(plain, "{}", cell.case),
            CellStatus::Invalid { short, reason } => {
                assert!(!plain && short == "encryption not proved", "{}: {short}", cell.case);
                assert!(reason.starts_with("trial ") && reason.contains(seen), "{reason}");
            }
            other => panic!("{}: {other:?}", cell.case),
        }
    }
    let outcomes: Vec<_> = record.trials.iter().filter_map(encryption).map(|p| p.outcome).collect();
    let failed = outcomes.iter().filter(|o| **o == ProofOutcome::Failed).count();
    assert_eq!(failed, 1, "nothing is measured after the first that failed: {outcomes:?}");
    assert!(outcomes.len() >= 2 && outcomes.len() < 60);
    report_names(&out, "payload in clear");
}

fn report_names(out: &Path, text: &str) {
    let page = std::fs::read_to_string(out.join("report/index.html")).unwrap();
    assert!(page.contains(text), "the page does not say {text:?}");
}

#[test]
fn encryption_that_is_turned_off_between_trials_is_seen_by_its_canary() {
    turned_off_between_trials("tcp_stream", "payload in clear");
}

/// One byte has no room for a canary.
#[test]
fn encryption_that_is_turned_off_between_trials_is_seen_by_its_headers() {
    turned_off_between_trials("tcp_rr", "payload in clear");
}

/// Keys that are not taken away, or leave a way in clear.
struct Pretended(Option<Box<dyn Fn() + Send + Sync>>);

#[async_trait]
impl Keys for Pretended {
    fn describe(&self) -> &'static str {
        "pretended"
    }

    async fn remove(&self) -> anyhow::Result<()> {
        if let Some(leak) = &self.0 {
            leak();
        }
        Ok(())
    }

    async fn restore(&self) -> anyhow::Result<()> {
        Ok(())
    }

    async fn renew(&self) -> anyhow::Result<Facts> {
        Ok(Facts::new())
    }

    async fn switch(&self, _: &[Peer]) -> anyhow::Result<()> {
        Ok(())
    }

    async fn retire(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_taken_and_a_way_around_are_found() {
    cnibench::cni::wireguard_userspace::child::set_program(env!("CARGO_BIN_EXE_cnibench").into());
    let rig = Rig::new(2, 1, IpFamily::V4);
    let mut attached = rig.attach(rig.cni(WIREGUARD).as_ref()).await.unwrap();
    let line = |a: usize, b: usize| Line {
        label: format!("pod of node {a} to pod of node {b}"),
        from: rig.nodes[a].pods[0].netns.clone(),
        to: rig.nodes[b].pods[0].netns.clone(),
        addr: attached.pods[b][0].addrs[0],
    };
    let nodes = rig.nodes.iter().map(|n| n.ctx.addrs[0].addr());
    let removal = |keys: Arc<dyn Keys>| Removal {
        cni: WIREGUARD.parse().unwrap(),
        underlay: rig.underlay.clone(),
        nodes: nodes.clone().collect(),
        wrapping: Wrapping::Udp([51820].into()),
        pods: [line(0, 1), line(1, 0)],
        control: Line {
            label: "node 0 to node 1".to_owned(),
            from: rig.nodes[0].ctx.netns.clone(),
            to: rig.nodes[1].ctx.netns.clone(),
            addr: rig.nodes[1].ctx.addrs[0].addr(),
        },
        keys,
        node: "node 0".to_owned(),
    };
    let kept = prove(removal(Arc::new(Pretended(None)))).await;
    assert_eq!(kept.outcome, ProofOutcome::Failed, "{kept:#?}");
    assert!(kept.summary.starts_with("traffic goes on without the key"), "{kept:#?}");

    let gone = prove(removal(attached.agents[0].keys().unwrap())).await;
    assert_eq!(gone.outcome, ProofOutcome::Passed, "{gone:#?}");
    attached.agents[0].keys().unwrap().restore().await.unwrap();

    let (netns, range) = (rig.nodes[0].ctx.netns.clone(), rig.nodes[1].ctx.pod_cidrs[0]);
    let via = rig.nodes[1].ctx.addrs[0].addr();
    let leak = move || {
        apply(&netns, |rtnl, batch| {
            let eth0 = rtnl.link("eth0").unwrap().index;
            batch.route_via(range, via, eth0, false);
        });
    };
    let leaks = prove(removal(Arc::new(Pretended(Some(Box::new(leak)))))).await;
    assert_eq!(leaks.outcome, ProofOutcome::Failed, "{leaks:#?}");
    assert!(leaks.summary.starts_with("payload in clear: without the key"), "{leaks:#?}");
    assert_eq!(rig.detach(&mut attached).await, Vec::<String>::new());
}

/// A suite with one scenario of this text.
fn suite(folder: &Path, scenario: &str) -> std::path::PathBuf {
    let file = folder.join("suite.toml");
    let head = "name = \"s\"\n[defaults]\ntrials = 1\nwarmup = \"20ms\"\n[[scenario]]\nplacements = \"cross-node\"\n";
    std::fs::write(&file, format!("{head}{scenario}")).unwrap();
    file
}

fn run_suite(suite: &Path, out: &Path, cnis: &str) -> cnibench_model::Record {
    let output = std::process::Command::new(crate::running::binary())
        .arg("run")
        .arg(suite)
        .arg("--out")
        .arg(out)
        .args(["--cni", cnis])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(traces_of(&run_id(out)).is_empty());
    record(out)
}

#[test]
fn keys_change_under_load_and_the_trial_goes_on_encrypted() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let scenario = "workloads = \"udp_rr\"\nrate = \"100\"\nrotations = 2\nduration = \"1500ms\"\n";
    let suite = suite(folder.path(), scenario);
    let record = run_suite(&suite, &out, &format!("flannel-vxlan,{WIREGUARD}"));
    assert_eq!(record.rotated.len(), 2, "{:?}", record.notes);
    for rotated in &record.rotated {
        let encrypted = rotated.case.0.contains(WIREGUARD);
        assert_eq!(rotated.how.is_some(), encrypted, "{:?}", rotated.how);
        assert_eq!(rotated.rotations.len(), if encrypted { 2 } else { 0 });
        for rotation in &rotated.rotations {
            assert!((0.0..1.5).contains(&rotation.at_s) && rotation.took_s > 0.0, "{rotation:?}");
        }
        let intervals = &rotated.trial.intervals;
        assert_eq!(intervals.len(), 30);
        let due: u64 = intervals.iter().map(|i| i.count + i.lost).sum();
        assert!((130..=151).contains(&due), "{due} of 150 requests are told of");
        assert!(intervals.last().unwrap().count > 0, "it goes on behind the last change");
        let proof = encryption(&rotated.trial);
        assert_eq!(proof.map(|p| p.outcome), encrypted.then_some(ProofOutcome::Passed));
    }
    let changed = record.trials.iter().filter(|t| t.case.0.contains(WIREGUARD)).count();
    assert_eq!(changed, 1, "trials with changes stand apart");
    report_names(&out, "What a change of keys costs: flannel-vxlan, no change (control)");
}

#[test]
fn sizes_are_searched_to_the_byte_apart_from_the_measured_trials() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let scenario = "workloads = \"udp_stream\"\ngso = false\ncliffs = true\nduration = \"50ms\"\n";
    let record = run_suite(&suite(folder.path(), scenario), &out, "flannel-host-gw");
    assert_eq!(record.trials.len(), 1);
    // The grid at least; how far it goes from there a busy machine may hide.
    let sizes: std::collections::BTreeSet<u64> = record.sizes.iter().map(|s| s.size).collect();
    assert!(sizes.contains(&64) && sizes.contains(&8192), "{sizes:?}");
    for trial in &record.sizes {
        assert!(trial.size == 1200 || trial.trial.case.0.contains(&format!("size={}", trial.size)));
    }
    report_names(&out, "Throughput falls: flannel-host-gw");
}

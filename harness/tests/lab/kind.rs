//! The provider kind, end to end.

use crate::support::{Desk, Started, clusters, notes, output, said, turn};
use serde_json::{Value, json};
use std::fs;

/// One short trial of one case.
const SHORT: &[&str] =
    &["smoke", "--workload", "udp_rr", "--trials", "1", "--duration", "300ms", "--warmup", "100ms"];

fn run(desk: &Desk, more: &[&str]) -> std::process::Command {
    let mut command = desk.run(SHORT);
    command.args(more);
    command
}

fn outcomes<'a>(record: &'a Value, cni: &str, kind: &str) -> Vec<&'a Value> {
    let proofs = record["proofs"].as_array().unwrap();
    let of = |p: &&Value| p["cni"] == json!(cni) && p["kind"] == json!(kind);
    proofs.iter().filter(of).map(|p| &p["outcome"]).collect()
}

#[test]
fn real_cnis_are_installed_proved_measured_and_removed() {
    let _turn = turn();
    let desk = Desk::new();
    let before = clusters();
    let done = output(run(&desk, &["--cni", "host,flannel-vxlan,cilium-native:hubble=on"]));
    assert_eq!(done.status.code(), Some(0));
    let record = desk.record();
    for cni in ["host", "flannel-vxlan", "cilium-native:hubble=on"] {
        let case = format!("kind/{cni}/udp_rr/cross-node");
        let trials = record["trials"].as_array().unwrap();
        assert!(trials.iter().any(|t| t["case"] == json!(case)), "no trial of {case}");
    }
    for cni in ["flannel-vxlan", "cilium-native:hubble=on"] {
        for kind in ["connectivity", "path", "mtu"] {
            let found = outcomes(&record, cni, kind);
            assert!(!found.is_empty(), "no {kind} proof of {cni}");
            assert!(found.iter().all(|o| **o == json!("passed")), "{cni} {kind}: {found:?}");
        }
    }
    let policy = |cni| outcomes(&record, cni, "policy");
    assert!(policy("flannel-vxlan").iter().all(|o| **o == json!("not_enforced")));
    assert!(policy("cilium-native:hubble=on").iter().all(|o| **o == json!("passed")));
    assert!(outcomes(&record, "cilium-native:hubble=on", "flows").contains(&&json!("passed")));
    assert_eq!(clusters(), before);
    assert_eq!(notes(record["run_id"].as_str().unwrap()), Vec::<std::path::PathBuf>::new());
    desk.kubeconfig_is_untouched();
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    let _turn = turn();
    let desk = Desk::new();
    let mut started = Started::new(run(&desk, &["--cni", "flannel-vxlan"]));
    started.signal("INT");
    let status = started.child.wait().unwrap();
    assert_eq!(status.code(), Some(3));
    assert!(!clusters().contains(&started.cluster));
    assert!(notes(&started.run()).is_empty(), "{:?}", notes(&started.run()));
    desk.kubeconfig_is_untouched();
}

#[test]
fn a_killed_run_is_cleaned() {
    let _turn = turn();
    let desk = Desk::new();
    let mut started = Started::new(run(&desk, &["--cni", "flannel-vxlan"]));
    started.signal("KILL");
    started.child.wait().unwrap();
    assert!(clusters().contains(&started.cluster));
    let cleaned = output(desk.cnibench(&["clean"]));
    assert_eq!(cleaned.status.code(), Some(0));
    assert!(!clusters().contains(&started.cluster));
    assert!(notes(&started.run()).is_empty(), "{:?}", notes(&started.run()));
}

#[test]
fn a_kept_cluster_stays_until_it_is_cleaned() {
    let _turn = turn();
    let desk = Desk::new();
    let before = clusters();
    let done = output(run(&desk, &["--cni", "flannel-host-gw", "--keep"]));
    assert_eq!(done.status.code(), Some(0));
    let kept: Vec<String> = clusters().into_iter().filter(|c| !before.contains(c)).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let record = desk.record();
    let run = record["run_id"].as_str().unwrap();
    assert!(kept[0].starts_with(&format!("cnb-{run}-keep")), "{kept:?}");
    let cleaned = output(desk.cnibench(&["clean"]));
    assert!(String::from_utf8_lossy(&cleaned.stdout).contains(&kept[0]));
    assert_eq!(clusters(), before);
    assert!(notes(run).is_empty(), "{:?}", notes(run));
}

/// A cni of the user's whose image is nowhere.
#[test]
fn a_cni_that_never_starts_says_why_and_leaves_nothing() {
    let _turn = turn();
    let desk = Desk::new();
    let before = clusters();
    let profile = r#"
        name = "mine"
        family = "custom"
        description = "never starts"
        encrypted = false
        enforces_policies = false
        [install]
        manifest = "mine.yaml"
        namespace = "mine"
        [agent]
        namespace = "mine"
        selector = "app=mine"
        container = "agent"
    "#;
    let manifest = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: mine, namespace: mine}
spec:
  selector: {matchLabels: {app: mine}}
  template:
    metadata: {labels: {app: mine}}
    spec:
      hostNetwork: true
      tolerations: [{operator: Exists}]
      containers: [{name: agent, image: 'no.such/image:1', imagePullPolicy: Never}]
";
    fs::write(desk.path("mine.toml"), profile).unwrap();
    fs::write(desk.path("mine.yaml"), manifest).unwrap();
    let failed = output(run(&desk, &["--cni", "custom:path=mine.toml", "--ready-within", "60s"]));
    assert_eq!(failed.status.code(), Some(2));
    let text = said(&failed);
    assert!(text.contains("image no.such/image:1 is not on its node"), "{text}");
    assert_eq!(clusters(), before);
}

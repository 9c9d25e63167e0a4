//! What belongs to whom: side by side, killed, dropped, cancelled.

use crate::support::{down, provider, space, topology, traces, up};
use cnibench::cluster::{IpFamily, Provider as _, netns::clean_leftovers};
use cnibench_model::{Placement, ProofOutcome};
use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Runs one of the `child_` tests below in a process of its own; returns it and its run's id.
fn child(test: &str) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", test])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let run = lines.map_while(Result::ok).find_map(|l| Some(l.split_once("run=")?.1.to_owned()));
    (child, run.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by other tests, in a process that is killed"]
async fn child_owns_a_cluster() {
    let provider = provider();
    let _cluster = up(&provider, "flannel-vxlan", &topology(2, 2, IpFamily::V4)).await;
    println!("\nrun={}", provider.run_id());
    tokio::time::sleep(Duration::from_secs(120)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_is_cleaned_and_a_living_one_is_not() {
    let mine = provider();
    let my_run = mine.run_id().as_str().to_owned();
    let cluster = up(&mine, "flannel-host-gw", &topology(2, 1, IpFamily::V4)).await;
    let (mut owner, run) = child("ownership::child_owns_a_cluster");
    // Alive: hands off.
    let report = clean_leftovers().await;
    assert!(report.kept.iter().any(|r| r.as_str() == run), "{report:?}");
    assert_eq!(traces(&run).iter().filter(|t| t.starts_with("cnb-")).count(), 7);

    // A process that stands in a pod of the other run and never ends by itself.
    let pod = space(&run, "n0p0");
    let mut standing = pod.run_blocking(|| Ok(Command::new("sleep").arg("300").spawn()?)).unwrap();
    drop(pod);
    owner.kill().unwrap();
    owner.wait().unwrap();
    let report = clean_leftovers().await;
    assert!(report.errors.is_empty(), "{report:?}");
    assert_eq!(traces(&run), [""; 0], "{report:?}");
    assert!(!standing.wait().unwrap().success(), "the process in the pod was killed");
    assert!(report.kept.iter().any(|r| r.as_str() == my_run), "{report:?}");

    // Mine is untouched and still works.
    let proofs = cluster.prove().await;
    assert!(proofs.iter().all(|p| p.outcome == cnibench_model::ProofOutcome::Passed));
    down(cluster).await;
    assert_eq!(traces(&my_run), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_and_providers_live_side_by_side() {
    let (one, two) = (provider(), provider());
    let shape = topology(2, 2, IpFamily::V4);
    let spec = "flannel-vxlan".parse().unwrap();
    let (a, b, c) =
        tokio::join!(one.up(0, &spec, &shape), one.up(1, &spec, &shape), two.up(0, &spec, &shape));
    let clusters = [a.unwrap(), b.unwrap(), c.unwrap()];
    let places: std::collections::HashSet<_> =
        clusters.iter().map(|c| c.ends(Placement::CrossNode).unwrap().client.id).collect();
    assert_eq!(places.len(), 3);
    for cluster in clusters {
        let proofs = cluster.prove().await;
        assert!(
            proofs.iter().all(|p| p.outcome == cnibench_model::ProofOutcome::Passed),
            "{proofs:#?}"
        );
        down(cluster).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn down_twice_and_a_dropped_cluster_leave_nothing() {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let mut cluster = up(&provider, "host", &topology(2, 1, IpFamily::V4)).await;
    assert!(cluster.down().await.is_empty());
    assert!(cluster.down().await.is_empty());
    let [proof] = &cluster.prove().await[..] else { panic!("one proof of what is down") };
    assert_eq!(proof.outcome, ProofOutcome::Failed);
    assert!(proof.summary.contains("the cluster is down"), "{proof:?}");
    assert!(cluster.ends(Placement::HostHost).is_err());
    drop(up(&provider, "flannel-vxlan", &topology(2, 1, IpFamily::V4)).await);
    assert_eq!(traces(&run), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bringing_up_can_be_cancelled_at_any_moment() {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let (spec, shape) = ("flannel-vxlan".parse().unwrap(), topology(4, 2, IpFamily::Dual));
    for millis in [0, 1, 3, 10, 20, 40, 60, 80] {
        let cut = Duration::from_millis(millis);
        let result = tokio::time::timeout(cut, provider.up(0, &spec, &shape)).await;
        drop(result);
        // Namespaces that were being made when it was cut end a moment later.
        let until = tokio::time::Instant::now() + Duration::from_secs(20);
        while !traces(&run).is_empty() {
            assert!(tokio::time::Instant::now() < until, "{:?}", traces(&run));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_a_dead_run_goes_and_foreign_things_stay() {
    std::fs::create_dir_all("/run/cnibench").unwrap();
    std::fs::write("/run/cnibench/zzzzz7.lock", "").unwrap();
    std::fs::create_dir_all("/run/netns").unwrap();
    let foreign = format!("/run/netns/cnb-FOREIGN-{}", std::process::id());
    std::fs::write(&foreign, "").unwrap();
    clean_leftovers().await;
    assert!(!std::path::Path::new("/run/cnibench/zzzzz7.lock").exists());
    assert!(std::path::Path::new(&foreign).exists());
    std::fs::remove_file(foreign).unwrap();
}

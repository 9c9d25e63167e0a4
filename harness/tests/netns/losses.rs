//! What measured trials say they lost, against losses of known number.

use crate::{
    running::{binary, record, stderr},
    support::{down, provider, says, space, topology, up},
    traffic::{connected, total_retransmits},
};
use cnibench::{
    cluster::{Cluster, IpFamily},
    netlink::Netns,
    probe::losses::Spot,
};
use cnibench_model::{CellStatus, Placement, Workload};
use cnibench_probes::losses::{Losses, Lost};
use jiff::Timestamp;
use std::{
    collections::BTreeMap,
    io::Write as _,
    net::{SocketAddr, UdpSocket},
    os::unix::{fs::PermissionsExt, process::CommandExt as _},
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

/// More than a slice, of what the counters are armed for here.
const APART: Duration = Duration::from_millis(300);
const ARMED: Duration = Duration::from_secs(60);

const SUITE: &str = r#"
name = "losses"
description = "round trips, and more datagrams than anyone takes"
[defaults]
trials = 2
duration = "400ms"
[[scenario]]
workloads = ["tcp_rr"]
placements = ["cross-node"]
[[scenario]]
workloads = ["udp_stream"]
placements = ["cross-node"]
gso = false
"#;

fn watch(cluster: &dyn Cluster) -> (Losses, Vec<Spot>) {
    let spots = cluster.spots(Placement::CrossNode);
    let mut losses = Losses::attach().unwrap();
    spots.iter().for_each(|spot| losses.observe(spot.netns).unwrap());
    losses.arm(ARMED).unwrap();
    (losses, spots)
}

/// Drops in one place by reason; of what the kernel frees by itself now and then it gives no reason.
fn drops(lost: &Lost, spots: &[Spot], what: &str) -> BTreeMap<String, u64> {
    let netns = spots.iter().find(|spot| spot.what == what).unwrap().netns;
    let own =
        lost.drops.iter().filter(|((at, reason), _)| *at == netns && reason != "NOT_SPECIFIED");
    own.map(|((_, reason), count)| (reason.clone(), *count)).collect()
}

fn send(client: &Netns, to: SocketAddr, datagrams: usize) {
    let socket = client.run_blocking(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
    for n in 0..datagrams {
        // An answer that nobody listens (ICMP) is an error of a later send.
        let _ = socket.send_to(&[7; 100], to);
        // So that no queue on the way is full.
        if n % 16 == 15 {
            sleep(Duration::from_millis(2));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drops_are_those_of_the_window_by_reason_and_place() {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let cluster = up(&provider, "flannel-vxlan", &topology(2, 1, IpFamily::V4)).await;
    let (client, server) = (space(&run, "n0p0"), space(&run, "n1p0"));
    let addr = cluster.ends(Placement::CrossNode).unwrap().server_addr;
    let (closed, barred) = (SocketAddr::new(addr, 9), SocketAddr::new(addr, 999));
    let rules =
        "table inet t { chain c { type filter hook input priority 0; udp dport 999 drop; }; }";
    says(&server, &["nft", rules]);
    // The neighbours know each other after this.
    send(&client, closed, 1);
    sleep(APART);
    let (mut losses, spots) = watch(&*cluster);
    send(&client, closed, 70);
    sleep(APART);
    let opened = Timestamp::now();
    sleep(APART);
    send(&client, closed, 300);
    send(&client, barred, 200);
    sleep(APART);
    let length = Timestamp::now().duration_since(opened).unsigned_abs();
    sleep(APART);
    send(&client, barred, 50);
    sleep(APART);
    let lost = losses.read(opened, length).unwrap();
    let expected =
        BTreeMap::from([("NETFILTER_DROP".to_owned(), 200), ("NO_SOCKET".to_owned(), 300)]);
    assert_eq!(drops(&lost, &spots, "server"), expected, "{lost:?}");
    assert_eq!((lost.uncounted, lost.retransmits.len()), (0, 0), "{lost:?}");
    let all = losses.read(opened - Duration::from_secs(30), Duration::from_secs(60)).unwrap();
    let expected =
        BTreeMap::from([("NETFILTER_DROP".to_owned(), 250), ("NO_SOCKET".to_owned(), 370)]);
    assert_eq!(drops(&all, &spots, "server"), expected, "{all:?}");
    // Armed again, what was before is forgotten.
    losses.arm(ARMED).unwrap();
    let none = losses.read(opened - Duration::from_secs(30), Duration::from_secs(60)).unwrap();
    assert!(drops(&none, &spots, "server").is_empty(), "{none:?}");
    drop(losses);
    down(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_that_are_sent_again_are_those_that_tcp_counts() {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let cluster = up(&provider, "host", &topology(2, 1, IpFamily::V4)).await;
    let (client, server) = (space(&run, "n0"), space(&run, "n1"));
    let addr = cluster.ends(Placement::CrossNode).unwrap().server_addr;
    let (mut one, two) = connected(&client, &server, addr);
    let (losses, spots) = watch(&*cluster);
    let opened = Timestamp::now();
    says(
        &server,
        &[
            "nft",
            "table inet t { chain c { type filter hook input priority 0; tcp flags & (ack | syn) == ack drop; }; }",
        ],
    );
    one.write_all(b"into the void").unwrap();
    sleep(Duration::from_millis(1_500));
    let lost = losses.read(opened, Duration::from_secs(30)).unwrap();
    let known = total_retransmits(&one);
    let of = |what: &str| {
        let spot = spots.iter().find(|spot| spot.what == what).unwrap();
        lost.retransmits.get(&spot.netns).copied().unwrap_or_default()
    };
    assert!(known >= 2, "{known}");
    // One may be sent between the two looks.
    assert!((of("client")..=of("client") + 1).contains(&known), "{known} {lost:?}");
    assert_eq!(of("server"), 0, "{lost:?}");
    let dropped = drops(&lost, &spots, "server")["NETFILTER_DROP"];
    assert!((known..=known + 2).contains(&dropped), "{known} {lost:?}");
    drop((losses, two));
    down(cluster).await;
}

#[test]
fn every_measured_trial_says_what_it_lost() {
    drop(provider());
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    // What GSO holds together would count once.
    let suite = folder.path().join("suite.toml");
    std::fs::write(&suite, SUITE).unwrap();
    let mut command = Command::new(binary());
    command.arg("run").arg(&suite).arg("--out").arg(&out).args(["--cni", "host,flannel-vxlan"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let record = record(&out);
    assert!(!record.trials.is_empty());
    for trial in &record.trials {
        let losses = trial.losses.as_ref();
        let losses = losses.unwrap_or_else(|| panic!("{}: {:?}", trial.case.0, trial.warnings));
        if trial.workload != Workload::UdpStream {
            continue;
        }
        // What did not arrive was dropped. The client's window is not quite the server's, so that the
        // datagrams of some milliseconds are in one and not in the other.
        let seen = trial.datagrams.unwrap();
        let missing = (seen.expected - seen.received) as f64;
        let dropped: u64 = losses.drops.iter().map(|d| d.count).sum();
        let slack = 0.1 * seen.expected as f64;
        assert!((dropped as f64 - missing).abs() <= slack, "{seen:?} {losses:?}");
    }
    assert!(!record.notes.iter().any(|note| note.contains("not counted")), "{:?}", record.notes);
    let summary = std::fs::read_to_string(out.join("report/summary.md")).unwrap();
    assert_eq!(summary.matches("### Losses").count(), 1, "{summary}");
    let page = std::fs::read_to_string(out.join("report/index.html")).unwrap();
    assert!(page.contains("id=\"losses\""));
}

#[test]
fn without_root_nothing_is_counted_and_a_note_says_so_once() {
    drop(provider());
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let program = folder.path().join("cnibench");
    std::fs::copy(binary(), &program).unwrap();
    let out = folder.path().join("results");
    let mut command = Command::new(&program);
    command.arg("run").arg("--out").arg(&out).args(["--duration", "100ms", "--warmup", "20ms"]);
    command.args(["--cni", "host,flannel-vxlan", "--workload", "tcp_rr", "--trials", "1"]);
    let output = command.stdin(Stdio::null()).uid(65534).gid(65534).current_dir("/").output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let record = record(&out);
    assert!(record.cells.iter().all(|c| c.status == CellStatus::Measured), "{:?}", record.cells);
    assert!(record.trials.iter().all(|t| t.losses.is_none()));
    let notes: Vec<_> = record.notes.iter().filter(|n| n.contains("not counted")).collect();
    assert_eq!(notes.len(), 1, "{:?}", record.notes);
    assert!(notes[0].contains("not permitted") && notes[0].contains("user namespace"), "{notes:?}");
    let summary = std::fs::read_to_string(out.join("report/summary.md")).unwrap();
    assert!(!summary.contains("### Losses"), "{summary}");
}

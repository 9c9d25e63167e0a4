//! Two arms in pairs: what a person types and what the record then says of every pair.

use crate::running::{Running, agents_of, measuring, record, run_id, signal, stderr, traces_of};
use cnibench_model::{CellStatus, Gate, PairArm, PairOrder, Record};
use rustix::process::Signal;
use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

fn ab(out: &Path, baseline: &str, candidate: &str, more: &[&str]) -> (Record, String) {
    let mut command = measuring("ab", out);
    command.args(["--baseline", baseline, "--candidate", candidate, "--seed", "7"]).args(more);
    let output = command.output().unwrap();
    // What was found is another test's: the number is that of the verdict.
    assert_eq!(output.status.code(), Some(gate(out).exit_code.into()), "{}", stderr(&output));
    assert!(traces_of(&run_id(out)).is_empty(), "{:?}", traces_of(&run_id(out)));
    (record(out), String::from_utf8(output.stdout).unwrap())
}

/// The verdict in a results folder.
pub fn gate(out: &Path) -> Gate {
    serde_json::from_str(&std::fs::read_to_string(out.join("gate.json")).unwrap()).unwrap()
}

/// Every pair is two adjacent trials, one of each arm, in the order that it says.
fn pairs_hold(record: &Record, (rebuilds, pairs): (u32, u32)) {
    let pairing = record.header.pairing.as_ref().unwrap();
    assert_eq!((pairing.rebuilds, pairing.pairs, pairing.adjacent), (rebuilds, pairs, true));
    let mut seen = HashSet::new();
    let mut orders: BTreeMap<_, HashSet<PairOrder>> = BTreeMap::new();
    for pair in record.trials.chunks(2) {
        let [one, two] = pair else { panic!("{} trials", record.trials.len()) };
        let slots = [one, two].map(|t| t.pair.unwrap());
        assert_eq!(one.sequence + 1, two.sequence);
        assert_eq!(slots.map(|s| s.arm), slots[0].order.arms());
        let place = |i: usize| (slots[i].rebuild, slots[i].pair, slots[i].order);
        assert_eq!(place(0), place(1));
        assert_eq!(one.block, two.block);
        let series = [one, two].map(|t| record.case(&t.case).unwrap().series());
        assert_eq!(series[0], series[1]);
        for (trial, slot) in [one, two].into_iter().zip(slots) {
            assert_eq!(record.case(&trial.case).unwrap().cni, *pairing.cni(slot.arm));
            assert!(slot.rebuild < rebuilds && slot.pair < pairs);
            assert!(seen.insert((series[0].clone(), slot.rebuild, slot.pair, slot.arm)));
        }
        orders.entry((series[0].clone(), slots[0].rebuild)).or_default().insert(slots[0].order);
    }
    let series = orders.keys().map(|(series, _)| series).collect::<HashSet<_>>().len();
    assert_eq!(seen.len(), 2 * series * (rebuilds * pairs) as usize);
    // Of two pairs in a rebuild one has the baseline first, the other the candidate.
    assert!(orders.values().all(|o| o.len() == 2), "{orders:?}");
    assert!(record.cells.iter().all(|c| c.status == CellStatus::Measured), "{:?}", record.cells);
}

#[test]
fn two_arms_are_measured_in_adjacent_pairs_on_clusters_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let more = ["--workload", "tcp_rr,udp_rr", "--pairs", "2", "--rebuilds", "2"];
    let (record, said) = ab(&out, "host", "flannel-vxlan", &more);
    pairs_hold(&record, (2, 2));
    assert_eq!(record.trials.len(), 2 * 2 * 2 * 2);
    assert_eq!(record.cnis.len(), 4, "each arm came up twice");
    assert!(said.contains("2 makings of both arms, 2 pairs of every case in each"), "{said}");
    assert!(said.contains("change (95 % interval)"), "{said}");
    let page = std::fs::read_to_string(out.join("report/index.html")).unwrap();
    assert!(page.contains("<h2>In pairs</h2>"));
}

#[test]
fn a_cni_is_measured_against_itself() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let more =
        ["--workload", "tcp_rr", "--pairs", "2", "--rebuilds", "1", "--format", "json", "--quiet"];
    let (record, said) = ab(&out, "host", "host", &more);
    pairs_hold(&record, (1, 2));
    let told: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&told["pairs"]["baseline"], &told["pairs"]["candidate"]),
        (&"host".into(), &"host#2".into())
    );
    let rows = told["pairs"]["rows"].as_array().unwrap();
    assert!(rows.iter().any(|r| r["metric"] == "latency_p50"), "{rows:?}");
    let arms: Vec<PairArm> = record.trials.iter().map(|t| t.pair.unwrap().arm).collect();
    assert_eq!(arms.iter().filter(|a| **a == PairArm::Baseline).count(), 2);
}

#[test]
fn one_profile_with_other_parameters_is_another_arm() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let more = ["--workload", "tcp_stream", "--pairs", "2", "--rebuilds", "1"];
    let (record, _) = ab(&out, "flannel-vxlan", "flannel-vxlan:mtu=1300", &more);
    pairs_hold(&record, (1, 2));
    let mtus: Vec<u32> = record.cnis.iter().map(|c| c.mtu).collect();
    assert!(mtus.contains(&1300) && mtus.iter().any(|m| *m > 1300), "{mtus:?}");
}

#[test]
fn what_measured_nothing_is_data_missing_with_its_reasons() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let mut command = measuring("ab", &out);
    command.args(["--baseline", "host", "--candidate", "flannel-host-gw", "--workload", "tcp_rr"]);
    command.args(["--placement", "pod-service", "--pairs", "2", "--rebuilds", "1"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("No pair was measured") && said.contains("skipped: "), "{said}");
    assert!(!said.contains("change (95 % interval)"), "{said}");
}

#[test]
fn a_broken_trial_costs_its_pair_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let mut command = measuring("ab", &out);
    command.args(["--baseline", "host", "--candidate", "flannel-host-gw", "--workload", "tcp_rr"]);
    command.args(["--pairs", "10", "--rebuilds", "2", "--seed", "7"]);
    let running = Running::until_trials(command, &out, 5);
    let agents = agents_of(&run_id(&out));
    assert!(!agents.is_empty());
    agents.into_iter().for_each(|pid| signal(pid, Signal::KILL));
    let output = running.wait();
    assert_eq!(output.status.code(), Some(gate(&out).exit_code.into()), "{}", stderr(&output));
    let record = record(&out);
    assert!(record.cells.iter().all(|c| c.status == CellStatus::Measured), "{:?}", record.cells);
    let failed = record.notes.iter().filter(|n| n.contains("of making 1 failed: ")).count();
    assert!(failed >= 1, "{:?}", record.notes);
    let measured = cnibench_reports::paired(&record).unwrap().measured;
    assert_eq!(measured.makings, 2);
    assert!((17..20).contains(&measured.fewest), "{measured:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("of 20 pairs of every case"), "{said}");
}

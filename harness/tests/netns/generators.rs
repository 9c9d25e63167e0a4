//! Whole runs with another generator, and with a ladder of offered rates; the bench of ours beside it.

use crate::running::{binary, record, run_command, run_id, stderr, traces_of};
use cnibench_model::{CellStatus, Generator, Metric};
use std::{collections::BTreeSet, fs, process::Command};

#[test]
fn another_generator_is_in_the_id_the_record_and_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let output = run_command(&out)
        .args(["--cni", "host", "--generator", "iperf3", "--trials", "1"])
        .args(["--workload", "tcp_stream,tcp_rr"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let record = record(&out);
    let end = |id: &str| record.cells.iter().find(|c| c.case.0 == id).unwrap().status.clone();
    assert_eq!(end("netns/host/tcp_stream/cross-node/generator=iperf3"), CellStatus::Measured);
    match end("netns/host/tcp_rr/cross-node/generator=iperf3") {
        CellStatus::Skipped { reason } => assert!(reason.contains("streams only"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let [trial] = record.trials.as_slice() else { panic!("{} trials", record.trials.len()) };
    let made_by = trial.made_by.as_ref().unwrap();
    assert_eq!(made_by.generator, Generator::Iperf3);
    assert!(made_by.version.starts_with("3."), "{made_by:?}");
    assert!(made_by.command.contains(&"cubic".to_owned()), "{made_by:?}");
    assert!(trial.value(Metric::Throughput).unwrap() > 1e6);
    let summary = fs::read_to_string(out.join("report/summary.md")).unwrap();
    let named = format!("Traffic of other generators: iperf3 {}", made_by.version);
    assert!(summary.contains(&named), "{summary}");
    assert!(summary.contains("generator=iperf3"), "{summary}");
    assert_eq!(traces_of(&run_id(&out)).len(), 0);
}

#[test]
fn a_ladder_is_climbed_to_its_knee_apart_from_the_measured_trials() {
    let folder = tempfile::tempdir().unwrap();
    let suite = folder.path().join("ladder.toml");
    let text = "name = \"ladder\"\n[defaults]\ntrials = 1\nduration = \"400ms\"\nwarmup = \"20ms\"\n\
                [[scenario]]\nworkloads = \"tcp_rr\"\nplacements = \"cross-node\"\nladder = true\n";
    fs::write(&suite, text).unwrap();
    let out = folder.path().join("results");
    let output = Command::new(binary())
        .args(["run", suite.to_str().unwrap(), "--cni", "host,flannel-vxlan", "--quiet"])
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let record = record(&out);
    assert_eq!((record.trials.len(), record.header.cases.len()), (2, 2));
    for case in &record.header.cases {
        let rungs: Vec<_> = record.rungs.iter().filter(|r| r.case == case.id).collect();
        let rates: BTreeSet<u64> = rungs.iter().map(|r| r.rate.0 as u64).collect();
        assert!(rates.len() >= 3 && rates.len() == rungs.len(), "{}: {rates:?}", case.id);
        for rung in rungs {
            assert!(rung.trial.case.0.contains("/rate="), "{}", rung.trial.case);
            assert!(rung.trial.value(Metric::TransactionRate).is_some());
        }
    }
    let summary = fs::read_to_string(out.join("report/summary.md")).unwrap();
    assert!(summary.contains("over offered rates: Knee: host "), "{summary}");
    assert!(out.join("report/knee-tcp_rr-cross-node.svg").exists());
}

#[test]
fn the_bench_prints_a_ratio_for_each_generator_that_has_the_point() {
    let output = Command::new(binary())
        .args(["bench-peers", "--peer", "iperf3,sockperf", "--rounds", "3", "--seconds", "1"])
        .args(["--only", "TCP_RR, 1 flow, 14 B;TCP_STREAM, 1 flow, 128 KiB", "--seed", "1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let cells = |point: &str| -> Vec<String> {
        let line = text.lines().find(|l| l.starts_with(&format!("| {point}"))).unwrap();
        line.split('|').map(|c| c.trim().to_owned()).collect()
    };
    let stream = cells("TCP_STREAM, 1 flow, 128 KiB");
    assert!(stream[2].ends_with(" Gbit/s") && stream[3].contains(" to "), "{stream:?}");
    assert_eq!(stream[4], "-", "{stream:?}");
    let rr = cells("TCP_RR, 1 flow, 14 B");
    assert!(rr[3] == "-" && rr[4].contains(" to "), "{rr:?}");
    assert!(text.contains("iperf3 3.") && text.contains("sockperf 3."), "{text}");
    assert!(stderr(&output).contains("iperf3 has streams only"), "{}", stderr(&output));
}

//! What `ab` ends in: a verdict, in words, in files and as an exit code; looks, a time limit, calibration.

use crate::{
    ab::gate,
    running::{binary, measuring, record, run_id, stderr, traces_of},
};
use cnibench_model::{
    Calibration, CalibrationUse, CellStatus, GateOutcome, Metric, PairArm, Verdict,
};
use std::{
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

fn ab(out: &Path, candidate: &str, more: &[&str]) -> Output {
    let mut command = measuring("ab", out);
    command.args(["--baseline", "ebpf", "--candidate", candidate, "--workload", "tcp_rr"]);
    let output = command.args(["--seed", "7"]).args(more).output().unwrap();
    assert!(traces_of(&run_id(out)).is_empty(), "{:?}", traces_of(&run_id(out)));
    output
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_cost_that_is_clear_is_a_regression_and_ends_the_run_at_the_first_look() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let (junit, markdown) = (folder.path().join("junit.xml"), folder.path().join("verdict.md"));
    let more = ["--rebuilds", "5", "--pairs", "3", "--junit", junit.to_str().unwrap()];
    let more = [&more[..], &["--markdown", markdown.to_str().unwrap()]].concat();
    // Ten times as long.
    let output = ab(&out, "ebpf:burn=100000", &more);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let verdict = gate(&out);
    assert_eq!((verdict.outcome, verdict.exit_code), (GateOutcome::Regression, 1));
    let judged = verdict.gating().next().unwrap();
    assert_eq!((judged.metric, judged.verdict), (Some(Metric::LatencyP50), Verdict::Regression));
    assert!(judged.estimate.as_ref().unwrap().size > 3.0, "{judged:?}");
    let record = record(&out);
    assert_eq!(record.header.pairing.as_ref().unwrap().looks, [3, 5]);
    assert_eq!(record.trials.len(), 3 * 3 * 2, "the look after three of five makings ended it");
    assert!(
        record.notes.iter().any(|n| n.starts_with("ended after 3 of 5 makings: ")),
        "{:?}",
        record.notes
    );
    assert!(record.cells.iter().all(|c| c.status == CellStatus::Measured), "{:?}", record.cells);
    let last = said(&output);
    let last = last.trim_end().lines().last().unwrap();
    assert!(last.starts_with("regression: tcp_rr cross-node, latency p50: "), "{last}");
    let page = std::fs::read_to_string(out.join("report/index.html")).unwrap();
    assert!(page.contains("regression: tcp_rr cross-node"), "the page has the verdict");
    let junit = std::fs::read_to_string(junit).unwrap();
    assert!(junit.contains("<failure") && junit.contains("tcp_rr"), "{junit}");
    let markdown = std::fs::read_to_string(markdown).unwrap();
    assert!(markdown.to_lowercase().contains("regression"), "{markdown}");
}

#[test]
fn the_same_twice_passes_where_only_large_changes_count() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, "confidence = \"80%\"\n").unwrap();
    let more = [
        "--rebuilds",
        "5",
        "--pairs",
        "3",
        "--min-effect",
        "95%",
        "--policy",
        policy.to_str().unwrap(),
    ];
    let output = ab(&out, "ebpf", &more);
    let verdict = gate(&out);
    assert_eq!(output.status.code(), Some(0), "{}\n{verdict:#?}", stderr(&output));
    assert_eq!(verdict.outcome, GateOutcome::Pass);
    assert_eq!(verdict.gating().next().unwrap().floor.unwrap().minimum_effect, 0.95);
    // 0.2 by the policy, of which looks on the way have had a share.
    assert!(verdict.alpha > 0.02, "the policy's: {}", verdict.alpha);
}

#[test]
fn no_pair_is_begun_that_would_end_too_late() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let began = Instant::now();
    let more = ["--rebuilds", "2", "--pairs", "1000", "--max-time", "12s"];
    let output = ab(&out, "ebpf", &more);
    // The machine may be slow to take down what it brought up; four minutes are planned.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert_eq!(output.status.code(), Some(gate(&out).exit_code.into()), "{}", stderr(&output));
    let record = record(&out);
    assert!(
        record.notes.iter().any(|n| n.contains("(12 s, --max-time) was over")),
        "{:?}",
        record.notes
    );
    let of = |arm| record.trials.iter().filter(|t| t.pair.unwrap().arm == arm).count();
    assert_eq!(of(PairArm::Baseline), of(PairArm::Candidate), "pairs are whole");
    assert!((1..2000).contains(&of(PairArm::Baseline)));
}

#[test]
fn a_plan_says_how_long_it_takes_and_where_it_ends() {
    let mut command = Command::new(binary());
    command.args(["ab", "--baseline", "host", "--candidate", "host", "--dry-run"]);
    let said = |command: &mut Command| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = said(&mut command);
    assert!(text.contains("10 makings of the clusters, 3 pairs of every case in each"), "{text}");
    assert!(!text.contains("ends after"), "{text}");
    let text = said(command.args(["--max-time", "30s"]));
    assert!(text.contains("ends after the pair at which 30 s are over"), "{text}");
}

#[test]
fn a_policy_that_is_wrong_is_found_before_anything_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("p.toml");
    std::fs::write(&policy, "\nmin_efect = \"3%\"\n").unwrap();
    let mut command = Command::new(binary());
    command.args(["ab", "--baseline", "host", "--candidate", "host", "--policy"]).arg(&policy);
    let output = command.arg("--out").arg(folder.path().join("out")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("p.toml:2: unknown field"), "{}", stderr(&output));
    assert!(!folder.path().join("out").exists());
}

fn calibrate(state: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(["calibrate", "--cni", "ebpf", "--workload", "tcp_rr", "--runs", "5"]);
    command.args(["--duration", "50ms", "--warmup", "10ms", "--pairs", "2", "--rebuilds", "2"]);
    command.args(more).env("XDG_STATE_HOME", state).current_dir(state).output().unwrap()
}

#[test]
fn what_this_host_makes_of_nothing_is_kept_and_used() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let output = calibrate(state, &["--format", "json", "--records", "runs"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let made: Calibration = serde_json::from_str(&said(&output)).unwrap();
    assert_eq!((made.runs, made.rebuilds, made.pairs), (5, 2, 2));
    let path = state.join("cnibench/calibration.json");
    let kept = Calibration::from_json(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(kept, made);
    let p50 = kept.floors.iter().find(|f| f.metric == Metric::LatencyP50).unwrap();
    assert!(p50.floor >= p50.largest && p50.cni.to_string() == "ebpf", "{p50:?}");

    // What was measured is not measured again.
    let began = Instant::now();
    let again = calibrate(state, &["--records", "runs", "--out", "again.json"]);
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let again = std::fs::read_to_string(state.join("again.json")).unwrap();
    assert_eq!(Calibration::from_json(&again).unwrap(), made);

    let judged = |out: &str| {
        let out = state.join(out);
        let mut command = measuring("ab", &out);
        command.args(["--baseline", "ebpf", "--candidate", "ebpf", "--workload", "tcp_rr"]);
        command.args(["--rebuilds", "1", "--pairs", "2"]).env("XDG_STATE_HOME", state);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(gate(&out).exit_code.into()), "{}", stderr(&output));
        gate(&out)
    };
    let used = judged("used");
    assert_eq!(used.calibration, CalibrationUse::Used { made: made.made.to_string(), runs: 5 });
    let floor = used.gating().next().unwrap().floor.unwrap();
    assert_eq!(floor.calibrated, Some(p50.floor));

    let doctor = || {
        let mut command = Command::new(binary());
        let output = command.arg("doctor").env("XDG_STATE_HOME", state).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().find(|l| l.contains("calibration")).unwrap().trim().to_owned()
    };
    assert!(doctor().starts_with("ok") && doctor().contains("5 A/A runs"), "{}", doctor());

    // Of another kernel it is no use.
    let mut other = kept;
    other.host.0.insert("kernel_release".to_owned(), "5.4".to_owned());
    std::fs::write(&path, serde_json::to_string(&other).unwrap()).unwrap();
    assert!(
        doctor().starts_with("missing") && doctor().contains("stale: kernel_release: 5.4 and"),
        "{}",
        doctor()
    );
    let CalibrationUse::Stale { differences, .. } = judged("stale").calibration else {
        panic!("a stale calibration was used")
    };
    assert_eq!(differences[0].field, "kernel_release");
    std::fs::remove_file(&path).unwrap();
    assert!(doctor().contains("none: `cnibench calibrate`"), "{}", doctor());
}

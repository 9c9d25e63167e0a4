//! `gate` and `compare` on stored records, by running the binary: exit codes, refusals, files. Needs no
//! privilege; the records are synthetic.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows test functions, but not what they share, as tests"
)]

#[path = "../../reports/src/fixtures.rs"]
mod fixtures;

use assert_cmd::Command;
use cnibench_model::{Clock, Comparison, Gate, Metric, Record, Verdict};
use fixtures::{Builder, in_pairs, path};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A results folder with this record.
    fn put(&self, name: &str, record: &Record) -> PathBuf {
        let folder = self.at(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("record.json"), serde_json::to_string(record).unwrap()).unwrap();
        folder
    }

    /// Exit code, standard output and error, with no calibration of this machine in the way.
    fn run(&self, args: &[&dyn AsRef<std::ffi::OsStr>]) -> (i32, String, String) {
        let mut command = Command::cargo_bin("cnibench").unwrap();
        let output = command
            .env("XDG_STATE_HOME", self.dir.path())
            .args(args.iter().map(|a| a.as_ref()))
            .output()
            .unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }

    fn stored(&self, baseline: &Path, candidate: &Path, more: &[&str]) -> (i32, String, String) {
        let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> =
            vec![&"gate", &"--baseline", &baseline, &"--candidate", &candidate];
        args.extend(more.iter().map(|m| m as &dyn AsRef<std::ffi::OsStr>));
        self.run(&args)
    }
}

/// A record of `run` of one cni.
fn plain(clock: Clock) -> Record {
    let paths = vec![path("ebpf", "ebpf", false, 1.0, 1.0)];
    Builder { paths, clock, trials: 10, ..Builder::default() }.build()
}

/// The same with every latency so many times as long.
fn slower(record: &Record, times: f64) -> Record {
    let mut record = record.clone();
    record.header.run_id = "r0002".to_owned();
    for trial in &mut record.trials {
        let longer = [Metric::LatencyP50, Metric::InstructionsPerTransaction];
        for sample in trial.samples.iter_mut().filter(|s| longer.contains(&s.metric)) {
            sample.value *= times;
        }
    }
    record
}

#[test]
fn stored_records_pass_regress_and_improve() {
    let place = Place::new();
    let record = plain(Clock::Wall);
    let before = place.put("before", &record);
    for (times, code, verdict) in
        [(1.0, 0, "pass"), (1.3, 1, "regression"), (0.7, 0, "improvement"), (1.08, 0, "pass")]
    {
        let after = place.put("after", &slower(&record, times));
        let (found, stdout, stderr) = place.stored(&before, &after, &["--format", "json"]);
        assert_eq!(found, code, "{times}: {stdout}{stderr}");
        let gate: Gate = serde_json::from_str(&stdout).unwrap();
        let p50 = gate.gating().find(|j| j.metric == Some(Metric::LatencyP50)).unwrap();
        assert_eq!(p50.verdict.name(), verdict, "{times}: {p50:?}");
        assert_eq!(gate.exit_code, code as u8);
    }
    // Counted instructions do not drift: what is nothing to a clock on the wall is a regression.
    let record = plain(Clock::Instructions);
    let before = place.put("counted-before", &record);
    let after = place.put("counted-after", &slower(&record, 1.08));
    let (code, stdout, _) = place.stored(&before, &after, &[]);
    assert_eq!(code, 1, "{stdout}");
    assert!(stdout.trim_end().lines().last().unwrap().starts_with("regression: "), "{stdout}");
}

#[test]
fn records_that_cannot_be_compared_are_refused_by_field_or_stamped_advice() {
    let place = Place::new();
    let record = plain(Clock::Wall);
    let before = place.put("before", &record);
    let mut other = slower(&record, 1.5);
    other.header.environment.hostname = "ci-17".to_owned();
    other.header.environment.kernel_release = "6.12.1".to_owned();
    let after = place.put("after", &other);
    let (code, stdout, stderr) = place.stored(&before, &after, &[]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    for words in ["hostname: bench-01 and ci-17", "kernel_release: 6.18.4 and 6.12.1", "--advisory"]
    {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
    let (code, stdout, _) = place.stored(&before, &after, &["--advisory"]);
    assert_eq!(code, 3, "{stdout}");
    assert!(stdout.contains("advice only: regression"), "{stdout}");
    // Advice that finds nothing is nothing to stop for.
    other = slower(&record, 1.0);
    other.header.environment.hostname = "ci-17".to_owned();
    let same = place.put("same", &other);
    assert_eq!(place.stored(&before, &same, &["--advisory"]).0, 0);

    let clocks = place.put("clock", &plain(Clock::Instructions));
    let (code, _, stderr) = place.stored(&before, &clocks, &["--advisory"]);
    assert!(code == 2 && stderr.contains("wall and instructions"), "{stderr}");
    let paths = vec![path("bridge", "flannel", false, 1.0, 1.0)];
    let strangers = place.put("strangers", &Builder { paths, ..Builder::default() }.build());
    let (code, _, stderr) = place.stored(&before, &strangers, &[]);
    assert!(code == 2 && stderr.contains("no case in common"), "{stderr}");
}

#[test]
fn pairs_are_judged_again_by_another_policy() {
    let place = Place::new();
    let folder = place.put("ab", &in_pairs(5, 6, 1.0));
    let judge = |more: &[&str]| {
        let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"gate", &"--candidate", &folder];
        args.extend(more.iter().map(|m| m as &dyn AsRef<std::ffi::OsStr>));
        place.run(&args)
    };
    let (junit, markdown) = (place.at("v.xml"), place.at("v.md"));
    let files = ["--junit", junit.to_str().unwrap(), "--markdown", markdown.to_str().unwrap()];
    let (code, stdout, _) = judge(&files);
    assert_eq!(code, 1, "{stdout}");
    let xml = std::fs::read_to_string(&junit).unwrap();
    assert!(xml.contains("failures=\"1\"") && xml.contains("type=\"regression\""), "{xml}");
    let text = std::fs::read_to_string(&markdown).unwrap();
    assert!(text.starts_with("## cnibench: regression"), "{text}");
    assert!(text.contains("--candidate"), "how to get the same: {text}");

    assert_eq!(judge(&["--min-effect", "50%"]).0, 0);
    let policy = place.at("gate.toml");
    let with = |text: &str| {
        std::fs::write(&policy, text).unwrap();
        judge(&["--policy", policy.to_str().unwrap()])
    };
    assert_eq!(
        with("[gates]\ntcp_rr = [\"latency_p99\"]\n[[rule]]\ncases = \"*\"\nmin_effect = \"60%\"")
            .0,
        0
    );
    let (code, stdout, _) = with("min_effect = \"50%\"\nrequired = [\"tcp_stream/*\"]");
    assert!(code == 3 && stdout.contains("neither side has such a case"), "{stdout}");
    let (code, _, stderr) = with("min_effect = \"50%\"\n\n[gates]\ntcp_rr = [\"latency_p5\"]");
    assert!(code == 2 && stderr.contains("gate.toml:4: unknown metric \"latency_p5\""), "{stderr}");
    let (code, _, stderr) = judge(&["--calibration", "/nowhere"]);
    assert!(code == 2 && stderr.contains("/nowhere"), "{stderr}");
    let run = place.put("run", &plain(Clock::Wall));
    let (code, _, stderr) = place.run(&[&"gate", &"--candidate", &run]);
    assert!(code == 2 && stderr.contains("has no pairs"), "{stderr}");
}

#[test]
fn a_missing_arm_is_missing_and_exits_3() {
    let place = Place::new();
    let mut record = in_pairs(5, 6, 1.0);
    let failed = cnibench_model::CellStatus::Failed {
        short: "no peer".to_owned(),
        reason: "the peer never answered".to_owned(),
    };
    fixtures::set_status(&mut record, "/flannel-vxlan/", failed);
    let folder = place.put("ab", &record);
    let (code, stdout, _) = place.run(&[&"gate", &"--candidate", &folder, &"--format", &"json"]);
    assert_eq!(code, 3, "{stdout}");
    let gate: Gate = serde_json::from_str(&stdout).unwrap();
    let judged = gate.gating().next().unwrap();
    assert_eq!((judged.verdict, judged.estimate.as_ref()), (Verdict::Missing, None));
    assert!(judged.reason.contains("the peer never answered"), "{}", judged.reason);
}

#[test]
fn records_are_compared_for_people_and_programs() {
    let place = Place::new();
    let record = plain(Clock::Wall);
    let before = place.put("before", &record);
    let mut other = slower(&record, 1.3);
    other.header.environment.kernel_release = "6.12.1".to_owned();
    let after = place.put("after", &other);
    let (code, stdout, _) = place.run(&[&"compare", &before, &after]);
    assert_eq!(code, 0);
    assert!(stdout.starts_with("r0002 differs from the baseline r0001 in:"), "{stdout}");
    assert!(stdout.contains("kernel_release: 6.18.4 and 6.12.1"), "{stdout}");
    let (code, stdout, _) = place.run(&[&"compare", &before, &after, &"--format", &"json"]);
    let made: Comparison = serde_json::from_str(&stdout).unwrap();
    assert_eq!(code, 0);
    let p50 = made.rows.iter().find(|r| r.metric == Metric::LatencyP50).unwrap();
    let change = p50.candidates[0].as_ref().unwrap().change.as_ref().unwrap();
    assert!((change.size - 1.3).abs() < 0.03, "{change:?}");
    let (_, stdout, _) = place.run(&[&"compare", &before, &after, &"--format", &"md"]);
    assert!(stdout.starts_with("## cnibench: r0002 against r0001"), "{stdout}");
    let (code, _, stderr) = place.run(&[&"compare", &before, &"nowhere"]);
    assert!(code == 2 && stderr.contains("no record at nowhere"), "{stderr}");
}

#[test]
fn a_report_keeps_the_verdict_that_was_said() {
    let place = Place::new();
    let folder = place.put("ab", &in_pairs(5, 6, 1.0));
    let (code, stdout, _) = place.run(&[
        &"gate",
        &"--candidate",
        &folder,
        &"--min-effect",
        &"50%",
        &"--format",
        &"json",
    ]);
    assert_eq!(code, 0, "{stdout}");
    std::fs::write(folder.join("gate.json"), stdout).unwrap();
    let headline = || {
        let (code, _, stderr) = place.run(&[&"report", &folder, &"--format", &"md,junit"]);
        assert_eq!(code, 0, "{stderr}");
        assert!(folder.join("report/junit.xml").exists());
        std::fs::read_to_string(folder.join("report/summary.md")).unwrap()
    };
    assert!(headline().contains("**pass: "), "{}", headline());
    std::fs::remove_file(folder.join("gate.json")).unwrap();
    assert!(headline().contains("**regression: "), "{}", headline());
    let run = place.put("run", &plain(Clock::Wall));
    let (code, _, stderr) = place.run(&[&"report", &run, &"--format", &"junit"]);
    assert!(code == 2 && stderr.contains("no verdict"), "{stderr}");
}

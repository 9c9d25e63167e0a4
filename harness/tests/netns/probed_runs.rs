//! Whole runs with `--probes`: what the record says, that the stages account for the round trip, and
//! that nothing of the probes outlives the process, however it ends.

use crate::{
    running::{binary, record, stderr, traces_of, wait_for},
    support::provider,
};
use cnibench_model::{CellStatus, ProbedTrial, Record, Stage, probe::Direction};
use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    os::unix::{fs::PermissionsExt, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
};

/// Trials long enough to be counted in.
fn long(out: &Path, duration: &str) -> Command {
    let mut command = Command::new(binary());
    command.arg("run").arg("--out").arg(out).args(["--duration", duration, "--warmup", "50ms"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn probed_run(out: &Path, cnis: &str) -> Record {
    let mut command = long(out, "1s");
    command.args(["--cni", cnis, "--workload", "tcp_rr", "--placement", "cross-node"]);
    command.args(["--trials", "1", "--probes=2"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    record(out)
}

/// Nanoseconds of a transaction that are in a stage.
fn share(trial: &ProbedTrial) -> f64 {
    let sum: u64 = trial.result.stages.iter().map(|s| s.sum_ns).sum();
    let seen = trial.result.round_trip;
    sum as f64 / (seen.transactions as f64 * seen.mean_ns)
}

/// Each transaction is in each stage, but for those at the edges of the window, which is cut out of
/// slices of the generator's: what is compared is one rate with another.
fn each_transaction_is_counted(trial: &ProbedTrial) -> Result<(), String> {
    let transactions = trial.result.round_trip.transactions as f64;
    for stats in &trial.result.stages {
        if !matches!(stats.stage, Stage::SocketToQdisc | Stage::ToSocket | Stage::Application) {
            continue;
        }
        let each = stats.count as f64 / transactions;
        if !(0.95..1.05).contains(&each) {
            return Err(format!("{} {}: {each} per transaction", stats.direction, stats.stage));
        }
    }
    let named = |d: Direction| trial.result.stages.iter().filter(move |s| s.direction == d);
    for direction in [Direction::Request, Direction::Response] {
        if !named(direction).map(|s| s.stage).is_sorted() || named(direction).count() < 6 {
            return Err(format!("{direction}: not the path: {:?}", trial.result.stages));
        }
    }
    Ok(())
}

#[test]
fn the_stages_account_for_the_round_trip_that_the_generator_saw() {
    let folder = tempfile::tempdir().unwrap();
    let cnis = ["host", "flannel-host-gw", "flannel-vxlan", "ebpf", "ebpf-vxlan"];
    let mut open: BTreeSet<&str> = cnis.into_iter().collect();
    let mut said = Vec::new();
    // Machines are shared: a trial that others disturbed is taken again.
    for round in 0..3 {
        if open.is_empty() {
            break;
        }
        let out = folder.path().join(round.to_string());
        let asked: Vec<&str> = open.iter().copied().collect();
        let record = probed_run(&out, &asked.join(","));
        assert!(record.cells.iter().all(|c| c.status == CellStatus::Measured));
        assert!(!record.probed.is_empty(), "{:?}", record.notes);
        for trial in &record.probed {
            let cni = record.case(&trial.case).unwrap().cni.to_string();
            let share = share(trial);
            let counted = each_transaction_is_counted(trial);
            said.push(format!("{cni}: {share:.3} {counted:?}"));
            println!("{}", said.last().unwrap());
            assert!(trial.beside.is_some());
            assert!(
                trial.result.programs.iter().all(|p| p.attached),
                "{:?}",
                trial.result.programs
            );
            if (0.95..=1.03).contains(&share) && counted.is_ok() {
                open.remove(cni.as_str());
            }
        }
        // Gates and figures of the cnis read the measured trials alone.
        assert_eq!(record.trials.len(), asked.len());
    }
    assert!(open.is_empty(), "{open:?}: {said:#?}");
}

#[test]
fn probes_where_no_case_has_round_trips_are_refused_before_anything_is_made() {
    drop(provider());
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let mut command = long(&out, "1s");
    command.args(["--cni", "host", "--workload", "tcp_stream", "--probes"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("--probes: no case of this plan can be probed"), "{said}");
    assert!(said.contains("tcp_stream has no round trips") && !out.exists(), "{said}");
}

/// Numbers of the eBPF programs and maps that a process holds.
fn held(pid: u32) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let (mut programs, mut maps) = (BTreeSet::new(), BTreeSet::new());
    let files = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    for file in files {
        let info = std::fs::read_to_string(file.path()).unwrap_or_default();
        for line in info.lines() {
            let number =
                |name: &str| -> Option<u32> { line.strip_prefix(name)?.trim().parse().ok() };
            programs.extend(number("prog_id:"));
            maps.extend(number("map_id:"));
        }
    }
    (programs, maps)
}

fn loaded() -> (BTreeSet<u32>, BTreeSet<u32>) {
    let programs = aya::programs::loaded_programs().filter_map(Result::ok).map(|p| p.id());
    let maps = aya::maps::loaded_maps().filter_map(Result::ok).map(|m| m.id());
    (programs.collect(), maps.collect())
}

/// Killed (SIGKILL) when it goes, also where the test fails before.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn of_a_killed_run_no_program_and_no_map_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let mut command = long(&out, "2s");
    command.args(["--cni", "flannel-vxlan", "--workload", "tcp_rr", "--placement", "cross-node"]);
    command.args(["--trials", "1", "--probes=50"]);
    let mut killed = Killed(command.spawn().unwrap());
    let child = &mut killed.0;
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let begun = lines.map_while(Result::ok).any(|line| line.contains("probing"));
    let mut mine = Default::default();
    if begun {
        wait_for("all programs attached", || {
            mine = held(child.id());
            mine.0.len() >= 11
        });
    }
    let before = loaded();
    drop(killed);
    assert!(begun, "it ended without probing");
    assert!(mine.0.is_subset(&before.0) && mine.1.len() >= 9, "{mine:?} {before:?}");
    // The kernel frees them behind a grace period. What is pinned would stay.
    wait_for("programs and maps gone", || {
        let now = loaded();
        mine.0.is_disjoint(&now.0) && mine.1.is_disjoint(&now.1)
    });
    let id = crate::running::run_id(&out);
    wait_for("its agents gone", || crate::running::agents_of(&id).is_empty());
    let cleaned = Command::new(binary()).arg("clean").output().unwrap();
    assert_eq!(cleaned.status.code(), Some(0), "{}", stderr(&cleaned));
    assert_eq!(traces_of(&id), Default::default());
}

#[test]
fn without_root_everything_is_measured_and_a_note_says_why_nothing_is_probed() {
    drop(provider());
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let program = folder.path().join("cnibench");
    std::fs::copy(binary(), &program).unwrap();
    let out = folder.path().join("results");
    let mut command = Command::new(&program);
    command.arg("run").arg("--out").arg(&out).args(["--duration", "100ms", "--warmup", "20ms"]);
    command.args(["--cni", "host,flannel-vxlan", "--workload", "tcp_rr,udp_rr", "--trials", "2"]);
    command.arg("--probes=2").stdin(Stdio::null()).uid(65534).gid(65534).current_dir("/");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let record = record(&out);
    assert!(record.cells.iter().all(|c| c.status == CellStatus::Measured), "{:?}", record.cells);
    assert_eq!(record.trials.len(), 2 * record.header.cases.len());
    assert!(record.probed.is_empty());
    let notes: Vec<_> = record.notes.iter().filter(|n| n.contains("not probed")).collect();
    assert_eq!(notes.len(), 1, "{:?}", record.notes);
    assert!(notes[0].contains("not permitted") && notes[0].contains("user namespace"), "{notes:?}");
    let said = stderr(&output);
    assert!(said.contains(notes[0].as_str()), "{said}");
    // And before anything was measured.
    assert!(said.contains("--probes: nothing will be probed: "), "{said}");
}

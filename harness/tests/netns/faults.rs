//! What goes wrong in the field, done for real: signals, killed processes, full disks, bad folders.
//! In each case finished trials stay, the exit code is the promised one, and nothing is left behind.

use crate::running::{
    Running, agents_of, children_of, finished_trials, record, run_command, run_id, signal, stderr,
    traces_of, wait_for,
};
use cnibench_model::CellStatus;
use rustix::process::Signal;
use std::{path::Path, process::Command};

/// A run long enough to be disturbed.
fn long_run(out: &Path) -> Command {
    let mut command = run_command(out);
    command.args([
        "--cni",
        "host,flannel-host-gw",
        "--workload",
        "tcp_rr,udp_rr",
        "--trials",
        "200",
    ]);
    command
}

fn stopped_by(kind: Signal, name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let running = Running::until_trials(long_run(&out), &out, 3);
    signal(running.pid(), kind);
    let output = running.wait();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains(&format!("stopped by {name}")), "{}", stderr(&output));
    let record = record(&out);
    assert!(record.trials.len() >= 3);
    assert!(record.finished.is_some());
    for cell in &record.cells {
        let CellStatus::Interrupted { reason } = &cell.status else { panic!("{cell:?}") };
        assert!(reason.contains(name));
    }
    assert!(out.join("report/index.html").exists());
    assert_eq!(traces_of(&run_id(&out)), Default::default());
}

#[test]
fn sigint_keeps_what_was_finished() {
    stopped_by(Signal::INT, "SIGINT");
}

#[test]
fn sigterm_keeps_what_was_finished() {
    stopped_by(Signal::TERM, "SIGTERM");
}

#[test]
fn a_closed_terminal_keeps_what_was_finished() {
    stopped_by(Signal::HUP, "SIGHUP");
}

#[test]
fn a_reader_of_standard_error_that_goes_away_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let mut command = run_command(&out);
    command.args(["--cni", "host", "--workload", "tcp_rr", "--trials", "2"]);
    let mut child = command.spawn().unwrap();
    drop(child.stderr.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(record(&out).trials.len(), 2);
    assert!(out.join("report/index.html").exists());
}

#[test]
fn a_cni_whose_daemon_was_killed_is_measured_no_further() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let mut command = run_command(&out);
    command.args(["--cni", "host,flannel-wireguard-userspace", "--workload", "tcp_rr"]);
    command.args(["--placement", "cross-node,host-host", "--trials", "40"]);
    let running = Running::until_trials(command, &out, 4);
    let daemons = children_of(running.pid(), "wireguard-node");
    assert_eq!(daemons.len(), 2);
    signal(daemons[0], Signal::KILL);
    let output = running.wait();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    for cell in record(&out).cells {
        match cell.status {
            CellStatus::Failed { reason, .. } => {
                assert!(cell.case.0.contains("wireguard"), "{}: {reason}", cell.case);
                assert!(reason.contains("signal: 9"), "{reason}");
            }
            CellStatus::Measured => assert!(cell.case.0.contains("/host/"), "{}", cell.case),
            other => panic!("{}: {other:?}", cell.case),
        }
    }
    assert_eq!(traces_of(&run_id(&out)), Default::default());
    assert!(!std::path::Path::new(&format!("/proc/{}", daemons[1])).exists());
}

#[test]
fn sigint_before_the_first_trial_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let child = long_run(&out).spawn().unwrap();
    wait_for("the journal", || out.join("journal.jsonl").exists());
    signal(child.id(), Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert_eq!(traces_of(&run_id(&out)), Default::default());
}

#[test]
fn after_a_kill_the_journal_renders_and_clean_removes_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let running = Running::until_trials(long_run(&out), &out, 3);
    let id = run_id(&out);
    signal(running.pid(), Signal::KILL);
    running.wait();
    let agents_end = || agents_of(&id).is_empty();
    wait_for("agents end with their controller", agents_end);

    let rendered = Command::new(crate::running::binary()).arg("report").arg(&out).output().unwrap();
    assert_eq!(rendered.status.code(), Some(0), "{}", stderr(&rendered));
    assert!(out.join("report/index.html").exists());
    let kept = cnibench::store::read(&out).unwrap();
    assert!(kept.trials.len() >= 3 && kept.finished.is_none());

    let cleaned = Command::new(crate::running::binary()).arg("clean").output().unwrap();
    assert_eq!(cleaned.status.code(), Some(0), "{}", stderr(&cleaned));
    assert_eq!(traces_of(&id), Default::default());
}

#[test]
fn a_killed_agent_is_one_failed_cell() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let mut command = run_command(&out);
    command.args(["--cni", "host", "--workload", "tcp_rr,udp_rr", "--trials", "20"]);
    let running = Running::until_trials(command, &out, 2);
    let agents = agents_of(&run_id(&out));
    assert_eq!(agents.len(), 2);
    signal(agents[0], Signal::KILL);
    let output = running.wait();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let record = record(&out);
    let failed: Vec<_> = record
        .cells
        .iter()
        .filter_map(|c| match &c.status {
            CellStatus::Failed { reason, short } => Some((short.clone(), reason.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(failed.len(), 1, "{:?}", record.cells);
    assert!(failed[0].1.contains("agent in") && failed[0].1.contains("signal: 9"), "{failed:?}");
    assert!(
        record.cells.iter().any(|c| c.status == CellStatus::Measured),
        "the other case went on"
    );
    assert_eq!(traces_of(&run_id(&out)), Default::default());
}

#[test]
fn a_peer_that_never_answers_is_a_failed_cell_and_may_be_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let mut command = run_command(&out);
    command.args(["--cni", "host", "--workload", "tcp_rr", "--trials", "30", "--allow-failed"]);
    let running = Running::until_trials(command, &out, 2);
    for agent in agents_of(&run_id(&out)).into_iter().skip(1) {
        signal(agent, Signal::STOP);
    }
    let output = running.wait();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let record = record(&out);
    assert!(matches!(record.cells[0].status, CellStatus::Failed { .. }), "{:?}", record.cells);
    assert!(record.trials.len() >= 2, "trials measured before are kept");
    assert_eq!(traces_of(&run_id(&out)), Default::default());
}

#[test]
fn a_full_disk_ends_the_run_and_what_was_written_stays_readable() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let out = disk.join("results");
    let elsewhere = folder.path().join("elsewhere");
    // A mount of the child's own mount namespace: it is gone with the child.
    let script = format!(
        "set -e; mount -t tmpfs -o size=192k tmpfs {disk}; \
         code=0; {binary} run --out {out} --cni host,flannel-host-gw --trials 200 --duration 50ms --warmup 10ms || code=$?; \
         {binary} report {out} --out {elsewhere}; cp {out}/journal.jsonl {elsewhere}; exit $code",
        disk = disk.display(),
        out = out.display(),
        elsewhere = elsewhere.display(),
        binary = crate::running::binary(),
    );
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("No space left on device"), "{}", stderr(&output));
    assert!(elsewhere.join("index.html").exists(), "{}", stderr(&output));
    assert!(finished_trials(&elsewhere) > 0);
    assert_eq!(traces_of(&run_id(&elsewhere)), Default::default());
}

#[test]
fn a_folder_that_cannot_be_written_is_found_before_anything_is_built() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let output = run_command(&file.join("results")).args(["--cni", "host"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("cannot make the results folder"), "{}", stderr(&output));
    let output = run_command(Path::new("/proc/nowhere")).args(["--cni", "host"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("/proc/nowhere"), "{}", stderr(&output));
}

#[test]
fn what_was_asked_for_by_name_and_is_not_there_fails_with_the_next_step() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |cni: &str| {
        let output =
            run_command(&folder.path().join("results")).args(["--cni", cni]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{cni}");
        stderr(&output)
    };
    assert!(refused("flanel-vxlan").contains("did you mean \"flannel-vxlan\"?"));
    assert!(refused("flannel-vxlan:mut=1400").contains("did you mean \"mtu\"?"));
    assert!(refused("flannel-vxlan:mtu=huge").contains("mtu"));
    assert!(refused("flannel-ipsec").contains("flannel-ipsec"));
}

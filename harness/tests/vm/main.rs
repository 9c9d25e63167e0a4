//! Guests that are booted for real: needs QEMU and a kernel (scripts/fetch-kernel), no root.
//!
//! What is asked to run and cannot fails: the program says what to install.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, but not what they share, as tests"
)]

mod carried;
mod encrypted;
mod encrypted_trials;
mod ends;
mod gate;

use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// A run of one workload in guests that count instructions.
fn run(out: &Path, cni: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cnibench"));
    command.args(["run", "smoke", "--provider", "vm", "--clock", "instructions", "--quiet"]);
    command.args(["--cni", cni, "--workload", "tcp_rr", "--placement", "cross-node"]);
    command.args(["--trials", "3", "--duration", "30ms", "--warmup", "20ms"]);
    command.args(more).arg("--out").arg(out);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn record(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("record.json")).unwrap()).unwrap()
}

/// Machines whose initramfs is in the memory of this process.
fn machines_of(id: u32) -> Vec<u32> {
    let ours = format!("/proc/{id}/fd/");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let mut words = line.split(|byte| *byte == 0);
            words.any(|word| word.starts_with(ours.as_bytes())).then_some(id)
        })
        .collect()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < until, "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Killed when a test fails before it has ended.
struct Going(Child);

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_cluster_in_a_guest_is_proved_and_its_instructions_repeat() {
    let folder = tempfile::tempdir().unwrap();
    let mut medians = Vec::new();
    for boot in ["first", "second"] {
        let out = folder.path().join(boot);
        let output = run(&out, "flannel-vxlan", &[]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let record = record(&out);
        assert_eq!(record["clock"], "instructions");
        let proofs = record["proofs"].as_array().unwrap();
        for kind in ["connectivity", "path", "mtu"] {
            let mut of_kind = proofs.iter().filter(|p| p["kind"] == kind).peekable();
            assert!(of_kind.peek().is_some(), "no proof of {kind}: {proofs:#?}");
            assert!(of_kind.all(|p| p["outcome"] == "passed"), "{kind}: {proofs:#?}");
        }
        let details = record["cnis"][0]["details"].to_string();
        assert!(details.contains("QEMU guest with kernel"), "{details}");
        let trials = record["trials"].as_array().unwrap();
        assert_eq!(trials.len(), 3);
        for trial in trials {
            let samples = trial["samples"].as_array().unwrap();
            let counted = "instructions_per_transaction";
            let found = samples.iter().find(|s| s["metric"] == counted).unwrap();
            medians.push(found["value"].as_f64().unwrap());
        }
        let page = fs::read_to_string(out.join("report/index.html")).unwrap();
        assert!(page.contains("instructions"));
    }
    // To the instruction: in namespaces of this machine so short trials are some percent apart.
    let (first, second) = medians.split_at(3);
    assert!(first == second && first.iter().all(|m| *m > 10_000.0), "{medians:?}");
}

#[test]
fn a_guest_that_panics_is_a_failed_cell_with_its_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let output =
        run(folder.path(), "host", &["--kernel-args", "rdinit=/nothing"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let record = record(folder.path());
    let reason = record["cells"][0].to_string();
    assert!(reason.contains("the guest did not boot"), "{reason}");
    assert!(reason.contains("Kernel panic - not syncing"), "{reason}");
}

#[test]
fn no_machine_outlives_a_run_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut going = Going(run(folder.path(), "host", &[]).spawn().unwrap());
    let id = going.0.id();
    wait_for("a machine", || !machines_of(id).is_empty());
    let machines = machines_of(id);
    going.0.kill().unwrap();
    going.0.wait().unwrap();
    wait_for("the end of the machine", || {
        machines.iter().all(|id| !Path::new(&format!("/proc/{id}/exe")).exists())
    });
}

#[test]
fn what_a_kernel_lacks_is_named_before_anything_boots() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("vmlinuz");
    fs::write(&kernel, "").unwrap();
    fs::create_dir(folder.path().join("modules")).unwrap();
    fs::write(folder.path().join("modules/modules.dep"), "").unwrap();
    let kernel = kernel.to_str().unwrap();
    let out = folder.path().join("out");
    let output = run(&out, "flannel-vxlan", &["--kernel", kernel]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("has no module veth, bridge, vxlan"), "{said}");
    assert!(!out.exists());
}

//! Running the binary for real, and looking for what it left behind.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// The binary under test.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_cnibench")
}

/// A run with few short trials; more arguments follow.
pub fn run_command(out: &Path) -> Command {
    measuring("run", out)
}

/// A command that measures, with short trials; more arguments follow.
pub fn measuring(subcommand: &str, out: &Path) -> Command {
    let mut command = Command::new(binary());
    command.arg(subcommand).arg("--out").arg(out).args(["--duration", "100ms", "--warmup", "20ms"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The record in a results folder.
pub fn record(out: &Path) -> cnibench_model::Record {
    cnibench::store::read(&out.join("record.json")).unwrap()
}

/// Waits until a condition holds; the bound is generous, since machines are shared.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "never saw: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Lines of a run's journal that are whole and hold a trial.
pub fn finished_trials(out: &Path) -> usize {
    std::fs::read_to_string(out.join("journal.jsonl"))
        .map(|text| text.lines().filter(|l| l.starts_with("{\"event\":\"trial\"")).count())
        .unwrap_or(0)
}

/// The run id in a journal's first line.
pub fn run_id(out: &Path) -> String {
    let text = std::fs::read_to_string(out.join("journal.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    first["run_id"].as_str().unwrap().to_owned()
}

/// Everything of a run that is still on this machine: namespaces, and processes that are direct or
/// indirect children of nobody but carry its namespaces in their command line.
pub fn traces_of(run_id: &str) -> BTreeSet<String> {
    let names = |folder: &str| {
        std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| format!("{folder}/{}", e.file_name().to_string_lossy()))
            .collect::<Vec<_>>()
    };
    let mut traces: BTreeSet<String> = names("/run/netns")
        .into_iter()
        .chain(names("/run/cnibench"))
        .filter(|n| n.contains(run_id))
        .collect();
    traces.extend(
        processes()
            .into_iter()
            .filter(|(_, line)| line.contains(run_id))
            .map(|(pid, line)| format!("process {pid}: {line}")),
    );
    traces
}

/// Every process with its command line.
pub fn processes() -> Vec<(u32, String)> {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        })
        .collect()
}

/// Children of a process whose command line holds a word.
pub fn children_of(parent: u32, word: &str) -> Vec<u32> {
    let parent_of = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // After the command's name, which may hold anything: state, then the parent.
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    processes()
        .into_iter()
        .filter(|(pid, line)| line.contains(word) && parent_of(*pid) == Some(parent))
        .map(|(pid, _)| pid)
        .collect()
}

/// The agents of a run.
pub fn agents_of(run_id: &str) -> Vec<u32> {
    processes()
        .into_iter()
        .filter(|(_, line)| line.contains(" agent ") && line.contains(run_id))
        .map(|(pid, _)| pid)
        .collect()
}

/// Sends a signal to a process that this test started (or a child of it).
pub fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// A child that is killed when a test fails before it has ended.
pub struct Running {
    child: Option<Child>,
    /// Its results folder.
    pub out: PathBuf,
}

impl Running {
    /// Starts a run and waits until it has finished some trials.
    pub fn until_trials(mut command: Command, out: &Path, trials: usize) -> Self {
        let child = command.spawn().unwrap();
        let mut running = Self { child: Some(child), out: out.to_owned() };
        wait_for("a finished trial", || {
            let ended = running.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the run ended early: {ended:?}");
            finished_trials(&running.out) >= trials
        });
        running
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Output {
        self.child.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

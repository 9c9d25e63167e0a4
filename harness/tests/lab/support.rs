//! Running the binary, and looking at what is left of its clusters.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A machine carries one cluster at a time in good time: tests take turns.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sources file.
pub fn sources() -> PathBuf {
    let file = std::env::var_os("CNIBENCH_LAB_SOURCES")
        .expect("CNIBENCH_LAB_SOURCES names no sources file: the lab tier needs one");
    std::path::absolute(file).unwrap()
}

/// A folder for one test, in which the user's kubeconfig would be.
pub struct Desk(tempfile::TempDir);

impl Desk {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn cnibench(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cnibench"));
        command.args(args).current_dir(self.0.path());
        command.env("KUBECONFIG", self.path("users-own")).env("HOME", self.0.path());
        command
    }

    /// `run` on kind with this machine's sources.
    pub fn run(&self, args: &[&str]) -> Command {
        let sources = sources();
        let mut command = self.cnibench(&["run"]);
        command.args(args).args(["--provider", "kind", "--out", "out", "--sources"]).arg(sources);
        command
    }

    pub fn record(&self) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.path("out/record.json")).unwrap()).unwrap()
    }

    /// The user's own kubeconfig was not made.
    pub fn kubeconfig_is_untouched(&self) {
        assert!(!self.path("users-own").exists(), "the user's kubeconfig was written");
        assert!(!self.path(".kube").exists(), "the user's .kube was made");
    }
}

/// Runs a command; its output is printed, for those who look at a test that failed.
pub fn output(mut command: Command) -> Output {
    let output = command.output().unwrap();
    println!("{}{}", String::from_utf8_lossy(&output.stdout), said(&output));
    output
}

/// What it wrote to standard error.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The names of clusters of cnibench.
pub fn clusters() -> Vec<String> {
    let output = Command::new("kind").args(["get", "clusters"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|l| l.starts_with("cnb-")).map(str::to_owned).collect()
}

/// Files of a run in the folder of locks.
pub fn notes(run: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir("/run/cnibench") else { return Vec::new() };
    let ours = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().contains(run));
    entries.flatten().map(|e| e.path()).filter(|p| ours(p)).collect()
}

/// A run that was started and whose cluster is being made.
pub struct Started {
    pub child: Child,
    pub cluster: String,
}

impl Started {
    /// Starts it, and waits until its cluster's first container is there.
    pub fn new(mut command: Command) -> Self {
        let before = clusters();
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut started = Self { child, cluster: String::new() };
        let until = Instant::now() + Duration::from_secs(120);
        while Instant::now() < until {
            if let Some(new) = clusters().into_iter().find(|c| !before.contains(c)) {
                started.cluster = new;
                return started;
            }
            assert!(started.child.try_wait().unwrap().is_none(), "it ended: {}", started.rest());
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("no cluster appeared: {}", started.rest());
    }

    /// The run's id.
    pub fn run(&self) -> String {
        self.cluster.split('-').nth(1).unwrap().to_owned()
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    fn rest(&mut self) -> String {
        let _ = self.child.kill();
        let stderr = self.child.stderr.take().map(BufReader::new);
        stderr.into_iter().flat_map(|r| r.lines().map_while(Result::ok)).collect()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

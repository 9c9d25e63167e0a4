//! This binary as a child process in a network namespace of this machine.

use super::{Link, Process};
use async_trait::async_trait;
use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::OnceLock,
};
use tokio::process::{Child, Command};

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Names the cnibench binary to start, once and before the first cluster. Programs other than
/// cnibench itself (tests, for one) need this.
pub fn set_program(path: PathBuf) {
    // Naming it twice is harmless: the first one holds.
    let _ = PROGRAM.set(path);
}

/// The cnibench binary to start.
pub fn program() -> PathBuf {
    // Not current_exe: a binary that was replaced meanwhile would be another one.
    PROGRAM.get().cloned().unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

/// Starts `cnibench COMMAND --netns NETNS`.
///
/// # Errors
/// The system call's.
pub fn start(command: &str, netns: &Path) -> io::Result<Link> {
    start_program(&program(), command, netns)
}

/// The same with another cnibench.
///
/// # Errors
/// The system call's.
pub fn start_program(program: &Path, command: &str, netns: &Path) -> io::Result<Link> {
    let mut child = Command::new(program)
        .arg0("cnibench")
        .arg(command)
        .arg("--netns")
        .arg(netns)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A signal to the terminal's process group is the controller's to handle.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let (Some(input), Some(output), Some(errors)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::Error::other("no pipes"));
    };
    Ok(Link {
        input: Box::new(input),
        output: Box::new(output),
        errors: Box::new(errors),
        process: Box::new(Local(child)),
    })
}

struct Local(Child);

#[async_trait]
impl Process for Local {
    async fn wait(&mut self) -> String {
        match self.0.wait().await {
            Ok(status) => status.to_string(),
            Err(e) => e.to_string(),
        }
    }

    async fn kill(&mut self) {
        // It may have ended in between; kill_on_drop reaps it in any case.
        let _ = self.0.kill().await;
    }
}

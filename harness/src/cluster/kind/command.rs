//! Commands of other programs: run to their end, their output kept, never left behind.
//!
//! Owns process groups, time limits and what an error says of a command that failed. Which commands
//! there are is said by the modules beside it.

use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};
use std::{
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    time::timeout,
};

/// Lines of standard error that an error repeats.
const LINES: usize = 12;
/// Standard output beyond this is no answer of a tool.
const MAX_OUTPUT: u64 = 64 << 20;

/// Why a command did not do what it was run for.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such program.
    #[error("{program} is not there")]
    Missing {
        /// Its name.
        program: String,
    },
    /// It could not be started or talked to.
    #[error("{command}: {cause}")]
    Io {
        /// The command.
        command: String,
        /// Why.
        cause: io::Error,
    },
    /// It said no.
    #[error("{command}: {status}{tail}")]
    Failed {
        /// The command.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its standard error.
        tail: String,
    },
    /// It never ended.
    #[error("{command} did not end within {after_s:.0} s{tail}")]
    Hung {
        /// The command.
        command: String,
        /// The limit.
        after_s: f64,
        /// The last lines of its standard error.
        tail: String,
    },
}

impl CommandError {
    /// Does the error, or what the command said, hold this text?
    pub fn says(&self, text: &str) -> bool {
        match self {
            Self::Failed { tail, .. } | Self::Hung { tail, .. } => tail.contains(text),
            _ => false,
        }
    }
}

/// A command to be run.
#[derive(Debug, Clone)]
pub struct Invocation {
    program: PathBuf,
    args: Vec<OsString>,
    /// None: the variable is taken out.
    env: Vec<(OsString, Option<OsString>)>,
    stdin: Vec<u8>,
    limit: Duration,
}

impl Invocation {
    /// A program of a path, or of a name to be found in PATH, with a limit of time.
    pub fn new(program: impl AsRef<Path>, limit: Duration) -> Self {
        let program = program.as_ref().to_owned();
        Self { program, args: Vec::new(), env: Vec::new(), stdin: Vec::new(), limit }
    }

    /// One argument more.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// A variable of its environment.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Without a variable that this process has.
    pub fn without_env(mut self, key: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), None));
        self
    }

    /// What it reads.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// As a person would type it, for errors.
    pub fn line(&self) -> String {
        let program = self.program.file_name().unwrap_or(self.program.as_os_str());
        let words = std::iter::once(program).chain(self.args.iter().map(OsString::as_os_str));
        words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    /// Runs it to its end and gives its standard output. Its whole process group is killed when it
    /// hangs and when the future is dropped.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn run(self) -> Result<String, CommandError> {
        let line = self.line();
        tracing::debug!(command = line, "running");
        let fail = |cause| CommandError::Io { command: line.clone(), cause };
        let mut command = Command::new(&self.program);
        // SAFETY: the closure makes one system call and allocates nothing.
        unsafe {
            // A run that is killed takes its commands along: a `kind create` that lived on would make
            // what `clean` has just removed.
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        for (key, value) in &self.env {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        let mut child = command
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A signal to the terminal's process group is the controller's to handle.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => {
                    CommandError::Missing { program: self.program.display().to_string() }
                }
                _ => fail(e),
            })?;
        let group = Group::of(&child);
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut out = Vec::new();
        let mut err = Vec::new();
        let work = async {
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // A program that does not read all of it says itself why.
                    let _ = stdin.write_all(&self.stdin).await;
                }
            };
            let (_, read, errors) =
                tokio::join!(feed, read_all(stdout, &mut out), read_all(stderr, &mut err));
            read?;
            errors?;
            child.wait().await
        };
        let ended = timeout(self.limit, work).await;
        let tail = tail(&err);
        match ended {
            Err(_) => {
                Err(CommandError::Hung { command: line, after_s: self.limit.as_secs_f64(), tail })
            }
            Ok(Err(e)) => Err(fail(e)),
            Ok(Ok(status)) => {
                group.done();
                match status.success() {
                    true => Ok(String::from_utf8_lossy(&out).into_owned()),
                    false => Err(CommandError::Failed { command: line, status, tail }),
                }
            }
        }
    }
}

async fn read_all(from: Option<impl AsyncRead + Unpin>, to: &mut Vec<u8>) -> io::Result<()> {
    let Some(from) = from else { return Ok(()) };
    from.take(MAX_OUTPUT).read_to_end(to).await.map(drop)
}

/// The last lines, for the end of a sentence.
fn tail(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|l| !l.is_empty()).collect();
    // kind and helm tell what they do before they say what went wrong.
    let error = lines.iter().position(|l| l.starts_with("ERROR") || l.starts_with("Error"));
    let lines = &lines[error.unwrap_or(0)..];
    let last = &lines[lines.len().saturating_sub(LINES)..];
    if last.is_empty() { String::new() } else { format!(": {}", last.join("\n  ")) }
}

/// Kills a process group when it is dropped before its leader ended.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(id.cast_signed())))
    }

    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // The leader is not reaped yet, so the number is still this group's.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn sh(script: &str, limit_ms: u64) -> Invocation {
        Invocation::new("sh", Duration::from_millis(limit_ms)).args(["-c", script])
    }

    #[tokio::test]
    async fn output_input_and_environment_go_through() {
        let out = sh("cat; echo $WORD", 5000).stdin("in\n").env("WORD", "env").run().await;
        assert_eq!(out.unwrap(), "in\nenv\n");
    }

    #[tokio::test]
    async fn a_failure_says_the_last_lines() {
        let script = "for i in $(seq 1 100); do echo line $i >&2; done; exit 3";
        let error = sh(script, 5000).run().await.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("sh -c "), "{text}");
        assert!(text.contains("exit status: 3: line 89"), "{text}");
        assert!(text.ends_with("line 100"), "{text}");
        assert!(error.says("line 95") && !error.says("line 88"));
    }

    #[tokio::test]
    async fn what_was_done_before_an_error_is_left_out() {
        let error =
            sh("echo ' • Preparing nodes' >&2; echo ERROR: no; echo ERROR: why >&2; exit 1", 5000);
        let text = error.run().await.unwrap_err().to_string();
        assert!(text.ends_with("exit status: 1: ERROR: why"), "{text}");
    }

    #[tokio::test]
    async fn what_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! >{}; echo started >&2; wait", pid.display());
        let begun = Instant::now();
        let error = sh(&script, 500).run().await.unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(error.to_string().ends_with("did not end within 0 s: started"), "{error}");
        let pid = std::fs::read_to_string(pid).unwrap();
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
            stat.is_err() || stat.unwrap().contains(") Z ")
        };
        for _ in 0..200 {
            if gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the child of what hung lives on");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let error = Invocation::new("/no/such/program", Duration::from_secs(1)).run().await;
        assert!(
            matches!(error.unwrap_err(), CommandError::Missing { program } if program == "/no/such/program")
        );
    }
}

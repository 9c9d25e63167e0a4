//! One plugin process: looked up, started, fed, read with limits, killed when it hangs.
//!
//! Knows nothing of networks and results. The process inherits the namespaces of the calling
//! thread; `runtime` calls this from the thread of a node (`node.rs`).

use super::{error::Fault, interrupt::Token};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};
use std::{
    fmt,
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::{
            fs::PermissionsExt,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Where plugins are looked for when nobody says: the conventional place and Debian's.
pub const DEFAULT_DIRS: &[&str] = &["/opt/cni/bin", "/usr/lib/cni"];
/// Bytes of standard output taken; no result comes near it.
pub const MAX_STDOUT: usize = 4 << 20;
/// Bytes of the end of standard error kept for messages.
const STDERR_TAIL: usize = 2048;
/// Bytes of a wrong output shown in a message.
const EXCERPT: usize = 400;
/// How long output of a process that has ended is waited for, where a child of it still holds the pipe.
const DRAIN: Duration = Duration::from_millis(200);
/// How often a running plugin's call is asked whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// A CNI operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CommandName {
    /// Attach.
    Add,
    /// Is it still attached?
    Check,
    /// Detach.
    Del,
    /// Which versions do you speak?
    Version,
    /// Could you attach now? (1.1.0)
    Status,
    /// Remove what belongs to no attachment in the list. (1.1.0)
    Gc,
}

impl fmt::Display for CommandName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Version => "VERSION",
            Self::Status => "STATUS",
            Self::Gc => "GC",
        })
    }
}

/// Finds the binary of a plugin, first directory first.
///
/// # Errors
/// `Missing` or `NotExecutable`.
pub fn find(plugin: &str, dirs: &[PathBuf]) -> Result<PathBuf, Fault> {
    let mut unusable = None;
    for dir in dirs {
        let path = dir.join(plugin);
        match path.metadata() {
            Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => {
                return Ok(path);
            }
            Ok(_) => unusable = unusable.or(Some(path)),
            Err(_) => {}
        }
    }
    Err(match unusable {
        Some(path) => Fault::NotExecutable(path),
        None => Fault::Missing { looked: dirs.to_vec() },
    })
}

/// What a process that ended by itself left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it printed, at most [`MAX_STDOUT`] bytes.
    pub stdout: Vec<u8>,
    /// The end of its standard error.
    pub stderr: String,
}

impl Output {
    /// "exit status 3" or "killed by signal 9".
    pub fn status_text(&self) -> String {
        status_text(self.status)
    }

    /// The beginning of standard output, readable.
    pub fn excerpt(&self) -> String {
        let cut = &self.stdout[..self.stdout.len().min(EXCERPT)];
        let dots = if cut.len() < self.stdout.len() { "…" } else { "" };
        format!("{}{dots}", String::from_utf8_lossy(cut))
    }
}

/// "exit status 3" or "killed by signal 9".
pub fn status_text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// How long a call may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From its beginning.
    pub deadline: Duration,
    /// Is it still wanted?
    pub token: Token,
    /// What is left to it when it is no longer wanted.
    pub grace: Duration,
}

/// Runs `path` with exactly these extra variables and `input` on standard input, within `limits`.
///
/// # Errors
/// The fault and the end of standard error. After `Deadline`, `Interrupted` and `TooMuch` the
/// process and its process group are dead and reaped.
pub fn run(
    path: &Path,
    env: &[(&str, String)],
    input: &[u8],
    limits: &Limits,
) -> Result<Output, (Fault, String)> {
    let mut command = Command::new(path);
    // What an earlier CNI runtime above us left in the environment is not for this plugin.
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("CNI_") {
            command.env_remove(key);
        }
    }
    command.envs(env.iter().map(|(k, v)| (*k, v.as_str())));
    run_command(&mut command, input, limits)
}

/// The same for any command, with the environment that it has.
///
/// # Errors
/// As [`run`].
pub fn run_command(
    command: &mut Command,
    input: &[u8],
    limits: &Limits,
) -> Result<Output, (Fault, String)> {
    let path = PathBuf::from(command.get_program());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    super::sys::die_with_parent(command);
    let start = |cause: io::Error| {
        (Fault::Start { path: path.clone(), cause: cause.to_string() }, String::new())
    };
    let child = spawn(command).map_err(start)?;
    let mut running = Running { child, stdout: Vec::new(), stderr: Tail::default() };
    let result = running.pump(input, limits);
    let stderr = running.stderr.text();
    match result {
        Ok(End::Exited(status)) => {
            Ok(Output { status, stdout: std::mem::take(&mut running.stdout), stderr })
        }
        Ok(End::Deadline) => Err((Fault::Deadline(limits.deadline), stderr)),
        Ok(End::Interrupted) => Err((Fault::Interrupted, stderr)),
        Ok(End::TooMuch) => Err((Fault::TooMuch(MAX_STDOUT), stderr)),
        Err(cause) => Err((Fault::Start { path, cause: cause.to_string() }, stderr)),
    }
}

/// Spawns; a binary that was written a moment ago may still be open for writing in a sibling that
/// is between fork and exec (ETXTBSY), which passes by itself.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    for _ in 0..20 {
        match command.spawn() {
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
    command.spawn()
}

enum End {
    Exited(ExitStatus),
    Deadline,
    Interrupted,
    TooMuch,
}

struct Running {
    child: Child,
    stdout: Vec<u8>,
    stderr: Tail,
}

impl Running {
    /// Feeds and reads until the process has ended and its output is read, or a limit is hit.
    fn pump(&mut self, mut input: &[u8], limits: &Limits) -> io::Result<End> {
        let deadline = Instant::now() + limits.deadline;
        let mut unwanted: Option<Instant> = None;
        let pid = Pid::from_child(&self.child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let mut stdin = self.child.stdin.take();
        let mut stdout = self.child.stdout.take();
        let mut stderr = self.child.stderr.take();
        let pipes = [
            stdin.as_ref().map(AsFd::as_fd),
            stdout.as_ref().map(AsFd::as_fd),
            stderr.as_ref().map(AsFd::as_fd),
        ];
        for pipe in pipes.into_iter().flatten() {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        let mut exited: Option<Instant> = None;
        loop {
            if exited.is_some() && stdout.is_none() && stderr.is_none() {
                break;
            }
            if unwanted.is_none() && limits.token.is_over() {
                unwanted = Some(Instant::now());
            }
            let given_up = unwanted.map(|at| at + limits.grace).filter(|at| *at < deadline);
            let limit = exited.map_or(given_up.unwrap_or(deadline), |at| at + DRAIN);
            let left = limit.saturating_duration_since(Instant::now());
            if left.is_zero() {
                if exited.is_some() {
                    break;
                }
                self.kill()?;
                return Ok(given_up.map_or(End::Deadline, |_| End::Interrupted));
            }
            let mut fds = Vec::with_capacity(4);
            if exited.is_none() {
                fds.push(PollFd::new(&pidfd, PollFlags::IN));
            }
            stdout.iter().for_each(|fd| fds.push(PollFd::new(fd, PollFlags::IN)));
            stderr.iter().for_each(|fd| fds.push(PollFd::new(fd, PollFlags::IN)));
            stdin.iter().for_each(|fd| fds.push(PollFd::new(fd, PollFlags::OUT)));
            let pause = left.min(LOOK);
            let timeout = Timespec::try_from(pause).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            let done = exited.is_none() && !fds[0].revents().is_empty();
            drop(fds);
            if done {
                exited = Some(Instant::now());
            }
            if let Some(pipe) = &mut stdin {
                match pipe.write(input) {
                    Ok(n) => input = &input[n..],
                    Err(e) if retry(&e) => {}
                    // A plugin that does not read its configuration is judged by what it answers.
                    Err(_) => input = &[],
                }
                if input.is_empty() {
                    stdin = None;
                }
            }
            let buffer = &mut self.stdout;
            if !read_all(&mut stdout, |bytes| {
                buffer.extend_from_slice(bytes);
                buffer.len() <= MAX_STDOUT
            })? {
                self.kill()?;
                return Ok(End::TooMuch);
            }
            let tail = &mut self.stderr;
            read_all(&mut stderr, |bytes| {
                tail.push(bytes);
                true
            })?;
        }
        Ok(End::Exited(self.child.wait()?))
    }

    fn kill(&mut self) -> io::Result<()> {
        // The child is not reaped yet, so its id and that of its group are still its own.
        match kill_process_group(Pid::from_child(&self.child), Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(e) => return Err(e.into()),
        }
        self.child.wait().map(drop)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Best effort: only reached when polling itself failed, whose error is reported.
            let _ = self.kill();
        }
    }
}

fn retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Reads what is there and closes the pipe at its end. False when `take` had enough.
fn read_all(pipe: &mut Option<impl Read>, mut take: impl FnMut(&[u8]) -> bool) -> io::Result<bool> {
    let mut buffer = [0; 16 << 10];
    while let Some(open) = pipe {
        match open.read(&mut buffer) {
            Ok(0) => *pipe = None,
            Ok(n) => {
                if !take(&buffer[..n]) {
                    return Ok(false);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

/// The last bytes of a stream.
#[derive(Debug, Default)]
pub struct Tail {
    bytes: Vec<u8>,
    cut: bool,
}

impl Tail {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > STDERR_TAIL {
            self.cut = true;
            self.bytes.drain(..self.bytes.len() - STDERR_TAIL);
        }
    }

    /// What is left of it.
    pub fn text(&self) -> String {
        let dots = if self.cut { "…" } else { "" };
        format!("{dots}{}", String::from_utf8_lossy(&self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::interrupt::Interrupt, *};

    fn script(dir: &Path, name: &str, body: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn within(deadline: Duration) -> Limits {
        Limits { deadline, token: Token::default(), grace: Duration::ZERO }
    }

    fn call(body: &str, input: &[u8], deadline: Duration) -> Result<Output, (Fault, String)> {
        let dir = tempfile::tempdir().unwrap();
        let path = script(dir.path(), "plugin", body);
        run(&path, &[("CNI_COMMAND", "ADD".into())], input, &within(deadline))
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn input_environment_and_outputs_go_through() {
        let input = vec![b'x'; 300_000];
        let out =
            call("cat; printf '%s' \"$CNI_COMMAND$CNI_IFNAME\" >&2; exit 3", &input, LONG).unwrap();
        assert_eq!(out.stdout, input);
        assert_eq!(out.stderr, "ADD");
        assert_eq!(out.status_text(), "exit status 3");
        assert!(out.excerpt().ends_with('…'));
    }

    #[test]
    fn a_plugin_that_reads_nothing_is_judged_by_its_answer() {
        let out = call("echo '{}'", &vec![b'x'; 300_000], LONG).unwrap();
        assert_eq!(out.stdout, b"{}\n");
    }

    #[test]
    fn a_hanging_plugin_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let body = format!("echo first >&2; sleep 600 & echo $! > {}; wait", pids.display());
        let path = script(dir.path(), "plugin", &body);
        let (fault, stderr) = run(&path, &[], b"", &within(Duration::from_secs(2))).unwrap_err();
        assert_eq!(fault, Fault::Deadline(Duration::from_secs(2)));
        assert_eq!(stderr, "first\n");
        let grandchild = std::fs::read_to_string(pids).unwrap();
        let stat = format!("/proc/{}/stat", grandchild.trim());
        let gone =
            |stat: &str| std::fs::read_to_string(stat).map_or(true, |text| text.contains(") Z "));
        let end = Instant::now() + LONG;
        while !gone(&stat) {
            assert!(Instant::now() < end, "the plugin's child is still alive");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_call_that_nobody_wants_any_more_is_killed_after_its_grace() {
        let dir = tempfile::tempdir().unwrap();
        let begun = dir.path().join("begun");
        let path = script(dir.path(), "plugin", &format!("touch {}; sleep 600", begun.display()));
        for grace in [Duration::ZERO, Duration::from_millis(300)] {
            let interrupt = Interrupt::default();
            let limits = Limits { deadline: LONG * 9, token: interrupt.token(), grace };
            let _ = std::fs::remove_file(&begun);
            let path = path.clone();
            let call = std::thread::spawn(move || run(&path, &[], b"", &limits));
            while !begun.exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            interrupt.now();
            assert_eq!(call.join().unwrap().unwrap_err().0, Fault::Interrupted);
        }
        // What is quicker than its grace ends by itself, also when it begins unwanted.
        let interrupt = Interrupt::default();
        let limits = Limits { deadline: LONG, token: interrupt.token(), grace: LONG };
        interrupt.now();
        let path = script(dir.path(), "quick", "exit 3");
        assert_eq!(run(&path, &[], b"", &limits).unwrap().status_text(), "exit status 3");
    }

    #[test]
    fn endless_output_is_cut_off() {
        let (fault, _) = call("exec cat /dev/zero", b"", LONG).unwrap_err();
        assert_eq!(fault, Fault::TooMuch(MAX_STDOUT));
        let out =
            call("head -c 100000 /dev/zero | tr '\\0' e >&2; echo end >&2", b"", LONG).unwrap();
        assert!(out.stderr.starts_with('…') && out.stderr.ends_with("end\n"), "{}", out.stderr);
    }

    #[test]
    fn a_background_child_that_keeps_the_pipe_does_not_hold_us() {
        let out = call("sleep 5 & echo '{}'", b"", LONG).unwrap();
        assert_eq!(out.stdout, b"{}\n");
    }

    #[test]
    fn binaries_are_found_in_order_and_misses_say_where_they_looked() {
        let a = tempfile::tempdir().unwrap();
        let b = tempfile::tempdir().unwrap();
        let dirs = [a.path().to_owned(), b.path().to_owned()];
        assert_eq!(find("bridge", &dirs), Err(Fault::Missing { looked: dirs.to_vec() }));
        std::fs::write(a.path().join("bridge"), "").unwrap();
        assert_eq!(find("bridge", &dirs), Err(Fault::NotExecutable(a.path().join("bridge"))));
        let good = script(b.path(), "bridge", "");
        assert_eq!(find("bridge", &dirs), Ok(good));
    }

    #[test]
    fn a_broken_binary_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugin");
        std::fs::write(&path, "#!/no/such/interpreter\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (fault, _) = run(&path, &[], b"", &within(LONG)).unwrap_err();
        assert!(matches!(fault, Fault::Start { .. }), "{fault:?}");
    }
}

//! A supervised process of a node: started, looked after, ended with all of its group.
//!
//! Knows nothing of readiness and of cnis. Starts in the namespaces of the calling thread.

use crate::cni::conflist::{
    process::{Tail, spawn, status_text},
    sys::die_with_parent,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};
use std::{
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long the last lines of a process that has ended are waited for.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A running daemon. Dropped, it and its process group are killed.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// Names this very process, whatever becomes of its number.
    pidfd: OwnedFd,
    said: Arc<Mutex<Tail>>,
    reader: JoinHandle<()>,
    over: Option<String>,
}

impl Daemon {
    /// Starts it in a process group of its own; the kernel kills it when the calling thread is gone.
    ///
    /// # Errors
    /// The system call's.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let (mut pipe, out) = io::pipe()?;
        let errors = out.try_clone()?;
        command.stdin(Stdio::null()).stdout(out).stderr(errors).process_group(0);
        die_with_parent(command);
        let child = spawn(command)?;
        // Or the pipe would never end: the command holds this process' own ends of it.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        let said = Arc::new(Mutex::new(Tail::default()));
        let kept = said.clone();
        let reader =
            std::thread::Builder::new().name("daemon's output".to_owned()).spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(&buffer[..n]);
                }
            })?;
        Ok(Self { child, pidfd, said, reader, over: None })
    }

    /// How it ended, with its last lines; None while it runs.
    pub fn ended(&mut self) -> Option<String> {
        if self.over.is_none() && self.is_over(Duration::ZERO) {
            let status = self.bury();
            self.over = Some(format!("{status}{}", self.last_lines()));
        }
        self.over.clone()
    }

    /// Ends it: SIGTERM to its process group, after `patience` SIGKILL.
    ///
    /// # Errors
    /// It had to be killed.
    pub fn stop(&mut self, patience: Duration) -> Result<(), String> {
        if self.ended().is_some() {
            return Ok(());
        }
        self.signal(Signal::TERM);
        let in_time = self.is_over(patience);
        let status = self.bury();
        self.over = Some(status);
        if in_time {
            return Ok(());
        }
        let s = patience.as_secs_f64();
        Err(format!("did not end within {s} s of SIGTERM and was killed{}", self.last_lines()))
    }

    /// Has the process ended, within this time? It is not reaped: its number stays its own.
    fn is_over(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
            let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(n) => return n > 0,
                Err(Errno::INTR) => {}
                // Nothing to wait on: it is ended by force.
                Err(_) => return false,
            }
        }
    }

    /// Kills what is left of the group and reaps the process.
    fn bury(&mut self) -> String {
        self.signal(Signal::KILL);
        self.child.wait().map_or_else(|e| e.to_string(), status_text)
    }

    /// To the whole group, which exists as long as the process is not reaped.
    fn signal(&self, signal: Signal) {
        // All it can say is that there is nobody left.
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
    }

    /// "; its last lines: ..." of what it printed.
    fn last_lines(&self) -> String {
        let until = Instant::now() + LAST_WORDS;
        while !self.reader.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        let text = self.said.lock().unwrap_or_else(PoisonError::into_inner).text();
        match text.trim() {
            "" => "; it printed nothing".to_owned(),
            text => format!("; its last lines:\n{text}"),
        }
    }

    /// What it printed so far, for one that does not get ready.
    pub fn so_far(&self) -> String {
        let text = self.said.lock().unwrap_or_else(PoisonError::into_inner).text();
        match text.trim() {
            "" => "; the daemon printed nothing".to_owned(),
            text => format!("; the daemon's last lines:\n{text}"),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.over.is_none() {
            self.bury();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Daemon {
        Daemon::start(Command::new("sh").args(["-c", script])).unwrap()
    }

    fn wait(daemon: &mut Daemon) -> String {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(how) = daemon.ended() {
                return how;
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn its_end_is_told_with_its_last_lines() {
        let how = wait(&mut shell("echo starting; echo no route to anywhere >&2; exit 3"));
        assert_eq!(how, "exit status 3; its last lines:\nstarting\nno route to anywhere");
        assert_eq!(wait(&mut shell("kill -9 $$")), "killed by signal 9; it printed nothing");
    }

    #[test]
    fn it_is_asked_to_end_and_then_made_to() {
        let mut polite = shell("trap 'exit 0' TERM; while :; do sleep 0.01; done");
        assert_eq!(polite.ended(), None);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(polite.stop(Duration::from_secs(20)), Ok(()));
        let mut deaf = shell("trap '' TERM; echo deaf; while :; do sleep 0.01; done");
        while !deaf.so_far().contains("deaf") {
            std::thread::sleep(Duration::from_millis(5));
        }
        let said = deaf.stop(Duration::from_millis(100)).unwrap_err();
        assert!(said.starts_with("did not end within 0.1 s of SIGTERM and was killed"), "{said}");
    }

    #[test]
    fn its_children_end_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let daemon =
            shell(&format!("sleep 600 & echo $! > {}.new; mv {0}.new {0}; wait", pid.display()));
        while !pid.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(daemon);
        let stat = format!("/proc/{}/stat", std::fs::read_to_string(&pid).unwrap().trim());
        let until = Instant::now() + Duration::from_secs(30);
        while std::fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z ")) {
            assert!(Instant::now() < until, "its child is alive");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

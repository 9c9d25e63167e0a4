//! The processes of a generator: started on their CPUs, watched, read, and ended with their children.
//!
//! A program and what it starts are a process group of their own, which is killed when this is
//! dropped; the kernel kills the program when the agent dies. Called by [`super::trial`].

use super::{Invocation, Output};
use crate::{clock, cpus, error::TrialError, reins::Reins, sys};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    fs,
    io::{self, Read},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
};

/// The most that is kept of one stream of a program's words.
const MOST: u64 = 4 << 20;
/// How often a program is looked at.
const LOOK: u64 = clock::SECOND / 50;
/// Words of a program that an error repeats.
const TAIL: usize = 400;

/// A running program.
pub(super) struct Running {
    child: Child,
    program: &'static str,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
    success: Option<bool>,
}

impl Running {
    /// Starts a program that may run on these CPUs; an empty list: on all.
    pub(super) fn start(what: &Invocation, on: &[u32], get: &str) -> Result<Self, TrialError> {
        let mut command = Command::new(what.program);
        command
            .args(&what.args)
            // Numbers are read, and words looked for.
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        sys::die_with_parent(&mut command);
        // A child has the CPUs of the thread that starts it.
        let before = cpus::confine(on)?;
        let started = command.spawn();
        cpus::release(&before);
        let mut child = started.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => TrialError::BadTask(format!(
                "{} is not installed here (PATH of the agent): {get}",
                what.program
            )),
            _ => TrialError::system(format!("starting {}", what.program), e),
        })?;
        let stdout = child.stdout.take().map(listen);
        let stderr = child.stderr.take().map(listen);
        Ok(Self { child, program: what.program, stdout, stderr, success: None })
    }

    /// True once it has ended.
    fn over(&mut self) -> Result<bool, TrialError> {
        if self.success.is_none() {
            let status = self.child.try_wait();
            let status = status
                .map_err(|e| TrialError::system(format!("waiting for {}", self.program), e))?;
            self.success = status.map(|s| s.success());
        }
        Ok(self.success.is_some())
    }

    fn kill(&mut self) {
        // A group that is gone is as good as killed. The child is not reaped before, so that the
        // number is still its own.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// Ends it and what it started, and gives what it said.
    pub(super) fn end(mut self) -> Output {
        self.kill();
        let _ = self.child.wait();
        let words = |from: &mut Option<JoinHandle<String>>| {
            from.take().and_then(|t| t.join().ok()).unwrap_or_default()
        };
        Output {
            stdout: words(&mut self.stdout),
            stderr: words(&mut self.stderr),
            success: self.success.unwrap_or(false),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

fn listen(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What cannot be read is missing in the output, which the reader of it notices.
        let _ = from.by_ref().take(MOST).read_to_end(&mut bytes);
        // A program that says more must not stand still for it.
        let _ = io::copy(&mut from, &mut io::sink());
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits until all programs have ended or `until` has come; true when all have.
pub(super) fn wait(running: &mut [Running], until: u64, reins: &Reins) -> Result<bool, TrialError> {
    loop {
        let mut all = true;
        for one in running.iter_mut() {
            all &= one.over()?;
        }
        let now = clock::now();
        if all || now >= until {
            return Ok(all);
        }
        if reins.stopped() {
            return Err(reins.stopped_error());
        }
        clock::sleep_until(until.min(now + LOOK));
    }
}

/// Waits until a server has bound its port, or has ended instead; true when it is there.
pub(super) fn wait_bound(
    server: &mut Running,
    port: u16,
    until: u64,
    reins: &Reins,
) -> Result<bool, TrialError> {
    while !is_bound(port) {
        if server.over()? || clock::now() >= until {
            return Ok(false);
        }
        if reins.stopped() {
            return Err(reins.stopped_error());
        }
        clock::sleep_until(clock::now() + clock::SECOND / 200);
    }
    Ok(true)
}

/// True where a socket of this network namespace listens on the port, or waits there for datagrams.
fn is_bound(port: u16) -> bool {
    // TCP_LISTEN and TCP_CLOSE of include/net/tcp_states.h; unconnected datagram sockets have the latter.
    [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")].into_iter().any(
        |(table, state)| {
            let text =
                fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
            text.lines().any(|line| has(line, port, state))
        },
    )
}

/// A line of /proc/net/tcp or udp: `sl local_address rem_address st ...`, numbers in hex.
fn has(line: &str, port: u16, state: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    let local = words.nth(1).and_then(|a| a.rsplit_once(':'));
    let found = local.and_then(|(_, p)| u16::from_str_radix(p, 16).ok());
    found == Some(port) && words.nth(1) == Some(state)
}

/// A port that is free for TCP and UDP, and `more` behind it: the program binds it by itself, so that
/// it can only be looked for.
pub(super) fn free_port(ip: IpAddr, more: u16) -> Result<u16, TrialError> {
    for _ in 0..100 {
        let bound = TcpListener::bind(SocketAddr::new(ip, 0)).and_then(|l| l.local_addr());
        let port = bound.map_err(|e| TrialError::system("looking for a free port", e))?.port();
        let free = |p: u16| {
            let at = SocketAddr::new(ip, p);
            TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok()
        };
        if port.checked_add(more).is_some() && (port..=port + more).all(free) {
            return Ok(port);
        }
    }
    let none = io::Error::from(io::ErrorKind::AddrInUse);
    Err(TrialError::system("looking for free ports next to each other", none))
}

/// The end of a program's words, for an error; empty where it said nothing.
pub(super) fn tail(words: &str) -> String {
    let words = words.trim();
    let from = words.char_indices().rev().nth(TAIL - 1).map_or(0, |(at, _)| at);
    let one_line: Vec<&str> = words[from..].split_ascii_whitespace().collect();
    if one_line.is_empty() { String::new() } else { format!(": {}", one_line.join(" ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_port_is_seen_whatever_its_protocol() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(is_bound(tcp.local_addr().unwrap().port()));
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(is_bound(udp.local_addr().unwrap().port()));
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000";
        assert!(has(line, 8080, "0A"));
        assert!(!has(line, 8081, "0A") && !has(line, 8080, "01") && !has("", 8080, "0A"));
    }

    #[test]
    fn ports_are_free_and_next_to_each_other() {
        let port = free_port("127.0.0.1".parse().unwrap(), 1).unwrap();
        let both = [port, port + 1].map(|p| TcpListener::bind(("127.0.0.1", p)));
        assert!(both.iter().all(Result::is_ok));
    }

    #[test]
    fn a_program_that_is_not_there_says_how_to_get_it() {
        let what = Invocation::new("cnibench-no-such-program", "");
        let text = Running::start(&what, &[], "apt-get install it").err().unwrap().to_string();
        assert!(text.contains("cnibench-no-such-program") && text.contains("apt-get install it"));
    }

    #[test]
    fn a_program_and_what_it_started_are_ended() {
        let what = Invocation::new("sh", "-c").with(["echo said; sleep 1000 & echo $!; wait"]);
        let mut running = [Running::start(&what, &[], "").unwrap()];
        let reins = Reins::default();
        assert!(!wait(&mut running, clock::now() + clock::SECOND / 5, &reins).unwrap());
        let [running] = running;
        let output = running.end();
        assert!(!output.success);
        let mut lines = output.stdout.lines();
        assert_eq!(lines.next(), Some("said"));
        let pid = lines.next().unwrap();
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z"), "{state}");
    }

    #[test]
    fn words_are_cut_to_their_end() {
        assert_eq!(tail("  "), "");
        assert_eq!(tail("no\n such host\n"), ": no such host");
        let long = "é".repeat(1_000);
        assert_eq!(tail(&long).chars().count(), TAIL + 2);
    }
}

//! Tries again and again whether an echo server answers, and tells changes as they happen.
//!
//! Every try is a new flow from a port that was not used lately: a flow that was let through before
//! a policy came may go on (connection tracking), so a second flow of the same ports would say nothing
//! of the policy. Tries overlap, so the time of a
//! change is known as finely as they are sent, however long each waits for its answer.

use super::{tcp_socket, udp_socket, within};
use crate::{check, clock, error::TrialError, reins::Reins};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;
use std::{
    collections::{HashSet, VecDeque},
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
};

/// How long a try waits for its answer.
const PATIENCE: u64 = clock::SECOND * 3 / 10;
/// So many tries in a row without an answer are no accident: the server cannot be reached.
pub const LOST: usize = 3;
/// A stop is noticed this soon.
const LOOK: u64 = clock::SECOND / 50;
/// Ports are used again after so many others: two thirds of those that Linux gives out as a rule
/// (net.ipv4.ip_local_port_range).
const PORTS: usize = 18_000;
/// How often a port is asked for that was not used lately.
const PORT_TRIES: u32 = 50;
/// Bytes of a try, its number in front.
const SIZE: usize = 32;

/// What to try, checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    server: SocketAddr,
    tcp: bool,
    interval: u64,
    for_ns: u64,
}

impl Plan {
    pub(crate) fn new(
        server: SocketAddr,
        tcp: bool,
        interval_ms: u32,
        for_s: f64,
    ) -> Result<Self, TrialError> {
        within("interval_ms", interval_ms, 1, 60_000)?;
        if !(for_s > 0.0 && for_s <= check::MAX_DURATION_S) {
            return Err(TrialError::BadTask(format!(
                "for_s: {for_s} is no time; more than 0 and at most {} s",
                check::MAX_DURATION_S
            )));
        }
        let interval = u64::from(interval_ms) * (clock::SECOND / 1_000);
        Ok(Self { server, tcp, interval, for_ns: clock::nanos(for_s) })
    }
}

/// Tries that ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tries {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
}

/// Probes until its time is over or it is stopped; `tell` hears of the first state and of changes,
/// with the milliseconds since the try was sent that shows it.
///
/// # Errors
/// When waiting fails. A try that cannot even be sent is one without an answer.
pub(crate) fn probe(
    plan: &Plan,
    reins: &Reins,
    tell: &mut dyn FnMut(bool, f64),
) -> Result<Tries, TrialError> {
    let end = clock::now() + plan.for_ns;
    let mut due = clock::now();
    let mut number = 0u64;
    let mut flying: Vec<Try> = Vec::new();
    let mut ports = Ports::default();
    let mut tries = Tries::default();
    let mut state = State::default();
    while !reins.stopped() {
        let now = clock::now();
        if now >= end {
            break;
        }
        let mut ended: Vec<(u64, bool)> = Vec::new();
        if now >= due {
            number += 1;
            match Try::start(plan, &mut ports, number, now) {
                Ok(one) => flying.push(one),
                Err(_) => ended.push((now, false)),
            }
            // A full machine that overslept does not catch up.
            due = (due + plan.interval).max(now);
        }
        wait(&flying, due.min(end).min(now + LOOK))?;
        let now = clock::now();
        flying.retain_mut(|one| match one.look() {
            Some(answered) => {
                ended.push((one.sent, answered));
                false
            }
            None if now >= one.sent + PATIENCE => {
                ended.push((one.sent, false));
                false
            }
            None => true,
        });
        for (sent, answered) in ended {
            tries.sent += 1;
            tries.answered += u64::from(answered);
            if let Some((reachable, since)) = state.learn(sent, answered) {
                tell(reachable, clock::seconds(clock::now().saturating_sub(since)) * 1e3);
            }
        }
    }
    Ok(tries)
}

/// Waits until a try may have got on, or `until`.
fn wait(flying: &[Try], until: u64) -> Result<(), TrialError> {
    let mut fds: Vec<PollFd<'_>> = flying
        .iter()
        .map(|t| {
            let flags = if t.is_waiting { PollFlags::IN } else { PollFlags::OUT };
            PollFd::from_borrowed_fd(t.socket.as_fd(), flags)
        })
        .collect();
    let left = until.saturating_sub(clock::now());
    let timeout = Timespec { tv_sec: 0, tv_nsec: left as _ };
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(TrialError::system("waiting for answers", e)),
    }
}

/// One try under way.
struct Try {
    socket: Socket,
    payload: [u8; SIZE],
    tcp: bool,
    sent: u64,
    /// The payload has left; before, a connection is being made.
    is_waiting: bool,
    got: usize,
}

impl Try {
    fn start(plan: &Plan, ports: &mut Ports, number: u64, now: u64) -> Result<Self, TrialError> {
        let socket = ports.socket(plan)?;
        socket.set_nonblocking(true).map_err(|e| TrialError::system("a non-blocking socket", e))?;
        match socket.connect(&plan.server.into()) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(e) => return Err(TrialError::system(format!("reaching {}", plan.server), e)),
        }
        let mut payload = [0x55; SIZE];
        payload[..8].copy_from_slice(&number.to_ne_bytes());
        let mut one = Self { socket, payload, tcp: plan.tcp, sent: now, is_waiting: false, got: 0 };
        if !plan.tcp {
            one.send().map_err(|e| TrialError::system("sending a datagram", e))?;
        }
        Ok(one)
    }

    fn send(&mut self) -> io::Result<()> {
        (&self.socket).write_all(&self.payload)?;
        self.is_waiting = true;
        Ok(())
    }

    /// Whether it was answered, once that is known.
    fn look(&mut self) -> Option<bool> {
        if !self.is_waiting {
            match self.socket.take_error() {
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => return Some(false),
            }
            if self.socket.peer_addr().is_err() {
                return None;
            }
            if self.send().is_err() {
                return Some(false);
            }
        }
        let mut buffer = [0; 2 * SIZE];
        loop {
            match (&self.socket).read(&mut buffer) {
                Ok(0) if self.tcp => return Some(false),
                Ok(length) => {
                    let expected = self.payload.get(self.got..self.got + length);
                    if expected != Some(&buffer[..length]) {
                        return Some(false);
                    }
                    self.got += length;
                    if self.got == SIZE {
                        return Some(true);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Some(false),
            }
        }
    }
}

/// Source ports that were used lately.
#[derive(Debug, Default)]
struct Ports {
    order: VecDeque<u16>,
    used: HashSet<u16>,
}

impl Ports {
    /// A socket that is bound to a port that was not used lately.
    fn socket(&mut self, plan: &Plan) -> Result<Socket, TrialError> {
        let family = plan.server.ip();
        let any: IpAddr = match family {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let make = if plan.tcp { tcp_socket } else { udp_socket };
        for _ in 0..PORT_TRIES {
            let socket = make(family)?;
            socket
                .bind(&SocketAddr::new(any, 0).into())
                .map_err(|e| TrialError::system("binding a socket", e))?;
            let port = socket.local_addr().ok().and_then(|a| a.as_socket()).map_or(0, |a| a.port());
            if self.take(port) {
                return Ok(socket);
            }
        }
        Err(TrialError::system(
            "finding a port that was not used lately",
            io::Error::from(io::ErrorKind::AddrNotAvailable),
        ))
    }

    /// False for one that was used lately.
    fn take(&mut self, port: u16) -> bool {
        if !self.used.insert(port) {
            return false;
        }
        self.order.push_back(port);
        if self.order.len() > PORTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.used.remove(&oldest);
        }
        true
    }
}

/// What the tries say so far. Answers come at once, silence is known only later: what counts is the
/// order in which tries were sent.
#[derive(Debug, Default)]
struct State {
    told: Option<bool>,
    last_answered: Option<u64>,
    /// When tries were sent that were not answered, after the last one that was.
    unanswered: Vec<u64>,
}

impl State {
    /// A try that was sent then has ended: the new state, and since when it shows.
    fn learn(&mut self, sent: u64, answered: bool) -> Option<(bool, u64)> {
        if answered {
            self.last_answered = self.last_answered.max(Some(sent));
            self.unanswered.retain(|&t| Some(t) > self.last_answered);
            return self.turn(true, sent);
        }
        if Some(sent) <= self.last_answered {
            return None;
        }
        self.unanswered.push(sent);
        let first = self.unanswered.iter().copied().min()?;
        if self.unanswered.len() < LOST { None } else { self.turn(false, first) }
    }

    fn turn(&mut self, reachable: bool, since: u64) -> Option<(bool, u64)> {
        if self.told == Some(reachable) {
            return None;
        }
        self.told = Some(reachable);
        Some((reachable, since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(tries: &[(u64, bool)]) -> Vec<(bool, u64)> {
        let mut state = State::default();
        tries.iter().filter_map(|&(sent, answered)| state.learn(sent, answered)).collect()
    }

    #[test]
    fn ports_are_used_again_only_after_many_others() {
        let mut ports = Ports::default();
        assert!(ports.take(7) && !ports.take(7));
        assert!((1_000..1_000 + PORTS as u16 - 1).all(|port| ports.take(port)));
        assert!(!ports.take(7), "still one of the last {PORTS}");
        assert!(ports.take(999));
        assert!(ports.take(7));
    }

    #[test]
    fn the_first_state_is_told_and_single_losses_are_not() {
        assert_eq!(changes(&[(1, true), (2, false), (3, false), (4, true)]), [(true, 1)]);
        assert_eq!(changes(&[(1, false), (2, false)]), []);
        assert_eq!(changes(&[(1, false), (2, false), (3, false), (4, false)]), [(false, 1)]);
    }

    #[test]
    fn a_change_dates_from_the_first_try_that_shows_it() {
        let all = [(1, true), (2, false), (3, false), (4, false), (5, false), (6, true), (7, true)];
        assert_eq!(changes(&all), [(true, 1), (false, 2), (true, 6)]);
    }

    #[test]
    fn silence_that_is_known_late_does_not_count_against_later_answers() {
        // Tries 2 to 4 were sent before 5 was answered, and are given up after.
        assert_eq!(
            changes(&[(1, true), (5, true), (2, false), (3, false), (4, false)]),
            [(true, 1)]
        );
        // A slow answer of an earlier try does not clear what was sent after it.
        assert_eq!(
            changes(&[(1, true), (3, false), (4, false), (2, true), (5, false)]),
            [(true, 1), (false, 3)]
        );
    }
}

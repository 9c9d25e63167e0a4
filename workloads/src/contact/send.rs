//! A counted volley to an echo server: datagrams from one socket, then connections, each sent once.

use super::{DATAGRAM, tcp_socket, udp_socket, within};
use crate::{
    clock,
    error::{Doing, TrialError},
    protocol::{Tally, Volley},
    reins::Reins,
    sys,
};
use socket2::Socket;
use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// From one datagram to the next: so that none is lost for want of room in a buffer.
const PACE: u64 = clock::SECOND / 1_000;
/// How often a wait looks whether it was stopped.
const LOOK: Duration = Duration::from_millis(50);
/// In front of every datagram: its number.
const NUMBER: usize = 8;

/// Sends the volley and waits for the answers.
///
/// # Errors
/// For a volley that makes no sense, when sockets cannot be made, and when it was stopped.
pub(crate) fn send(volley: &Volley, reins: &Reins) -> Result<Tally, TrialError> {
    check(volley)?;
    let mut tally = Tally::default();
    if volley.datagrams > 0 {
        Datagrams::new(volley, reins)?.run(&mut tally)?;
    }
    for _ in 0..volley.connects {
        if reins.stopped() {
            return Err(reins.stopped_error());
        }
        tally.connects += 1;
        let (came_back, result) = connection(volley, reins);
        tally.stream_bytes += came_back;
        match result {
            Ok(()) => tally.connected += 1,
            Err(e) => trouble(&mut tally, "a connection", &e),
        }
    }
    if reins.stopped() {
        return Err(reins.stopped_error());
    }
    Ok(tally)
}

fn check(volley: &Volley) -> Result<(), TrialError> {
    // The largest payload over IPv4 (RFC 768, RFC 791).
    within("datagram_bytes", volley.datagram_bytes, NUMBER as u32, 65_507)?;
    within("datagrams", volley.datagrams, 0, 1 << 20)?;
    within("connects", volley.connects, 0, 10_000)?;
    within("stream_bytes", volley.stream_bytes, 1, 64 << 20)?;
    within("patience_ms", volley.patience_ms, 1, 60_000)?;
    within("canary length", u32::try_from(volley.canary.len()).unwrap_or(u32::MAX), 0, 4_096)
}

fn trouble(tally: &mut Tally, what: &str, e: &io::Error) {
    tally.trouble.get_or_insert_with(|| format!("{what}: {e}"));
}

/// `length` bytes of canary.
fn filled(canary: &[u8], length: usize) -> Vec<u8> {
    let canary = if canary.is_empty() { &[0x55] } else { canary };
    canary.iter().copied().cycle().take(length).collect()
}

struct Datagrams<'a> {
    volley: &'a Volley,
    reins: &'a Reins,
    socket: Socket,
    payload: Vec<u8>,
    buffer: Vec<u8>,
    open: BTreeSet<u32>,
}

impl<'a> Datagrams<'a> {
    fn new(volley: &'a Volley, reins: &'a Reins) -> Result<Self, TrialError> {
        let socket = udp_socket(volley.server.ip())?;
        socket.connect(&volley.server.into()).doing(&format!("reaching {}", volley.server))?;
        socket.set_nonblocking(true).doing("making a socket non-blocking")?;
        let mut payload = vec![0; NUMBER];
        payload.extend(filled(&volley.canary, volley.datagram_bytes as usize - NUMBER));
        let buffer = vec![0; DATAGRAM];
        Ok(Self { volley, reins, socket, payload, buffer, open: BTreeSet::new() })
    }

    fn run(mut self, tally: &mut Tally) -> Result<(), TrialError> {
        tally.from = self.socket.local_addr().ok().and_then(|a| a.as_socket());
        tally.mtu = sys::path_mtu(&self.socket, self.volley.server.is_ipv6()).ok();
        let mut due = clock::now();
        for number in 0..self.volley.datagrams {
            self.collect(due)?;
            due = clock::now() + PACE;
            self.payload[..NUMBER].copy_from_slice(&u64::from(number).to_ne_bytes());
            match (&self.socket).write(&self.payload) {
                Ok(_) => {
                    tally.sent += 1;
                    self.open.insert(number);
                }
                Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => tally.too_long += 1,
                Err(e) => {
                    // ECONNREFUSED tells of an earlier datagram; this one was not sent.
                    tally.refused += 1;
                    trouble(tally, "a datagram", &e);
                }
            }
        }
        self.collect(clock::now() + u64::from(self.volley.patience_ms) * (clock::SECOND / 1_000))?;
        tally.answered = tally.sent - self.open.len() as u32;
        if !self.open.is_empty() {
            trouble(tally, "a datagram", &io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Takes answers until none is missing, or `until`.
    fn collect(&mut self, until: u64) -> Result<(), TrialError> {
        loop {
            while let Ok(length) = (&self.socket).read(&mut self.buffer) {
                let Some((number, rest)) = self.buffer[..length].split_first_chunk::<NUMBER>()
                else {
                    continue;
                };
                if *rest == self.payload[NUMBER..]
                    && let Ok(number) = u32::try_from(u64::from_ne_bytes(*number))
                {
                    self.open.remove(&number);
                }
            }
            let now = clock::now();
            if self.reins.stopped() {
                return Err(self.reins.stopped_error());
            }
            if self.open.is_empty() && now < until && until - now <= PACE {
                clock::sleep_until(until);
                return Ok(());
            }
            if self.open.is_empty() || now >= until {
                return Ok(());
            }
            // An error that is reported on the socket wakes this too, and is taken by the read.
            self.reins.readable(&[&self.socket], until)?;
        }
    }
}

/// One connection: everything there and back. How many bytes came back, and whether that was all.
fn connection(volley: &Volley, reins: &Reins) -> (u64, io::Result<()>) {
    let mut came_back = 0;
    let result = exchange(volley, reins, &mut came_back);
    (came_back, result)
}

fn exchange(volley: &Volley, reins: &Reins, came_back: &mut u64) -> io::Result<()> {
    let patience = Duration::from_millis(volley.patience_ms.into());
    let socket = tcp_socket(volley.server.ip()).map_err(io::Error::other)?;
    socket.connect_timeout(&volley.server.into(), patience)?;
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(LOOK.min(patience)))?;
    stream.set_write_timeout(Some(patience))?;
    let payload = filled(&volley.canary, volley.stream_bytes as usize);
    thread::scope(|scope| {
        // Beside the reader: what comes back must be taken or the server stops reading.
        let writer = scope.spawn(|| {
            (&stream).write_all(&payload)?;
            stream.shutdown(Shutdown::Write)
        });
        let mut buffer = vec![0; DATAGRAM];
        let mut progress = Instant::now();
        let read = loop {
            let at = *came_back as usize;
            match (&stream).read(&mut buffer) {
                Ok(0) if at == payload.len() => break Ok(()),
                Ok(0) => break Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) if payload.get(at..at + n) == Some(&buffer[..n]) => {
                    *came_back += n as u64;
                    progress = Instant::now();
                }
                Ok(_) => break Err(io::Error::other("other bytes came back")),
                Err(e)
                    if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
                {
                    if reins.stopped() || progress.elapsed() >= patience {
                        break Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        if read.is_err() {
            // The writer may be waiting for room that never comes.
            let _ = stream.shutdown(Shutdown::Both);
        }
        let written =
            writer.join().unwrap_or_else(|_| Err(io::Error::other("the writer panicked")));
        read.and(written)
    })
}

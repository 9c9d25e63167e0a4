//! Datagrams one way or both, at a rate or flat out: throughput, loss, reordering, jitter.
//!
//! A datagram begins with [`HEADER`] bytes: its sequence number with, in the top byte, the part of
//! the trial in which it was sent, and its send time. So loss is exact at the window's edges: what
//! the sender marked as sent in its window, against what of it arrived at any time until the drain
//! after the sender's goodbye. Goodput and packet rate are what arrived in the receiver's window.
//!
//! As in `tcp_stream`, a client that sends stops with its own window and a server goes on until the
//! client says that it is enough: with its own goodbye, or, when it does not send, by asking for it.

use crate::{
    arrivals::{Arrivals, Jitter},
    clock::{self, Alarm, SECOND, Schedule, Wait},
    error::{Doing, TrialError},
    flow::{Lane, Strand, Tally},
    hello::{self, CONTROL, Control},
    meter::{Meter, Timeline},
    options, payload,
    protocol::{EndReport, Task},
    reins::Reins,
    sys::{ReceiveBatch, SendBatch},
    tcp_stream::roles,
    trial::{self, Cast, Side},
    udp,
};
use cnibench_model::DatagramStats;
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};
use socket2::Socket;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Bytes of a datagram that are not filler: the smallest datagram.
pub const HEADER: usize = 16;
/// Datagrams that one GSO send may carry: UDP_MAX_SEGMENTS of older kernels (include/linux/udp.h).
const MAX_SEGMENTS: usize = 64;
/// Bytes that one GSO send may carry: what an IPv4 datagram has room for.
const MAX_GSO: usize = 65_507;
/// Datagrams handed over with one sendmmsg.
pub(crate) const BATCH: usize = 64;
/// Messages taken with one recvmmsg: coalesced runs of up to 64 KiB, or single datagrams.
const RUNS: usize = 2;
const SINGLES: usize = 64;
/// A paced sender wakes up no more often than this and sends what is due in a burst.
const BURST_NS: f64 = 100_000.0;
/// After the goodbye, late datagrams may come for so long.
const DRAIN: u64 = SECOND / 40;
/// Without a goodbye a receiver gives up this long after it expected one.
const NO_GOODBYE: u64 = SECOND / 2;

/// How often a client asks for the goodbye.
const ASK: u64 = SECOND / 100;

/// In which part of the sender's trial a datagram was sent.
const IN_WINDOW: u64 = 1;
const PART_SHIFT: u32 = 56;

pub(crate) fn serve(
    task: &Task,
    bind: SocketAddr,
    reins: &Reins,
    listening: &mut dyn FnMut(u16),
) -> Result<EndReport, TrialError> {
    let sockets = udp::accept_all(task, bind, reins, listening)?;
    let cast = cast(task, Side::Server, &sockets)?;
    trial::run(task, reins, cast, || {
        udp::send_go(&sockets);
        Ok(())
    })
}

pub(crate) fn drive(
    task: &Task,
    server: SocketAddr,
    reins: &Reins,
) -> Result<EndReport, TrialError> {
    let sockets = hello::udp_connect(task, server, reins)?;
    let cast = cast(task, Side::Client, &sockets)?;
    trial::run(task, reins, cast, || hello::udp_await_go(task, reins, &sockets))
}

fn cast<'a>(task: &'a Task, side: Side, sockets: &[Arc<Socket>]) -> Result<Cast<'a>, TrialError> {
    let (sends, receives) = roles(task.params.direction, side);
    let asks = side == Side::Client && !sends;
    let mut strands = Vec::new();
    for (flow, socket) in (0..).zip(sockets) {
        options::offload(socket, &task.params)?;
        let enough = Arc::new(AtomicBool::new(false));
        if receives {
            // A receiver must notice the end of its time although nothing comes any more.
            socket
                .set_read_timeout(Some(Duration::from_millis(10)))
                .doing("setting SO_RCVTIMEO")?;
            let (socket, enough) = (Arc::clone(socket), Arc::clone(&enough));
            strands.push(Strand::new(flow, "recv", move |lane| {
                receiver(task, flow, &socket, asks, &enough, lane)
            }));
        }
        if sends {
            let socket = Arc::clone(socket);
            let until = match (side, receives) {
                (Side::Client, _) => Until::Close,
                (Side::Server, true) => Until::Goodbye(enough),
                (Side::Server, false) => Until::Asked,
            };
            strands.push(Strand::new(flow, "send", move |lane| {
                sender(task, flow, &socket, &until, lane)
            }));
        }
    }
    Ok(Cast { side, strands, sockets: sockets.to_vec(), at_close: None })
}

/// When a sender stops, after its window.
enum Until {
    /// With the window: the receiver's is over already.
    Close,
    /// When the other thread of the flow has got the client's goodbye.
    Goodbye(Arc<AtomicBool>),
    /// When the client asks for the goodbye; nobody else reads from the socket.
    Asked,
}

impl Until {
    fn over(&self, now: u64, timeline: Timeline, socket: &Socket) -> bool {
        if now < timeline.close {
            return false;
        }
        // Whatever the client says may get lost.
        now >= timeline.close + NO_GOODBYE
            || match self {
                Self::Close => true,
                Self::Goodbye(enough) => enough.load(Ordering::Relaxed),
                Self::Asked => asked(socket),
            }
    }
}

/// Reads what the client sent; true when that was the request for the goodbye.
fn asked(socket: &Socket) -> bool {
    let mut bytes = [0; CONTROL + 1];
    while let Ok((n, _)) = recv(socket, &mut bytes, RecvFlags::DONTWAIT) {
        match Control::decode(&bytes[..n]) {
            Some(Control::End(_)) => return true,
            Some(Control::Hello(_)) => Control::Go.send(socket),
            Some(Control::Go | Control::Welcome) | None => {}
        }
    }
    false
}

/// The two ways of handing datagrams to the kernel.
enum Outbox {
    /// One send of up to 64 KiB, cut by UDP_SEGMENT.
    Gso(Vec<u8>),
    /// sendmmsg.
    Batch(SendBatch),
}

impl Outbox {
    fn new(task: &Task) -> (Self, usize) {
        let mut datagram = vec![0; HEADER];
        datagram.extend(payload::fill(task.params.size as usize - HEADER, &task.canary));
        if task.params.gso {
            let count = (MAX_GSO / datagram.len()).clamp(1, MAX_SEGMENTS);
            (Self::Gso(datagram.repeat(count)), count)
        } else {
            (Self::Batch(SendBatch::new(BATCH, &datagram)), BATCH)
        }
    }

    /// Numbers the first `count` datagrams from `sequence` on and stamps them.
    fn stamp(&mut self, size: usize, count: usize, sequence: u64, part: u64, now: u64) {
        let bytes: &mut [u8] = match self {
            Self::Gso(bytes) => bytes,
            Self::Batch(batch) => batch.bytes(),
        };
        for (datagram, n) in bytes.chunks_exact_mut(size).take(count).zip(sequence..) {
            datagram[..8].copy_from_slice(&(n | part << PART_SHIFT).to_le_bytes());
            datagram[8..HEADER].copy_from_slice(&now.to_le_bytes());
        }
    }

    /// Sends datagrams `from..to`; returns how many the kernel took.
    fn send(
        &mut self,
        socket: &Socket,
        size: usize,
        from: usize,
        to: usize,
    ) -> Result<usize, Errno> {
        match self {
            Self::Gso(bytes) => {
                send(socket, &bytes[from * size..to * size], SendFlags::NOSIGNAL).map(|n| n / size)
            }
            Self::Batch(batch) => batch
                .send(socket, from, to)
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO)),
        }
    }
}

fn sender(
    task: &Task,
    flow: u32,
    socket: &Socket,
    until: &Until,
    lane: Lane<'_>,
) -> Result<Tally, TrialError> {
    let size = task.params.size as usize;
    let (mut outbox, largest) = Outbox::new(task);
    let Some(timeline) = lane.start() else { return Ok(Tally::default()) };
    let over = |now: u64| until.over(now, timeline, socket) || lane.stopped();
    let mut pace = task.params.rate.map(|rate| Pace::new(task, timeline, rate.0, flow, largest));
    let (mut sequence, mut sent) = (0u64, 0u64);
    loop {
        let now = match &mut pace {
            Some(pace) => pace.wait(over),
            None => clock::now(),
        };
        if over(now) {
            break;
        }
        let count = pace.as_ref().map_or(largest, |pace| pace.burst);
        let part = if timeline.measures(now) { IN_WINDOW } else { 0 };
        outbox.stamp(size, count, sequence, part, now);
        let mut done = 0;
        while done < count {
            match outbox.send(socket, size, done, count) {
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                // A device queue of this end is full: the datagrams were never sent, try again.
                Err(Errno::NOBUFS | Errno::AGAIN) => rustix::thread::sched_yield(),
                Err(_) if lane.stopped() => break,
                Err(e) => return Err(send_failure(task, flow, e)),
            }
            if lane.stopped() {
                break;
            }
        }
        sequence += done as u64;
        sent += if part == IN_WINDOW { done as u64 } else { 0 };
        lane.moved(sequence);
    }
    udp::say_goodbye(socket, sent, lane.reins);
    Ok(Tally { sent, sent_bytes: sent * task.params.size, ..Tally::default() })
}

fn send_failure(task: &Task, flow: u32, e: Errno) -> TrialError {
    let size = task.params.size;
    match e {
        // What too long a segment gets depends on the kernel's version (net/ipv4/udp.c, udp_send_skb).
        Errno::INVAL | Errno::MSGSIZE if task.params.gso => TrialError::BadTask(format!(
            "size: a segment of {size} bytes and its headers do not fit the path's MTU; with gso the \
             size is at most MTU - 28 (IPv4) or MTU - 48 (IPv6); choose a smaller one or gso = false, \
             which lets IP fragment"
        )),
        Errno::MSGSIZE => TrialError::BadTask(format!(
            "size: a datagram of {size} bytes is too long for this path"
        )),
        e => udp::broken(flow, "sending", e),
    }
}

/// Bursts on an absolute schedule.
struct Pace {
    alarm: Alarm,
    schedule: Schedule,
    burst: usize,
}

impl Pace {
    /// `rate` is bits of payload per second over all flows.
    fn new(task: &Task, timeline: Timeline, rate: f64, flow: u32, largest: usize) -> Self {
        let streams = f64::from(task.params.streams);
        let per_second = rate / 8.0 / task.params.size as f64 / streams;
        let burst = (per_second * BURST_NS / SECOND as f64).round().clamp(1.0, largest as f64);
        let schedule = Schedule::new(timeline.start, per_second / burst, f64::from(flow) / streams);
        Self { alarm: Alarm::new(Wait::Sleep), schedule, burst: burst as usize }
    }

    fn wait(&mut self, over: impl Fn(u64) -> bool) -> u64 {
        let due = self.schedule.due();
        self.schedule.advance();
        self.alarm.wait_until(due, over)
    }
}

/// What a receiver keeps of one flow.
struct Inbox {
    arrivals: Arrivals,
    jitter: Jitter,
    meter: Meter,
    datagrams: u64,
    total: u64,
    /// When the sender said goodbye, and how many it had sent in its window.
    goodbye: Option<(u64, u64)>,
}

impl Inbox {
    /// Takes a run of datagrams of `size` bytes, of which the last may be shorter.
    #[inline]
    fn take(&mut self, run: &[u8], size: usize, now: u64, socket: &Socket) {
        let (mut count, mut bytes) = (0, 0);
        for datagram in run.chunks(size.max(1)) {
            // A control datagram may have been coalesced to the end of a run.
            if datagram.len() == CONTROL
                && let Some(control) = Control::decode(datagram)
            {
                self.heed(control, now, socket);
                continue;
            }
            let (Some(number), Some(sent)) =
                (datagram.first_chunk::<8>(), datagram.get(8..).and_then(<[u8]>::first_chunk::<8>))
            else {
                continue;
            };
            let number = u64::from_le_bytes(*number);
            let counts = number >> PART_SHIFT == IN_WINDOW;
            self.arrivals.note(number & ((1 << PART_SHIFT) - 1), counts);
            self.jitter.note(u64::from_le_bytes(*sent), now, counts);
            count += 1;
            bytes += datagram.len() as u64;
        }
        self.total += count;
        if self.meter.add(now, bytes) {
            self.datagrams += count;
        }
    }

    #[cold]
    fn heed(&mut self, control: Control, now: u64, socket: &Socket) {
        match control {
            Control::End(sent) => self.goodbye = self.goodbye.or(Some((now, sent))),
            Control::Hello(_) => Control::Go.send(socket),
            Control::Go | Control::Welcome => {}
        }
    }

    fn close(self) -> Tally {
        let counts = self.arrivals.counts();
        let slices = self.meter.finish();
        let mut tally = Tally {
            received: self.datagrams,
            received_bytes: slices.iter().sum(),
            slices,
            ..Tally::default()
        };
        let expected = self.goodbye.map(|(_, sent)| sent).unwrap_or_else(|| {
            tally.warnings.push(
                "a sender's goodbye was lost; this end goes by the numbers that came".to_owned(),
            );
            counts.range.map_or(0, |(low, high)| high - low + 1)
        });
        tally.datagrams = Some(DatagramStats {
            expected,
            received: counts.received,
            reordered: counts.reordered,
            duplicated: counts.duplicated,
            jitter_ns: self.jitter.mean(),
        });
        tally
    }
}

/// `asks`: the peer's sender waits to be told that it is enough. `enough`: tells this end's sender.
fn receiver(
    task: &Task,
    flow: u32,
    socket: &Socket,
    asks: bool,
    enough: &AtomicBool,
    lane: Lane<'_>,
) -> Result<Tally, TrialError> {
    let size = task.params.size as usize;
    let mut batch = if task.params.gso {
        ReceiveBatch::new(RUNS, 1 << 16)
    } else {
        // Room for control datagrams, and a multiple of a cache line so that none is shared.
        ReceiveBatch::new(SINGLES, size.max(CONTROL).next_multiple_of(64))
    };
    let Some(timeline) = lane.start() else { return Ok(Tally::default()) };
    let mut inbox = Inbox {
        arrivals: Arrivals::default(),
        jitter: Jitter::default(),
        meter: Meter::new(timeline),
        datagrams: 0,
        total: 0,
        goodbye: None,
    };
    let mut ask_at = timeline.close;
    while !lane.stopped() {
        let got = batch.receive(socket);
        let now = clock::now();
        match got {
            Ok(n) => {
                // Datagrams of a batch share the moment at which this thread got hold of them.
                for i in 0..n {
                    let (run, segment) = batch.message(i);
                    inbox.take(run, segment, now, socket);
                }
                lane.moved(inbox.total);
            }
            Err(e) => match Errno::from_io_error(&e) {
                Some(Errno::AGAIN | Errno::INTR) => {}
                // The sender left before its goodbye could be read: its time is over, too.
                Some(Errno::CONNREFUSED) if now >= timeline.close => break,
                Some(e) => return Err(udp::broken(flow, "receiving", e)),
                None => return Err(TrialError::system(format!("flow {flow}: receiving"), e)),
            },
        }
        if inbox.goodbye.is_some() {
            enough.store(true, Ordering::Relaxed);
        } else if asks && now >= ask_at {
            Control::End(0).send(socket);
            ask_at = now + ASK;
        }
        // A server's sender may go on for NO_GOODBYE itself before it says goodbye.
        let last = inbox.goodbye.map_or(timeline.close + 2 * NO_GOODBYE, |(at, _)| {
            // A goodbye belongs to the sender's clock; this end's window is not cut short by it.
            (at + DRAIN).max(timeline.close)
        });
        if now >= last {
            break;
        }
    }
    if inbox.total == 0 && inbox.goodbye.is_none() {
        return Err(TrialError::PeerSilent(format!(
            "flow {flow}: neither a datagram nor the sender's goodbye came"
        )));
    }
    Ok(inbox.close())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(number: u64, part: u64, sent: u64) -> Vec<u8> {
        let mut d = vec![7; 100];
        d[..8].copy_from_slice(&(number | part << PART_SHIFT).to_le_bytes());
        d[8..16].copy_from_slice(&sent.to_le_bytes());
        d
    }

    #[test]
    fn a_coalesced_run_is_counted_datagram_by_datagram() {
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        let timeline = Timeline::new(1_000, 0.0, 1.0);
        let mut inbox = Inbox {
            arrivals: Arrivals::default(),
            jitter: Jitter::default(),
            meter: Meter::new(timeline),
            datagrams: 0,
            total: 0,
            goodbye: None,
        };
        let run: Vec<u8> = [0, 1, 3, 2, 2]
            .iter()
            .flat_map(|&n| datagram(n, u64::from(n > 0), n * 1_000))
            .collect();
        inbox.take(&run, 100, 5_000, &socket);
        inbox.take(&Control::End(9).encode(), CONTROL, 6_000, &socket);
        inbox.take(&[1, 2, 3], 3, 6_000, &socket);
        let tally = inbox.close();
        let stats = tally.datagrams.unwrap();
        assert_eq!((stats.expected, stats.received), (9, 3));
        assert_eq!((stats.reordered, stats.duplicated), (1, 1));
        assert_eq!((tally.received, tally.received_bytes), (5, 500));
        assert!(stats.jitter_ns > 0.0);
    }
}

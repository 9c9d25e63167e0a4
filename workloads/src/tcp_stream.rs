//! Bulk transfer over TCP: one connection a flow, blocks of `size` bytes, one way or both at once.
//!
//! The receiver copies what arrives to user space as a real application does (no MSG_TRUNC), and
//! what it counts inside its own window is the throughput. No window ends in a half-empty pipe: the
//! server's ends before the client's, so a client that sends may stop with its own; a server goes
//! on until the client shuts its direction down. Receivers read until the sender closes.

use crate::{
    clock::{self, Alarm, Schedule, Wait},
    counted::Count,
    error::TrialError,
    flow::{Lane, Strand, Tally},
    hello,
    meter::Meter,
    payload,
    protocol::{EndReport, Task},
    reins::Reins,
    tcp::{self, Moved},
    trial::{self, Cast, Side},
};
use cnibench_model::FlowDirection;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};
use socket2::Socket;
use std::{
    net::{Shutdown, SocketAddr},
    sync::Arc,
};

/// Room for one receive: at least this much, whatever the block size of the sender is.
const RECEIVE: usize = 128 * 1024;

pub(crate) fn serve(
    task: &Task,
    bind: SocketAddr,
    reins: &Reins,
    listening: &mut dyn FnMut(u16),
) -> Result<EndReport, TrialError> {
    let sockets = tcp::accept_all(task, bind, reins, listening)?;
    let cast = Cast {
        side: Side::Server,
        strands: strands(task, Side::Server, &sockets),
        sockets: sockets.clone(),
        at_close: None,
    };
    trial::run(task, reins, cast, || hello::send_go(&sockets))
}

pub(crate) fn drive(
    task: &Task,
    server: SocketAddr,
    reins: &Reins,
) -> Result<EndReport, TrialError> {
    let sockets = tcp::connect_all(task, server, reins)?;
    let all = sockets.clone();
    let cast = Cast {
        side: Side::Client,
        strands: strands(task, Side::Client, &sockets),
        sockets: sockets.clone(),
        at_close: Some(Box::new(move || {
            // Senders have stopped or are about to; servers that send are told that it is enough.
            for socket in &all {
                let _ = socket.shutdown(Shutdown::Write);
            }
        })),
    };
    trial::run(task, reins, cast, || hello::await_go(task, reins, &sockets))
}

/// Whether an end sends and receives, in that order.
pub(crate) fn roles(direction: FlowDirection, side: Side) -> (bool, bool) {
    match (direction, side) {
        (FlowDirection::Both, _) => (true, true),
        (FlowDirection::Forward, Side::Client) | (FlowDirection::Reverse, Side::Server) => {
            (true, false)
        }
        (FlowDirection::Forward, Side::Server) | (FlowDirection::Reverse, Side::Client) => {
            (false, true)
        }
    }
}

fn strands<'a>(task: &'a Task, side: Side, sockets: &[Arc<Socket>]) -> Vec<Strand<'a>> {
    let (sends, receives) = roles(task.params.direction, side);
    let mut strands = Vec::new();
    for (flow, socket) in (0..).zip(sockets) {
        if sends {
            let socket = Arc::clone(socket);
            strands.push(Strand::new(flow, "send", move |lane| {
                sender(task, side, flow, &socket, lane)
            }));
        }
        if receives {
            let socket = Arc::clone(socket);
            strands
                .push(Strand::new(flow, "recv", move |lane| receiver(task, flow, &socket, lane)));
        }
    }
    strands
}

fn sender(
    task: &Task,
    side: Side,
    flow: u32,
    socket: &Socket,
    lane: Lane<'_>,
) -> Result<Tally, TrialError> {
    let block = payload::fill(task.params.size as usize, &task.canary);
    if let Some(count) = task.count {
        return send_counted(count.of_flow(task.params.streams), flow, socket, &block, lane);
    }
    let Some(timeline) = lane.start() else { return Ok(Tally::default()) };
    let over = |now: u64| {
        now >= timeline.close && (side == Side::Client || hung_up(socket)) || lane.stopped()
    };
    let mut meter = Meter::new(timeline);
    let mut schedule = task.params.rate.map(|rate| {
        let streams = f64::from(task.params.streams);
        let blocks = rate.0 / 8.0 / block.len() as f64 / streams;
        Schedule::new(timeline.start, blocks, f64::from(flow) / streams)
    });
    let mut alarm = Alarm::new(Wait::Sleep);
    let (mut total, mut writes, mut at) = (0u64, 0u64, 0);
    let mut now = clock::now();
    while !over(now) {
        if let Some(schedule) = schedule.as_mut().filter(|_| at == 0) {
            now = alarm.wait_until(schedule.due(), over);
            if now < schedule.due() || over(now) {
                break;
            }
            schedule.advance();
        }
        match send(socket, &block[at..], SendFlags::NOSIGNAL) {
            Ok(n) => {
                now = clock::now();
                total += n as u64;
                at = (at + n) % block.len();
                writes += u64::from(meter.add(now, n as u64) && at == 0);
                lane.moved(total);
            }
            Err(Errno::INTR) => {}
            Err(_) if over(clock::now()) => break,
            Err(e) => return Err(tcp::broken(flow, "sending", e)),
        }
    }
    // Tells the receiver that this was all. When the connection is gone it knows.
    let _ = socket.shutdown(Shutdown::Write);
    // Rates come from the receiver, so the sender keeps no slices.
    let sent_bytes = meter.finish().iter().sum();
    Ok(Tally { sent_bytes, sent: writes, ..Tally::default() })
}

/// Sends so many bytes, first those of the warm-up, and has the receiver say of either that it has them all:
/// in between the path is empty, so that what is measured is all that those bytes take.
fn send_counted(
    count: Count,
    flow: u32,
    socket: &Socket,
    block: &[u8],
    lane: Lane<'_>,
) -> Result<Tally, TrialError> {
    if lane.start().is_none() {
        return Ok(Tally::default());
    }
    let (mut total, mut writes, mut begun) = (0u64, 0u64, clock::now());
    for part in [count.warmup, count.measured] {
        begun = clock::now();
        (writes, total) = (0, 0);
        while total < part {
            let next = block.len().min((part - total) as usize);
            if tcp::send_all(socket, &block[..next], flow, lane)? == Moved::Stopped {
                return Ok(Tally::default());
            }
            total += next as u64;
            writes += 1;
            lane.moved(total);
        }
        match tcp::receive_all(socket, &mut [0], flow, lane)? {
            Moved::All => {}
            Moved::Stopped => return Ok(Tally::default()),
            Moved::Closed => return Err(tcp::left(flow, "before it had everything")),
        }
    }
    let span = Some((begun, clock::now()));
    // Tells the receiver that this was all.
    let _ = socket.shutdown(Shutdown::Write);
    Ok(Tally { sent_bytes: total, sent: writes, span, ..Tally::default() })
}

/// The other end of [`send_counted`].
fn receive_counted(
    count: Count,
    flow: u32,
    socket: &Socket,
    room: &mut [u8],
    lane: Lane<'_>,
) -> Result<Tally, TrialError> {
    if lane.start().is_none() {
        return Ok(Tally::default());
    }
    let (mut total, mut reads, mut begun) = (0u64, 0u64, clock::now());
    for part in [count.warmup, count.measured] {
        begun = clock::now();
        (reads, total) = (0, 0);
        while total < part {
            let most = room.len().min((part - total) as usize);
            match recv(socket, &mut room[..most], RecvFlags::empty()) {
                Ok((_, n)) if n > 0 => {
                    total += n as u64;
                    reads += 1;
                    lane.moved(total);
                }
                Err(Errno::INTR) => {}
                _ if lane.stopped() => return Ok(Tally::default()),
                Ok(_) => return Err(tcp::left(flow, "before it had sent everything")),
                Err(e) => return Err(tcp::broken(flow, "receiving", e)),
            }
        }
        if tcp::send_all(socket, &[0], flow, lane)? == Moved::Stopped {
            return Ok(Tally::default());
        }
    }
    let span = Some((begun, clock::now()));
    // The sender's end of stream.
    let _ = tcp::receive_all(socket, &mut [0], flow, lane)?;
    let slices = vec![total];
    Ok(Tally { received_bytes: total, received: reads, slices, span, ..Tally::default() })
}

/// True once the peer has shut its direction down, whoever reads from the socket.
fn hung_up(socket: &Socket) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&now)), Ok(n) if n > 0)
}

fn receiver(task: &Task, flow: u32, socket: &Socket, lane: Lane<'_>) -> Result<Tally, TrialError> {
    // Zeroed pages are mapped on the first write, which here is the warm-up's.
    let mut room = vec![0u8; RECEIVE.max(task.params.size.min(1 << 20) as usize)];
    if let Some(count) = task.count {
        return receive_counted(count.of_flow(task.params.streams), flow, socket, &mut room, lane);
    }
    let Some(timeline) = lane.start() else { return Ok(Tally::default()) };
    let mut meter = Meter::new(timeline);
    let (mut total, mut reads) = (0u64, 0u64);
    loop {
        match recv(socket, &mut room[..], RecvFlags::empty()) {
            Ok((_, 0)) => {
                if clock::now() < timeline.close && !lane.stopped() {
                    return Err(tcp::left(flow, "before the window was over"));
                }
                break;
            }
            Ok((_, n)) => {
                total += n as u64;
                reads += u64::from(meter.add(clock::now(), n as u64));
                lane.moved(total);
            }
            Err(Errno::INTR) => {}
            Err(_) if lane.stopped() => break,
            Err(e) => return Err(tcp::broken(flow, "receiving", e)),
        }
    }
    let slices = meter.finish();
    Ok(Tally { received_bytes: slices.iter().sum(), received: reads, slices, ..Tally::default() })
}

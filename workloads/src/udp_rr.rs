//! Request/response in datagrams. A lost one is never sent again: after a while the transaction
//! counts as lost and the next one goes on; answers that come later than that are ignored.
//!
//! A request begins with its sequence number, as many low bytes of eight as request and response
//! both have room for; the server sends it back.

use crate::{
    error::{Doing, TrialError},
    flow::{Lane, Strand, Tally},
    hello::{self, CONTROL, Control},
    options, payload,
    protocol::{EndReport, Task},
    reins::Reins,
    transact::{Exchanged, transact},
    trial::{self, Cast, Side},
    udp,
};
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};
use socket2::Socket;
use std::{net::SocketAddr, time::Duration};

/// How long an answer may take before its transaction counts as lost.
pub const TIMEOUT: Duration = Duration::from_millis(200);

pub(crate) fn serve(
    task: &Task,
    bind: SocketAddr,
    reins: &Reins,
    listening: &mut dyn FnMut(u16),
) -> Result<EndReport, TrialError> {
    let sockets = udp::accept_all(task, bind, reins, listening)?;
    let strands = (0..)
        .zip(sockets.clone())
        .map(|(flow, socket)| {
            Strand::new(flow, "answer", move |lane| answer(task, flow, &socket, lane))
        })
        .collect();
    let cast = Cast { side: Side::Server, strands, sockets: sockets.clone(), at_close: None };
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
    let strands = (0..)
        .zip(sockets.clone())
        .map(|(flow, socket)| Strand::new(flow, "ask", move |lane| ask(task, flow, &socket, lane)))
        .collect();
    let cast = Cast { side: Side::Client, strands, sockets: sockets.clone(), at_close: None };
    trial::run(task, reins, cast, || hello::udp_await_go(task, reins, &sockets))
}

/// Bytes of the sequence number that travel both ways.
fn tag_len(task: &Task) -> usize {
    task.params.size.min(task.params.response_size).min(8) as usize
}

fn ask(task: &Task, flow: u32, socket: &Socket, lane: Lane<'_>) -> Result<Tally, TrialError> {
    let mut request = payload::fill(task.params.size as usize, &task.canary);
    let expected = task.params.response_size as usize;
    let mut response = vec![0u8; expected.max(CONTROL) + 1];
    let tag = tag_len(task);
    let mut sequence = 0u64;
    socket.set_read_timeout(Some(TIMEOUT)).doing("setting SO_RCVTIMEO")?;
    let mut tally = transact(task, flow, lane, || {
        sequence += 1;
        let number = sequence.to_le_bytes();
        request[..tag].copy_from_slice(&number[..tag]);
        match send(socket, &request, SendFlags::NOSIGNAL) {
            // ENOBUFS: a queue on the way was full, as good as lost on it.
            Ok(_) | Err(Errno::NOBUFS) => {}
            Err(_) if lane.stopped() => return Ok(Exchanged::Stopped),
            Err(e) => return Err(send_failure(task, flow, e)),
        }
        loop {
            match recv(socket, &mut response[..], RecvFlags::empty()) {
                Ok((n, _)) if n == expected && response[..tag] == number[..tag] => {
                    return Ok(Exchanged::Done);
                }
                Err(Errno::AGAIN) => return Ok(Exchanged::Lost),
                _ if lane.stopped() => return Ok(Exchanged::Stopped),
                // A late answer, a go that came twice, a signal.
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(udp::broken(flow, "waiting for a response", e)),
            }
        }
    })?;
    udp::say_goodbye(socket, tally.sent, lane.reins);
    tally.options.insert("timeout_ms".to_owned(), TIMEOUT.as_millis().to_string());
    Ok(tally)
}

fn send_failure(task: &Task, flow: u32, e: Errno) -> TrialError {
    if e == Errno::MSGSIZE {
        return TrialError::BadTask(format!(
            "size: a datagram of {} bytes is too long for this path",
            task.params.size
        ));
    }
    udp::broken(flow, "sending a request", e)
}

fn answer(task: &Task, flow: u32, socket: &Socket, lane: Lane<'_>) -> Result<Tally, TrialError> {
    let size = task.params.size as usize;
    let mut request = vec![0u8; size.max(CONTROL) + 1];
    let mut response = payload::fill(task.params.response_size as usize, &task.canary);
    let tag = tag_len(task);
    if lane.start().is_none() {
        return Ok(Tally::default());
    }
    let mut served = 0;
    loop {
        match recv(socket, &mut request[..], RecvFlags::empty()) {
            _ if lane.stopped() => break,
            Ok((n, _)) => match Control::decode(&request[..n]) {
                Some(Control::Hello(_)) => Control::Go.send(socket),
                Some(Control::End(_)) => break,
                Some(Control::Welcome | Control::Go) => {}
                None if n == size => {
                    response[..tag].copy_from_slice(&request[..tag]);
                    match send(socket, &response, SendFlags::NOSIGNAL) {
                        Ok(_) => {
                            served += 1;
                            lane.moved(served);
                        }
                        Err(Errno::NOBUFS | Errno::INTR) => {}
                        Err(_) if lane.stopped() => break,
                        Err(e) => return Err(send_failure(task, flow, e)),
                    }
                }
                None => {}
            },
            Err(Errno::INTR) => {}
            Err(e) => return Err(udp::broken(flow, "waiting for a request", e)),
        }
    }
    let mut tally = Tally::by_progress(task);
    tally.options = options::read_back(socket, task);
    Ok(tally)
}

//! Request/response over one established TCP connection a flow.
//!
//! The client measures; the server reads no clock, its count comes from the supervisor.

use crate::{
    error::TrialError,
    flow::{Lane, Strand, Tally},
    hello, payload,
    protocol::{EndReport, Task},
    reins::Reins,
    tcp::{self, Moved},
    transact::{Exchanged, transact},
    trial::{self, Cast, Side},
};
use socket2::Socket;
use std::{
    net::{Shutdown, SocketAddr},
    sync::Arc,
};

pub(crate) fn serve(
    task: &Task,
    bind: SocketAddr,
    reins: &Reins,
    listening: &mut dyn FnMut(u16),
) -> Result<EndReport, TrialError> {
    let sockets = tcp::accept_all(task, bind, reins, listening)?;
    let strands = (0..)
        .zip(sockets.clone())
        .map(|(flow, socket)| {
            Strand::new(flow, "answer", move |lane| answer(task, flow, &socket, lane))
        })
        .collect();
    let cast = Cast { side: Side::Server, strands, sockets: sockets.clone(), at_close: None };
    trial::run(task, reins, cast, || hello::send_go(&sockets))
}

pub(crate) fn drive(
    task: &Task,
    server: SocketAddr,
    reins: &Reins,
) -> Result<EndReport, TrialError> {
    let sockets = tcp::connect_all(task, server, reins)?;
    let strands = (0..)
        .zip(sockets.clone())
        .map(|(flow, socket)| Strand::new(flow, "ask", move |lane| ask(task, flow, &socket, lane)))
        .collect();
    let cast = Cast { side: Side::Client, strands, sockets: sockets.clone(), at_close: None };
    trial::run(task, reins, cast, || hello::await_go(task, reins, &sockets))
}

fn ask(task: &Task, flow: u32, socket: &Arc<Socket>, lane: Lane<'_>) -> Result<Tally, TrialError> {
    let request = payload::fill(task.params.size as usize, &task.canary);
    let mut response = vec![0u8; task.params.response_size as usize];
    let tally = transact(task, flow, lane, || {
        if tcp::send_all(socket, &request, flow, lane)? == Moved::Stopped {
            return Ok(Exchanged::Stopped);
        }
        match tcp::receive_all(socket, &mut response, flow, lane)? {
            Moved::All => Ok(Exchanged::Done),
            Moved::Stopped => Ok(Exchanged::Stopped),
            Moved::Closed => Err(tcp::left(flow, "instead of answering")),
        }
    })?;
    // Tells the server that this was all.
    let _ = socket.shutdown(Shutdown::Write);
    Ok(tally)
}

fn answer(
    task: &Task,
    flow: u32,
    socket: &Arc<Socket>,
    lane: Lane<'_>,
) -> Result<Tally, TrialError> {
    let mut request = vec![0u8; task.params.size as usize];
    let response = payload::fill(task.params.response_size as usize, &task.canary);
    if lane.start().is_none() {
        return Ok(Tally::default());
    }
    let mut served = 0;
    while tcp::receive_all(socket, &mut request, flow, lane)? == Moved::All
        && tcp::send_all(socket, &response, flow, lane)? == Moved::All
    {
        served += 1;
        lane.moved(served);
    }
    Ok(Tally::by_progress(task))
}

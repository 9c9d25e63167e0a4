//! What the TCP workloads share: listening, connecting all flows, sending and receiving whole messages.

use crate::{
    error::{Doing, TrialError},
    flow::Lane,
    hello, options,
    protocol::Task,
    reins::Reins,
};
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};
use socket2::Socket;
use std::{net::SocketAddr, sync::Arc};

/// Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn.
pub(crate) const BACKLOG: i32 = 4096;

/// Listens (port 0: one of the kernel's choice), tells the port, and accepts every flow.
pub(crate) fn accept_all(
    task: &Task,
    bind: SocketAddr,
    reins: &Reins,
    listening: &mut dyn FnMut(u16),
) -> Result<Vec<Arc<Socket>>, TrialError> {
    let listener = options::tcp(bind.ip(), &task.params)?;
    options::reuse(&listener, bind)?;
    options::bind(&listener, bind)?;
    listener.listen(BACKLOG).doing("listening")?;
    let listener = reins.hold(listener);
    listening(options::local_address(&listener)?.port());
    hello::accept_flows(task, reins, &[listener])
}

/// Connects every flow.
pub(crate) fn connect_all(
    task: &Task,
    server: SocketAddr,
    reins: &Reins,
) -> Result<Vec<Arc<Socket>>, TrialError> {
    (0..task.params.streams)
        .map(|flow| {
            let socket = options::tcp(server.ip(), &task.params)?;
            hello::connect(task, server, reins, flow, socket)
        })
        .collect()
}

/// How a blocking transfer of a whole message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// All of it.
    All,
    /// The peer closed before the first byte.
    Closed,
    /// The trial was stopped.
    Stopped,
}

/// Receives exactly `into.len()` bytes.
#[inline]
pub(crate) fn receive_all(
    socket: &Socket,
    into: &mut [u8],
    flow: u32,
    lane: Lane<'_>,
) -> Result<Moved, TrialError> {
    let mut have = 0;
    while have < into.len() {
        match recv(socket, &mut into[have..], RecvFlags::empty()) {
            Ok((_, n)) if n > 0 => have += n,
            Err(Errno::INTR) => {}
            _ if lane.stopped() => return Ok(Moved::Stopped),
            Ok(_) if have == 0 => return Ok(Moved::Closed),
            Ok(_) => return Err(left(flow, "in the middle of a message")),
            Err(e) => return Err(broken(flow, "receiving", e)),
        }
    }
    Ok(Moved::All)
}

/// Sends all of `bytes`.
#[inline]
pub(crate) fn send_all(
    socket: &Socket,
    bytes: &[u8],
    flow: u32,
    lane: Lane<'_>,
) -> Result<Moved, TrialError> {
    let mut done = 0;
    while done < bytes.len() {
        match send(socket, &bytes[done..], SendFlags::NOSIGNAL) {
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(_) if lane.stopped() => return Ok(Moved::Stopped),
            Err(e) => return Err(broken(flow, "sending", e)),
        }
    }
    Ok(Moved::All)
}

/// The peer closed its end when it should not.
pub(crate) fn left(flow: u32, when: &str) -> TrialError {
    TrialError::PeerSilent(format!("flow {flow}: the peer closed the connection {when}"))
}

/// A transfer failed: the peer's doing when the connection was reset or timed out.
pub(crate) fn broken(flow: u32, doing: &str, e: Errno) -> TrialError {
    match e {
        Errno::CONNRESET
        | Errno::PIPE
        | Errno::TIMEDOUT
        | Errno::CONNREFUSED
        | Errno::HOSTUNREACH
        | Errno::NETUNREACH => TrialError::PeerSilent(format!("flow {flow}: {doing}: {e}")),
        e => TrialError::system(format!("flow {flow}: {doing}"), e),
    }
}

//! The first messages of a flow on the measured network: who it is, and the common go.
//!
//! TCP: the client's first 16 bytes on a connection name the flow; once every flow is there the
//! server sends one byte on each, and traffic starts. UDP: [`Control`] datagrams, told from
//! traffic by their last magic byte, repeated until answered. Both ends' windows start at the go,
//! each by its own clock, so they differ by no more than the path's delay.

use crate::{
    clock::{self, SECOND},
    error::{Doing, TrialError},
    options,
    protocol::Task,
    reins::Reins,
    tcp,
};
use rustix::net::{RecvFlags, SendFlags, recv, recvfrom, send};
use socket2::{SockAddr, Socket};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};

const TCP_MAGIC: [u8; 8] = *b"cniflow\x01";
const GO: u8 = b'G';
/// How long a new connection may take to name its flow before it is taken for a stranger's.
const STRANGER: u64 = SECOND;
/// How often an unanswered control datagram is repeated.
const REPEAT: u64 = SECOND / 20;

/// When `patience_s` from now is over.
pub(crate) fn deadline(task: &Task) -> u64 {
    clock::now() + clock::nanos(task.patience_s)
}

fn silent(task: &Task, who: &str) -> TrialError {
    TrialError::PeerSilent(format!("{who} within {} s", task.patience_s))
}

/// Connects the socket of one flow and names it.
pub(crate) fn connect(
    task: &Task,
    server: SocketAddr,
    reins: &Reins,
    flow: u32,
    socket: Socket,
) -> Result<Arc<Socket>, TrialError> {
    let socket = reins.hold(socket);
    let patience = Duration::from_secs_f64(task.patience_s);
    if let Err(e) = socket.connect_timeout(&SockAddr::from(server), patience) {
        if reins.stopped() {
            return Err(reins.stopped_error());
        }
        return Err(match e.kind() {
            io::ErrorKind::TimedOut => TrialError::Unreachable(format!(
                "flow {flow}: {server} did not answer within {} s; is the path or a policy dropping it?",
                task.patience_s
            )),
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => {
                TrialError::system(format!("flow {flow}: connecting to {server}"), e)
            }
            _ => TrialError::Unreachable(format!("flow {flow}: connecting to {server}: {e}")),
        });
    }
    let mut hello = [0; 16];
    hello[..8].copy_from_slice(&TCP_MAGIC);
    hello[8..12].copy_from_slice(&flow.to_le_bytes());
    send(&*socket, &hello, SendFlags::NOSIGNAL)
        .map_err(|e| tcp::broken(flow, "naming it to the server", e))?;
    Ok(socket)
}

/// Accepts connections on the listeners until every flow has named itself; result in flow order.
/// Strangers (health probes, scanners) are turned away.
pub(crate) fn accept_flows(
    task: &Task,
    reins: &Reins,
    listeners: &[Arc<Socket>],
) -> Result<Vec<Arc<Socket>>, TrialError> {
    let count = task.params.streams as usize;
    let mut flows: Vec<Option<Arc<Socket>>> = vec![None; count];
    let until = deadline(task);
    let polled: Vec<&Socket> = listeners.iter().map(AsRef::as_ref).collect();
    while flows.iter().any(Option::is_none) {
        let ready = reins.readable(&polled, until)?;
        if ready.is_empty() {
            let came = flows.iter().flatten().count();
            return Err(silent(task, &format!("{came} of {count} flows of the client came")));
        }
        for i in ready {
            // The connection may be gone again; then accept fails and the next one is waited for.
            let Ok((socket, _)) = polled[i].accept() else { continue };
            let socket = reins.hold(socket);
            if let Some(flow) = named_flow(&socket, reins)?
                && let Some(place @ None) = flows.get_mut(flow as usize)
            {
                *place = Some(socket);
            }
        }
    }
    Ok(flows.into_iter().flatten().collect())
}

fn named_flow(socket: &Arc<Socket>, reins: &Reins) -> Result<Option<u32>, TrialError> {
    let until = clock::now() + STRANGER;
    let (mut hello, mut have) = ([0u8; 16], 0);
    while have < hello.len() {
        if reins.readable(&[socket], until)?.is_empty() {
            return Ok(None);
        }
        match recv(&**socket, &mut hello[have..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) | Err(_) => return Ok(None),
            Ok((_, n)) => have += n,
        }
    }
    let [_, _, _, _, _, _, _, _, a, b, c, d, ..] = hello;
    Ok((hello[..8] == TCP_MAGIC).then(|| u32::from_le_bytes([a, b, c, d])))
}

/// The server's go, on every flow.
pub(crate) fn send_go(flows: &[Arc<Socket>]) -> Result<(), TrialError> {
    for (flow, socket) in (0..).zip(flows) {
        send(&**socket, &[GO], SendFlags::NOSIGNAL)
            .map_err(|e| tcp::broken(flow, "sending the go to the client", e))?;
    }
    Ok(())
}

/// Waits for the server's go on every flow.
pub(crate) fn await_go(
    task: &Task,
    reins: &Reins,
    flows: &[Arc<Socket>],
) -> Result<(), TrialError> {
    let until = deadline(task);
    for (flow, socket) in flows.iter().enumerate() {
        if reins.readable(&[socket], until)?.is_empty() {
            return Err(silent(task, &format!("flow {flow}: the server gave no go")));
        }
        let mut go = [0];
        match recv(&**socket, &mut go, RecvFlags::empty()) {
            Ok((_, 1)) if go == [GO] => {}
            Ok((_, 1)) => {
                return Err(TrialError::Unreachable(format!(
                    "flow {flow}: what answered is no cnibench server of this version"
                )));
            }
            Ok(_) => {
                return Err(TrialError::PeerSilent(format!(
                    "flow {flow}: the server closed the connection before the go"
                )));
            }
            Err(e) => return Err(tcp::broken(flow as u32, "waiting for the server's go", e)),
        }
    }
    Ok(())
}

/// A control datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    /// Client: this is flow n. Repeated until answered.
    Hello(u32),
    /// Server: a socket of its own waits for this flow.
    Welcome,
    /// Server: start.
    Go,
    /// Sender of traffic: that was all; so many datagrams were sent in the window.
    End(u64),
}

/// Length of a control datagram.
pub(crate) const CONTROL: usize = 24;
/// The last magic byte is the top byte of a little-endian number that traffic keeps small.
const UDP_MAGIC: [u8; 8] = *b"cniflow\xC1";

impl Control {
    pub(crate) fn encode(self) -> [u8; CONTROL] {
        let (kind, value) = match self {
            Self::Hello(flow) => (1u8, u64::from(flow)),
            Self::Welcome => (2, 0),
            Self::Go => (3, 0),
            Self::End(sent) => (4, sent),
        };
        let mut out = [0; CONTROL];
        out[..8].copy_from_slice(&UDP_MAGIC);
        out[8] = kind;
        out[16..].copy_from_slice(&value.to_le_bytes());
        out
    }

    /// The control message, or none for traffic.
    #[inline]
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (Some(magic), Some(value)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) else {
            return None;
        };
        if bytes.len() != CONTROL || *magic != UDP_MAGIC {
            return None;
        }
        let value = u64::from_le_bytes(*value);
        match bytes[8] {
            1 => u32::try_from(value).ok().map(Self::Hello),
            2 => Some(Self::Welcome),
            3 => Some(Self::Go),
            4 => Some(Self::End(value)),
            _ => None,
        }
    }

    /// Sends it on a connected socket; lost like any datagram may be.
    pub(crate) fn send(self, socket: &Socket) {
        let _ = send(socket, &self.encode(), SendFlags::NOSIGNAL);
    }
}

/// Makes the client's connected UDP sockets, one a flow, each known to the server.
pub(crate) fn udp_connect(
    task: &Task,
    server: SocketAddr,
    reins: &Reins,
) -> Result<Vec<Arc<Socket>>, TrialError> {
    let mut flows = Vec::new();
    for flow in 0..task.params.streams {
        let socket = options::udp(server.ip(), &task.params)?;
        socket.connect(&SockAddr::from(server)).map_err(|e| {
            TrialError::Unreachable(format!("flow {flow}: connecting to {server}: {e}"))
        })?;
        let socket = reins.hold(socket);
        ask(task, reins, &socket, flow, "the server did not answer", |c| {
            matches!(c, Some(Control::Welcome | Control::Go))
        })?;
        flows.push(socket);
    }
    Ok(flows)
}

/// Waits for the go on every flow. Traffic counts as one: the go itself may have been lost.
pub(crate) fn udp_await_go(
    task: &Task,
    reins: &Reins,
    flows: &[Arc<Socket>],
) -> Result<(), TrialError> {
    for (flow, socket) in (0..).zip(flows) {
        ask(task, reins, socket, flow, "the server gave no go", |c| {
            !matches!(c, Some(Control::Welcome))
        })?;
    }
    Ok(())
}

/// Says hello until an answer is `enough`. Traffic (none) is left in the socket.
fn ask(
    task: &Task,
    reins: &Reins,
    socket: &Arc<Socket>,
    flow: u32,
    complaint: &str,
    enough: impl Fn(Option<Control>) -> bool,
) -> Result<(), TrialError> {
    let until = deadline(task);
    let unreachable = |why: &str| TrialError::Unreachable(format!("flow {flow}: {why}"));
    // The go usually comes by itself; the first hello is sent at once only to introduce a flow.
    let mut waited = enough(Some(Control::Welcome));
    while clock::now() < until {
        if waited {
            Control::Hello(flow).send(socket);
        }
        waited = true;
        let next = clock::now() + REPEAT;
        while !reins.readable(&[socket], next.min(until))?.is_empty() {
            let mut bytes = [0; CONTROL + 1];
            match recv(&**socket, &mut bytes, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Ok((n, _)) => {
                    let control = Control::decode(&bytes[..n]);
                    if control.is_some() {
                        // The peeked datagram is taken out; it is there, so this cannot fail.
                        let _ = recv(&**socket, &mut bytes, RecvFlags::DONTWAIT);
                    }
                    if enough(control) {
                        return Ok(());
                    }
                    if control.is_none() {
                        return Err(unreachable(
                            "what answered is no cnibench server of this version",
                        ));
                    }
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(e) => return Err(unreachable(&format!("the server's port refused: {e}"))),
            }
        }
    }
    Err(unreachable(&format!(
        "{complaint} within {} s; is the path or a policy dropping it?",
        task.patience_s
    )))
}

/// Waits for the hello of every flow and gives each a connected socket on the same port (a
/// connected socket is preferred by the kernel's lookup, net/ipv4/udp.c compute_score).
pub(crate) fn udp_accept(
    task: &Task,
    reins: &Reins,
    listener: &Arc<Socket>,
) -> Result<Vec<Arc<Socket>>, TrialError> {
    let count = task.params.streams as usize;
    let address = options::local_address(listener)?;
    let mut flows: Vec<Option<(SocketAddr, Arc<Socket>)>> = vec![None; count];
    let until = deadline(task);
    while flows.iter().any(Option::is_none) {
        let mut polled: Vec<&Socket> = vec![listener];
        polled.extend(flows.iter().flatten().map(|(_, s)| s.as_ref()));
        let ready = reins.readable(&polled, until)?;
        if ready.is_empty() {
            let came = flows.iter().flatten().count();
            return Err(silent(task, &format!("{came} of {count} flows of the client came")));
        }
        // Welcomes that got lost: the client said hello again, to its own socket by now.
        for i in ready.iter().filter(|&&i| i > 0) {
            answer(polled[*i], Control::Welcome);
        }
        if ready.first() != Some(&0) {
            continue;
        }
        let mut bytes = [0; CONTROL + 1];
        let Ok((n, _, peer)) = recvfrom(listener, &mut bytes, RecvFlags::DONTWAIT) else {
            continue;
        };
        let hello = Control::decode(&bytes[..n]);
        let peer = peer.and_then(|a| SocketAddr::try_from(a).ok());
        let (Some(Control::Hello(flow)), Some(peer)) = (hello, peer) else { continue };
        let Some(place) = flows.get_mut(flow as usize) else { continue };
        if place.as_ref().is_none_or(|(known, _)| *known != peer) {
            *place = Some((peer, reins.hold(own_socket(task, address, peer)?)));
        }
        if let Some((_, socket)) = place {
            Control::Welcome.send(socket);
        }
    }
    Ok(flows.into_iter().flatten().map(|(_, socket)| socket).collect())
}

fn own_socket(task: &Task, local: SocketAddr, peer: SocketAddr) -> Result<Socket, TrialError> {
    let socket = options::udp(local.ip(), &task.params)?;
    socket.set_reuse_address(true).doing("setting SO_REUSEADDR")?;
    options::bind(&socket, local)?;
    socket.connect(&SockAddr::from(peer)).doing("connecting a flow's UDP socket to the client")?;
    Ok(socket)
}

/// Answers a hello that waits in a flow's socket; anything else there is dropped.
fn answer(socket: &Socket, with: Control) {
    let mut bytes = [0; CONTROL + 1];
    if let Ok((n, _)) = recv(socket, &mut bytes, RecvFlags::DONTWAIT)
        && matches!(Control::decode(&bytes[..n]), Some(Control::Hello(_)))
    {
        with.send(socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_datagrams_survive_and_traffic_is_none() {
        for c in [Control::Hello(77), Control::Welcome, Control::Go, Control::End(u64::MAX)] {
            assert_eq!(Control::decode(&c.encode()), Some(c));
        }
        let mut traffic = [0xFFu8; CONTROL];
        traffic[..8].copy_from_slice(&(u64::MAX >> 8).to_le_bytes());
        assert_eq!(Control::decode(&traffic), None);
        assert_eq!(Control::decode(&Control::Go.encode()[..23]), None);
        assert_eq!(Control::decode(&[]), None);
    }
}

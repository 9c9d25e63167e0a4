//! Connect, request, response, close: one TCP connection a transaction.
//!
//! The server closes first, as an HTTP/1.0 server does, and the client's transaction ends when it
//! has seen that end of stream. So TIME_WAIT stays with the server, whose kernel lets a new SYN
//! from the same port take such a connection's place (net/ipv4/tcp_minisocks.c,
//! tcp_timewait_state_process), and the client's port is free again at once: a long run neither
//! runs out of ports nor slows down, and nothing is cut short by a reset.
//!
//! Every flow of the server has a listener of its own on the one port (SO_REUSEPORT). The client
//! of flow i uses local ports p with p % streams == i in turn, and a classic BPF program picks the
//! listener by that remainder, so both ends of a flow stay on its CPUs and accepts do not contend.
//! Where a NAT changes the port, connections still reach some flow's listener.

use crate::{
    clock,
    error::{Doing, TrialError},
    flow::{Lane, Strand, Tally},
    hello, options, payload,
    protocol::{EndReport, Task},
    reins::Reins,
    sys,
    tcp::{self, Moved},
    transact::{Exchanged, transact},
    trial::{self, Cast, Side},
};
use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};
use socket2::{SockAddr, Socket};
use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Connections of a flow in a second, at most: trials that begin a second apart use other ports for so long.
const APART: u64 = 3_001;
/// The range from which the kernel itself takes local ports.
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

pub(crate) fn serve(
    task: &Task,
    bind: SocketAddr,
    reins: &Reins,
    listening: &mut dyn FnMut(u16),
) -> Result<EndReport, TrialError> {
    let listeners = listeners(task, bind, reins)?;
    let Some(first) = listeners.first() else {
        return Err(TrialError::BadTask("streams: 0 is outside 1..".to_owned()));
    };
    listening(options::local_address(first)?.port());
    let anchors = hello::accept_flows(task, reins, &listeners)?;
    let over = AtomicBool::new(false);
    let mut strands: Vec<Strand<'_>> = (0..)
        .zip(&listeners)
        .map(|(flow, listener)| {
            let over = &over;
            Strand::new(flow, "answer", move |lane| answer(task, flow, listener, over, lane))
        })
        .collect();
    strands.push(Strand::new(None, "goodbye", |lane| goodbye(&anchors, &listeners, &over, lane)));
    let cast = Cast { side: Side::Server, strands, sockets: listeners.clone(), at_close: None };
    trial::run(task, reins, cast, || hello::send_go(&anchors))
}

/// One listener a flow, all on one port.
fn listeners(task: &Task, bind: SocketAddr, reins: &Reins) -> Result<Vec<Arc<Socket>>, TrialError> {
    let mut listeners: Vec<Arc<Socket>> = Vec::new();
    let mut port = bind.port();
    for _ in 0..task.params.streams {
        let socket = options::tcp(bind.ip(), &task.params)?;
        options::reuse(&socket, bind)?;
        socket.set_reuse_port(true).doing("setting SO_REUSEPORT")?;
        options::bind(&socket, SocketAddr::new(bind.ip(), port))?;
        socket.listen(tcp::BACKLOG).doing("listening")?;
        port = options::local_address(&socket)?.port();
        listeners.push(reins.hold(socket));
    }
    if let [first, _, ..] = listeners.as_slice() {
        sys::attach_reuseport_selector(&**first, &by_source_port(bind.ip(), task.params.streams))
            .doing("attaching the listener selector (SO_ATTACH_REUSEPORT_CBPF)")?;
    }
    Ok(listeners)
}

/// Returns source port modulo `streams`. The program sees the packet from behind its TCP header
/// (net/core/sock_reuseport.c, run_bpf_filter); SKF_NET_OFF leads back to the IP header. Options
/// and extension headers are not skipped: such a packet is merely served by another flow.
fn by_source_port(ip: IpAddr, streams: u32) -> [sys::Instruction; 3] {
    const LOAD_HALF_ABSOLUTE: u16 = 0x28;
    const MODULO_CONSTANT: u16 = 0x94;
    const RETURN_A: u16 = 0x16;
    let header: i32 = if ip.is_ipv4() { 20 } else { 40 };
    let source_port = (libc::SKF_NET_OFF + header).cast_unsigned();
    [(LOAD_HALF_ABSOLUTE, 0, 0, source_port), (MODULO_CONSTANT, 0, 0, streams), (RETURN_A, 0, 0, 0)]
}

fn answer(
    task: &Task,
    flow: u32,
    listener: &Socket,
    over: &AtomicBool,
    lane: Lane<'_>,
) -> Result<Tally, TrialError> {
    let mut request = vec![0u8; task.params.size as usize];
    let response = payload::fill(task.params.response_size as usize, &task.canary);
    let slot = lane.reins.slot();
    if lane.start().is_none() {
        return Ok(Tally::default());
    }
    let mut served = 0;
    loop {
        let socket = match listener.accept() {
            Ok((socket, _)) => Arc::new(socket),
            Err(_) if over.load(Ordering::SeqCst) || lane.stopped() => break,
            // A connection that was gone before it was accepted.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                ) =>
            {
                continue;
            }
            Err(e) => return Err(TrialError::system(format!("flow {flow}: accepting"), e)),
        };
        lane.reins.put(&slot, Some(&socket));
        // A stranger that connects and closes is not a transaction.
        if tcp::receive_all(&socket, &mut request, flow, lane)? == Moved::All
            && tcp::send_all(&socket, &response, flow, lane)? == Moved::All
        {
            served += 1;
            lane.moved(served);
        }
        lane.reins.put(&slot, None);
    }
    Ok(Tally::by_progress(task))
}

/// Waits until the client has closed the connections on which its flows named themselves, then
/// ends the accepting.
fn goodbye(
    anchors: &[Arc<Socket>],
    listeners: &[Arc<Socket>],
    over: &AtomicBool,
    lane: Lane<'_>,
) -> Result<Tally, TrialError> {
    if lane.start().is_some() {
        for anchor in anchors {
            // Nothing is sent on it any more: this returns at the end of the stream, or when the
            // trial is stopped.
            let mut byte = [0];
            while matches!(
                recv(&**anchor, &mut byte, RecvFlags::empty()),
                Ok((_, 1)) | Err(Errno::INTR)
            ) {}
        }
    }
    over.store(true, Ordering::SeqCst);
    for listener in listeners {
        // Wakes accept; it can only fail on a socket that no longer listens.
        let _ = listener.shutdown(std::net::Shutdown::Both);
    }
    Ok(Tally::default())
}

pub(crate) fn drive(
    task: &Task,
    server: SocketAddr,
    reins: &Reins,
) -> Result<EndReport, TrialError> {
    let mut anchors = Vec::new();
    let mut ports = Vec::new();
    for flow in 0..task.params.streams {
        let mut own = Ports::new(flow, task.params.streams, server.ip())?;
        let socket = options::tcp(server.ip(), &task.params)?;
        own.bind(&socket, flow)?;
        anchors.push(hello::connect(task, server, reins, flow, socket)?);
        ports.push(own);
    }
    let strands = (0..)
        .zip(anchors.iter().zip(ports))
        .map(|(flow, (anchor, ports))| {
            Strand::new(flow, "ask", move |lane| {
                let tally = ask(task, server, flow, ports, lane);
                let _ = anchor.shutdown(std::net::Shutdown::Both);
                tally
            })
        })
        .collect();
    let cast = Cast { side: Side::Client, strands, sockets: anchors.clone(), at_close: None };
    trial::run(task, reins, cast, || hello::await_go(task, reins, &anchors))
}

/// The local ports of a flow, taken in turn.
struct Ports {
    any: IpAddr,
    low: u16,
    high: u16,
    step: u16,
    next: u16,
}

impl Ports {
    fn new(flow: u32, streams: u32, server: IpAddr) -> Result<Self, TrialError> {
        let range = fs::read_to_string(PORT_RANGE).doing("reading the range of local ports")?;
        let (low, high) = parse_range(&range).ok_or_else(|| {
            TrialError::system(
                format!("reading {PORT_RANGE}"),
                io::Error::new(io::ErrorKind::InvalidData, format!("{range:?} is no range")),
            )
        })?;
        let step = u16::try_from(streams).unwrap_or(u16::MAX);
        if u32::from(high - low) < 16 * streams {
            return Err(TrialError::BadTask(format!(
                "streams: {streams} flows of tcp_crr need {} local ports, {PORT_RANGE} has {}",
                16 * streams,
                high - low
            )));
        }
        // The first port at or above `low` with the flow's remainder.
        let low = low + (flow as u16 + step - low % step) % step;
        // Trials that follow each other begin at different places, by the second, so that where seconds are
        // counted in instructions they are the same places in every run.
        let skip = clock::now() / clock::SECOND * APART % u64::from((high - low) / step);
        let any: IpAddr = if server.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        Ok(Self { any, low, high, step, next: low + skip as u16 * step })
    }

    /// Binds to the next port that is free.
    fn bind(&mut self, socket: &Socket, flow: u32) -> Result<(), TrialError> {
        let tries = (self.high - self.low) / self.step;
        for _ in 0..=tries {
            let port = self.next;
            self.next = match port.checked_add(self.step) {
                Some(next) if next <= self.high => next,
                _ => self.low,
            };
            match socket.bind(&SockAddr::from(SocketAddr::new(self.any, port))) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
                Err(e) => {
                    return Err(TrialError::system(
                        format!("flow {flow}: binding to port {port}"),
                        e,
                    ));
                }
            }
        }
        Err(TrialError::system(
            format!("flow {flow}: all its local ports are in use"),
            io::Error::from(io::ErrorKind::AddrInUse),
        ))
    }
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let mut words = text.split_ascii_whitespace().map(str::parse);
    let (low, high) = (words.next()?.ok()?, words.next()?.ok()?);
    (0 < low && low < high).then_some((low, high))
}

fn ask(
    task: &Task,
    server: SocketAddr,
    flow: u32,
    mut ports: Ports,
    lane: Lane<'_>,
) -> Result<Tally, TrialError> {
    let request = payload::fill(task.params.size as usize, &task.canary);
    let mut response = vec![0u8; task.params.response_size as usize];
    let address = SockAddr::from(server);
    let slot = lane.reins.slot();
    let mut tally = transact(task, flow, lane, || {
        let socket = options::tcp(server.ip(), &task.params)?;
        ports.bind(&socket, flow)?;
        let socket = Arc::new(socket);
        lane.reins.put(&slot, Some(&socket));
        let done = exchange(&socket, &address, &request, &mut response, flow, lane);
        lane.reins.put(&slot, None);
        done
    })?;
    tally.options.insert("close".to_owned(), "server first, FIN".to_owned());
    tally.options.insert(
        "local_ports".to_owned(),
        format!("{}..={} step {}", ports.low, ports.high, ports.step),
    );
    Ok(tally)
}

fn exchange(
    socket: &Socket,
    server: &SockAddr,
    request: &[u8],
    response: &mut [u8],
    flow: u32,
    lane: Lane<'_>,
) -> Result<Exchanged, TrialError> {
    if let Err(e) = socket.connect(server) {
        if lane.stopped() {
            return Ok(Exchanged::Stopped);
        }
        return Err(Errno::from_io_error(&e).map_or_else(
            || TrialError::system(format!("flow {flow}: connecting"), io::Error::from(e.kind())),
            |e| tcp::broken(flow, "connecting", e),
        ));
    }
    if tcp::send_all(socket, request, flow, lane)? == Moved::Stopped {
        return Ok(Exchanged::Stopped);
    }
    match tcp::receive_all(socket, response, flow, lane)? {
        Moved::All => {}
        Moved::Stopped => return Ok(Exchanged::Stopped),
        Moved::Closed => return Err(tcp::left(flow, "instead of answering")),
    }
    // The server's end of stream is part of the transaction.
    let mut byte = [0];
    match tcp::receive_all(socket, &mut byte, flow, lane)? {
        Moved::Closed => Ok(Exchanged::Done),
        Moved::Stopped => Ok(Exchanged::Stopped),
        Moved::All => {
            Err(TrialError::PeerSilent(format!("flow {flow}: the server sent more than was asked")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_share_the_ports_without_overlap() {
        let mut seen = std::collections::HashSet::new();
        for flow in 0..7 {
            let ports = Ports::new(flow, 7, Ipv4Addr::LOCALHOST.into()).unwrap();
            assert!(ports.next >= ports.low && ports.next <= ports.high);
            for port in (ports.low..=ports.high).step_by(7) {
                assert_eq!(u32::from(port) % 7, flow);
                assert!(seen.insert(port));
            }
        }
    }

    #[test]
    fn broken_ranges_are_refused() {
        assert_eq!(parse_range("32768\t60999\n"), Some((32768, 60999)));
        for text in ["", "5", "9 3", "0 5", "a b", "70000 80000"] {
            assert_eq!(parse_range(text), None, "{text:?}");
        }
    }
}

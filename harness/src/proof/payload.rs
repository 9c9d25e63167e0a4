//! Sends a payload full of canaries from one namespace to another, by TCP and by UDP, and sees
//! that it arrives.

use crate::netlink::Netns;
use anyhow::{Context, bail, ensure};
use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

/// Bytes sent by TCP.
const STREAM: usize = 128 << 10;
/// Datagrams sent by UDP.
const DATAGRAMS: u64 = 64;
/// Bytes of one: it fits every path that carries IPv6 (RFC 8200, 5) in a tunnel.
const DATAGRAM: usize = 1000;
/// How often a datagram is sent before it is given up.
const ATTEMPTS: u32 = 10;
/// How long one step may take. A WireGuard handshake that was lost is repeated after 5 s.
const PATIENCE: Duration = Duration::from_secs(12);

/// What arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// Bytes by TCP.
    pub tcp_bytes: u64,
    /// Datagrams by UDP.
    pub datagrams: u64,
    /// Bytes of one datagram's payload.
    pub datagram_bytes: u64,
}

impl Delivery {
    /// All bytes of payload.
    pub fn bytes(&self) -> u64 {
        self.tcp_bytes + self.datagrams * self.datagram_bytes
    }
}

/// Sends from `from` to `addr` in `to`: the canary over and over, so that every segment and
/// datagram has it whole wherever it is cut. Blocks.
///
/// # Errors
/// What did not arrive, and why.
pub fn deliver(from: &Netns, to: &Netns, addr: IpAddr, canary: &[u8]) -> anyhow::Result<Delivery> {
    let tcp_bytes = stream(from, to, addr, canary).context("TCP")?;
    let datagrams = datagrams(from, to, addr, canary).context("UDP")?;
    Ok(Delivery { tcp_bytes, datagrams, datagram_bytes: DATAGRAM as u64 })
}

fn filled(canary: &[u8], length: usize) -> Vec<u8> {
    canary.iter().copied().cycle().take(length).collect()
}

fn stream(from: &Netns, to: &Netns, addr: IpAddr, canary: &[u8]) -> anyhow::Result<u64> {
    // A socket belongs to the namespace it was opened in, whichever thread uses it later.
    let listener = to.run_blocking(|| {
        TcpListener::bind((addr, 0)).with_context(|| format!("listening on {addr}"))
    })?;
    let server = listener.local_addr()?;
    let mut sender = from.run_blocking(|| {
        TcpStream::connect_timeout(&server, PATIENCE).with_context(|| format!("reaching {server}"))
    })?;
    let (mut receiver, _) = listener.accept()?;
    for end in [&sender, &receiver] {
        end.set_read_timeout(Some(PATIENCE))?;
        end.set_write_timeout(Some(PATIENCE))?;
    }
    let payload = filled(canary, STREAM);
    let mut arrived = Vec::with_capacity(STREAM);
    thread::scope(|scope| {
        let send = scope.spawn(|| {
            sender.write_all(&payload)?;
            sender.shutdown(std::net::Shutdown::Write)
        });
        let received = receiver.read_to_end(&mut arrived);
        let sent = send.join();
        received.with_context(|| format!("after {} of {STREAM} bytes", arrived.len()))?;
        sent.unwrap_or_else(|_| Err(std::io::Error::other("the sender panicked")))
            .context("sending")
    })?;
    ensure!(arrived == payload, "{} bytes arrived of {STREAM}, or changed", arrived.len());
    Ok(arrived.len() as u64)
}

fn datagrams(from: &Netns, to: &Netns, addr: IpAddr, canary: &[u8]) -> anyhow::Result<u64> {
    let receiver = to.run_blocking(|| Ok(UdpSocket::bind((addr, 0))?))?;
    let server = receiver.local_addr()?;
    let any: SocketAddr =
        if addr.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let sender = from.run_blocking(|| {
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        Ok(socket)
    })?;
    receiver.set_read_timeout(Some(PATIENCE / ATTEMPTS))?;
    let payload = filled(canary, DATAGRAM);
    let mut buffer = [0; DATAGRAM + 1];
    // One at a time: none is lost for want of room, so few are sent twice.
    for number in 0..DATAGRAMS {
        let mut attempts = 0;
        loop {
            sender.send(&payload)?;
            match receiver.recv(&mut buffer) {
                Ok(DATAGRAM) => break,
                Ok(other) => bail!("a datagram of {DATAGRAM} bytes arrived with {other}"),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e).context("receiving"),
            }
            attempts += 1;
            ensure!(
                attempts < ATTEMPTS,
                "datagram {number} to {server} was sent {ATTEMPTS} times and never arrived"
            );
        }
    }
    Ok(DATAGRAMS)
}

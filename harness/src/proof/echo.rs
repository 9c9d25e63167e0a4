//! A small echo server and clients for it, in namespaces: sockets are opened inside and used from
//! the runtime, so no process has to be started.

use crate::netlink::Netns;
use anyhow::{Context as _, anyhow};
use rand::Rng as _;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
    time::timeout,
};

/// How long one answer may take before the request is sent again.
const PATIENCE: Duration = Duration::from_millis(200);

/// Why traffic did not get through.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// No answer in time.
    #[error("no answer")]
    Silent,
    /// The sender's kernel refuses a datagram of this size (EMSGSIZE).
    #[error("message too long for the path")]
    TooLong,
    /// Anything else.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl From<io::Error> for TrafficError {
    fn from(e: io::Error) -> Self {
        if e.raw_os_error() == Some(libc::EMSGSIZE) {
            return Self::TooLong;
        }
        Self::Other(e.into())
    }
}

/// A server that sends back what it gets, by TCP and UDP on one port, until it is dropped.
pub struct Echo {
    /// Its port.
    pub port: u16,
    _tasks: JoinSet<()>,
}

impl Echo {
    /// Starts a server in a namespace.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub async fn start(netns: &Netns, bind: IpAddr) -> anyhow::Result<Self> {
        let open = move || {
            let tcp = TcpListener::bind((bind, 0)).with_context(|| format!("listen on {bind}"))?;
            let addr = tcp.local_addr()?;
            let udp = UdpSocket::bind(addr).with_context(|| format!("listen on {addr} (UDP)"))?;
            whole_datagrams(&udp, bind)?;
            tcp.set_nonblocking(true)?;
            udp.set_nonblocking(true)?;
            Ok((tcp, udp, addr.port()))
        };
        let (tcp, udp, port) = netns.run(open).await?;
        let tcp = tokio::net::TcpListener::from_std(tcp)?;
        let udp = tokio::net::UdpSocket::from_std(udp)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = tcp.accept().await {
                connections.spawn(async move {
                    let (mut read, mut write) = stream.split();
                    // The client says whether it got back what it sent.
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        tasks.spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            loop {
                // An ICMP error of an earlier answer shows up here; the socket goes on.
                if let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                    let _ = udp.send_to(&buffer[..length], from).await;
                }
            }
        });
        Ok(Self { port, _tasks: tasks })
    }
}

/// Connects from a namespace, sends some bytes and gets them back.
///
/// # Errors
/// When one try, which takes at most [`PATIENCE`], does not work.
pub(super) async fn tcp(from: &Netns, to: SocketAddr) -> Result<(), TrafficError> {
    let connect = move || {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    let mut stream = tokio::net::TcpStream::from_std(from.run(connect).await?)?;
    let sent: [u8; 64] = rand::rng().random();
    let exchange = async {
        stream.write_all(&sent).await?;
        let mut got = [0; 64];
        stream.read_exact(&mut got).await.map(|_| got)
    };
    match timeout(PATIENCE, exchange).await {
        Ok(Ok(got)) if got == sent => Ok(()),
        Ok(Ok(_)) => Err(anyhow!("other bytes came back").into()),
        Ok(Err(e)) => Err(e.into()),
        Err(_) => Err(TrafficError::Silent),
    }
}

/// A UDP client in a namespace, connected to a server.
pub(super) struct Udp {
    socket: tokio::net::UdpSocket,
    number: u64,
    buffer: Vec<u8>,
}

impl Udp {
    pub(super) async fn connect(from: &Netns, to: SocketAddr) -> anyhow::Result<Self> {
        let open = move || {
            let any: IpAddr = if to.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(to).with_context(|| format!("UDP to {to}"))?;
            whole_datagrams(&socket, to.ip())?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = tokio::net::UdpSocket::from_std(from.run(open).await?)?;
        Ok(Self { socket, number: 0, buffer: vec![0; 1 << 16] })
    }

    /// Sends datagrams of `size` bytes until one comes back; returns how many were sent.
    pub(super) async fn exchange(&mut self, size: usize, tries: u32) -> Result<u32, TrafficError> {
        let mut last = TrafficError::Silent;
        for sent in 1..=tries {
            self.number += 1;
            let mut datagram = self.number.to_ne_bytes().to_vec();
            datagram.resize(size.max(datagram.len()), 0x55);
            match self.socket.send(&datagram).await.map_err(TrafficError::from) {
                // The path's MTU became known by an earlier try's ICMP message: that is final.
                Err(TrafficError::TooLong) => return Err(TrafficError::TooLong),
                Err(e) => {
                    last = e;
                    tokio::time::sleep(PATIENCE / 10).await;
                    continue;
                }
                Ok(_) => {}
            }
            match timeout(PATIENCE, self.answer(&datagram)).await {
                Ok(Ok(())) => return Ok(sent),
                Ok(Err(e)) => last = e,
                Err(_) => last = TrafficError::Silent,
            }
        }
        Err(last)
    }

    /// Waits for this very datagram; answers to earlier ones that come late are passed over.
    async fn answer(&mut self, sent: &[u8]) -> Result<(), TrafficError> {
        loop {
            let length = self.socket.recv(&mut self.buffer).await?;
            if self.buffer[..length] == *sent {
                return Ok(());
            }
        }
    }
}

/// Never fragments: a datagram that does not fit the path is refused or lost.
fn whole_datagrams(socket: &UdpSocket, family: IpAddr) -> anyhow::Result<()> {
    let set = match family {
        IpAddr::V4(_) => set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DO),
        IpAddr::V6(_) => set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DO),
    };
    set.context("IP_MTU_DISCOVER")
}

//! A server that sends back what it gets, by TCP and UDP on one port, and counts it by source.

use super::{DATAGRAM, tcp_socket, udp_socket};
use crate::{
    clock,
    error::{Doing, TrialError},
    protocol::EchoCount,
    reins::Reins,
    tcp::BACKLOG,
};
use socket2::{SockRef, Socket};
use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// Connections served at once; more are closed as they come. A probe has a few dozen under way.
const CONNECTIONS: usize = 512;
/// How often a quiet connection is asked whether the server was told to end.
const LOOK: Duration = Duration::from_millis(100);
/// Ports that are free for TCP may be taken for UDP.
const ATTEMPTS: u32 = 10;

/// What came, by source.
#[derive(Debug, Default)]
struct Counts(Mutex<BTreeMap<IpAddr, EchoCount>>);

impl Counts {
    fn add(&self, from: SocketAddr, change: impl FnOnce(&mut EchoCount)) {
        let from = from.ip().to_canonical();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(from).or_insert(EchoCount {
            from,
            datagrams: 0,
            datagram_bytes: 0,
            connections: 0,
            stream_bytes: 0,
        }));
    }

    fn list(self) -> Vec<EchoCount> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
    }
}

/// Serves until it is stopped, which is its good end.
///
/// # Errors
/// When it cannot listen there.
pub(crate) fn echo(
    bind: SocketAddr,
    reins: &Reins,
    listening: &mut dyn FnMut(u16),
) -> Result<Vec<EchoCount>, TrialError> {
    let (tcp, udp, port) = open(bind)?;
    listening(port);
    let counts = Counts::default();
    let busy = AtomicUsize::new(0);
    thread::scope(|scope| {
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let sockets = [&tcp, &*SockRef::from(&udp)];
            let ready = match reins.readable(&sockets, clock::now() + clock::SECOND) {
                Ok(ready) => ready,
                Err(_) if reins.stopped() => return Ok(()),
                Err(e) => {
                    // Its connections look at the reins only.
                    reins.cancel();
                    return Err(e);
                }
            };
            if ready.contains(&1) {
                answer(&udp, &mut buffer, &counts);
            }
            // An accept fails when the client gave up in between, or descriptors are short.
            let accepted = if ready.contains(&0) { tcp.accept().ok() } else { None };
            let Some((stream, Some(from))) = accepted.map(|(s, from)| (s, from.as_socket())) else {
                continue;
            };
            counts.add(from, |c| c.connections += 1);
            if busy.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
                busy.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (counts, busy) = (&counts, &busy);
            let serve = move || {
                // What comes of a connection is the client's to say.
                let _ = reflect(&stream.into(), from, counts, reins);
                busy.fetch_sub(1, Ordering::Relaxed);
            };
            if let Err(e) =
                thread::Builder::new().name("echo".to_owned()).spawn_scoped(scope, serve)
            {
                reins.cancel();
                return Err(TrialError::system("starting a thread for a connection", e));
            }
        }
    })?;
    Ok(counts.list())
}

/// Both listeners on one port.
fn open(bind: SocketAddr) -> Result<(Socket, UdpSocket, u16), TrialError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let tcp = tcp_socket(bind.ip())?;
        // A server that was there a moment ago may have left connections in TIME_WAIT.
        tcp.set_reuse_address(true).doing("setting SO_REUSEADDR")?;
        tcp.bind(&bind.into()).doing(&format!("binding {bind} (TCP)"))?;
        tcp.listen(BACKLOG).doing("listening")?;
        tcp.set_nonblocking(true).doing("making a socket non-blocking")?;
        let address = tcp.local_addr().doing("asking for the port")?.as_socket();
        let port = address.map_or(0, |a| a.port());
        let udp = udp_socket(bind.ip())?;
        let to = SocketAddr::new(bind.ip(), port);
        match udp.bind(&to.into()) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && bind.port() == 0 => {
                // The kernel chose a port that only TCP has free.
                if attempt < ATTEMPTS {
                    continue;
                }
                return Err(e).doing(&format!("binding {to} (UDP)"));
            }
            Err(e) => return Err(e).doing(&format!("binding {to} (UDP)")),
        }
        udp.set_nonblocking(true).doing("making a socket non-blocking")?;
        return Ok((tcp, udp.into(), port));
    }
}

/// Sends back every datagram that waits.
fn answer(udp: &UdpSocket, buffer: &mut [u8], counts: &Counts) {
    // An ICMP error of an earlier answer shows up here too: the socket goes on, at the next turn.
    while let Ok((length, from)) = udp.recv_from(buffer) {
        counts.add(from, |c| {
            c.datagrams += 1;
            c.datagram_bytes += length as u64;
        });
        // The client says whether it got it back.
        let _ = udp.send_to(&buffer[..length], from);
    }
}

/// Sends back what comes over a connection until it ends or the server is stopped.
fn reflect(
    mut stream: &TcpStream,
    from: SocketAddr,
    counts: &Counts,
    reins: &Reins,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LOOK))?;
    stream.set_write_timeout(Some(LOOK))?;
    let mut buffer = vec![0; DATAGRAM];
    while !reins.stopped() {
        let length = match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(e) if is_pause(&e) => continue,
            Err(e) => return Err(e),
        };
        counts.add(from, |c| c.stream_bytes += length as u64);
        let mut rest = &buffer[..length];
        while !rest.is_empty() && !reins.stopped() {
            match stream.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(e) if is_pause(&e) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

fn is_pause(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

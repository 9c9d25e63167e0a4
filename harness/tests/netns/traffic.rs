//! Traffic of known size between two namespaces, and how much of it there was by the counters of the
//! devices and of TCP.

use cnibench::netlink::{Netns, Rtnl};
use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

/// For acknowledgements that are delayed (at most 200 ms, `TCP_DELACK_MAX`) and softirqs behind.
const SETTLE: Duration = Duration::from_millis(400);
const WARM: u64 = 50;
/// Packets that the neighbour protocols may send meanwhile.
pub const NEIGHBOURS: u64 = 20;

/// What one end sent while counting was on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counted {
    /// By the counter of its device.
    pub device_packets: u64,
    /// TCP segments with data, and without, by the sockets.
    pub data_segments: u64,
    pub bare_acks: u64,
}

impl Counted {
    /// The device has sent the payload's packets, TCP's bare acknowledgements, and nearly nothing else.
    pub fn matches_device(&self, payload: u64, told: &str) {
        let known = payload + self.bare_acks;
        let all = known..=known + NEIGHBOURS;
        assert!(all.contains(&self.device_packets), "{known} packets; {told}");
    }

    fn since(self, before: Self) -> Self {
        Self {
            device_packets: self.device_packets - before.device_packets,
            data_segments: self.data_segments - before.data_segments,
            bare_acks: self.bare_acks - before.bare_acks,
        }
    }
}

/// What was really sent.
#[derive(Debug)]
pub struct Known {
    pub client: Counted,
    pub server: Counted,
    /// How long the client took.
    pub spent: Duration,
    /// How long threads of process 1 ran meanwhile.
    pub init_ran: Duration,
}

/// How long the threads of process 1 have run (the first number of proc_pid_schedstat), interrupts in them
/// included.
fn init_ran() -> Duration {
    let threads = std::fs::read_dir("/proc/1/task").unwrap().flatten();
    let ran = |thread: std::fs::DirEntry| -> Option<u64> {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    Duration::from_nanos(threads.filter_map(ran).sum())
}

/// `tcpi_segs_out` and `tcpi_data_segs_out` of `struct tcp_info` (include/uapi/linux/tcp.h).
fn segments(socket: &TcpStream) -> (u64, u64) {
    let word = tcp_info(socket);
    (word(136).into(), word(156).into())
}

/// `tcpi_total_retrans`: segments that a socket has sent again.
pub fn total_retransmits(socket: &TcpStream) -> u64 {
    tcp_info(socket)(100).into()
}

/// The 32-bit fields of `struct tcp_info`, by offset.
fn tcp_info(socket: &TcpStream) -> impl Fn(usize) -> u32 + use<> {
    let mut info = [0u8; 232];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into the buffer of that length.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    assert!(status == 0 && length >= 160, "{}", std::io::Error::last_os_error());
    move |at| u32::from_ne_bytes(info[at..at + 4].try_into().unwrap())
}

fn counted(netns: &Netns, sockets: &[TcpStream]) -> Counted {
    let device = netns.run_blocking(|| Ok(Rtnl::open()?.link("eth0")?.counters)).unwrap();
    let of_sockets = sockets.iter().map(segments);
    let (all, data) = of_sockets.fold((0, 0), |sum, s| (sum.0 + s.0, sum.1 + s.1));
    Counted { device_packets: device.tx_packets, data_segments: data, bare_acks: all - data }
}

pub fn connected(client: &Netns, server: &Netns, addr: IpAddr) -> (TcpStream, TcpStream) {
    let listener = server.run_blocking(|| Ok(TcpListener::bind((addr, 0))?)).unwrap();
    let at = listener.local_addr().unwrap();
    let one = client.run_blocking(|| Ok(TcpStream::connect(at)?)).unwrap();
    let (two, _) = listener.accept().unwrap();
    for end in [&one, &two] {
        end.set_nodelay(true).unwrap();
        end.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        end.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    (one, two)
}

/// One byte there and one back, so many times; counting is on around exactly these.
pub fn ping_pong(
    client: &Netns,
    server: &Netns,
    addr: IpAddr,
    times: u64,
    mut counting: impl FnMut(bool),
) -> Known {
    let (one, two) = connected(client, server, addr);
    let (ready, go) = (Barrier::new(2), Barrier::new(2));
    let exchange = |mut socket: &TcpStream| {
        socket.write_all(b"a")?;
        socket.read_exact(&mut [0])
    };
    thread::scope(|scope| {
        let answering = scope.spawn(|| {
            server.run_blocking(|| {
                let mut socket = &two;
                for _ in 0..WARM + times {
                    socket.read_exact(&mut [0])?;
                    socket.write_all(b"b")?;
                }
                Ok(())
            })
        });
        let asking = scope.spawn(|| {
            client.run_blocking(|| {
                (0..WARM).try_for_each(|_| exchange(&one))?;
                ready.wait();
                go.wait();
                let begun = Instant::now();
                (0..times).try_for_each(|_| exchange(&one))?;
                Ok(begun.elapsed())
            })
        });
        ready.wait();
        thread::sleep(SETTLE);
        let ends = || {
            (
                counted(client, std::slice::from_ref(&one)),
                counted(server, std::slice::from_ref(&two)),
            )
        };
        let (before, init) = (ends(), init_ran());
        counting(true);
        go.wait();
        let spent = asking.join().unwrap().unwrap();
        answering.join().unwrap().unwrap();
        thread::sleep(SETTLE);
        counting(false);
        let after = ends();
        let (client, server) = (after.0.since(before.0), after.1.since(before.1));
        Known { client, server, spent, init_ran: init_ran() - init }
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    Tcp,
    Udp,
}

const FLOWS: usize = 64;
const FLOOD_FOR: Duration = Duration::from_secs(2);

/// From the client to the server as fast as it goes, in 64 flows; they are open when counting ends.
pub fn flood(
    client: &Netns,
    server: &Netns,
    addr: IpAddr,
    what: Flood,
    mut counting: impl FnMut(bool),
) -> Known {
    let (ones, twos): (Vec<_>, Vec<_>) = match what {
        Flood::Tcp => (0..FLOWS).map(|_| connected(client, server, addr)).unzip(),
        Flood::Udp => (Vec::new(), Vec::new()),
    };
    // The neighbours know each other after this.
    drop(connected(client, server, addr));
    thread::sleep(SETTLE);
    let (before, init) = ((counted(client, &ones), counted(server, &twos)), init_ran());
    counting(true);
    match what {
        Flood::Tcp => tcp(client, server, &ones, &twos),
        Flood::Udp => udp(client, server, addr),
    }
    thread::sleep(SETTLE);
    counting(false);
    let after = (counted(client, &ones), counted(server, &twos));
    let (client, server) = (after.0.since(before.0), after.1.since(before.1));
    Known { client, server, spent: FLOOD_FOR, init_ran: init_ran() - init }
}

fn tcp(client: &Netns, server: &Netns, ones: &[TcpStream], twos: &[TcpStream]) {
    thread::scope(|scope| {
        for (mut one, mut two) in ones.iter().zip(twos) {
            let (tell, told) = std::sync::mpsc::channel();
            scope.spawn(move || {
                client.run_blocking(|| {
                    let (end, mut sent) = (Instant::now() + FLOOD_FOR, 0);
                    while Instant::now() < end {
                        sent += one.write(&[1; 65_536])?;
                    }
                    Ok(tell.send(sent)?)
                })
            });
            scope.spawn(move || {
                server.run_blocking(move || {
                    let (mut got, mut all, mut buffer) = (0, None, vec![0; 65_536]);
                    while all != Some(got) {
                        // Looks up now and then, since only the sender knows when it ends.
                        two.set_read_timeout(Some(Duration::from_millis(100)))?;
                        got += two.read(&mut buffer).unwrap_or(0);
                        all = all.or(told.try_recv().ok());
                    }
                    Ok(())
                })
            });
        }
    });
}

fn udp(client: &Netns, server: &Netns, addr: IpAddr) {
    thread::scope(|scope| {
        for _ in 0..FLOWS {
            let two = server.run_blocking(|| Ok(UdpSocket::bind((addr, 0))?)).unwrap();
            let to = two.local_addr().unwrap();
            let one = client.run_blocking(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
            scope.spawn(move || {
                client.run_blocking(|| {
                    let end = Instant::now() + FLOOD_FOR;
                    while Instant::now() < end {
                        // Where its queue is full the socket may refuse (ENOBUFS): nothing was sent.
                        let _ = one.send_to(&[1; 1000], to);
                    }
                    Ok(())
                })
            });
            scope.spawn(move || {
                server.run_blocking(|| {
                    two.set_read_timeout(Some(Duration::from_millis(300)))?;
                    let (end, mut buffer) = (Instant::now() + FLOOD_FOR, [0; 2000]);
                    while two.recv(&mut buffer).is_ok() || Instant::now() < end {}
                    Ok(())
                })
            });
        }
    });
}

//! A packet socket that sees every frame entering any device of a network namespace, or one of them.
//!
//! Owns the socket and its options (packet(7)); `packet_ring` has the frames. What they mean is
//! `sniffer`'s.

use super::packet_ring::{Ring, Turn};
use anyhow::Context;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd as _, AsRawFd, OwnedFd},
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with, sockopt,
    },
};
use std::{io, num::NonZeroU32, time::Duration};

/// Room for frames that wait to be read and are larger than those of a wire, in bytes.
const BUFFER: usize = 32 << 20;

/// A packet socket; belongs to the namespace of the thread that opened it.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    ring: Ring,
}

/// What the kernel counted since the last question.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames that were seen, lost ones included.
    pub seen: u32,
    /// Frames lost for want of room.
    pub lost: u32,
}

impl PacketSocket {
    /// Opens one in the calling thread's namespace. Frames that leave a device are not seen: on a
    /// bridge each has entered by another port before, so every frame is seen once.
    ///
    /// # Errors
    /// The system call's; EPERM without CAP_NET_RAW in the namespace.
    pub fn open() -> anyhow::Result<Self> {
        // The protocol is in network order (packet(7)); not zero.
        let all = NonZeroU32::new(u32::from((libc::ETH_P_ALL as u16).to_be()));
        Self::with(all.map(Protocol::from_raw))
    }

    /// Opens one that sees only what enters this device (by its index).
    ///
    /// # Errors
    /// As [`PacketSocket::open`]; also when there is no such device.
    pub fn open_on(device: u32) -> anyhow::Result<Self> {
        // Without a protocol it hears nothing until it is bound (packet_create in
        // net/packet/af_packet.c): no frame of another device gets in.
        let socket = Self::with(None)?;
        socket
            .bind(device)
            .with_context(|| format!("binding a packet socket to device {device}"))?;
        Ok(socket)
    }

    fn with(protocol: Option<Protocol>) -> anyhow::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, protocol)
            .context("opening a packet socket (needs CAP_NET_RAW)")?;
        // Without CAP_NET_ADMIN over the machine the limit net.core.rmem_max holds.
        if sockopt::set_socket_recv_buffer_size_force(&fd, BUFFER).is_err() {
            sockopt::set_socket_recv_buffer_size(&fd, BUFFER).context("SO_RCVBUF")?;
        }
        let ring = Ring::of(fd.as_fd()).context("PACKET_RX_RING")?;
        let socket = Self { fd, ring };
        socket.ignore_outgoing().context("PACKET_IGNORE_OUTGOING (Linux 4.20)")?;
        Ok(socket)
    }

    fn bind(&self, device: u32) -> io::Result<()> {
        // SAFETY: an all-zero sockaddr_ll is a valid value of that plain C struct.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = i32::try_from(device).map_err(io::Error::other)?;
        // SAFETY: the kernel reads a sockaddr_ll, for which pointer and length are those of `address`.
        let result = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Takes the next frame. Gives its true length, which is more than the buffer's when it did not
    /// fit; none when no frame waits.
    ///
    /// # Errors
    /// The system call's.
    pub fn next(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.ring.take(buffer) {
            Turn::Frame(length) => return Ok(Some(length)),
            Turn::Empty => return Ok(None),
            Turn::Queued => {}
        }
        loop {
            match recv(&self.fd, &mut *buffer, RecvFlags::TRUNC) {
                Ok((_, length)) => return Ok(Some(length)),
                Err(Errno::AGAIN) => return Ok(None),
                // A device went down; the socket stays usable.
                Err(Errno::INTR | Errno::NETDOWN) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits for a frame, at most this long.
    ///
    /// # Errors
    /// The system call's.
    pub fn wait(&self, most: Duration) -> io::Result<()> {
        let timeout = Timespec { tv_sec: 0, tv_nsec: most.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn ignore_outgoing(&self) -> io::Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the kernel reads an int, for which pointer and length are those of `on`.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_IGNORE_OUTGOING,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Asks what was seen and lost; resets both.
    ///
    /// # Errors
    /// The system call's.
    pub fn statistics(&self) -> io::Result<Statistics> {
        // struct tpacket_stats: tp_packets, tp_drops (linux/if_packet.h).
        let mut stats = [0u32; 2];
        let mut length = size_of_val(&stats) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes, which is the size of `stats`.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Statistics { seen: stats[0], lost: stats[1] })
    }
}

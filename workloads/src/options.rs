//! Socket options: set from the task on every socket, and read back as the kernel has them.
//!
//! Knows options only; when sockets are made and used is the business of the workloads.

use crate::{
    error::{Doing, TrialError},
    protocol::Task,
    sys,
};
use cnibench_model::WorkloadParams;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, SocketAddr},
};

/// Kernel's list of congestion controls that can be used, and of those that need no privilege.
const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// The key under which a TCP_INFO map carries the segments sent again inside the window.
pub(crate) const RETRANS_IN_WINDOW: &str = "retrans_in_window";
/// The key under which the options carry datagrams dropped because the receive buffer was full.
pub(crate) const BUFFER_DROPS: &str = "receive_buffer_drops";

/// A TCP socket with everything that the task asks for.
pub(crate) fn tcp(ip: IpAddr, p: &WorkloadParams) -> Result<Socket, TrialError> {
    let socket =
        Socket::new(Domain::for_address(SocketAddr::new(ip, 0)), Type::STREAM, Some(Protocol::TCP))
            .doing("making a TCP socket")?;
    socket.set_tcp_nodelay(p.nodelay).doing("setting TCP_NODELAY")?;
    congestion_control(&socket, &p.congestion_control)?;
    if let Some(mss) = p.mss {
        socket.set_tcp_mss(mss.into()).doing("setting TCP_MAXSEG")?;
    }
    buffers(&socket, p)?;
    Ok(socket)
}

/// A UDP socket with everything that the task asks for, neither bound nor connected.
pub(crate) fn udp(ip: IpAddr, p: &WorkloadParams) -> Result<Socket, TrialError> {
    let socket =
        Socket::new(Domain::for_address(SocketAddr::new(ip, 0)), Type::DGRAM, Some(Protocol::UDP))
            .doing("making a UDP socket")?;
    buffers(&socket, p)?;
    Ok(socket)
}

fn congestion_control(socket: &Socket, name: &str) -> Result<(), TrialError> {
    let Err(error) = socket.set_tcp_congestion(name.as_bytes()) else { return Ok(()) };
    let list = |path| {
        fs::read_to_string(path).map_or_else(|_| "?".to_owned(), |s| s.trim().replace(' ', ", "))
    };
    Err(TrialError::BadTask(match error.kind() {
        io::ErrorKind::NotFound => {
            format!("congestion_control: this kernel has no {name:?}; it has {}", list(AVAILABLE))
        }
        io::ErrorKind::PermissionDenied => format!(
            "congestion_control: {name:?} needs CAP_NET_ADMIN here (`run --privileged` gives it to pods); without it a suite may ask for {}",
            list(ALLOWED)
        ),
        _ => format!("congestion_control: {name:?} cannot be set: {error}"),
    }))
}

fn buffers(socket: &Socket, p: &WorkloadParams) -> Result<(), TrialError> {
    // Forced first: that goes beyond net.core.wmem_max and rmem_max, but takes CAP_NET_ADMIN in the
    // initial user namespace (net/core/sock.c, sk_setsockopt), which an unprivileged run has not.
    if let Some(bytes) = p.send_buffer
        && sys::force_send_buffer(socket, bytes).is_err()
    {
        socket.set_send_buffer_size(bytes as usize).doing("setting SO_SNDBUF")?;
    }
    if let Some(bytes) = p.receive_buffer
        && sys::force_receive_buffer(socket, bytes).is_err()
    {
        socket.set_recv_buffer_size(bytes as usize).doing("setting SO_RCVBUF")?;
    }
    Ok(())
}

/// Warnings about buffers that the kernel did not grant.
pub(crate) fn buffer_warnings(socket: &Socket, p: &WorkloadParams) -> Vec<String> {
    [
        shortfall("send_buffer", "wmem_max", p.send_buffer, socket.send_buffer_size()),
        shortfall("receive_buffer", "rmem_max", p.receive_buffer, socket.recv_buffer_size()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Without figures: reports count equal warnings, and what was granted is among the flow's options.
fn shortfall(
    name: &str,
    sysctl: &str,
    asked: Option<u64>,
    real: io::Result<usize>,
) -> Option<String> {
    // The kernel doubles what is asked for its own bookkeeping (socket(7)).
    ((real.ok()? as u64) < asked? * 2).then(|| {
        format!(
            "{name}: the kernel granted less than was asked for: raise net.core.{sysctl}, or run as \
             root of the initial user namespace"
        )
    })
}

/// What the kernel says of a flow's socket. Buffer sizes are the kernel's own numbers: twice what
/// was asked, or what autotuning has reached.
pub(crate) fn read_back(socket: &Socket, task: &Task) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            out.insert(name.to_owned(), value);
        }
    };
    put("send_buffer", socket.send_buffer_size().ok().map(|v| v.to_string()));
    put("receive_buffer", socket.recv_buffer_size().ok().map(|v| v.to_string()));
    if task.workload.is_tcp() {
        put("mss", socket.tcp_mss().ok().map(|v| v.to_string()));
        put("nodelay", socket.tcp_nodelay().ok().map(|v| v.to_string()));
        put(
            "congestion_control",
            socket.tcp_congestion().ok().map(|name| {
                String::from_utf8_lossy(name.split(|&b| b == 0).next().unwrap_or_default())
                    .into_owned()
            }),
        );
    } else {
        put("udp_segment", sys::udp_segment(socket).ok().map(|v| v.to_string()));
        put("udp_gro", sys::udp_gro(socket).ok().map(|v| v.to_string()));
        put(BUFFER_DROPS, sys::receive_drops(socket).ok().map(|v| v.to_string()));
    }
    out
}

/// Turns UDP_SEGMENT and UDP_GRO on for `udp_stream`, where the task asks for them.
pub(crate) fn offload(socket: &Socket, p: &WorkloadParams) -> Result<(), TrialError> {
    if !p.gso {
        return Ok(());
    }
    let refused = |name: &str, e: &io::Error| {
        TrialError::BadTask(format!("gso: this kernel refuses {name} ({e}); set gso = false"))
    };
    // The largest payload of IPv6, 65,527 bytes, still fits.
    let size = u16::try_from(p.size).unwrap_or(u16::MAX);
    sys::set_udp_segment(socket, size).map_err(|e| refused("UDP_SEGMENT", &e))?;
    sys::set_udp_gro(socket).map_err(|e| refused("UDP_GRO", &e))
}

/// A port that was asked for may still have connections of the last trial in TIME_WAIT.
pub(crate) fn reuse(socket: &Socket, address: SocketAddr) -> Result<(), TrialError> {
    if address.port() == 0 {
        return Ok(());
    }
    socket.set_reuse_address(true).doing("setting SO_REUSEADDR")
}

/// Binds to `address`; a wrong address is the task's fault.
pub(crate) fn bind(socket: &Socket, address: SocketAddr) -> Result<(), TrialError> {
    socket.bind(&SockAddr::from(address)).map_err(|e| match e.kind() {
        io::ErrorKind::AddrNotAvailable => TrialError::BadTask(format!(
            "bind: {} is no address of this network namespace",
            address.ip()
        )),
        _ => TrialError::system(format!("binding to {address}"), e),
    })
}

/// The address that the kernel gave a bound socket.
pub(crate) fn local_address(socket: &Socket) -> Result<SocketAddr, TrialError> {
    let address = socket.local_addr().doing("reading the bound address")?;
    address.as_socket().ok_or_else(|| {
        TrialError::system("reading the bound address", io::Error::from(io::ErrorKind::InvalidData))
    })
}

/// Fields of `struct tcp_info` (include/uapi/linux/tcp.h), which only ever grows at its end: name,
/// byte offset, width.
const TCP_INFO: &[(&str, usize, usize)] = &[
    ("state", 0, 1),
    ("ca_state", 1, 1),
    ("rto", 8, 4),
    ("snd_mss", 16, 4),
    ("rcv_mss", 20, 4),
    ("unacked", 24, 4),
    ("sacked", 28, 4),
    ("lost", 32, 4),
    ("retrans", 36, 4),
    ("pmtu", 60, 4),
    ("rtt", 68, 4),
    ("rttvar", 72, 4),
    ("snd_ssthresh", 76, 4),
    ("snd_cwnd", 80, 4),
    ("advmss", 84, 4),
    ("reordering", 88, 4),
    ("rcv_rtt", 92, 4),
    ("rcv_space", 96, 4),
    (TOTAL_RETRANS, 100, 4),
    ("pacing_rate", 104, 8),
    ("bytes_acked", 120, 8),
    ("bytes_received", 128, 8),
    ("segs_out", 136, 4),
    ("segs_in", 140, 4),
    ("notsent_bytes", 144, 4),
    ("min_rtt", 148, 4),
    ("delivery_rate", 160, 8),
    ("busy_time", 168, 8),
    ("rwnd_limited", 176, 8),
    ("sndbuf_limited", 184, 8),
    ("delivered", 192, 4),
    ("delivered_ce", 196, 4),
    ("bytes_sent", 200, 8),
    ("bytes_retrans", 208, 8),
    ("dsack_dups", 216, 4),
    ("reord_seen", 220, 4),
];

/// All segments ever sent again on a connection.
pub(crate) const TOTAL_RETRANS: &str = "total_retrans";

/// TCP_INFO as names and values; times in µs, rates in bytes/s. Fields that this kernel does not
/// have are missing.
pub(crate) fn tcp_info(socket: &Socket) -> io::Result<BTreeMap<String, u64>> {
    let bytes = sys::tcp_info(socket)?;
    Ok(TCP_INFO
        .iter()
        .filter_map(|&(name, at, width)| {
            let mut wide = [0u8; 8];
            wide.get_mut(..width)?.copy_from_slice(bytes.get(at..at + width)?);
            // The kernel's byte order is the host's; the bytes were put at the low end.
            let value = if cfg!(target_endian = "little") {
                u64::from_le_bytes(wide)
            } else {
                u64::from_be_bytes(wide) >> (64 - 8 * width)
            };
            Some((name.to_owned(), value))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_less_than_was_asked_for_is_warned_about() {
        let told = |asked, real| shortfall("receive_buffer", "rmem_max", asked, Ok(real));
        assert!(told(Some(1_000), 1_999).unwrap().contains("net.core.rmem_max"));
        assert_eq!(told(Some(1_000), 2_000), None);
        // The kernel has a least size of its own.
        assert_eq!(told(Some(1), 2_304), None);
        assert_eq!(told(None, 7), None);
    }
}

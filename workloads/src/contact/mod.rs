//! The small traffic of proofs: does it get through, how much of it, since when not?
//!
//! Owns an echo server that counts by source, a probe that tells changes as they happen, and a
//! volley of which every datagram and connection is counted. Nothing here measures speed (that is
//! a trial) and nothing judges. Called by the agent.

mod echo;
mod probe;
mod send;

pub(crate) use echo::echo;
pub use probe::LOST;
pub(crate) use probe::{Plan, probe};
pub(crate) use send::send;

use crate::error::{Doing, TrialError};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, SocketAddr};

/// Room for the largest datagram there is.
const DATAGRAM: usize = 1 << 16;

fn tcp_socket(family: IpAddr) -> Result<Socket, TrialError> {
    Socket::new(domain(family), Type::STREAM, Some(Protocol::TCP)).doing("making a TCP socket")
}

/// A UDP socket whose datagrams are never fragmented: those that do not fit are refused or lost.
fn udp_socket(family: IpAddr) -> Result<Socket, TrialError> {
    let socket = Socket::new(domain(family), Type::DGRAM, Some(Protocol::UDP))
        .doing("making a UDP socket")?;
    match family {
        IpAddr::V4(_) => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO),
        IpAddr::V6(_) => set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO),
    }
    .doing("setting IP_MTU_DISCOVER")?;
    Ok(socket)
}

fn domain(family: IpAddr) -> Domain {
    Domain::for_address(SocketAddr::new(family, 0))
}

fn within(name: &str, value: u32, low: u32, high: u32) -> Result<(), TrialError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(TrialError::BadTask(format!("{name}: {value} is outside {low}..={high}")))
}

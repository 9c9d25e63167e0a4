//! The network interfaces of the place that an agent runs in: names, MTUs, addresses, default route.
//!
//! Asked of the kernel by sockets and /proc, not of /sys: a sysfs shows the devices of the namespace
//! that it was mounted in, which need not be the agent's. Called for the agent's `Hello`.

use crate::{protocol::Interface, sys};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, UdpSocket},
};

/// Every interface but the loopback that is up and has an address beyond its link, or that the
/// default route leads over; those with the default route first.
pub(crate) fn list() -> io::Result<Vec<Interface>> {
    let defaults = default_routes();
    let mut addrs: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    for entry in sys::interface_addresses()? {
        let up = entry.flags & libc::IFF_UP as u32 != 0;
        if !up || entry.flags & libc::IFF_LOOPBACK as u32 != 0 {
            continue;
        }
        let known = addrs.entry(entry.name).or_default();
        known.extend(entry.addr.filter(|addr| !is_link_local(*addr)));
    }
    addrs.retain(|name, addrs| !addrs.is_empty() || defaults.contains(name));
    // Any socket will do: it names the namespace.
    let socket = UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("[::1]:0"))?;
    let mut all = Vec::new();
    for (name, addrs) in addrs {
        // It may have gone since.
        let Ok(mtu) = sys::interface_mtu(&socket, &name) else { continue };
        let default_route = defaults.contains(&name);
        all.push(Interface { name, mtu, addrs: addrs.into_iter().collect(), default_route });
    }
    all.sort_by_key(|i| !i.default_route);
    Ok(all)
}

fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Names of the interfaces that default routes lead over. The files are those of the calling
/// thread's namespace; one that is missing has no routes.
fn default_routes() -> BTreeSet<String> {
    let read = |file: &str| {
        fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default()
    };
    let (v4, v6) = (read("route"), read("ipv6_route"));
    v4.lines()
        .filter_map(default_v4)
        .chain(v6.lines().filter_map(default_v6))
        .map(str::to_owned)
        .collect()
}

/// Device of a line of /proc/net/route, if it is the default route (net/ipv4/fib_trie.c,
/// fib_route_seq_show): Iface, Destination, Gateway, Flags, RefCnt, Use, Metric, Mask, ...
fn default_v4(line: &str) -> Option<&str> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let &[device, "00000000", _, _, _, _, _, "00000000", ..] = fields.as_slice() else {
        return None;
    };
    Some(device)
}

/// Device of a line of /proc/net/ipv6_route, if it is the default route (net/ipv6/route.c,
/// ipv6_route_native_seq_show): destination, its length, source, its length, ..., device. A kernel
/// without one has a rejecting default route over the loopback.
fn default_v6(line: &str) -> Option<&str> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (&destination, &length) = (fields.first()?, fields.get(1)?);
    let device = *fields.get(9)?;
    let any = destination.len() == 32 && destination.bytes().all(|b| b == b'0');
    (any && length == "00" && device != "lo").then_some(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_told_from_others() {
        let v4 = "eth0\t00000000\t0104A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0";
        assert_eq!(default_v4(v4), Some("eth0"));
        for other in [
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT",
            "eth0\t0004A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0",
            // 0.0.0.0/1 is no default route.
            "tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0",
            "eth0",
            "",
        ] {
            assert_eq!(default_v4(other), None, "{other:?}");
        }
        let any = "0".repeat(32);
        let v6 = |dest: &str, length: &str, device: &str| {
            format!(
                "{dest} {length} {any} 00 fe800000000000000000000000000001 00000400 00000001 \
                 00000000 00000003 {device}"
            )
        };
        assert_eq!(default_v6(&v6(&any, "00", "eth0")), Some("eth0"));
        assert_eq!(default_v6(&v6(&any, "00", "lo")), None);
        assert_eq!(default_v6(&v6(&any, "01", "eth0")), None);
        assert_eq!(default_v6(&v6("fd000000000000000000000000000000", "00", "eth0")), None);
        assert_eq!(default_v6(""), None);
    }

    #[test]
    fn what_the_kernel_lists_is_up_and_has_an_mtu() {
        for interface in list().unwrap() {
            assert!(interface.mtu >= 68, "{interface:?}");
            assert!(interface.default_route || !interface.addrs.is_empty(), "{interface:?}");
            assert_ne!(interface.name, "lo");
        }
    }
}

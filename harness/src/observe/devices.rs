//! The devices of the namespace that the observer runs in, asked of the kernel by netlink: a sysfs
//! shows those of the namespace that it was mounted in.

use super::protocol::{Device, Which};
use crate::netlink::{Link, Rtnl};
use anyhow::Context as _;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use std::net::IpAddr;

/// All of them.
pub(super) fn list() -> anyhow::Result<Vec<Device>> {
    let mut rtnl = Rtnl::open()?;
    let addrs = addresses(&mut rtnl)?;
    let device = |link: Link| Device {
        addrs: addrs.iter().filter(|(index, _)| *index == link.index).map(|(_, a)| *a).collect(),
        name: link.name,
        kind: link.kind,
        mtu: link.mtu,
        counters: link.counters,
    };
    Ok(rtnl.links()?.into_iter().map(device).collect())
}

/// The one that is meant.
pub(super) fn find(which: &Which) -> anyhow::Result<Link> {
    let mut rtnl = Rtnl::open()?;
    let links = rtnl.links()?;
    let index = match which {
        Which::Named(name) => links.iter().find(|l| l.name == *name).map(|l| l.index),
        Which::WithAddress(addr) => {
            let addrs = addresses(&mut rtnl)?;
            addrs.iter().find(|(_, a)| a == addr).map(|(index, _)| *index)
        }
    };
    let found = links.into_iter().find(|l| Some(l.index) == index);
    found.with_context(|| {
        format!(
            "this node has not {which}: is the observer in the node's own network (hostNetwork)?"
        )
    })
}

/// Has a device of this thread's namespace this address?
pub(super) fn has_address(addr: IpAddr) -> anyhow::Result<bool> {
    Ok(addresses(&mut Rtnl::open()?)?.iter().any(|(_, a)| *a == addr))
}

fn addresses(rtnl: &mut Rtnl) -> anyhow::Result<Vec<(u32, IpAddr)>> {
    Ok(rtnl.addresses()?.iter().filter_map(|m| Some((m.header.index, address(m)?))).collect())
}

/// Its own address: IFA_LOCAL, which only IPv4 has; IFA_ADDRESS is the other end's on a point-to-point
/// link (rtnetlink(7)).
fn address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(addr) => Some(*addr),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(addr) => Some(*addr),
            _ => None,
        })
    })
}

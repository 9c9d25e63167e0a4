//! What latency probes are told of a node: its network namespace, that of a pod on it, their devices.
//! A pod is found by its address, in the namespaces of the processes that this observer sees (hostPID).

use super::{
    devices,
    protocol::{Station, Which},
};
use crate::{
    netlink::{Link, Rtnl},
    probe::{
        netns::{Stands, role},
        spaces::World,
    },
};
use anyhow::{Context as _, bail};
use cnibench_probes::stages::Device;
use std::{net::IpAddr, os::unix::fs::MetadataExt as _};

/// This node, and the pod with an address.
pub(super) fn look(pod: Option<IpAddr>, node: IpAddr) -> anyhow::Result<Station> {
    let own = std::fs::metadata("/proc/self/ns/net").context("the node's network namespace")?.ino();
    let underlay = devices::find(&Which::WithAddress(node))?.name;
    let node_stands = Stands::Node { underlay: Some(underlay) };
    let mut devices = of(number(own)?, Rtnl::open()?.links()?, &node_stands);
    let Some(addr) = pod else {
        return Ok(Station { node: number(own)?, pod: None, devices });
    };
    for space in World::read().spaces {
        if space.inode == own {
            continue;
        }
        // A process may have ended since.
        let Ok(netns) = space.open() else { continue };
        let looked = netns.run_blocking(move || {
            let here = devices::has_address(addr)?;
            Ok(if here { Some(Rtnl::open()?.links()?) } else { None })
        });
        if let Ok(Some(links)) = looked {
            let inode = number(space.inode)?;
            devices.extend(of(inode, links, &Stands::Pod));
            return Ok(Station { node: number(own)?, pod: Some(inode), devices });
        }
    }
    bail!(
        "no process that is seen on this node is in a pod with address {addr}: is the observer in the node's PID namespace (hostPID)?"
    )
}

fn of(netns: u32, links: Vec<Link>, stands: &Stands) -> Vec<Device> {
    let device =
        |link: Link| role(&link, stands).map(|role| Device { netns, ifindex: link.index, role });
    links.into_iter().filter_map(device).collect()
}

fn number(inode: u64) -> anyhow::Result<u32> {
    u32::try_from(inode).context("an inode of a namespace beyond 32 bits")
}

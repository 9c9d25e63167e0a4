//! Which namespaces and devices are on the way between two ends that are namespaces of this kernel.

use crate::netlink::{Netns, Rtnl, rtnl::Link};
use anyhow::Context as _;
use cnibench_probes::stages::{Device, Scene, layout::Role};
use std::os::fd::AsFd as _;

/// A namespace on the way, and what it is.
#[derive(Debug, Clone)]
pub struct Station {
    /// The namespace.
    pub netns: Netns,
    /// For people, where drops are told: "client's node".
    pub what: &'static str,
    /// What stands in it.
    pub stands: Stands,
}

/// What a namespace is to the packets between two ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stands {
    /// Of a pod.
    Pod,
    /// Of a node.
    Node {
        /// Its device towards other nodes, where it has one.
        underlay: Option<String>,
    },
}

/// A device that packets may meet, with its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// Whose it is, as in [`Station::what`].
    pub what: &'static str,
    /// The name of its namespace.
    pub netns: String,
    /// Its own name.
    pub device: String,
    /// What it is.
    pub role: Role,
}

/// What is observed between `client` and `server` over the other stations. Blocks no caller.
///
/// # Errors
/// A namespace cannot be looked into.
pub async fn scene(
    client: Station,
    server: Station,
    others: Vec<Station>,
) -> anyhow::Result<Scene> {
    Ok(look(client, server, others).await?.0)
}

/// The same, with the names of all devices in it.
///
/// # Errors
/// A namespace cannot be looked into.
pub async fn look(
    client: Station,
    server: Station,
    others: Vec<Station>,
) -> anyhow::Result<(Scene, Vec<Sight>)> {
    let mut scene = Scene { client: inode(&client)?, server: inode(&server)?, ..Scene::default() };
    let mut sights = Vec::new();
    for (index, station) in [client, server].into_iter().chain(others).enumerate() {
        let netns = inode(&station)?;
        if index >= 2 {
            if netns == scene.client || netns == scene.server {
                continue;
            }
            scene.others.push((netns, station.what.to_owned()));
        }
        let links = station.netns.run(|| Rtnl::open()?.links()).await;
        let links = links.with_context(|| format!("the devices of the {}", station.what))?;
        for link in links {
            let Some(role) = role(&link, &station.stands) else { continue };
            scene.devices.push(Device { netns, ifindex: link.index, role });
            let name = station.netns.name().to_owned();
            sights.push(Sight { what: station.what, netns: name, device: link.name, role });
        }
    }
    Ok((scene, sights))
}

/// What a device is; none: packets between nodes and pods do not pass it.
pub(crate) fn role(link: &Link, stands: &Stands) -> Option<Role> {
    if link.name == "lo" {
        return None;
    }
    Some(match (stands, link.kind.as_str()) {
        (Stands::Pod, _) => Role::Pod,
        (Stands::Node { underlay: Some(underlay) }, _) if link.name == *underlay => Role::Underlay,
        (Stands::Node { .. }, "bridge") => Role::Bridge,
        (Stands::Node { .. }, "veth" | "netkit") => Role::Port,
        (Stands::Node { .. }, _) => Role::Tunnel,
    })
}

fn inode(station: &Station) -> anyhow::Result<u32> {
    let stat = rustix::fs::fstat(station.netns.fd().as_fd())
        .with_context(|| format!("the namespace of the {}", station.what))?;
    u32::try_from(stat.st_ino).context("an inode of a namespace beyond 32 bits")
}

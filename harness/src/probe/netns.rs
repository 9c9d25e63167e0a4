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
    /// The node's device towards other nodes; none: a pod's namespace.
    pub underlay: Option<String>,
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
    let mut scene = Scene { client: inode(&client)?, server: inode(&server)?, ..Scene::default() };
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
        let of = links.iter().filter_map(|link| {
            let role = role(link, station.underlay.as_deref())?;
            Some(Device { netns, ifindex: link.index, role })
        });
        scene.devices.extend(of);
    }
    Ok(scene)
}

/// What a device is; none: packets between nodes and pods do not pass it.
fn role(link: &Link, underlay: Option<&str>) -> Option<Role> {
    if link.name == "lo" {
        return None;
    }
    Some(match (underlay, link.kind.as_str()) {
        (None, _) => Role::Pod,
        (Some(underlay), _) if link.name == underlay => Role::Underlay,
        (Some(_), "bridge") => Role::Bridge,
        (Some(_), "veth" | "netkit") => Role::Port,
        (Some(_), _) => Role::Tunnel,
    })
}

fn inode(station: &Station) -> anyhow::Result<u32> {
    let stat = rustix::fs::fstat(station.netns.fd().as_fd())
        .with_context(|| format!("the namespace of the {}", station.what))?;
    u32::try_from(stat.st_ino).context("an inode of a namespace beyond 32 bits")
}

//! What `ebpf-vxlan` adds to a node: the tunnel's device, and the way of the node itself into it.
//!
//! One vxlan device in collect-metadata mode serves all peers: the program says per packet where it
//! goes. The node's own packets to pods of other nodes take a veth pair both of whose ends are the
//! node's: what goes in at [`HOST`] comes out at [`PROGRAM_END`], where the same program stands as at
//! a pod, so that nothing else has to know of tunnels.

use crate::{
    cni::{Claim, NodeCtx, Side},
    netlink::{Batch, Mac, Rtnl, sysctl},
};
use anyhow::bail;
use cnibench_model::Placement;
use ipnet::IpNet;
use netlink_packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkUnspec, LinkVeth, LinkVxlan};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The tunnel's device.
pub(super) const DEVICE: &str = "cnb-vxlan";
/// The node's end of its own pair, with the gateways' addresses.
pub(super) const HOST: &str = "cnb-host";
/// The end where the program stands.
pub(super) const PROGRAM_END: &str = "cnb-net";

/// Stand-ins for a next hop behind [`HOST`]: link-local, never sent anywhere.
const HOP_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const HOP_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xcb, 1);

/// The devices of a node, made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Devices {
    /// Index of [`DEVICE`].
    pub(super) index: u32,
    /// Its hardware address, which peers address inner frames to.
    pub(super) mac: Mac,
}

/// Makes the devices. Blocks; the calling thread is in the node's namespace.
pub(super) fn make(node: &NodeCtx, tunnel: super::Tunnel, mtu: u32) -> anyhow::Result<Devices> {
    let mut rtnl = Rtnl::open()?;
    let mut batch = Batch::new();
    let vxlan = LinkVxlan::new(DEVICE, 0).collect_metadata(true).port(tunnel.port);
    batch.add_link(vxlan.learning(false).mtu(mtu).up().build());
    // Set up later: the kernel opens an end before it is joined to the other (veth_newlink).
    let inner = LinkUnspec::new_with_name(PROGRAM_END).mtu(mtu).build();
    let pair = LinkVeth::new(HOST, PROGRAM_END).mtu(mtu);
    batch.add_link(pair.set_info_data(InfoData::Veth(InfoVeth::Peer(inner))).build());
    rtnl.apply(&batch)?;
    let (device, host) = (rtnl.link(DEVICE)?, rtnl.link(HOST)?);
    if device.mtu != mtu {
        bail!("{DEVICE}: asked for MTU {mtu}, the kernel made it {}", device.mtu);
    }
    for name in [DEVICE, HOST, PROGRAM_END] {
        sysctl::write_if_present(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
    }
    let through = rtnl.link(PROGRAM_END)?;
    let mut batch = Batch::new();
    batch.up(through.index).up(host.index);
    for (cluster, own) in node.cluster_cidrs.iter().zip(&node.pod_cidrs) {
        let gateway = crate::cni::bridge::gateway(*own).addr();
        let hop: IpAddr = if gateway.is_ipv4() { HOP_V4.into() } else { HOP_V6.into() };
        batch.add_addr(host.index, IpNet::from(gateway));
        batch.neighbour(host.index, hop, through.mac);
        batch.route_via_from(*cluster, hop, host.index, gateway);
    }
    rtnl.apply(&batch)?;
    rtnl.wait_running(&[HOST, PROGRAM_END])?;
    Ok(Devices { index: device.index, mac: device.mac })
}

/// Which of the devices carry a placement.
pub(super) fn claims(placement: Placement) -> Vec<Claim> {
    match placement {
        Placement::SameNode | Placement::HostHost => {
            [DEVICE, HOST, PROGRAM_END].map(Claim::silent).concat()
        }
        Placement::HostPod => {
            let mut claims = Claim::carried_by(DEVICE).to_vec();
            // Answers come from the tunnel straight to the node's stack.
            let (host, program) = (HOST.to_owned(), PROGRAM_END.to_owned());
            claims.push(Claim::Sends { side: Side::Client, device: host });
            claims.push(Claim::Receives { side: Side::Client, device: program });
            claims
        }
        Placement::CrossNode | Placement::PodService => {
            let mut claims = Claim::carried_by(DEVICE).to_vec();
            claims.extend([HOST, PROGRAM_END].map(Claim::silent).concat());
            claims
        }
    }
}

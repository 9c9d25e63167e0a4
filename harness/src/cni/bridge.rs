//! Pods on a bridge: what the CNI plugin `bridge` makes of a node and of each pod.
//!
//! Owns cni0, the pods' veth pairs, their addresses and routes. Used by every profile whose pods
//! hang on a bridge; the way to other nodes is theirs. Followed: containernetworking/plugins,
//! plugins/main/bridge/bridge.go (ensureBridge, setupVeth, cmdAdd), pkg/ip/link_linux.go
//! (SetupVethWithName) and pkg/ipam/ipam_linux.go (ConfigureIface), with the configuration that
//! Flannel ships (kube-flannel.yml: hairpinMode and isDefaultGateway on) and the route to the
//! cluster's range that its meta plugin adds.

use super::{NodeCtx, PodCtx, PodNet};
use crate::netlink::{Batch, Rtnl, sysctl};
use ipnet::IpNet;
use netlink_packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkBridge, LinkBridgePort, LinkUnspec, LinkVeth};
use std::{net::IpAddr, os::fd::AsRawFd as _};

/// The bridge's name.
pub const BRIDGE: &str = "cni0";

/// The node's end of the pair of pod `index`.
pub fn host_device(index: u32) -> String {
    format!("veth{index:08x}")
}

/// The first address of a pod range: the bridge's own.
pub fn gateway(cidr: IpNet) -> IpNet {
    let address: IpAddr = match cidr {
        IpNet::V4(v4) => (u32::from(v4.network()) + 1).to_be_bytes().into(),
        IpNet::V6(v6) => (u128::from(v6.network()) + 1).to_be_bytes().into(),
    };
    // The prefix length is that of an existing network of this family.
    IpNet::new(address, cidr.prefix_len()).unwrap_or(cidr)
}

/// Makes the bridge with the gateways of the node's pod ranges on it.
///
/// # Errors
/// What the kernel refused.
pub async fn make_bridge(node: &NodeCtx, mtu: u32) -> anyhow::Result<()> {
    let gateways: Vec<IpNet> = node.pod_cidrs.iter().copied().map(gateway).collect();
    node.netns
        .run(move || {
            let mut rtnl = Rtnl::open()?;
            let mut batch = Batch::new();
            batch.add_link(LinkBridge::new(BRIDGE).mtu(mtu).up().build());
            rtnl.apply(&batch)?;
            let bridge = rtnl.link(BRIDGE)?;
            let mut batch = Batch::new();
            // An address of its own, or the bridge takes the lowest of its ports' and changes it
            // with every pod (bridge.go: ensureAddr).
            batch.set_link(
                LinkUnspec::new_with_index(bridge.index).address(bridge.mac.to_vec()).build(),
            );
            for gateway in gateways {
                batch.add_addr(bridge.index, gateway);
            }
            rtnl.apply(&batch)?;
            sysctl::write_if_present(&format!("ipv6/conf/{BRIDGE}/accept_ra"), "0")?;
            Ok(())
        })
        .await
}

/// Connects a pod to the bridge.
///
/// # Errors
/// What the kernel refused.
pub async fn add_pod(node: &NodeCtx, pod: &PodCtx, mtu: u32) -> anyhow::Result<PodNet> {
    let host = host_device(pod.index);
    let pod_netns = pod.netns.clone();
    let add = move || {
        let mut rtnl = Rtnl::open()?;
        let bridge = rtnl.link(BRIDGE)?.index;
        // Set up later: the kernel opens a peer before it is joined (veth_newlink).
        let peer = LinkUnspec::new_with_name("eth0").mtu(mtu);
        let peer = peer.setns_by_fd(pod_netns.fd().as_raw_fd()).build();
        let veth = LinkVeth::new(&host, "eth0").mtu(mtu).controller(bridge).up();
        let veth = veth.set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        let mut batch = Batch::new();
        batch.add_link(veth.build());
        rtnl.apply(&batch)?;
        let mut batch = Batch::new();
        batch.set_port(LinkBridgePort::new(rtnl.link(&host)?.index).hairpin(true).build());
        rtnl.apply(&batch)?;
        sysctl::write_if_present(&format!("ipv6/conf/{host}/accept_ra"), "0").map(drop)
    };
    node.netns.run(add).await?;

    let (addrs, gateways) = (pod.addrs.clone(), pod.gateways.clone());
    let clusters = node.cluster_cidrs.clone();
    let configure = move || {
        sysctl::write_if_present("ipv4/conf/eth0/arp_notify", "1")?;
        let mut rtnl = Rtnl::open()?;
        let index = rtnl.link("eth0")?.index;
        let mut batch = Batch::new();
        for addr in &addrs {
            batch.add_addr(index, *addr);
        }
        batch.up(index);
        for gateway in gateways {
            let everything = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" }.parse()?;
            batch.route_via(everything, gateway, index, false);
            for cluster in clusters.iter().filter(|c| c.addr().is_ipv4() == gateway.is_ipv4()) {
                batch.route_via(*cluster, gateway, index, false);
            }
        }
        rtnl.apply(&batch)?;
        rtnl.wait_running(&["eth0"])
    };
    pod.netns.run(configure).await?;
    // As the plugin does before it answers (bridge.go: "check bridge port state").
    let host = host_device(pod.index);
    node.netns.run(move || Rtnl::open()?.wait_running(&[&host, BRIDGE])).await?;
    Ok(PodNet { addrs: pod.addrs.iter().map(IpNet::addr).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_is_the_first_address() {
        let of = |net: &str| gateway(net.parse().unwrap()).to_string();
        assert_eq!(of("10.244.3.0/24"), "10.244.3.1/24");
        assert_eq!(of("fd00:10:244:3::/64"), "fd00:10:244:3::1/64");
    }
}

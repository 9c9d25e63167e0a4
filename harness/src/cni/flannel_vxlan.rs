//! `flannel-vxlan`: a VXLAN device per node, with the entries of every peer set by hand.
//!
//! Followed: flannel-io/flannel, pkg/backend/vxlan/vxlan.go (createVXLANDevice,
//! configureDeviceIPv4IPv6), device.go (newVXLANDevice, AddFDB, AddARP) and vxlan_network.go
//! (handleSubnetEvents): learning off, the subnet's address as a /32 on the device, and for each
//! peer a permanent neighbour, a forwarding entry and an onlink route, in this order.
//!
//! One difference: flanneld takes 50 bytes off the MTU for IPv6 underlays too, where the outer
//! headers take 70; the kernel then makes flannel-v6.1 smaller than the pods believe, and their
//! first large packets are lost to path MTU discovery. Here pods get an MTU that fits.

use super::{
    Claim, Cni, Facts, NodeAgent, NodeCtx, Param, Peer, PodCtx, PodNet, Policy, Profile, bridge,
    flannel, policies,
};
use crate::{
    cluster::{IpFamily, netns::capabilities},
    netlink::{Batch, Mac, Rtnl, sysctl},
};
use anyhow::{Context as _, bail};
use async_trait::async_trait;
use cnibench_model::Placement;
use ipnet::IpNet;
use rand::Rng as _;
use rtnetlink::LinkVxlan;
use std::{net::IpAddr, sync::Arc};

/// Outer Ethernet, IPv4, UDP and VXLAN headers (vxlan_network.go: encapOverhead).
const OVERHEAD_V4: u32 = 50;
/// The same with an outer IPv6 header.
const OVERHEAD_V6: u32 = 70;

/// The profile.
pub const PROFILE: Profile = Profile {
    name: "flannel-vxlan",
    family: "flannel",
    description: "Flannel's vxlan backend: VXLAN between nodes, pods on a bridge",
    params: &[
        Param {
            name: "mtu",
            help: "MTU of the pods in bytes (default: the underlay's less 50, with IPv6 less 70)",
        },
        Param {
            name: "vni",
            help: "VXLAN network identifier, also in the device's name (default 1)",
        },
        Param { name: "port", help: "UDP port of the tunnel (default 8472, the kernel's)" },
        Param { name: "learning", help: "true: learn source addresses as well (default false)" },
    ],
    encrypted: false,
    automatic: true,
    modules: &["vxlan", "nft_ct", "nft_masq", "nft_nat", "nft_chain_nat"],
    check: |_| {
        capabilities::require(&[
            capabilities::BRIDGE,
            capabilities::MASQUERADE,
            capabilities::VXLAN,
        ])
    },
    build: |settings, topology| {
        let family = topology.family;
        let overhead = if family == IpFamily::V4 { OVERHEAD_V4 } else { OVERHEAD_V6 };
        // "flannel.<vni>" and "flannel-v6.<vni>" must fit into the 15 bytes of a device name.
        let vnis = if family == IpFamily::V4 { 9_999_999 } else { 9_999 };
        Ok(Arc::new(Vxlan {
            family,
            mtu: settings.tunnel_mtu(topology, overhead)?,
            vni: settings.number("vni", 1, 1..=vnis)?,
            port: settings.number("port", 8472, 1..=u16::MAX)?,
            learning: settings.flag("learning", false)?,
        }))
    },
};

#[derive(Debug, Clone)]
struct Vxlan {
    family: IpFamily,
    mtu: u32,
    vni: u32,
    port: u16,
    learning: bool,
}

impl Vxlan {
    /// The device for one family's pods.
    fn device(&self, v4: bool) -> String {
        let stem = if v4 { "flannel" } else { "flannel-v6" };
        format!("{stem}.{}", self.vni)
    }
}

/// The name under which a node publishes its tunnel's address.
fn fact(v4: bool) -> &'static str {
    if v4 { "VtepMAC" } else { "VtepMACv6" }
}

#[async_trait]
impl Cni for Vxlan {
    fn pod_mtu(&self) -> u32 {
        self.mtu
    }

    fn path(&self, placement: Placement, to: IpAddr) -> Vec<Claim> {
        let tunnel = self.device(to.is_ipv4());
        let mut claims = flannel::bridge_claims(placement);
        claims.extend(match placement {
            Placement::SameNode | Placement::HostHost => Claim::silent(&tunnel),
            _ => Claim::carried_by(&tunnel),
        });
        claims
    }

    fn details(&self) -> Vec<String> {
        let mut lines = flannel::bridge_details(self.mtu, self.family);
        let learning = if self.learning { "learning" } else { "nolearning" };
        for v4 in flannel::families(self.family) {
            lines.push(format!(
                "{}: vxlan id {}, dstport {}, {learning}, local to eth0's address, MTU {}",
                self.device(v4),
                self.vni,
                self.port,
                self.mtu
            ));
        }
        lines.push("per peer: permanent neighbour, forwarding entry, onlink route".to_owned());
        lines
    }

    fn policies(&self) -> Result<&'static str, String> {
        Ok(policies::DESCRIPTION)
    }

    async fn start(&self, node: Arc<NodeCtx>) -> anyhow::Result<Box<dyn NodeAgent>> {
        flannel::prepare(&node).await?;
        let macs = flannel::families(self.family).map(|v4| (v4, random_mac())).collect();
        let agent = Agent { node, vxlan: self.clone(), macs };
        agent.make_devices().await?;
        bridge::make_bridge(&agent.node, self.mtu).await?;
        Ok(Box::new(agent))
    }
}

struct Agent {
    node: Arc<NodeCtx>,
    vxlan: Vxlan,
    /// The tunnel's own address per family (true: IPv4).
    macs: Vec<(bool, Mac)>,
}

impl Agent {
    async fn make_devices(&self) -> anyhow::Result<()> {
        let (vxlan, node, macs) = (self.vxlan.clone(), self.node.clone(), self.macs.clone());
        let make = move || {
            let mut rtnl = Rtnl::open()?;
            let outer = rtnl.link(&node.device)?.index;
            for (v4, mac) in macs {
                let name = vxlan.device(v4);
                let link = LinkVxlan::new(&name, vxlan.vni)
                    .dev(outer)
                    .port(vxlan.port)
                    .learning(vxlan.learning)
                    .address(mac.to_vec())
                    .mtu(vxlan.mtu)
                    .up();
                let local = node.addrs.iter().find(|a| a.addr().is_ipv4() == v4);
                let link = match local.context("the node has no address of this family")? {
                    IpNet::V4(a) => link.local(a.addr()),
                    IpNet::V6(a) => link.local6(a.addr()),
                };
                let mut batch = Batch::new();
                batch.add_link(link.build());
                rtnl.apply(&batch)?;
                let made = rtnl.link(&name)?;
                if made.mtu != vxlan.mtu {
                    bail!("{name}: asked for MTU {}, the kernel made it {}", vxlan.mtu, made.mtu);
                }
                sysctl::write_if_present(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
                // A host address, so that no broadcast routes come with it (vxlan.go).
                let mut batch = Batch::new();
                for cidr in node.pod_cidrs.iter().filter(|c| c.addr().is_ipv4() == v4) {
                    batch.add_addr(made.index, cidr.network().into());
                }
                rtnl.apply(&batch)?;
            }
            Ok(())
        };
        self.node.netns.run(make).await
    }
}

#[async_trait]
impl NodeAgent for Agent {
    fn facts(&self) -> Facts {
        self.macs.iter().map(|(v4, mac)| (fact(*v4).to_owned(), mac_text(*mac))).collect()
    }

    async fn join(&mut self, peers: &[Peer]) -> anyhow::Result<()> {
        let mut entries = Vec::new();
        for peer in peers {
            for cidr in &peer.pod_cidrs {
                let v4 = cidr.addr().is_ipv4();
                let mac = peer.facts.get(fact(v4)).and_then(|text| parse_mac(text));
                let mac = mac.with_context(|| format!("node {} published no VTEP", peer.index))?;
                let outer = peer.addr_like(cidr.addr());
                let outer = outer.with_context(|| format!("node {} has no address", peer.index))?;
                entries.push((v4, *cidr, mac, outer));
            }
        }
        let vxlan = self.vxlan.clone();
        let program = move || {
            let mut rtnl = Rtnl::open()?;
            let mut batch = Batch::new();
            for family in [true, false] {
                let mut of_family = entries.iter().filter(|e| e.0 == family).peekable();
                if of_family.peek().is_none() {
                    continue;
                }
                let index = rtnl.link(&vxlan.device(family))?.index;
                for (_, cidr, mac, outer) in of_family {
                    batch.neighbour(index, cidr.network(), *mac);
                    batch.fdb(index, *mac, *outer);
                    batch.route_via(*cidr, cidr.network(), index, true);
                }
            }
            rtnl.apply(&batch)
        };
        self.node.netns.run(program).await
    }

    async fn add_pod(&mut self, pod: &PodCtx) -> anyhow::Result<PodNet> {
        bridge::add_pod(&self.node, pod, self.vxlan.mtu).await
    }

    async fn set_policies(&mut self, pod: &PodCtx, wanted: &[Policy]) -> anyhow::Result<()> {
        policies::set(&self.node, pod, wanted).await
    }

    async fn denied(&self, pod: &PodCtx) -> anyhow::Result<Option<u64>> {
        policies::denied(&self.node, pod).await
    }
}

/// A random, locally administered unicast address (flannel's pkg/mac: NewHardwareAddr).
fn random_mac() -> Mac {
    let mut mac: Mac = rand::rng().random();
    mac[0] = mac[0] & 0xfe | 2;
    mac
}

fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn parse_mac(text: &str) -> Option<Mac> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|b| u8::from_str_radix(b, 16).ok()).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::Topology, cni::Settings};

    fn built(spec: &str, family: IpFamily, underlay_mtu: u32) -> Result<u32, String> {
        let topology = Topology { family, underlay_mtu, ..Topology::default() };
        let cni = (PROFILE.build)(&Settings::new(&spec.parse().unwrap()), &topology);
        cni.map(|c| c.pod_mtu()).map_err(|e| e.to_string())
    }

    #[test]
    fn the_mtu_leaves_room_for_the_outer_headers() {
        assert_eq!(built("flannel-vxlan", IpFamily::V4, 1500), Ok(1450));
        assert_eq!(built("flannel-vxlan", IpFamily::V6, 1500), Ok(1430));
        assert_eq!(built("flannel-vxlan", IpFamily::Dual, 9000), Ok(8930));
        assert_eq!(built("flannel-vxlan:mtu=1400", IpFamily::V4, 1500), Ok(1400));
        assert!(built("flannel-vxlan:mtu=1451", IpFamily::V4, 1500).is_err());
        assert!(built("flannel-vxlan", IpFamily::V6, 1300).unwrap_err().contains("at least 1350"));
    }

    #[test]
    fn the_device_name_fits() {
        assert!(built("flannel-vxlan:vni=9999999", IpFamily::V4, 1500).is_ok());
        assert!(built("flannel-vxlan:vni=10000", IpFamily::V6, 1500).is_err());
        assert!(built("flannel-vxlan:vni=0", IpFamily::V4, 1500).is_err());
        assert!(built("flannel-vxlan:port=70000", IpFamily::V4, 1500).is_err());
    }

    #[test]
    fn addresses_of_tunnels_survive_publication() {
        let mac = random_mac();
        assert_eq!(parse_mac(&mac_text(mac)), Some(mac));
        assert_eq!(mac[0] & 3, 2);
        assert_eq!(parse_mac("rubbish"), None);
        assert_eq!(parse_mac("00:11:22:33:44"), None);
    }
}

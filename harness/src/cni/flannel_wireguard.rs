//! `flannel-wireguard`: the kernel's WireGuard between nodes, as Flannel's wireguard backend sets it up.
//!
//! Followed: flannel-io/flannel v0.28, pkg/backend/wireguard/wireguard.go (RegisterNetwork: mode
//! "separate", a device per family with ports 51820 and 51821, no keepalive, no preshared key; one
//! private key for both), device.go (newWGDevice, Configure: the subnet's address as a host address;
//! addRoute: one link route for the whole cluster range; addPeer: a peer's pod range as its allowed IPs,
//! at its node address) and wireguard_network.go (MTU less 80 for both families).
//!
//! The node's own packets to pods of other nodes go through the tunnel, too, from the device's address.

use super::{
    Claim, Cni, Facts, Keys, NodeAgent, NodeCtx, Param, Peer, PodCtx, PodNet, Policy, Profile,
    Wrapping, bridge, flannel,
    params::LEAK,
    policies,
    wireguard::{Tunnel, Tunnels, overhead},
};
use crate::{
    cluster::{IpFamily, netns::capabilities},
    netlink::{Batch, Rtnl},
};
use async_trait::async_trait;
use cnibench_model::Placement;
use ipnet::IpNet;
use std::{net::IpAddr, sync::Arc};

/// What Flannel takes off the MTU, for outer IPv4 too (wireguard_network.go: overhead).
const OVERHEAD: u32 = 80;

/// The profile.
pub const PROFILE: Profile = Profile {
    name: "flannel-wireguard",
    family: "flannel",
    description: "Flannel's wireguard backend: the kernel's WireGuard between nodes, pods on a bridge",
    params: &[
        Param {
            name: "mtu",
            help: "MTU of the pods in bytes (default: the underlay's less 80; over IPv4 alone less 60 fits)",
        },
        Param {
            name: "port",
            help: "UDP port of the tunnel; IPv6 pods use the next one (default 51820)",
        },
        Param {
            name: "keepalive",
            help: "seconds between keepalives, 0: none (default 0, as Flannel)",
        },
        LEAK,
    ],
    encrypted: true,
    automatic: true,
    modules: &["wireguard", "nft_ct", "nft_masq", "nft_nat", "nft_chain_nat"],
    check: |_| {
        capabilities::require(&[
            capabilities::BRIDGE,
            capabilities::MASQUERADE,
            capabilities::WIREGUARD,
        ])
        .map_err(|e| format!("{e}; --provider vm brings a kernel that has it, flannel-wireguard-userspace needs none"))
    },
    build: |settings, topology| {
        let family = topology.family;
        let most = overhead(family == IpFamily::V4);
        Ok(Arc::new(Kernel {
            family,
            mtu: settings.mtu_within(
                topology,
                OVERHEAD,
                topology.underlay_mtu.saturating_sub(most),
            )?,
            port: settings.number("port", 51820, 1..=u16::MAX - 1)?,
            keepalive_s: settings.number("keepalive", 0, 0..=u16::MAX)?,
            leak: settings.flag(LEAK.name, false)?,
        }))
    },
};

#[derive(Debug, Clone)]
struct Kernel {
    family: IpFamily,
    mtu: u32,
    port: u16,
    keepalive_s: u16,
    leak: bool,
}

/// The device for one family's pods (wireguard.go: RegisterNetwork).
fn device(v4: bool) -> &'static str {
    if v4 { "flannel-wg" } else { "flannel-wg-v6" }
}

impl Kernel {
    fn tunnels(&self) -> Vec<Tunnel> {
        let of_v4 = |peer: &Peer| -> Vec<IpNet> {
            peer.pod_cidrs.iter().copied().filter(|c| c.addr().is_ipv4()).collect()
        };
        let of_v6 = |peer: &Peer| -> Vec<IpNet> {
            peer.pod_cidrs.iter().copied().filter(|c| !c.addr().is_ipv4()).collect()
        };
        let tunnel = |v4| Tunnel {
            device: device(v4).to_owned(),
            port: self.port(v4),
            mark: 0,
            mtu: self.mtu,
            keepalive_s: self.keepalive_s,
            over_v4: v4,
            behind: if v4 { of_v4 } else { of_v6 },
        };
        flannel::families(self.family).map(tunnel).collect()
    }

    fn port(&self, v4: bool) -> u16 {
        if v4 { self.port } else { self.port + 1 }
    }
}

#[async_trait]
impl Cni for Kernel {
    fn pod_mtu(&self) -> u32 {
        self.mtu
    }

    fn path(&self, placement: Placement, to: IpAddr) -> Vec<Claim> {
        let tunnel = device(to.is_ipv4());
        let mut claims = flannel::bridge_claims(placement);
        claims.extend(match placement {
            Placement::SameNode | Placement::HostHost => Claim::silent(tunnel),
            _ => Claim::carried_by(tunnel),
        });
        claims
    }

    fn wrapping(&self) -> Option<Wrapping> {
        Some(Wrapping::Udp(flannel::families(self.family).map(|v4| self.port(v4)).collect()))
    }

    fn details(&self) -> Vec<String> {
        let mut lines = flannel::bridge_details(self.mtu, self.family);
        for v4 in flannel::families(self.family) {
            lines.push(format!(
                "{}: the kernel's wireguard, MTU {}, UDP port {}",
                device(v4),
                self.mtu,
                self.port(v4)
            ));
        }
        lines.push(
            "per node: a private key drawn for this cluster; per peer: its pod range as allowed IPs"
                .to_owned(),
        );
        lines.push("one link route to the cluster range into the tunnel".to_owned());
        if self.leak {
            lines.push("pods' packets go around the tunnel (leak)".to_owned());
        }
        lines
    }

    fn policies(&self) -> Result<&'static str, String> {
        Ok(policies::DESCRIPTION)
    }

    async fn start(&self, node: Arc<NodeCtx>) -> anyhow::Result<Box<dyn NodeAgent>> {
        flannel::prepare(&node).await?;
        let tunnels = Arc::new(Tunnels::make(node.clone(), self.tunnels()).await?);
        let agent = Agent { node, cni: self.clone(), tunnels };
        agent.configure().await?;
        bridge::make_bridge(&agent.node, self.mtu).await?;
        Ok(Box::new(agent))
    }
}

struct Agent {
    node: Arc<NodeCtx>,
    cni: Kernel,
    tunnels: Arc<Tunnels>,
}

impl Agent {
    /// Addresses and routes of the devices.
    async fn configure(&self) -> anyhow::Result<()> {
        let (node, family) = (self.node.clone(), self.cni.family);
        let configure = move || {
            let mut rtnl = Rtnl::open()?;
            let mut batch = Batch::new();
            for v4 in flannel::families(family) {
                let index = rtnl.link(device(v4))?.index;
                let of_family = |net: &&IpNet| net.addr().is_ipv4() == v4;
                for own in node.pod_cidrs.iter().filter(of_family) {
                    batch.add_addr(index, own.network().into());
                }
                batch.up(index);
                for cluster in node.cluster_cidrs.iter().filter(of_family) {
                    batch.route_dev(*cluster, index);
                }
            }
            rtnl.apply(&batch)
        };
        self.node.netns.run(configure).await
    }
}

#[async_trait]
impl NodeAgent for Agent {
    fn facts(&self) -> Facts {
        self.tunnels.facts()
    }

    async fn join(&mut self, peers: &[Peer]) -> anyhow::Result<()> {
        self.tunnels.join(peers).await?;
        if self.cni.leak { flannel::leak(&self.node, peers).await } else { Ok(()) }
    }

    async fn add_pod(&mut self, pod: &PodCtx) -> anyhow::Result<PodNet> {
        bridge::add_pod(&self.node, pod, self.cni.mtu).await
    }

    async fn check(&mut self) -> anyhow::Result<()> {
        self.tunnels.check().await
    }

    async fn set_policies(&mut self, pod: &PodCtx, wanted: &[Policy]) -> anyhow::Result<()> {
        policies::set(&self.node, pod, wanted).await
    }

    async fn denied(&self, pod: &PodCtx) -> anyhow::Result<Option<u64>> {
        policies::denied(&self.node, pod).await
    }

    fn keys(&self) -> Option<Arc<dyn Keys>> {
        Some(self.tunnels.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::Topology, cni::Settings};

    fn built(spec: &str, family: IpFamily) -> Result<u32, String> {
        let topology = Topology { family, underlay_mtu: 1500, ..Topology::default() };
        let cni = (PROFILE.build)(&Settings::new(&spec.parse().unwrap()), &topology);
        cni.map(|c| c.pod_mtu()).map_err(|e| e.to_string())
    }

    #[test]
    fn the_mtu_is_flannels_and_may_be_all_that_fits() {
        assert_eq!(built("flannel-wireguard", IpFamily::V4), Ok(1420));
        assert_eq!(built("flannel-wireguard:mtu=1440", IpFamily::V4), Ok(1440));
        assert!(built("flannel-wireguard:mtu=1441", IpFamily::V4).is_err());
        assert_eq!(built("flannel-wireguard", IpFamily::Dual), Ok(1420));
        assert!(built("flannel-wireguard:mtu=1421", IpFamily::V6).is_err());
    }
}

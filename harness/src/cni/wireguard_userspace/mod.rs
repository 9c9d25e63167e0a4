//! `flannel-wireguard-userspace`: Flannel's wireguard backend, with the device served by a
//! userspace WireGuard over TUN, so that an encrypted mode can be compared on every machine.
//!
//! Followed: flannel-io/flannel, pkg/backend/wireguard/wireguard.go (RegisterNetwork: a device per
//! family, ports 51820 and 51821, no keepalive), device.go (Configure, addRoute: the subnet's
//! address as a host address, one link route for the whole cluster range) and wireguard_network.go
//! (MTU less 80, a peer's pod range as its allowed IPs). Keys are made in the process that uses
//! them (`process.rs`); peers learn the public one only.
//!
//! The crate is gotatun 0.10, which Mullvad keeps, rather than boringtun 0.7, tried side by side
//! over one veth on 2 noisy CPUs: TCP 435-672 Mbit/s against 393-655, CPU 1.7-2.2 s a Gbit against
//! 1.7-2.1 (both sides together), TCP_RR p50 203-309 us against 67-178. boringtun has less latency,
//! but its device is spoken to through a socket in /var/run/wireguard, panics on faults, and takes
//! keys as text; gotatun's is a builder with typed keys that reports its faults. Neither uses
//! segmentation offload on TUN: each packet is a system call, which is what bounds both.

pub mod child;
mod keys;
pub mod process;
pub mod protocol;
mod tunnel;

pub use process::wireguard_node_main;

use self::{
    child::WireguardChild,
    keys::TunnelKeys,
    protocol::{Join, Key, PeerConfig, Start, Tunnel},
};
use super::{
    Claim, Cni, Facts, Keys, NodeAgent, NodeCtx, Param, Peer, PodCtx, PodNet, Policy, Profile,
    Wrapping, bridge, flannel, policies,
};
use crate::{
    cluster::{ClusterError, IpFamily, netns::capabilities},
    netlink::{Batch, Rtnl, sysctl},
};
use anyhow::{Context as _, anyhow, ensure};
use async_trait::async_trait;
use cnibench_model::Placement;
use ipnet::IpNet;
use std::{
    net::IpAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

/// Outer IPv6, UDP and WireGuard headers with the tag; Flannel takes it for IPv4 too
/// (wireguard_network.go: overhead).
const OVERHEAD: u32 = 80;
/// The fact under which a node publishes its public key (wireguard_network.go).
const PUBLIC_KEY: &str = "PublicKey";
/// How long the link between nodes may take to come up.
const LINK_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at it.
const LINK_PAUSE: Duration = Duration::from_millis(2);
/// Threads that are of use: one each for reading, sealing, opening and writing.
const MOST_WORKERS: u32 = 4;

/// The profile.
pub const PROFILE: Profile = Profile {
    name: "flannel-wireguard-userspace",
    family: "flannel",
    description: "Flannel with a userspace WireGuard (gotatun over TUN) between nodes, pods on a bridge",
    params: &[
        Param { name: "mtu", help: "MTU of the pods in bytes (default: the underlay's less 80)" },
        Param {
            name: "port",
            help: "UDP port of the tunnel; IPv6 pods use the next one (default 51820)",
        },
        Param {
            name: "keepalive",
            help: "seconds between keepalives, 0: none (default 0, as Flannel)",
        },
        Param {
            name: "workers",
            help: "threads per node that encrypt and decrypt (default: one per CPU, at most 4)",
        },
    ],
    encrypted: true,
    automatic: true,
    modules: &["tun", "nft_ct", "nft_masq", "nft_nat", "nft_chain_nat"],
    check: |_| {
        capabilities::require(&[capabilities::BRIDGE, capabilities::MASQUERADE, capabilities::TUN])
    },
    build: |settings, topology| {
        let cpus = thread::available_parallelism().map_or(1, |n| n.get() as u32);
        Ok(Arc::new(WireguardUserspace {
            family: topology.family,
            mtu: u16::try_from(settings.tunnel_mtu(topology, OVERHEAD)?).map_err(|_| {
                ClusterError::Usage(format!(
                    "cni {}: packets of this tunnel have at most {} bytes: give it a smaller mtu",
                    settings.spec(),
                    u16::MAX
                ))
            })?,
            port: settings.number("port", 51820, 1..=u16::MAX - 1)?,
            keepalive: settings.number("keepalive", 0, 0..=u16::MAX)?,
            workers: settings.number("workers", cpus.min(MOST_WORKERS), 1..=64)?,
        }))
    },
};

#[derive(Debug, Clone)]
struct WireguardUserspace {
    family: IpFamily,
    mtu: u16,
    port: u16,
    keepalive: u16,
    workers: u32,
}

/// The device for one family's pods.
fn device(v4: bool) -> &'static str {
    if v4 { "flannel-wg" } else { "flannel-wg-v6" }
}

impl WireguardUserspace {
    fn port(&self, v4: bool) -> u16 {
        if v4 { self.port } else { self.port + 1 }
    }

    fn families(&self) -> Vec<bool> {
        flannel::families(self.family).collect()
    }
}

#[async_trait]
impl Cni for WireguardUserspace {
    fn pod_mtu(&self) -> u32 {
        self.mtu.into()
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
        Some(Wrapping::Udp(self.families().into_iter().map(|v4| self.port(v4)).collect()))
    }

    fn details(&self) -> Vec<String> {
        let mut lines = flannel::bridge_details(self.mtu.into(), self.family);
        for v4 in self.families() {
            lines.push(format!(
                "{}: TUN without offload, MTU {}, served by gotatun on UDP port {}",
                device(v4),
                self.mtu,
                self.port(v4)
            ));
        }
        lines.push(format!(
            "per node: a process with {} threads, keys made in it; per peer: its pod range as allowed IPs",
            self.workers
        ));
        lines.push("one link route to the cluster range into the tunnel".to_owned());
        lines
    }

    fn policies(&self) -> Result<&'static str, String> {
        Ok(policies::DESCRIPTION)
    }

    async fn start(&self, node: Arc<NodeCtx>) -> anyhow::Result<Box<dyn NodeAgent>> {
        flannel::prepare(&node).await?;
        let order = Start {
            netns: node.netns.path().to_owned(),
            tunnels: self
                .families()
                .into_iter()
                .map(|v4| Tunnel {
                    device: device(v4).to_owned(),
                    port: self.port(v4),
                    mtu: self.mtu,
                })
                .collect(),
            workers: self.workers,
        };
        let label = format!("node {}", node.index);
        let (child, ready) = WireguardChild::start(&label, &node.name, &order).await?;
        let child = Arc::new(Mutex::new(child));
        let agent = Agent { node, cni: self.clone(), child, public_key: ready.public_key };
        agent.configure_devices().await?;
        bridge::make_bridge(&agent.node, self.mtu.into()).await?;
        Ok(Box::new(agent))
    }
}

struct Agent {
    node: Arc<NodeCtx>,
    cni: WireguardUserspace,
    child: Arc<Mutex<WireguardChild>>,
    public_key: Key,
}

impl Agent {
    /// Addresses and routes of the devices that the process made.
    async fn configure_devices(&self) -> anyhow::Result<()> {
        let (node, families) = (self.node.clone(), self.cni.families());
        let configure = move || {
            let mut rtnl = Rtnl::open()?;
            let mut batch = Batch::new();
            for v4 in families {
                let index = rtnl.link(device(v4))?.index;
                // No link-local address: the kernel's WireGuard device has none, and its router
                // solicitations would go nowhere.
                sysctl::write_if_present(&format!("ipv6/conf/{}/addr_gen_mode", device(v4)), "1")?;
                batch.up(index);
                let of_family = |net: &&IpNet| net.addr().is_ipv4() == v4;
                for own in node.pod_cidrs.iter().filter(of_family) {
                    batch.add_addr(index, own.network().into());
                }
                for cluster in node.cluster_cidrs.iter().filter(of_family) {
                    batch.route_dev(*cluster, index);
                }
            }
            rtnl.apply(&batch)
        };
        self.node.netns.run(configure).await
    }
}

impl Agent {
    /// Waits until the link to the other nodes carries packets, up to a second after it was set up
    /// (linkwatch_event). A handshake that is sent into it before is repeated after 5 s only.
    async fn await_link(&self) -> anyhow::Result<()> {
        let device = self.node.device.clone();
        let wait = move || {
            let mut rtnl = Rtnl::open()?;
            let begun = Instant::now();
            while !rtnl.link(&device)?.running {
                ensure!(begun.elapsed() < LINK_PATIENCE, "{device} has no carrier");
                thread::sleep(LINK_PAUSE);
            }
            Ok(())
        };
        self.node.netns.run(wait).await
    }
}

#[async_trait]
impl NodeAgent for Agent {
    fn facts(&self) -> Facts {
        Facts::from([(PUBLIC_KEY.to_owned(), self.public_key.to_string())])
    }

    async fn join(&mut self, peers: &[Peer]) -> anyhow::Result<()> {
        let order = Join { peers: self.cni.peers(peers)? };
        self.await_link().await?;
        self.child.lock().await.join(&order).await.map(drop)
    }

    async fn add_pod(&mut self, pod: &PodCtx) -> anyhow::Result<PodNet> {
        bridge::add_pod(&self.node, pod, self.cni.mtu.into()).await
    }

    async fn set_policies(&mut self, pod: &PodCtx, wanted: &[Policy]) -> anyhow::Result<()> {
        policies::set(&self.node, pod, wanted).await
    }

    async fn denied(&self, pod: &PodCtx) -> anyhow::Result<Option<u64>> {
        policies::denied(&self.node, pod).await
    }

    fn keys(&self) -> Option<Arc<dyn Keys>> {
        Some(Arc::new(TunnelKeys { public_key: self.public_key, child: self.child.clone() }))
    }

    async fn check(&mut self) -> anyhow::Result<()> {
        self.child.lock().await.check().await
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        self.child.lock().await.stop().await
    }
}

impl WireguardUserspace {
    /// By tunnel.
    fn peers(&self, peers: &[Peer]) -> anyhow::Result<Vec<Vec<PeerConfig>>> {
        let of_family = |v4| peers.iter().map(|peer| self.peer(peer, v4)).collect();
        self.families().into_iter().map(of_family).collect()
    }

    fn peer(&self, peer: &Peer, v4: bool) -> anyhow::Result<PeerConfig> {
        let key = peer.facts.get(PUBLIC_KEY);
        let key = key.with_context(|| format!("node {} published no public key", peer.index))?;
        let addr = peer.addrs.iter().find(|a| a.is_ipv4() == v4);
        let addr = addr.with_context(|| format!("node {} has no address", peer.index))?;
        Ok(PeerConfig {
            public_key: key.parse().map_err(|e: String| anyhow!("node {}: {e}", peer.index))?,
            endpoint: (*addr, self.port(v4)).into(),
            allowed_ips: peer
                .pod_cidrs
                .iter()
                .copied()
                .filter(|c| c.addr().is_ipv4() == v4)
                .collect(),
            keepalive_s: Some(self.keepalive).filter(|s| *s > 0),
        })
    }
}

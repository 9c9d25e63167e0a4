//! `ebpf-wireguard` and `ebpf-ipsec`: the same packet path with encryption between nodes.
//!
//! Owns the two profiles and what they add to a node. What is encrypted is what pods send to pods of
//! other nodes; nodes' own packets are not, as in Cilium without node encryption. Followed:
//! cilium/cilium v1.20,
//!
//! - WireGuard: pkg/wireguard/agent/agent.go (init: one device for both families, UDP port 51871, mark
//!   0xe00, no reverse path filter; updatePeer: a peer's IPv4 address where it has one),
//!   pkg/mtu/mtu.go (WireguardOverhead: 95), bpf/lib/wireguard.h (wg_maybe_redirect_to_encrypt) and
//!   bpf/bpf_wireguard.c (a link layer for what comes out, then straight into the pod).
//! - IPsec: [`crate::cni::ipsec`], pkg/mtu/mtu.go (EncryptionIPsecOverhead: 77), bpf/lib/ipsec.h
//!   (set_ipsec_encrypt: a mark, then the stack's policies; do_decrypt: a mark for ESP by its sender).
//!
//! Where it differs: Cilium decides at the underlay's egress, here the program at the pod's port does; a
//! peer's allowed IPs are its pod range and address, there each pod's address; what IPsec has decrypted
//! goes straight into the pod, there by way of cilium_host. That takes a kernel whose bpf_redirect_peer
//! forgets what the packet went through (skb_scrub_packet, in 6.12 since 6.12.31).

use super::{ATTACH, BURN, Between, Ebpf, check, node};
use crate::{
    cluster::{IpFamily, Topology, netns::capabilities},
    cni::{
        Claim, Facts, Keys, NodeCtx, Param, Peer, Profile, Settings, Wrapping,
        ipsec::{self, Associations, Pair, Secret, Way},
        params::LEAK,
        wireguard::{self, Tunnel, Tunnels},
    },
    netlink::{Batch, Rtnl, sysctl},
};
use cnibench_model::Placement;
use cnibench_probes::datapath::{Datapath, Hook, Route};
use ipnet::IpNet;
use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
};

/// mtu.go: WireguardOverhead.
const WIREGUARD_OVERHEAD: u32 = 95;
/// mtu.go: EncryptionIPsecOverhead.
const IPSEC_OVERHEAD: u32 = 77;
/// types.go of pkg/wireguard: ListenPort.
const PORT: u16 = 51871;
/// mark.go: MagicMarkWireGuardEncrypted.
const MARK: u32 = 0x0e00;
/// The WireGuard device.
const DEVICE: &str = "cnb-wg";

/// Programs of `ebpf-wireguard`.
const WIREGUARD_HOOKS: &[Hook] = &[Hook::FromPodEncrypted, Hook::FromUnderlay, Hook::FromWireguard];
/// Programs of `ebpf-ipsec`.
const IPSEC_HOOKS: &[Hook] = &[Hook::FromPodEncrypted, Hook::FromUnderlayIpsec];

/// `ebpf-wireguard`.
pub const WIREGUARD: Profile = Profile {
    name: "ebpf-wireguard",
    family: "ebpf",
    description: "eBPF host routing: tc programs, the kernel's WireGuard between nodes, no bridge",
    params: &[
        Param {
            name: "mtu",
            help: "MTU of the pods in bytes (default: the underlay's less 95; less 60 fits, over IPv6 less 80)",
        },
        Param { name: "port", help: "UDP port of the tunnel (default 51871)" },
        ATTACH,
        BURN,
        LEAK,
    ],
    encrypted: true,
    automatic: true,
    modules: &["cls_bpf", "sch_ingress", "wireguard"],
    check: |spec| check(spec, &[capabilities::WIREGUARD], WIREGUARD_HOOKS).map_err(vm),
    build: |settings, topology| {
        let over_v4 = topology.family != IpFamily::V6;
        let most = topology.underlay_mtu.saturating_sub(wireguard::overhead(over_v4));
        let mtu = settings.mtu_within(topology, WIREGUARD_OVERHEAD, most)?;
        let port = settings.number("port", PORT, 1..=u16::MAX)?;
        built(settings, topology, mtu, Kind::Wireguard { port, over_v4 })
    },
};

/// `ebpf-ipsec`.
pub const IPSEC: Profile = Profile {
    name: "ebpf-ipsec",
    family: "ebpf",
    description: "eBPF host routing: tc programs, ESP tunnels (AES-GCM) between nodes, no bridge",
    params: &[
        Param {
            name: "mtu",
            help: "MTU of the pods in bytes (default: the underlay's less 77; 1446 of 1500 fit, over IPv6 1426)",
        },
        ATTACH,
        BURN,
        LEAK,
    ],
    encrypted: true,
    automatic: true,
    modules: &[
        "cls_bpf",
        "sch_ingress",
        "esp4",
        "esp6",
        "xfrm_user",
        "seqiv",
        "gcm",
        "ghash_generic",
        "ctr",
        "aesni_intel",
    ],
    check: |spec| check(spec, &[capabilities::ESP], IPSEC_HOOKS).map_err(vm),
    build: |settings, topology| {
        let most = ipsec::most(topology.underlay_mtu, topology.family == IpFamily::V4);
        let mtu = settings.mtu_within(topology, IPSEC_OVERHEAD, most)?;
        built(settings, topology, mtu, Kind::Ipsec { secret: Secret::random() })
    },
};

fn vm(missing: String) -> String {
    format!("{missing}; --provider vm brings a kernel that has it")
}

fn built(
    settings: &Settings<'_>,
    topology: &Topology,
    mtu: u32,
    kind: Kind,
) -> Result<Arc<dyn crate::cni::Cni>, crate::cluster::ClusterError> {
    let leak = settings.flag(LEAK.name, false)?;
    let between = Between::Encrypted(Encryption { kind, leak });
    Ok(Arc::new(Ebpf::new(settings, topology, mtu, between)?))
}

/// What is between nodes.
#[derive(Debug, Clone)]
pub(super) struct Encryption {
    kind: Kind,
    /// Send in clear all the same.
    leak: bool,
}

#[derive(Debug, Clone)]
enum Kind {
    Wireguard { port: u16, over_v4: bool },
    Ipsec { secret: Secret },
}

impl Encryption {
    pub(super) fn hooks(&self) -> &'static [Hook] {
        match self.kind {
            Kind::Wireguard { .. } => WIREGUARD_HOOKS,
            Kind::Ipsec { .. } => IPSEC_HOOKS,
        }
    }

    pub(super) fn claims(&self, placement: Placement) -> Vec<Claim> {
        match (&self.kind, placement) {
            (Kind::Ipsec { .. }, _) => Vec::new(),
            (_, Placement::CrossNode | Placement::PodService) => Claim::carried_by(DEVICE).into(),
            _ => Claim::silent(DEVICE).into(),
        }
    }

    pub(super) fn wrapping(&self) -> Wrapping {
        match self.kind {
            Kind::Wireguard { port, .. } => Wrapping::Udp([port].into()),
            Kind::Ipsec { .. } => Wrapping::Esp,
        }
    }

    pub(super) fn details(&self) -> Vec<String> {
        let mut lines = vec![match self.kind {
            Kind::Wireguard { port, .. } => format!(
                "{DEVICE}: the kernel's wireguard, UDP port {port}, mark {MARK:#x}; per node: a private key drawn for this cluster; per peer: its pod ranges and addresses as allowed IPs"
            ),
            Kind::Ipsec { .. } => "per peer: two ESP states in tunnel mode, rfc4106(gcm(aes)) with 128 bits of key and of check value, extended sequence numbers, replay window 1024, chosen by marks (reqid 1); keys derived from a secret drawn for this cluster; what has the mark and no state is dropped".to_owned(),
        }];
        lines.push("nodes' own packets are not encrypted".to_owned());
        if self.leak {
            lines.push("pods' packets are sent in clear all the same (leak)".to_owned());
        }
        lines
    }

    /// Makes what a node needs before it knows its peers.
    pub(super) async fn make(
        &self,
        node: &Arc<NodeCtx>,
        datapath: &Arc<Mutex<Datapath>>,
        mtu: u32,
    ) -> anyhow::Result<Node> {
        let held = match &self.kind {
            Kind::Wireguard { port, over_v4 } => {
                let tunnel = Tunnel {
                    device: DEVICE.to_owned(),
                    port: *port,
                    mark: MARK,
                    mtu,
                    keepalive_s: 0,
                    over_v4: *over_v4,
                    behind,
                };
                let tunnels = Tunnels::make(node.clone(), vec![tunnel]).await?;
                Held::Wireguard { tunnels: Arc::new(tunnels), ifindex: up(node).await? }
            }
            Kind::Ipsec { secret } => {
                let associations = Associations::new(node.clone(), Way::Cilium, secret.clone());
                let (datapath, leak) = (datapath.clone(), self.leak);
                let mark = move |pairs: &[Pair], generation: u32| {
                    let mut datapath = node::locked(&datapath);
                    for pair in pairs.iter().filter(|_| !leak) {
                        let route = Route::Marked { mark: pair.encrypt_mark(generation) };
                        let to = pair.remote_pods;
                        datapath.set_route(to.network(), to.prefix_len(), &route)?;
                    }
                    Ok(())
                };
                Held::Ipsec(Arc::new(associations.with_on_send(Box::new(mark))))
            }
        };
        Ok(Node { held, leak: self.leak })
    }

    /// Where the programs stand beside the pods' ports. Blocks; the calling thread is in the node's
    /// namespace.
    pub(super) fn attach(&self, datapath: &mut Datapath, underlay: &str) -> anyhow::Result<()> {
        match self.kind {
            Kind::Wireguard { .. } => {
                datapath.attach(Hook::FromUnderlay, underlay)?;
                datapath.attach(Hook::FromWireguard, DEVICE)?;
            }
            Kind::Ipsec { .. } => datapath.attach(Hook::FromUnderlayIpsec, underlay)?,
        }
        Ok(())
    }
}

/// What is behind a peer.
fn behind(peer: &Peer) -> Vec<IpNet> {
    peer.pod_cidrs.iter().copied().chain(peer.addrs.iter().copied().map(IpNet::from)).collect()
}

/// Sets the device up. Gives its number.
async fn up(node: &NodeCtx) -> anyhow::Result<u32> {
    let up = move || {
        let mut rtnl = Rtnl::open()?;
        sysctl::write_if_present(&format!("ipv4/conf/{DEVICE}/rp_filter"), "0")?;
        let index = rtnl.link(DEVICE)?.index;
        let mut batch = Batch::new();
        batch.up(index);
        rtnl.apply(&batch)?;
        Ok(index)
    };
    node.netns.run(up).await
}

/// What encrypts on one node.
pub(super) struct Node {
    held: Held,
    leak: bool,
}

enum Held {
    Wireguard { tunnels: Arc<Tunnels>, ifindex: u32 },
    Ipsec(Arc<Associations>),
}

impl Node {
    pub(super) fn facts(&self) -> Facts {
        match &self.held {
            Held::Wireguard { tunnels, .. } => tunnels.facts(),
            Held::Ipsec(_) => Facts::new(),
        }
    }

    pub(super) async fn join(&self, peers: &[Peer]) -> anyhow::Result<()> {
        match &self.held {
            Held::Wireguard { tunnels, .. } => tunnels.join(peers).await,
            Held::Ipsec(associations) => associations.join(peers).await,
        }
    }

    /// The way to a peer's pods; None: it is set when keys are, or they go in clear.
    pub(super) fn to_pods(&self) -> Option<Route> {
        match self.held {
            Held::Wireguard { ifindex, .. } if !self.leak => Some(Route::Device { ifindex }),
            _ => None,
        }
    }

    /// Do pods' packets go in clear?
    pub(super) fn leaks(&self) -> bool {
        self.leak
    }

    /// The way to a peer itself.
    pub(super) fn to_node(&self, peer: &Peer, ifindex: u32, addr: IpAddr) -> Route {
        match self.held {
            Held::Wireguard { .. } => Route::Native { ifindex, next_hop: addr },
            Held::Ipsec(_) => {
                Route::Node { ifindex, addr, decrypt_mark: ipsec::decrypt_mark(peer.index) }
            }
        }
    }

    pub(super) async fn check(&self) -> anyhow::Result<()> {
        match &self.held {
            Held::Wireguard { tunnels, .. } => tunnels.check().await,
            Held::Ipsec(associations) => associations.check().await,
        }
    }

    pub(super) fn notes(&self) -> Option<String> {
        match self.held {
            Held::Wireguard { .. } => None,
            Held::Ipsec(_) => ipsec::driver().map(|d| format!("the kernel's cipher: {d}")),
        }
    }

    pub(super) fn keys(&self) -> Arc<dyn Keys> {
        match &self.held {
            Held::Wireguard { tunnels, .. } => tunnels.clone(),
            Held::Ipsec(associations) => associations.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::Cni;

    fn cni(profile: &Profile, spec: &str, family: IpFamily) -> Result<Arc<dyn Cni>, String> {
        let topology = Topology { family, underlay_mtu: 1500, ..Topology::default() };
        (profile.build)(&Settings::new(&spec.parse().unwrap()), &topology)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn the_mtu_is_ciliums_and_may_be_all_that_fits() {
        let mtu = |profile: &Profile, spec: &str, family| {
            cni(profile, spec, family).map(|cni| cni.pod_mtu())
        };
        assert_eq!(mtu(&WIREGUARD, "ebpf-wireguard", IpFamily::Dual), Ok(1405));
        assert_eq!(mtu(&WIREGUARD, "ebpf-wireguard:mtu=1440", IpFamily::Dual), Ok(1440));
        assert!(mtu(&WIREGUARD, "ebpf-wireguard:mtu=1421", IpFamily::V6).is_err());
        assert_eq!(mtu(&IPSEC, "ebpf-ipsec", IpFamily::V4), Ok(1423));
        assert_eq!(mtu(&IPSEC, "ebpf-ipsec:mtu=1446", IpFamily::V4), Ok(1446));
        assert!(mtu(&IPSEC, "ebpf-ipsec:mtu=1427", IpFamily::V6).is_err());
        assert!(mtu(&IPSEC, "ebpf-ipsec:leak=perhaps", IpFamily::V4).is_err());
    }

    #[test]
    fn what_is_claimed_is_what_is_wrapped() {
        let wireguard = cni(&WIREGUARD, "ebpf-wireguard:port=4000", IpFamily::V4).unwrap();
        assert_eq!(wireguard.wrapping(), Some(Wrapping::Udp([4000].into())));
        let to = "10.244.1.2".parse().unwrap();
        let carried = Claim::carried_by(DEVICE);
        assert!(wireguard.path(Placement::CrossNode, to).contains(&carried[0]));
        assert!(!wireguard.path(Placement::HostPod, to).contains(&carried[0]));
        let ipsec = cni(&IPSEC, "ebpf-ipsec", IpFamily::V4).unwrap();
        assert_eq!(ipsec.wrapping(), Some(Wrapping::Esp));
        assert!(ipsec.details().iter().all(|line| !line.contains("Secret")));
    }
}

//! `ebpf`, `ebpf-vxlan`, `ebpf-wireguard` and `ebpf-ipsec`: eBPF host routing, with programs of ours
//! (package cnibench-probes) or of a file that a developer names.
//!
//! Pods have no bridge and no subnet: each is a veth pair with host addresses whose gateway the
//! program answers for. From there a packet goes straight into another pod of the node
//! (bpf_redirect_peer), to the next hop (bpf_redirect_neigh) or into a tunnel, past the node's routing
//! and its netfilter; what arrives goes straight into a pod. This module settles the parameters and
//! says what the cni claims; `node` programs a node, `tunnel` what ebpf-vxlan needs beside it,
//! `encrypted` the two that encrypt.

mod encrypted;
mod node;
mod tunnel;

pub use encrypted::{IPSEC, WIREGUARD};

use super::{
    Claim, Cni, Entry, Needs, NodeAgent, NodeCtx, Param, Profile, Settings, Wrapping,
    bridge::host_device, params::min_mtu,
};
use crate::cluster::{ClusterError, IpFamily, Topology, netns::capabilities};
use async_trait::async_trait;
use cnibench_model::{CniSpec, Placement};
use cnibench_probes::{
    datapath::{self, Datapath, Hook, Mac, Way},
    object::Source,
};
use sha2::{Digest as _, Sha256};
use std::{net::IpAddr, path::PathBuf, sync::Arc};

/// Outer Ethernet, IPv4, UDP and VXLAN headers (RFC 7348).
const OVERHEAD_V4: u32 = 50;
/// The same with an outer IPv6 header.
const OVERHEAD_V6: u32 = 70;

const OBJECT: Param = Param {
    name: "object",
    help: "file with eBPF programs and maps to use instead of the built-in ones (see ebpf-probes/README.md)",
};
const ATTACH: Param = Param {
    name: "attach",
    help: "tcx or clsact: how programs are attached (default tcx where the kernel has it)",
};

const BURN: Param = Param {
    name: "burn",
    help: "rounds of a loop that every packet of a pod waits for, to see whether a gate finds a cost of known size (default 0; see ebpf-probes/README.md)",
};
/// Rounds that the verifier goes through one by one without giving up: it takes a million steps.
const MOST_BURN: u32 = 100_000;

/// `ebpf`.
pub const NATIVE: Profile = Profile {
    name: "ebpf",
    family: "ebpf",
    description: "eBPF host routing: tc programs, plain routes between nodes, no bridge",
    params: &[
        Param { name: "mtu", help: "MTU of the pods in bytes (default: the underlay's)" },
        OBJECT,
        ATTACH,
        BURN,
    ],
    encrypted: false,
    automatic: true,
    modules: &["cls_bpf", "sch_ingress"],
    check: |spec| check(spec, &[], node::NATIVE),
    build: |settings, topology| {
        let most = topology.underlay_mtu;
        let mtu = settings.number("mtu", most, min_mtu(topology.family)..=most)?;
        Ok(Arc::new(Ebpf::new(settings, topology, mtu, Between::Native)?))
    },
};

/// `ebpf-vxlan`.
pub const VXLAN: Profile = Profile {
    name: "ebpf-vxlan",
    family: "ebpf",
    description: "eBPF host routing: tc programs, VXLAN between nodes, no bridge",
    params: &[
        Param {
            name: "mtu",
            help: "MTU of the pods in bytes (default: the underlay's less 50, with IPv6 less 70)",
        },
        Param { name: "vni", help: "VXLAN network identifier (default 1)" },
        Param { name: "port", help: "UDP port of the tunnel (default 8472, the kernel's)" },
        OBJECT,
        ATTACH,
        BURN,
    ],
    encrypted: false,
    automatic: true,
    modules: &["cls_bpf", "sch_ingress", "vxlan"],
    check: |spec| check(spec, &[capabilities::VXLAN], node::TUNNELLED),
    build: |settings, topology| {
        let overhead = if topology.family == IpFamily::V4 { OVERHEAD_V4 } else { OVERHEAD_V6 };
        let mtu = settings.tunnel_mtu(topology, overhead)?;
        let tunnel = Tunnel {
            vni: settings.number("vni", 1, 1..=0xff_ffff)?,
            port: settings.number("port", 8472, 1..=u16::MAX)?,
        };
        Ok(Arc::new(Ebpf::new(settings, topology, mtu, Between::Vxlan(tunnel))?))
    },
};

/// Can this kernel carry it, and does it take the programs? Found by loading them.
fn check(spec: &CniSpec, more: &[&capabilities::Feature], hooks: &[Hook]) -> Result<(), String> {
    let settings = Settings::new(spec);
    let way = way(&settings).map_err(|e| e.to_string())?;
    match way {
        Way::Tcx => capabilities::require(&[capabilities::TCX])?,
        Way::Clsact => capabilities::require(&[capabilities::CLSACT])?,
        Way::Best => capabilities::require(&[capabilities::TCX])
            .or_else(|tcx| capabilities::require(&[capabilities::CLSACT]).map_err(|_| tcx))?,
    }
    capabilities::require(more)?;
    let burn = burn(&settings).map_err(|e| e.to_string())?;
    let source = source(&settings, burn).map_err(|e| e.to_string())?;
    Datapath::load(source, hooks, way).map(drop).map_err(|e| e.to_string())
}

fn way(settings: &Settings<'_>) -> Result<Way, ClusterError> {
    match settings.text("attach") {
        None => Ok(Way::Best),
        Some("tcx") => Ok(Way::Tcx),
        Some("clsact") => Ok(Way::Clsact),
        Some(_) => Err(settings.wrong("attach", "tcx or clsact")),
    }
}

fn burn(settings: &Settings<'_>) -> Result<u32, ClusterError> {
    settings.number(BURN.name, 0, 0..=MOST_BURN)
}

fn source(
    settings: &Settings<'_>,
    burn: u32,
) -> Result<Source, cnibench_probes::object::ObjectError> {
    let source = match settings.text("object") {
        None => datapath::built_in(),
        Some(path) => Source::file(&PathBuf::from(path))?,
    };
    // Somebody else's object need not have it.
    Ok(if burn == 0 { source } else { source.with_global(BURN.name, burn) })
}

/// What VXLAN is set to.
#[derive(Debug, Clone, Copy)]
struct Tunnel {
    vni: u32,
    port: u16,
}

/// How packets get from node to node.
#[derive(Debug, Clone)]
enum Between {
    /// As they are.
    Native,
    /// In VXLAN.
    Vxlan(Tunnel),
    /// Encrypted.
    Encrypted(encrypted::Encryption),
}

/// Any of the profiles with its parameters settled.
#[derive(Debug, Clone)]
struct Ebpf {
    spec: CniSpec,
    mtu: u32,
    between: Between,
    way: Way,
    burn: u32,
    /// The file of `object`.
    object: Option<String>,
}

impl Ebpf {
    fn new(
        settings: &Settings<'_>,
        _topology: &Topology,
        mtu: u32,
        between: Between,
    ) -> Result<Self, ClusterError> {
        let object = settings.text("object").map(str::to_owned);
        let (way, burn) = (way(settings)?, burn(settings)?);
        Ok(Self { spec: settings.spec().clone(), mtu, between, way, burn, object })
    }

    fn hooks(&self) -> &'static [Hook] {
        match &self.between {
            Between::Native => node::NATIVE,
            Between::Vxlan(_) => node::TUNNELLED,
            Between::Encrypted(encryption) => encryption.hooks(),
        }
    }

    /// The program at the pods' ports.
    fn port_hook(&self) -> Hook {
        match self.between {
            Between::Encrypted(_) => Hook::FromPodEncrypted,
            Between::Native | Between::Vxlan(_) => Hook::FromPod,
        }
    }

    /// Opens the object anew: each node has maps of its own.
    fn load(&self) -> anyhow::Result<Datapath> {
        let source = source(&Settings::new(&self.spec), self.burn)?;
        Ok(Datapath::load(source, self.hooks(), self.way)?)
    }
}

#[async_trait]
impl Cni for Ebpf {
    fn pod_mtu(&self) -> u32 {
        self.mtu
    }

    fn needs(&self) -> Result<Needs, String> {
        Ok(Needs::files(self.object.iter().map(PathBuf::from)))
    }

    fn refuses(&self, placement: Placement) -> Option<String> {
        (placement == Placement::PodService).then(|| {
            "a service needs state of connections, which this datapath does not keep: answers would \
             go straight into the pod, past the node's address translation"
                .to_owned()
        })
    }

    fn path(&self, placement: Placement, _to: IpAddr) -> Vec<Claim> {
        let both = |device: &str| Claim::carried_by(device).to_vec();
        let mut claims = match placement {
            Placement::SameNode => Claim::silent("eth0").to_vec(),
            _ => both("eth0"),
        };
        match &self.between {
            Between::Native => {}
            Between::Vxlan(_) => claims.extend(tunnel::claims(placement)),
            Between::Encrypted(encryption) => claims.extend(encryption.claims(placement)),
        }
        claims
    }

    fn names_whole_path(&self) -> bool {
        // What somebody else's programs do is theirs.
        self.object.is_none()
    }

    fn entry(&self) -> Entry {
        if self.object.is_none() { Entry::Direct } else { Entry::Either }
    }

    fn details(&self) -> Vec<String> {
        let programs: Vec<&str> = self.hooks().iter().map(|h| h.program()).collect();
        let mut lines = vec![
            match &self.object {
                None => format!("programs {}", programs.join(", ")),
                Some(file) => {
                    format!("programs {} of {file} ({})", programs.join(", "), digest(file))
                }
            },
            format!(
                "per pod: veth pair without a bridge, host addresses, MTU {}, default route via a gateway that the program answers for",
                self.mtu
            ),
        ];
        match &self.between {
            Between::Native => lines
                .push("per peer: an entry with its node address as the next hop".to_owned()),
            Between::Vxlan(Tunnel { vni, port }) => lines.push(format!(
                "{}: one vxlan device in collect-metadata mode, id {vni}, dstport {port}; per peer: an entry with its node address as the far end",
                tunnel::DEVICE
            )),
            Between::Encrypted(encryption) => lines.extend(encryption.details()),
        }
        if self.burn > 0 {
            lines.push(format!(
                "every packet of a pod waits for {} rounds of a loop that does nothing (burn)",
                self.burn
            ));
        }
        lines.push("no nf_tables, no connection tracking, no address translation".to_owned());
        lines
    }

    fn wrapping(&self) -> Option<Wrapping> {
        match &self.between {
            Between::Encrypted(encryption) => Some(encryption.wrapping()),
            Between::Native | Between::Vxlan(_) => None,
        }
    }

    fn policies(&self) -> Result<&'static str, String> {
        // The built-in object has its maps.
        if let Some(file) = &self.object
            && !self.load().map_err(|e| format!("{e:#}"))?.has_policies()
        {
            return Err(format!(
                "{file} has no maps policies4 and policies6: it enforces no policies"
            ));
        }
        Ok(
            "an entry per policy in a prefix map (LPM), looked up for each packet; keeps no state of connections",
        )
    }

    async fn start(&self, node: Arc<NodeCtx>) -> anyhow::Result<Box<dyn NodeAgent>> {
        Ok(Box::new(node::Agent::start(self.clone(), node).await?))
    }
}

/// The first letters of a file's SHA-256, so that a record tells one object from the next.
fn digest(file: &str) -> String {
    match std::fs::read(file) {
        Ok(bytes) => {
            let sum = Sha256::digest(bytes);
            let hex: String = sum.iter().take(8).map(|b| format!("{b:02x}")).collect();
            format!("sha256 {hex}…")
        }
        Err(e) => e.to_string(),
    }
}

/// What every pod takes for its gateway's hardware address, and the node's ends of their veth pairs
/// have: local, the same everywhere, since no two of them share a link.
const GATEWAY_MAC: Mac = [0x02, 0xcb, 0, 0, 0, 1];

/// A pod's own hardware address.
fn pod_mac(node: u32, pod: u32) -> Mac {
    let ([_, _, a, b], [_, _, c, d]) = (node.to_be_bytes(), pod.to_be_bytes());
    // Never the gateway's: its second half begins with a 1.
    [0x06, 0xcb, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(
        profile: &Profile,
        spec: &str,
        family: IpFamily,
        underlay_mtu: u32,
    ) -> Result<u32, String> {
        let topology = Topology { family, underlay_mtu, ..Topology::default() };
        let cni = (profile.build)(&Settings::new(&spec.parse().unwrap()), &topology);
        cni.map(|c| c.pod_mtu()).map_err(|e| e.to_string())
    }

    #[test]
    fn the_mtu_leaves_room_for_the_outer_headers() {
        assert_eq!(built(&NATIVE, "ebpf", IpFamily::Dual, 1500), Ok(1500));
        assert_eq!(built(&VXLAN, "ebpf-vxlan", IpFamily::V4, 1500), Ok(1450));
        assert_eq!(built(&VXLAN, "ebpf-vxlan", IpFamily::V6, 1500), Ok(1430));
        assert_eq!(built(&VXLAN, "ebpf-vxlan:mtu=1400", IpFamily::V4, 1500), Ok(1400));
        assert!(built(&VXLAN, "ebpf-vxlan:mtu=1451", IpFamily::V4, 1500).is_err());
        assert!(
            built(&VXLAN, "ebpf-vxlan", IpFamily::V6, 1300).unwrap_err().contains("at least 1350")
        );
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        let wrong = |spec| built(&VXLAN, spec, IpFamily::V4, 1500).unwrap_err();
        assert!(wrong("ebpf-vxlan:attach=xdp").contains("is not tcx or clsact"));
        assert!(wrong("ebpf-vxlan:vni=0").contains("a number from 1"));
        assert!(wrong("ebpf-vxlan:burn=100001").contains("a number from 0 to 100000"));
        assert!(wrong("ebpf-vxlan:port=0").contains("a number from 1"));
    }

    #[test]
    fn pods_have_addresses_of_their_own() {
        assert_ne!(pod_mac(0, 1), pod_mac(1, 0));
        assert_ne!(pod_mac(0, 1), GATEWAY_MAC);
        // Unicast and local (IEEE 802).
        assert!([pod_mac(300, 7), GATEWAY_MAC].iter().all(|m| m[0] & 3 == 2));
    }

    #[test]
    fn services_are_refused_with_a_reason() {
        let spec = "ebpf".parse().unwrap();
        let cni =
            (NATIVE.build)(&Settings::new(&spec), &Topology::default()).map_err(|e| e.to_string());
        assert!(
            cni.unwrap().refuses(Placement::PodService).unwrap().contains("address translation")
        );
    }
}

//! What this kernel can do for us, found by doing it in a namespace that ends with the try.

use super::user_namespace;
use crate::{
    netlink::{
        Batch, Rtnl,
        namespace::scratch,
        nftables::{Family, Field, Hook, Part, Table, Verdict},
        socket::{Netlink, Request},
        tun,
    },
    probe,
};
use anyhow::Context as _;
use cnibench_probes::capability::{Kind, try_kind};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::LinkMessage;
use rtnetlink::{LinkBridge, LinkVeth, LinkVxlan, LinkWireguard};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::OnceLock,
};

/// One thing a host can or cannot do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// What, in a word or two.
    pub name: &'static str,
    /// True when the try worked.
    pub ok: bool,
    /// What was tried, or why it failed and how to get it.
    pub detail: String,
}

/// Something to try, and its result once tried.
pub struct Feature {
    name: &'static str,
    tries: &'static str,
    /// Where it comes from.
    remedy: &'static str,
    run: fn() -> anyhow::Result<()>,
}

/// Pairs of Ethernet devices: what everything here is made of.
pub const VETH: &Feature = &Feature {
    name: "veth",
    tries: "a veth pair",
    remedy: "CONFIG_VETH",
    run: || in_scratch(LinkVeth::new("a", "b").build()),
};
/// Bridges.
pub const BRIDGE: &Feature = &Feature {
    name: "bridge",
    tries: "a bridge",
    remedy: "CONFIG_BRIDGE",
    run: || in_scratch(LinkBridge::new("a").build()),
};
/// VXLAN devices.
pub const VXLAN: &Feature = &Feature {
    name: "vxlan",
    tries: "a vxlan device",
    remedy: "CONFIG_VXLAN",
    run: || in_scratch(LinkVxlan::new("a", 1).port(8472).build()),
};
/// Masquerading with nf_tables.
pub const MASQUERADE: &Feature = &Feature {
    name: "nf_tables masquerade",
    tries: "a chain with a masquerade rule",
    remedy: "CONFIG_NF_TABLES, CONFIG_NFT_MASQ",
    run: || scratch(|| masquerade().commit()),
};
/// Services with nf_tables.
pub const DNAT: &Feature = &Feature {
    name: "nf_tables dnat",
    tries: "a verdict map and a dnat rule",
    remedy: "CONFIG_NF_TABLES, CONFIG_NFT_NAT",
    run: || {
        let (from, to) = ([IpAddr::V4(Ipv4Addr::LOCALHOST)], [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        scratch(move || super::service::table(&from, &to)?.commit())
    },
};
/// TUN devices, for userspace tunnels.
pub const TUN: &Feature = &Feature {
    name: "tun",
    tries: "a TUN device",
    remedy: "CONFIG_TUN and /dev/net/tun",
    run: || scratch(|| tun::create("cnb0").map(drop)),
};
/// The kernel's WireGuard.
pub const WIREGUARD: &Feature = &Feature {
    name: "wireguard",
    tries: "a wireguard device",
    remedy: "CONFIG_WIREGUARD",
    run: wireguard,
};
/// IPsec's ESP.
pub const ESP: &Feature = &Feature {
    name: "xfrm esp",
    tries: "an ESP state with rfc4106(gcm(aes))",
    remedy: "CONFIG_INET_ESP, CONFIG_XFRM_USER, CONFIG_CRYPTO_GCM",
    run: esp,
};
/// Working without root.
pub const USER_NAMESPACES: &Feature = &Feature {
    name: "user namespaces",
    tries: "new user, network and mount namespaces in a child",
    remedy: "only needed to run without root",
    run: user_namespace::try_user_namespace,
};

/// Programs in the packet path, on a tcx link.
pub const TCX: &Feature = &Feature {
    name: "ebpf tcx",
    tries: "an eBPF program on a tcx link",
    remedy: "Linux 6.6 or newer with CONFIG_BPF_SYSCALL, and root outside of a user namespace",
    run: || kind(Kind::Tcx),
};
/// Programs in the packet path, as filters of a clsact qdisc.
pub const CLSACT: &Feature = &Feature {
    name: "ebpf clsact",
    tries: "an eBPF program on a clsact qdisc",
    remedy: "CONFIG_NET_CLS_BPF, CONFIG_NET_SCH_INGRESS, and root outside of a user namespace",
    run: || kind(Kind::Clsact),
};
/// What latency probes are based on.
pub const TP_BTF: &Feature = &Feature {
    name: "ebpf tp_btf",
    tries: "an eBPF program on a typed tracepoint",
    remedy: "CONFIG_DEBUG_INFO_BTF, and root outside of a user namespace",
    run: || kind(Kind::TpBtf),
};
/// All that latency probes need.
pub const LATENCY_PROBES: &Feature = &Feature {
    name: "latency probes",
    tries: "every program that times stages, on its tracepoint",
    remedy: probe::REMEDY,
    run: || Ok(probe::try_all()?),
};
/// What is lost in measured trials.
pub const LOSS_COUNTERS: &Feature = &Feature {
    name: "loss counters",
    tries: "the programs that count drops and retransmits in every trial, on their tracepoints",
    remedy: probe::REMEDY,
    run: || Ok(probe::losses::try_counters()?),
};
/// For extras of latency probes.
pub const FENTRY: &Feature = &Feature {
    name: "ebpf fentry",
    tries: "an eBPF program on a kernel function's entry",
    remedy: "not used yet, only for extras of the latency probes: CONFIG_FUNCTION_TRACER with direct calls",
    run: || kind(Kind::Fentry),
};
/// For extras of latency probes.
pub const KPROBE: &Feature = &Feature {
    name: "ebpf kprobe",
    tries: "an eBPF program on a kprobe",
    remedy: "not used yet, only for extras of the latency probes: CONFIG_KPROBES",
    run: || kind(Kind::Kprobe),
};

/// Everything that is looked at.
pub const ALL: &[&Feature] = &[
    VETH,
    BRIDGE,
    VXLAN,
    MASQUERADE,
    DNAT,
    TUN,
    WIREGUARD,
    ESP,
    TCX,
    CLSACT,
    TP_BTF,
    LATENCY_PROBES,
    LOSS_COUNTERS,
    FENTRY,
    KPROBE,
    USER_NAMESPACES,
];

/// What the tries said, one try per process.
static RESULTS: [OnceLock<Result<(), String>>; ALL.len()] = [const { OnceLock::new() }; ALL.len()];

impl Feature {
    /// Tries it, once per process. Blocks.
    ///
    /// # Errors
    /// Why it does not work.
    pub fn tried(&self) -> Result<(), String> {
        let run = || (self.run)().map_err(|e| format!("{e:#}"));
        match ALL.iter().position(|f| f.name == self.name) {
            Some(at) => RESULTS[at].get_or_init(run).clone(),
            None => run(),
        }
    }
}

/// Every capability of this host.
pub async fn capabilities() -> Vec<Capability> {
    let look = || {
        ALL.iter().map(|feature| match feature.tried() {
            Ok(()) => Capability {
                name: feature.name,
                ok: true,
                detail: format!("made {}", feature.tries),
            },
            Err(e) => Capability {
                name: feature.name,
                ok: false,
                detail: format!("cannot make {}: {e} ({})", feature.tries, feature.remedy),
            },
        })
    };
    tokio::task::spawn_blocking(move || look().collect()).await.unwrap_or_default()
}

/// Are all of these there? Blocks.
///
/// # Errors
/// The first that is missing, with the next step.
pub fn require(features: &[&Feature]) -> Result<(), String> {
    for feature in features {
        feature.tried().map_err(|e| {
            format!(
                "cannot make {} here: {e} ({}); `cnibench doctor` shows what this host can do",
                feature.tries, feature.remedy
            )
        })?;
    }
    Ok(())
}

/// Tries to make a WireGuard device.
///
/// # Errors
/// Why not.
pub fn wireguard() -> anyhow::Result<()> {
    in_scratch(LinkWireguard::new("a").build())
}

/// Tries to add an ESP state as Flannel's and Cilium's IPsec modes do: rfc4106(gcm(aes)).
///
/// # Errors
/// Why not.
pub fn esp() -> anyhow::Result<()> {
    /// `NETLINK_XFRM`, `XFRM_MSG_NEWSA`, `XFRMA_ALG_AEAD` (include/uapi/linux/xfrm.h).
    const NETLINK_XFRM: isize = 6;
    const NEW_SA: u16 = 0x10;
    const ALG_AEAD: u16 = 18;
    let mut state = vec![0u8; 224]; // struct xfrm_usersa_info
    let mut put = |at: usize, bytes: &[u8]| state[at..at + bytes.len()].copy_from_slice(bytes);
    let inet = (libc::AF_INET as u16).to_ne_bytes();
    put(40, &inet); // sel.family
    put(56, &[10, 66, 0, 2]); // id.daddr
    put(72, &0x1000u32.to_be_bytes()); // id.spi
    put(76, &[libc::IPPROTO_ESP as u8]); // id.proto
    put(80, &[10, 66, 0, 1]); // saddr
    put(96, &[0xff; 32]); // lft: no limit of bytes or packets (XFRM_INF)
    put(212, &inet); // family; mode 0 is transport
    let mut algorithm = vec![0u8; 64];
    let name = b"rfc4106(gcm(aes))";
    algorithm[..name.len()].copy_from_slice(name);
    algorithm.extend(160u32.to_ne_bytes()); // key and salt, in bits
    algorithm.extend(128u32.to_ne_bytes()); // tag, in bits
    algorithm.extend([7; 20]);
    state.extend(((algorithm.len() + 4) as u16).to_ne_bytes());
    state.extend(ALG_AEAD.to_ne_bytes());
    state.extend(algorithm);
    scratch(move || {
        let mut netlink = Netlink::open(NETLINK_XFRM).context("no XFRM netlink")?;
        let what = "an ESP state".to_owned();
        let add = Request { kind: NEW_SA, flags: NLM_F_CREATE | NLM_F_EXCL, body: state, what };
        match netlink.apply(&[add])?.pop() {
            None => Ok(()),
            Some(refused) => Err(refused.into()),
        }
    })
}

/// On the loopback of a namespace that ends with the try.
fn kind(kind: Kind) -> anyhow::Result<()> {
    scratch(move || Ok(try_kind(kind, "lo")?))
}

fn in_scratch(link: LinkMessage) -> anyhow::Result<()> {
    scratch(move || {
        let mut batch = Batch::new();
        batch.add_link(link);
        Rtnl::open()?.apply(&batch)
    })
}

fn masquerade() -> Table {
    let everything = IpNet::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut table = Table::new(Family::V4, "cnibench-try");
    table.base_chain("post", Hook::NatPostrouting);
    table.rule("post", &[Part::In(Field::Source, everything), Part::Masquerade]);
    table.base_chain("forward", Hook::FilterForward);
    table.rule("forward", &[Part::Verdict(Verdict::Accept)]);
    table
}

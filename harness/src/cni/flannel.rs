//! What all Flannel backends share: forwarding, masquerading, what they claim of a bridge.
//!
//! Followed: flannel-io/flannel, pkg/trafficmngr/nftables/nftables.go
//! (SetupAndEnsureForwardRules, addMasqRules). The backends have a file each.

use super::{Claim, NodeCtx, Peer, Side, bridge};
use crate::{
    cluster::IpFamily,
    netlink::{
        Batch, Rtnl,
        nftables::{Family, Field, Hook, Part, Table, Verdict},
        sysctl,
    },
};
use cnibench_model::Placement;
use ipnet::IpNet;
use std::net::IpAddr;

/// Turns on forwarding and adds Flannel's nf_tables rules.
///
/// # Errors
/// What the kernel refused.
pub async fn prepare(node: &NodeCtx) -> anyhow::Result<()> {
    let ranges: Vec<(IpNet, IpNet)> =
        node.cluster_cidrs.iter().copied().zip(node.pod_cidrs.iter().copied()).collect();
    node.netns
        .run(move || {
            for (cluster, own) in ranges {
                let v4 = cluster.addr().is_ipv4();
                let key = if v4 { "ipv4/ip_forward" } else { "ipv6/conf/all/forwarding" };
                sysctl::write(key, "1")?;
                rules(cluster, own)?.commit()?;
            }
            Ok(())
        })
        .await
}

/// Flannel's table of one family.
fn rules(cluster: IpNet, own: IpNet) -> anyhow::Result<Table> {
    use Field::{Destination, Source};
    use Part::{In, Masquerade, NotIn};
    let family = Family::of(cluster.addr());
    let (name, multicast) = match family {
        Family::V4 => ("flannel-ipv4", "224.0.0.0/4"),
        Family::V6 => ("flannel-ipv6", "ff00::/8"),
    };
    let multicast: IpNet = multicast.parse()?;
    let accept = Part::Verdict(Verdict::Accept);
    let leave = Part::Verdict(Verdict::Return);
    let mut table = Table::new(family, name);
    table.base_chain("forward", Hook::FilterForward);
    table.rule("forward", &[In(Source, cluster), accept.clone()]);
    table.rule("forward", &[In(Destination, cluster), accept]);
    table.base_chain("postrtg", Hook::NatPostrouting);
    let mut nat = |parts: &[Part]| {
        table.rule("postrtg", parts);
    };
    nat(&[Part::Mark(0x4000), leave.clone()]);
    nat(&[In(Source, own), In(Destination, cluster), leave.clone()]);
    nat(&[In(Source, cluster), In(Destination, own), leave.clone()]);
    nat(&[NotIn(Source, own), In(Destination, cluster), leave]);
    nat(&[In(Source, cluster), NotIn(Destination, multicast), Masquerade]);
    nat(&[NotIn(Source, cluster), In(Destination, cluster), Masquerade]);
    Ok(table)
}

/// The families of a cluster, true for IPv4.
pub fn families(family: IpFamily) -> impl Iterator<Item = bool> {
    let (v4, v6) = (family != IpFamily::V6, family != IpFamily::V4);
    [(v4, true), (v6, false)].into_iter().filter(|(on, _)| *on).map(|(_, is_v4)| is_v4)
}

/// What the path proof holds a bridge with routed nodes to: on one node the bridge switches from
/// port to port (the proof finds the pods' ports itself), between nodes everything passes the
/// bridge's own device and eth0.
pub fn bridge_claims(placement: Placement) -> Vec<Claim> {
    let carries = |side, device: &str| Claim::Carries { side, device: device.to_owned() };
    let mut claims = match placement {
        Placement::SameNode => {
            return [Claim::silent("eth0"), Claim::silent(bridge::BRIDGE)].concat();
        }
        Placement::HostHost => return [Claim::carried_by("eth0"), Claim::silent("cni0")].concat(),
        Placement::HostPod => vec![carries(Side::Server, bridge::BRIDGE)],
        Placement::CrossNode | Placement::PodService => Claim::carried_by(bridge::BRIDGE).to_vec(),
    };
    claims.extend(Claim::carried_by("eth0"));
    claims
}

/// What was built on every node, beside the backend's own.
pub fn bridge_details(mtu: u32, family: IpFamily) -> Vec<String> {
    let tables: Vec<_> =
        families(family).map(|v4| if v4 { "flannel-ipv4" } else { "flannel-ipv6" }).collect();
    vec![
        format!("cni0: bridge with the gateway of the node's pod range, MTU {mtu}"),
        format!("per pod: veth pair on cni0 (hairpin on), MTU {mtu}, default route via cni0"),
        format!(
            "nf_tables {}: chains forward, postrtg (masquerade fully-random)",
            tables.join(", ")
        ),
        "kube-proxy's nf_tables for one service (DNAT, connection tracking)".to_owned(),
    ]
}

/// Sends pods' packets around whatever encrypts them, in clear: for a node whose encryption is off on
/// purpose, which its proof must find.
///
/// # Errors
/// What the kernel refused.
pub async fn leak(node: &NodeCtx, peers: &[Peer]) -> anyhow::Result<()> {
    let device = node.device.clone();
    let of = |peer: &Peer| -> Vec<(IpNet, Option<IpAddr>)> {
        peer.pod_cidrs.iter().map(|c| (*c, peer.addr_like(c.addr()))).collect()
    };
    let ranges: Vec<_> = peers.iter().flat_map(of).collect();
    let route = move || {
        let mut rtnl = Rtnl::open()?;
        let index = rtnl.link(&device)?.index;
        let mut batch = Batch::new();
        for (range, via) in ranges {
            if let Some(via) = via {
                batch.route_via(range, via, index, false);
            }
        }
        rtnl.apply(&batch)
    };
    node.netns.run(route).await
}

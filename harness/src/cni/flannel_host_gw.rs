//! `flannel-host-gw`: a route to every other node's pods by way of that node, nothing else.
//!
//! Followed: flannel-io/flannel, pkg/backend/hostgw/hostgw.go (RegisterNetwork: GetRoute,
//! GetV6Route) and pkg/backend/route_network.go (handleSubnetEvents).

use super::{
    Claim, Cni, NodeAgent, NodeCtx, Param, Peer, PodCtx, PodNet, Policy, Profile, bridge, flannel,
    params::min_mtu, policies,
};
use crate::{
    cluster::{IpFamily, netns::capabilities},
    netlink::{Batch, Rtnl},
};
use async_trait::async_trait;
use cnibench_model::Placement;
use std::{net::IpAddr, sync::Arc};

/// The profile.
pub const PROFILE: Profile = Profile {
    name: "flannel-host-gw",
    family: "flannel",
    description: "Flannel's host-gw backend: plain routes between nodes, pods on a bridge",
    params: &[Param { name: "mtu", help: "MTU of the pods in bytes (default: the underlay's)" }],
    encrypted: false,
    automatic: true,
    modules: &["nft_ct", "nft_masq", "nft_nat", "nft_chain_nat"],
    check: |_| capabilities::require(&[capabilities::BRIDGE, capabilities::MASQUERADE]),
    build: |settings, topology| {
        let most = topology.underlay_mtu;
        let mtu = settings.number("mtu", most, min_mtu(topology.family)..=most)?;
        Ok(Arc::new(HostGw { mtu, family: topology.family }))
    },
};

struct HostGw {
    mtu: u32,
    family: IpFamily,
}

#[async_trait]
impl Cni for HostGw {
    fn pod_mtu(&self) -> u32 {
        self.mtu
    }

    fn path(&self, placement: Placement, _to: IpAddr) -> Vec<Claim> {
        let mut claims = flannel::bridge_claims(placement);
        claims.extend(Claim::absent("flannel.1"));
        claims
    }

    fn details(&self) -> Vec<String> {
        let mut lines = flannel::bridge_details(self.mtu, self.family);
        lines.push("per peer: a route to its pod range via its node address on eth0".to_owned());
        lines
    }

    fn policies(&self) -> Result<&'static str, String> {
        Ok(policies::DESCRIPTION)
    }

    async fn start(&self, node: Arc<NodeCtx>) -> anyhow::Result<Box<dyn NodeAgent>> {
        flannel::prepare(&node).await?;
        bridge::make_bridge(&node, self.mtu).await?;
        Ok(Box::new(Agent { node, mtu: self.mtu }))
    }
}

struct Agent {
    node: Arc<NodeCtx>,
    mtu: u32,
}

#[async_trait]
impl NodeAgent for Agent {
    async fn join(&mut self, peers: &[Peer]) -> anyhow::Result<()> {
        let device = self.node.device.clone();
        let routes: Vec<_> = peers
            .iter()
            .flat_map(|p| p.pod_cidrs.iter().map(|c| (*c, p.addr_like(c.addr()))))
            .filter_map(|(cidr, via)| Some((cidr, via?)))
            .collect();
        self.node
            .netns
            .run(move || {
                let mut rtnl = Rtnl::open()?;
                let index = rtnl.link(&device)?.index;
                let mut batch = Batch::new();
                for (cidr, via) in routes {
                    batch.route_via(cidr, via, index, false);
                }
                rtnl.apply(&batch)
            })
            .await
    }

    async fn add_pod(&mut self, pod: &PodCtx) -> anyhow::Result<PodNet> {
        bridge::add_pod(&self.node, pod, self.mtu).await
    }

    async fn set_policies(&mut self, pod: &PodCtx, wanted: &[Policy]) -> anyhow::Result<()> {
        policies::set(&self.node, pod, wanted).await
    }

    async fn denied(&self, pod: &PodCtx) -> anyhow::Result<Option<u64>> {
        policies::denied(&self.node, pod).await
    }
}

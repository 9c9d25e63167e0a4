//! `host`: node to node, no CNI. The baseline that everything else is compared with.
//!
//! Its "pods" are the nodes themselves, as pods with `hostNetwork: true` are: same-node traffic
//! takes the node's loopback, everything else the link between the nodes.

use super::{Claim, Cni, NodeAgent, NodeCtx, Peer, PodCtx, PodNet, Profile};
use anyhow::bail;
use async_trait::async_trait;
use cnibench_model::Placement;
use std::{net::IpAddr, sync::Arc};

/// The profile.
pub const PROFILE: Profile = Profile {
    name: "host",
    family: "host",
    description: "node to node, no CNI (the baseline)",
    params: &[],
    encrypted: false,
    automatic: true,
    modules: &[],
    check: |_| Ok(()),
    build: |_, topology| Ok(Arc::new(Host { mtu: topology.underlay_mtu })),
};

struct Host {
    mtu: u32,
}

#[async_trait]
impl Cni for Host {
    fn pod_mtu(&self) -> u32 {
        self.mtu
    }

    fn host_network(&self) -> bool {
        true
    }

    fn refuses(&self, placement: Placement) -> Option<String> {
        (placement == Placement::PodService).then(|| {
            "a service needs NAT in the node, whose connection tracking would slow every other case of this baseline".to_owned()
        })
    }

    fn path(&self, placement: Placement, _to: IpAddr) -> Vec<Claim> {
        let (carries, silent) =
            if placement == Placement::SameNode { ("lo", "eth0") } else { ("eth0", "lo") };
        [Claim::carried_by(carries), Claim::silent(silent)].concat()
    }

    fn details(&self) -> Vec<String> {
        vec![
            format!("eth0 of a node, MTU {}: veth to the bridge between the nodes", self.mtu),
            "pods stand in their node's namespace (as hostNetwork pods do)".to_owned(),
        ]
    }

    async fn start(&self, node: Arc<NodeCtx>) -> anyhow::Result<Box<dyn NodeAgent>> {
        Ok(Box::new(HostAgent { node }))
    }
}

struct HostAgent {
    node: Arc<NodeCtx>,
}

#[async_trait]
impl NodeAgent for HostAgent {
    async fn join(&mut self, _peers: &[Peer]) -> anyhow::Result<()> {
        Ok(())
    }

    async fn add_pod(&mut self, pod: &PodCtx) -> anyhow::Result<PodNet> {
        if self.node.addrs.is_empty() {
            bail!("node {} has no address for {}", self.node.name, pod.name);
        }
        Ok(PodNet { addrs: self.node.addrs.iter().map(|a| a.addr()).collect() })
    }
}

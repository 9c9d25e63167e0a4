//! What proofs of encryption beyond the cluster's own need to know of it: where a trial's traffic can be
//! looked at, and whose key is taken away after the last one.

use super::cluster::NetnsCluster;
use crate::{
    cluster::IpFamily,
    cni::Peer,
    cni::keys::Holder,
    proof::{
        encryption::{self, Line},
        key_removal::{self, Removal},
        lookout::Lookout,
    },
};
use anyhow::Context as _;
use cnibench_model::{Placement, Proof, ProofKind, ProofOutcome};
use ipnet::IpNet;
use std::net::IpAddr;

/// The node whose key is taken: that of clients.
const CLIENTS: usize = 0;

impl NetnsCluster {
    /// Where trials between pods of two nodes can be looked at; of others nothing is claimed.
    pub(super) fn look_at(&self, placement: Placement) -> Option<Lookout> {
        let crosses = matches!(placement, Placement::CrossNode | Placement::PodService);
        if !crosses || !self.info.encrypted {
            return None;
        }
        let way = self.way(Placement::CrossNode, self.topology.family != IpFamily::V6).ok()?;
        let server = way.ends.server_addr;
        let client = self.nodes.get(CLIENTS)?.pods.first()?.net.addrs.iter();
        Some(Lookout {
            cni: self.info.spec.clone(),
            underlay: self.underlay.clone()?,
            nodes: self.node_addrs().collect(),
            wrapping: self.cni.wrapping()?,
            ends: (*client.into_iter().find(|a| a.is_ipv4() == server.is_ipv4())?, server),
        })
    }

    fn node_addrs(&self) -> impl Iterator<Item = IpAddr> {
        self.nodes.iter().flat_map(|n| n.ctx.addrs.iter().map(IpNet::addr))
    }

    /// The keys of all nodes; none where an agent has none, or gives none away.
    pub(super) fn all_keys(&self) -> Option<Vec<Holder>> {
        let holder = |node: &super::cluster::Node| {
            let agent = node.agent.as_ref()?;
            let peer = Peer {
                index: node.ctx.index,
                addrs: node.ctx.addrs.iter().map(IpNet::addr).collect(),
                pod_cidrs: node.ctx.pod_cidrs.clone(),
                facts: agent.facts(),
            };
            Some(Holder { node: peer, keys: agent.keys()? })
        };
        self.nodes.iter().map(holder).collect()
    }

    /// Takes a key away, and the proof that nothing goes without it. None where nothing is claimed, and
    /// where there is nothing to cross.
    pub(super) async fn without_key(&self) -> Option<Proof> {
        if !self.info.encrypted || self.look_at(Placement::CrossNode).is_none() {
            return None;
        }
        let proof = |outcome, summary| Proof {
            kind: ProofKind::KeyRemoval,
            cni: self.info.spec.clone(),
            outcome,
            summary,
            evidence: Vec::new(),
        };
        let Some(holders) = self.all_keys() else {
            let why = "the cni's agent lets nobody take its keys away".to_owned();
            return Some(proof(ProofOutcome::NotTaken, why));
        };
        Some(match self.removal(&holders) {
            Ok(removal) => key_removal::prove(removal).await,
            Err(e) => proof(ProofOutcome::Failed, format!("could not be taken: {e:#}")),
        })
    }

    fn removal(&self, holders: &[Holder]) -> anyhow::Result<Removal> {
        let v4 = self.topology.family != IpFamily::V6;
        let way = |placement| self.way(placement, v4).map_err(anyhow::Error::msg);
        let pods = encryption::Line::both(&way(Placement::CrossNode)?)?;
        let [control, _] = Line::both(&way(Placement::HostHost)?)?;
        Ok(Removal {
            cni: self.info.spec.clone(),
            underlay: self.underlay.clone().context("the cluster is down")?,
            nodes: self.node_addrs().collect(),
            wrapping: self.cni.wrapping().context("it does not say what it wraps packets in")?,
            pods,
            control,
            keys: holders.get(CLIENTS).context("no node")?.keys.clone(),
            node: format!("node {CLIENTS}"),
        })
    }
}

//! Proofs: evidence that a cluster carries traffic the way its cni claims.
//!
//! Owns what is tried and how it is judged; nothing here knows a cni by name. Here, traffic is made by
//! sockets of this process that were opened inside the ends' namespaces; where the ends are not on
//! this machine, by agents ([`agents`]). Called by clusters, once before the first trial.

pub mod agents;
mod connectivity;
mod echo;
pub mod encryption;
mod judgement;
pub mod key_removal;
pub mod lookout;
mod mtu;
mod packet_ring;
mod packet_socket;
mod path;
pub mod payload;
pub mod sniffer;

pub use connectivity::reachable;
pub use echo::{Echo, TrafficError};

use crate::{
    cluster::Ends,
    cni::{Cni, Side},
    netlink::Netns,
};
use cnibench_model::{CniSpec, Placement, Proof, ProofKind, ProofOutcome};
use std::{fmt, sync::Arc};

/// One way through the cluster: a placement in one address family.
#[derive(Debug, Clone)]
pub struct Way {
    /// The placement.
    pub placement: Placement,
    /// Its ends.
    pub ends: Ends,
    /// The client's namespace.
    pub client: Netns,
    /// The server's namespace.
    pub server: Netns,
    /// The namespace of the client's node.
    pub client_node: Netns,
    /// The namespace of the server's node.
    pub server_node: Netns,
}

impl Way {
    /// The namespace of an end.
    fn end(&self, side: Side) -> &Netns {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    /// True when that end is its node itself.
    fn is_node(&self, side: Side) -> bool {
        let node = match side {
            Side::Client => &self.client_node,
            Side::Server => &self.server_node,
        };
        self.end(side).path() == node.path()
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.ends.server_addr.is_ipv4() { 4 } else { 6 };
        write!(f, "{} (IPv{version})", self.placement)
    }
}

/// Everything that proofs look at.
#[derive(Clone)]
pub struct Scene {
    /// The cni as asked for.
    pub spec: CniSpec,
    /// True when it claims to encrypt.
    pub encrypted: bool,
    /// The datapath.
    pub cni: Arc<dyn Cni>,
    /// The namespace of the bridge between the nodes: where a sniffer sees all node traffic.
    pub underlay: Netns,
    /// MTU between the nodes.
    pub underlay_mtu: u32,
    /// Every way that the cluster offers.
    pub ways: Vec<Way>,
}

/// Takes every proof.
pub async fn all(scene: &Scene) -> Vec<Proof> {
    // One after the other: the path proof counts packets, and nothing else may send any.
    let connectivity = connectivity::prove(scene).await;
    let reachable = connectivity.outcome == ProofOutcome::Passed;
    let mut proofs = vec![connectivity];
    if reachable {
        proofs.push(path::prove(scene).await);
        proofs.extend(mtu::prove(scene).await);
        proofs.extend(encryption::prove_scene(scene).await);
    }
    proofs
}

/// What was found on one way: a line of evidence, and whether it is as claimed.
type Finding = Result<String, String>;

/// A proof from what was found on each way. `passed` is its sentence when all is well.
fn proof(cni: &CniSpec, kind: ProofKind, passed: &str, findings: Vec<Finding>) -> Proof {
    let failed: Vec<&String> = findings.iter().filter_map(|f| f.as_ref().err()).collect();
    let summary = match (failed.first(), findings.is_empty()) {
        (Some(first), _) if failed.len() == 1 => (*first).clone(),
        (Some(first), _) => format!("{first} (and {} more)", failed.len() - 1),
        (None, true) => "nothing could be looked at".to_owned(),
        (None, false) => passed.to_owned(),
    };
    let outcome = if failed.is_empty() && !findings.is_empty() {
        ProofOutcome::Passed
    } else {
        ProofOutcome::Failed
    };
    let evidence = findings.into_iter().map(|f| f.unwrap_or_else(|e| format!("failed: {e}")));
    Proof { kind, cni: cni.clone(), outcome, summary, evidence: evidence.collect() }
}

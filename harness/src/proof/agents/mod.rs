//! The proofs where ends and nodes are reached through agents and observers only: a Kubernetes
//! cluster, or anything else that can start `cnibench agent` in a place.
//!
//! Owns what is tried over them; sniffed frames are judged as everywhere. What a cluster has to
//! bring is in [`Stage`]: agents in the ends, optional observers of the nodes, the cni's claims. What
//! only a cluster can do (policies, the cni's own flow log) is asked of it through small traits.

mod connectivity;
mod encryption;
pub mod flows;
mod mtu;
mod path;
pub mod policy;

use super::{Finding, proof};
use crate::{
    cluster::Ends,
    cni::Wrapping,
    exec::{Agent, AgentError, Observer},
};
use anyhow::bail;
use cnibench_model::{CniSpec, Placement, Proof, ProofKind, ProofOutcome};
use cnibench_workloads::protocol::Volley;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// What is missing where nodes would have to be looked at.
pub const NEEDS_OBSERVERS: &str = "needs the node agents (--privileged)";

/// How long a way of a cluster may take to work, as a rule.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One way through the cluster: a placement in one address family.
#[derive(Debug, Clone)]
pub struct Way {
    /// The placement.
    pub placement: Placement,
    /// Its ends; their places' ids name agents of the [`Cast`].
    pub ends: Ends,
    /// The client's node, by a name of [`Stage::nodes`].
    pub client_node: String,
    /// The server's node.
    pub server_node: String,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.ends.server_addr.is_ipv4() { 4 } else { 6 };
        write!(f, "{} (IPv{version})", self.placement)
    }
}

/// Agents by the id of their place.
#[derive(Debug, Default)]
pub struct Cast(pub HashMap<String, Agent>);

impl Cast {
    /// Several agents at once.
    ///
    /// # Errors
    /// The id that has no agent, or is named twice.
    pub fn several<const N: usize>(&mut self, ids: [&str; N]) -> anyhow::Result<[&mut Agent; N]> {
        if BTreeSet::from(ids).len() < N {
            bail!("{}: one agent is one end only", ids.join(", "));
        }
        if let Some(id) = ids.iter().find(|id| !self.0.contains_key(**id)) {
            bail!("no agent runs in {id}");
        }
        let mut found = Vec::with_capacity(N);
        found.extend(self.0.get_disjoint_mut(ids).into_iter().flatten());
        match found.try_into() {
            Ok(agents) => Ok(agents),
            Err(_) => bail!("{}: not all of them have agents", ids.join(", ")),
        }
    }
}

/// A node that is looked at.
#[derive(Debug)]
pub struct Watched {
    /// Its address on the underlay.
    pub addr: IpAddr,
    /// Who looks.
    pub observer: Observer,
}

/// What a cni says of itself, for proofs to hold it to.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    /// True when it claims to encrypt traffic between nodes.
    pub encrypted: bool,
    /// What it wraps pods' packets in between nodes, where it encrypts.
    pub wrapping: Option<Wrapping>,
    /// What the cni itself says of its encryption.
    pub status: Vec<Status>,
    /// Devices of both nodes that must carry the packets of pods to other nodes.
    pub carries: Vec<String>,
    /// Devices that must not.
    pub silent: Vec<String>,
    /// The MTU that its pods are promised, where it is known.
    pub mtu: Option<u32>,
}

/// The output of a command of the cni's own.
#[derive(Debug, Clone)]
pub struct Status {
    /// Where it was run: a node.
    pub node: String,
    /// The command.
    pub command: String,
    /// What it printed, or why it could not be run.
    pub output: Result<String, String>,
    /// What it must have in it, if anything.
    pub expected: Option<String>,
}

/// Everything that proofs look at.
#[derive(Debug)]
pub struct Stage {
    /// The cni as asked for.
    pub spec: CniSpec,
    /// Every way that the cluster offers.
    pub ways: Vec<Way>,
    /// Ways between host-network pods of the same nodes: what goes around the cni. Empty where there
    /// are none.
    pub control: Vec<Way>,
    /// The agents of all ends.
    pub cast: Cast,
    /// Observed nodes by name; empty without the right to.
    pub nodes: BTreeMap<String, Watched>,
    /// What is claimed.
    pub claims: Claims,
    /// How long a way may take to work once its pods are ready: routes, identities and service tables
    /// reach the nodes a little later ([`PATIENCE`]).
    pub patience: Duration,
}

/// Takes every proof that holds for the cluster as a whole. Those of policies and flows are taken
/// on their own: [`policy::prove`], [`flows::prove`].
pub async fn all(stage: &mut Stage) -> Vec<Proof> {
    // One after the other: the path proof counts packets, and nothing else may send any.
    let connectivity = connectivity::prove(stage).await;
    let reachable = connectivity.outcome == ProofOutcome::Passed;
    let mut proofs = vec![connectivity];
    if reachable {
        proofs.extend(path::prove(stage).await);
        proofs.extend(mtu::prove(stage).await);
        proofs.extend(encryption::prove(stage).await);
    }
    proofs
}

/// A proof that could not be taken for want of rights, and on which nothing rests.
fn not_taken(cni: &CniSpec, kind: ProofKind, summary: String) -> Proof {
    Proof { kind, cni: cni.clone(), outcome: ProofOutcome::NotTaken, summary, evidence: Vec::new() }
}

/// Numbers of the ways between pods of two nodes.
fn cross_node(ways: &[Way]) -> Vec<usize> {
    let crosses = |w: &Way| w.placement == Placement::CrossNode && w.client_node != w.server_node;
    (0..ways.len()).filter(|&i| crosses(&ways[i])).collect()
}

/// A volley of nothing yet.
fn volley(server: SocketAddr) -> Volley {
    Volley {
        server,
        datagrams: 0,
        datagram_bytes: 64,
        connects: 0,
        stream_bytes: 64,
        canary: Vec::new(),
        patience_ms: 300,
    }
}

/// Starts an echo server for a way and gives where the client reaches it.
async fn serve(server: &mut Agent, ends: &Ends) -> Result<SocketAddr, AgentError> {
    let port = server.echo(ends.bind_addr, ends.port.unwrap_or(0)).await?;
    Ok(SocketAddr::new(ends.server_addr, port))
}

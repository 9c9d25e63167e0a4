//! What a cni says of itself in a cluster: what proofs hold it to, and where its own pods are.

use crate::cni::Wrapping;
use cnibench_model::CniSpec;

/// The claims of one cni.
#[derive(Debug, Clone)]
pub struct Claims {
    /// As asked for.
    pub spec: CniSpec,
    /// What it is, in one line.
    pub description: String,
    /// Its family, for figures.
    pub family: String,
    /// True when it claims to encrypt traffic between nodes.
    pub encrypted: bool,
    /// True when it claims to enforce network policies.
    pub enforces_policies: bool,
    /// True for the baseline: pods in the nodes' own network.
    pub host_network: bool,
    /// Its own pods.
    pub agents: Option<AgentPods>,
    /// Devices of a node that must carry the packets of pods to other nodes.
    pub carries: Vec<String>,
    /// Devices that must not.
    pub silent: Vec<String>,
    /// What pods' packets are wrapped in between nodes, where it encrypts.
    pub wrapping: Option<Wrapping>,
    /// A command in its own pods that says whether traffic is encrypted, and the text that it must
    /// then say.
    pub encryption_status: Option<(Vec<String>, Option<String>)>,
    /// A command in its own pods that prints the flows it saw, as JSON lines.
    pub flows: Option<Vec<String>>,
    /// What was installed, one line each.
    pub details: Vec<String>,
}

/// A cni's own pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPods {
    /// Their namespace.
    pub namespace: String,
    /// Their label selector.
    pub selector: String,
    /// The container to look into.
    pub container: String,
}

impl Claims {
    /// The baseline.
    pub fn host(spec: CniSpec) -> Self {
        Self {
            description: "pods in the nodes' own network, no CNI: the baseline".to_owned(),
            family: "host".to_owned(),
            host_network: true,
            ..Self::installed(spec)
        }
    }

    /// Whatever cni a cluster has: nothing is claimed of it.
    pub fn installed(spec: CniSpec) -> Self {
        Self {
            spec,
            description: "the CNI that the cluster has".to_owned(),
            family: "custom".to_owned(),
            encrypted: false,
            enforces_policies: false,
            host_network: false,
            agents: None,
            carries: Vec::new(),
            silent: Vec::new(),
            wrapping: None,
            encryption_status: None,
            flows: None,
            details: Vec::new(),
        }
    }
}

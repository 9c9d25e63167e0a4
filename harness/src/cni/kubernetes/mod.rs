//! Real CNIs in Kubernetes: a profile is data (`kind-configs/<cni>/cni.toml`), from the binary or a file.
//!
//! Owns what a profile says: how it is installed, when it is settled, what it claims of its packets.
//! Installing and looking are the providers' (`cluster/kind`, `cluster/kube`), which call this.

mod catalog;
mod file;
mod resolve;
mod template;
mod values;

pub use catalog::{embedded, names};
pub use resolve::KubeCni;
pub use template::{Facts, KeySeed, fill};
pub use values::{SetValues, nested};

use super::Wrapping;
use serde::Deserialize;
use std::{collections::BTreeMap, path::PathBuf};

/// A real CNI: how it comes into a cluster and what it claims.
#[derive(Debug, Clone, PartialEq)]
pub struct KubeProfile {
    /// Its name, as on the command line.
    pub name: String,
    /// Profiles of one family share a hue in figures and an entry of a sources file.
    pub family: String,
    /// What it is, in one line.
    pub description: String,
    /// True when it claims to encrypt pods' traffic between nodes.
    pub encrypted: bool,
    /// True when it claims to enforce NetworkPolicies.
    pub enforces_policies: bool,
    /// True when pods are on the nodes' network, because there is no CNI.
    pub host_network: bool,
    /// True when a bare `run` includes it where it can be carried.
    pub automatic: bool,
    /// What the nodes' kernel must have.
    pub kernel: Vec<KernelFeature>,
    /// CNI plugins that a node must have in /opt/cni/bin before pods start.
    pub plugins: Vec<String>,
    /// The cluster's config for kind without nodes, YAML.
    pub kind: String,
    /// How it is installed; None when there is nothing to install.
    pub install: Option<Install>,
    /// Its own pods, one on every node.
    pub agent: Option<AgentPods>,
    /// The pods whose cost is counted as the cni's, by what they are.
    pub components: Vec<Component>,
    /// When it is settled, beyond being Ready.
    pub settled: Settled,
    /// Which devices of a node carry pods' traffic to other nodes.
    pub path: PathClaims,
    /// What it claims of its packets between nodes when it encrypts.
    pub encryption: Option<EncryptionClaim>,
    /// Its flow observer, if it has one.
    pub flows: Option<Flows>,
    /// Where its MTU is set, if it can be.
    pub mtu: Option<MtuValue>,
}

/// What a cni needs of the nodes' kernel, where not every kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelFeature {
    /// VXLAN devices.
    Vxlan,
    /// WireGuard devices.
    Wireguard,
    /// IPsec's ESP.
    Esp,
}

/// How a cni is installed.
#[derive(Debug, Clone, PartialEq)]
pub struct Install {
    /// The namespace, made when it is not there.
    pub namespace: String,
    /// From what.
    pub from: InstallFrom,
    /// Secrets that must be there before.
    pub secrets: Vec<Secret>,
    /// Fields of its objects that are replaced before they are applied.
    pub replace: Vec<Replace>,
}

/// From what a cni is installed.
#[derive(Debug, Clone, PartialEq)]
pub enum InstallFrom {
    /// A helm chart.
    Chart(Chart),
    /// A manifest (YAML, several documents).
    Manifest(PathBuf),
    /// A command, with KUBECONFIG set.
    Command(Vec<String>),
}

/// A helm chart and our values for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// Its name in the repository, an `oci://` reference, or a folder or archive of this machine.
    pub chart: String,
    /// The repository's URL; None for the other two.
    pub repository: Option<String>,
    /// Its version; None for a folder or archive, which has one.
    pub version: Option<String>,
    /// The release's name.
    pub release: String,
    /// Our values, YAML.
    pub values: String,
}

/// A secret that a cni needs before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its name, in the namespace of the installation.
    pub name: String,
    /// Its entries, with placeholders.
    pub data: BTreeMap<String, String>,
}

/// A field of one object that is replaced before it is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replace {
    /// The object's kind.
    pub kind: String,
    /// The object's name.
    pub name: String,
    /// The field as a JSON pointer (RFC 6901); it must be there.
    pub field: String,
    /// The new text, with placeholders.
    pub with: String,
}

/// The pods of a cni itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPods {
    /// Their namespace.
    pub namespace: String,
    /// Their labels, as a selector.
    pub selector: String,
    /// The container that is the agent.
    pub container: String,
}

/// Pods of a cni of one purpose.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// What they are: "agent", "operator", "kube-proxy".
    pub name: String,
    /// Their namespace.
    pub namespace: String,
    /// Their labels, as a selector.
    pub selector: String,
}

/// When a cni is settled: all of it must hold in every agent pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// Seconds for which all of it must hold, look after look.
    pub hold_s: u32,
    /// A text that must have been logged.
    pub log: Option<String>,
    /// Texts in its log that explain why it does not settle.
    pub trouble: Vec<String>,
    /// Commands whose output must hold a text.
    pub checks: Vec<Check>,
}

/// A command in the agent's container whose output must hold a text, and others not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The command.
    pub command: Vec<String>,
    /// What standard output must hold.
    pub says: String,
    /// What it must not hold.
    pub lacks: Vec<String>,
}

/// Devices of a node and pods' traffic to other nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathClaims {
    /// Their packet counters must rise by what was sent.
    pub carries: Vec<String>,
    /// Their packet counters must not, or they must not exist.
    pub silent: Vec<String>,
}

/// What a cni that encrypts says of its packets and of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptionClaim {
    /// What pods' packets are wrapped in between nodes.
    pub wrapping: Wrapping,
    /// What the cni says of itself.
    pub status: Option<Check>,
}

/// A flow observer that can be switched on and off.
#[derive(Debug, Clone, PartialEq)]
pub struct Flows {
    /// The command in the agent's container that prints flows as JSON lines.
    pub observe: Vec<String>,
    /// Values of the chart with it.
    pub on: SetValues,
    /// Values of the chart without it.
    pub off: SetValues,
}

/// The chart's value for the MTU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MtuValue {
    /// Its dotted path.
    pub value: String,
    /// Bytes to add to the pods' MTU to get what the chart wants.
    pub overhead: u32,
}

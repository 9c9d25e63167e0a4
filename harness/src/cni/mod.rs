//! What a cni is: the table of profiles, and the traits that a new one implements.
//!
//! To add one: a file with a `pub const PROFILE: Profile`, a type that implements [`Cni`] and one
//! that implements [`NodeAgent`], and a line in [`PROFILES`]. Nothing CNI-specific stands outside
//! this folder; nothing here knows how nodes come about (that is `cluster/`).

pub mod bridge;
pub mod conflist;
pub mod context;
pub mod custom;
pub mod ebpf;
pub mod flannel;
pub mod flannel_host_gw;
pub mod flannel_ipsec;
pub mod flannel_vxlan;
pub mod flannel_wireguard;
pub mod host;
pub mod ipsec;
pub mod keys;
pub mod kubernetes;
pub mod needs;
pub mod params;
pub mod policies;
pub mod wireguard;
pub mod wireguard_userspace;
pub mod wrapping;

pub use context::{Claim, Entry, Facts, NodeCtx, Peer, PodCtx, PodNet, Policy, Side};
pub use keys::Keys;
pub use needs::Needs;
pub use params::{Param, Settings};
pub use wrapping::Wrapping;

use crate::cluster::{ClusterError, Topology};
use async_trait::async_trait;
use cnibench_model::{CniSpec, Placement, nearest::did_you_mean};
use cnibench_probes::datapath::Counters;
use std::{net::IpAddr, sync::Arc};

/// Every profile, in the order in which people see them.
pub const PROFILES: &[&Profile] = &[
    &host::PROFILE,
    &flannel_host_gw::PROFILE,
    &flannel_vxlan::PROFILE,
    &ebpf::NATIVE,
    &ebpf::VXLAN,
    &wireguard_userspace::PROFILE,
    &flannel_wireguard::PROFILE,
    &flannel_ipsec::PROFILE,
    &ebpf::WIREGUARD,
    &ebpf::IPSEC,
    &conflist::PROFILE,
    &custom::PROFILE,
];

/// How a profile's parameters and the cluster's shape become a datapath.
pub type Build = fn(&Settings<'_>, &Topology) -> Result<Arc<dyn Cni>, ClusterError>;

/// A named datapath: what `list cnis` prints and what a spec is checked against.
pub struct Profile {
    /// Its name, as on the command line.
    pub name: &'static str,
    /// Profiles of one family share a hue in figures.
    pub family: &'static str,
    /// What it is, in one line.
    pub description: &'static str,
    /// Parameters it takes.
    pub params: &'static [Param],
    /// True when it claims to encrypt traffic between nodes.
    pub encrypted: bool,
    /// True when a bare `run` includes it where it can be carried.
    pub automatic: bool,
    /// Kernel modules that it is made of, beside those of the nodes and their wire: a guest loads them.
    pub modules: &'static [&'static str],
    /// Can this host and kernel carry it? Found by a real try (see [`crate::netlink::namespace::scratch`]),
    /// never by a feature list. Blocks. The reason names what is missing and the next step.
    pub check: fn(&CniSpec) -> Result<(), String>,
    /// Settles the parameters. Touches nothing. Wrong values are [`ClusterError::Usage`].
    pub build: Build,
}

impl Profile {
    /// The profile of a spec, its parameters' names checked.
    ///
    /// # Errors
    /// `Usage` with the nearest name.
    pub fn of(spec: &CniSpec) -> Result<&'static Self, ClusterError> {
        let Some(profile) = PROFILES.iter().find(|p| p.name == spec.name) else {
            let near = did_you_mean(&spec.name, PROFILES.iter().map(|p| p.name));
            let text = match kubernetes::names().any(|name| name == spec.name) {
                true => format!("{0} is a cni of --provider kind or kubeconfig", spec.name),
                false => format!(
                    "unknown cni {:?}{near} (`cnibench list cnis` names them all)",
                    spec.name
                ),
            };
            return Err(ClusterError::Usage(text));
        };
        params::check_names(spec, profile.params)?;
        Ok(profile)
    }

    /// [`of`](Self::of) and [`build`](Self::build) in one.
    ///
    /// # Errors
    /// `Usage`, or `Unsupported` for what this release does not build.
    pub fn resolve(
        spec: &CniSpec,
        topology: &Topology,
    ) -> Result<(&'static Self, Arc<dyn Cni>), ClusterError> {
        let profile = Self::of(spec)?;
        Ok((profile, (profile.build)(&Settings::new(spec), topology)?))
    }
}

/// A datapath with its parameters settled, for one cluster.
#[async_trait]
pub trait Cni: Send + Sync {
    /// MTU of the pods in bytes.
    fn pod_mtu(&self) -> u32;

    /// True when pods are the nodes themselves: then no pod namespaces are used as ends.
    fn host_network(&self) -> bool {
        false
    }

    /// Why `placement` cannot be offered, or None. Two nodes and two pods are there.
    fn refuses(&self, placement: Placement) -> Option<String> {
        let _ = placement;
        None
    }

    /// What the path proof holds the datapath to: devices that carry traffic of `placement` to
    /// an address of this family, and devices that must not see it.
    fn path(&self, placement: Placement, to: IpAddr) -> Vec<Claim>;

    /// True when [`path`](Self::path) names every device that carries packets between the pods' own
    /// veth pairs, so that all others must be silent.
    fn names_whole_path(&self) -> bool {
        true
    }

    /// How packets come into pods, for the path proof to hold it to.
    fn entry(&self) -> Entry {
        Entry::Port
    }

    /// How policies are enforced, in a few words, for the reader of a proof.
    ///
    /// # Errors
    /// Why they are not.
    fn policies(&self) -> Result<&'static str, String> {
        Err("this cni enforces no policies".to_owned())
    }

    /// What packets of pods are wrapped in between nodes, for the encryption proof. A profile that
    /// says `encrypted` says this too.
    fn wrapping(&self) -> Option<Wrapping> {
        None
    }

    /// What it uses of the machine beside the kernel and this binary, for nodes that have none of it.
    ///
    /// # Errors
    /// What is not there on this machine either.
    fn needs(&self) -> Result<Needs, String> {
        Ok(Needs::default())
    }

    /// What was built, one line each, for the reader who asks; without addresses of single nodes.
    fn details(&self) -> Vec<String>;

    /// Starts the cni's agent on a node, which makes what it can without knowing its peers
    /// (devices, keys). Nothing may stay behind when it fails: the agent is told no more.
    ///
    /// # Errors
    /// What could not be made, and why.
    async fn start(&self, node: Arc<NodeCtx>) -> anyhow::Result<Box<dyn NodeAgent>>;
}

/// The cni's agent on one node. It programs its own node and never reaches across.
#[async_trait]
pub trait NodeAgent: Send + Sync {
    /// What peers must know of this node beyond its addresses (MAC of a tunnel, public key): what
    /// a real agent writes to the node's annotations.
    fn facts(&self) -> Facts {
        Facts::new()
    }

    /// Programs the way to all peers.
    ///
    /// # Errors
    /// What could not be programmed, and why.
    async fn join(&mut self, peers: &[Peer]) -> anyhow::Result<()>;

    /// Connects a pod: CNI's ADD.
    ///
    /// # Errors
    /// What could not be made, and why.
    async fn add_pod(&mut self, pod: &PodCtx) -> anyhow::Result<PodNet>;

    /// Is everything still as [`join`](Self::join) and [`add_pod`](Self::add_pod) left it (processes
    /// alive, CNI's CHECK content)? Asked after a trial that failed and at the end of the run.
    ///
    /// # Errors
    /// What is no longer there.
    async fn check(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// What only shows on the node once its pods are connected, one line each, for the record.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Replaces the policies of a pod of this node; none: everybody may send to it. In force when this
    /// returns. Asked only where [`Cni::policies`] says how.
    ///
    /// # Errors
    /// What could not be programmed, and why.
    async fn set_policies(&mut self, pod: &PodCtx, policies: &[Policy]) -> anyhow::Result<()> {
        anyhow::ensure!(policies.is_empty(), "pod {}: this cni enforces no policies", pod.index);
        Ok(())
    }

    /// Packets to a pod of this node that its policies stopped so far; None where nobody counts them or
    /// there are no policies.
    ///
    /// # Errors
    /// The kernel's reason.
    async fn denied(&self, pod: &PodCtx) -> anyhow::Result<Option<u64>> {
        let _ = pod;
        Ok(None)
    }

    /// What its eBPF programs counted on this node so far; None where it has none that count.
    ///
    /// # Errors
    /// The kernel's reason.
    fn counters(&self) -> anyhow::Result<Option<Counters>> {
        Ok(None)
    }

    /// The keys that it encrypts with, for who takes them away or changes them; None: it has none, or
    /// nobody else may touch them.
    fn keys(&self) -> Option<Arc<dyn Keys>> {
        None
    }

    /// Disconnects a pod: CNI's DEL. Its namespace goes away right after it; an agent with
    /// nothing outside of the pod's and the node's namespaces has nothing to do.
    ///
    /// # Errors
    /// Collected; taking down goes on.
    async fn remove_pod(&mut self, pod: &PodCtx) -> anyhow::Result<()> {
        let _ = pod;
        Ok(())
    }

    /// Gives up at once what the agent may still be doing for a caller that no longer waits, without
    /// waiting for its end. Called on all agents of a cluster before it is taken down or dropped.
    fn abandon(&self) {}

    /// Stops the agent: ends its processes and tasks, removes files. Devices, routes and rules of
    /// the node's namespace go away with it. Idempotent.
    ///
    /// # Errors
    /// Collected; taking down goes on.
    async fn stop(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(spec: &str) -> String {
        let spec: CniSpec = spec.parse().unwrap();
        match Profile::resolve(&spec, &Topology::default()) {
            Ok(_) => panic!("{spec} was accepted"),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn wrong_names_offer_the_nearest() {
        assert!(error("hots").contains("did you mean \"host\"?"));
        assert!(error("host:mtu=1400").contains("takes no parameters"));
    }

    #[test]
    fn names_are_unique_and_parse() {
        for (i, profile) in PROFILES.iter().enumerate() {
            assert_eq!(
                CniSpec::named(profile.name).to_string().parse(),
                Ok(CniSpec::named(profile.name))
            );
            assert!(PROFILES[..i].iter().all(|p| p.name != profile.name));
        }
    }
}

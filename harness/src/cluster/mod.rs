//! The provider trait: what brings up a cluster and where its processes run.
//!
//! Nothing here knows a CNI by name. The runner talks to clusters through these traits only.

pub mod kind;
pub mod kube;
pub mod netns;
pub mod owner;
pub mod static_binary;
pub mod vm;

use crate::{
    cni::keys::Holder,
    exec::Link,
    probe::{Sights, losses::Spot},
    proof::lookout::Lookout,
    runner::{Slot, TrialError, Unprobed},
};
use async_trait::async_trait;
use cnibench_model::{
    Case, CniInfo, CniSpec, Footprint, NodePair, Phase, Placement, ProbedTrial, Proof,
    ProviderKind, RotationTrial, Surroundings, Trial,
};
use cnibench_probes::datapath::Counters;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The shape of a cluster is the suite's to say.
pub use cnibench_model::{AddressFamily as IpFamily, Topology};

/// Why a cluster could not be brought up, or a cni cannot be carried here.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// This host or kernel cannot carry it; the text says what is missing and what to do instead.
    #[error("{cni}: {reason}")]
    Unsupported {
        /// The cni.
        cni: CniSpec,
        /// What is missing, and the next step.
        reason: String,
    },
    /// The request itself is wrong (unknown cni, unknown parameter, bad value).
    #[error("{0}")]
    Usage(String),
    /// It should have worked and did not.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// Why a cluster is not in the state that a case asks for.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It has no such state; the case is skipped.
    #[error("{0}")]
    NotOffered(String),
    /// It should have, and did not come there.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// Where one end of a trial runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// For people and logs: "node 0", "pod 1 of node 0".
    pub label: String,
    /// What its cluster knows it by: the path of a network namespace, the name of a pod.
    pub id: String,
}

/// The two ends of a placement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// Where the client runs.
    pub client: Place,
    /// Where the server runs.
    pub server: Place,
    /// The address at which the client reaches the server (for `pod-service`: the service address).
    pub server_addr: IpAddr,
    /// The address the server binds (differs from `server_addr` behind a service).
    pub bind_addr: IpAddr,
    /// The port that the server binds, where a service leads to one; none: any.
    pub port: Option<u16>,
}

/// A cluster that is up with one cni.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// What came up.
    fn info(&self) -> &CniInfo;

    /// Things that a reader of the record should know of this cluster.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// The ends of a placement, or why this cluster cannot offer it.
    ///
    /// # Errors
    /// A sentence for the skipped cell.
    fn ends(&self, placement: Placement) -> Result<Ends, String>;

    /// The ends of a placement of the baseline in this same cluster, where it rides along
    /// ([`Provider::host_rides`]).
    ///
    /// # Errors
    /// A sentence for the skipped cell.
    fn host_ends(&self, placement: Placement) -> Result<Ends, String> {
        Err(format!("no baseline of {placement} is measured in this cluster"))
    }

    /// The ends of a placement between two nodes by number, for the node-pair matrix; `host`: of the
    /// baseline.
    ///
    /// # Errors
    /// A sentence for the skipped cell.
    fn pair_ends(
        &self,
        placement: Placement,
        host: bool,
        pair: (u32, u32),
    ) -> Result<(Ends, NodePair), String> {
        let _ = (host, pair);
        Err(format!("{placement}: this provider measures no node-pair matrix"))
    }

    /// Brings the cluster to another state and waits until it is in force. Gives what was proved of
    /// it. Asked before the trials of every case, so nothing is to be done when it is there already.
    ///
    /// # Errors
    /// [`StateError`].
    async fn surround(&mut self, wanted: &Surroundings) -> Result<Vec<Proof>, StateError> {
        if wanted.is_default() {
            return Ok(Vec::new());
        }
        let what: Vec<&str> = wanted.named().into_iter().map(|(key, _)| key).collect();
        let needs = match wanted.hubble {
            Some(_) => "a cluster whose cni can be installed anew (--provider kind)",
            None => "a Kubernetes cluster (--provider kind or kubeconfig)",
        };
        Err(StateError::NotOffered(format!("{}: needs {needs}", what.join(", "))))
    }

    /// What latency probes need to know of the way between the ends of a placement; `host`: of the
    /// baseline that rides along.
    ///
    /// # Errors
    /// A sentence: why its trials cannot be probed.
    async fn sights(&self, placement: Placement, host: bool) -> Result<Sights, String> {
        let _ = (placement, host);
        Err("this provider attaches no latency probes".to_owned())
    }

    /// The network namespaces of both ends of a placement and of their nodes, where they are on the
    /// kernel of this process: whose losses its counters count.
    fn spots(&self, placement: Placement) -> Vec<Spot> {
        let _ = placement;
        Vec::new()
    }

    /// Where the traffic of a trial of this placement can be looked at, for the proof that it is
    /// encrypted; none where that is not claimed, or where this process cannot look.
    fn lookout(&self, placement: Placement) -> Option<Lookout> {
        let _ = placement;
        None
    }

    /// What eBPF programs of the cni counted on each node so far, by the node's number; of nodes
    /// where such programs count.
    ///
    /// # Errors
    /// The kernel's reason.
    fn counted(&self) -> anyhow::Result<Vec<(u32, Counters)>> {
        Ok(Vec::new())
    }

    /// What the cni's own pods cost since the last question, in this phase; at the first question
    /// nothing. Empty where the cni has no pods of its own or they cannot be asked.
    async fn footprint(&mut self, phase: Phase) -> Vec<Footprint> {
        let _ = phase;
        Vec::new()
    }

    /// From here on the cni's own pods are under load, with no idle window taken of them.
    async fn footprint_begins(&mut self) {}

    /// Asked after a trial that failed: was it the way to the cluster, and is it back? Then the trial
    /// is run once more, and the text says why.
    ///
    /// # Errors
    /// It does not come back.
    async fn mend(&mut self) -> anyhow::Result<Option<String>> {
        Ok(None)
    }

    /// Measures once, where the cluster has its own controller to do so; none where this one starts the
    /// agents.
    async fn conduct(&self, case: &Case, slot: Slot) -> Option<Result<Trial, TrialError>> {
        let _ = (case, slot);
        None
    }

    /// The keys of all nodes, for who changes them while traffic flows; none where the cni has none, or
    /// where this process does not hold them.
    fn holders(&self) -> Option<Vec<Holder>> {
        None
    }

    /// Measures once while keys are changed so often, where the cluster has its own controller to do so;
    /// none where this one does.
    async fn conduct_rotation(
        &self,
        case: &Case,
        slot: Slot,
        times: u32,
    ) -> Option<Result<RotationTrial, TrialError>> {
        let _ = (case, slot, times);
        None
    }

    /// Measures once with the latency probes, where the cluster has its own controller to do so.
    async fn conduct_probed(
        &self,
        case: &Case,
        slot: Slot,
    ) -> Option<Result<ProbedTrial, Unprobed>> {
        let _ = (case, slot);
        None
    }

    /// Starts `cnibench agent` in a place that [`ends`](Self::ends) named.
    ///
    /// # Errors
    /// Why it could not be started.
    async fn enter(&self, place: &Place) -> anyhow::Result<Link>;

    /// The place that sees the whole node of another place, where there is one: CPU times of kernel
    /// threads, which a place in its own PID namespace cannot see.
    fn observer(&self, place: &Place) -> Option<Place> {
        let _ = place;
        None
    }

    /// Starts `cnibench node-observer` in a place that [`observer`](Self::observer) named.
    ///
    /// # Errors
    /// Why it could not be started.
    async fn observe(&self, observer: &Place) -> anyhow::Result<Link> {
        Err(anyhow::anyhow!("{}: no observer of this cluster", observer.label))
    }

    /// Proofs that hold for the cluster as a whole: connectivity between every pair of ends that
    /// placements use, path, MTU, encryption. Run before the first trial and after the last.
    async fn prove(&self) -> Vec<Proof>;

    /// The proof that nothing crosses without its key. The last thing that is asked of a cluster: pods
    /// of two nodes do not reach each other after it. None where nothing is claimed to be encrypted,
    /// or where this process can take no key away.
    async fn prove_keys(&mut self) -> Option<Proof> {
        None
    }

    /// Is the datapath still what came up? Asked after a trial that failed, so that a daemon that
    /// died is named instead of the timeout it caused, and at the end of the run.
    ///
    /// # Errors
    /// What is no longer there, and on which node.
    async fn check(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Takes everything down, last in first out, collecting every error. Idempotent.
    async fn down(&mut self) -> Vec<anyhow::Error>;
}

/// What brings clusters up.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Its kind.
    fn kind(&self) -> ProviderKind;

    /// True where the baseline `host` has no cluster of its own but is measured in every other cni's,
    /// next to it.
    fn host_rides(&self) -> bool {
        false
    }

    /// Removes what was made for clusters that were never handed out: bringing one up was given up
    /// half-way. Asked at the end of a run, after the clusters that were.
    async fn sweep(&self) -> Vec<anyhow::Error> {
        Vec::new()
    }

    /// Every cni it knows, with what it is and whether this host can carry it.
    async fn cnis(&self) -> Vec<CniOffer>;

    /// Checks a spec without touching anything: name, parameters, values for this topology,
    /// capabilities.
    ///
    /// # Errors
    /// `Usage` or `Unsupported`.
    async fn check(&self, cni: &CniSpec, topology: &Topology) -> Result<(), ClusterError>;

    /// Brings up one cluster with one cni. `index` tells clusters of one run apart.
    ///
    /// # Errors
    /// See [`ClusterError`]; whatever was made before the error is taken down again.
    async fn up(
        &self,
        index: u32,
        cni: &CniSpec,
        topology: &Topology,
    ) -> Result<Box<dyn Cluster>, ClusterError>;
}

/// A line of `cnibench list cnis`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniOffer {
    /// The profile's name.
    pub name: String,
    /// What it is, in one line.
    pub description: String,
    /// Parameters it takes, each with its meaning and default.
    pub params: Vec<(String, String)>,
    /// True when a bare `run` includes it where it can be carried.
    pub automatic: bool,
    /// None when this host can carry it, else what is missing and the next step.
    pub missing: Option<String>,
}

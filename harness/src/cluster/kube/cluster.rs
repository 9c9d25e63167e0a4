//! A cluster that was there or was made, with the pods of a run in it and the claims of its cni.

use super::{
    deployment::Deployment,
    footprint::Footprints,
    objects::Role,
    pods::{PodFacts, Pods},
    probes, prove,
    surround::{Changer, State},
};
use crate::{
    cluster::{Cluster, Ends, Place, StateError},
    cni::kubernetes::KubeCni,
    exec::{Agent, Link},
    probe::Sights,
    tell::tell,
};
use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use cnibench_model::{
    CniInfo, Footprint, NodePair, Phase, Placement, Proof, ProofOutcome, Surroundings,
};
use cnibench_workloads::protocol::Volley;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

/// How long an API server may be away before a run gives up.
const OUTAGE: Duration = Duration::from_secs(90);

/// The pods of a run, and what is claimed of the network between them.
pub struct KubeCluster {
    pub(super) pods: Pods,
    pub(super) cni: KubeCni,
    info: CniInfo,
    notes: Vec<String>,
    state: State,
    footprints: Option<Footprints>,
    /// True when the cni's own pods are others than when their window began.
    replaced: bool,
    placements: Vec<Placement>,
    /// Seats by the numbers of nodes in the plan.
    seats: HashMap<u32, usize>,
    /// Policies are proved once, and again with the flow observer on.
    proved: Mutex<Option<bool>>,
}

impl KubeCluster {
    /// Deploys the pods of a run for a cni that is there. What was made stays when it fails: the
    /// caller removes it with the `Pods` that it keeps.
    ///
    /// # Errors
    /// What could not be made or does not come up, and why.
    pub async fn deploy(
        pods: &mut Pods,
        deployment: &Deployment,
        cni: &KubeCni,
        begun: Instant,
    ) -> anyhow::Result<CniInfo> {
        pods.deploy(deployment).await?;
        let profile = &cni.profile;
        let mut details = vec![format!("cluster {}", pods.access.name)];
        details.push(match pods.common.cpus {
            Some(n) => format!("workload pods: {n} CPUs requested and at most (Guaranteed)"),
            None => "workload pods: no CPU limit, nothing can throttle them".to_owned(),
        });
        Ok(CniInfo {
            spec: cni.spec.clone(),
            description: profile.description.clone(),
            family: profile.family.clone(),
            encrypted: profile.encrypted,
            mtu: mtu(pods, profile.host_network).await?,
            setup_ms: begun.elapsed().as_secs_f64() * 1e3,
            details,
        })
    }

    /// Of pods that were deployed. What the cni's own pods cost is asked where observers were.
    pub fn new(pods: Pods, cni: KubeCni, info: CniInfo, deployment: &Deployment) -> Self {
        let footprints = deployment.observers;
        let placements = deployment.placements.clone();
        let components = cni.profile.components.clone();
        let client = pods.access.client.clone();
        let footprints = (footprints && !components.is_empty())
            .then(|| Footprints::new(client, cni.spec.clone(), components));
        Self {
            pods,
            cni,
            info,
            notes: Vec::new(),
            state: State::default(),
            footprints,
            replaced: false,
            placements,
            seats: deployment.seats.by_number(),
            proved: Mutex::new(None),
        }
    }

    /// With something a reader of the record should know.
    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// The cni is about to be installed again.
    pub async fn switches(&mut self) {
        if let Some(footprints) = &mut self.footprints {
            // What fails here fails at the end of the load, too, and is told there.
            let _ = footprints.pause().await;
        }
    }

    /// The cni was installed again with its flow observer switched.
    pub fn switched(&mut self, cni: KubeCni) {
        self.cni = cni;
        self.replaced = true;
    }

    /// The policy proof, and that of the flow log where there is one, unless they were taken with
    /// the cni as it is now.
    async fn prove_policies(&self) -> Vec<Proof> {
        let now = self.cni.hubble == Some(true);
        let due = match self.proved.lock() {
            Ok(mut proved) => {
                let due =
                    !self.host_network() && (proved.is_none() || now && *proved != Some(true));
                *proved = Some(now || *proved == Some(true));
                due
            }
            Err(_) => false,
        };
        if !due {
            return Vec::new();
        }
        let proofs = prove::policies(&self.pods, &self.cni).await;
        let again = |p: &Proof| matches!(p.outcome, ProofOutcome::Failed | ProofOutcome::NotTaken);
        if proofs.iter().any(again)
            && let Ok(mut proved) = self.proved.lock()
        {
            *proved = None;
        }
        proofs
    }

    fn host_network(&self) -> bool {
        self.cni.profile.host_network
    }
}

impl KubeCluster {
    /// What is known of the pod that a place is.
    pub(super) fn pod(&self, place: &Place) -> Option<&PodFacts> {
        self.pods.pods.get(&place.id)
    }
}

#[async_trait]
impl Cluster for KubeCluster {
    fn info(&self) -> &CniInfo {
        &self.info
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn ends(&self, placement: Placement) -> Result<Ends, String> {
        if self.state.has_policies()
            && !matches!(placement, Placement::CrossNode | Placement::PodService)
        {
            return Err(format!(
                "policies select the server of cross-node and pod-service, not that of {placement}"
            ));
        }
        self.pods.ends(placement, self.host_network(), (0, 1))
    }

    fn host_ends(&self, placement: Placement) -> Result<Ends, String> {
        self.pods.ends(placement, true, (0, 1))
    }

    fn pair_ends(
        &self,
        placement: Placement,
        host: bool,
        (a, b): (u32, u32),
    ) -> Result<(Ends, NodePair), String> {
        if placement != Placement::CrossNode {
            return Err(format!("{placement} is not measured in the node-pair matrix"));
        }
        if self.state.has_policies() {
            return Err("policies select one server, not those of all pairs".to_owned());
        }
        let seat = |number| {
            let seat = self.seats.get(&number).copied();
            seat.ok_or_else(|| format!("this run uses no node {number}"))
        };
        let pair = (seat(a)?, seat(b)?);
        let host = host || self.host_network();
        let ends = self.pods.ends(placement, host, pair)?;
        let name = |node| self.pods.node_name(node).map(str::to_owned);
        Ok((ends, NodePair { client: name(pair.0)?, server: name(pair.1)? }))
    }

    async fn surround(&mut self, wanted: &Surroundings) -> Result<Vec<Proof>, StateError> {
        let changer = Changer {
            pods: &self.pods,
            cni: &self.info.spec,
            claims_policies: self.cni.profile.enforces_policies,
            host_network: self.host_network(),
            hubble: self.cni.hubble,
        };
        let mut proofs = changer.reach(&mut self.state, wanted).await?;
        if std::mem::take(&mut self.replaced)
            && let Some(footprints) = &mut self.footprints
        {
            // What fails here fails at the end of the load, too, and is told there.
            let _ = footprints.resume().await;
        }
        // What the proof sends must not meet other policies.
        if wanted.hubble == Some(true) && !self.state.has_policies() {
            proofs.extend(self.prove_policies().await);
        }
        Ok(proofs)
    }

    async fn footprint(&mut self, phase: Phase) -> Vec<Footprint> {
        let Some(footprints) = &mut self.footprints else { return Vec::new() };
        let taken = match phase {
            Phase::Idle => footprints.idle().await,
            Phase::Load => footprints.load().await,
        };
        taken.unwrap_or_else(|e| {
            tell(&format!("{}: what its own pods cost cannot be read: {e:#}", self.info.spec));
            self.footprints = None;
            Vec::new()
        })
    }

    async fn footprint_begins(&mut self) {
        if let Some(footprints) = &mut self.footprints {
            // What fails here fails at the end of the load, too, and is told there.
            let _ = footprints.begin().await;
        }
    }

    async fn mend(&mut self) -> anyhow::Result<Option<String>> {
        let cut = self.pods.was_cut(OUTAGE).await?;
        Ok(cut.map(|what| format!("{what} in mid-trial; this is the trial that was run again")))
    }

    async fn enter(&self, place: &Place) -> anyhow::Result<Link> {
        self.pods.start(&place.id, "agent").await
    }

    async fn sights(&self, placement: Placement, host: bool) -> Result<Sights, String> {
        let ends = if host { self.host_ends(placement) } else { self.ends(placement) }?;
        probes::sights(self, &ends).await.map_err(|e| format!("{e:#}"))
    }

    fn observer(&self, place: &Place) -> Option<Place> {
        let node = self.pods.pods.get(&place.id)?.node;
        let pod = self.pods.pod(node, Role::Observer).ok()?;
        Some(Place { label: pod.role.describe(&pod.node_name), id: pod.role.name(node) })
    }

    async fn observe(&self, observer: &Place) -> anyhow::Result<Link> {
        self.pods.start(&observer.id, "node-observer").await
    }

    async fn prove(&self) -> Vec<Proof> {
        let mut proofs = prove::whole(&self.pods, &self.cni, &self.placements).await;
        if !proofs.iter().any(|p| p.outcome == ProofOutcome::Failed) {
            proofs.extend(self.prove_policies().await);
        }
        proofs
    }

    async fn check(&mut self) -> anyhow::Result<()> {
        self.pods.check().await?;
        // The API may know nothing yet of a node that is gone: its pods answer, or they do not.
        self.pods.answer().await
    }

    async fn down(&mut self) -> Vec<anyhow::Error> {
        self.pods.remove().await
    }
}

/// The MTU of the path between pods of two nodes, as the client's kernel knows it: that of the
/// route, which may be less than the interface's (Cilium in a tunnel).
async fn mtu(pods: &Pods, host_network: bool) -> anyhow::Result<u32> {
    let ends = pods.ends(Placement::CrossNode, host_network, (0, 1)).map_err(|e| anyhow!(e))?;
    let start = async |place: &Place| -> anyhow::Result<Agent> {
        Ok(Agent::start(&place.label, pods.start(&place.id, "agent").await?).await?)
    };
    let (mut server, mut client) = (start(&ends.server).await?, start(&ends.client).await?);
    let port = server.echo(ends.bind_addr, 0).await?;
    let volley = Volley {
        server: SocketAddr::new(ends.server_addr, port),
        datagrams: 1,
        datagram_bytes: 64,
        connects: 0,
        stream_bytes: 64,
        canary: Vec::new(),
        patience_ms: 100,
    };
    let mtu = client.volley(&volley).await?.mtu;
    client.stop().await;
    server.stop().await;
    mtu.context("the client's kernel does not say the path's MTU")
}

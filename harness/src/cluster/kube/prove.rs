//! What proofs need of a cluster: agents in the pods, observers on the nodes, what the cni says of
//! itself, a policy to apply, and its flow log.
//!
//! What is tried and how it is judged is `proof::agents`' business.

use super::{
    objects::Role,
    pods::{PodFacts, Pods, apply},
    ready,
};
use crate::{
    cluster::Ends,
    cni::kubernetes::{AgentPods, KubeCni},
    exec::{Agent, Observer, pod::Container},
    proof::agents::{self, Cast, Claims, PATIENCE, Stage, Status, Watched, Way, flows, policy},
};
use anyhow::anyhow;
use async_trait::async_trait;
use cnibench_model::{Placement, Proof, ProofKind, ProofOutcome};
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::{Api, api::DeleteParams};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

/// How long a command of the cni's own may take.
const COMMAND: Duration = Duration::from_secs(30);
/// The policy of the policy proof.
const PROOF_POLICY: &str = "proof";

/// Takes the proofs that hold for the cluster as a whole.
pub async fn whole(pods: &Pods, cni: &KubeCni, placements: &[Placement]) -> Vec<Proof> {
    match stage(pods, cni, placements).await {
        Ok(mut stage) => {
            let proofs = agents::all(&mut stage).await;
            end(stage).await;
            proofs
        }
        // A cluster that cannot be looked at is not one without claims.
        Err(e) => vec![not_seen(cni, ProofKind::Connectivity, ProofOutcome::Failed, &e)],
    }
}

/// Takes the proof of network policies and, where the cni's flow observer is on, that it saw them.
pub async fn policies(pods: &Pods, cni: &KubeCni) -> Vec<Proof> {
    match try_policies(pods, cni).await {
        Ok(proofs) => proofs,
        // Nothing was seen that stands against a claim.
        Err(e) => vec![not_seen(cni, ProofKind::Policy, ProofOutcome::NotTaken, &e)],
    }
}

fn not_seen(cni: &KubeCni, kind: ProofKind, outcome: ProofOutcome, error: &anyhow::Error) -> Proof {
    Proof {
        kind,
        cni: cni.spec.clone(),
        outcome,
        summary: format!("could not be taken: {error:#}"),
        evidence: Vec::new(),
    }
}

async fn stage(pods: &Pods, cni: &KubeCni, placements: &[Placement]) -> anyhow::Result<Stage> {
    let host = cni.profile.host_network;
    // Cross-node always: it is what the proofs of the mode rest on.
    let wanted: BTreeSet<Placement> =
        placements.iter().copied().chain([Placement::CrossNode]).collect();
    let ways: Vec<Way> = wanted.iter().filter_map(|p| way(pods, *p, host).ok()).collect();
    let control: Vec<Way> =
        if host { Vec::new() } else { way(pods, Placement::CrossNode, true).into_iter().collect() };
    let cast = cast(pods, ways.iter().chain(&control).map(|w| &w.ends)).await?;
    let nodes = observers(pods).await?;
    Ok(Stage {
        spec: cni.spec.clone(),
        ways,
        control,
        cast,
        nodes,
        claims: Claims {
            encrypted: cni.profile.encrypted,
            wrapping: cni.profile.encryption.as_ref().map(|e| e.wrapping.clone()),
            status: status(pods, cni).await,
            carries: cni.profile.path.carries.clone(),
            silent: cni.profile.path.silent.clone(),
            // What was asked for; otherwise the cni finds its own.
            mtu: cni.spec.params.get("mtu").and_then(|m| m.parse().ok()),
        },
        patience: PATIENCE,
    })
}

fn way(pods: &Pods, placement: Placement, host: bool) -> Result<Way, String> {
    let ends = pods.ends(placement, host, (0, 1))?;
    let node = |id: &str| pods.pods.get(id).map(|p| p.node_name.clone()).unwrap_or_default();
    let (client_node, server_node) = (node(&ends.client.id), node(&ends.server.id));
    Ok(Way { placement, ends, client_node, server_node })
}

/// An agent in every end.
async fn cast(pods: &Pods, ends: impl Iterator<Item = &Ends>) -> anyhow::Result<Cast> {
    let places = ends.flat_map(|e| [&e.client, &e.server]);
    let places: BTreeMap<&str, &str> = places.map(|p| (p.id.as_str(), p.label.as_str())).collect();
    let started = places.into_iter().map(|(id, label)| async move {
        let agent = Agent::start(label, pods.start(id, "agent").await?).await?;
        anyhow::Ok((id.to_owned(), agent))
    });
    let agents = futures::future::try_join_all(started).await?;
    Ok(Cast(agents.into_iter().collect::<HashMap<_, _>>()))
}

async fn observers(pods: &Pods) -> anyhow::Result<BTreeMap<String, Watched>> {
    let of_role = |(name, pod): (&String, &PodFacts)| {
        (pod.role == Role::Observer).then(|| (name.clone(), pod.clone()))
    };
    let mut all = BTreeMap::new();
    for (name, pod) in pods.pods.iter().filter_map(of_role) {
        let label = Role::Observer.describe(&pod.node_name);
        let observer = Observer::start(&label, pods.start(&name, "node-observer").await?).await?;
        all.insert(pod.node_name, Watched { addr: pod.host_ip, observer });
    }
    Ok(all)
}

async fn end(stage: Stage) {
    let Stage { cast, nodes, .. } = stage;
    let agents = cast.0.into_values().map(Agent::stop);
    let observers = nodes.into_values().map(|w| w.observer.stop());
    futures::future::join(futures::future::join_all(agents), futures::future::join_all(observers))
        .await;
}

/// What the cni says of its encryption, on the nodes of the proofs.
async fn status(pods: &Pods, cni: &KubeCni) -> Vec<Status> {
    let check = cni.profile.encryption.as_ref().and_then(|e| e.status.as_ref());
    let (Some(check), Some(agent)) = (check, &cni.profile.agent) else { return Vec::new() };
    let containers = match containers(pods, agent).await {
        Ok(containers) => containers,
        Err(e) => {
            return vec![Status {
                node: "its nodes".to_owned(),
                command: check.command.join(" "),
                output: Err(format!("{e:#}")),
                expected: Some(check.says.clone()),
            }];
        }
    };
    let mut all = Vec::new();
    for (node, container) in containers {
        let command: Vec<&str> = check.command.iter().map(String::as_str).collect();
        let output = container.output(&command, None, COMMAND).await;
        all.push(Status {
            node,
            command: check.command.join(" "),
            output: output
                .map(|o| String::from_utf8_lossy(&o).into_owned())
                .map_err(|e| format!("{e:#}")),
            expected: Some(check.says.clone()),
        });
    }
    all
}

/// The cni's own pods on the nodes of the proofs, by node.
async fn containers(pods: &Pods, agent: &AgentPods) -> anyhow::Result<Vec<(String, Container)>> {
    let client = &pods.access.client;
    let found = ready::list(client, &agent.namespace, &agent.selector).await?;
    let nodes: Vec<&str> = [0, 1].into_iter().filter_map(|n| pods.node_name(n).ok()).collect();
    let container = |pod: k8s_openapi::api::core::v1::Pod| {
        let node = pod.spec?.node_name.filter(|n| nodes.contains(&n.as_str()))?;
        Some((
            node,
            Container {
                client: client.clone(),
                namespace: agent.namespace.clone(),
                pod: pod.metadata.name?,
                container: agent.container.clone(),
                cuts: pods.cuts.clone(),
            },
        ))
    };
    Ok(found.into_iter().filter_map(container).collect())
}

async fn try_policies(pods: &Pods, cni: &KubeCni) -> anyhow::Result<Vec<Proof>> {
    let allowed = pods.ends(Placement::CrossNode, false, (0, 1)).map_err(|e| anyhow!(e))?;
    let other = pods.pod(0, Role::Pod(1)).map_err(|e| anyhow!(e))?;
    let mut denied = allowed.clone();
    denied.client.label = other.role.describe(&other.node_name);
    denied.client.id = other.role.name(other.node);
    let mut cast = cast(pods, [&allowed, &denied].into_iter()).await?;
    let mut switch =
        Switch { pods, server: allowed.server.id.clone(), client: allowed.client.id.clone() };
    let findings = policy::prove(policy::Scene {
        spec: &cni.spec,
        enforces: cni.profile.enforces_policies,
        cast: &mut cast,
        allowed: &allowed,
        denied: &denied,
        switch: &mut switch,
    })
    .await;
    futures::future::join_all(cast.0.into_values().map(Agent::stop)).await;
    let mut proofs = vec![findings.proof];
    if let (Some(sent), Some(log), Some(agent), Some(true)) =
        (&findings.counted, &cni.profile.flows, &cni.profile.agent, cni.hubble)
    {
        proofs.push(match containers(pods, agent).await {
            Ok(containers) => {
                let mut log = Log { containers, observe: &log.observe };
                flows::prove(&cni.spec, sent, &mut log).await
            }
            // The policy proof stands without it.
            Err(e) => not_seen(cni, ProofKind::Flows, ProofOutcome::NotTaken, &e),
        });
    }
    Ok(proofs)
}

/// The policy of the proof.
struct Switch<'a> {
    pods: &'a Pods,
    server: String,
    client: String,
}

#[async_trait]
impl policy::Switch for Switch<'_> {
    fn describe(&self) -> String {
        format!("NetworkPolicy {PROOF_POLICY}: to {} from {} only", self.server, self.client)
    }

    async fn apply(&mut self) -> anyhow::Result<()> {
        let api: Api<NetworkPolicy> = self.pods.api();
        let value = self.pods.common.admit(PROOF_POLICY, &self.server, &self.client);
        apply(&api, PROOF_POLICY, &value).await.map(drop)
    }

    async fn remove(&mut self) -> anyhow::Result<()> {
        let api: Api<NetworkPolicy> = self.pods.api();
        match super::access::answer(api.delete(PROOF_POLICY, &DeleteParams::default())).await {
            Ok(_) => Ok(()),
            Err(e) if super::access::is_missing(&e) => Ok(()),
            Err(e) => Err(anyhow!(super::access::explain(&e))),
        }
    }
}

/// The cni's flow log on every node.
struct Log<'a> {
    containers: Vec<(String, Container)>,
    observe: &'a [String],
}

#[async_trait]
impl flows::FlowLog for Log<'_> {
    fn describe(&self) -> String {
        let places: Vec<String> =
            self.containers.iter().map(|(node, c)| format!("{} on {node}", c.pod)).collect();
        format!("{} in {}", self.observe.join(" "), places.join(" and "))
    }

    async fn since(&mut self, since: Timestamp) -> anyhow::Result<Vec<String>> {
        let mut lines = Vec::new();
        let from = since.to_string();
        for (_, container) in &self.containers {
            let mut command: Vec<&str> = self.observe.iter().map(String::as_str).collect();
            command.extend(["--since", &from]);
            let output = container.output(&command, None, COMMAND).await?;
            lines.extend(String::from_utf8_lossy(&output).lines().map(str::to_owned));
        }
        Ok(lines)
    }
}

//! The clusters of a run, one for each cni, with the agents in them.

use super::trial::{self, Broken, Slot, TrialError};
use crate::{
    cluster::{Cluster, ClusterError, Place, Provider, Topology},
    exec::{Agent, AgentError},
};
use cnibench_model::{Case, CellStatus, CniInfo, CniSpec, Proof, ProofKind, ProofOutcome, Trial};
use std::collections::HashMap;

/// One cni's cluster and the agents that were started in it.
pub struct Arm {
    cluster: Box<dyn Cluster>,
    agents: HashMap<Place, Agent>,
}

impl Arm {
    /// Brings a cluster up and proves that it is what it claims to be.
    pub async fn up(
        provider: &dyn Provider,
        index: u32,
        cni: &CniSpec,
        topology: &Topology,
    ) -> Result<(Self, Vec<Proof>), ClusterError> {
        let cluster = provider.up(index, cni, topology).await?;
        let proofs = cluster.prove().await;
        Ok((Self { cluster, agents: HashMap::new() }, proofs))
    }

    /// Is the cluster, at the end of the run, still what was proved at its beginning? None: it is.
    pub async fn still_proved(&mut self) -> (Vec<Proof>, Option<CellStatus>) {
        if let Err(cause) = self.cluster.check().await {
            let status = CellStatus::Failed {
                short: "cni died".to_owned(),
                reason: format!("found at the end of the run: {cause:#}"),
            };
            return (Vec::new(), Some(status));
        }
        let proofs: Vec<Proof> = self.cluster.prove().await;
        let status = verdict(&proofs);
        (proofs, status)
    }

    /// What came up.
    pub fn info(&self) -> &CniInfo {
        self.cluster.info()
    }

    /// Runs one trial of a case here.
    pub async fn trial(&mut self, case: &Case, slot: Slot) -> Result<Trial, TrialError> {
        let ends = self.cluster.ends(case.placement).map_err(TrialError::NotOffered)?;
        let mut client = self.agent(&ends.client).await?;
        let server = self.agent(&ends.server).await;
        let mut server = match server {
            Ok(server) => server,
            Err(error) => {
                self.agents.insert(ends.client, client);
                return Err(error);
            }
        };
        let measured = trial::measure(case, slot, &ends, &mut client, &mut server).await;
        match measured {
            Ok(trial) => {
                self.agents.insert(ends.client, client);
                self.agents.insert(ends.server, server);
                Ok(trial)
            }
            Err(broken) => {
                // What state the pair is in is not known: the next trial starts with fresh agents.
                client.stop().await;
                server.stop().await;
                let whole = self.cluster.check().await;
                Err(match whole {
                    Ok(()) => TrialError::Broken(broken),
                    Err(cause) => TrialError::ClusterDead(Broken {
                        short: "cni died".to_owned(),
                        reason: format!("{cause:#}; {}", broken.reason),
                    }),
                })
            }
        }
    }

    /// Takes the agent of a place out of the pool, or starts one.
    async fn agent(&mut self, place: &Place) -> Result<Agent, TrialError> {
        match self.agents.remove(place) {
            Some(agent) => Ok(agent),
            None => {
                let link = self.cluster.enter(place).await.map_err(|e| {
                    Broken::from(AgentError::Start {
                        place: place.label.clone(),
                        cause: format!("{e:#}"),
                    })
                })?;
                Ok(Agent::start(&place.label, link).await.map_err(Broken::from)?)
            }
        }
    }

    /// Drops agents that may be in the middle of something.
    pub async fn forget_agents(&mut self) {
        for (_, agent) in self.agents.drain() {
            agent.stop().await;
        }
    }

    async fn down(mut self) -> Vec<anyhow::Error> {
        self.forget_agents().await;
        self.cluster.down().await
    }
}

/// What failed proofs make of all cells of a cni; a cluster that nothing proved is not proved.
pub fn verdict(proofs: &[Proof]) -> Option<CellStatus> {
    if !proofs.iter().any(|p| p.kind == ProofKind::Connectivity) {
        return Some(CellStatus::Invalid {
            short: "nothing proved".to_owned(),
            reason: "the cluster gave no connectivity proof".to_owned(),
        });
    }
    let failed = proofs.iter().find(|p| p.outcome == ProofOutcome::Failed)?;
    Some(CellStatus::Invalid {
        short: format!("{} not proved", failed.kind.name()),
        reason: format!("{} proof failed: {}", failed.kind.name(), failed.summary),
    })
}

/// All clusters that are up.
#[derive(Default)]
pub struct Arms {
    /// In the order in which they came up.
    up: Vec<(CniSpec, Arm)>,
}

impl Arms {
    /// Adds a cluster.
    pub fn insert(&mut self, cni: CniSpec, arm: Arm) {
        self.up.push((cni, arm));
    }

    /// The cluster of a cni.
    pub fn get(&mut self, cni: &CniSpec) -> Option<&mut Arm> {
        self.up.iter_mut().find(|(name, _)| name == cni).map(|(_, arm)| arm)
    }

    /// Every cluster that is up.
    pub fn all(&mut self) -> impl Iterator<Item = (&CniSpec, &mut Arm)> {
        self.up.iter_mut().map(|(cni, arm)| (&*cni, arm))
    }

    /// Takes all down, last in first out, and gives every error.
    pub async fn down_all(&mut self) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        while let Some((cni, arm)) = self.up.pop() {
            errors.extend(arm.down().await.into_iter().map(|e| e.context(cni.to_string())));
        }
        errors
    }
}

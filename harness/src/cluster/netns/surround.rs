//! Brings the server's pod to the number of policies that a case asks for, and proves each number.
//!
//! One policy admits the measured client, and stands last; the others admit addresses that nobody
//! has, so that the measured flow is looked for among all. The other pod beside the client is the one
//! that must not get through.

use super::cluster::NetnsCluster;
use crate::{
    cluster::{Cluster as _, Ends, StateError},
    cni::{NodeAgent, PodCtx, Policy},
    exec::Agent,
    proof::agents::{
        Cast,
        policy::{self, Findings},
    },
};
use anyhow::Context as _;
use async_trait::async_trait;
use cnibench_model::{Placement, Proof, ProofOutcome, Surroundings};
use futures::future::{join_all, try_join_all};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where the addresses are that nobody has: kept for benchmarks (RFC 2544, RFC 5180).
const NOBODY_V4: u32 = 0xc612_0000;
const NOBODY_V6: u128 = 0x2001_0002 << 96;

impl NetnsCluster {
    pub(super) async fn reach(&mut self, wanted: &Surroundings) -> Result<Vec<Proof>, StateError> {
        let elsewhere: Vec<&str> =
            wanted.named().into_iter().map(|(key, _)| key).filter(|k| *k != "policies").collect();
        if !elsewhere.is_empty() {
            return Err(StateError::NotOffered(format!(
                "{}: needs a Kubernetes cluster (--provider kind or kubeconfig)",
                elsewhere.join(", ")
            )));
        }
        // No policy selects pods on their node's network: the baseline shows how the machine moved.
        if self.cni.host_network() {
            return Ok(Vec::new());
        }
        let policies = wanted.policies.unwrap_or(0);
        if self.policies == Some(policies) {
            return Ok(Vec::new());
        }
        let how = self.cni.policies().map_err(StateError::NotOffered)?;
        self.policies = None;
        if policies == 0 {
            self.set(&[]).await?;
            self.policies = Some(0);
            return Ok(Vec::new());
        }
        let (allowed, denied) = self.clients().map_err(StateError::NotOffered)?;
        let admitted = self.nodes.first().and_then(|n| n.pods.first()).map(|p| p.net.addrs.clone());
        let list = list(policies, admitted.unwrap_or_default());
        let proof = self.prove_policies(how, &list, &allowed, &denied).await?;
        self.set(&list).await.with_context(|| format!("{policies} policies"))?;
        self.policies = Some(policies);
        Ok(vec![proof])
    }

    /// The measured way across nodes, and the same from the client's neighbour.
    fn clients(&self) -> Result<(Ends, Ends), String> {
        let allowed = self.ends(Placement::CrossNode)?;
        let other = self.ends(Placement::SameNode)?.server;
        Ok((allowed.clone(), Ends { client: other, ..allowed }))
    }

    /// Replaces the policies of the server's pod.
    async fn set(&mut self, list: &[Policy]) -> anyhow::Result<()> {
        let (agent, pod) = self.server()?;
        agent.set_policies(pod, list).await
    }

    /// The agent of the server's node, and the server's pod.
    fn server(&mut self) -> anyhow::Result<(&mut Box<dyn NodeAgent>, &PodCtx)> {
        let node = self.nodes.get_mut(1).context("there is no second node")?;
        let pod = node.pods.first().context("it has no pods")?;
        Ok((node.agent.as_mut().context("its agent has ended")?, &pod.ctx))
    }

    async fn prove_policies(
        &mut self,
        how: &str,
        list: &[Policy],
        allowed: &Ends,
        denied: &Ends,
    ) -> anyhow::Result<Proof> {
        let mut cast = self.cast([allowed, denied]).await?;
        let spec = self.info.spec.clone();
        let (agent, pod) = self.server()?;
        let mut switch = Switch { agent, pod, list, how, before: None, denied: None };
        let scene = policy::Scene {
            spec: &spec,
            enforces: true,
            cast: &mut cast,
            allowed,
            denied,
            switch: &mut switch,
        };
        let mut findings = policy::prove(scene).await;
        if let Some(denied) = switch.denied {
            held_to(&mut findings, denied);
        }
        join_all(cast.0.into_values().map(Agent::stop)).await;
        let mut proof = findings.proof;
        let plural = if list.len() == 1 { "policy" } else { "policies" };
        proof.summary = format!("{} {plural}: {}", list.len(), proof.summary);
        Ok(proof)
    }

    /// An agent in every end.
    async fn cast(&self, ends: [&Ends; 2]) -> anyhow::Result<Cast> {
        let mut places: Vec<_> = ends.into_iter().flat_map(|e| [&e.client, &e.server]).collect();
        places.sort_by(|a, b| a.id.cmp(&b.id));
        places.dedup();
        let started = places.into_iter().map(|place| async move {
            let agent = Agent::start(&place.label, self.enter(place).await?).await?;
            anyhow::Ok((place.id.clone(), agent))
        });
        Ok(Cast(try_join_all(started).await?.into_iter().collect()))
    }
}

/// `count` policies; the one that admits the client stands last.
fn list(count: u32, client: Vec<IpAddr>) -> Vec<Policy> {
    let nobody = |n: u32| Policy {
        admits: vec![
            Ipv4Addr::from(NOBODY_V4 + n).into(),
            Ipv6Addr::from(NOBODY_V6 + u128::from(n)).into(),
        ],
    };
    (1..count).map(nobody).chain([Policy { admits: client }]).collect()
}

/// The datapath's own count must cover what was sent and did not arrive.
fn held_to(findings: &mut Findings, dropped: u64) {
    findings.proof.evidence.push(format!("the datapath counted {dropped} packets that it stopped"));
    let Some(counted) = &findings.counted else { return };
    let sent = u64::from(counted.denied_datagrams) + u64::from(counted.denied_connects);
    if dropped < sent {
        findings.proof.outcome = ProofOutcome::Failed;
        findings.proof.summary = format!(
            "the datapath stopped {dropped} packets by its own count, the denied client sent at least {sent}"
        );
    }
}

/// All of the policies at once.
struct Switch<'a> {
    agent: &'a mut Box<dyn NodeAgent>,
    pod: &'a PodCtx,
    list: &'a [Policy],
    how: &'a str,
    /// What the datapath had counted as stopped when the policies were in place.
    before: Option<u64>,
    /// What it counted until they were removed.
    denied: Option<u64>,
}

#[async_trait]
impl policy::Switch for Switch<'_> {
    fn describe(&self) -> String {
        format!(
            "policies on the server's pod: {}, the last of them admits the measured client ({})",
            self.list.len(),
            self.how
        )
    }

    async fn apply(&mut self) -> anyhow::Result<()> {
        self.agent.set_policies(self.pod, self.list).await?;
        self.before = self.agent.denied(self.pod).await?;
        Ok(())
    }

    async fn remove(&mut self) -> anyhow::Result<()> {
        // Some counts go away with the policies.
        if let Some(before) = self.before.take() {
            let now = self.agent.denied(self.pod).await?;
            self.denied = now.map(|now| now.saturating_sub(before));
        }
        self.agent.set_policies(self.pod, &[]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_admitted_last_and_nobody_twice() {
        let client: IpAddr = "10.244.0.2".parse().unwrap();
        let all = list(1000, vec![client]);
        assert_eq!(all.len(), 1000);
        assert_eq!(all[999].admits, [client]);
        let mut others: Vec<IpAddr> = all[..999].iter().flat_map(|p| p.admits.clone()).collect();
        assert!(others.contains(&"198.18.0.1".parse().unwrap()));
        assert!(others.contains(&"2001:2::3e7".parse().unwrap()));
        others.sort();
        others.dedup();
        assert_eq!(others.len(), 2 * 999);
        assert_eq!(list(1, vec![client]).len(), 1);
    }
}

//! Brings the pods' surroundings to what a case asks for, and measures how long it took to be in
//! force: NetworkPolicies and services by number, Hubble on or off.
//!
//! Policies: number 1 admits the measured client; the others admit nobody that is there, so that the
//! admitted flow is looked for among all. In force means seen from the pods, not said by the API.

use super::{
    objects::{Role, filler_name},
    pods::{AT_ONCE, Pods, apply},
    removal::remove_named,
    watch::{INTERVAL_MS, Ready, Watch},
};
use crate::{cluster::StateError, tell::counted};
use anyhow::{Context as _, bail};
use cnibench_model::{CniSpec, Proof, ProofKind, ProofOutcome, Surroundings};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{core::v1::Service, networking::v1::NetworkPolicy};
use std::time::{Duration, Instant};

/// How long a cni may take to put policies or services in force.
const IN_FORCE: Duration = Duration::from_secs(60);
/// How long one that claims nothing may take before it is said not to enforce them.
const NOT_ENFORCED: Duration = Duration::from_secs(10);
/// The policy that admits the measured client.
const ADMIT: &str = "admit";

/// What the surroundings are now.
#[derive(Default)]
pub struct State {
    policies: u32,
    services: u32,
    /// The most policies and services that may be there after a change that failed half-way.
    unsure: Option<(u32, u32)>,
    /// None until it is known whether the cni enforces policies at all.
    enforced: Option<bool>,
}

impl State {
    /// Are there policies?
    pub fn has_policies(&self) -> bool {
        self.policies > 0 || self.unsure.is_some()
    }
}

/// What is needed to change them.
pub struct Changer<'a> {
    /// The pods.
    pub pods: &'a Pods,
    /// Whose proofs they are.
    pub cni: &'a CniSpec,
    /// Does it claim to enforce policies?
    pub claims_policies: bool,
    /// True where pods are on the nodes' network, which policies do not select.
    pub host_network: bool,
    /// Is its flow observer on? None: it has none.
    pub hubble: Option<bool>,
}

impl Changer<'_> {
    /// Brings the cluster there.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn reach(
        &self,
        state: &mut State,
        wanted: &Surroundings,
    ) -> Result<Vec<Proof>, StateError> {
        let mut proofs = Vec::new();
        let asks = wanted.policies.is_some() || wanted.services.is_some();
        if asks && self.host_network {
            return Err(StateError::NotOffered(
                "policies and services do not concern host-network pods".to_owned(),
            ));
        }
        if let Some(on) = wanted.hubble
            && self.hubble != Some(on)
        {
            return Err(StateError::NotOffered(not_switched(self.cni, self.hubble)));
        }
        // What a case does not ask for is not there: the cases before it may have.
        let policies = wanted.policies.unwrap_or(0);
        let services = wanted.services.unwrap_or(0);
        if let Some(most) = state.unsure {
            self.clear(state, most).await?;
        }
        if (policies, services) == (state.policies, state.services) {
            return Ok(proofs);
        }
        state.unsure = Some((policies.max(state.policies), services.max(state.services)));
        if policies != state.policies {
            proofs.extend(self.policies(state, policies).await?);
        }
        if services != state.services {
            proofs.extend(self.services(state, services).await?);
        }
        state.unsure = None;
        Ok(proofs)
    }

    /// Back to nothing, from a change that failed half-way.
    async fn clear(
        &self,
        state: &mut State,
        (policies, services): (u32, u32),
    ) -> anyhow::Result<()> {
        self.remove_policies(0, policies).await?;
        let names = (0..services).map(filler_name).collect();
        remove(&self.pods.api::<Service>(), names).await?;
        if policies > 0 && state.enforced.unwrap_or(self.claims_policies) {
            self.wait_for(&Role::Pod(1).name(0), true).await.context("policies were removed")?;
        }
        (state.policies, state.services, state.unsure) = (0, 0, None);
        Ok(())
    }

    async fn policies(&self, state: &mut State, wanted: u32) -> anyhow::Result<Option<Proof>> {
        let (server, client) = (Role::Pod(0).name(1), Role::Pod(0).name(0));
        if wanted == 0 {
            self.remove_policies(0, state.policies).await?;
            state.policies = 0;
            if state.enforced == Some(true) {
                self.wait_for(&Role::Pod(1).name(0), true)
                    .await
                    .context("policies were removed")?;
            }
            return Ok(None);
        }
        let watch = Watch::start(self.pods, &client).await?;
        let result = self.change(state, wanted, &server, &client, watch).await;
        result.map(Some).with_context(|| format!("{wanted} network policies"))
    }

    /// From the policies that are there to `wanted`, with the measured client as the witness.
    async fn change(
        &self,
        state: &mut State,
        wanted: u32,
        server: &str,
        client: &str,
        mut watch: Watch,
    ) -> anyhow::Result<Proof> {
        let mut evidence = Vec::new();
        let had = state.policies;
        // The others first; the one that admits goes last, so that its time is that of one change.
        self.remove_policies(0, 1.min(had)).await?;
        if wanted > had {
            let begun = Instant::now();
            self.make_fillers(had.max(1)..wanted, server).await?;
            if wanted > had.max(1) {
                evidence.push(format!(
                    "{} made in {:.1} s",
                    policies(wanted - had.max(1)),
                    begun.elapsed().as_secs_f64()
                ));
            }
        } else {
            self.remove_policies(wanted, had).await?;
        }
        state.policies = wanted;
        let enforces = self.claims_policies || state.enforced == Some(true);
        let patience = if enforces { IN_FORCE } else { NOT_ENFORCED };
        let outcome = if wanted > 1 {
            let blocked = watch.turns(false, patience).await?;
            match blocked {
                None => {
                    // It may come into force yet: the measured flow must then be admitted.
                    self.apply_admit(server, client).await?;
                    None
                }
                Some(_) => {
                    let (first, _) = self.admit(&mut watch, server, client).await?;
                    // Once more, now that nothing else is under way.
                    self.remove_policies(0, 1).await?;
                    let removed = Instant::now();
                    let again = watch.turns(false, patience).await?.context(
                        "the flow goes on though the policy that admitted it was removed",
                    )?;
                    evidence.push(format!(
                        "admitted {first:.0} ms after the API server took the policy that admits, with {} others applied just before",
                        wanted - 1
                    ));
                    evidence.push(format!(
                        "blocked {:.0} ms after that policy was removed",
                        ms(again, removed)
                    ));
                    let (second, _) = self.admit(&mut watch, server, client).await?;
                    Some(second)
                }
            }
        } else {
            // Alone, it admits the client and stops the other pod.
            let mut other = Watch::start(self.pods, &Role::Pod(1).name(0)).await?;
            other.turns(true, IN_FORCE).await?.context("the other pod reaches the server")?;
            let applied = self.apply_admit(server, client).await?;
            let blocked = other.turns(false, patience).await?;
            other.end().await;
            blocked.map(|at| ms(at, applied))
        };
        watch.end().await;
        state.enforced = Some(outcome.is_some() || enforces);
        evidence.push(format!(
            "times as seen by a probe of the measured path every {INTERVAL_MS} ms, from the API server's answer; late by what a line takes over exec"
        ));
        Ok(match outcome {
            Some(ms) => Proof {
                kind: ProofKind::Policy,
                cni: self.cni.clone(),
                outcome: ProofOutcome::Passed,
                summary: if wanted == 1 {
                    format!(
                        "1 policy: what it forbids was stopped {ms:.0} ms after the API server took it"
                    )
                } else {
                    format!(
                        "{wanted} policies: the one that admits let the flow through {ms:.0} ms after the API server took it"
                    )
                },
                evidence,
            },
            None => Proof {
                kind: ProofKind::Policy,
                cni: self.cni.clone(),
                outcome: if enforces { ProofOutcome::Failed } else { ProofOutcome::NotEnforced },
                summary: format!(
                    "{}: what they forbid still passes {} s after they were applied",
                    policies(wanted),
                    patience.as_secs()
                ),
                evidence,
            },
        })
    }

    /// Applies the policy that admits the client and waits until it is through: milliseconds.
    async fn admit(
        &self,
        watch: &mut Watch,
        server: &str,
        client: &str,
    ) -> anyhow::Result<(f64, Instant)> {
        let applied = self.apply_admit(server, client).await?;
        let through = watch
            .turns(true, IN_FORCE)
            .await?
            .context("the policy that admits the flow was applied, and it is still blocked")?;
        Ok((ms(through, applied), applied))
    }

    async fn apply_admit(&self, server: &str, client: &str) -> anyhow::Result<Instant> {
        let api = self.pods.api::<NetworkPolicy>();
        apply(&api, ADMIT, &self.pods.common.admit(ADMIT, server, client)).await?;
        Ok(Instant::now())
    }

    async fn make_fillers(
        &self,
        numbers: std::ops::Range<u32>,
        server: &str,
    ) -> anyhow::Result<()> {
        let api = self.pods.api::<NetworkPolicy>();
        let all: Vec<_> =
            numbers.map(|n| (filler_name(n), self.pods.common.filler(n, server))).collect();
        let made = stream::iter(all).map(|(name, value)| {
            let api = api.clone();
            async move { apply(&api, &name, &value).await.map(drop) }
        });
        made.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
    }

    /// Removes policies `from..to`; number 0 is the one that admits.
    async fn remove_policies(&self, from: u32, to: u32) -> anyhow::Result<()> {
        let api = self.pods.api::<NetworkPolicy>();
        let names: Vec<String> =
            (from..to).map(|n| if n == 0 { ADMIT.to_owned() } else { filler_name(n) }).collect();
        remove(&api, names).await
    }

    async fn services(&self, state: &mut State, wanted: u32) -> anyhow::Result<Option<Proof>> {
        let server = Role::Pod(0).name(1);
        let name = filler_name;
        let had = state.services;
        if wanted < had {
            remove(&self.pods.api::<Service>(), (wanted..had).map(name).collect()).await?;
            state.services = wanted;
            return Ok(None);
        }
        // Its agents are there before the services are: starting them takes longer than a cni does.
        let ready = Ready::service(self.pods, &Role::Pod(0).name(0)).await?;
        let begun = Instant::now();
        let made = stream::iter(had..wanted - 1).map(|n| {
            let server = &server;
            async move { self.pods.make_service(&name(n), server).await.map(drop) }
        });
        made.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        // The last one by itself, so that its time is that of one change.
        let ip = self.pods.make_service(&name(wanted - 1), &server).await?;
        let applied = Instant::now();
        state.services = wanted;
        let making = begun.elapsed();
        let mut watch = ready.watch(ip).await?;
        let reached = watch.turns(true, IN_FORCE).await?;
        watch.end().await;
        let reached = reached.with_context(|| {
            format!(
                "{}: the last one does not answer after {} s",
                counted(wanted as usize, "service"),
                IN_FORCE.as_secs()
            )
        })?;
        Ok(Some(Proof {
            kind: ProofKind::Connectivity,
            cni: self.cni.clone(),
            outcome: ProofOutcome::Passed,
            summary: format!(
                "{}: the last one answered {:.0} ms after the API server took it",
                counted(wanted as usize, "service"),
                ms(reached, applied)
            ),
            evidence: vec![
                format!("{} made in {:.1} s", wanted - had, making.as_secs_f64()),
                format!(
                    "time as seen by a probe of its address every {INTERVAL_MS} ms, which begins once the API server has given the address; late by what a line takes over exec"
                ),
            ],
        }))
    }

    /// Waits until a pod reaches the server, or no longer does.
    async fn wait_for(&self, client: &str, reachable: bool) -> anyhow::Result<()> {
        let mut watch = Watch::start(self.pods, client).await?;
        let turned = watch.turns(reachable, IN_FORCE).await;
        watch.end().await;
        if turned?.is_none() {
            bail!("{client}: nothing changed within {} s", IN_FORCE.as_secs());
        }
        Ok(())
    }
}

/// "1 policy", "10 policies".
fn policies(count: u32) -> String {
    format!("{count} {}", if count == 1 { "policy" } else { "policies" })
}

/// Why Hubble is not in the state that a case asks for.
fn not_switched(cni: &CniSpec, hubble: Option<bool>) -> String {
    match hubble {
        Some(on) => format!(
            "Hubble is {} in this cluster, which is not the run's to change (--provider kind with a cilium cni switches it)",
            if on { "on" } else { "off" }
        ),
        None => format!(
            "{cni}: no Hubble was found that this run could read (--provider kind with a cilium cni has one)"
        ),
    }
}

fn ms(later: Instant, earlier: Instant) -> f64 {
    later.saturating_duration_since(earlier).as_secs_f64() * 1e3
}

async fn remove<K>(api: &kube::Api<K>, names: Vec<String>) -> anyhow::Result<()>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug + kube::Resource,
    K::DynamicType: Default,
{
    let mut errors = remove_named(api, names).await;
    match errors.pop() {
        None => Ok(()),
        Some(one) => Err(one.context("cannot be removed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hubble_that_is_not_ours_is_said_to_be_so() {
        let cni = CniSpec::named("installed");
        let text = not_switched(&cni, Some(true));
        assert!(text.contains("Hubble is on in this cluster") && text.contains("not the run's"));
        assert!(not_switched(&cni, None).contains("no Hubble was found"));
    }
}

//! Is everything of a run still there: the API server, the pods, their nodes?
//!
//! Asked after a trial that failed, so that the cause is named instead of the timeout it became.

use super::{
    access::{answer, explain, is_unreachable},
    nodes,
    pods::{AT_ONCE, Pods},
};
use crate::{exec::Agent, tell::tell};
use anyhow::{anyhow, bail};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How long a pod may take to start an agent before it counts as silent.
const ALIVE: Duration = Duration::from_secs(10);
/// How long an API server may refuse this user before that is believed.
const REFUSED: Duration = Duration::from_secs(15);

impl Pods {
    /// Is every pod still there and its node alive? Asked after a trial that failed.
    ///
    /// # Errors
    /// The first one that is not, and why.
    pub async fn check(&self) -> anyhow::Result<()> {
        let (api, selected) = (self.api::<Pod>(), ListParams::default().labels(&self.selector()));
        let list = answer(api.list(&selected)).await;
        let list = list.map_err(|e| anyhow!("cluster {}: {}", self.access.name, explain(&e)))?;
        for (name, facts) in &self.pods {
            let at = format!("{name} on {}", facts.node_name);
            let Some(pod) =
                list.items.iter().find(|p| p.metadata.name.as_deref() == Some(name.as_str()))
            else {
                bail!("{at} is gone: somebody removed it");
            };
            if pod.metadata.deletion_timestamp.is_some() {
                bail!("{at} is being removed: its node was drained or its taint evicts it");
            }
            if let Some(cause) = super::ready::why_not(pod) {
                bail!("{at}: {}", cause.text);
            }
        }
        Ok(())
    }

    /// Does an agent start in every pod? What the API says of a node is up to a minute old.
    ///
    /// # Errors
    /// The nodes whose pods are silent, and what the API says of them.
    pub async fn answer(&self) -> anyhow::Result<()> {
        // Owned: a stream of closures over references is too general for async traits.
        let names: Vec<(String, String)> =
            self.pods.iter().map(|(name, p)| (name.clone(), p.node_name.clone())).collect();
        let asked = stream::iter(names).map(|(name, node)| async move {
            let said = async {
                let agent = Agent::start(&name, self.start(&name, "agent").await?).await?;
                agent.stop().await;
                anyhow::Ok(())
            };
            let silent = match tokio::time::timeout(ALIVE, said).await {
                Ok(Ok(())) => return None,
                Ok(Err(e)) => format!("{e:#}"),
                Err(_) => format!("no answer within {} s", ALIVE.as_secs()),
            };
            Some((node, name, silent))
        });
        let silent: Vec<_> =
            asked.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await;
        let mut nodes: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
        for (node, pod, why) in &silent {
            nodes.entry(node).or_default().push((pod, why));
        }
        let mut said = Vec::new();
        for (node, mut pods) in nodes {
            pods.sort_unstable();
            let all = self.pods.values().filter(|p| p.node_name == node).count();
            let names: Vec<&str> = pods.iter().map(|(pod, _)| *pod).collect();
            let who = if pods.len() == all {
                format!("node {node}: none of its pods answers ({}", names.join(", "))
            } else {
                format!(
                    "node {node}: {} of its {all} pods do not answer ({}",
                    pods.len(),
                    names.join(", ")
                )
            };
            let state = nodes::state(&self.access, node).await;
            let state =
                state.map(|s| format!("; the API server says of it: {s}")).unwrap_or_default();
            let why = pods.first().map(|(_, why)| *why).unwrap_or_default();
            said.push(format!("{who}: {why}){state}"));
        }
        if said.is_empty() { Ok(()) } else { bail!("{}", said.join("; ")) }
    }

    /// Waits until the API server answers again; true when it had to wait. `why`: what for, for people.
    ///
    /// # Errors
    /// It does not come back, or knows this user no more.
    pub async fn outage(&self, patience: Duration, why: &str) -> anyhow::Result<bool> {
        const ONE: Duration = Duration::from_secs(5);
        let begun = Instant::now();
        let mut refused: Option<Instant> = None;
        let mut waited = false;
        loop {
            let asked = tokio::time::timeout(ONE, self.access.client.apiserver_version()).await;
            let cause = match asked {
                Ok(Ok(_)) => return Ok(waited),
                Err(_) => format!("no answer within {} s", ONE.as_secs()),
                Ok(Err(e)) if is_unreachable(&e) => {
                    refused = None;
                    explain(&e)
                }
                // Seen of a server that starts: until it has read its roles it refuses everybody.
                Ok(Err(e)) if refused.is_none_or(|since| since.elapsed() < REFUSED) => {
                    refused.get_or_insert_with(Instant::now);
                    explain(&e)
                }
                Ok(Err(e)) => bail!("cluster {}: {}", self.access.name, explain(&e)),
            };
            if !waited {
                tell(&format!(
                    "cluster {}: {cause}; waiting up to {} s {why}",
                    self.access.name,
                    patience.as_secs()
                ));
            }
            waited = true;
            if begun.elapsed() > patience {
                bail!(
                    "cluster {}: the API server has not answered for {} s: {cause}",
                    self.access.name,
                    patience.as_secs()
                );
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Was the way into the cluster cut since the last question? Waits until it is there again, and
    /// gives what happened.
    ///
    /// # Errors
    /// It does not come back.
    pub async fn was_cut(&self, patience: Duration) -> anyhow::Result<Option<&'static str>> {
        let away = self.outage(patience, "for it").await?;
        let cut = self.cuts.take() > 0;
        Ok(match (away, cut) {
            (true, _) => Some("the API server was away"),
            (false, true) => Some("a connection through the API server was lost"),
            (false, false) => None,
        })
    }
}

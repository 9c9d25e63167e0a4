//! Waiting until a cni is settled: its pods Ready, the nodes Ready, its log and its own commands say so.
//!
//! Ready alone is neither measurable nor working: Cilium is Ready before its new programs are in place,
//! and also when it could not set up its datapath at all.

use super::{
    Access,
    access::explain,
    logged::Logged,
    ready::{Wait, list},
};
use crate::{
    cni::kubernetes::{AgentPods, Check, KubeProfile, Settled},
    exec::pod::Container,
};
use anyhow::bail;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, Pod},
};
use kube::{Api, api::ListParams};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// A command of the cni's own takes no longer.
const COMMAND: Duration = Duration::from_secs(30);
/// Characters of an answer that an error repeats.
const SHOWN: usize = 300;

/// Waits until the cni is settled on every node of `nodes`.
///
/// # Errors
/// What is not there after `patience`, with causes.
pub async fn settled(
    access: &Access,
    logged: &Logged,
    profile: &KubeProfile,
    nodes: usize,
    patience: Duration,
) -> anyhow::Result<()> {
    let until = Instant::now() + patience;
    let left = || until.saturating_duration_since(Instant::now());
    let what = format!("pods of cni {}", profile.name);
    if let Some(agent) = &profile.agent {
        let wait = Wait {
            client: &access.client,
            namespace: &agent.namespace,
            selector: &agent.selector,
            count: nodes,
            what: &what,
            patience,
        };
        wait.ready().await?;
    }
    if !profile.host_network {
        nodes_ready(access, nodes, left()).await?;
    }
    // That it holds is asked for once pods are there, which set some cnis to work again.
    let Some(agent) = &profile.agent else { return Ok(()) };
    let look = Look { access, logged, agent, settled: &profile.settled };
    look.until_settled(None, Duration::ZERO, left()).await
}

/// Waits until the log and the commands of every agent (of these nodes, if any are named) say that it is
/// settled, for as long in a row as the profile asks for. For a cni whose pods are Ready, after pods or policies were made.
///
/// # Errors
/// What is not as it should be after `patience`.
pub async fn at_rest(
    access: &Access,
    logged: &Logged,
    profile: &KubeProfile,
    nodes: Option<&BTreeSet<String>>,
    patience: Duration,
) -> anyhow::Result<()> {
    let Some(agent) = &profile.agent else { return Ok(()) };
    let hold = Duration::from_secs(profile.settled.hold_s.into());
    let look = Look { access, logged, agent, settled: &profile.settled };
    look.until_settled(nodes, hold, patience).await
}

/// Waits until a change of the cni's DaemonSet has reached its pods on every node.
///
/// # Errors
/// How far it got within `patience`.
pub async fn rolled_out(
    access: &Access,
    profile: &KubeProfile,
    patience: Duration,
) -> anyhow::Result<()> {
    let Some(agent) = &profile.agent else { return Ok(()) };
    let begun = Instant::now();
    let api: Api<DaemonSet> = Api::namespaced(access.client.clone(), &agent.namespace);
    loop {
        let sets = api.list(&ListParams::default().labels(&agent.selector)).await;
        let why: Vec<String> = match sets {
            Ok(list) => list.items.iter().filter_map(behind).collect(),
            Err(e) => vec![explain(&e)],
        };
        if why.is_empty() {
            return Ok(());
        }
        if begun.elapsed() >= patience {
            bail!("not rolled out after {} s: {}", begun.elapsed().as_secs(), why.join("; "));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// How far behind its specification a DaemonSet is, or None.
fn behind(set: &DaemonSet) -> Option<String> {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let status = set.status.clone().unwrap_or_default();
    if status.observed_generation != set.metadata.generation {
        return Some(format!("DaemonSet {name}: its change was not seen yet"));
    }
    let (want, new) =
        (status.desired_number_scheduled, status.updated_number_scheduled.unwrap_or_default());
    let ready = status.number_ready;
    (new < want || ready < want)
        .then(|| format!("DaemonSet {name}: {new} of {want} pods are new, {ready} are Ready"))
}

/// Waits until all nodes are Ready.
async fn nodes_ready(access: &Access, count: usize, patience: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    let api: Api<Node> = Api::all(access.client.clone());
    loop {
        let nodes = api.list(&ListParams::default()).await;
        let why = match &nodes {
            Ok(list) => unready(&list.items, count),
            Err(e) => vec![explain(e)],
        };
        if why.is_empty() {
            return Ok(());
        }
        if begun.elapsed() >= patience {
            bail!("nodes not ready after {} s: {}", begun.elapsed().as_secs(), why.join("; "));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Why nodes are not ready, a sentence each.
fn unready(nodes: &[Node], count: usize) -> Vec<String> {
    let mut why = Vec::new();
    for node in nodes {
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
        let ready = conditions.into_iter().flatten().find(|c| c.type_ == "Ready");
        if ready.is_some_and(|c| c.status == "True") {
            continue;
        }
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let message = ready.and_then(|c| c.message.as_deref());
        why.push(format!("{name}: {}", message.unwrap_or("its kubelet is not heard")));
    }
    if nodes.len() < count {
        why.push(format!("{} of {count} have joined", nodes.len()));
    }
    why
}

/// What is looked at, and what for.
struct Look<'a> {
    access: &'a Access,
    logged: &'a Logged,
    agent: &'a AgentPods,
    settled: &'a Settled,
}

impl Look<'_> {
    async fn until_settled(
        &self,
        nodes: Option<&BTreeSet<String>>,
        hold: Duration,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let Self { access, agent, .. } = self;
        let begun = Instant::now();
        let mut since: Option<Instant> = None;
        loop {
            let listed = list(&access.client, &agent.namespace, &agent.selector).await;
            let (mut pods, mut why) = match listed {
                Ok(pods) if pods.is_empty() => (pods, vec!["it has no pods".to_owned()]),
                Ok(pods) => (pods, Vec::new()),
                Err(e) => (Vec::new(), vec![format!("{e:#}")]),
            };
            if let Some(nodes) = nodes {
                let on = |p: &Pod| p.spec.as_ref().and_then(|s| s.node_name.clone());
                pods.retain(|p| on(p).is_some_and(|node| nodes.contains(&node)));
            }
            let looks = pods.iter().map(|pod| async move {
                let reason = self.unsettled(pod).await?;
                let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
                Some(format!("{}: {reason}", node.unwrap_or_default()))
            });
            why.extend(futures::future::join_all(looks).await.into_iter().flatten());
            if why.is_empty() {
                if since.get_or_insert_with(Instant::now).elapsed() >= hold {
                    return Ok(());
                }
            } else if begun.elapsed() >= patience {
                bail!(
                    "Ready, but not settled after {} s: {}",
                    begun.elapsed().as_secs(),
                    why.join("; ")
                );
            } else {
                since = None;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Why an agent is not settled, or None.
    async fn unsettled(&self, pod: &Pod) -> Option<String> {
        let Self { access, logged, agent, settled } = self;
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        if let Some(text) = &settled.log {
            match logged.lacks(access, agent, pod, text, &settled.trouble).await {
                Ok(None) => {}
                Ok(reason) => return reason,
                Err(e) => return Some(format!("{e:#}")),
            }
        }
        for check in &settled.checks {
            if let Err(e) = says(access, agent, name, check).await {
                return Some(format!("{e:#}"));
            }
        }
        None
    }
}

/// Runs a command in an agent's container and holds its output to a text; gives the output.
///
/// # Errors
/// What it said instead.
pub async fn says(
    access: &Access,
    agent: &AgentPods,
    pod: &str,
    check: &Check,
) -> anyhow::Result<String> {
    let container = Container {
        client: access.client.clone(),
        namespace: agent.namespace.clone(),
        pod: pod.to_owned(),
        container: agent.container.clone(),
        cuts: crate::exec::pod::Cuts::default(),
    };
    let words: Vec<&str> = check.command.iter().map(String::as_str).collect();
    let output = container.output(&words, None, COMMAND).await?;
    let output = String::from_utf8_lossy(&output).into_owned();
    let command = check.command.join(" ");
    if let Some(line) = unwanted(&output, &check.lacks) {
        bail!("{command} says: {}", shorten(line));
    }
    if output.contains(&check.says) {
        return Ok(output);
    }
    let said = if output.trim().is_empty() { "nothing".to_owned() } else { shorten(output.trim()) };
    bail!("{command} does not say {:?} but: {said}", check.says)
}

/// The first line that holds what must not be said.
fn unwanted<'a>(output: &'a str, lacks: &[String]) -> Option<&'a str> {
    output.lines().map(str::trim).find(|line| lacks.iter().any(|l| line.contains(l.as_str())))
}

pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_are_not_ready_say_why() {
        let node = |name: &str, status: &str| -> Node {
            serde_json::from_str(&format!(
                r#"{{"metadata":{{"name":"{name}"}},"status":{{"conditions":[{{"type":"Ready","status":"{status}","message":"cni plugin not initialized"}}]}}}}"#
            ))
            .unwrap()
        };
        let nodes = [node("a", "True"), node("b", "False")];
        assert_eq!(unready(&nodes[..1], 1), [""; 0]);
        assert_eq!(unready(&nodes, 3), ["b: cni plugin not initialized", "2 of 3 have joined"]);
    }

    #[test]
    fn a_change_is_in_force_when_every_pod_is_new_and_ready() {
        let set = |generation: u32, new: u32, ready: u32| -> DaemonSet {
            serde_json::from_str(&format!(
                r#"{{"metadata":{{"name":"cilium","generation":{generation}}},"status":{{"currentNumberScheduled":2,"numberMisscheduled":0,"desiredNumberScheduled":2,"observedGeneration":2,"updatedNumberScheduled":{new},"numberReady":{ready}}}}}"#
            ))
            .unwrap()
        };
        assert_eq!(behind(&set(2, 2, 2)), None);
        assert!(behind(&set(3, 2, 2)).unwrap().contains("not seen yet"));
        assert!(behind(&set(2, 1, 2)).unwrap().contains("1 of 2 pods are new"));
        assert!(behind(&set(2, 2, 1)).unwrap().contains("1 are Ready"));
    }

    #[test]
    fn an_endpoint_that_is_being_compiled_is_named() {
        let list = "ENDPOINT  STATUS\n1399  ready\n  367  waiting-to-regenerate\n";
        let lacks = ["regenerat".to_owned(), "not-ready".to_owned()];
        assert_eq!(unwanted(list, &lacks), Some("367  waiting-to-regenerate"));
        assert_eq!(unwanted("1399  ready\n", &lacks), None);
    }

    #[test]
    fn long_answers_are_cut_at_a_character() {
        assert_eq!(shorten("x"), "x");
        let long = shorten(&"ä".repeat(400));
        assert_eq!(long.chars().count(), SHOWN + 3);
    }
}

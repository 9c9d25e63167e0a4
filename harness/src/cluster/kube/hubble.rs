//! Is the flow observer of a cni that is there on? Asked in its own pods; nothing is switched.
//!
//! Called by the provider kubeconfig, whose clusters are not the run's to change.

use super::{Access, ready};
use crate::{
    cni::kubernetes::KubeProfile,
    exec::pod::{Container, Cuts},
};
use anyhow::{Context as _, bail};
use std::{collections::BTreeSet, time::Duration};

/// How long the question may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// What the observer's client says where nobody listens on the observer's socket.
const NOBODY: [&str; 2] = ["no such file or directory", "connection refused"];

/// Whether it is on, on all of these nodes.
///
/// # Errors
/// The cni has none, or its pods cannot be asked, and why.
pub async fn is_on(
    access: &Access,
    profile: &KubeProfile,
    nodes: &BTreeSet<String>,
) -> anyhow::Result<bool> {
    let (Some(flows), Some(agent)) = (&profile.flows, &profile.agent) else {
        bail!("{} has no flow observer that is known", profile.name);
    };
    let pods = ready::list(&access.client, &agent.namespace, &agent.selector).await?;
    let mut asked = BTreeSet::new();
    for pod in pods {
        let Some(node) = pod.spec.and_then(|s| s.node_name).filter(|n| nodes.contains(n)) else {
            continue;
        };
        let container = Container {
            client: access.client.clone(),
            namespace: agent.namespace.clone(),
            pod: pod.metadata.name.unwrap_or_default(),
            container: agent.container.clone(),
            cuts: Cuts::default(),
        };
        let mut command: Vec<&str> = flows.observe.iter().map(String::as_str).collect();
        command.extend(["--last", "1"]);
        match container.output(&command, None, PATIENCE).await {
            Ok(_) => drop(asked.insert(node)),
            Err(e) if is_off(&format!("{e:#}")) => return Ok(false),
            Err(e) => return Err(e).with_context(|| format!("its agent on {node}")),
        }
    }
    let missing: Vec<&str> = nodes.difference(&asked).map(String::as_str).collect();
    if !missing.is_empty() {
        bail!("none of its agents is on {}", missing.join(", "));
    }
    Ok(true)
}

/// Did the client run, and find nobody?
fn is_off(said: &str) -> bool {
    let said = said.to_lowercase();
    said.contains("exit code") && NOBODY.iter().any(|text| said.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_client_that_ran_and_found_nobody_means_off() {
        let off = "pod kube-system/cilium-x, container cilium-agent: hubble observe: command terminated with exit code 1: failed to connect to 'unix:///var/run/cilium/hubble.sock': dial unix /var/run/cilium/hubble.sock: connect: no such file or directory";
        assert!(is_off(off));
        assert!(!is_off("cannot run hubble observe: not allowed: pods \"cilium-x\" is forbidden"));
        assert!(!is_off("the API server cannot be reached: connection refused"));
        assert!(!is_off("command terminated with exit code 2: unknown flag: --last"));
    }
}

//! What the cni's own pods cost, from the kubelets' stats (`/stats/summary`, through the API's node
//! proxy).
//!
//! CPU counters are cumulative and carry the kubelet's own time, so a window is what lies between two
//! of its readings, not between two questions.

use super::{access::explain, ready};
use crate::cni::kubernetes::AgentPods;
use anyhow::{Context as _, anyhow};
use cnibench_model::{CniSpec, Footprint, Phase};
use jiff::Timestamp;
use kube::Client;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How long the idle window lasts at least, and how long new readings are waited for: the kubelet
/// takes one about every 10 to 15 s.
const IDLE: Duration = Duration::from_secs(20);
const LONGEST: Duration = Duration::from_secs(45);
/// Windows shorter than this are no mean of anything.
const LEAST_S: f64 = 5.0;

/// The parts of `/stats/summary` that are used (k8s.io/kubelet/pkg/apis/stats/v1alpha1).
#[derive(Debug, Deserialize)]
struct Summary {
    #[serde(default)]
    pods: Vec<PodStats>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStats {
    pod_ref: PodRef,
    cpu: Option<Cpu>,
    memory: Option<Memory>,
}

#[derive(Debug, Deserialize)]
struct PodRef {
    name: String,
    namespace: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: Timestamp,
    usage_core_nano_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    working_set_bytes: Option<u64>,
}

/// One reading of one pod.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Reading {
    at: Timestamp,
    cpu_ns: u64,
    memory_bytes: u64,
}

/// By node and pod.
type Readings = BTreeMap<(String, String), Reading>;

/// Follows the pods of one cni.
pub struct Footprints {
    client: Client,
    cni: CniSpec,
    agents: AgentPods,
    before: Readings,
}

impl Footprints {
    /// Of the pods of a cni; nothing is asked yet.
    pub fn new(client: Client, cni: CniSpec, agents: AgentPods) -> Self {
        Self { client, cni, agents, before: Readings::new() }
    }

    /// What they cost while nothing is measured: waits for a window of its own.
    ///
    /// # Errors
    /// The kubelets cannot be asked, and why.
    pub async fn idle(&mut self) -> anyhow::Result<Vec<Footprint>> {
        let first = self.read().await?;
        let begun = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            if begun.elapsed() < IDLE {
                continue;
            }
            let now = self.read().await?;
            let taken = between(&self.cni, Phase::Idle, &first, &now);
            if taken.len() == now.len() || begun.elapsed() > LONGEST {
                self.before = now;
                return Ok(taken);
            }
        }
    }

    /// What they cost since the idle window.
    ///
    /// # Errors
    /// As [`idle`](Self::idle).
    pub async fn load(&mut self) -> anyhow::Result<Vec<Footprint>> {
        let now = self.read().await?;
        let taken = between(&self.cni, Phase::Load, &self.before, &now);
        self.before = now;
        Ok(taken)
    }

    /// Begins the window of the load anew: the cni's pods were replaced.
    ///
    /// # Errors
    /// As [`idle`](Self::idle).
    pub async fn begin(&mut self) -> anyhow::Result<()> {
        self.before = self.read().await?;
        Ok(())
    }

    async fn read(&self) -> anyhow::Result<Readings> {
        let AgentPods { namespace, selector, .. } = &self.agents;
        let pods = ready::list(&self.client, namespace, selector).await?;
        let mut by_node: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pod in pods {
            let node = pod.spec.and_then(|s| s.node_name);
            if let (Some(node), Some(name)) = (node, pod.metadata.name) {
                by_node.entry(node).or_default().push(name);
            }
        }
        let mut readings = Readings::new();
        for (node, names) in by_node {
            let path = format!("/api/v1/nodes/{node}/proxy/stats/summary?only_cpu_and_memory=true");
            let request = http::Request::get(path).body(Vec::new())?;
            let summary: Summary = self
                .client
                .request(request)
                .await
                .map_err(|e| anyhow!(explain(&e)))
                .with_context(|| format!("the kubelet of {node}"))?;
            for (pod, reading) in of_pods(summary, namespace, &names) {
                readings.insert((node.clone(), pod), reading);
            }
        }
        Ok(readings)
    }
}

fn of_pods(summary: Summary, namespace: &str, names: &[String]) -> Vec<(String, Reading)> {
    summary
        .pods
        .into_iter()
        .filter(|p| p.pod_ref.namespace == namespace && names.contains(&p.pod_ref.name))
        .filter_map(|p| {
            let cpu = p.cpu?;
            let reading = Reading {
                at: cpu.time,
                cpu_ns: cpu.usage_core_nano_seconds?,
                memory_bytes: p.memory?.working_set_bytes?,
            };
            Some((format!("{namespace}/{}", p.pod_ref.name), reading))
        })
        .collect()
}

/// Of every pod that was there all the time: one that was restarted in between has a counter of its own.
fn between(cni: &CniSpec, phase: Phase, before: &Readings, now: &Readings) -> Vec<Footprint> {
    now.iter()
        .filter_map(|((node, pod), now)| {
            let before = before.get(&(node.clone(), pod.clone()))?;
            let window_s = now.at.duration_since(before.at).as_secs_f64();
            let cpu_ns = now.cpu_ns.checked_sub(before.cpu_ns)?;
            (window_s >= LEAST_S).then(|| Footprint {
                cni: cni.clone(),
                phase,
                node: node.clone(),
                pod: pod.clone(),
                window_s,
                cpus: cpu_ns as f64 / 1e9 / window_s,
                memory_bytes: now.memory_bytes,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a kubelet 1.34 says it.
    fn summary(at: &str, cpu: u64) -> Summary {
        serde_json::from_str(&format!(
            r#"{{"node":{{"nodeName":"w","startTime":null}},"pods":[
            {{"podRef":{{"name":"cilium-x","namespace":"kube-system","uid":"1"}},"startTime":"2026-11-23T10:00:00Z",
              "cpu":{{"time":"{at}","usageNanoCores":1,"usageCoreNanoSeconds":{cpu}}},
              "memory":{{"time":"{at}","workingSetBytes":104857600}}}},
            {{"podRef":{{"name":"coredns-x","namespace":"kube-system","uid":"2"}},"cpu":{{"time":"{at}"}}}},
            {{"podRef":{{"name":"cilium-y","namespace":"kube-system","uid":"3"}},"cpu":{{"time":"{at}"}}}}]}}"#
        ))
        .unwrap()
    }

    fn readings(at: &str, cpu: u64) -> Readings {
        let names = ["cilium-x".to_owned(), "cilium-y".to_owned()];
        let of = of_pods(summary(at, cpu), "kube-system", &names);
        of.into_iter().map(|(pod, r)| (("w".to_owned(), pod), r)).collect()
    }

    #[test]
    fn a_window_lies_between_the_kubelets_own_readings() {
        let before = readings("2026-11-23T10:00:10Z", 1_000_000_000);
        assert_eq!(before.len(), 1, "a pod without numbers is none");
        let now = readings("2026-11-23T10:00:30Z", 2_000_000_000);
        let cni = CniSpec::named("cilium");
        let taken = between(&cni, Phase::Idle, &before, &now);
        assert_eq!((taken[0].window_s, taken[0].cpus), (20.0, 0.05));
        assert_eq!(taken[0].pod, "kube-system/cilium-x");
        assert!(between(&cni, Phase::Idle, &now, &now).is_empty(), "no new reading, no window");
        assert!(between(&cni, Phase::Idle, &now, &before).is_empty(), "a counter that went back");
    }
}

//! What the cni's own pods cost, from the kubelets' stats (`/stats/summary`, through the API's node
//! proxy).
//!
//! CPU counters are cumulative and carry the kubelet's own time, so a window is what lies between two
//! of its readings, not between two questions.

use super::{access::explain, ready};
use crate::cni::kubernetes::Component;
use anyhow::{Context as _, anyhow};
use cnibench_model::{CniSpec, Footprint, LEAST_WINDOW_S, Phase};
use jiff::Timestamp;
use kube::Client;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

/// How long new readings are waited for while nothing is measured, and at the end of a load that was too
/// short for one: the kubelet takes one about every 10 to 15 s.
const IDLE: Duration = Duration::from_secs(20);
const LATE: Duration = Duration::from_secs(10);
/// Between two questions.
const PAUSE: Duration = Duration::from_secs(2);

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
#[derive(Debug, Clone, PartialEq)]
struct Reading {
    component: String,
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
    components: Vec<Component>,
    before: Readings,
    /// Stretches of the load that are over: the pods were replaced after each.
    over: Vec<Footprint>,
    stretch: u32,
}

impl Footprints {
    /// Of the pods of a cni; nothing is asked yet.
    pub fn new(client: Client, cni: CniSpec, components: Vec<Component>) -> Self {
        let before = Readings::new();
        Self { client, cni, components, before, over: Vec::new(), stretch: 0 }
    }

    /// What they cost while nothing is measured: waits for a window of its own, which two readings of
    /// every pod's kubelet make.
    ///
    /// # Errors
    /// The kubelets cannot be asked, and why.
    pub async fn idle(&mut self) -> anyhow::Result<Vec<Footprint>> {
        let first = self.read().await?;
        let begun = Instant::now();
        loop {
            tokio::time::sleep(PAUSE).await;
            let now = self.read().await?;
            let taken = between(&self.cni, Phase::Idle, 0, &first, &now);
            if taken.iter().all(|f| f.cpus.is_some()) || begun.elapsed() > IDLE {
                self.before = now;
                return Ok(taken);
            }
        }
    }

    /// Begins the load without an idle window before it.
    ///
    /// # Errors
    /// As [`idle`](Self::idle).
    pub async fn begin(&mut self) -> anyhow::Result<()> {
        self.before = self.read().await?;
        Ok(())
    }

    /// What they cost since the idle window, by stretches. Waits for new readings where the last
    /// stretch has none.
    ///
    /// # Errors
    /// As [`idle`](Self::idle).
    pub async fn load(&mut self) -> anyhow::Result<Vec<Footprint>> {
        let begun = Instant::now();
        let mut now = self.read().await?;
        while !all_new(&self.before, &now) && begun.elapsed() < LATE {
            tokio::time::sleep(PAUSE).await;
            now = self.read().await?;
        }
        self.close(now);
        self.stretch = 0;
        Ok(std::mem::take(&mut self.over))
    }

    /// Ends a stretch of the load: the cni's pods are about to be replaced.
    ///
    /// # Errors
    /// As [`idle`](Self::idle).
    pub async fn pause(&mut self) -> anyhow::Result<()> {
        let now = self.read().await?;
        self.close(now);
        Ok(())
    }

    fn close(&mut self, now: Readings) {
        self.over.extend(between(&self.cni, Phase::Load, self.stretch, &self.before, &now));
        self.before = now;
    }

    /// Begins the next stretch of the load: the cni's pods were replaced.
    ///
    /// # Errors
    /// As [`idle`](Self::idle).
    pub async fn resume(&mut self) -> anyhow::Result<()> {
        self.before = self.read().await?;
        self.stretch += 1;
        Ok(())
    }

    async fn read(&self) -> anyhow::Result<Readings> {
        // Of each node the pods, as namespace and name, and what they are.
        let mut by_node: BTreeMap<String, HashMap<(String, String), String>> = BTreeMap::new();
        for Component { name: component, namespace, selector } in &self.components {
            for pod in ready::list(&self.client, namespace, selector).await? {
                let node = pod.spec.and_then(|s| s.node_name);
                if let (Some(node), Some(name)) = (node, pod.metadata.name) {
                    let pods = by_node.entry(node).or_default();
                    pods.insert((namespace.clone(), name), component.clone());
                }
            }
        }
        let mut readings = Readings::new();
        for (node, pods) in by_node {
            let path = format!("/api/v1/nodes/{node}/proxy/stats/summary?only_cpu_and_memory=true");
            let request = http::Request::get(path).body(Vec::new())?;
            let summary: Summary = self
                .client
                .request(request)
                .await
                .map_err(|e| anyhow!(explain(&e)))
                .with_context(|| format!("the kubelet of {node}"))?;
            for (pod, reading) in of_pods(summary, &pods) {
                readings.insert((node.clone(), pod), reading);
            }
        }
        Ok(readings)
    }
}

fn of_pods(summary: Summary, pods: &HashMap<(String, String), String>) -> Vec<(String, Reading)> {
    let reading = |p: PodStats| {
        let PodRef { name, namespace } = p.pod_ref;
        let shown = format!("{namespace}/{name}");
        let component = pods.get(&(namespace, name))?.clone();
        let cpu = p.cpu?;
        let reading = Reading {
            component,
            at: cpu.time,
            cpu_ns: cpu.usage_core_nano_seconds?,
            memory_bytes: p.memory?.working_set_bytes?,
        };
        Some((shown, reading))
    };
    summary.pods.into_iter().filter_map(reading).collect()
}

/// Has the kubelet of every pod taken a reading since?
fn all_new(before: &Readings, now: &Readings) -> bool {
    now.iter().all(|(pod, now)| before.get(pod).is_none_or(|before| now.at > before.at))
}

/// Of every pod that is there now. One that was not there before, or was restarted in between, has no
/// window.
fn between(
    cni: &CniSpec,
    phase: Phase,
    stretch: u32,
    before: &Readings,
    now: &Readings,
) -> Vec<Footprint> {
    let of = |((node, pod), now): (&(String, String), &Reading)| {
        let before = before.get(&(node.clone(), pod.clone()));
        // A reading of before the load is none of its memory.
        let stale = phase == Phase::Load && before.is_some_and(|before| now.at <= before.at);
        let window = before.and_then(|before| {
            let window_s = now.at.duration_since(before.at).as_secs_f64();
            Some((window_s.max(0.0), now.cpu_ns.checked_sub(before.cpu_ns)? as f64 / 1e9))
        });
        let (window_s, busy_s) = window.unwrap_or_default();
        Footprint {
            cni: cni.clone(),
            phase,
            node: node.clone(),
            pod: pod.clone(),
            component: Some(now.component.clone()),
            stretch,
            window_s,
            cpus: (window_s >= LEAST_WINDOW_S).then(|| busy_s / window_s),
            memory_bytes: (!stale).then_some(now.memory_bytes),
        }
    };
    now.iter().map(of).collect()
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
        let name = |pod: &str| (("kube-system".to_owned(), pod.to_owned()), "agent".to_owned());
        let of = of_pods(summary(at, cpu), &["cilium-x", "cilium-y"].map(name).into());
        of.into_iter().map(|(pod, r)| (("w".to_owned(), pod), r)).collect()
    }

    #[test]
    fn a_window_lies_between_the_kubelets_own_readings() {
        let before = readings("2026-11-23T10:00:10Z", 1_000_000_000);
        assert_eq!(before.len(), 1, "a pod without numbers is none");
        let now = readings("2026-11-23T10:00:30Z", 2_000_000_000);
        let cni = CniSpec::named("cilium");
        let taken = between(&cni, Phase::Idle, 0, &before, &now);
        assert_eq!((taken[0].window_s, taken[0].cpus), (20.0, Some(0.05)));
        assert_eq!(taken[0].pod, "kube-system/cilium-x");
        assert_eq!(taken[0].component.as_deref(), Some("agent"));
        for (before, why) in [
            (&now, "no new reading"),
            (&readings("2026-11-23T10:00:10Z", 3_000_000_000), "a counter that went back"),
            (&Readings::new(), "a pod that was not there"),
            (&readings("2026-11-23T10:00:26Z", 1_900_000_000), "a window of 4 s"),
        ] {
            let taken = between(&cni, Phase::Load, 1, before, &now);
            assert_eq!((taken[0].cpus, taken[0].stretch), (None, 1), "{why}");
            let memory = (why != "no new reading").then_some(100 << 20);
            assert_eq!(taken[0].memory_bytes, memory, "{why}");
        }
        assert!(all_new(&before, &now) && !all_new(&now, &now));
        let idle = between(&cni, Phase::Idle, 0, &now, &now);
        assert_eq!(idle[0].memory_bytes, Some(100 << 20), "idle it was read all the same");
    }
}

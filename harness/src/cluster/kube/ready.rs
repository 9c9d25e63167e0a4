//! Waiting for pods, and saying why one does not come up.
//!
//! The reasons are read from the pod's own status, so that they need no further rights.

use super::access::{answer, explain, is_unreachable};
use anyhow::{anyhow, bail};
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use kube::{
    Api, Client,
    api::LogParams,
    runtime::{WatchStreamExt, watcher},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// A cause that does not go away by waiting is given this long to be a passing one.
const STUBBORN: Duration = Duration::from_secs(20);
/// Lines of a container's log that an error shows.
const LOG_LINES: i64 = 8;

/// Why a pod is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// In words.
    pub text: String,
    /// True when waiting longer is unlikely to help.
    pub stubborn: bool,
    /// The container whose log may say more.
    pub container: Option<String>,
}

impl Cause {
    /// What causes of several pods have in common: what stands before the particulars.
    fn kind(&self) -> &str {
        self.text.split('(').next().unwrap_or_default()
    }
}

/// None when the pod is ready.
pub fn why_not(pod: &Pod) -> Option<Cause> {
    let cause = |text: String, stubborn| Cause { text, stubborn, container: None };
    let Some(status) = &pod.status else {
        return Some(cause("not seen by its node yet".into(), false));
    };
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        let reason = status.reason.as_deref().unwrap_or("its process ended");
        let message = status.message.as_deref().unwrap_or_default();
        return Some(Cause {
            container: first_container(pod),
            ..cause(format!("it ended: {reason} {message}").trim_end().to_owned(), true)
        });
    }
    if let Some(text) = unschedulable(status) {
        return Some(cause(text, true));
    }
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses);
    for container in containers.flatten() {
        if let Some(cause) = container_cause(container) {
            return Some(cause);
        }
    }
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready");
    match ready {
        Some(condition) if condition.status == "True" => None,
        Some(condition) => {
            let message = condition.message.as_deref().unwrap_or("not ready");
            Some(cause(message.to_owned(), false))
        }
        None => {
            let phase = status.phase.as_deref().unwrap_or("Pending");
            Some(cause(format!("{phase}, its node has not started it"), false))
        }
    }
}

fn first_container(pod: &Pod) -> Option<String> {
    Some(pod.spec.as_ref()?.containers.first()?.name.clone())
}

fn unschedulable(status: &PodStatus) -> Option<String> {
    let condition = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled")?;
    (condition.status == "False").then(|| {
        let message = condition.message.as_deref().unwrap_or("no node takes it");
        // Its first sentence; what preempting others would not mend follows.
        let message = message.split_once(". ").map_or(message, |(first, _)| first);
        let hint = if message.contains("taint") {
            "; a taint is tolerated with --toleration KEY[=VALUE][:EFFECT]"
        } else if message.contains("Insufficient") {
            "; ask for less with --pod-cpus, or none for no limit"
        } else {
            ""
        };
        format!("it is not scheduled: {message}{hint}")
    })
}

fn container_cause(container: &ContainerStatus) -> Option<Cause> {
    let state = container.state.as_ref()?;
    let of = |text: String, stubborn| {
        Some(Cause { text, stubborn, container: Some(container.name.clone()) })
    };
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or("waiting");
        let message = waiting.message.as_deref().unwrap_or_default();
        let image = &container.image;
        return match reason {
            "ErrImageNeverPull" => {
                of(format!("image {image} is not on its node, and is not to be pulled"), true)
            }
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" => {
                of(format!("image {image} cannot be pulled ({reason}): {message}"), true)
            }
            "CrashLoopBackOff" => {
                let ended = container.last_state.as_ref().and_then(|s| s.terminated.as_ref());
                let code = ended.map_or(0, |t| t.exit_code);
                of(
                    format!(
                        "container {} ends again and again (exit status {code})",
                        container.name
                    ),
                    true,
                )
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => of(
                format!("container {} cannot be made ({reason}): {message}", container.name),
                true,
            ),
            // ContainerCreating also hides a cni that does not answer: that is in the events only.
            _ => of(format!("{reason} {message}").trim_end().to_owned(), false),
        };
    }
    if let Some(ended) = state.terminated.as_ref().filter(|t| t.exit_code != 0) {
        let why = ended.message.as_deref().or(ended.reason.as_deref()).unwrap_or_default();
        return of(
            format!(
                "container {} ended with exit status {}: {why}",
                container.name, ended.exit_code
            ),
            false,
        );
    }
    None
}

/// What to wait for.
pub struct Wait<'a> {
    /// The cluster.
    pub client: &'a Client,
    /// The namespace.
    pub namespace: &'a str,
    /// Which pods.
    pub selector: &'a str,
    /// How many.
    pub count: usize,
    /// What they are, for people: "workload pods".
    pub what: &'a str,
    /// How long.
    pub patience: Duration,
}

impl Wait<'_> {
    /// Waits until that many pods are ready, and gives them.
    ///
    /// # Errors
    /// Which pods are not, why, and what their logs say last.
    pub async fn ready(&self) -> anyhow::Result<Vec<Pod>> {
        let begun = Instant::now();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), self.namespace);
        let config = watcher::Config::default().labels(self.selector);
        let events = watcher(api, config).default_backoff();
        pin_mut!(events);
        let mut pods: BTreeMap<String, Pod> = BTreeMap::new();
        let mut stubborn_since: Option<Instant> = None;
        loop {
            let waited = begun.elapsed();
            if waited >= self.patience
                || stubborn_since.is_some_and(|since| since.elapsed() >= STUBBORN)
            {
                return Err(self.give_up(&pods, waited).await);
            }
            // Wakes up now and then, so that a stubborn cause ends the wait though nothing changes.
            let next = tokio::time::timeout(Duration::from_secs(1), events.next()).await;
            match next {
                Err(_) => {}
                Ok(None) => bail!("{}: the watch ended", self.what),
                Ok(Some(Err(e))) => {
                    if let watcher::Error::InitialListFailed(e)
                    | watcher::Error::WatchStartFailed(e) = &e
                        && !is_unreachable(e)
                    {
                        bail!("{}: {}", self.what, explain(e));
                    }
                }
                Ok(Some(Ok(event))) => take(event, &mut pods),
            }
            let causes: Vec<Cause> = pods.values().filter_map(why_not).collect();
            if pods.len() >= self.count && causes.is_empty() {
                return Ok(pods.into_values().collect());
            }
            if causes.iter().any(|c| c.stubborn) {
                stubborn_since.get_or_insert_with(Instant::now);
            } else {
                stubborn_since = None;
            }
        }
    }

    async fn give_up(&self, pods: &BTreeMap<String, Pod>, waited: Duration) -> anyhow::Error {
        let mut said = Vec::new();
        let mut causes: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (name, pod) in pods {
            let Some(cause) = why_not(pod) else { continue };
            // Told once: of the others of its kind only the names.
            let alike = causes.entry(cause.kind().to_owned()).or_default();
            alike.push(name);
            if alike.len() > 1 {
                continue;
            }
            let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
            let place = node.map_or_else(String::new, |n| format!(" on {n}"));
            let mut text = format!("{name}{place}: {}", cause.text);
            let lines = match &cause.container {
                Some(container) => self.last_lines(name, container).await,
                None => Vec::new(),
            };
            if !lines.is_empty() {
                text += &format!("; its log ends: {}", lines.join(" | "));
            } else if !cause.stubborn
                && let Some(event) = self.last_warning(name).await
            {
                text += &format!("; last event: {event}");
            }
            said.push(text);
        }
        for alike in causes.values().filter(|names| names.len() > 1) {
            said.push(format!("the same as {}: {}", alike[0], alike[1..].join(", ")));
        }
        if pods.len() < self.count {
            said.push(format!("{} of {} were made", pods.len(), self.count));
        }
        anyhow!("{} not ready after {} s: {}", self.what, waited.as_secs(), said.join("; "))
    }

    async fn last_lines(&self, pod: &str, container: &str) -> Vec<String> {
        for previous in [false, true] {
            let lines =
                log_tail(self.client, self.namespace, pod, container, LOG_LINES, previous).await;
            if let Ok(lines) = lines
                && !lines.is_empty()
            {
                return lines;
            }
        }
        Vec::new()
    }

    /// The last warning about a pod; none without the right to read events.
    async fn last_warning(&self, pod: &str) -> Option<String> {
        use k8s_openapi::api::core::v1::Event;
        let api: Api<Event> = Api::namespaced(self.client.clone(), self.namespace);
        let fields = format!("involvedObject.name={pod},type=Warning");
        let list =
            answer(api.list(&kube::api::ListParams::default().fields(&fields))).await.ok()?;
        list.items.into_iter().filter_map(|e| e.message).next_back()
    }
}

fn take(event: watcher::Event<Pod>, pods: &mut BTreeMap<String, Pod>) {
    use watcher::Event;
    let name = |pod: &Pod| pod.metadata.name.clone().unwrap_or_default();
    match event {
        Event::Init => pods.clear(),
        Event::Apply(pod) | Event::InitApply(pod) => {
            pods.insert(name(&pod), pod);
        }
        Event::Delete(pod) => {
            pods.remove(&name(&pod));
        }
        Event::InitDone => {}
    }
}

/// The last lines of a container's log.
///
/// # Errors
/// What the API server said.
pub async fn log_tail(
    client: &Client,
    namespace: &str,
    pod: &str,
    container: &str,
    lines: i64,
    previous: bool,
) -> anyhow::Result<Vec<String>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = LogParams {
        container: Some(container.to_owned()),
        tail_lines: Some(lines),
        previous,
        ..LogParams::default()
    };
    let text = answer(api.logs(pod, &params)).await.map_err(|e| anyhow!(explain(&e)))?;
    Ok(text.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned).collect())
}

/// Every pod that a selector names.
///
/// # Errors
/// What the API server said.
pub async fn list(client: &Client, namespace: &str, selector: &str) -> anyhow::Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = answer(api.list(&kube::api::ListParams::default().labels(selector))).await;
    Ok(pods.map_err(|e| anyhow!(explain(&e)))?.items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: &str) -> Pod {
        serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"p"}},"spec":{{"containers":[{{"name":"cnibench"}}]}},"status":{status}}}"#
        ))
        .unwrap()
    }

    fn cause(status: &str) -> Cause {
        why_not(&pod(status)).unwrap()
    }

    #[test]
    fn a_ready_pod_has_no_cause() {
        let ready = pod(r#"{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}"#);
        assert_eq!(why_not(&ready), None);
    }

    #[test]
    fn a_pending_pod_says_which_taint_or_resource() {
        let waits = |message: &str| {
            cause(&format!(
                r#"{{"phase":"Pending","conditions":[{{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"{message}"}}]}}"#
            ))
        };
        let taint = waits("0/1 nodes are available: 1 node(s) had untolerated taint(s).");
        assert!(taint.text.contains("--toleration") && taint.stubborn);
        let cpu = waits("0/2 nodes are available: 2 Insufficient cpu.");
        assert!(cpu.text.contains("--pod-cpus"), "{}", cpu.text);
    }

    #[test]
    fn image_and_crash_causes_name_image_and_container() {
        let waiting = |reason: &str| {
            cause(&format!(
                r#"{{"phase":"Pending","containerStatuses":[{{"name":"cnibench","image":"x:1","imageID":"","ready":false,"restartCount":3,
                "state":{{"waiting":{{"reason":"{reason}","message":"m"}}}},
                "lastState":{{"terminated":{{"exitCode":7}}}}}}]}}"#
            ))
        };
        assert!(waiting("ImagePullBackOff").text.contains("x:1 cannot be pulled"));
        assert!(waiting("ErrImageNeverPull").text.contains("x:1 is not on its node"));
        let crash = waiting("CrashLoopBackOff");
        assert!(crash.text.contains("exit status 7"));
        assert_eq!(crash.container.as_deref(), Some("cnibench"));
        assert!(!waiting("ContainerCreating").stubborn);
    }

    #[test]
    fn a_pod_that_ended_is_not_waited_for() {
        let ended = cause(
            r#"{"phase":"Failed","reason":"DeadlineExceeded","message":"Pod was active on the node longer than the specified deadline"}"#,
        );
        assert!(ended.stubborn && ended.text.contains("DeadlineExceeded"));
    }
}

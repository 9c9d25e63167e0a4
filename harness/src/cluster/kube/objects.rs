//! The objects that a run makes in a cluster, as JSON for server-side apply.
//!
//! Everything bears the run's labels, so that it can be found and removed by them, and a deadline
//! after which pods end by themselves.

use super::toleration::Toleration;
use crate::cluster::owner;
use cnibench_model::Placement;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// Who applies (server-side apply's field manager), and the label of everything that is ours.
pub const MANAGER: &str = "cnibench";
/// The label with the run's id.
pub const RUN_LABEL: &str = "cnibench/run";
/// The label with a pod's role.
pub const ROLE_LABEL: &str = "cnibench/role";
/// The annotation of a namespace after which anybody may remove it.
pub const EXPIRES: &str = "cnibench/expires";
/// The annotation with the name of the host that the run is controlled from, for people.
pub const HOST: &str = "cnibench/host";
/// The annotation with the place of the lock that says whether the run lives
/// ([`owner::whereabouts`]).
pub const LOCK: &str = "cnibench/lock";
/// The container of every pod.
pub const CONTAINER: &str = "cnibench";
/// The port that a service forwards: generators behind a service listen on it.
pub const SERVICE_PORT: u16 = 5201;
/// Where a binary that travelled through exec is kept.
pub const CARRIED: &str = "/cnibench-bin/cnibench";

/// Where workload pods get the binary from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// The image that the harness made: the binary is in it, and it is on every node.
    Own(String),
    /// Any image with `sh`, `cat` and `sleep`; the binary travels through exec.
    Any(String),
}

impl Image {
    /// The path of the binary in a pod.
    pub fn binary(&self) -> &'static str {
        match self {
            Self::Own(_) => "/cnibench",
            Self::Any(_) => CARRIED,
        }
    }
}

/// What a pod is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A pod of the cni, by its number on the node.
    Pod(u32),
    /// A pod in the node's own network, by its number on the node.
    Host(u32),
    /// The privileged observer of a node.
    Observer,
}

impl Role {
    /// The name of the pod of this role on a node.
    pub fn name(self, node: usize) -> String {
        match self {
            Self::Pod(i) => format!("pod-{node}-{i}"),
            Self::Host(i) => format!("host-{node}-{i}"),
            Self::Observer => format!("observer-{node}"),
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Pod(0) => "pod",
            Self::Pod(_) => "other",
            Self::Host(_) => "host",
            Self::Observer => "observer",
        }
    }

    /// For people.
    pub fn describe(self, node: &str) -> String {
        match self {
            Self::Pod(i) => format!("pod {i} of {node}"),
            Self::Host(0) => format!("host-network pod of {node}"),
            Self::Host(i) => format!("host-network pod {i} of {node}"),
            Self::Observer => format!("observer of {node}"),
        }
    }
}

/// Where a pod is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seat {
    /// On the node with this value of `kubernetes.io/hostname`.
    On(String),
    /// On any node that has none of this run's pods of another seat number: the node of the pods of the
    /// same one, where there are any.
    Apart,
}

/// What all pods of a run share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Common {
    /// The run's id.
    pub run: String,
    /// The namespace.
    pub namespace: String,
    /// The image.
    pub image: Image,
    /// CPUs of each pod: requests and limits alike (QoS class Guaranteed); none: no limit, which
    /// cannot throttle.
    pub cpus: Option<u32>,
    /// Further labels that a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated.
    pub tolerations: Vec<Toleration>,
    /// Workload pods run as root with CAP_NET_ADMIN and nothing else, so that they may use every
    /// congestion control and large socket buffers.
    pub net_admin: bool,
    /// Seconds after which pods end by themselves.
    pub deadline_s: u64,
    /// Whose they are.
    pub marks: Marks,
}

/// What tells a clean-up whether the run that made something still lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// The host that the run is controlled from.
    pub host: String,
    /// The place of its lock.
    pub lock: String,
    /// When nothing of it is used any more, whatever became of it.
    pub expires: String,
}

impl Marks {
    /// Of a run of this process that is over within `deadline`.
    pub fn of_this_host(deadline: Duration) -> Self {
        let deadline = SignedDuration::try_from(deadline).unwrap_or(SignedDuration::MAX);
        let expires = Timestamp::now().checked_add(deadline).unwrap_or(Timestamp::MAX);
        Self {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            // Without one nobody's is the same: then only the deadline counts.
            lock: owner::whereabouts().unwrap_or_default(),
            expires: expires.to_string(),
        }
    }

    fn annotations(&self) -> Value {
        json!({HOST: self.host, LOCK: self.lock, EXPIRES: self.expires})
    }
}

impl Common {
    fn labels(&self) -> Value {
        json!({"app.kubernetes.io/managed-by": MANAGER, RUN_LABEL: self.run})
    }

    fn metadata(&self, name: &str) -> Value {
        json!({
            "name": name, "namespace": self.namespace, "labels": self.labels(),
            "annotations": self.marks.annotations(),
        })
    }

    /// The namespace of the run, when it has one of its own.
    pub fn namespace(&self) -> Value {
        let mut labels = self.labels();
        // Host-network pods and observers are made in it; the namespace is the run's alone.
        labels["pod-security.kubernetes.io/enforce"] = json!("privileged");
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {
                "name": self.namespace, "labels": labels,
                "annotations": self.marks.annotations(),
            },
        })
    }

    /// A pod.
    pub fn pod(&self, role: Role, node: usize, seat: &Seat) -> Value {
        let mut labels = self.labels();
        labels[ROLE_LABEL] = json!(role.label());
        labels["cnibench/pod"] = json!(role.name(node));
        labels["cnibench/seat"] = json!(node.to_string());
        let host_network = !matches!(role, Role::Pod(_));
        let privileged = role == Role::Observer;
        let command = match &self.image {
            Image::Own(_) => json!(["/cnibench", "pause", self.deadline_s.to_string()]),
            Image::Any(_) => json!(["sleep", self.deadline_s.to_string()]),
        };
        let (image, pull) = match &self.image {
            Image::Own(tag) => (tag, "Never"),
            Image::Any(image) => (image, "IfNotPresent"),
        };
        let resources = match self.cpus {
            Some(cpus) if !privileged => {
                let amount = json!({"cpu": cpus.to_string(), "memory": "256Mi"});
                json!({"requests": amount, "limits": amount})
            }
            _ => json!({"requests": {"cpu": "10m", "memory": "64Mi"}}),
        };
        let security = if privileged {
            json!({"privileged": true, "runAsUser": 0})
        } else if self.net_admin {
            json!({
                "allowPrivilegeEscalation": false, "runAsUser": 0,
                "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            })
        } else {
            // What the "restricted" pod security standard asks for.
            json!({
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                "runAsNonRoot": true, "runAsUser": 65534, "runAsGroup": 65534,
                "seccompProfile": {"type": "RuntimeDefault"},
            })
        };
        let mut container = json!({
            "name": CONTAINER, "image": image, "imagePullPolicy": pull, "command": command,
            "resources": resources, "securityContext": security,
        });
        let mut spec = json!({
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "activeDeadlineSeconds": self.deadline_s,
            "automountServiceAccountToken": false, "enableServiceLinks": false,
            "hostNetwork": host_network, "hostPID": privileged,
            "tolerations": self.tolerations(host_network),
        });
        if matches!(self.image, Image::Any(_)) {
            container["volumeMounts"] = json!([{"name": "bin", "mountPath": "/cnibench-bin"}]);
            spec["volumes"] = json!([{"name": "bin", "emptyDir": {}}]);
        }
        spec["containers"] = json!([container]);
        if !self.node_selector.is_empty() {
            spec["nodeSelector"] = json!(self.node_selector);
        }
        spec["affinity"] = self.affinity(node, seat);
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": role.name(node), "namespace": self.namespace, "labels": labels,
                "annotations": self.marks.annotations(),
            },
            "spec": spec,
        })
    }

    /// By affinity and not by `nodeName`: the scheduler then says why a pod does not fit.
    fn affinity(&self, node: usize, seat: &Seat) -> Value {
        let hostname = "kubernetes.io/hostname";
        match seat {
            Seat::On(name) => json!({"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": hostname, "operator": "In", "values": [name]}]},
                ]},
            }}),
            Seat::Apart => json!({
                "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
                    "topologyKey": hostname,
                    "labelSelector": {"matchExpressions": [
                        {"key": RUN_LABEL, "operator": "In", "values": [self.run]},
                        {"key": "cnibench/seat", "operator": "NotIn", "values": [node.to_string()]},
                    ]},
                }]},
                // The first pod of a seat matches its own term, and goes anywhere.
                "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
                    "topologyKey": hostname,
                    "labelSelector": {"matchLabels": {
                        RUN_LABEL: self.run, "cnibench/seat": node.to_string(),
                    }},
                }]},
            }),
        }
    }

    fn tolerations(&self, host_network: bool) -> Value {
        let mut all: Vec<Value> = self.tolerations.iter().map(Toleration::json).collect();
        if host_network {
            // They need no cni: a node without one is as good.
            all.push(json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists"}));
            all.push(
                json!({"key": "node.kubernetes.io/network-unavailable", "operator": "Exists"}),
            );
        }
        Value::Array(all)
    }

    /// A ClusterIP service of one port, in TCP and UDP, whose endpoint is a pod.
    pub fn service(&self, name: &str, pod: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": self.metadata(name),
            "spec": {
                "type": "ClusterIP",
                "selector": {RUN_LABEL: self.run, "cnibench/pod": pod},
                "ports": [
                    {"name": "tcp", "protocol": "TCP", "port": SERVICE_PORT, "targetPort": SERVICE_PORT},
                    {"name": "udp", "protocol": "UDP", "port": SERVICE_PORT, "targetPort": SERVICE_PORT},
                ],
            },
        })
    }

    /// A policy that selects `server` and admits `client` alone.
    pub fn admit(&self, name: &str, server: &str, client: &str) -> Value {
        let from = json!([{"podSelector": {"matchLabels": {
            RUN_LABEL: self.run, "cnibench/pod": client,
        }}}]);
        self.policy(name, server, json!([{"from": from}]))
    }

    /// Policy number `n` of those that only make the list longer: it selects `server` and admits, on
    /// one port, a network of documentation addresses (RFC 5737) or of benchmarks (RFC 2544) that
    /// nobody has; each number another rule.
    pub fn filler(&self, n: u32, server: &str) -> Value {
        let cidr = format!("198.{}.{}.0/24", 18 + (n >> 8) % 2, n % 256);
        let port = 1024 + n % 60_000;
        self.policy(
            &filler_name(n),
            server,
            json!([{
                "from": [{"ipBlock": {"cidr": cidr}}],
                "ports": [{"protocol": "TCP", "port": port}],
            }]),
        )
    }

    fn policy(&self, name: &str, server: &str, ingress: Value) -> Value {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": self.metadata(name),
            "spec": {
                "podSelector": {"matchLabels": {RUN_LABEL: self.run, "cnibench/pod": server}},
                "policyTypes": ["Ingress"],
                "ingress": ingress,
            },
        })
    }
}

/// What names of policies and services that only make lists longer begin with.
const FILLER: &str = "filler-";

/// The name of filler policy or service `n`.
pub fn filler_name(n: u32) -> String {
    format!("{FILLER}{n:05}")
}

/// The pods that these placements need on `nodes` nodes: the first two carry the ends.
/// `host`: with the baseline beside them; `control`: with host-network pods for proofs.
pub fn roles(
    placements: &[Placement],
    host: bool,
    observers: bool,
    control: bool,
) -> Vec<(usize, Role)> {
    let mut all = std::collections::BTreeSet::new();
    for placement in placements {
        let needed: &[(usize, Role)] = match placement {
            Placement::SameNode => &[(0, Role::Pod(0)), (0, Role::Pod(1))],
            Placement::CrossNode | Placement::PodService => &[(0, Role::Pod(0)), (1, Role::Pod(0))],
            Placement::HostHost => &[(0, Role::Host(0)), (1, Role::Host(0))],
            Placement::HostPod => &[(0, Role::Host(0)), (1, Role::Pod(0))],
        };
        all.extend(needed);
        if host {
            all.insert((0, Role::Host(0)));
            all.insert((1, Role::Host(0)));
            if *placement == Placement::SameNode {
                all.insert((0, Role::Host(1)));
            }
        }
    }
    // Proofs need a pair of pods, and one that a policy denies.
    all.extend([(0, Role::Pod(0)), (0, Role::Pod(1)), (1, Role::Pod(0))]);
    if observers {
        all.extend([(0, Role::Observer), (1, Role::Observer)]);
    }
    if control {
        all.extend([(0, Role::Host(0)), (1, Role::Host(0))]);
    }
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::{
        core::v1::{Namespace, Pod, Service},
        networking::v1::NetworkPolicy,
    };

    fn common() -> Common {
        Common {
            run: "abcdef".to_owned(),
            namespace: "cnibench-abcdef".to_owned(),
            image: Image::Own("cnibench.local/agent:1".to_owned()),
            cpus: Some(1),
            node_selector: BTreeMap::from([("pool".to_owned(), "bench".to_owned())]),
            tolerations: ["dedicated=bench:NoSchedule", "spot"].map(|t| t.parse().unwrap()).into(),
            net_admin: false,
            deadline_s: 600,
            marks: Marks::of_this_host(Duration::from_secs(600)),
        }
    }

    #[test]
    fn workload_pods_are_guaranteed_unprivileged_and_end_by_themselves() {
        let value = common().pod(Role::Pod(0), 1, &Seat::On("worker".to_owned()));
        let pod: Pod = serde_json::from_value(value).unwrap();
        let spec = pod.spec.unwrap();
        assert_eq!(spec.active_deadline_seconds, Some(600));
        assert_eq!((spec.host_network, spec.host_pid), (Some(false), Some(false)));
        assert_eq!(spec.automount_service_account_token, Some(false));
        let container = &spec.containers[0];
        let resources = container.resources.as_ref().unwrap();
        assert_eq!(resources.requests, resources.limits);
        let security = container.security_context.as_ref().unwrap();
        assert_eq!(security.run_as_non_root, Some(true));
        assert_eq!(security.privileged, None);
        let tolerations = spec.tolerations.unwrap();
        assert_eq!(tolerations.len(), 2);
        assert_eq!(tolerations[0].effect.as_deref(), Some("NoSchedule"));
        assert_eq!(tolerations[1].operator.as_deref(), Some("Exists"));
        assert_eq!(spec.node_selector.unwrap()["pool"], "bench");
    }

    #[test]
    fn only_observers_are_privileged_and_only_foreign_images_need_a_volume() {
        let mut common = common();
        common.image = Image::Any("busybox".to_owned());
        let observer: Pod =
            serde_json::from_value(common.pod(Role::Observer, 0, &Seat::Apart)).unwrap();
        let spec = observer.spec.unwrap();
        assert_eq!((spec.host_network, spec.host_pid), (Some(true), Some(true)));
        let container = &spec.containers[0];
        assert_eq!(container.security_context.as_ref().unwrap().privileged, Some(true));
        assert_eq!(container.command.as_ref().unwrap()[0], "sleep");
        assert_eq!(spec.volumes.unwrap().len(), 1);
    }

    #[test]
    fn everything_is_an_object_of_its_kind_with_the_run_in_its_labels() {
        let c = common();
        let namespace: Namespace = serde_json::from_value(c.namespace()).unwrap();
        let marks = namespace.metadata.annotations.unwrap();
        let expires: Timestamp = marks[EXPIRES].parse().unwrap();
        assert!(expires > Timestamp::now() && !marks[HOST].is_empty());
        let service: Service = serde_json::from_value(c.service("service", "pod-1-0")).unwrap();
        assert_eq!(service.spec.unwrap().ports.unwrap().len(), 2);
        let policy: NetworkPolicy =
            serde_json::from_value(c.admit("a", "pod-1-0", "pod-0-0")).unwrap();
        assert_eq!(policy.metadata.labels.unwrap()[RUN_LABEL], "abcdef");
        assert_eq!(policy.metadata.annotations.unwrap(), marks);
        let mut rules: Vec<_> =
            (0..1000).map(|n| c.filler(n, "pod-1-0")["spec"].to_string()).collect();
        rules.sort();
        rules.dedup();
        assert_eq!(rules.len(), 1000, "every filler is another rule");
    }

    #[test]
    fn without_named_nodes_pods_of_a_seat_must_be_together_and_others_apart() {
        let value = common().pod(Role::Pod(1), 0, &Seat::Apart);
        let pod: Pod = serde_json::from_value(value).unwrap();
        let affinity = pod.spec.unwrap().affinity.unwrap();
        let together = affinity.pod_affinity.unwrap();
        assert_eq!(together.preferred_during_scheduling_ignored_during_execution, None);
        let together = together.required_during_scheduling_ignored_during_execution.unwrap();
        assert_eq!(together[0].topology_key, "kubernetes.io/hostname");
        let labels = together[0].label_selector.clone().unwrap().match_labels.unwrap();
        let own = pod.metadata.labels.unwrap();
        assert!(labels.iter().all(|(k, v)| own.get(k) == Some(v)), "the first finds itself");
        let apart = affinity.pod_anti_affinity.unwrap();
        let apart = apart.required_during_scheduling_ignored_during_execution.unwrap();
        let expressions = apart[0].label_selector.clone().unwrap().match_expressions.unwrap();
        assert_eq!(expressions[1].operator, "NotIn");
    }

    #[test]
    fn only_the_pods_that_are_needed_are_made() {
        let cross = roles(&[Placement::CrossNode], false, false, false);
        assert_eq!(cross, [(0, Role::Pod(0)), (0, Role::Pod(1)), (1, Role::Pod(0))]);
        let all = roles(Placement::ALL, true, true, false);
        assert!(all.contains(&(0, Role::Host(1))) && all.contains(&(1, Role::Observer)));
    }
}

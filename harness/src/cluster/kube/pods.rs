//! The pods of a run in a cluster: made, found, entered, and removed.

use super::{
    access::{Access, POD_SECURITY, answer, explain, is_forbidden, is_unreachable},
    delivery,
    nodes::{self, NodeFacts},
    objects::{
        self, CONTAINER, Common, Image, MANAGER, Marks, RUN_LABEL, Role, SERVICE_PORT, Seat,
    },
    ready::Wait,
};
use crate::{
    cluster::{Ends, Place},
    exec::{
        Link,
        pod::{Container, Cuts},
    },
    tell::tell,
};
use anyhow::{Context as _, bail};
use cnibench_model::Placement;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Namespace, Pod, Service},
};
use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fmt::Debug,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Requests under way at a time, where many objects are made.
pub const AT_ONCE: usize = 16;
/// How long pods may take to be ready once they were made.
const PODS_READY: Duration = Duration::from_secs(120);
/// How long an API server that goes away while something is made is waited for.
const OUTAGE: Duration = Duration::from_secs(60);

/// What is to be deployed.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// The run's id.
    pub run: String,
    /// Namespace of the user's, which stays; none: one of our own is made.
    pub namespace: Option<String>,
    /// The name of our own.
    pub own_namespace: String,
    /// Where the binary comes from.
    pub image: Image,
    /// CPUs of each pod, requested and at most.
    pub cpus: Option<u32>,
    /// Which nodes.
    pub nodes: nodes::Wanted,
    /// True to use every node, false for the first two.
    pub every_node: bool,
    /// Placements that trials will use.
    pub placements: Vec<Placement>,
    /// True when the cni is the baseline itself: host-network pods alone.
    pub host_network: bool,
    /// True when host-network pods are wanted as a baseline beside the cni's.
    pub host: bool,
    /// True when privileged observers may be made.
    pub observers: bool,
    /// True when workload pods may have CAP_NET_ADMIN.
    pub net_admin: bool,
    /// When pods end by themselves.
    pub deadline: Duration,
}

/// Must the host-network pods be there?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Baseline {
    /// Without them nothing can be measured.
    Needed,
    /// Without them the baseline's cells are skipped.
    Wanted,
}

/// A pod that runs.
#[derive(Debug, Clone)]
pub struct PodFacts {
    /// Its role.
    pub role: Role,
    /// The number of its node in this run.
    pub node: usize,
    /// The node's name.
    pub node_name: String,
    /// The pod's address.
    pub ip: IpAddr,
    /// The node's address.
    pub host_ip: IpAddr,
}

/// The pods of a run in a cluster.
pub struct Pods {
    /// The cluster.
    pub access: Access,
    /// What all objects share.
    pub common: Common,
    /// True when the namespace is ours, and goes with the run.
    pub(super) own_namespace: bool,
    /// By name.
    pub pods: BTreeMap<String, PodFacts>,
    /// The address of the service of `pod-service`, or why there is none.
    pub service: Result<IpAddr, String>,
    /// Why the baseline's pods are not there, where the namespace does not allow them.
    refused: Option<String>,
    /// Connections to pods that were lost.
    pub cuts: Cuts,
    /// Set once the removal was tried; shared with the twin.
    removed: Arc<AtomicBool>,
}

impl Pods {
    /// Pods that are not made yet.
    pub fn new(access: Access, deployment: &Deployment) -> Self {
        let namespace =
            deployment.namespace.clone().unwrap_or_else(|| deployment.own_namespace.clone());
        Self {
            access,
            common: Common {
                run: deployment.run.clone(),
                namespace,
                image: deployment.image.clone(),
                cpus: deployment.cpus,
                node_selector: deployment.nodes.selector.clone(),
                tolerations: deployment.nodes.tolerations.clone(),
                net_admin: deployment.net_admin,
                deadline_s: deployment.deadline.as_secs(),
                marks: Marks::of_this_host(deployment.deadline),
            },
            own_namespace: deployment.namespace.is_none(),
            pods: BTreeMap::new(),
            service: Err("no placement of this run needs a service".to_owned()),
            refused: None,
            cuts: Cuts::default(),
            removed: Arc::default(),
        }
    }

    /// What can remove the same objects when these pods are dropped before they were removed.
    pub fn twin(&self) -> Self {
        Self {
            access: self.access.clone(),
            common: self.common.clone(),
            own_namespace: self.own_namespace,
            pods: BTreeMap::new(),
            service: Err("a twin removes only".to_owned()),
            refused: None,
            cuts: self.cuts.clone(),
            removed: Arc::clone(&self.removed),
        }
    }

    /// True once it or its twin tried to remove them.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    /// To be said before the removal begins.
    pub(super) fn removed(&self) {
        self.removed.store(true, Ordering::Relaxed);
    }

    /// Makes everything and waits until the binary runs in the pods. What was made stays when it
    /// fails: the caller removes it ([`Pods::remove`]).
    ///
    /// # Errors
    /// What could not be made or does not come up, and why.
    pub async fn deploy(&mut self, deployment: &Deployment) -> anyhow::Result<()> {
        let found = nodes::choose(&self.access, &deployment.nodes, 2).await?;
        let used = match (&found, deployment.every_node) {
            (Some(nodes), true) => nodes.len(),
            (None, true) => bail!(
                "the node-pair matrix needs the right to list nodes (`cnibench rbac --matrix`)"
            ),
            _ => 2,
        };
        if self.own_namespace {
            self.make_namespace().await?;
        }
        let mut wanted = if deployment.host_network {
            (0..used).map(|node| (node, Role::Host(0))).chain([(0, Role::Host(1))]).collect()
        } else {
            objects::roles(&deployment.placements, deployment.host, deployment.observers)
        };
        if deployment.every_node && !deployment.host_network {
            wanted.extend((2..used).map(|node| (node, Role::Pod(0))));
            if deployment.host {
                wanted.extend((2..used).map(|node| (node, Role::Host(0))));
            }
        }
        let baseline = if deployment.host_network || deployment.observers {
            Baseline::Needed
        } else {
            Baseline::Wanted
        };
        self.make_pods(wanted, found.as_deref(), baseline).await?;
        if deployment.placements.contains(&Placement::PodService) && !deployment.host_network {
            self.service = Ok(self.make_service("service", &Role::Pod(0).name(1)).await?);
        }
        if let Image::Any(_) = self.common.image {
            self.carry().await?;
        }
        Ok(())
    }

    /// The binary travels into every pod; once more where the way there was cut.
    async fn carry(&self) -> anyhow::Result<()> {
        let containers = || self.pods.keys().map(|name| self.container(name)).collect();
        match delivery::carry(containers()).await {
            Err(_) if self.was_cut(OUTAGE).await?.is_some() => delivery::carry(containers()).await,
            done => done,
        }
    }

    async fn make_namespace(&self) -> anyhow::Result<()> {
        let value = self.common.namespace();
        let api: Api<Namespace> = Api::all(self.access.client.clone());
        let made = apply(&api, &self.common.namespace, &value).await;
        made.map(drop).context(
            "making a namespace for the run (give --namespace NAME to use one that is there)",
        )
    }

    async fn make_pods(
        &mut self,
        mut wanted: Vec<(usize, Role)>,
        nodes: Option<&[NodeFacts]>,
        baseline: Baseline,
    ) -> anyhow::Result<()> {
        let common = &self.common;
        let api: Api<Pod> = self.api();
        let made = stream::iter(wanted.clone()).map(|(node, role)| {
            let seat = match nodes {
                Some(nodes) => Seat::On(nodes[node].hostname.clone()),
                None => Seat::Apart,
            };
            let (api, name, value) = (api.clone(), role.name(node), common.pod(role, node, &seat));
            async move {
                match apply(&api, &name, &value).await {
                    Ok(_) => Ok(None),
                    // Where only unprivileged pods may be, the cni can be measured all the same.
                    Err(e)
                        if baseline == Baseline::Wanted
                            && matches!(role, Role::Host(_))
                            && format!("{e:#}").contains(POD_SECURITY) =>
                    {
                        Ok(Some(format!("{e:#}")))
                    }
                    Err(e) => Err(e),
                }
            }
        });
        let made: Vec<Option<String>> =
            made.buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?;
        self.refused = made.into_iter().flatten().next();
        if let Some(reason) = &self.refused {
            wanted.retain(|(_, role)| !matches!(role, Role::Host(_)));
            tell(&format!("no baseline: {reason}"));
        }
        let wait = Wait {
            client: &self.access.client,
            namespace: &self.common.namespace,
            selector: &self.selector(),
            count: wanted.len(),
            what: "workload pods",
            patience: PODS_READY + Duration::from_millis(200) * wanted.len() as u32,
        };
        for pod in wait.ready().await? {
            let name = pod.metadata.name.clone().unwrap_or_default();
            let Some(&(node, role)) = wanted.iter().find(|(n, r)| r.name(*n) == name) else {
                continue;
            };
            self.pods.insert(name, facts(&pod, node, role)?);
        }
        Ok(())
    }

    /// Makes a service for a pod and gives its address.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn make_service(&self, name: &str, pod: &str) -> anyhow::Result<IpAddr> {
        let api: Api<Service> = self.api();
        let service = apply(&api, name, &self.common.service(name, pod)).await?;
        let ip = service.spec.and_then(|s| s.cluster_ip);
        ip.as_deref().unwrap_or_default().parse().with_context(|| {
            format!("service {name} was given no address ({})", ip.unwrap_or_default())
        })
    }

    /// Everything of one kind in the run's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.access.client.clone(), &self.common.namespace)
    }

    /// The selector of everything of the run.
    pub fn selector(&self) -> String {
        format!("{RUN_LABEL}={}", self.common.run)
    }

    /// The container of a pod.
    pub fn container(&self, pod: &str) -> Container {
        Container {
            client: self.access.client.clone(),
            namespace: self.common.namespace.clone(),
            pod: pod.to_owned(),
            container: CONTAINER.to_owned(),
            cuts: self.cuts.clone(),
        }
    }

    /// Starts `cnibench COMMAND` in a pod.
    ///
    /// # Errors
    /// What the API server or the kubelet said.
    pub async fn start(&self, pod: &str, command: &str) -> anyhow::Result<Link> {
        self.container(pod).start(&[self.common.image.binary(), command]).await
    }

    /// The name of a node by number.
    ///
    /// # Errors
    /// A sentence: no pod of this run is on it.
    pub fn node_name(&self, node: usize) -> Result<&str, String> {
        let found = self.pods.values().find(|p| p.node == node);
        found.map(|p| p.node_name.as_str()).ok_or_else(|| format!("this run uses no node {node}"))
    }

    /// A pod by role and node.
    ///
    /// # Errors
    /// A sentence: it was not made.
    pub fn pod(&self, node: usize, role: Role) -> Result<&PodFacts, String> {
        let name = role.name(node);
        self.pods.get(&name).ok_or_else(|| match (&self.refused, role) {
            (Some(reason), Role::Host(_)) => format!("no host-network pods: {reason}"),
            _ => format!("this run made no pod {name}"),
        })
    }

    /// The ends of a placement between two nodes of the run; `host`: between host-network pods.
    ///
    /// # Errors
    /// A sentence for the skipped cell.
    pub fn ends(
        &self,
        placement: Placement,
        host: bool,
        (a, b): (usize, usize),
    ) -> Result<Ends, String> {
        let (client, server) = match placement {
            Placement::PodService if host => {
                return Err("a service leads to pods, and the baseline has none".to_owned());
            }
            Placement::SameNode if host => (self.pod(a, Role::Host(0)), self.pod(a, Role::Host(1))),
            Placement::SameNode => (self.pod(a, Role::Pod(0)), self.pod(a, Role::Pod(1))),
            Placement::HostHost => (self.pod(a, Role::Host(0)), self.pod(b, Role::Host(0))),
            _ if host => (self.pod(a, Role::Host(0)), self.pod(b, Role::Host(0))),
            Placement::CrossNode | Placement::PodService => {
                (self.pod(a, Role::Pod(0)), self.pod(b, Role::Pod(0)))
            }
            Placement::HostPod => (self.pod(a, Role::Host(0)), self.pod(b, Role::Pod(0))),
        };
        let (client, server) = (client?, server?);
        let (server_addr, port) = match placement {
            Placement::PodService => (self.service.clone()?, Some(SERVICE_PORT)),
            _ => (server.ip, None),
        };
        Ok(Ends {
            client: place(client),
            server: place(server),
            server_addr,
            bind_addr: server.ip,
            port,
        })
    }
}

fn place(pod: &PodFacts) -> Place {
    Place { label: pod.role.describe(&pod.node_name), id: pod.role.name(pod.node) }
}

fn facts(pod: &Pod, node: usize, role: Role) -> anyhow::Result<PodFacts> {
    let status = pod.status.as_ref();
    let address = |text: Option<&String>| -> anyhow::Result<IpAddr> {
        let text = text.with_context(|| format!("{} has no address", role.name(node)))?;
        text.parse().with_context(|| format!("{}: address {text}", role.name(node)))
    };
    Ok(PodFacts {
        role,
        node,
        node_name: pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default(),
        ip: address(status.and_then(|s| s.pod_ip.as_ref()))?,
        host_ip: address(status.and_then(|s| s.host_ip.as_ref()))?,
    })
}

/// Server-side apply; waits out an API server that is away for a moment.
///
/// # Errors
/// What the API server said of it.
pub async fn apply<K>(api: &Api<K>, name: &str, value: &Value) -> anyhow::Result<K>
where
    K: Clone + DeserializeOwned + Serialize + Debug,
{
    let params = PatchParams::apply(MANAGER).force();
    let begun = Instant::now();
    let mut away = false;
    loop {
        match answer(api.patch(name, &params, &Patch::Apply(value))).await {
            Ok(made) => return Ok(made),
            // One that comes back refuses everybody until it has read its roles.
            Err(e)
                if (is_unreachable(&e) || away && is_forbidden(&e)) && begun.elapsed() < OUTAGE =>
            {
                away = true;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(e) => {
                let kind = value["kind"].as_str().unwrap_or("object");
                bail!("{kind} {name}: {}", explain(&e));
            }
        }
    }
}

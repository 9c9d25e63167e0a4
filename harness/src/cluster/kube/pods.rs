//! The pods of a run in a cluster: made, found, entered, and removed.

use super::{
    access::{Access, explain, is_missing, is_unreachable},
    delivery,
    nodes::{self, NodeFacts},
    objects::{self, CONTAINER, Common, Image, MANAGER, RUN_LABEL, Role, SERVICE_PORT, Seat},
    ready::Wait,
};
use crate::{
    cluster::{Ends, Place},
    exec::{Link, pod::Container},
};
use anyhow::{Context as _, anyhow, bail};
use cnibench_model::Placement;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{Namespace, Pod, Service},
        networking::v1::NetworkPolicy,
    },
};
use kube::{
    Api, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fmt::Debug,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Requests under way at a time, where many objects are made.
pub const AT_ONCE: usize = 16;
/// How long pods may take to be ready once they were made.
const PODS_READY: Duration = Duration::from_secs(120);
/// How long a namespace may take to go.
const GONE: Duration = Duration::from_secs(60);

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
    own_namespace: bool,
    /// By name.
    pub pods: BTreeMap<String, PodFacts>,
    /// The address of the service of `pod-service`, or why there is none.
    pub service: Result<IpAddr, String>,
}

impl Pods {
    /// Makes the pods and waits until the binary runs in them. What was made stays when it fails:
    /// the caller removes it ([`Pods::remove`]).
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
            },
            own_namespace: deployment.namespace.is_none(),
            pods: BTreeMap::new(),
            service: Err("no placement of this run needs a service".to_owned()),
        }
    }

    /// Makes everything and waits for it.
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
            self.make_namespace(deployment).await?;
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
        self.make_pods(&wanted, found.as_deref()).await?;
        if deployment.placements.contains(&Placement::PodService) && !deployment.host_network {
            self.service = Ok(self.make_service("service", &Role::Pod(0).name(1)).await?);
        }
        if let Image::Any(_) = self.common.image {
            let names: Vec<String> = self.pods.keys().cloned().collect();
            delivery::carry(names.iter().map(|name| self.container(name)).collect()).await?;
        }
        Ok(())
    }

    async fn make_namespace(&self, deployment: &Deployment) -> anyhow::Result<()> {
        let expires = Timestamp::now() + SignedDuration::try_from(deployment.deadline)?;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let value = self.common.namespace(&host, &expires.to_string());
        let api: Api<Namespace> = Api::all(self.access.client.clone());
        let made = apply(&api, &self.common.namespace, &value).await;
        made.map(drop).context(
            "making a namespace for the run (give --namespace NAME to use one that is there)",
        )
    }

    async fn make_pods(
        &mut self,
        wanted: &[(usize, Role)],
        nodes: Option<&[NodeFacts]>,
    ) -> anyhow::Result<()> {
        let common = &self.common;
        let api: Api<Pod> = self.api();
        let all: Vec<(String, Value)> = wanted
            .iter()
            .map(|&(node, role)| {
                let seat = match nodes {
                    Some(nodes) => Seat::On(nodes[node].hostname.clone()),
                    None => Seat::Apart,
                };
                (role.name(node), common.pod(role, node, &seat))
            })
            .collect();
        let made = stream::iter(all).map(|(name, value)| {
            let api = api.clone();
            async move { apply(&api, &name, &value).await.map(drop) }
        });
        made.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
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
        self.pods.get(&name).ok_or_else(|| format!("this run made no pod {name}"))
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

    /// Is every pod still there and its node alive? Asked after a trial that failed.
    ///
    /// # Errors
    /// The first one that is not, and why.
    pub async fn check(&self) -> anyhow::Result<()> {
        let list = self.api::<Pod>().list(&ListParams::default().labels(&self.selector())).await;
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

    /// Waits until the API server answers again; true when it had to wait.
    ///
    /// # Errors
    /// It does not come back.
    pub async fn outage(&self, patience: Duration) -> anyhow::Result<bool> {
        let begun = Instant::now();
        let mut waited = false;
        loop {
            match tokio::time::timeout(
                Duration::from_secs(5),
                self.access.client.apiserver_version(),
            )
            .await
            {
                Ok(Ok(_)) => return Ok(waited),
                Ok(Err(e)) if !is_unreachable(&e) => bail!("{}", explain(&e)),
                Ok(Err(_)) | Err(_) => waited = true,
            }
            if begun.elapsed() > patience {
                bail!(
                    "cluster {}: the API server has not answered for {} s",
                    self.access.name,
                    patience.as_secs()
                );
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Removes what the run made, and waits until it is gone. Idempotent.
    pub async fn remove(&mut self) -> Vec<anyhow::Error> {
        self.pods.clear();
        if let Err(e) = self.outage(GONE).await {
            return vec![e.context(format!("namespace {} is left", self.common.namespace))];
        }
        let result = if self.own_namespace {
            remove_namespace(&self.access, &self.common.namespace, GONE).await
        } else {
            self.remove_labelled().await
        };
        result.err().into_iter().collect()
    }

    async fn remove_labelled(&self) -> anyhow::Result<()> {
        let selector = self.selector();
        remove_all(&self.api::<NetworkPolicy>(), &selector).await?;
        remove_all(&self.api::<Service>(), &selector).await?;
        let pods = self.api::<Pod>();
        remove_all(&pods, &selector).await?;
        let begun = Instant::now();
        loop {
            let list = pods.list(&ListParams::default().labels(&selector)).await;
            let left = list.map_err(|e| anyhow!(explain(&e)))?.items;
            if left.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > GONE {
                let names: Vec<_> = left.into_iter().filter_map(|p| p.metadata.name).collect();
                bail!(
                    "pods {} in namespace {} do not go away",
                    names.join(", "),
                    self.common.namespace
                );
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

/// Removes a namespace and waits until it is gone.
///
/// # Errors
/// What keeps it: its conditions and finalizers, as the API server says them.
pub async fn remove_namespace(
    access: &Access,
    name: &str,
    patience: Duration,
) -> anyhow::Result<()> {
    let api: Api<Namespace> = Api::all(access.client.clone());
    match api.delete(name, &DeleteParams::background()).await {
        Ok(_) => {}
        Err(e) if is_missing(&e) => return Ok(()),
        // Being deleted already.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(e) => bail!("namespace {name} is left: {}", explain(&e)),
    }
    let begun = Instant::now();
    loop {
        let namespace = match api.get_opt(name).await {
            Ok(None) => return Ok(()),
            Ok(Some(namespace)) => Some(namespace),
            Err(e) if is_unreachable(&e) => None,
            Err(e) => bail!("namespace {name}: {}", explain(&e)),
        };
        if begun.elapsed() > patience {
            let why = namespace.as_ref().map(hangs).unwrap_or_default();
            bail!(
                "namespace {name} is still Terminating after {} s{why}; once that is mended it goes by itself",
                patience.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// What a namespace that hangs says of it.
fn hangs(namespace: &Namespace) -> String {
    let conditions = namespace.status.as_ref().and_then(|s| s.conditions.as_ref());
    let said: Vec<String> = conditions
        .into_iter()
        .flatten()
        .filter(|c| c.status == "True")
        .filter_map(|c| Some(format!("{}: {}", c.type_, c.message.as_deref()?)))
        .collect();
    if said.is_empty() { String::new() } else { format!(" ({})", said.join("; ")) }
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
    loop {
        match api.patch(name, &params, &Patch::Apply(value)).await {
            Ok(made) => return Ok(made),
            Err(e) if is_unreachable(&e) && begun.elapsed() < Duration::from_secs(40) => {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(e) => {
                let kind = value["kind"].as_str().unwrap_or("object");
                bail!("{kind} {name}: {}", explain(&e));
            }
        }
    }
}

async fn remove_all<K>(api: &Api<K>, selector: &str) -> anyhow::Result<()>
where
    K: Clone + DeserializeOwned + Debug + Resource,
    K::DynamicType: Default,
{
    let params = ListParams::default().labels(selector);
    let list = api.list(&params).await.map_err(|e| anyhow!(explain(&e)))?;
    // One by one: the right to delete a collection is another, and rarely given.
    let gone = stream::iter(list.items).map(|item| async move {
        let name = item.meta().name.clone().unwrap_or_default();
        match api.delete(&name, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(e) if is_missing(&e) => Ok(()),
            Err(e) => Err(anyhow!("{name}: {}", explain(&e))),
        }
    });
    gone.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
}

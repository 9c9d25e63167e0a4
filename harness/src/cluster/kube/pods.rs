//! The pods of a run in a cluster: made, found, entered, and removed.

use super::{
    access::{Access, POD_SECURITY, answer, explain, is_forbidden, is_unreachable},
    delivery,
    deployment::{Deployment, Seats},
    objects::{CONTAINER, Common, Image, MANAGER, Marks, RUN_LABEL, Role, Seat},
    ready::Wait,
};
use crate::{
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
        if self.own_namespace {
            self.make_namespace().await?;
        }
        let baseline =
            if deployment.needs_host_network() { Baseline::Needed } else { Baseline::Wanted };
        self.make_pods(deployment.pods(), &deployment.seats, baseline).await?;
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
        seats: &Seats,
        baseline: Baseline,
    ) -> anyhow::Result<()> {
        let common = &self.common;
        let api: Api<Pod> = self.api();
        let made = stream::iter(wanted.clone()).map(|(node, role)| {
            let seat = match seats.node(node) {
                Some(node) => Seat::On(node.hostname.clone()),
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

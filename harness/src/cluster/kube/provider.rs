//! The provider `kubeconfig`: measures in a cluster that is there, whatever its size.

use super::{
    access::Access,
    cluster::KubeCluster,
    demand::Demand,
    deployment::{Deployment, Ground, Seats},
    hubble,
    logged::Logged,
    nodes::{self, NodeFacts},
    objects::Image,
    options::{Options, Pairs},
    pods::Pods,
    ready,
    rights::{self, Scope},
    settle,
};
use crate::{
    cluster::{Cluster, ClusterError, CniOffer, Provider, Topology},
    cni::kubernetes::{self, KubeCni, KubeProfile},
    plan::{Matrix, Plan},
};
use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use cnibench_model::{CniSpec, ProviderKind};
use std::{
    sync::Mutex,
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;

/// The image of workload pods where the user names none: small, and with a shell.
const DEFAULT_IMAGE: &str = "busybox:1.37";
/// The name of whatever cni a cluster has.
pub const INSTALLED: &str = "installed";
/// How long a cni that is there may take to be settled.
const SETTLED: Duration = Duration::from_secs(120);

/// Measures in the cluster of a kubeconfig.
pub struct KubeconfigProvider {
    access: Access,
    options: Options,
    run: String,
    demand: Demand,
    /// Nodes that can be used, listed once: the plan names them by number. None without the right to.
    listed: OnceCell<Option<Vec<NodeFacts>>>,
    /// What is planned.
    planned: Mutex<Planned>,
    /// Twins of all pods that were made: those that nobody removed are swept.
    made: Mutex<Vec<Pods>>,
}

/// What the plan says of the pods.
#[derive(Debug, Clone, Default)]
struct Planned {
    /// How long the run will take.
    time: Duration,
    /// Nodes by number, in the order in which they are used; empty where it uses one pair only.
    nodes: Vec<u32>,
}

impl KubeconfigProvider {
    /// A provider for one run. Asks the server whether it answers and this user has the rights.
    ///
    /// # Errors
    /// No kubeconfig, no answer, or which rights lack.
    pub async fn new(options: Options, run: String, demand: Demand) -> anyhow::Result<Self> {
        let (file, context) = (options.kubeconfig.as_deref(), options.context.as_deref());
        let access = Access::from_kubeconfig(file, context).await?;
        Self::with_access(access, options, run, demand).await
    }

    /// The same where the way to the server is known.
    ///
    /// # Errors
    /// No answer, or which rights lack.
    pub async fn with_access(
        access: Access,
        options: Options,
        run: String,
        demand: Demand,
    ) -> anyhow::Result<Self> {
        access.version().await?;
        if !demand.is_nothing() {
            let namespace = options.namespace.as_deref().unwrap_or(&access.namespace);
            rights::check(&access, namespace, Scope::of(&options, &demand)).await?;
        }
        Ok(Self {
            access,
            options,
            run,
            demand,
            listed: OnceCell::new(),
            planned: Mutex::default(),
            made: Mutex::new(Vec::new()),
        })
    }

    /// Tells what is planned, which decides on which nodes pods are made and when they end by
    /// themselves.
    pub fn plan_for(&self, plan: &Plan) {
        if let Ok(mut planned) = self.planned.lock() {
            *planned = Planned { time: plan.estimate(), nodes: plan.nodes() };
        }
    }

    /// The nodes that can be used, the same list for plan and pods.
    async fn nodes(&self) -> anyhow::Result<Option<&[NodeFacts]>> {
        let wanted = self.options.nodes(!self.demand.cni);
        let list = || nodes::choose(&self.access, &wanted, 2);
        Ok(self.listed.get_or_try_init(list).await?.as_deref())
    }

    /// The node-pair matrix that was asked for, if it was.
    ///
    /// # Errors
    /// Nodes cannot be listed, or there are fewer than two.
    pub async fn matrix(&self) -> anyhow::Result<Option<Matrix>> {
        let Some(pairs) = self.options.pairs else { return Ok(None) };
        let nodes =
            self.nodes().await?.context("the node-pair matrix needs the right to list nodes")?;
        Ok(Some(Matrix {
            nodes: nodes.len() as u32,
            pairs: match pairs {
                Pairs::All => None,
                Pairs::Some(k) => Some(k),
            },
            at_once: self.options.pairs_at_once,
        }))
    }

    /// Sets of pods there can be at a time; none: any number. In a namespace that exists their names
    /// would collide.
    pub fn at_once_in_pairs(&self) -> Option<usize> {
        self.options.namespace.as_ref().map(|_| 1)
    }

    async fn deployment(&self, index: u32, cni: &KubeCni) -> anyhow::Result<Deployment> {
        let image = self.options.workload_image.clone();
        let planned = self.planned.lock().map(|p| p.clone()).unwrap_or_default();
        let matrix = self.options.pairs.map(|_| planned.nodes.as_slice());
        let seats = Seats::of(self.nodes().await?, matrix)
            .map_err(|e| anyhow!("cluster {}: {e}", self.access.name))?;
        let ground = Ground {
            run: self.run.clone(),
            index,
            image: Image::Any(image.unwrap_or_else(|| DEFAULT_IMAGE.to_owned())),
            cpus: Some(1),
            privileged: self.options.privileged,
            planned: planned.time,
        };
        Ok(Deployment::new(ground, &self.options, &self.demand, &cni.profile, seats))
    }

    /// Whose pods are there? Of the families that are known, the first whose agents are found.
    async fn family(&self) -> Option<&'static KubeProfile> {
        for profile in kubernetes::embedded().ok()? {
            let Some(agent) = &profile.agent else { continue };
            let found = ready::list(&self.access.client, &agent.namespace, &agent.selector).await;
            if found.is_ok_and(|pods| !pods.is_empty()) {
                return Some(profile);
            }
        }
        None
    }

    /// The cni of a spec: a profile whose claims it is held to, or `installed`, of which nothing is
    /// claimed.
    async fn resolve(&self, spec: &CniSpec) -> Result<KubeCni, ClusterError> {
        if spec.name != INSTALLED {
            let mut cni = KubeCni::resolve(spec)?;
            if let Some(key) = spec.params.keys().find(|k| *k != "path") {
                return Err(ClusterError::Usage(format!(
                    "cni {spec}: {key} is for installing a cni; this cluster has what it has"
                )));
            }
            // Nobody has asked the cluster.
            cni.hubble = None;
            self.is_there(&cni).await?;
            return Ok(cni);
        }
        let family = self.family().await;
        let mut cni = KubeCni::resolve(&CniSpec::named("host"))?;
        cni.spec = spec.clone();
        let profile = &mut cni.profile;
        profile.name = INSTALLED.to_owned();
        profile.host_network = false;
        profile.family = "custom".to_owned();
        profile.description = "the CNI that the cluster has; nothing is claimed of it".to_owned();
        if let Some(found) = family {
            profile.family.clone_from(&found.family);
            profile.agent.clone_from(&found.agent);
            profile.components.clone_from(&found.components);
            profile.flows.clone_from(&found.flows);
            profile.description = format!(
                "the CNI that the cluster has: {}'s agents were found, nothing more is claimed",
                found.family
            );
        }
        Ok(cni)
    }

    /// A cni that was named is asked whether it is settled on the nodes that are used. Its log is not
    /// looked at: in a cluster that lives long it no longer begins with the beginning.
    async fn settle(&self, cluster: &mut KubeCluster) -> anyhow::Result<()> {
        let (spec, mut profile) = (cluster.info().spec.clone(), cluster.cni.profile.clone());
        if spec.name == INSTALLED || profile.host_network {
            return Ok(());
        }
        profile.settled.log = None;
        let nodes = cluster.pods.pods.values().map(|p| p.node_name.clone()).collect();
        match settle::at_rest(&self.access, &Logged::default(), &profile, Some(&nodes), SETTLED)
            .await
        {
            Ok(()) => {}
            // Its pods may be none of this user's business.
            Err(e) if !self.options.privileged => {
                cluster.note(format!("whether it is settled could not be asked: {e:#}"));
            }
            Err(e) => return Err(e),
        }
        let path = &profile.path;
        let claims = !path.carries.is_empty() || !path.silent.is_empty();
        if claims && !self.options.privileged {
            cluster.note(format!(
                "that the cluster's CNI is {spec} was not proved (--privileged proves which way packets take)"
            ));
        }
        Ok(())
    }

    /// Is the flow observer on? Only asked where the run may look into the cni's pods, or a case needs it.
    async fn look_for_hubble(&self, cluster: &mut KubeCluster) {
        let may = self.demand.cni_pods(self.options.privileged);
        if !may || cluster.cni.profile.flows.is_none() {
            return;
        }
        let nodes = [0, 1].into_iter().filter_map(|n| cluster.pods.node_name(n).ok());
        let nodes = nodes.map(str::to_owned).collect();
        match hubble::is_on(&self.access, &cluster.cni.profile, &nodes).await {
            Ok(on) => cluster.cni.hubble = Some(on),
            Err(e) => cluster.note(format!("whether Hubble is on could not be asked: {e:#}")),
        }
    }

    /// A cni that was named must be the one that the cluster has.
    async fn is_there(&self, cni: &KubeCni) -> Result<(), ClusterError> {
        let Some(agent) = &cni.profile.agent else { return Ok(()) };
        let found = ready::list(&self.access.client, &agent.namespace, &agent.selector)
            .await
            .with_context(|| {
                format!(
                    "looking for the pods of {} (--cni {INSTALLED} claims nothing and looks for none; `cnibench rbac --cni-pods` prints the rights to look)",
                    cni.spec
                )
            })?;
        if found.is_empty() {
            return Err(ClusterError::Unsupported {
                cni: cni.spec.clone(),
                reason: format!(
                    "cluster {} has no pods {} in namespace {}: name the CNI that it has, or {INSTALLED}",
                    self.access.name, agent.selector, agent.namespace
                ),
            });
        }
        Ok(())
    }
}

#[async_trait]
impl Provider for KubeconfigProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Kubeconfig
    }

    fn host_rides(&self) -> bool {
        true
    }

    async fn cnis(&self) -> Vec<CniOffer> {
        let offer = |name: &str, description: &str, automatic| CniOffer {
            name: name.to_owned(),
            description: description.to_owned(),
            params: Vec::new(),
            automatic,
            missing: None,
        };
        let mut all = vec![
            offer("host", "pods in the nodes' own network: the baseline", true),
            offer(INSTALLED, "the CNI that the cluster has; nothing is claimed of it", true),
        ];
        let named = kubernetes::embedded().unwrap_or_default();
        let named = named.iter().filter(|p| !p.host_network);
        all.extend(
            named.map(|p| offer(&p.name, &format!("as installed: {}", p.description), false)),
        );
        all
    }

    async fn check(&self, cni: &CniSpec, _topology: &Topology) -> Result<(), ClusterError> {
        self.resolve(cni).await.map(drop)
    }

    async fn up(
        &self,
        index: u32,
        cni: &CniSpec,
        _topology: &Topology,
    ) -> Result<Box<dyn Cluster>, ClusterError> {
        let begun = Instant::now();
        let cni = self.resolve(cni).await?;
        let deployment = self.deployment(index, &cni).await?;
        let mut pods = Pods::new(self.access.clone(), &deployment);
        // The run may be given up here, or while the cluster is proved: then nobody else knows it.
        if let Ok(mut made) = self.made.lock() {
            made.push(pods.twin());
        }
        let info = KubeCluster::deploy(&mut pods, &deployment, &cni, begun).await?;
        let mut cluster = KubeCluster::new(pods, cni, info, &deployment);
        self.settle(&mut cluster).await?;
        self.look_for_hubble(&mut cluster).await;
        Ok(Box::new(cluster))
    }

    async fn sweep(&self) -> Vec<anyhow::Error> {
        let made = match self.made.lock() {
            Ok(mut made) => std::mem::take(&mut *made),
            Err(_) => return vec![anyhow!("a thread panicked while a cluster was made")],
        };
        let mut errors = Vec::new();
        for mut pods in made.into_iter().filter(|pods| !pods.is_removed()) {
            // What was asked for last and given up may be made yet, and what is removed before that
            // would stay.
            tokio::time::sleep(Duration::from_secs(1)).await;
            errors.extend(pods.remove().await);
        }
        errors
    }
}

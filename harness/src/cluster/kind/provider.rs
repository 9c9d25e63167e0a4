//! The provider `kind`: a cluster per cni, made, measured and removed.
//!
//! Puts together what lies beside it: tools, config, image, plugins, installation, waiting. The pods
//! and trials in a cluster are `cluster/kube`'s.

use super::{
    CniSources, Sources, Tool, Tools,
    cluster::{Ground, KindMeasured},
    config::{self, Config},
    image, install,
    leftovers::Registry,
    lifecycle::{KindCluster, Maker},
    options::KindOptions,
    plugins, room,
};
use crate::{
    cluster::{
        Cluster, ClusterError, CniOffer, Provider, Topology,
        kube::{
            Access, Demand, KubeCluster, Options,
            deployment::{Deployment, Ground as Terms, Seats},
            logged::Logged,
            nodes,
            objects::Image,
            pods::Pods,
            ready, settle,
        },
        netns::{capabilities, user_namespace::is_privileged},
        owner::Owner,
    },
    cni::kubernetes::{self, KernelFeature, KubeCni, KubeProfile},
    tell::tell,
};
use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use cnibench_model::{CniSpec, ProviderKind};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;

/// Loading an archive of a node's image into Docker.
const LOAD: Duration = Duration::from_secs(600);
/// A question to docker.
const ASK: Duration = Duration::from_secs(30);

/// Makes clusters of kind.
pub struct KindProvider {
    maker: Maker,
    options: KindOptions,
    pods: Options,
    sources: Sources,
    demand: Demand,
    /// How long the run is planned to take.
    planned: Mutex<Duration>,
    /// The workload image: its archive, which goes with this, and its name.
    image: OnceCell<(tempfile::TempDir, String)>,
    /// What the tools said, asked once.
    asked: OnceCell<Vec<Result<String, String>>>,
    /// True once the image of the nodes was looked after.
    node_image: OnceCell<()>,
}

impl KindProvider {
    /// A provider for one run. Reads the sources file; makes nothing.
    ///
    /// # Errors
    /// What is wrong with the sources file.
    pub fn new(
        owner: Arc<Owner>,
        options: KindOptions,
        pods: Options,
        demand: Demand,
    ) -> anyhow::Result<Self> {
        let sources = read_sources(options.sources.as_deref())?;
        let tools = Tools::of(&sources);
        let maker = Maker {
            registry: Arc::new(Registry::new(&owner, &tools)),
            folder: owner.folder().to_owned(),
            node_image: options.node_image.clone().or_else(|| sources.node_image.clone()),
            keep: options.keep,
            tools,
            owner,
        };
        Ok(Self {
            maker,
            options,
            pods,
            sources,
            demand,
            planned: Mutex::new(Duration::ZERO),
            image: OnceCell::new(),
            asked: OnceCell::new(),
            node_image: OnceCell::new(),
        })
    }

    /// Tells how long the run will take, which decides when its pods end by themselves.
    pub fn plan_for(&self, time: Duration) {
        if let Ok(mut planned) = self.planned.lock() {
            *planned = time;
        }
    }

    /// Has every cni of the sources file a cni of this name?
    ///
    /// # Errors
    /// The line of one that is neither built in nor the name of one of these.
    pub fn check_sources(&self, cnis: &[CniSpec]) -> anyhow::Result<()> {
        let resolved: Vec<KubeCni> = cnis.iter().filter_map(|c| KubeCni::resolve(c).ok()).collect();
        let names: Vec<&str> = resolved.iter().map(|c| c.profile.name.as_str()).collect();
        Ok(self.sources.check_names(&names)?)
    }

    /// Clusters up at a time.
    pub fn at_once(&self) -> usize {
        self.options.parallel_clusters.unwrap_or(1) as usize
    }

    /// Clusters up at a time where two arms are measured in pairs: both, unless the user said how many
    /// or this machine has no room for them, which the user is told.
    pub fn at_once_in_pairs(&self, topology: &Topology) -> usize {
        if let Some(n) = self.options.parallel_clusters {
            return n as usize;
        }
        match room::for_two(topology.nodes) {
            Ok(()) => 2,
            Err(reason) => {
                tell(&format!(
                    "the clusters of the two arms come up one after the other, and their trials are not next to each other: {reason} (--parallel-clusters 2 has both up at once all the same)"
                ));
                1
            }
        }
    }

    /// How often every cluster is made.
    pub fn rebuilds(&self) -> u32 {
        self.options.rebuilds
    }

    /// The tools that a cni needs here.
    fn tools(&self, profile: &KubeProfile) -> Vec<Tool> {
        let mut tools = vec![Tool::Docker, Tool::Kind];
        let sources = self.sources.of(&profile.name, &profile.family);
        let install = profile.install.as_ref().map(|i| &i.from);
        if sources.manifest.is_none() && matches!(install, Some(kubernetes::InstallFrom::Chart(_)))
        {
            tools.push(Tool::Helm);
        }
        tools
    }

    /// Can a cni be carried here?
    async fn carried(&self, profile: &KubeProfile) -> Result<(), String> {
        let asked = self.asked.get_or_init(|| {
            futures::future::join_all(Tool::ALL.map(|tool| self.maker.tools.check(tool)))
        });
        for (tool, said) in Tool::ALL.into_iter().zip(asked.await) {
            if self.tools(profile).contains(&tool) {
                said.as_ref().map_err(String::clone)?;
            }
        }
        let features: Vec<_> = profile.kernel.iter().map(|f| feature(*f)).collect();
        if features.is_empty() || !is_privileged() || !docker_is_local() {
            return Ok(());
        }
        let tried = tokio::task::spawn_blocking(move || capabilities::require(&features)).await;
        let tried = tried.unwrap_or_else(|e| Err(e.to_string()));
        tried.map_err(|e| format!("nodes of kind share this kernel, and {e}"))
    }

    /// Loads the image of the nodes from its archive, where Docker has it not.
    async fn node_image(&self) -> anyhow::Result<()> {
        let (Some(image), Some(archive)) =
            (&self.maker.node_image, &self.sources.node_image_archive)
        else {
            return Ok(());
        };
        let load = || async {
            let docker = |limit| self.maker.tools.docker(limit);
            if docker(ASK).args(["image", "inspect", image]).run().await.is_ok() {
                return Ok(());
            }
            let loaded = docker(LOAD).args(["load", "--quiet", "--input"]).arg(archive).run().await;
            loaded.map(drop).with_context(|| format!("the node image of {}", archive.display()))
        };
        self.node_image.get_or_try_init(load).await.map(drop)
    }

    /// The workload image's archive and name, made once.
    async fn image(&self) -> anyhow::Result<(PathBuf, String)> {
        let make = || async {
            let folder = tempfile::Builder::new().prefix("cnibench-image-").tempdir()?;
            let archive = folder.path().join(ARCHIVE);
            let made = tokio::task::spawn_blocking(move || {
                image::write(Path::new("/proc/self/exe"), &archive)
            });
            anyhow::Ok((folder, made.await??))
        };
        let (folder, name) = self.image.get_or_try_init(make).await?;
        Ok((folder.path().join(ARCHIVE), name.clone()))
    }

    async fn deployment(
        &self,
        index: u32,
        cni: &KubeCni,
        image: String,
        access: &Access,
    ) -> anyhow::Result<Deployment> {
        let listed = nodes::choose(access, &self.pods.nodes(cni.profile.host_network), 2).await?;
        let terms = Terms {
            run: self.maker.owner.id().as_str().to_owned(),
            index,
            image: Image::Own(image),
            // Nobody else uses these nodes, and a quota would throttle.
            cpus: None,
            privileged: true,
            planned: self.planned.lock().map_or(Duration::ZERO, |p| *p),
        };
        let seats = Seats::of(listed.as_deref(), None).map_err(|e| anyhow!(e))?;
        Ok(Deployment::new(terms, &self.pods, &self.demand, &cni.profile, seats))
    }

    /// Everything between an empty cluster and one that can be measured.
    async fn fill(
        &self,
        cluster: &KindCluster,
        ground: &Ground,
        nodes: u32,
    ) -> anyhow::Result<Vec<String>> {
        let Ground { access, logged, cni, sources, config, .. } = ground;
        let mut clock = Clock::start(&cluster.name);
        let names = cluster.nodes().await?;
        let needed = &cni.profile.plugins;
        let folder = self.sources.cni_plugins.as_deref();
        let brought = plugins::bring(cluster, &names, needed, folder).await?;
        clock.done("CNI plugins");
        for archive in &sources.images {
            cluster.load(archive).await?;
            clock.done("images of the cni");
        }
        let tools = &self.maker.tools;
        install::install(access, tools, cni, sources, &config.facts, &cluster.kubeconfig).await?;
        clock.done("installation");
        let (archive, _) = self.image().await?;
        // The workload's image is loaded while the cni starts.
        let patience = Duration::from_secs_f64(self.options.ready_within);
        let settled = settle::settled(access, logged, &cni.profile, nodes as usize, patience);
        tokio::try_join!(settled, cluster.load(&archive))?;
        clock.done("settling, and the workload image");
        let mut details = install::details(cni, sources);
        details.push(format!("Kubernetes {}", access.version().await?));
        if !brought.is_empty() {
            details.push(format!("CNI plugins brought into the nodes: {}", brought.join(", ")));
        }
        details.extend(images(access, &cni.profile).await);
        Ok(details)
    }
}

const ARCHIVE: &str = "agent.tar";

/// Tells those who ask (`-v`) how long each step of bringing a cluster up took.
struct Clock<'a>(&'a str, Instant);

impl<'a> Clock<'a> {
    fn start(cluster: &'a str) -> Self {
        Self(cluster, Instant::now())
    }

    fn done(&mut self, step: &str) {
        let seconds = self.1.elapsed().as_secs_f64();
        tracing::info!("{}: {step}: {seconds:.1} s", self.0);
        self.1 = Instant::now();
    }
}

/// Reads a sources file, with the names that may have an entry in it.
///
/// # Errors
/// What is wrong with it, and where.
pub fn read_sources(file: Option<&Path>) -> anyhow::Result<Sources> {
    let Some(file) = file else { return Ok(Sources::default()) };
    let profiles = kubernetes::embedded().map_err(|e| anyhow!(e))?;
    let cnis: Vec<&str> = profiles.iter().map(|p| p.name.as_str()).collect();
    let families: BTreeSet<&str> = profiles.iter().map(|p| p.family.as_str()).collect();
    Sources::read(file, &cnis, &families.into_iter().collect::<Vec<_>>())
}

fn feature(feature: KernelFeature) -> &'static capabilities::Feature {
    match feature {
        KernelFeature::Vxlan => capabilities::VXLAN,
        KernelFeature::Wireguard => capabilities::WIREGUARD,
        KernelFeature::Esp => capabilities::ESP,
    }
}

/// Refuses parameters that what the sources file names would leave without effect.
fn ignored(cni: &KubeCni, sources: &CniSources) -> Result<(), ClusterError> {
    let without = |key: &str| match (&sources.manifest, &sources.chart) {
        (Some(manifest), _) => Some(format!("the manifest {}", manifest.display())),
        (None, Some(chart)) if key == "version" => Some(format!("the chart {}", chart.display())),
        _ => None,
    };
    let keys = cni.spec.params.keys().filter(|k| *k != "path");
    for key in keys {
        if let Some(what) = without(key) {
            return Err(ClusterError::Usage(format!(
                "cni {}: {key} has no effect on {what}, which the sources file names in its place",
                cni.spec
            )));
        }
    }
    Ok(())
}

/// Do the nodes share this machine's kernel?
pub(super) fn docker_is_local() -> bool {
    std::env::var("DOCKER_HOST").map_or(true, |host| host.is_empty() || host.starts_with("unix://"))
}

/// Which images a cni's own pods really run.
async fn images(access: &Access, profile: &KubeProfile) -> Option<String> {
    let agent = profile.agent.as_ref()?;
    let pods = ready::list(&access.client, &agent.namespace, &agent.selector).await.ok()?;
    let spec = pods.first()?.spec.as_ref()?;
    let container = spec.containers.iter().find(|c| c.name == agent.container)?;
    Some(format!("its agent's image: {}", container.image.as_ref()?))
}

#[async_trait]
impl Provider for KindProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Kind
    }

    fn host_rides(&self) -> bool {
        true
    }

    async fn cnis(&self) -> Vec<CniOffer> {
        let mut offers = Vec::new();
        for profile in kubernetes::embedded().unwrap_or_default() {
            let params = profile.params();
            offers.push(CniOffer {
                name: profile.name.clone(),
                description: profile.description.clone(),
                params: params.iter().map(|p| (p.name.to_owned(), p.help.to_owned())).collect(),
                automatic: profile.automatic,
                missing: self.carried(profile).await.err(),
            });
        }
        offers
    }

    async fn check(&self, cni: &CniSpec, topology: &Topology) -> Result<(), ClusterError> {
        config::check_topology(cni, topology)?;
        let cni = KubeCni::resolve(cni)?;
        config::config(&cni.profile, "x", topology.nodes).map_err(ClusterError::Usage)?;
        ignored(&cni, &self.sources.of(&cni.profile.name, &cni.profile.family))?;
        let carried = self.carried(&cni.profile).await;
        carried.map_err(|reason| ClusterError::Unsupported { cni: cni.spec, reason })
    }

    async fn up(
        &self,
        index: u32,
        cni: &CniSpec,
        topology: &Topology,
    ) -> Result<Box<dyn Cluster>, ClusterError> {
        let begun = Instant::now();
        config::check_topology(cni, topology)?;
        let cni = KubeCni::resolve(cni)?;
        let name = self.maker.name(index);
        let config: Config =
            config::config(&cni.profile, &name, topology.nodes).map_err(ClusterError::Usage)?;
        self.node_image().await?;
        let mut clock = Clock::start(&name);
        let mut cluster = self.maker.create(index, &config).await?;
        clock.done("kind create cluster");
        let image = self.image().await?.1;
        let made = async {
            let access = Access::from_kubeconfig(Some(&cluster.kubeconfig), None).await?;
            let sources = self.sources.of(&cni.profile.name, &cni.profile.family);
            let ground = Ground {
                tools: self.maker.tools.clone(),
                access: access.clone(),
                logged: Logged::default(),
                cni: cni.clone(),
                sources,
                config,
                kubeconfig: cluster.kubeconfig.clone(),
                nodes: topology.nodes as usize,
                patience: Duration::from_secs_f64(self.options.ready_within),
            };
            let details = self.fill(&cluster, &ground, topology.nodes).await?;
            let mut clock = Clock::start(&name);
            let deployment = self.deployment(index, &cni, image, &access).await?;
            let mut pods = Pods::new(access, &deployment);
            let mut info = KubeCluster::deploy(&mut pods, &deployment, &cni, begun).await?;
            info.details.extend(details);
            clock.done("workload pods");
            // New pods make some cnis compile again.
            settle::at_rest(&ground.access, &ground.logged, &cni.profile, None, ground.patience)
                .await?;
            clock.done("coming to rest");
            let mut inner = KubeCluster::new(pods, cni.clone(), info, &deployment);
            if self.maker.keep {
                inner.note(format!(
                    "cluster {} stays: KUBECONFIG={}; `cnibench clean` removes it",
                    cluster.name,
                    cluster.kubeconfig.display()
                ));
            }
            anyhow::Ok((ground, inner))
        };
        match made.await {
            Ok((ground, inner)) => {
                cluster.is_whole();
                Ok(Box::new(KindMeasured::new(inner, ground, cluster)))
            }
            Err(mut e) => {
                if let Err(more) = cluster.delete().await {
                    e = e.context(format!("and it could not be removed: {more:#}"));
                }
                Err(e.into())
            }
        }
    }
}

//! The provider itself: which cnis it has, whether they can be carried here, and bringing one up.

use super::{
    addressing::Plan,
    capabilities,
    cluster::NetnsCluster,
    spaces::Spaces,
    sysctls::{self, Sysctl},
};
use crate::{
    cluster::{
        Cluster, ClusterError, CniOffer, Provider, Topology,
        owner::{Owner, RunId},
    },
    cni::{PROFILES, Profile},
};
use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use cnibench_model::{CniInfo, CniSpec, ProviderKind};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{sync::Arc, time::Instant};

/// Brings up clusters of network namespaces.
#[derive(Debug, Clone)]
pub struct NetnsProvider {
    owner: Arc<Owner>,
}

impl NetnsProvider {
    /// A provider whose clusters belong to this run.
    ///
    /// # Errors
    /// When this process may not work with network namespaces; the text says what to do.
    pub fn new(owner: impl Into<Arc<Owner>>) -> Result<Self, ClusterError> {
        if !super::user_namespace::is_privileged() {
            return Err(ClusterError::Failed(anyhow!(
                "the netns provider needs CAP_SYS_ADMIN and CAP_NET_ADMIN: run as root, or enter a user namespace first"
            )));
        }
        // A descriptor per namespace: the usual soft limit of 1024 is a few hundred nodes.
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).context("cannot raise the limit of open files")?;
        Ok(Self { owner: owner.into() })
    }

    /// The run's id.
    pub fn run_id(&self) -> &RunId {
        self.owner.id()
    }
}

#[async_trait]
impl Provider for NetnsProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Netns
    }

    async fn cnis(&self) -> Vec<CniOffer> {
        tokio::task::spawn_blocking(offers).await.unwrap_or_default()
    }

    async fn check(&self, cni: &CniSpec, topology: &Topology) -> Result<(), ClusterError> {
        Plan::new(topology)?;
        let (profile, _) = Profile::resolve(&sysctls::without(cni), topology)?;
        carried(profile, cni, &sysctls::of(cni)?).await
    }

    async fn up(
        &self,
        index: u32,
        cni: &CniSpec,
        topology: &Topology,
    ) -> Result<Box<dyn Cluster>, ClusterError> {
        let plan = Plan::new(topology)?;
        let (profile, datapath) = Profile::resolve(&sysctls::without(cni), topology)?;
        let sysctls = sysctls::of(cni)?;
        carried(profile, cni, &sysctls).await?;
        let begun = Instant::now();
        let mut details = datapath.details();
        details.insert(0, wire_detail(topology));
        let mut cluster = NetnsCluster {
            info: CniInfo {
                spec: cni.clone(),
                description: profile.description.to_owned(),
                family: profile.family.to_owned(),
                // A file that a profile is read from says it itself.
                encrypted: profile.encrypted || datapath.wrapping().is_some(),
                mtu: datapath.pod_mtu(),
                setup_ms: 0.0,
                details,
            },
            cni: datapath,
            topology: topology.clone(),
            plan,
            nodes: Vec::new(),
            underlay: None,
            no_service: None,
            policies: Some(0),
            sysctls,
            spaces: Arc::new(Spaces::default()),
            _owner: self.owner.clone(),
        };
        if let Err(mut e) = cluster.build(self.run_id(), index).await {
            for more in cluster.down().await {
                e = e.context(format!("and taking it down again failed: {more:#}"));
            }
            return Err(e.into());
        }
        cluster.info.setup_ms = begun.elapsed().as_secs_f64() * 1e3;
        Ok(Box::new(cluster))
    }
}

/// Can this host carry the cni?
async fn carried(
    profile: &'static Profile,
    cni: &CniSpec,
    sysctls: &[Sysctl],
) -> Result<(), ClusterError> {
    let (spec, sysctls) = (sysctls::without(cni), sysctls.to_vec());
    let checked = tokio::task::spawn_blocking(move || {
        capabilities::require(&[capabilities::VETH, capabilities::BRIDGE])?;
        (profile.check)(&spec)?;
        sysctls.iter().try_for_each(Sysctl::check)
    });
    let checked = checked.await.map_err(|e| anyhow!(e).context("checking a cni panicked"))?;
    checked.map_err(|reason| ClusterError::Unsupported { cni: cni.clone(), reason })
}

/// The cnis by name where nothing can be tried, each with the reason.
pub fn untried(reason: &str) -> Vec<CniOffer> {
    offers_with(|_| Some(reason.to_owned()))
}

fn offers() -> Vec<CniOffer> {
    let wire = capabilities::require(&[capabilities::VETH, capabilities::BRIDGE]);
    offers_with(|profile| {
        wire.clone().and_then(|()| (profile.check)(&CniSpec::named(profile.name))).err()
    })
}

fn offers_with(missing: impl Fn(&Profile) -> Option<String>) -> Vec<CniOffer> {
    let offer = |profile: &&Profile| CniOffer {
        name: profile.name.to_owned(),
        description: profile.description.to_owned(),
        params: profile
            .params
            .iter()
            .map(|p| (p.name, p.help))
            .chain([(sysctls::NAME, sysctls::HELP)])
            .map(|(name, help)| (name.to_owned(), help.to_owned()))
            .collect(),
        automatic: profile.automatic,
        missing: missing(profile),
    };
    PROFILES.iter().map(offer).collect()
}

/// What every cluster is made on.
fn wire_detail(topology: &Topology) -> String {
    format!(
        "{} nodes on one bridge in a namespace of its own, eth0 of each a veth with MTU {}; rp_filter 0",
        topology.nodes, topology.underlay_mtu
    )
}

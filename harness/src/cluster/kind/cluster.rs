//! A cluster of kind while it is measured: the pods in it, and the ground they stand on.
//!
//! Passes everything on to the pods' cluster but for its end, and for what needs the cni to be installed
//! with other values.

use super::{
    config::Config, install::install, lifecycle::KindCluster, sources::CniSources, tools::Tools,
};
use crate::{
    cluster::{
        Cluster, Ends, Place, StateError,
        kube::{Access, KubeCluster, logged::Logged, settle},
    },
    cni::kubernetes::KubeCni,
    exec::Link,
    probe::Sights,
};
use async_trait::async_trait;
use cnibench_model::{CniInfo, Footprint, NodePair, Phase, Placement, Proof, Surroundings};
use std::{path::PathBuf, time::Duration};

/// What a cni was installed from, to install it again with other values.
pub(super) struct Ground {
    pub(super) tools: Tools,
    pub(super) access: Access,
    pub(super) logged: Logged,
    pub(super) cni: KubeCni,
    pub(super) sources: CniSources,
    pub(super) config: Config,
    pub(super) kubeconfig: PathBuf,
    pub(super) nodes: usize,
    pub(super) patience: Duration,
}

impl Ground {
    /// Is the flow observer in the other state?
    fn switches_hubble(&self, on: bool) -> bool {
        self.cni.hubble != Some(on) && self.cni.with_hubble(on).is_some()
    }

    /// Switches the flow observer, and waits until the cni is settled again; false when nothing was
    /// to be done.
    async fn switch_hubble(&mut self, on: bool) -> Result<bool, StateError> {
        if self.cni.hubble == Some(on) {
            return Ok(false);
        }
        let Some(cni) = self.cni.with_hubble(on) else {
            return Err(StateError::NotOffered(format!(
                "hubble: {} has no flow observer",
                self.cni.profile.name
            )));
        };
        // Not known until it is settled: one that failed half-way is switched again.
        self.cni.hubble = None;
        let (access, facts) = (&self.access, &self.config.facts);
        install(access, &self.tools, &cni, &self.sources, facts, &self.kubeconfig).await?;
        settle::rolled_out(access, &cni.profile, self.patience).await?;
        settle::settled(access, &self.logged, &cni.profile, self.nodes, self.patience).await?;
        self.cni = cni;
        Ok(true)
    }

    async fn at_rest(&self) -> anyhow::Result<()> {
        settle::at_rest(&self.access, &self.logged, &self.cni.profile, None, self.patience).await
    }
}

/// A cluster that is up.
pub(super) struct KindMeasured {
    inner: KubeCluster,
    ground: Ground,
    cluster: KindCluster,
    /// What is around the pods now.
    /// None: something failed on the way there.
    surroundings: Option<Surroundings>,
    /// The cni as it came up.
    asked: KubeCni,
    keep: bool,
}

impl KindMeasured {
    pub(super) fn new(inner: KubeCluster, ground: Ground, cluster: KindCluster) -> Self {
        let (keep, asked) = (cluster.stays(), ground.cni.clone());
        Self { inner, ground, cluster, surroundings: Some(Surroundings::default()), asked, keep }
    }
}

#[async_trait]
impl Cluster for KindMeasured {
    fn info(&self) -> &CniInfo {
        self.inner.info()
    }

    fn notes(&self) -> Vec<String> {
        self.inner.notes()
    }

    fn ends(&self, placement: Placement) -> Result<Ends, String> {
        self.inner.ends(placement)
    }

    fn host_ends(&self, placement: Placement) -> Result<Ends, String> {
        self.inner.host_ends(placement)
    }

    fn pair_ends(
        &self,
        placement: Placement,
        host: bool,
        pair: (u32, u32),
    ) -> Result<(Ends, NodePair), String> {
        self.inner.pair_ends(placement, host, pair)
    }

    async fn surround(&mut self, wanted: &Surroundings) -> Result<Vec<Proof>, StateError> {
        let before = self.surroundings.take();
        // A case that does not say is measured with what the cni was asked for.
        if let Some(on) = wanted.hubble.or(self.asked.hubble) {
            if self.ground.switches_hubble(on) {
                self.inner.switches().await;
            }
            if self.ground.switch_hubble(on).await? {
                self.inner.switched(self.ground.cni.clone());
            }
        }
        let proofs = self.inner.surround(wanted).await?;
        if before != Some(*wanted) {
            self.ground.at_rest().await?;
        }
        self.surroundings = Some(*wanted);
        Ok(proofs)
    }

    async fn footprint(&mut self, phase: Phase) -> Vec<Footprint> {
        self.inner.footprint(phase).await
    }

    async fn footprint_begins(&mut self) {
        self.inner.footprint_begins().await;
    }

    async fn mend(&mut self) -> anyhow::Result<Option<String>> {
        self.inner.mend().await
    }

    async fn enter(&self, place: &Place) -> anyhow::Result<Link> {
        self.inner.enter(place).await
    }

    async fn sights(&self, placement: Placement, host: bool) -> Result<Sights, String> {
        self.inner.sights(placement, host).await
    }

    fn observer(&self, place: &Place) -> Option<Place> {
        self.inner.observer(place)
    }

    async fn observe(&self, observer: &Place) -> anyhow::Result<Link> {
        self.inner.observe(observer).await
    }

    async fn prove(&self) -> Vec<Proof> {
        self.inner.prove().await
    }

    async fn check(&mut self) -> anyhow::Result<()> {
        self.inner.check().await
    }

    async fn down(&mut self) -> Vec<anyhow::Error> {
        // Pods go with their cluster; only one that stays is swept.
        let mut errors = if self.keep { self.inner.down().await } else { Vec::new() };
        errors.extend(self.cluster.end().await.err());
        errors
    }
}

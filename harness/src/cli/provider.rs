//! From the command line to a provider, and how its clusters allow trials to be arranged.

use crate::{
    cluster::{
        Provider,
        kube::{self, KubeconfigProvider},
        netns::{NetnsProvider, Owner},
    },
    plan::{Arrangement, TrialOrder},
};
use anyhow::{Result, bail};
use cnibench_model::{Placement, ProviderKind};
use std::{sync::Arc, time::Duration};

/// What brings the clusters of a run up.
pub enum Chosen {
    /// Namespaces of this machine.
    Netns(NetnsProvider),
    /// The cluster of a kubeconfig.
    Kubeconfig(KubeconfigProvider),
}

/// What is asked of a provider.
pub struct Asked<'a> {
    /// Which.
    pub kind: ProviderKind,
    /// Options of Kubernetes providers.
    pub kube: &'a kube::Options,
    /// Placements that trials will use.
    pub placements: Vec<Placement>,
}

impl Chosen {
    /// Makes the provider of a run.
    ///
    /// # Errors
    /// Options of another provider, or what it needs and has not.
    pub async fn new(asked: &Asked<'_>, owner: Arc<Owner>) -> Result<Self> {
        let run = owner.id().as_str().to_owned();
        match asked.kind {
            ProviderKind::Netns => {
                if let Some(option) = asked.kube.given() {
                    bail!(
                        "{option} means nothing to the provider netns: give --provider kubeconfig or kind"
                    );
                }
                Ok(Self::Netns(NetnsProvider::new(owner)?))
            }
            ProviderKind::Kubeconfig => {
                let placements = asked.placements.clone();
                let provider = KubeconfigProvider::new(asked.kube.clone(), run, placements).await?;
                Ok(Self::Kubeconfig(provider))
            }
            kind => bail!("provider {kind} is not in this release"),
        }
    }

    /// As the runner sees it.
    pub fn provider(&self) -> &dyn Provider {
        match self {
            Self::Netns(provider) => provider,
            Self::Kubeconfig(provider) => provider,
        }
    }

    /// How trials can be arranged on its clusters.
    ///
    /// # Errors
    /// The cluster cannot be asked what it has.
    pub async fn arrangement(&self, order: TrialOrder) -> Result<Arrangement> {
        let simple = Arrangement::simple(order);
        Ok(match self {
            Self::Netns(_) => simple,
            Self::Kubeconfig(provider) => Arrangement {
                host_rides: true,
                matrix: provider.matrix().await?,
                setup_s: 30.0,
                ..simple
            },
        })
    }

    /// Tells how long the run is planned to take.
    pub fn plan_for(&self, time: Duration) {
        if let Self::Kubeconfig(provider) = self {
            provider.plan_for(time);
        }
    }
}

/// True when the provider works with namespaces of this machine, which takes root or a user namespace.
pub fn needs_namespaces(kind: ProviderKind) -> bool {
    kind == ProviderKind::Netns
}

//! From the command line to a provider, and how its clusters allow trials to be arranged.

use crate::{
    cluster::{
        Provider, Topology,
        kind::{KindOptions, KindProvider},
        kube::{self, KubeconfigProvider},
        netns::{NetnsProvider, Owner},
        vm::{VmOptions, VmProvider},
    },
    plan::{Arrangement, Pairs, Plan, TrialOrder},
};
use anyhow::{Result, bail};
use cnibench_model::{Clock, CniSpec, ProviderKind};
use std::{collections::BTreeSet, sync::Arc};

/// What brings the clusters of a run up.
pub enum Chosen {
    /// Namespaces of this machine.
    Netns(NetnsProvider),
    /// Namespaces of guests.
    Vm(Box<VmProvider>),
    /// Clusters of kind.
    Kind(Box<KindProvider>),
    /// The cluster of a kubeconfig.
    Kubeconfig(Box<KubeconfigProvider>),
}

/// What is asked of a provider.
pub struct Asked<'a> {
    /// Which.
    pub kind: ProviderKind,
    /// Options of Kubernetes providers.
    pub kube: &'a kube::Options,
    /// Options of the provider kind.
    pub kind_options: &'a KindOptions,
    /// Options of the provider vm.
    pub vm_options: &'a VmOptions,
    /// What is to be measured.
    pub demand: kube::Demand,
}

impl Chosen {
    /// Makes the provider of a run.
    ///
    /// # Errors
    /// Options of another provider, or what it needs and has not.
    pub async fn new(asked: &Asked<'_>, owner: Arc<Owner>) -> Result<Self> {
        let run = owner.id().as_str().to_owned();
        if let Some(option) =
            asked.kind_options.given().filter(|_| asked.kind != ProviderKind::Kind)
        {
            bail!("{option} means nothing to the provider {}: give --provider kind", asked.kind);
        }
        if let Some(option) = asked.vm_options.given().filter(|_| asked.kind != ProviderKind::Vm) {
            bail!("{option} means nothing to the provider {}: give --provider vm", asked.kind);
        }
        match asked.kind {
            ProviderKind::Netns | ProviderKind::Vm => {
                if let Some(option) = asked.kube.given_of_kubeconfig().or(asked.kube.given()) {
                    let others = match asked.kube.given_of_kubeconfig() {
                        Some(_) => "kubeconfig",
                        None => "kubeconfig or kind",
                    };
                    bail!(
                        "{option} means nothing to the provider {}: give --provider {others}",
                        asked.kind
                    );
                }
                Ok(match asked.kind {
                    ProviderKind::Vm => {
                        Self::Vm(Box::new(VmProvider::new(owner, asked.vm_options.clone())?))
                    }
                    _ => Self::Netns(NetnsProvider::new(owner)?),
                })
            }
            ProviderKind::Kubeconfig => {
                let demand = asked.demand.clone();
                let provider = KubeconfigProvider::new(asked.kube.clone(), run, demand).await?;
                Ok(Self::Kubeconfig(Box::new(provider)))
            }
            ProviderKind::Kind => {
                if let Some(option) = asked.kube.given_of_kubeconfig() {
                    bail!(
                        "{option} means nothing to the provider kind, which makes its own clusters"
                    );
                }
                let (options, pods) = (asked.kind_options.clone(), asked.kube.clone());
                let provider = KindProvider::new(owner, options, pods, asked.demand.clone())?;
                Ok(Self::Kind(Box::new(provider)))
            }
            kind => {
                bail!("provider {kind} is not in this release; netns, vm, kind and kubeconfig are")
            }
        }
    }

    /// Versions of what its clusters run on, beside those of this machine.
    pub fn versions(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Vm(provider) => provider.versions(),
            Self::Netns(_) | Self::Kind(_) | Self::Kubeconfig(_) => Vec::new(),
        }
    }

    /// As the runner sees it.
    pub fn provider(&self) -> &dyn Provider {
        match self {
            Self::Netns(provider) => provider,
            Self::Vm(provider) => provider.as_ref(),
            Self::Kind(provider) => provider.as_ref(),
            Self::Kubeconfig(provider) => provider.as_ref(),
        }
    }

    /// What the clock of its clusters counts.
    pub fn clock(&self) -> Clock {
        match self {
            Self::Vm(provider) => provider.clock(),
            Self::Netns(_) | Self::Kind(_) | Self::Kubeconfig(_) => Clock::Wall,
        }
    }

    /// These cnis as they are measured: where there are several kernels, in each.
    pub fn spread(&self, cnis: Vec<CniSpec>) -> Vec<CniSpec> {
        match self {
            Self::Vm(provider) => provider.kernels().spread(cnis),
            Self::Netns(_) | Self::Kind(_) | Self::Kubeconfig(_) => cnis,
        }
    }

    /// Can these cnis be measured in one run?
    ///
    /// # Errors
    /// Why not.
    pub fn check_together(&self, cnis: &[CniSpec]) -> Result<()> {
        if let Self::Kind(provider) = self {
            provider.check_sources(cnis)?;
        }
        // A cni beside itself is one.
        let own: BTreeSet<String> =
            cnis.iter().filter(|c| c.name != "host").map(|c| c.first().to_string()).collect();
        if matches!(self, Self::Kubeconfig(_)) && own.len() > 1 {
            bail!(
                "a cluster that is there has one CNI, and {} were named: name one (beside host), or use --provider kind",
                own.into_iter().collect::<Vec<_>>().join(", ")
            );
        }
        Ok(())
    }

    /// How trials can be arranged on its clusters.
    ///
    /// # Errors
    /// The cluster cannot be asked what it has.
    pub async fn arrangement(&self, order: TrialOrder) -> Result<Arrangement> {
        let simple = Arrangement::simple(order);
        Ok(match self {
            Self::Netns(_) => simple,
            Self::Vm(_) => Arrangement { setup_s: 8.0, ..simple },
            Self::Kind(provider) => Arrangement {
                host_rides: true,
                at_once: Some(provider.at_once()),
                rebuilds: provider.rebuilds(),
                setup_s: 150.0,
                ..simple
            },
            Self::Kubeconfig(provider) => Arrangement {
                host_rides: true,
                matrix: provider.matrix().await?,
                setup_s: 30.0,
                ..simple
            },
        })
    }

    /// How two arms can be measured in pairs on its clusters.
    ///
    /// # Errors
    /// As [`Self::arrangement`].
    pub async fn paired(&self, pairs: Pairs, topology: &Topology) -> Result<Arrangement> {
        let usual = self.arrangement(TrialOrder::Interleaved).await?;
        let at_once = match self {
            Self::Netns(_) | Self::Vm(_) => None,
            // The host is measured in the other's cluster: there is only one.
            Self::Kind(_)
                if [&pairs.baseline, &pairs.candidate].iter().any(|c| c.name == "host") =>
            {
                Some(1)
            }
            Self::Kind(provider) => Some(provider.at_once_in_pairs(topology)),
            Self::Kubeconfig(provider) => provider.at_once_in_pairs(),
        };
        Ok(Arrangement { at_once, pairs: Some(pairs), ..usual })
    }

    /// Tells what is planned.
    pub fn plan_for(&self, plan: &Plan) {
        match self {
            Self::Netns(_) => {}
            Self::Vm(provider) => provider.plan_for(plan),
            Self::Kind(provider) => provider.plan_for(plan.estimate()),
            Self::Kubeconfig(provider) => provider.plan_for(plan),
        }
    }
}

/// True when the provider works with namespaces of this machine, which takes root or a user namespace.
pub fn needs_namespaces(kind: ProviderKind) -> bool {
    kind == ProviderKind::Netns
}

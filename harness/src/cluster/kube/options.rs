//! What the command line says of the pods of a run in a cluster.

use super::{nodes::Wanted, toleration::Toleration};
use std::{collections::BTreeMap, path::PathBuf};

/// Options of the providers kind and kubeconfig.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Kubernetes (providers kind and kubeconfig)")]
pub struct Options {
    /// The kubeconfig to use (kubeconfig only); by default KUBECONFIG, then ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context to use (kubeconfig only); by default its current one.
    #[arg(long)]
    pub context: Option<String>,
    /// An existing namespace for the pods; by default one is made and removed again.
    #[arg(long)]
    pub namespace: Option<String>,
    /// Only nodes with this label; may be given several times.
    #[arg(long = "node-selector", value_name = "KEY=VALUE", value_parser = label)]
    pub node_selector: Vec<(String, String)>,
    /// A taint that the pods tolerate; may be given several times.
    #[arg(long = "toleration", value_name = "KEY[=VALUE][:EFFECT]")]
    pub tolerations: Vec<Toleration>,
    /// Image of the workload pods: any small one with sh, cat, chmod, mv and sleep, into which the
    /// binary travels (kubeconfig only: kind loads an image of its own).
    #[arg(long, value_name = "IMAGE")]
    pub workload_image: Option<String>,
    /// CPUs of every workload pod, requested and at most (QoS class Guaranteed), or none for no limit.
    /// By default 1 on kubeconfig; none on kind, whose nodes nobody else uses and are too small.
    #[arg(long, value_name = "N|none", value_parser = pod_cpus)]
    pub pod_cpus: Option<PodCpus>,
    /// More rights (on kind always, its nodes are the run's own): privileged pods on the measured nodes
    /// for device counters and the sniffer of the encryption proof, CAP_NET_ADMIN for workload pods
    /// (every congestion control, large buffers), and what the cni's own pods cost.
    #[arg(long)]
    pub privileged: bool,
    /// The node-pair matrix, which is `run`'s to ask for ([`MatrixOptions`]).
    #[arg(skip)]
    pub pairs: Option<Pairs>,
    /// Pairs of nodes measured at the same time, at most.
    #[arg(skip = 16_u32)]
    pub pairs_at_once: u32,
}

/// What a run says of the node-pair matrix.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Kubernetes (providers kind and kubeconfig)")]
pub struct MatrixOptions {
    /// Measure the node-pair matrix (kubeconfig only): all pairs of nodes, or this many of them.
    #[arg(long, value_name = "all|K", value_parser = pairs)]
    pub pairs: Option<Pairs>,
    /// Pairs measured at the same time, at most; no node is ever used twice at a time.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub pairs_at_once: u32,
}

/// CPUs of a workload pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodCpus {
    /// Requested and at most.
    Exactly(u32),
    /// No limit.
    Unlimited,
}

/// Which pairs of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// Every one.
    All,
    /// A random sample.
    Some(u32),
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

fn pod_cpus(text: &str) -> Result<PodCpus, String> {
    match text {
        "none" => Ok(PodCpus::Unlimited),
        _ => text
            .parse()
            .ok()
            .filter(|n| (1..=1024).contains(n))
            .map(PodCpus::Exactly)
            .ok_or_else(|| format!("{text:?} is neither a whole number of CPUs nor none")),
    }
}

fn pairs(text: &str) -> Result<Pairs, String> {
    match text {
        "all" => Ok(Pairs::All),
        _ => text
            .parse()
            .ok()
            .filter(|n| *n > 0)
            .map(Pairs::Some)
            .ok_or_else(|| format!("{text:?} is neither a number of pairs nor all")),
    }
}

impl Options {
    /// Which nodes are to be used.
    pub fn nodes(&self, without_cni: bool) -> Wanted {
        let selector: BTreeMap<_, _> = self.node_selector.iter().cloned().collect();
        Wanted { selector, tolerations: self.tolerations.clone(), without_cni }
    }

    /// The first option that was given and means something to the provider kubeconfig only.
    pub fn given_of_kubeconfig(&self) -> Option<&'static str> {
        [
            (self.kubeconfig.is_some(), "--kubeconfig"),
            (self.context.is_some(), "--context"),
            (self.workload_image.is_some(), "--workload-image"),
            (self.pairs.is_some(), "--pairs"),
        ]
        .into_iter()
        .find_map(|(given, name)| given.then_some(name))
    }

    /// True when any of these was given: they mean nothing to the provider netns.
    pub fn given(&self) -> Option<&'static str> {
        [
            (self.kubeconfig.is_some(), "--kubeconfig"),
            (self.context.is_some(), "--context"),
            (self.namespace.is_some(), "--namespace"),
            (!self.node_selector.is_empty(), "--node-selector"),
            (!self.tolerations.is_empty(), "--toleration"),
            (self.workload_image.is_some(), "--workload-image"),
            (self.pod_cpus.is_some(), "--pod-cpus"),
            (self.privileged, "--privileged"),
            (self.pairs.is_some(), "--pairs"),
        ]
        .into_iter()
        .find_map(|(given, name)| given.then_some(name))
    }
}

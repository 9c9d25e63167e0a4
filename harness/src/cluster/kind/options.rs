//! What the command line says of clusters of kind.

use std::path::PathBuf;

/// Options of the provider kind.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Clusters of kind (provider kind)")]
pub struct KindOptions {
    /// Where charts, images and CNI plugins come from, for a machine without a way out (TOML).
    #[arg(long, value_name = "FILE")]
    pub sources: Option<PathBuf>,
    /// The image of the nodes; by default the one that this version of kind is made for.
    #[arg(long, value_name = "IMAGE")]
    pub node_image: Option<String>,
    /// Leave the clusters when the run ends; `cnibench clean` removes them.
    #[arg(long)]
    pub keep: bool,
    /// Clusters up at the same time. More than one interleaves their trials, and takes that many times
    /// the memory. By default 1; of the two arms of `ab` both, where memory allows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub parallel_clusters: Option<u32>,
    /// How often every cluster is made, which is `run`'s to ask for ([`RebuildOptions`]).
    #[arg(skip = 1_u32)]
    pub rebuilds: u32,
    /// How long a cni may take from its installation until it is settled.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = cnibench_scenarios::suite::checked_duration)]
    pub ready_within: f64,
}

/// What a run says of clusters that are made more than once.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Clusters of kind (provider kind)")]
pub struct RebuildOptions {
    /// Make every cluster this many times, in turn forwards and backwards, and measure all trials each
    /// time: what differs from one cluster to the next of the same cni shows as spread.
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rebuilds: u32,
}

impl Default for KindOptions {
    fn default() -> Self {
        Self {
            sources: None,
            node_image: None,
            keep: false,
            parallel_clusters: None,
            rebuilds: 1,
            ready_within: 600.0,
        }
    }
}

impl KindOptions {
    /// The first option that was given: they mean nothing to other providers.
    pub fn given(&self) -> Option<&'static str> {
        let usual = Self::default();
        [
            (self.sources.is_some(), "--sources"),
            (self.node_image.is_some(), "--node-image"),
            (self.keep, "--keep"),
            (self.rebuilds != usual.rebuilds, "--rebuilds"),
            (self.ready_within != usual.ready_within, "--ready-within"),
            (self.parallel_clusters != usual.parallel_clusters, "--parallel-clusters"),
        ]
        .into_iter()
        .find_map(|(given, name)| given.then_some(name))
    }
}

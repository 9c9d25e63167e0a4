//! The provider `kind`: real Kubernetes clusters whose nodes are containers of this machine's Docker.
//!
//! Owns the tools it calls, the cluster's config, the workload image, installing a cni, waiting until
//! it is settled, and removing all of it. What runs in the cluster afterwards is `cluster/kube`'s.

pub mod apply;
mod cluster;
pub mod command;
pub mod config;
pub mod daemon;
pub mod documents;
#[cfg(test)]
mod fake;
pub mod image;
pub mod install;
pub mod leftovers;
pub mod lifecycle;
pub mod options;
pub mod plugins;
mod provider;
pub mod removal;
mod room;
pub mod sources;
pub mod tools;

pub use options::{KindOptions, RebuildOptions};
pub use provider::{KindProvider, read_sources};
pub use sources::{CniSources, Sources};
pub use tools::{Tool, Tools};

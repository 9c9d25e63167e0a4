//! The provider `netns`: nodes and pods as network namespaces of this machine.
//!
//! Owns their names, addresses, the bridge between the nodes, who may remove what, and what to do
//! without root. Knows no CNI: profiles come from `cni/`.

pub mod addressing;
mod build;
pub mod capabilities;
pub mod clean;
mod cluster;
mod prove;
mod provider;
mod service;
mod spaces;
mod surround;
pub mod sysctls;
pub mod user_namespace;

pub use super::owner::{CleanReport, Owner, RunId};
pub use clean::clean_leftovers;
pub use cluster::NetnsCluster;
pub use provider::{NetnsProvider, untried};

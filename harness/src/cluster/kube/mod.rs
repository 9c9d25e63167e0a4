//! Workload pods in a Kubernetes cluster that is there: what the providers `kind` and `kubeconfig`
//! share, and `kubeconfig` itself.
//!
//! Owns the pods, services and policies of a run and their removal. The only way into a pod is the
//! API's exec. Knows no CNI but by the profile that it is given.

pub mod access;
mod cluster;
mod delivery;
pub mod demand;
pub mod deployment;
mod ends;
mod footprint;
mod health;
pub mod hubble;
pub mod leftovers;
pub mod logged;
pub mod nodes;
pub mod objects;
pub mod options;
pub mod pods;
mod probes;
mod prove;
mod provider;
pub mod ready;
pub mod removal;
pub mod rights;
pub mod settle;
pub mod surround;
pub mod toleration;
mod watch;

pub use access::Access;
pub use cluster::KubeCluster;
pub use demand::Demand;
pub use options::{MatrixOptions, Options};
pub use provider::{INSTALLED, KubeconfigProvider};

//! Workload pods in a Kubernetes cluster that is there: what the providers `kind` and `kubeconfig`
//! share, and `kubeconfig` itself.
//!
//! Owns the pods, services and policies of a run and their removal. The only way into a pod is the
//! API's exec. Knows no CNI but by the claims that it is given.

pub mod access;
pub mod claims;
pub mod cluster;
mod delivery;
pub mod nodes;
pub mod objects;
pub mod ready;

pub use access::Access;

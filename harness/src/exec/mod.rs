//! A process in a place, with piped standard input and output that speaks JSON lines.
//!
//! The place is a network namespace of this machine or a pod of a Kubernetes cluster: whoever owns
//! the place makes the [`Link`], and [`Agent`] does not know which it is.

mod agent;
mod link;
pub mod local;
mod observer;
pub mod pod;
mod wire;

pub use agent::{Agent, AgentError, ProbeEvent};
pub use link::{Link, Process};
pub use observer::Observer;

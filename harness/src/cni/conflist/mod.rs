//! Any CNI plugins: a CNI runtime (`runtime` and what it stands on) and the profile `conflist`
//! that attaches the pods of a cluster with it.
//!
//! Owns everything that speaks the CNI specification. The profile is called by the provider like
//! any other; the plugins themselves are the user's.

pub mod chain;
pub mod config;
pub mod error;
pub mod interrupt;
pub mod node;
mod plugins;
pub mod process;
pub mod profile;
pub mod result;
pub mod runtime;
pub mod substitute;
pub(super) mod sys;
pub mod version;

pub use profile::PROFILE;

//! Suites: the TOML a user writes, checked and expanded into cases.
//!
//! Owns the suite file format and the catalogue that is built into the binary. Knows which
//! workloads, placements and parameters exist, but no cni and no provider: those are arguments.

pub mod catalog;
pub mod error;
pub mod expand;
pub mod quantity;
pub mod suite;

pub use error::SuiteError;
pub use expand::{Overrides, cliffs, expand, ladders, rotations};
pub use suite::{Scenario, Suite};

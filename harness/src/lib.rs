//! The controller: plans, brings clusters up, runs trials, keeps the record, cleans up.
//!
//! `main.rs` only parses and dispatches; whatever it does is here, so that tests can call it.

pub mod calibration;
pub mod cli;
pub mod cluster;
pub mod cni;
pub mod crowd;
pub mod environment;
pub mod exec;
pub mod guest;
pub mod interrupt;
pub mod netlink;
pub mod observe;
pub mod peers;
pub mod plan;
pub mod probe;
pub mod proof;
pub mod runner;
pub mod store;
pub mod tell;

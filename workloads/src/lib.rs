//! The traffic generator and the agent that runs it.
//!
//! [`agent`] speaks [`protocol`] with the controller and runs one end of a trial; [`outcome`] makes
//! the samples of a trial from what both ends report; [`cpus`] says where flows run; [`contact`] is
//! the small traffic of proofs; [`peers`] has other
//! generators make the traffic. One OS thread a flow, blocking system calls, one monotonic clock;
//! nothing asynchronous.

pub mod agent;
mod along;
pub mod arrivals;
pub mod check;
pub mod clock;
pub mod contact;
pub mod counted;
pub mod cpus;
mod error;
mod flow;
mod hello;
mod interfaces;
pub mod meter;
pub mod node_cpu;
pub mod observed;
mod options;
pub mod outcome;
mod payload;
pub mod peers;
pub mod protocol;
mod reins;
mod sys;
mod tcp;
mod tcp_crr;
mod tcp_rr;
mod tcp_stream;
mod throttle;
mod transact;
mod trial;
mod udp;
mod udp_rr;
mod udp_stream;

pub use error::TrialError;

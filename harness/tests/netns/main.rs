//! Tests with real namespaces and real packets. They need root: `sudo` them, they do not skip.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows test functions, but not what they share, as tests"
)]

mod ab;
mod conflist;
mod custom;
mod ebpf;
mod ebpf_object;
mod encrypted_trials;
mod faults;
mod generators;
mod losses;
mod observe;
mod over_agents;
mod ownership;
mod probed_runs;
mod probes;
mod profiles;
mod proofs;
mod rig;
mod rules;
mod run;
mod running;
mod support;
mod sysctls;
mod traffic;
mod unprivileged;
mod verdict;
mod wireguard;

//! Generators: the programs that can make the traffic of a trial.
//!
//! Only their names and what is recorded of them; what each can do, and how it is run and read, is the
//! business of the workloads.

use crate::{case::named_enum, nearest::did_you_mean};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

named_enum! {
    /// What makes the traffic of a trial.
    Generator, "generator" {
        /// cnibench's own: every workload, both ends measured in one window.
        Cnibench = "cnibench",
        /// iperf3: streams over TCP and UDP.
        Iperf3 = "iperf3",
        /// netperf and its netserver: streams, request/response, connections.
        Netperf = "netperf",
        /// sockperf: request/response of 14 bytes and more.
        Sockperf = "sockperf",
        /// neper (tcp_stream, tcp_rr, tcp_crr, udp_rr and their servers).
        Neper = "neper",
    }
}

impl Generator {
    /// True for cnibench's own, which is what a record of before there were others was made by.
    pub fn is_own(&self) -> bool {
        *self == Self::Cnibench
    }
}

impl Default for Generator {
    fn default() -> Self {
        Self::Cnibench
    }
}

/// The program that made the traffic of a trial, where it was not cnibench's own generator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MadeBy {
    /// Which.
    pub generator: Generator,
    /// Its version as it tells it; empty where it told none.
    pub version: String,
    /// The client's command, argument by argument (of the first flow, where each has a process).
    pub command: Vec<String>,
}

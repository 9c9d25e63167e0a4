//! What a case asks of the cluster around its pods: policies, services, Hubble.
//!
//! Owns the names and their place in a case id. How a cluster is brought there is its provider's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The state of the cluster around a case's pods. `None`: as it came up, and not part of the id.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(default)]
pub struct Surroundings {
    /// NetworkPolicies that select the server's pod: one admits the measured flow, the others admit
    /// other peers. 0: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policies: Option<u32>,
    /// ClusterIP services beside the measured one, each with the server's pod as its endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<u32>,
    /// Is Hubble, Cilium's flow observer, on?
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hubble: Option<bool>,
}

impl Surroundings {
    /// True when nothing is asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What is asked for, as in case ids: `hubble=on`, `policies=100`, `services=10`.
    pub fn named(&self) -> Vec<(&'static str, String)> {
        let on = |b: bool| if b { "on" } else { "off" }.to_owned();
        [
            ("hubble", self.hubble.map(on)),
            ("policies", self.policies.map(|n| n.to_string())),
            ("services", self.services.map(|n| n.to_string())),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect()
    }
}

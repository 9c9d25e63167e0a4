//! Proofs: evidence that the mode a cell claims was really in force.

use crate::spec::CniSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is proved.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ProofKind {
    /// Client and server reach each other before anything is measured.
    Connectivity,
    /// The traffic took the datapath that the cni claims (device counters rose by what was sent).
    Path,
    /// No payload in clear on the underlay, while bytes that cover it crossed.
    Encryption,
    /// Without the key of one node nothing crosses from its pods to others', in clear least of all.
    KeyRemoval,
    /// The largest packet that the pod's MTU promises crosses unfragmented.
    Mtu,
    /// A network policy admits the allowed flow and stops the denied one.
    Policy,
    /// The cni's own flow observer (Hubble) saw what was sent.
    Flows,
}

impl ProofKind {
    /// The word used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connectivity => "connectivity",
            Self::Path => "path",
            Self::Encryption => "encryption",
            Self::KeyRemoval => "key removal",
            Self::Mtu => "mtu",
            Self::Policy => "policy",
            Self::Flows => "flows",
        }
    }
}

/// How a proof ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProofOutcome {
    /// The claim holds.
    Passed,
    /// The claim does not hold: the cells that rest on it are invalid.
    Failed,
    /// The cni does not do it and does not claim to (network policies under Flannel): a finding.
    NotEnforced,
    /// It could not be looked at: with the rights that the run was given, or as things were; nothing
    /// rests on it.
    NotTaken,
}

/// One proof with its evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Proof {
    /// What was to be proved.
    pub kind: ProofKind,
    /// For which cni.
    pub cni: CniSpec,
    /// Did it hold?
    pub outcome: ProofOutcome,
    /// One sentence with the numbers, e.g. "2,048 packets on flannel.1, 2,048 sent".
    pub summary: String,
    /// The evidence, one line each: counters, packets seen, commands' output.
    pub evidence: Vec<String>,
}

//! The record: everything one `run` produced, in one JSON file.

use crate::{
    case::{Case, CaseId},
    environment::Environment,
    footprint::Footprint,
    interval::RotationTrial,
    ladder::RungTrial,
    metric::Clock,
    pairing::Pairing,
    probe::ProbedTrial,
    proof::Proof,
    size::SizeTrial,
    spec::CniSpec,
    topology::Topology,
    trial::Trial,
};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of the record's schema. A change that an old reader would misread raises it and adds a migration.
pub const SCHEMA_VERSION: u32 = 1;

/// One cni as the run used it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CniInfo {
    /// As asked for.
    pub spec: CniSpec,
    /// What it is, in one line.
    pub description: String,
    /// Profiles of one family share a hue in figures, e.g. "host", "flannel", "ebpf", "conflist".
    pub family: String,
    /// True when it claims to encrypt traffic between nodes.
    pub encrypted: bool,
    /// MTU of the pods in bytes.
    pub mtu: u32,
    /// Milliseconds from nothing to ready.
    pub setup_ms: f64,
    /// What was built, one line each (devices, addresses, routes), for the reader who asks.
    pub details: Vec<String>,
}

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum CellStatus {
    /// All planned trials were measured.
    Measured,
    /// Not run, for a reason known beforehand.
    Skipped {
        /// One sentence.
        reason: String,
    },
    /// Something went wrong; trials measured before are kept.
    Failed {
        /// Up to three words for the matrix, e.g. "peer never answered".
        short: String,
        /// The whole error, with its causes.
        reason: String,
    },
    /// Measured, but a proof failed: the values are not those of the mode claimed.
    Invalid {
        /// Up to three words for the matrix.
        short: String,
        /// Which proof and why.
        reason: String,
    },
    /// The run ended before all planned trials were measured.
    Interrupted {
        /// Why, e.g. "SIGINT" or "the harness was killed".
        reason: String,
    },
}

/// The end of one case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cell {
    /// The case.
    pub case: CaseId,
    /// How it ended.
    #[serde(flatten)]
    pub status: CellStatus,
}

/// A cni that was left out as a whole (an automatic choice that this host cannot carry).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SkippedCni {
    /// The cni.
    pub cni: CniSpec,
    /// Why.
    pub reason: String,
}

/// What was known when the run began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Header {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// The run's id, which is also in the names of everything it made.
    pub run_id: String,
    /// When it began.
    #[schemars(with = "String")]
    pub started: Timestamp,
    /// The exact command, argument by argument.
    pub command: Vec<String>,
    /// The suite's name.
    pub suite: String,
    /// The suite's whole text, as it was read.
    pub suite_text: String,
    /// Seed of every random choice (order of trials).
    pub seed: u64,
    /// True when trials of different cnis were interleaved in random order.
    pub interleaved: bool,
    /// The two arms that were measured in pairs; none where no pairs were planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairing: Option<Pairing>,
    /// The shape of every cluster.
    pub topology: Topology,
    /// What time values count.
    pub clock: Clock,
    /// The machine.
    pub environment: Environment,
    /// Every case of the plan.
    pub cases: Vec<Case>,
    /// Cnis left out.
    pub skipped_cnis: Vec<SkippedCni>,
}

/// Everything one `run` produced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// What was known when the run began.
    #[serde(flatten)]
    pub header: Header,
    /// When it ended; none when it was cut off.
    #[schemars(with = "Option<String>")]
    pub finished: Option<Timestamp>,
    /// Cnis that came up.
    pub cnis: Vec<CniInfo>,
    /// Every measured trial, in the order in which they ran.
    pub trials: Vec<Trial>,
    /// The end of every case.
    pub cells: Vec<Cell>,
    /// What the cnis' own pods cost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub footprints: Vec<Footprint>,
    /// Trials with kernel-side probes, in the order in which they ran: never among `trials`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probed: Vec<ProbedTrial>,
    /// Trials at offered rates, on the way to the highest that is held: never among `trials`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rungs: Vec<RungTrial>,
    /// Trials at payload sizes, on the way to the one at which throughput falls: never among `trials`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<SizeTrial>,
    /// Trials during which keys were changed, and their controls: never among `trials`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rotated: Vec<RotationTrial>,
    /// Proofs taken once for a cni (those of single trials are with the trial).
    pub proofs: Vec<Proof>,
    /// Things a reader should know: what could not be cleaned, steal during the run, noisy neighbours.
    pub notes: Vec<String>,
}

/// Why a file is not a record that this build can read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not JSON, or JSON of another shape.
    #[error("not a cnibench record: {0}")]
    Shape(#[from] serde_json::Error),
    /// Written by a newer cnibench.
    #[error(
        "record has schema version {found}, this cnibench reads up to {SCHEMA_VERSION}: use a newer cnibench"
    )]
    Newer {
        /// The version found.
        found: u32,
    },
}

impl Record {
    /// Reads a record from JSON, migrating older schemas.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn from_json(text: &str) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Version {
            schema_version: u32,
        }
        let Version { schema_version } = serde_json::from_str(text)?;
        if schema_version > SCHEMA_VERSION {
            return Err(RecordError::Newer { found: schema_version });
        }
        Ok(serde_json::from_str(text)?)
    }

    /// The case with this id.
    pub fn case(&self, id: &CaseId) -> Option<&Case> {
        self.header.cases.iter().find(|c| c.id == *id)
    }

    /// The cell of a case.
    pub fn cell(&self, id: &CaseId) -> Option<&Cell> {
        self.cells.iter().find(|c| c.case == *id)
    }

    /// What is known of a cni that came up.
    pub fn cni(&self, spec: &CniSpec) -> Option<&CniInfo> {
        self.cnis.iter().find(|c| c.spec == *spec)
    }
}

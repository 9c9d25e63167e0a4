//! What crosses the console between controller and guest: questions and answers, a line of JSON each.
//!
//! A whole trial is one question, so that nothing comes into a guest while it measures. Owns the words
//! and the lines; both ends use it.

use crate::{
    cluster::{ClusterError, CniOffer, Ends, StateError, Topology},
    runner::{Broken, Slot, TrialError},
};
use anyhow::anyhow;
use cnibench_model::{
    Case, CniInfo, CniSpec, Placement, ProbedTrial, Proof, RotationTrial, Surroundings, Trial,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, BufRead, Write};

/// Raised with every change of what is said here.
pub const VERSION: u32 = 2;
/// Writes one line.
///
/// # Errors
/// Those of writing, or of what cannot be JSON.
pub fn write(what: &impl Serialize, mut to: impl Write) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// Reads one line; None at the end.
///
/// # Errors
/// Those of reading, or a line that is not what is expected; the error shows its beginning.
pub fn read<T: DeserializeOwned>(mut from: impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    if from.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    let damaged = |e: serde_json::Error| {
        let begin = String::from_utf8_lossy(&line[..line.len().min(SHOWN)]).into_owned();
        io::Error::new(io::ErrorKind::InvalidData, format!("{e} in {begin:?}"))
    };
    serde_json::from_slice(&line).map(Some).map_err(damaged)
}

/// Bytes of a line that cannot be read that an error shows.
const SHOWN: usize = 80;

/// What the controller asks; answered in order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask")]
pub enum Ask {
    /// Which cnis it can carry.
    Cnis,
    /// Can it carry this one?
    Check { cni: CniSpec, topology: Topology },
    /// Bring the cluster up: one in a guest's life.
    Up { index: u32, cni: CniSpec, topology: Topology },
    /// Bring it to another state.
    Surround { wanted: Surroundings },
    /// Prove the datapath.
    Prove,
    /// Prove that nothing crosses without its key: the last question before [`Ask::Down`].
    ProveKeys,
    /// Is the datapath still what came up?
    Inspect,
    /// Measure once.
    Measure { case: Box<Case>, slot: Slot },
    /// Measure once while keys are changed so often.
    Rotate { case: Box<Case>, slot: Slot, times: u32 },
    /// Measure once with the latency probes.
    Probe { case: Box<Case>, slot: Slot },
    /// Run a command on a node, to look at what is there.
    Look { node: u32, command: Vec<String> },
    /// Take the cluster down.
    Down,
    /// Switch the machine off.
    Off,
}

/// What the guest answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Answer {
    /// It has booted; said unasked, first.
    Hello { version: u32, kernel: String, modules: Vec<ModuleState> },
    /// To [`Ask::Cnis`].
    Offers { offers: Vec<Offer> },
    /// To [`Ask::Up`].
    Up { info: Box<CniInfo>, notes: Vec<String>, ends: Vec<(Placement, Result<Ends, String>)> },
    /// To [`Ask::Prove`], [`Ask::ProveKeys`] and [`Ask::Surround`].
    Proofs { proofs: Vec<Proof> },
    /// To [`Ask::Measure`].
    Measured { trial: Box<Trial> },
    /// To [`Ask::Rotate`].
    Rotated { trial: Box<RotationTrial> },
    /// To [`Ask::Probe`].
    Probed { trial: Box<ProbedTrial> },
    /// To [`Ask::Look`]: what it printed.
    Seen { output: String },
    /// To what has no other answer.
    Done,
    /// It could not be done.
    Refused { why: Refusal },
    /// What could not be undone.
    Troubles { troubles: Vec<String> },
}

/// A module that did not load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleState {
    /// Its file.
    pub name: String,
    /// The kernel's reason.
    pub error: String,
}

/// A [`CniOffer`] on the wire.
#[derive(Debug, Serialize, Deserialize)]
pub struct Offer {
    name: String,
    description: String,
    params: Vec<(String, String)>,
    automatic: bool,
    missing: Option<String>,
}

impl From<CniOffer> for Offer {
    fn from(offer: CniOffer) -> Self {
        let CniOffer { name, description, params, automatic, missing } = offer;
        Self { name, description, params, automatic, missing }
    }
}

impl From<Offer> for CniOffer {
    fn from(offer: Offer) -> Self {
        let Offer { name, description, params, automatic, missing } = offer;
        Self { name, description, params, automatic, missing }
    }
}

/// Why not, for all kinds of errors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Refusal {
    /// [`ClusterError::Unsupported`].
    Unsupported { cni: CniSpec, reason: String },
    /// [`ClusterError::Usage`].
    Usage { text: String },
    /// [`StateError::NotOffered`].
    NotOffered { text: String },
    /// [`TrialError::Broken`].
    Broken { short: String, text: String },
    /// [`TrialError::ClusterDead`].
    Dead { short: String, text: String },
    /// Everything else.
    Failed { text: String },
}

impl From<TrialError> for Refusal {
    fn from(error: TrialError) -> Self {
        match error {
            TrialError::NotOffered(text) => Self::NotOffered { text },
            TrialError::Broken(Broken { short, reason }) => Self::Broken { short, text: reason },
            TrialError::ClusterDead(Broken { short, reason }) => Self::Dead { short, text: reason },
        }
    }
}

impl From<Refusal> for TrialError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotOffered { text } => Self::NotOffered(text),
            Refusal::Broken { short, text } => Self::Broken(Broken { short, reason: text }),
            Refusal::Dead { short, text } => Self::ClusterDead(Broken { short, reason: text }),
            // Whoever does not know what a trial is will not know the next one either.
            other => Self::ClusterDead(Broken {
                short: "guest failed".to_owned(),
                reason: ClusterError::from(other).to_string(),
            }),
        }
    }
}

impl From<ClusterError> for Refusal {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Unsupported { cni, reason } => Self::Unsupported { cni, reason },
            ClusterError::Usage(text) => Self::Usage { text },
            ClusterError::Failed(e) => e.into(),
        }
    }
}

impl From<StateError> for Refusal {
    fn from(error: StateError) -> Self {
        match error {
            StateError::NotOffered(text) => Self::NotOffered { text },
            StateError::Failed(e) => e.into(),
        }
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed { text: format!("{error:#}") }
    }
}

impl From<Refusal> for ClusterError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unsupported { cni, reason } => Self::Unsupported { cni, reason },
            Refusal::Usage { text } => Self::Usage(text),
            Refusal::NotOffered { text }
            | Refusal::Failed { text }
            | Refusal::Broken { text, .. }
            | Refusal::Dead { text, .. } => Self::Failed(anyhow!(text)),
        }
    }
}

impl From<Refusal> for StateError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotOffered { text } => Self::NotOffered(text),
            other => Self::Failed(anyhow!(ClusterError::from(other))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_as_they_went_in() {
        let mut bytes = Vec::new();
        write(&Ask::Prove, &mut bytes).unwrap();
        write(&Ask::Surround { wanted: Surroundings::default() }, &mut bytes).unwrap();
        let mut from = bytes.as_slice();
        assert!(matches!(read(&mut from).unwrap(), Some(Ask::Prove)));
        assert!(matches!(read(&mut from).unwrap(), Some(Ask::Surround { .. })));
        assert!(read::<Ask>(&mut from).unwrap().is_none());
    }

    #[test]
    fn damage_is_an_error() {
        for line in ["{\"ask\":\"pro", "{\"ask\":\"else\"}\n", "\n", "[    1.0] a message\n"] {
            let e = read::<Ask>(line.as_bytes()).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::InvalidData, "{line}");
        }
    }

    #[test]
    fn reasons_keep_their_kind() {
        let cni: CniSpec = "host".parse().unwrap();
        let there = Refusal::from(ClusterError::Unsupported { cni, reason: "r".into() });
        let json = serde_json::to_string(&there).unwrap();
        let back: Refusal = serde_json::from_str(&json).unwrap();
        assert!(
            matches!(ClusterError::from(back), ClusterError::Unsupported { reason, .. } if reason == "r")
        );
        let state = Refusal::from(StateError::NotOffered("no".into()));
        assert!(matches!(StateError::from(state), StateError::NotOffered(text) if text == "no"));
        let broken = Broken { short: "s".into(), reason: "r".into() };
        let trial = Refusal::from(TrialError::Broken(broken));
        assert!(matches!(TrialError::from(trial), TrialError::Broken(b) if b.reason == "r"));
        // A guest that is gone measures nothing more.
        let gone = Refusal::Failed { text: "gone".into() };
        assert!(matches!(TrialError::from(gone), TrialError::ClusterDead(b) if b.reason == "gone"));
    }
}

//! Why a trial failed at one end: the errors of the generator and the fault each becomes.
//!
//! Texts name the flow or field, the cause and the next step; the agent sends them as they are.

use crate::protocol::FaultKind;
use std::io;

/// Why a trial failed at this end.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The task cannot be done as it stands.
    #[error("{0}")]
    BadTask(String),
    /// The server refused or did not answer the first message.
    #[error("{0}")]
    Unreachable(String),
    /// The peer stopped answering, or never came.
    #[error("{0}")]
    PeerSilent(String),
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The controller asked to stop, or is gone.
    #[error("cancelled by the controller")]
    Cancelled,
}

impl TrialError {
    /// A failed system call.
    pub fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), source: source.into() }
    }

    /// The kind that the controller is told.
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::BadTask(_) => FaultKind::BadTask,
            Self::Unreachable(_) => FaultKind::Unreachable,
            Self::PeerSilent(_) => FaultKind::PeerSilent,
            Self::System { .. } => FaultKind::System,
            Self::Cancelled => FaultKind::Cancelled,
        }
    }
}

/// Adds what was being done to a failed system call.
pub(crate) trait Doing<T> {
    /// `what` completes the sentence "… failed".
    fn doing(self, what: &str) -> Result<T, TrialError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: &str) -> Result<T, TrialError> {
        self.map_err(|e| TrialError::system(what, e))
    }
}

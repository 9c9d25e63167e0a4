//! A search over payload sizes: the trials in which it was looked for the size at which throughput falls.
//!
//! They stand apart from the measured trials, since which sizes were tried was decided by what was found
//! before. Written by the run, read by the reports, which say where the cliff is.

use crate::{case::CaseId, trial::Trial};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One trial at one size of the search of a case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SizeTrial {
    /// The case whose search it is; the trial itself has the id of that case at this size.
    pub case: CaseId,
    /// Bytes of payload of one datagram.
    pub size: u64,
    /// What came of it.
    pub trial: Trial,
}

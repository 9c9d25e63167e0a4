//! A ladder of offered rates: the trials in which the highest rate that is still held was looked for.
//!
//! They stand apart from the measured trials, since at which rates they ran was decided by what was
//! found before. Written by the run, read by the reports, which say where the knee is.

use crate::{case::CaseId, trial::Trial, workload::Rate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One trial on the ladder of a case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RungTrial {
    /// The case whose ladder it is; the trial itself has the id of that case at this rate.
    pub case: CaseId,
    /// What was offered.
    pub rate: Rate,
    /// What came of it.
    pub trial: Trial,
}

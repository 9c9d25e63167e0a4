//! The journal: one JSON line per event of a run, and how a record is made of them.
//!
//! It is what survives a kill: whatever lines are whole are used, a torn last line is not an error.

use crate::{
    case::CaseId,
    footprint::Footprint,
    interval::RotationTrial,
    ladder::RungTrial,
    probe::ProbedTrial,
    proof::Proof,
    record::{Cell, CellStatus, CniInfo, Header, Record, SCHEMA_VERSION},
    size::SizeTrial,
    trial::Trial,
};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One line of journal.jsonl.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum JournalLine {
    /// The first line: the plan and the machine.
    Begin(Box<Header>),
    /// A cni came up.
    Cni(CniInfo),
    /// A proof was taken for a cni.
    Proof(Proof),
    /// What a pod of a cni cost.
    Footprint(Footprint),
    /// A trial ended.
    Trial(Box<Trial>),
    /// A trial with probes ended.
    Probed(Box<ProbedTrial>),
    /// A trial on a ladder of rates ended.
    Rung(Box<RungTrial>),
    /// A trial of a search over payload sizes ended.
    Size(Box<SizeTrial>),
    /// A trial during which keys were changed ended.
    Rotated(Box<RotationTrial>),
    /// A case ended.
    Cell(Cell),
    /// Something a reader should know.
    Note {
        /// The text.
        text: String,
    },
    /// The last line.
    End {
        /// When.
        #[schemars(with = "String")]
        finished: Timestamp,
    },
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// No line at all, or the first one is not the plan.
    #[error("journal has no beginning: nothing was finished before the run was cut off")]
    NoBeginning,
    /// A line other than the last is broken.
    #[error("journal line {line} is broken: {cause}")]
    Broken {
        /// Counted from 1.
        line: usize,
        /// What the parser said.
        cause: serde_json::Error,
    },
    /// Written by a newer cnibench.
    #[error(
        "journal has schema version {found}, this cnibench reads up to {SCHEMA_VERSION}: use a newer cnibench"
    )]
    Newer {
        /// The version found.
        found: u32,
    },
}

/// Builds a record from journal text. Cases without an end become `Interrupted`.
///
/// # Errors
/// See [`JournalError`]. A torn last line is left out, not an error.
pub fn replay(text: &str) -> Result<Record, JournalError> {
    let lines: Vec<(usize, &str)> =
        text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()).collect();
    let mut events = Vec::with_capacity(lines.len());
    for (position, (number, line)) in lines.iter().enumerate() {
        match serde_json::from_str::<JournalLine>(line) {
            Ok(event) => events.push(event),
            Err(_) if position + 1 == lines.len() && !text.ends_with('\n') => break,
            Err(cause) => return Err(JournalError::Broken { line: number + 1, cause }),
        }
    }
    from_events(events)
}

/// Builds a record from events in order.
///
/// # Errors
/// See [`JournalError`].
pub fn from_events(events: impl IntoIterator<Item = JournalLine>) -> Result<Record, JournalError> {
    let mut events = events.into_iter();
    let Some(JournalLine::Begin(header)) = events.next() else {
        return Err(JournalError::NoBeginning);
    };
    if header.schema_version > SCHEMA_VERSION {
        return Err(JournalError::Newer { found: header.schema_version });
    }
    let mut record = Record {
        header: *header,
        finished: None,
        cnis: Vec::new(),
        trials: Vec::new(),
        cells: Vec::new(),
        footprints: Vec::new(),
        probed: Vec::new(),
        rungs: Vec::new(),
        sizes: Vec::new(),
        rotated: Vec::new(),
        proofs: Vec::new(),
        notes: Vec::new(),
    };
    let mut ends: BTreeMap<CaseId, CellStatus> = BTreeMap::new();
    for event in events {
        match event {
            JournalLine::Begin(_) => {}
            JournalLine::Cni(cni) => record.cnis.push(cni),
            JournalLine::Proof(proof) => record.proofs.push(proof),
            JournalLine::Footprint(footprint) => record.footprints.push(footprint),
            JournalLine::Trial(trial) => record.trials.push(*trial),
            JournalLine::Probed(trial) => record.probed.push(*trial),
            JournalLine::Rung(rung) => record.rungs.push(*rung),
            JournalLine::Rotated(trial) => record.rotated.push(*trial),
            JournalLine::Size(size) => record.sizes.push(*size),
            JournalLine::Cell(cell) => {
                ends.insert(cell.case, cell.status);
            }
            JournalLine::Note { text } => record.notes.push(text),
            JournalLine::End { finished } => record.finished = Some(finished),
        }
    }
    record.cells = record
        .header
        .cases
        .iter()
        .map(|case| Cell {
            case: case.id.clone(),
            status: ends.remove(&case.id).unwrap_or_else(|| CellStatus::Interrupted {
                reason: "the run was cut off before this case ended".to_owned(),
            }),
        })
        .collect();
    Ok(record)
}

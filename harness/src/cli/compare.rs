//! `cnibench compare`: records side by side, for people. Judges nothing.

use super::{Outcome, print, print_json, terminal_width};
use crate::store;
use anyhow::Result;
use clap::ValueEnum;
use cnibench_model::Record;
use cnibench_reports::compare;
use std::path::PathBuf;

/// How a comparison is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompareFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For a pull request.
    Md,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The record to compare with: a results folder, record.json or journal.jsonl.
    baseline: PathBuf,
    /// The records that are compared with it.
    #[arg(required = true)]
    candidates: Vec<PathBuf>,
    /// How it is printed.
    #[arg(long, value_enum, default_value = "table")]
    format: CompareFormat,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let baseline = store::read(&args.baseline)?;
    let candidates: Vec<Record> =
        args.candidates.iter().map(|path| store::read(path)).collect::<Result<_>>()?;
    let comparison = compare::compare(&baseline, &candidates);
    match args.format {
        CompareFormat::Table => print(&compare::table(&comparison, terminal_width()))?,
        CompareFormat::Json => print_json(&comparison)?,
        CompareFormat::Md => print(&compare::markdown(&comparison))?,
    }
    Ok(Outcome::Done)
}

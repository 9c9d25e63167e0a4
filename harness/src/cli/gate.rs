//! `cnibench gate`: stored records judged, without measuring anything.
//!
//! Owns which records are judged and what is said of those that cannot be; verdicts and their words are
//! those of `cnibench_reports::gate`, the options those of `ab`.

use super::{
    Outcome, TableFormat,
    judged::{Judge, JudgeOptions},
    print, print_json, terminal_width,
};
use crate::store;
use anyhow::Result;
use cnibench_reports::gate::{self, GateError, Strictness};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The record to compare with: a results folder, record.json or journal.jsonl. Without it the
    /// candidate has to be a record of `ab`, whose own pairs are judged again.
    #[arg(long, value_name = "RECORD")]
    baseline: Option<PathBuf>,
    /// The record that is judged.
    #[arg(long, value_name = "RECORD")]
    candidate: PathBuf,
    /// Judge records of different machines, kernels, suites or versions all the same. What is said is
    /// stamped advice and never exits 1: what would be a regression exits 3.
    #[arg(long, requires = "baseline")]
    advisory: bool,
    /// How the verdicts are printed.
    #[arg(long, value_enum, default_value = "table")]
    format: TableFormat,
    #[command(flatten)]
    judge: JudgeOptions,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let judge = Judge::new(&args.judge)?;
    let candidate = store::read(&args.candidate)?;
    let gate = match &args.baseline {
        None => judge.pairs(&candidate)?,
        Some(path) => {
            let baseline = store::read(path)?;
            let strictness = match args.advisory {
                true => Strictness::Advise,
                false => Strictness::Refuse,
            };
            judge.stored(&baseline, &candidate, strictness).map_err(|error| match error {
                GateError::NotComparable(_) => anyhow::anyhow!(
                    "{error}\nmeasure both on one machine in pairs (cnibench ab), or take what is said as advice (--advisory)"
                ),
                other => other.into(),
            })?
        }
    };
    judge.write(&gate, &std::env::args().collect::<Vec<_>>())?;
    match args.format {
        TableFormat::Json => print_json(&gate)?,
        TableFormat::Table => print(&gate::table(&gate, terminal_width()))?,
    }
    Ok(Outcome::of(&gate))
}

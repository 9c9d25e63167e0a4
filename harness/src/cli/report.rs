//! `cnibench report`: from records to pages, pictures and tables.

use super::{Outcome, TableFormat, judged::GATE, print, print_json};
use crate::{store, tell::tell};
use anyhow::{Result, bail};
use cnibench_model::{Gate, Record};
use cnibench_reports::Format;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Results folders, record.json files or journal.jsonl files (of a run that was cut off).
    #[arg(required = true)]
    records: Vec<PathBuf>,
    /// Where the report goes; by default the folder `report` beside the record.
    #[arg(long)]
    out: Option<PathBuf>,
    /// What to make: html, png, svg, md, csv, junit (verdicts of pairs); by default all.
    #[arg(long, value_delimiter = ',')]
    format: Vec<Format>,
    /// Also print the matrix.
    #[arg(long, value_enum)]
    print: Option<TableFormat>,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let records: Vec<Record> =
        args.records.iter().map(|p| store::read(p)).collect::<Result<_>>()?;
    let out = match (&args.out, args.records.as_slice()) {
        (Some(out), _) => out.clone(),
        (None, [one]) => beside(one),
        (None, _) => bail!("several records: say with --out where their report goes"),
    };
    let formats = if args.format.is_empty() { Format::ALL } else { &args.format };
    let gates: Vec<Gate> = args.records.iter().filter_map(|p| verdict_of(p)).collect();
    let rendered = cnibench_reports::render_judged(&records, &gates, &out, formats)?;
    for record in &records {
        match args.print {
            None => {}
            Some(TableFormat::Table) => {
                print(&cnibench_reports::terminal_summary(record, super::terminal_width()))?;
            }
            Some(TableFormat::Json) => {
                print_json(&cnibench_reports::matrix::matrix(std::slice::from_ref(record)))?
            }
        }
    }
    if args.print != Some(TableFormat::Json) {
        print(&format!("report: {}\n", super::first_page(&rendered, &out).display()))?;
    }
    Ok(Outcome::Done)
}

/// What was said of a record when it was made. One that cannot be read is said anew, by the default
/// policy.
fn verdict_of(record: &Path) -> Option<Gate> {
    let folder = if record.is_dir() { record } else { record.parent()? };
    let path = folder.join(GATE);
    let text = std::fs::read_to_string(&path).ok()?;
    let gate = serde_json::from_str(&text);
    if let Err(error) = &gate {
        tell(&format!("{}: not a verdict, judging anew: {error}", path.display()));
    }
    gate.ok()
}

fn beside(record: &Path) -> PathBuf {
    if record.is_dir() {
        record.join(store::REPORT)
    } else {
        record.parent().unwrap_or(Path::new(".")).join(store::REPORT)
    }
}

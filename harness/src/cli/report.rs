//! `cnibench report`: from records to pages, pictures and tables.

use super::{Outcome, TableFormat, print, print_json};
use crate::store;
use anyhow::{Result, bail};
use cnibench_model::Record;
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
    /// What to make: html, png, svg, md, csv; by default all.
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
    let rendered = cnibench_reports::render(&records, &out, formats)?;
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

fn beside(record: &Path) -> PathBuf {
    if record.is_dir() {
        record.join(store::REPORT)
    } else {
        record.parent().unwrap_or(Path::new(".")).join(store::REPORT)
    }
}

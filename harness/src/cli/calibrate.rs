//! `cnibench calibrate`: what this host makes of nothing, measured by runs in which both arms are the same.
//!
//! Owns how these runs are made and told; how noise becomes a floor is in
//! `cnibench_reports::gate::calibrate`, where it is kept in `crate::calibration`.

use super::{
    Outcome, TableFormat,
    ab::{Shape, in_pairs},
    measure::{Common, Ends, Measured, What, measure, on_runtime},
    print, print_json,
    run::{first_of_its_kind, split_cnis},
};
use crate::{
    calibration,
    interrupt::Urgency,
    runner::progress::human,
    store,
    tell::{counted, tell},
};
use anyhow::{Result, anyhow, bail};
use cnibench_model::{Calibration, CellStatus, CniSpec, Record, Unit};
use cnibench_reports::gate::calibrate::{ENOUGH_RUNS, calibration as made_of};
use jiff::Timestamp;
use std::{path::PathBuf, time::Instant};
use tabled::{Table, Tabled, settings::Style};

/// What is compared with itself where nobody says: pods on a bridge, which every kernel can carry.
const CNI: &str = "flannel-host-gw";

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    what: What,
    /// Cnis that are compared with themselves, separated by commas; the floors of one that is not named
    /// are the largest of those that are.
    #[arg(long = "cni", value_name = "CNI[,CNI...]", default_value = CNI)]
    cnis: Vec<String>,
    /// Runs of each cni with itself, every one of as many pairs as `ab` takes.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(ENOUGH_RUNS as i64..=1000))]
    runs: u32,
    #[command(flatten)]
    shape: Shape,
    /// Where the calibration is written; by default where `ab`, `gate` and `doctor` look for it
    /// (cnibench/calibration.json below $XDG_STATE_HOME, else of root /var/lib).
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Keep every run's record in this folder; runs that are there already are not made again.
    #[arg(long, value_name = "DIR")]
    records: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<Outcome> {
    let cnis: Vec<CniSpec> = args
        .cnis
        .iter()
        .flat_map(|text| split_cnis(text))
        .map(|text| first_of_its_kind(&text))
        .collect::<Result<_, _>>()
        .map_err(|e| anyhow!(e))?;
    let path = match &args.out {
        Some(path) => path.clone(),
        None => calibration::default_path()?,
    };
    let folder = args
        .records
        .clone()
        .unwrap_or_else(|| store::default_folder("calibrate", Timestamp::now()));
    on_runtime(&args.what, async |interrupt| {
        let began = Instant::now();
        let total = cnis.len() * args.runs as usize;
        let mut records = Vec::new();
        for run in 0..args.runs {
            // In turn, so that a machine that changes, changes for all of them.
            for (number, cni) in cnis.iter().enumerate() {
                let out = folder.join(format!("{:02}-{}", run + 1, number + 1));
                if let Ok(record) = store::read(&out) {
                    records.push(record);
                    continue;
                }
                let mut what = args.what.clone();
                let arms = [cni.first(), cni.second()];
                let pairs = args.shape.pairs(&what, arms, false);
                // Its own bar would say nothing of all runs.
                what.quiet = true;
                let common = Common::of(what, out);
                let asked = in_pairs(&common, pairs, Ends::default());
                let Some(Measured { record, .. }) = measure(asked, &interrupt).await? else {
                    if args.what.format == TableFormat::Table {
                        print(&format!("{total} times this, each cni with itself\n"))?;
                    }
                    return Ok(Outcome::Done);
                };
                if interrupt.urgency() != Urgency::None {
                    tell(&format!(
                        "stopped; `cnibench calibrate --records {}` goes on from here",
                        folder.display()
                    ));
                    return Ok(Outcome::Incomplete);
                }
                whole(&record)?;
                records.push(record);
                if !args.what.quiet {
                    let left = began.elapsed().as_secs_f64() / records.len() as f64
                        * (total - records.len()) as f64;
                    tell(&format!(
                        "{} of {total} A/A runs done, about {} left",
                        records.len(),
                        human(left)
                    ));
                }
            }
        }
        let made = made_of(&records)?;
        calibration::write(&path, &made)?;
        match args.what.format {
            TableFormat::Json => print_json(&made)?,
            TableFormat::Table if args.what.quiet => print(&format!("{}\n", path.display()))?,
            TableFormat::Table => print(&format!(
                "{}\n{} of {} and {} each: a change smaller than a floor is what this host makes of nothing\ncalibration: {}\n",
                table(&made),
                counted(made.runs as usize, "A/A run"),
                counted(made.rebuilds as usize, "making"),
                counted(made.pairs as usize, "pair"),
                path.display()
            ))?,
        }
        Ok(Outcome::Done)
    })
}

/// A run that failed somewhere says nothing of the noise there.
fn whole(record: &Record) -> Result<()> {
    let failed = record.cells.iter().find_map(|cell| match &cell.status {
        CellStatus::Failed { reason, .. } | CellStatus::Invalid { reason, .. } => {
            Some(format!("{}: {reason}", cell.case))
        }
        _ => None,
    });
    match failed {
        Some(failed) => bail!("an A/A run failed, and makes no calibration: {failed}"),
        None => Ok(()),
    }
}

#[derive(Tabled)]
struct Row {
    cni: String,
    case: String,
    metric: &'static str,
    floor: String,
    #[tabled(rename = "largest seen")]
    largest: String,
}

fn table(made: &Calibration) -> String {
    let rows: Vec<Row> = made
        .floors
        .iter()
        .map(|f| {
            let size = |value: f64| match f.metric.unit() {
                Unit::Ratio => format!("{:.2} points", value * 100.0),
                _ => format!("{:.1} %", value * 100.0),
            };
            Row {
                cni: f.cni.to_string(),
                case: f.series.to_string(),
                metric: f.metric.label(),
                floor: size(f.floor),
                largest: size(f.largest),
            }
        })
        .collect();
    Table::new(rows).with(Style::blank()).to_string()
}

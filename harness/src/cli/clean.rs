//! `cnibench clean`: remove what interrupted runs left.

use super::{Outcome, print};
use crate::cluster::netns::{self, RunId};
use anyhow::Result;
use std::collections::BTreeMap;

#[derive(Debug, clap::Args)]
pub struct Args {}

/// What was removed, by the run it belonged to: a hundred nodes are one line.
fn by_run(removed: &[String]) -> BTreeMap<String, Vec<&str>> {
    let mut runs: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for name in removed {
        let run = RunId::of_name(name).or_else(|| RunId::of_lock(name));
        let run = run.map_or_else(|| "dead runs".to_owned(), |id| format!("run {}", id.as_str()));
        runs.entry(run).or_default().push(name);
    }
    runs
}

pub fn run(_: &Args) -> Result<Outcome> {
    if !rustix::process::geteuid().is_root() {
        print(
            "nothing to clean: runs without root leave nothing behind (for those of root: sudo cnibench clean)\n",
        )?;
        return Ok(Outcome::Done);
    }
    let report = super::runtime()?.block_on(netns::clean_leftovers());
    let mut text = String::new();
    for (run, things) in by_run(&report.removed) {
        match things.as_slice() {
            [one] => text += &format!("removed {one} of {run}\n"),
            many => text += &format!("removed {} things of {run}: {} ...\n", many.len(), many[0]),
        }
    }
    for name in &report.kept {
        text += &format!("kept {}: it is alive\n", name.as_str());
    }
    if report.removed.is_empty() && report.errors.is_empty() {
        text += "nothing to clean\n";
    }
    print(&text)?;
    for error in &report.errors {
        crate::tell::tell(&format!("{error:#}"));
    }
    Ok(if report.errors.is_empty() { Outcome::Done } else { Outcome::Error })
}

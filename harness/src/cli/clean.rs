//! `cnibench clean`: remove what interrupted runs left.

use super::{Outcome, print};
use crate::cluster::{
    kind::{
        Tools,
        leftovers::{self, Keep},
        read_sources,
    },
    netns::{self, RunId},
    owner::CleanReport,
};
use anyhow::Result;
use std::{collections::BTreeMap, path::PathBuf};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also remove kind clusters of cnibench of whose runs nothing is known here: made before a reboot,
    /// by another user, or by a machine that shares this Docker.
    #[arg(long)]
    orphans: bool,
    /// Where kind comes from (see `run --sources`).
    #[arg(long, value_name = "FILE")]
    sources: Option<PathBuf>,
}

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

pub fn run(args: &Args) -> Result<Outcome> {
    let tools = Tools::of(&read_sources(args.sources.as_deref())?);
    let root = rustix::process::geteuid().is_root();
    let (report, orphans) = super::runtime()?.block_on(async {
        let mut report = if root { netns::clean_leftovers().await } else { CleanReport::default() };
        report.merge(leftovers::clean_leftovers(Keep::Override).await);
        let mut orphans = leftovers::orphans(&tools).await;
        if args.orphans {
            report.merge(leftovers::remove(&tools, &orphans).await);
            orphans.clear();
        }
        (report, orphans)
    });
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
    for name in &orphans {
        text += &format!(
            "left cluster {name}: nothing is known of its run here; `cnibench clean --orphans` removes it\n"
        );
    }
    if report.removed.is_empty() && report.errors.is_empty() && orphans.is_empty() {
        text += if root {
            "nothing to clean\n"
        } else {
            "nothing to clean (network namespaces without root leave nothing behind; for those of root: sudo cnibench clean)\n"
        };
    }
    print(&text)?;
    for error in &report.errors {
        crate::tell::tell(&format!("{error:#}"));
    }
    Ok(if report.errors.is_empty() { Outcome::Done } else { Outcome::Error })
}

//! `cnibench clean`: remove what interrupted runs left.

use super::{Outcome, print};
use crate::cluster::{
    kind::{
        Tools,
        command::CommandError,
        leftovers::{self, Keep},
        read_sources,
    },
    kube::{
        Access,
        leftovers::{self as leftovers_in_cluster, Cleaned, Whose},
    },
    netns::{self, RunId},
    owner::CleanReport,
};
use anyhow::Result;
use std::{collections::BTreeMap, path::PathBuf};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also remove kind clusters, and namespaces of a Kubernetes cluster, of runs of which nothing is
    /// known here: made before a reboot, by another user, or by another machine.
    #[arg(long)]
    orphans: bool,
    /// Where kind comes from (see `run --sources`).
    #[arg(long, value_name = "FILE")]
    sources: Option<PathBuf>,
    /// The kubeconfig of a cluster to clean, too; by default KUBECONFIG, then ~/.kube/config, if
    /// there is one.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context to use; by default its current one.
    #[arg(long)]
    context: Option<String>,
    /// The existing namespace in which runs worked (`run --namespace`): their objects in it.
    #[arg(long)]
    namespace: Option<String>,
}

/// What dead runs left in the cluster of a kubeconfig. Nothing where there is none and nobody named one.
async fn in_cluster(args: &Args) -> Cleaned {
    let asked = args.kubeconfig.is_some() || args.context.is_some() || args.namespace.is_some();
    if !asked && !Access::is_configured() {
        return Cleaned::default();
    }
    let whose = if args.orphans { Whose::Unknown } else { Whose::Dead };
    let looked = async {
        let file = args.kubeconfig.as_deref();
        let access = Access::from_kubeconfig(file, args.context.as_deref()).await?;
        access.version().await?;
        anyhow::Ok(leftovers_in_cluster::clean(&access, args.namespace.as_deref(), whose).await)
    };
    match looked.await {
        Ok(cleaned) if asked => cleaned,
        // Nobody asked for this cluster: what it refuses is no error of this command.
        Ok(cleaned) => not_looked_at(cleaned),
        Err(e) => {
            let mut cleaned = Cleaned::default();
            cleaned.errors.push(e);
            if asked { cleaned } else { not_looked_at(cleaned) }
        }
    }
}

fn not_looked_at(mut cleaned: Cleaned) -> Cleaned {
    for error in cleaned.errors.drain(..) {
        crate::tell::tell(&format!("not cleaned: {error:#}"));
    }
    cleaned
}

fn is_without_kind(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(CommandError::Missing { .. }))
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
    let (report, orphans, cluster) = super::runtime()?.block_on(async {
        let mut report = if root { netns::clean_leftovers().await } else { CleanReport::default() };
        report.merge(leftovers::clean_leftovers(Keep::Override).await);
        let mut orphans = match leftovers::orphans(&tools).await {
            Ok(orphans) => orphans,
            // Nobody asked for them, or nothing here could have made one.
            Err(_) if !args.orphans => Vec::new(),
            Err(e) if is_without_kind(&e) => Vec::new(),
            Err(e) => {
                report.errors.push(e.context("clusters of kind"));
                Vec::new()
            }
        };
        if args.orphans {
            report.merge(leftovers::remove(&tools, &orphans).await);
            orphans.clear();
        }
        let mut cluster = in_cluster(args).await;
        for run in std::mem::take(&mut cluster.kept) {
            if !report.kept.contains(&run) {
                report.kept.push(run);
            }
        }
        report.errors.append(&mut cluster.errors);
        (report, orphans, cluster)
    });
    let mut text = String::new();
    for (run, things) in by_run(&report.removed) {
        match things.as_slice() {
            [one] => text += &format!("removed {one} of {run}\n"),
            many => text += &format!("removed {} things of {run}: {} ...\n", many.len(), many[0]),
        }
    }
    for what in &cluster.removed {
        text += &format!("removed {what}\n");
    }
    for name in &report.kept {
        text += &format!("kept {}: it is alive\n", name.as_str());
    }
    for name in &orphans {
        text += &format!(
            "left cluster {name}: nothing is known of its run here; `cnibench clean --orphans` removes it\n"
        );
    }
    for what in &cluster.left {
        text += &format!("left {what}; `cnibench clean --orphans` removes it before\n");
    }
    let quiet = cluster.removed.is_empty() && cluster.left.is_empty();
    if quiet && report.removed.is_empty() && report.errors.is_empty() && orphans.is_empty() {
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

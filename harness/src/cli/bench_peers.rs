//! `cnibench bench-peers`: the generator beside iperf3, netperf, sockperf and neper.

use super::{Outcome, generators, print};
use crate::{
    cluster::{
        Provider,
        netns::{self, NetnsProvider, Owner},
    },
    environment,
    interrupt::{Interrupt, Urgency},
    peers::{self, table},
    tell::tell,
};
use anyhow::{Context, Result, anyhow, bail};
use cnibench_model::{CniSpec, Generator, Topology, Workload};
use std::{path::PathBuf, sync::Arc};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which others; by default all that are installed.
    #[arg(long = "peer", value_delimiter = ',')]
    peers: Vec<Generator>,
    /// Only points whose name contains this, e.g. TCP_RR.
    #[arg(long, value_delimiter = ';')]
    only: Vec<String>,
    /// Rounds, in each of which everyone is measured once at every point.
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Measured seconds of each trial.
    #[arg(long, default_value = "2", value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Seed of the random order; by default a new one, which the table names.
    #[arg(long)]
    seed: Option<u64>,
    /// Writes the table to this file, too.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Print what would be measured and how long it takes; change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let asked = peers::Asked {
        peers: chosen(&args.peers)?,
        only: args.only.clone(),
        rounds: args.rounds,
        seconds: args.seconds,
        seed: args.seed.unwrap_or_else(rand::random),
    };
    let plan = peers::plan(&asked);
    if plan.is_empty() {
        bail!("--only {}: no point has that in its name", args.only.join(";"));
    }
    let minutes = peers::estimate(&asked) / 60.0;
    if args.dry_run {
        for (point, who, _) in &plan {
            print(&format!("{}: {} contenders\n", point.name, who.len()))?;
        }
        print(&format!("{} rounds, about {minutes:.0} min\n", asked.rounds))?;
        return Ok(Outcome::Done);
    }
    super::become_able()?;
    let runtime = super::runtime()?;
    let outcome = runtime.block_on(bench(args, &asked, minutes));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    outcome
}

/// Those that are asked for, which must be there, or all that are.
fn chosen(asked: &[Generator]) -> Result<Vec<Generator>> {
    if let Some(own) = asked.iter().find(|g| g.is_own()) {
        bail!("--peer {own}: it is what the others are compared with");
    }
    if let Some(missing) = asked.iter().find_map(|g| generators::missing(*g, Workload::ALL)) {
        bail!("{missing}");
    }
    if !asked.is_empty() {
        return Ok(asked.to_vec());
    }
    let others = Generator::ALL.iter().copied().filter(|g| !g.is_own());
    let (there, not): (Vec<_>, Vec<_>) =
        others.partition(|g| generators::missing(*g, Workload::ALL).is_none());
    for missing in not.iter().filter_map(|g| generators::missing(*g, Workload::ALL)) {
        tell(&format!("left out: {missing}"));
    }
    if there.is_empty() {
        bail!("no other generator is installed here: scripts/bench-peers gets some");
    }
    Ok(there)
}

async fn bench(args: &Args, asked: &peers::Asked, minutes: f64) -> Result<Outcome> {
    let interrupt = Interrupt::listen()?;
    let owner = Arc::new(Owner::acquire()?);
    let environment = environment::capture();
    // What a dead run left would be measured, too.
    drop(netns::clean_leftovers().await);
    let provider = NetnsProvider::new(owner)?;
    let (cni, topology) = (CniSpec::named("host"), Topology::default());
    provider.check(&cni, &topology).await.map_err(|e| anyhow!("{e}"))?;
    tell(&format!("about {minutes:.0} min; load {:.1}", environment.load_1m));
    let mut cluster = provider.up(0, &cni, &topology).await.map_err(|e| anyhow!("{e:#}"))?;
    let found = peers::run(asked, cluster.as_ref(), &interrupt, &mut |text| tell(text)).await;
    for error in cluster.down().await {
        tell(&format!("clean-up: {error:#}"));
    }
    let found = found?;
    let text = table::markdown(&found, asked, &environment);
    print(&text)?;
    eprint!("{}", table::remarks(&found));
    if let Some(file) = &args.markdown {
        std::fs::write(file, &text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(match interrupt.urgency() {
        Urgency::None => Outcome::Done,
        Urgency::Orderly(_) | Urgency::Impatient => Outcome::Incomplete,
    })
}

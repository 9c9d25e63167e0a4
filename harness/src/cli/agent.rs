//! `cnibench agent` and `cnibench wireguard-node`: the processes that the controller starts in a place.

use super::Outcome;
use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{fs::File, os::fd::AsFd, path::PathBuf};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Enter this network namespace first.
    #[arg(long)]
    netns: Option<PathBuf>,
}

/// Enters the namespace that was asked for, if any.
pub(super) fn enter(args: &Args) -> Result<()> {
    if let Some(path) = &args.netns {
        let file = File::open(path)
            .with_context(|| format!("cannot open the network namespace {}", path.display()))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter the network namespace {}", path.display()))?;
    }
    Ok(())
}

pub fn run(args: &Args) -> Result<Outcome> {
    enter(args)?;
    cnibench_workloads::agent::run(std::io::BufReader::new(std::io::stdin()), std::io::stdout())
        .context("agent")?;
    Ok(Outcome::Done)
}

pub fn wireguard_node() -> Result<Outcome> {
    crate::cni::wireguard_userspace::wireguard_node_main()?;
    Ok(Outcome::Done)
}

/// As PID 1 of a container: ends on the signals that end others by default.
pub fn pause(seconds: u64) -> Result<Outcome> {
    super::runtime()?.block_on(async {
        let mut interrupt = crate::interrupt::Interrupt::quietly()?;
        let _ =
            tokio::time::timeout(std::time::Duration::from_secs(seconds), interrupt.wait()).await;
        Ok(Outcome::Done)
    })
}

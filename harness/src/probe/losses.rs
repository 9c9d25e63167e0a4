//! Drops and retransmits in the windows of measured trials: counters that stay attached for as long as
//! a cluster is up.
//!
//! Owns whose they are and that they are of the trial's own window. The programs are
//! `cnibench-probes`; which namespaces are looked at is the cluster's to say, when is the runner's.

use anyhow::{Context as _, bail};
use cnibench_model::{
    Case, Trial,
    probe::{DropCount, Losses},
};
use cnibench_probes::{capability::Lack, losses};
use std::time::Duration;

/// What a trial may take beside its warm-up and its window.
const BESIDE: Duration = Duration::from_secs(5);

/// A network namespace whose losses count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// Its inode.
    pub netns: u32,
    /// For people: "client", "server's node".
    pub what: &'static str,
}

/// Attached counters. Dropped, they are gone.
pub struct LossCounters(losses::Losses);

impl LossCounters {
    /// Attaches them. Blocks no caller.
    ///
    /// # Errors
    /// What this kernel or this process lacks.
    pub async fn attach(spots: Vec<Spot>) -> anyhow::Result<Self> {
        let attach = move || {
            let mut counters = losses::Losses::attach()?;
            spots.iter().try_for_each(|spot| counters.observe(spot.netns))?;
            Ok(Self(counters))
        };
        tokio::task::spawn_blocking(attach).await.context("attaching the counters panicked")?
    }

    /// Begins to count for a trial of this case.
    ///
    /// # Errors
    /// A map cannot be written.
    pub fn arm(&mut self, case: &Case) -> anyhow::Result<()> {
        let length = Duration::try_from_secs_f64(case.warmup_s + case.duration_s)?;
        Ok(self.0.arm(length + BESIDE)?)
    }

    /// What was lost in the window of the trial that ran since.
    ///
    /// # Errors
    /// A map cannot be read or was full, or the trial does not say when its window was.
    pub fn read(&self, spots: &[Spot], trial: &Trial) -> anyhow::Result<Losses> {
        let opened =
            trial.window_opened.context("the trial does not say when its window opened")?;
        let length = Duration::try_from_secs_f64(trial.client.window_s)?;
        let lost = self.0.read(opened, length)?;
        if lost.uncounted > 0 {
            bail!("{} losses found no room in their map", lost.uncounted);
        }
        let drops = lost.drops.iter().filter_map(|((netns, reason), count)| {
            let spot = spots.iter().find(|s| s.netns == *netns)?;
            let (reason, netns_role) = (reason.clone(), spot.what.to_owned());
            Some(DropCount { reason, netns_role, count: *count })
        });
        let mut drops: Vec<DropCount> = drops.collect();
        drops.sort_by(|a, b| b.count.cmp(&a.count).then(a.reason.cmp(&b.reason)));
        let again = spots.iter().filter_map(|spot| lost.retransmits.get(&spot.netns)).sum();
        Ok(Losses { drops, retransmits: again })
    }
}

/// Loads and attaches the counters, and takes them away again. Blocks.
///
/// # Errors
/// What the kernel or this process lacks.
pub fn try_counters() -> Result<(), Lack> {
    losses::Losses::attach().map(drop)
}

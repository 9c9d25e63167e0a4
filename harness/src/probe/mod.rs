//! Probed trials: the latency probes around one trial, and what they saw beside what the generator saw.
//!
//! Owns the window in which stages are counted. The programs are `cnibench-probes`; which devices are
//! on the way is the cluster's to say ([`crate::cluster::Cluster::sights`], for namespaces
//! [`netns`]); which cases are probed, and when, is the runner's.

pub mod netns;
mod window;

use anyhow::{Context as _, anyhow};
use cnibench_model::{
    Case, Trial, Workload,
    probe::{ProbeResult, RoundTrip},
};
use cnibench_probes::{
    capability::Lack,
    stages::{Scene, Stages},
};
use jiff::Timestamp;
use std::time::Duration;
pub use window::round_trip;

/// Why a case has no probed trials; none: it can have.
pub fn refuses(case: &Case) -> Option<String> {
    match case.workload {
        Workload::TcpRr | Workload::UdpRr if case.params.streams <= 1 => None,
        Workload::TcpRr | Workload::UdpRr => {
            Some("the stages of a round trip add up for one flow only".to_owned())
        }
        other => Some(format!("{other} has no round trips of its own to cut into stages")),
    }
}

/// Where latency probes are to be had.
pub const REMEDY: &str =
    "Linux 5.17 or newer with CONFIG_DEBUG_INFO_BTF, and root outside of a user namespace";

/// Loads and attaches every program that stages cannot be timed without, and takes all away again.
/// Blocks.
///
/// # Errors
/// What the kernel or this process lacks.
pub fn try_all() -> Result<(), Lack> {
    Stages::attach(&Scene::default()).map(drop)
}

/// Can this process probe at all?
///
/// # Errors
/// A sentence: why not, and what it takes.
pub async fn possible() -> Result<(), String> {
    let tried = tokio::task::spawn_blocking(try_all).await;
    let said = |e: &dyn std::fmt::Display| format!("{e} (it takes {REMEDY})");
    tried.map_err(|e| said(&e))?.map_err(|e| said(&e))
}

/// Probes that are attached, for one trial.
pub struct Probes {
    stages: Stages,
}

/// When stages were counted.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    from: Timestamp,
    to: Timestamp,
}

impl Probes {
    /// Attaches them.
    ///
    /// # Errors
    /// What the kernel or this process lacks.
    pub async fn attach(scene: Scene) -> anyhow::Result<Self> {
        let attached = tokio::task::spawn_blocking(move || Stages::attach(&scene)).await;
        let stages = attached.context("attaching the probes panicked")??;
        Ok(Self { stages })
    }

    /// Counts within a trial that begins now: well after its warm-up, until well before its end.
    ///
    /// # Errors
    /// Counting cannot be switched.
    pub async fn count(&mut self, case: &Case) -> anyhow::Result<Counted> {
        let (wait, length) = window::within(case);
        tokio::time::sleep(Duration::from_secs_f64(wait)).await;
        self.stages.count(true)?;
        let from = Timestamp::now();
        tokio::time::sleep(Duration::from_secs_f64(length)).await;
        self.stages.count(false)?;
        Ok(Counted { from, to: Timestamp::now() })
    }

    /// What was counted in the trial's window. Detaches the probes.
    ///
    /// # Errors
    /// The trial's window was elsewhere, or a map cannot be read.
    pub async fn finish(self, trial: &Trial, counted: Counted) -> anyhow::Result<ProbeResult> {
        let round_trip = window::counted(trial, counted.from, counted.to)
            .map_err(|reason| anyhow!("probes: {reason}"))?;
        let read = tokio::task::spawn_blocking(move || {
            let seen = self.stages.read()?;
            Ok::<_, anyhow::Error>((seen, self.stages.programs().to_vec()))
        });
        let (seen, programs) = read.await.context("reading the probes panicked")??;
        Ok(ProbeResult {
            stages: seen.stages,
            round_trip,
            drops: seen.drops,
            retransmits: seen.retransmits,
            discards: seen.discards,
            lost_events: seen.lost_events,
            cost: None,
            programs,
        })
    }
}

/// The window of a whole trial, as a probed one is compared with.
pub fn whole(trial: &Trial) -> Option<RoundTrip> {
    round_trip(trial)
}

//! Probed trials: the latency probes around one trial, and what they saw beside what the generator saw.
//!
//! Owns the window in which stages are counted. The programs are `cnibench-probes`; which devices are
//! on the way is the cluster's to say ([`crate::cluster::Cluster::sights`], for namespaces
//! [`netns`]); which cases are probed, and when, is the runner's.
//!
//! `cnibench observe` has no cluster to ask: [`spaces`] knows the namespaces of this machine, [`way`]
//! finds those between two of them, [`live`] reads again and again.

pub mod live;
pub mod netns;
pub mod spaces;
pub mod way;
mod window;

use crate::exec::Observer;
use anyhow::{Context as _, anyhow};
use cnibench_model::{
    Case, Trial, Workload,
    probe::{ProbeProgram, ProbeResult, RoundTrip},
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

/// The way between two ends, and who attaches the probes to it.
pub struct Sights {
    /// What is observed.
    pub scene: Scene,
    /// On whose kernel.
    pub by: By,
}

/// Who attaches probes.
pub enum By {
    /// This process: the cluster is on this kernel.
    This,
    /// The observer of a node.
    Node(Box<Observer>),
}

/// Probes that are attached, for one trial.
pub struct Probes {
    attached: Attached,
    programs: Vec<ProbeProgram>,
}

enum Attached {
    Here(Box<Stages>),
    There(Box<Observer>),
}

/// When stages were counted, by the wall clock of the machine that the ends are on.
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
    pub async fn attach(sights: Sights) -> anyhow::Result<Self> {
        let scene = sights.scene;
        match sights.by {
            By::This => {
                let attached = tokio::task::spawn_blocking(move || Stages::attach(&scene)).await;
                let stages = attached.context("attaching the probes panicked")??;
                let programs = stages.programs().to_vec();
                Ok(Self { attached: Attached::Here(Box::new(stages)), programs })
            }
            By::Node(mut observer) => match observer.probe(scene).await {
                Ok(programs) => Ok(Self { attached: Attached::There(observer), programs }),
                Err(error) => {
                    observer.stop().await;
                    Err(error.into())
                }
            },
        }
    }

    /// Counts within a trial that begins now: well after its warm-up, until well before its end.
    ///
    /// # Errors
    /// Counting cannot be switched.
    pub async fn count(&mut self, case: &Case) -> anyhow::Result<Counted> {
        let (wait, length) = window::within(case);
        tokio::time::sleep(Duration::from_secs_f64(wait)).await;
        let (_, from) = self.switch(true).await?;
        tokio::time::sleep(Duration::from_secs_f64(length)).await;
        let (to, _) = self.switch(false).await?;
        Ok(Counted { from, to })
    }

    /// Switches counting; it was switched between the two moments that are given.
    async fn switch(&mut self, on: bool) -> anyhow::Result<(Timestamp, Timestamp)> {
        let before = Timestamp::now();
        match &mut self.attached {
            Attached::Here(stages) => stages.count(on)?,
            Attached::There(observer) => return Ok(observer.count(on).await.map(|at| (at, at))?),
        }
        Ok((before, Timestamp::now()))
    }

    /// What was counted in the trial's window. Detaches the probes.
    ///
    /// # Errors
    /// The trial's window was elsewhere, or a map cannot be read.
    pub async fn finish(self, trial: &Trial, counted: Counted) -> anyhow::Result<ProbeResult> {
        let round_trip = window::counted(trial, counted.from, counted.to);
        let seen = match self.attached {
            Attached::Here(stages) => tokio::task::spawn_blocking(move || stages.read())
                .await
                .context("reading the probes panicked")??,
            Attached::There(mut observer) => {
                let seen = observer.counted().await;
                observer.stop().await;
                seen?
            }
        };
        Ok(ProbeResult {
            stages: seen.stages,
            round_trip: round_trip.map_err(|reason| anyhow!("probes: {reason}"))?,
            drops: seen.drops,
            retransmits: seen.retransmits,
            discards: seen.discards,
            lost_events: seen.lost_events,
            cost: None,
            programs: self.programs,
        })
    }

    /// Detaches them after a trial that failed.
    pub async fn give_up(self) {
        if let Attached::There(observer) = self.attached {
            observer.stop().await;
        }
    }
}

/// The window of a whole trial, as a probed one is compared with.
pub fn whole(trial: &Trial) -> Option<RoundTrip> {
    round_trip(trial)
}

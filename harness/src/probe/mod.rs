//! Probed trials: the latency probes around one trial, and what they saw beside what the generator saw.
//!
//! Owns that stages are counted in the generator's own window. The programs are `cnibench-probes`; which devices are
//! on the way is the cluster's to say ([`crate::cluster::Cluster::sights`], for namespaces
//! [`netns`]); which cases are probed, and when, is the runner's.
//!
//! `cnibench observe` has no cluster to ask: [`spaces`] knows the namespaces of this machine, [`way`]
//! finds those between two of them, [`target`] waits for a cluster that is not up yet, [`live`] reads
//! again and again.

pub mod live;
pub mod netns;
pub mod spaces;
pub mod target;
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
pub use window::round_trip;

/// A message that fits into one packet of every cni here, in bytes.
const ONE_PACKET: u64 = 1_200;

/// Why a case has no probed trials; none: it can have.
pub fn refuses(case: &Case) -> Option<String> {
    match case.workload {
        Workload::TcpRr | Workload::UdpRr if case.params.streams > 1 => {
            Some("the stages of a round trip add up for one flow only".to_owned())
        }
        Workload::TcpRr | Workload::UdpRr if case.params.rate.is_some() => Some(
            "at an offered rate a thread sleeps between round trips, which is no stage".to_owned(),
        ),
        Workload::TcpRr | Workload::UdpRr if case.params.size > ONE_PACKET => Some(format!(
            "messages of more than {ONE_PACKET} bytes take several packets, whose stages overlap"
        )),
        Workload::TcpRr | Workload::UdpRr => None,
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

    /// Counts in the window of the next trial, which is of this case.
    ///
    /// # Errors
    /// Counting cannot be switched.
    pub async fn arm(&mut self, case: &Case) -> anyhow::Result<()> {
        let (after, length) = window::of(case);
        match &mut self.attached {
            Attached::Here(stages) => Ok(stages.count_window(after, length)?),
            Attached::There(observer) => Ok(observer.count_window(after, length).await?),
        }
    }

    /// What was counted in the trial's window. Detaches the probes.
    ///
    /// # Errors
    /// The trial's window was elsewhere, or a map cannot be read.
    pub async fn finish(self, trial: &Trial) -> anyhow::Result<ProbeResult> {
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
        let round_trip = window::same(trial, seen.opened);
        Ok(ProbeResult {
            stages: seen.stages,
            round_trip: round_trip.map_err(|reason| anyhow!(reason))?,
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

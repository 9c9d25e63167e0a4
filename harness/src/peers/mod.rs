//! The generator beside its peers: what is measured, in which order, and what the ratios are.
//!
//! Trials of ours and of every other generator run next to each other in random order, in one pair of
//! namespaces, on the same CPUs, with the same socket options; a ratio is estimated from such rounds.
//! [`table`] writes them down; `cli::bench_peers` runs this.

mod points;
pub mod table;

use crate::{
    cluster::Cluster,
    exec::Agent,
    interrupt::{Interrupt, Urgency},
    runner::trial::{self, Latencies, Onlookers, Slot},
};
use anyhow::{Context, Result, anyhow};
use cnibench_model::{Case, CniSpec, Generator, Placement, ProviderKind, Surroundings, Trial};
use cnibench_reports::stats::{Basis, Change, Point as Value, change, median};
use cnibench_workloads::peers;
pub use points::{Point, points};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha12Rng;
use std::collections::BTreeMap;

/// Seconds cut off before the window, where a generator can.
const WARMUP_S: f64 = 0.5;

/// One of those who are compared at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Contender {
    /// Ours, as it always runs.
    Own,
    /// Ours without its histogram: what that costs.
    Bare,
    /// Another generator, without its histogram where it can do without.
    Peer(Generator),
}

impl Contender {
    fn generator(self) -> Generator {
        match self {
            Self::Own | Self::Bare => Generator::Cnibench,
            Self::Peer(generator) => generator,
        }
    }

    fn latencies(self) -> Latencies {
        match self {
            Self::Own => Latencies::Taken,
            Self::Bare | Self::Peer(_) => Latencies::Left,
        }
    }
}

/// What is asked of a bench.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The other generators.
    pub peers: Vec<Generator>,
    /// Only points whose name contains one of these; empty: all.
    pub only: Vec<String>,
    /// Rounds at each point.
    pub rounds: u32,
    /// Measured seconds of a trial, whole.
    pub seconds: u32,
    /// Seed of the order.
    pub seed: u64,
}

/// What was found at a point.
#[derive(Debug)]
pub struct Found {
    /// The point.
    pub point: Point,
    /// Every value of every contender, by round.
    pub values: BTreeMap<Contender, Vec<Value>>,
    /// The versions that the other generators told.
    pub versions: BTreeMap<Generator, String>,
    /// Why a contender has no value here.
    pub absent: BTreeMap<Contender, String>,
    /// Trials that failed, by reason.
    pub failures: BTreeMap<(Contender, String), u32>,
}

impl Found {
    fn take(&mut self, who: Contender, round: u32, trial: Trial) {
        if let Some(made_by) = &trial.made_by {
            self.versions.insert(made_by.generator, made_by.version.clone());
        }
        if let Some(value) = trial.value(self.point.metric) {
            self.values.entry(who).or_default().push(Value { block: round, value });
        }
        for warning in trial.warnings {
            tracing::info!("{}: {who:?}: {warning}", self.point.name);
        }
    }

    /// One trial fewer.
    fn failed(&mut self, who: Contender, reason: String) {
        *self.failures.entry((who, reason)).or_default() += 1;
    }

    /// The median of a contender's values.
    pub fn median(&self, who: Contender) -> Option<f64> {
        let values: Vec<f64> = self.values.get(&who)?.iter().map(|v| v.value).collect();
        median(&values)
    }

    /// Ours as a multiple of another's, from the rounds in which both were measured.
    pub fn ratio(&self, to: Contender) -> Option<Change> {
        let of = |who| self.values.get(&who).map(Vec::as_slice);
        change(of(Contender::Own)?, of(to)?, Basis::Ratio, true)
    }
}

/// A point and who is compared there.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The point.
    pub point: Point,
    /// Everyone who can do it, and the case that each is given.
    pub who: Vec<(Contender, Case)>,
    /// Everyone who cannot, and why.
    pub absent: BTreeMap<Contender, String>,
}

/// The points of this bench and who is compared at each.
pub fn plan(asked: &Asked) -> Vec<Planned> {
    let chosen = points().into_iter().filter(|p| {
        asked.only.is_empty() || asked.only.iter().any(|part| p.name.contains(part.as_str()))
    });
    chosen
        .map(|point| {
            let (mut who, mut absent) = (Vec::new(), BTreeMap::new());
            let own = [Contender::Own].into_iter();
            let bare = point.bare.then_some(Contender::Bare);
            let others = asked.peers.iter().map(|g| Contender::Peer(*g));
            for contender in own.chain(bare).chain(others) {
                let case = case(&point, contender, asked.seconds);
                match peers::refuses(case.workload, &case.params) {
                    Some(reason) => drop(absent.insert(contender, reason)),
                    None => who.push((contender, case)),
                }
            }
            Planned { point, who, absent }
        })
        .collect()
}

/// How long it takes, in seconds: programs of others take about a second beside their window.
pub fn estimate(asked: &Asked) -> f64 {
    let trial = |(who, case): &(Contender, Case)| match who {
        Contender::Own | Contender::Bare => case.duration_s + case.warmup_s + 0.1,
        Contender::Peer(_) => case.duration_s + case.warmup_s + 0.8,
    };
    let all = plan(asked).into_iter().flat_map(|planned| planned.who);
    all.map(|one| trial(&one)).sum::<f64>() * f64::from(asked.rounds)
}

fn case(point: &Point, who: Contender, seconds: u32) -> Case {
    let mut params = point.params.clone();
    params.generator = who.generator();
    let (provider, cni, placement) =
        (ProviderKind::Netns, CniSpec::named("host"), Placement::CrossNode);
    if matches!(who, Contender::Peer(_)) {
        // Ours with it is compared with what the others have.
        params.gso = false;
    }
    let around = Surroundings::default();
    let id = Case::id_of(provider, &cni, point.workload, placement, &params, &around);
    let mut warmup_s = WARMUP_S;
    if matches!(who, Contender::Peer(_)) {
        warmup_s = match peers::warms_up(params.generator, point.workload) {
            true => WARMUP_S.ceil(),
            false => 0.0,
        };
    }
    Case {
        id,
        provider,
        cni,
        workload: point.workload,
        placement,
        params,
        surroundings: around,
        trials: 1,
        duration_s: seconds.into(),
        warmup_s,
    }
}

/// Measures every point in rounds, all points in each round, so that a machine that drifts, drifts for
/// all of them. Ends early, with what there is, when interrupted.
///
/// # Errors
/// The agents cannot be started. A trial that fails is a contender's absence, not an error.
pub async fn run(
    asked: &Asked,
    cluster: &dyn Cluster,
    interrupt: &Interrupt,
    tell: &mut dyn FnMut(&str),
) -> Result<Vec<Found>> {
    let mut random = ChaCha12Rng::seed_from_u64(asked.seed);
    let ends = cluster.ends(Placement::CrossNode).map_err(|reason| anyhow!(reason))?;
    let mut plan = plan(asked);
    let mut found: Vec<Found> = plan
        .iter_mut()
        .map(|planned| Found {
            point: planned.point.clone(),
            values: BTreeMap::new(),
            versions: BTreeMap::new(),
            absent: std::mem::take(&mut planned.absent),
            failures: BTreeMap::new(),
        })
        .collect();
    'rounds: for round in 0..asked.rounds {
        for (planned, found) in plan.iter_mut().zip(&mut found) {
            planned.who.shuffle(&mut random);
            tell(&format!("round {} of {}: {}", round + 1, asked.rounds, planned.point.name));
            for (contender, case) in &planned.who {
                if interrupt.urgency() != Urgency::None {
                    break 'rounds;
                }
                let start = async |place| -> Result<Agent> {
                    Ok(Agent::start("peers", cluster.enter(place).await?).await?)
                };
                let (mut client, mut server) = (
                    start(&ends.client).await.context("starting the client's agent")?,
                    start(&ends.server).await.context("starting the server's agent")?,
                );
                let slot = Slot { index: round, block: round, sequence: 0, pair: None };
                let taken = contender.latencies();
                let alone = Onlookers::default();
                let trial =
                    trial::measure(case, taken, slot, &ends, &mut client, &mut server, alone).await;
                client.stop().await;
                server.stop().await;
                match trial {
                    Ok(trial) => found.take(*contender, round, trial),
                    Err(broken) => found.failed(*contender, broken.reason),
                }
            }
        }
    }
    Ok(found)
}

//! `cnibench ab`: two arms in pairs, from the command line to a verdict.
//!
//! Owns what is asked of pairs; planning and measuring are shared with `run`, judging is the gate's.

use super::{
    Outcome,
    judged::{Judge, JudgeOptions},
    measure::{Common, Design, Ends, Measure, Measured, What, measure, on_runtime},
    run::{finish, first_of_its_kind},
};
use crate::{interrupt::Urgency, plan::Pairs};
use anyhow::Result;
use cnibench_model::{Clock, CniSpec, ProviderKind};
use cnibench_reports::gate::sequential;
use cnibench_scenarios::quantity;
use std::time::Duration;

/// Measured time of a block. Shorter ones see too few transactions for a tail, longer ones leave a
/// machine time to drift within a pair.
const BLOCK_S: f64 = 0.5;
/// Time cut off before it.
const WARMUP_S: f64 = 0.1;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cni to compare with, as run's --cni takes it.
    #[arg(long, value_name = "CNI", value_parser = first_of_its_kind)]
    baseline: CniSpec,
    /// The cni that is compared: another one, the same with other parameters, or the very same, which
    /// shows what pairs tell of nothing at all.
    #[arg(long, value_name = "CNI", value_parser = first_of_its_kind)]
    candidate: CniSpec,
    #[command(flatten)]
    shape: Shape,
    /// Time for all of it, e.g. 10m: no pair is begun that would end later.
    #[arg(long, value_name = "TIME", value_parser = time)]
    max_time: Option<Duration>,
    /// Measure all that is planned, also when the answer is clear before.
    #[arg(long)]
    no_early_stop: bool,
    #[command(flatten)]
    judge: JudgeOptions,
    #[command(flatten)]
    common: Common,
}

/// How many pairs.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Shape {
    /// Pairs of every case and rebuild: two trials next to each other, in random order. By default 10, on
    /// netns and with --clock instructions 3.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: Option<u32>,
    /// How often the clusters of both arms are made; with --provider kubeconfig only their pods are. By
    /// default 3, on netns 10, with --clock instructions 2: what two clusters happen to be like is no smaller for more pairs on them.
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..=100))]
    rebuilds: Option<u32>,
}

impl Shape {
    /// The pairs of two arms; `early`: the run may end when the answer is clear.
    pub(super) fn pairs(self, what: &What, arms: [CniSpec; 2], early: bool) -> Pairs {
        let counts = what.vm.clock == Some(Clock::Instructions);
        // Namespaces are made in a second, clusters of Kubernetes in minutes; counts repeat.
        let (rebuilds, pairs) = match what.provider {
            ProviderKind::Netns => (10, 3),
            ProviderKind::Vm if counts => (2, 3),
            _ => (3, 10),
        };
        let rebuilds = self.rebuilds.unwrap_or(rebuilds);
        let looks = if early { sequential::looks(rebuilds) } else { Vec::new() };
        let [baseline, candidate] = arms;
        Pairs { baseline, candidate, rebuilds, pairs: self.pairs.unwrap_or(pairs), looks }
    }
}

fn time(text: &str) -> Result<Duration, String> {
    match quantity::seconds(text)? {
        s if (1.0..=1e6).contains(&s) => Ok(Duration::from_secs_f64(s)),
        _ => Err(format!("{text:?}: a time is at least 1 s")),
    }
}

/// What is to be measured of two arms.
pub(super) fn in_pairs(common: &Common, pairs: Pairs, ends: Ends) -> Measure {
    let mut what = common.what.clone();
    if what.vm.clock != Some(Clock::Instructions) {
        what.duration.get_or_insert(BLOCK_S);
        what.warmup.get_or_insert(WARMUP_S);
    }
    Measure {
        what,
        suite: "gate",
        cnis: vec![pairs.baseline.clone(), pairs.candidate.clone()],
        trials: Some(pairs.pairs),
        design: Design::Pairs(pairs),
        probes: common.probes,
        seed: common.seed,
        out: common.out.clone(),
        ends,
    }
}

pub fn run(args: Args) -> Result<Outcome> {
    let Args { baseline, candidate, shape, max_time, no_early_stop, judge, common } = args;
    // Of a cni and itself the candidate is the second.
    let arms = match baseline.first() == candidate.first() {
        true => [baseline.first(), baseline.second()],
        false => [baseline, candidate],
    };
    // Before anything is measured: a policy that is wrong is not found out at the end.
    let judge = Judge::new(&judge)?;
    let pairs = shape.pairs(&common.what, arms, !no_early_stop);
    let referee = judge.referee();
    let asked = in_pairs(&common, pairs, Ends { max_time, referee: Some(referee) });
    on_runtime(&common.what, async |interrupt| {
        let Some(Measured { folder, record }) = measure(asked, &interrupt).await? else {
            return Ok(Outcome::Done);
        };
        let gate = match interrupt.urgency() {
            Urgency::Impatient => None,
            _ => Some(judge.conclude(&record, &folder)?),
        };
        finish(&common, Measured { folder, record }, &interrupt, gate)
    })
}

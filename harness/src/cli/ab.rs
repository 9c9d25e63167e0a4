//! `cnibench ab`: two arms in pairs, from the command line to the report.
//!
//! Owns what is asked of pairs; planning, measuring and reporting are those of `run`.

use super::{
    Outcome,
    run::{Common, Design, Measure, first_of_its_kind, measure},
};
use crate::plan::Pairs;
use anyhow::Result;
use cnibench_model::CniSpec;

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
    /// Pairs of every case and rebuild: two trials next to each other, in random order.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,
    /// How often the clusters of both arms are made; with --provider kubeconfig only their pods are.
    #[arg(long, value_name = "R", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rebuilds: u32,
    #[command(flatten)]
    common: Common,
}

pub fn run(args: Args) -> Result<Outcome> {
    let Args { baseline, candidate, pairs, rebuilds, mut common } = args;
    // Of a cni and itself the candidate is the second.
    let same = baseline.first() == candidate.first();
    let (baseline, candidate) = match same {
        true => (baseline.first(), baseline.second()),
        false => (baseline, candidate),
    };
    common.duration.get_or_insert(BLOCK_S);
    common.warmup.get_or_insert(WARMUP_S);
    measure(Measure {
        common,
        cnis: vec![baseline.clone(), candidate.clone()],
        trials: Some(pairs),
        design: Design::Pairs(Pairs { baseline, candidate, rebuilds, pairs }),
    })
}

//! Worlds to try the gate in: two arms in pairs whose true change is known, under every kind of noise
//! that machines were seen to make. Shared by the tests of the gate and the example that prints a table.

use super::fixtures::{Builder, path};
use cnibench_model::{
    Clock, Metric, PairArm, PairOrder, PairSlot, Pairing, Placement, Record, Sample, Workload,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a machine does to values, as the logarithm of how much longer everything takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum World {
    /// Values repeat exactly (a clock of instructions).
    Counted,
    /// 1.5 % a trial.
    Quiet,
    /// 40 % over the run, and up and down by 10 % on the way.
    Drift,
    /// What was slow stays slow for a while: 4 %, correlated with 0.9 from trial to trial.
    Autocorrelated,
    /// Three trials in ten take 15 % longer.
    Bimodal,
    /// The same, in runs of ten trials.
    StickyModes,
    /// One trial in fourteen takes twice as long or more.
    Outliers,
    /// Every making of a cluster is 3 % apart from the last.
    Rebuilds,
    /// 6 % a trial.
    Noisy,
}

pub const WORLDS: [World; 9] = [
    World::Counted,
    World::Quiet,
    World::Drift,
    World::Autocorrelated,
    World::Bimodal,
    World::StickyModes,
    World::Outliers,
    World::Rebuilds,
    World::Noisy,
];

/// Box-Muller.
fn gauss(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random_range(f64::EPSILON..1.0), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

impl World {
    /// The noise of every trial of a run: `trials` are (rebuild, candidate?) in the order they ran.
    fn noise(self, trials: &[(u32, bool)], rng: &mut ChaCha8Rng) -> Vec<f64> {
        let mut state = gauss(rng);
        let mut slow = rng.random_bool(0.3);
        let mut made: Vec<[f64; 2]> = Vec::new();
        let place = |i: usize| i as f64 / trials.len() as f64;
        let phase = rng.random::<f64>() * 6.0;
        let noise = trials.iter().enumerate().map(|(i, (rebuild, candidate))| match self {
            Self::Counted => 0.0,
            Self::Quiet => 0.015 * gauss(rng),
            Self::Drift => {
                0.4 * place(i) + 0.1 * (place(i) * 15.0 + phase).sin() + 0.015 * gauss(rng)
            }
            Self::Autocorrelated => {
                state = 0.9 * state + (1.0f64 - 0.81).sqrt() * gauss(rng);
                0.04 * state + 0.01 * gauss(rng)
            }
            Self::Bimodal => f64::from(rng.random_bool(0.3)) * 0.14 + 0.01 * gauss(rng),
            Self::StickyModes => {
                if rng.random_bool(0.1) {
                    slow = rng.random_bool(0.3);
                }
                f64::from(slow) * 0.14 + 0.01 * gauss(rng)
            }
            Self::Outliers => match rng.random_bool(1.0 / 14.0) {
                true => std::f64::consts::LN_2 * (1.0 + gauss(rng).abs()),
                false => 0.015 * gauss(rng),
            },
            Self::Rebuilds => {
                while made.len() <= *rebuild as usize {
                    made.push([0.03 * gauss(rng), 0.03 * gauss(rng)]);
                }
                made[*rebuild as usize][usize::from(*candidate)] + 0.015 * gauss(rng)
            }
            Self::Noisy => 0.06 * gauss(rng),
        });
        noise.collect()
    }
}

/// Rebuilds and pairs of each.
pub type Design = (u32, u32);

/// Records of one design, made again and again.
pub struct Maker {
    template: Record,
    trials: Vec<(u32, bool)>,
}

impl Maker {
    /// A request/response and a stream of every pair. `looks`: after how many rebuilds one looks.
    pub fn new((rebuilds, pairs): Design, looks: Vec<u32>) -> Self {
        let paths = ["ebpf", "ebpf#2"].map(|spec| path(spec, "ebpf", false, 1.0, 1.0)).to_vec();
        let pairing = Pairing {
            baseline: paths[0].spec.clone(),
            candidate: paths[1].spec.clone(),
            rebuilds,
            pairs,
            adjacent: true,
            looks,
        };
        let series = vec![
            (Workload::TcpRr, Placement::CrossNode),
            (Workload::TcpStream, Placement::CrossNode),
        ];
        let builder = Builder {
            paths,
            series,
            trials: rebuilds * pairs,
            transactions: 1,
            ..Builder::default()
        };
        let mut template = builder.build();
        for trial in &mut template.trials {
            let arm = match trial.case.0.contains("#2") {
                true => PairArm::Candidate,
                false => PairArm::Baseline,
            };
            let (rebuild, pair) = (trial.block / pairs, trial.block % pairs);
            trial.pair = Some(PairSlot { rebuild, pair, order: PairOrder::BaselineFirst, arm });
            trial.histogram = None;
            let metric = match trial.workload {
                Workload::TcpRr => Metric::LatencyP50,
                _ => Metric::Throughput,
            };
            trial.samples = vec![Sample { metric, value: 1.0 }];
        }
        template.header.pairing = Some(pairing);
        let slot = |t: &cnibench_model::Trial| t.pair.expect("every trial was given one");
        let trials = template.trials.iter().map(|t| {
            let slot = slot(t);
            (slot.rebuild, slot.arm == PairArm::Candidate)
        });
        Self { trials: trials.collect(), template }
    }

    /// A run in which the candidate's transactions take `slower` longer (0.05: 5 %) and its streams
    /// carry as much less.
    pub fn run(&self, world: World, slower: f64, seed: u64) -> Record {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let noise = world.noise(&self.trials, &mut rng);
        let mut record = self.template.clone();
        if world == World::Counted {
            record.header.clock = Clock::Instructions;
        }
        for ((trial, noise), (_, candidate)) in
            record.trials.iter_mut().zip(noise).zip(&self.trials)
        {
            let effect = if *candidate { slower.ln_1p() } else { 0.0 };
            for sample in &mut trial.samples {
                sample.value = match sample.metric {
                    Metric::LatencyP50 => 20_000.0 * (noise + effect).exp(),
                    _ => 3e10 * (-noise - effect).exp(),
                };
            }
        }
        record
    }
}

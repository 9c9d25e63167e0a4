//! Prints how often the gate is wrong and how often it sees a change, in simulated runs:
//! `cargo run --release -p cnibench-reports --example gate_table -- [RUNS]`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "an example that stops where something is wrong"
)]

#[path = "../src/fixtures.rs"]
mod fixtures;
#[path = "../tests/gate/worlds.rs"]
mod worlds;

use cnibench_model::GateOutcome;
use cnibench_reports::gate::{Policy, judge_pairs};
use worlds::{Maker, WORLDS};

fn main() {
    let runs: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(500);
    let policy = Policy { resamples: 100, ..Policy::default() };
    let changes = [0.0, 0.05, 0.10, -0.05];
    println!("{runs} runs each; of each change: regression / inconclusive / pass, in per cent\n");
    println!("| noise | rebuilds x pairs | unchanged | 5 % slower | 10 % slower | 5 % faster |");
    println!("|---|---|--:|--:|--:|--:|");
    for world in WORLDS {
        for design in [(3, 3), (3, 10), (5, 6), (10, 3), (10, 5)] {
            let maker = Maker::new(design, Vec::new());
            let cells = changes.map(|slower| {
                let mut counts = [0u32; 3];
                for seed in 0..runs {
                    let gate = judge_pairs(&maker.run(world, slower, seed), &policy, None);
                    let place = match gate.expect("a record of pairs").outcome {
                        GateOutcome::Regression => 0,
                        GateOutcome::Inconclusive => 1,
                        GateOutcome::Pass => 2,
                    };
                    counts[place] += 1;
                }
                counts.map(|n| format!("{:.1}", f64::from(n) * 100.0 / runs as f64)).join(" / ")
            });
            println!("| {world:?} | {} x {} | {} |", design.0, design.1, cells.join(" | "));
        }
    }
}

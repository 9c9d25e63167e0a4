//! The gate against known truths: how often it cries wolf and how often it sees one, in simulated runs
//! under every kind of noise, with fixed seeds. `cargo run --release -p cnibench-reports --example
//! gate_table` prints the same as a table, of many more runs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests say what they expect"
)]

#[path = "../../src/fixtures.rs"]
mod fixtures;
mod worlds;

use cnibench_model::{Calibration, Gate, GateOutcome, Metric, Record, Verdict, Workload};
use cnibench_reports::gate::{
    Policy, calibrate, judge_pairs,
    sequential::{Clear, Next, Watch, looks},
};
use worlds::{Design, Maker, WORLDS, World};

/// Designs from 3 pairs to 50.
const DESIGNS: [Design; 6] = [(3, 1), (3, 3), (3, 10), (5, 6), (10, 3), (10, 5)];

/// Fewer resamples than usual: the error of a simulated rate is larger than what that adds.
/// Every clock gates on the same, so that worlds differ in their noise alone.
fn policy() -> Policy {
    let gates = vec![
        (Workload::TcpRr, vec![Metric::LatencyP50]),
        (Workload::TcpStream, vec![Metric::Throughput]),
    ];
    let counted_min_effect = Policy::default().min_effect;
    Policy { resamples: 50, counted_min_effect, gates, ..Policy::default() }
}

fn judged(record: &Record, calibration: Option<&Calibration>) -> Gate {
    judge_pairs(record, &policy(), calibration).unwrap()
}

fn verdict(gate: &Gate, metric: Metric) -> Verdict {
    gate.gating().find(|j| j.metric == Some(metric)).unwrap().verdict
}

/// Share of runs for which something holds.
fn share(runs: u32, mut holds: impl FnMut(u64) -> bool) -> f64 {
    f64::from((0..runs).filter(|seed| holds(u64::from(*seed))).count() as u32) / f64::from(runs)
}

#[test]
fn unchanged_code_is_called_a_regression_in_at_most_one_run_in_a_hundred() {
    const RUNS: u32 = 40;
    let (mut alarms, mut runs) = (0.0, 0.0);
    for design in DESIGNS {
        let maker = Maker::new(design, Vec::new());
        for world in WORLDS {
            let rate = share(RUNS, |seed| {
                judged(&maker.run(world, 0.0, seed), None).outcome == GateOutcome::Regression
            });
            // Of 40 runs with a chance of 1 % more than 3 show it once in a thousand times.
            assert!(rate <= 0.075, "{world:?} {design:?}: {rate}");
            (alarms, runs) = (alarms + rate * f64::from(RUNS), runs + f64::from(RUNS));
        }
    }
    assert!(alarms / runs <= 0.01, "{alarms} of {runs}");
}

#[test]
fn real_changes_are_found_in_both_directions_of_both_metrics() {
    const RUNS: u32 = 40;
    for (world, design, slower, least) in DETECTED {
        let maker = Maker::new(design, Vec::new());
        for (change, expected) in
            [(slower, Verdict::Regression), (1.0 / (1.0 + slower) - 1.0, Verdict::Improvement)]
        {
            let mut found = [0u32; 2];
            for seed in 0..u64::from(RUNS) {
                let gate = judged(&maker.run(world, change, seed), None);
                let of = |metric| u32::from(verdict(&gate, metric) == expected);
                found[0] += of(Metric::LatencyP50);
                found[1] += of(Metric::Throughput);
            }
            let rates = found.map(|n| f64::from(n) / f64::from(RUNS));
            let shown = format!("{world:?} {design:?} {change}: {rates:?}");
            assert!(rates.iter().all(|rate| *rate >= least), "{shown}");
        }
    }
}

/// World, design, true change, and the share of runs that must see it.
const DETECTED: [(World, Design, f64, f64); 9] = [
    (World::Counted, (3, 1), 0.04, 1.0),
    (World::Quiet, (3, 10), 0.10, 0.9),
    (World::Quiet, (5, 6), 0.05, 0.9),
    (World::Quiet, (10, 3), 0.05, 0.9),
    (World::Drift, (10, 5), 0.05, 0.9),
    (World::Autocorrelated, (10, 5), 0.05, 0.9),
    (World::Outliers, (10, 5), 0.05, 0.8),
    (World::Rebuilds, (10, 5), 0.10, 0.9),
    (World::Noisy, (10, 5), 0.10, 0.9),
];

#[test]
fn a_change_within_the_floor_is_no_regression_and_noise_is_no_pass() {
    const RUNS: u32 = 60;
    let maker = Maker::new((10, 5), Vec::new());
    let rate = |world, slower, expected| {
        share(RUNS, |seed| judged(&maker.run(world, slower, seed), None).outcome == expected)
    };
    // 1.5 % of a floor of 3 %.
    assert!(rate(World::Quiet, 0.015, GateOutcome::Pass) >= 0.95);
    assert!(rate(World::Quiet, 0.0, GateOutcome::Pass) >= 0.98);
    assert_eq!(rate(World::Counted, 0.029, GateOutcome::Pass), 1.0);
    // What is this noisy passes nobody who is 6 % slower: it is seen, or it is said that it cannot be.
    assert!(rate(World::Noisy, 0.06, GateOutcome::Pass) <= 0.02);
    let few = Maker::new((3, 3), Vec::new());
    let told = share(RUNS, |seed| {
        judged(&few.run(World::Noisy, 0.0, seed), None).outcome == GateOutcome::Inconclusive
    });
    assert!(told >= 0.9, "nine pairs of 6 % noise can tell nothing: {told}");
}

/// The record as far as so many rebuilds go.
fn cut(record: &Record, rebuilds: u32) -> Record {
    let mut record = record.clone();
    record.trials.retain(|t| t.pair.is_some_and(|p| p.rebuild < rebuilds));
    record
}

/// A run that is watched: after how many rebuilds it stops, and what it then says.
fn watched(record: &Record) -> (u32, Gate) {
    let planned = record.header.pairing.as_ref().unwrap().rebuilds;
    let mut watch = Watch::new(&record.header, policy(), None);
    for done in 1..=planned {
        let own = |t: &&cnibench_model::Trial| t.pair.is_some_and(|p| p.rebuild + 1 == done);
        record.trials.iter().filter(own).for_each(|t| watch.add(t));
        if let Next::Stop(clear) = watch.look(done) {
            let gate = judged(&cut(record, done), None);
            // Whoever judges the record later says what the run stopped for.
            match clear {
                Clear::Regression { .. } => assert_eq!(gate.outcome, GateOutcome::Regression),
                Clear::Everything => assert_eq!(gate.outcome, GateOutcome::Pass),
            }
            assert_eq!(Some(&gate), watch.gate(done).as_ref());
            return (done, gate);
        }
    }
    (planned, judged(record, None))
}

#[test]
fn looking_on_the_way_keeps_the_error_rate_and_saves_rebuilds() {
    const RUNS: u32 = 40;
    let maker = Maker::new((10, 5), looks(10));
    let mut alarms = 0.0;
    for world in WORLDS {
        let rate = share(RUNS, |seed| {
            watched(&maker.run(world, 0.0, seed)).1.outcome == GateOutcome::Regression
        });
        assert!(rate <= 0.075, "{world:?}: {rate}");
        alarms += rate / WORLDS.len() as f64;
    }
    assert!(alarms <= 0.01, "{alarms}");
    let runs = |world, slower| -> (f64, f64) {
        let all: Vec<(u32, Gate)> =
            (0..u64::from(RUNS)).map(|seed| watched(&maker.run(world, slower, seed))).collect();
        let rebuilds: u32 = all.iter().map(|r| r.0).sum();
        let found = all.iter().filter(|r| r.1.outcome == GateOutcome::Regression).count();
        (f64::from(rebuilds) / f64::from(RUNS), found as f64 / f64::from(RUNS))
    };
    let (rebuilds, found) = runs(World::Quiet, 0.05);
    assert!(found >= 0.9 && rebuilds < 8.0, "{found} {rebuilds}");
    let (rebuilds, found) = runs(World::Quiet, 0.3);
    assert!(found == 1.0 && rebuilds <= 5.0, "{found} {rebuilds}");
    let (rebuilds, found) = runs(World::Quiet, 0.0);
    assert!(found == 0.0 && rebuilds < 8.0, "{found} {rebuilds}");
}

#[test]
fn a_calibrated_host_sees_more_with_three_rebuilds_and_cries_wolf_no_more_often() {
    const RUNS: u32 = 100;
    let maker = Maker::new((3, 10), Vec::new());
    for (world, slower, least) in [(World::Quiet, 0.05, 0.9), (World::Rebuilds, 0.15, 0.6)] {
        let same: Vec<Record> = (1000..1020).map(|seed| maker.run(world, 0.0, seed)).collect();
        let calibration = calibrate::calibration(&same).unwrap();
        let rate = |slower, calibration: Option<&Calibration>| {
            share(RUNS, |seed| {
                let gate = judged(&maker.run(world, slower, seed), calibration);
                gate.outcome == GateOutcome::Regression
            })
        };
        let (with, without) = (rate(slower, Some(&calibration)), rate(slower, None));
        assert!(with >= least && with > without, "{world:?}: {with} with, {without} without");
        let alarms = rate(0.0, Some(&calibration));
        assert!(alarms <= 0.02, "{world:?}: {alarms}");
    }
}

//! How often the nominal 95 % intervals really cover the truth, by simulation with a fixed seed.
//!
//! This is what decides which interval is used for which number of trials.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests say what they expect"
)]

use cnibench_reports::stats::{Basis, Change, Interval, Point, centre, change};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const REPETITIONS: u32 = 2000;
const TRIALS: [usize; 6] = [3, 4, 5, 6, 10, 30];

#[derive(Debug, Clone, Copy)]
enum Shape {
    /// 5 % standard deviation.
    Normal,
    /// Skewed: sigma 0.5 of the logarithm.
    LogNormal,
    /// Two modes, as unpinned request/response shows: 70 % at 1, 30 % at 4, each 5 % wide.
    Bimodal,
}

const SHAPES: [Shape; 3] = [Shape::Normal, Shape::LogNormal, Shape::Bimodal];

/// Box-Muller.
fn gauss(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random_range(f64::EPSILON..1.0), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

impl Shape {
    fn draw(self, rng: &mut ChaCha8Rng) -> f64 {
        match self {
            Self::Normal => 100.0 * (1.0 + 0.05 * gauss(rng)),
            Self::LogNormal => 100.0 * (0.5 * gauss(rng)).exp(),
            Self::Bimodal => {
                let mode = if rng.random::<f64>() < 0.7 { 100.0 } else { 400.0 };
                mode * (0.05 * gauss(rng)).exp()
            }
        }
    }

    /// The true median.
    fn median(self) -> f64 {
        match self {
            Self::Normal | Self::LogNormal => 100.0,
            // 0.5 of all is 5/7 of the lower mode: 0.5659 standard deviations above its middle.
            Self::Bimodal => 100.0 * (0.05f64 * 0.5659).exp(),
        }
    }
}

fn share(seed: u64, mut covered: impl FnMut(&mut ChaCha8Rng) -> bool) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let hits = (0..REPETITIONS).filter(|_| covered(&mut rng)).count();
    hits as f64 / f64::from(REPETITIONS)
}

fn covers(interval: Option<Interval>, truth: f64) -> bool {
    interval.unwrap().contains(truth)
}

#[test]
fn intervals_of_medians_cover_what_they_promise() {
    for shape in SHAPES {
        for n in TRIALS {
            let share = share(n as u64, |rng| {
                let values: Vec<f64> = (0..n).map(|_| shape.draw(rng)).collect();
                covers(centre(&values).unwrap().interval, shape.median())
            });
            println!("median {shape:?} n={n}: {share:.3}");
            assert!(share >= 0.92, "{shape:?}, {n} trials: {share}");
        }
    }
}

/// `drift` moves both sides of a block together, as a machine does that warms up.
fn simulate(
    rng: &mut ChaCha8Rng,
    shape: Shape,
    n: usize,
    ratio: f64,
    drift: f64,
    interleaved: bool,
) -> Change {
    let mut sides = [Vec::new(), Vec::new()];
    for block in 0..n as u32 {
        let moved = (drift * gauss(rng)).exp();
        for (side, factor) in sides.iter_mut().zip([ratio, 1.0]) {
            side.push(Point { block, value: shape.draw(rng) * factor * moved });
        }
    }
    change(&sides[0], &sides[1], Basis::Ratio, interleaved).unwrap()
}

#[test]
fn intervals_of_changes_cover_what_they_promise() {
    for shape in SHAPES {
        for n in TRIALS {
            for (interleaved, drift) in [(true, 0.2), (false, 0.0)] {
                let share = share(1000 + n as u64, |rng| {
                    covers(simulate(rng, shape, n, 1.2, drift, interleaved).interval, 1.2)
                });
                println!("change {shape:?} n={n} interleaved={interleaved}: {share:.3}");
                assert!(share >= 0.92, "{shape:?}, {n} trials, interleaved {interleaved}: {share}");
            }
        }
    }
}

#[test]
fn pairs_show_what_drift_hides() {
    let shown = |interleaved| {
        share(7, |rng| {
            let c = simulate(rng, Shape::Normal, 10, 1.2, 0.3, interleaved);
            !covers(c.interval, 1.0)
        })
    };
    let (paired, unpaired) = (shown(true), shown(false));
    assert!(paired > 0.99, "{paired}");
    assert!(unpaired < 0.5, "{unpaired}");
}

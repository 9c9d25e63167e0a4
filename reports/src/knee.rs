//! The knee: the highest offered rate that a datapath still holds, found on a ladder of rates.
//!
//! Owns the rule by which a rung holds, the grid of rates and which rung is tried next; called by the
//! runner while it climbs and by the figure. A rung holds when most of its trials held the rate within
//! 0.1 % (of datagrams: when at least 99.9 % arrived in the median trial), and, where there are latencies, when its
//! median p99 is at most three times the least of any rung below it (not that of the lowest, which a
//! neighbour may have disturbed). The knee is the highest rung below the first that does not hold.

use crate::{matrix::main_rate, stats::median};
use cnibench_model::{Metric, Rate, Trial, Workload};
use std::collections::BTreeMap;

/// The share of datagrams that may be lost on a rung that holds.
pub const MOST_LOST: f64 = 0.001;
/// A p99 that is this many times the least of any lower rung is behind the knee.
pub const SLOWER: f64 = 3.0;
/// Rungs of the grid in which the rate doubles: the knee is known to one part in twelve.
const OCTAVE: i32 = 8;
/// Octaves that are climbed, or gone down, from the first rung before the search is given up.
const OCTAVES: i32 = 7;
/// The first rung is this share of what a case does flat out.
const FIRST: f64 = 0.125;

/// The number of a rung on the grid of rates that all ladders of a workload share.
pub type Number = i32;

/// The rate of a rung: transactions, or bits of payload, per second, to three digits.
pub fn rate(workload: Workload, number: Number) -> Rate {
    let exact = unit(workload) * 2f64.powf(f64::from(number) / f64::from(OCTAVE));
    let digit = 10f64.powf(exact.log10().floor() - 2.0);
    Rate((exact / digit).round() * digit)
}

fn unit(workload: Workload) -> f64 {
    if workload.is_transactional() { 1e3 } else { 1e6 }
}

/// The rung to begin with, from what the case does flat out; none where that is nothing.
pub fn first(workload: Workload, flat_out: f64) -> Option<Number> {
    let octaves = (flat_out * FIRST / unit(workload)).log2();
    octaves.is_finite().then(|| (octaves * f64::from(OCTAVE)).round() as Number)
}

/// What the trials of a rung say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rung {
    /// What was offered.
    pub rate: f64,
    /// What was done, the median of trials, in the same unit.
    pub done: f64,
    /// The median p99 in nanoseconds, where every trial has one.
    pub p99: Option<f64>,
    /// The median jitter of datagrams in nanoseconds, where it was measured.
    pub jitter: Option<f64>,
    /// The lowest and the highest of the trials' p99, or jitter.
    pub range: Option<(f64, f64)>,
    /// The median share of datagrams that were lost, where it was measured.
    pub loss: Option<f64>,
    /// Trials.
    pub trials: usize,
    /// Of these, those that did less than was offered.
    pub saturated: usize,
}

impl Rung {
    /// Of the trials at one rate; none when there is none with a rate.
    pub fn of<'a>(
        workload: Workload,
        rate: Rate,
        trials: impl IntoIterator<Item = &'a Trial>,
    ) -> Option<Self> {
        let trials: Vec<&Trial> = trials.into_iter().collect();
        let values = |metric| trials.iter().filter_map(|t| t.value(metric)).collect::<Vec<f64>>();
        let p99 = values(Metric::LatencyP99);
        let p99_of_all = median(&p99).filter(|_| p99.len() == trials.len());
        let jitter = values(Metric::Jitter);
        let spread = if p99.is_empty() { &jitter } else { &p99 };
        let ends = spread.iter().fold(None, |ends: Option<(f64, f64)>, v| {
            let (low, high) = ends.unwrap_or((*v, *v));
            Some((low.min(*v), high.max(*v)))
        });
        Some(Self {
            rate: rate.0,
            done: median(&values(main_rate(workload)))?,
            p99: p99_of_all,
            jitter: median(&jitter),
            range: ends,
            loss: median(&values(Metric::Loss)),
            trials: trials.len(),
            saturated: trials.iter().filter(|t| t.is_saturated()).count(),
        })
    }

    /// True where the rate itself was held.
    pub fn keeps_up(&self) -> bool {
        2 * self.saturated < self.trials && self.loss.is_none_or(|loss| loss <= MOST_LOST)
    }

    /// True where it is not behind the knee; `least`: the least p99 of the rungs below it.
    fn holds(&self, least: Option<f64>) -> bool {
        let slow = self.p99.zip(least).is_some_and(|(own, least)| own > SLOWER * least);
        self.keeps_up() && !slow
    }
}

/// Position of the knee among rungs in ascending order; none where not even the lowest holds.
pub fn knee(rungs: &[Rung]) -> Option<usize> {
    let mut least: Option<f64> = None;
    let held = rungs.iter().take_while(|rung| {
        let holds = rung.holds(least);
        least = match (least, rung.p99) {
            (Some(least), Some(own)) => Some(least.min(own)),
            (least, own) => least.or(own),
        };
        holds
    });
    held.count().checked_sub(1)
}

/// Is there a rung behind the knee? Without one the knee is not known: the search ended before it.
pub fn is_found(rungs: &[Rung]) -> bool {
    knee(rungs).is_some_and(|at| at + 1 < rungs.len())
}

/// The rung to try next; none when the knee lies between two neighbours, or too far from `first`.
///
/// Doubles until a rung does not hold (and halves while none does), then bisects. The lowest rung is at
/// least two octaves below the first that does not hold: what it is compared with must not queue itself.
pub fn next(tried: &BTreeMap<Number, Rung>, first: Number) -> Option<Number> {
    let rungs: Vec<Rung> = tried.values().copied().collect();
    let (Some(&low), Some(&high)) = (tried.keys().next(), tried.keys().next_back()) else {
        return Some(first);
    };
    let far = |number: Number| (number - first).abs() > OCTAVE * OCTAVES;
    let Some(at) = knee(&rungs) else {
        return Some(low - OCTAVE).filter(|n| !far(*n));
    };
    let good = *tried.keys().nth(at)?;
    match tried.keys().nth(at + 1) {
        None => Some(high + OCTAVE).filter(|n| !far(*n)),
        Some(bad) if bad - low < 2 * OCTAVE => Some(low - OCTAVE).filter(|n| !far(*n)),
        Some(bad) if bad - good <= 1 => None,
        Some(bad) => Some(i32::midpoint(good, *bad)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that does `capacity` and queues as M/M/1 does.
    fn tried(capacity: f64, number: Number) -> Rung {
        let rate = rate(Workload::TcpRr, number).0;
        let load = rate / capacity;
        let p99 = if load < 1.0 { 20e3 / (1.0 - load) } else { 1e9 };
        let saturated = if load < 1.0 { 0 } else { 3 };
        let done = rate.min(capacity);
        Rung {
            rate,
            done,
            p99: Some(p99),
            jitter: None,
            range: None,
            loss: None,
            trials: 3,
            saturated,
        }
    }

    fn climb(capacity: f64, first: Number) -> Vec<Rung> {
        let mut rungs = BTreeMap::new();
        while let Some(number) = next(&rungs, first) {
            assert!(rungs.insert(number, tried(capacity, number)).is_none(), "{number} twice");
            assert!(rungs.len() < 30, "no end");
        }
        rungs.into_values().collect()
    }

    #[test]
    fn the_knee_of_a_queue_is_found_to_a_step_of_the_grid_wherever_the_search_begins() {
        for capacity in [900.0, 4_321.0, 50_000.0, 1.3e6] {
            for share in [0.02, 0.125, 0.5, 1.0, 3.0] {
                let first = first(Workload::TcpRr, capacity * share / FIRST).unwrap();
                let rungs = climb(capacity, first);
                let at = knee(&rungs).unwrap();
                assert!(is_found(&rungs));
                // p99 is three times that of a server that is nearly idle at 2/3 of the capacity; seen
                // from a lowest rung that is loaded already, a little later.
                let found = rungs[at].rate / capacity;
                assert!((0.55..0.95).contains(&found), "{capacity} from {share}: {found}");
                assert!(rungs[at + 1].rate / rungs[at].rate < 1.12, "{rungs:?}");
                assert!(rungs.len() <= 15, "{}", rungs.len());
            }
        }
    }

    #[test]
    fn rates_have_three_digits_and_double_in_eight_steps() {
        assert_eq!(rate(Workload::TcpRr, 0).0, 1_000.0);
        assert_eq!(rate(Workload::TcpRr, 1).0, 1_090.0);
        assert_eq!(rate(Workload::TcpRr, 8).0, 2_000.0);
        assert_eq!(rate(Workload::UdpStream, 80).0, 1_020e6);
        assert_eq!(rate(Workload::TcpRr, -24).0, 125.0);
        assert_eq!(first(Workload::TcpRr, 8_000.0), Some(0));
        assert_eq!(first(Workload::TcpRr, 0.0), None);
    }

    #[test]
    fn a_lowest_rung_that_was_disturbed_does_not_hide_the_knee() {
        let mut rungs: Vec<Rung> = [0, 8, 16, 24, 28].map(|n| tried(10e3, n)).to_vec();
        assert_eq!(knee(&rungs), Some(2));
        rungs[0].p99 = Some(3.5e6);
        assert_eq!(knee(&rungs), Some(2));
    }

    #[test]
    fn what_is_lost_is_not_held_and_what_never_saturates_has_no_knee() {
        let rung = |rate: f64, done: f64| Rung {
            rate,
            done,
            p99: None,
            jitter: None,
            range: None,
            loss: Some(1.0 - done / rate),
            trials: 3,
            saturated: 0,
        };
        let rungs = [rung(1e6, 1e6), rung(2e6, 1.999e6), rung(4e6, 3.99e6)];
        assert_eq!((knee(&rungs), is_found(&rungs)), (Some(1), true));
        assert_eq!((knee(&rungs[..2]), is_found(&rungs[..2])), (Some(1), false));
        assert_eq!(knee(&rungs[2..]), None);
        assert_eq!(knee(&[]), None);
        let endless = climb(1e30, 0);
        assert!(!is_found(&endless) && endless.len() == OCTAVES as usize + 1, "{endless:?}");
    }
}

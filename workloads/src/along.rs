//! Latencies along a paced trial: what the requests met that were due in each short interval of the window.
//!
//! Owns the intervals of one flow, and putting those of several together. Called by the client's loop
//! (`transact`), once for each transaction at most: closed loops have none, whose requests are never due.

use crate::{clock, meter::Timeline};
use cnibench_model::Interval;

/// Length of an interval in nanoseconds.
const INTERVAL: u64 = clock::SECOND / 20;
/// Windows that are shorter have no intervals: there is no course in them.
const SHORTEST: u64 = clock::SECOND;
/// Intervals of the longest window that has them.
const MOST: u64 = 2400;
/// Transactions of a window from which on it is not told along: their times would fill the memory.
const DENSEST: f64 = 1e6;

/// The intervals of one flow.
#[derive(Debug, Default)]
pub(crate) struct Along {
    open: u64,
    /// Latencies in nanoseconds and what was lost, by interval.
    intervals: Vec<(Vec<u64>, u64)>,
}

impl Along {
    /// For a flow that sends so many a second; without intervals where the window is too short or has too
    /// many transactions.
    pub(crate) fn new(timeline: Timeline, rate: f64) -> Self {
        let window = timeline.close - timeline.open;
        let few = rate * clock::seconds(window) <= DENSEST;
        let count = if window < SHORTEST || !few { 0 } else { window.div_ceil(INTERVAL) };
        let count = if count > MOST { 0 } else { count };
        let room = (rate * clock::seconds(INTERVAL) * 1.2) as usize + 8;
        // All memory is taken before the first request.
        let intervals = (0..count).map(|_| (Vec::with_capacity(room), 0)).collect();
        Self { open: timeline.open, intervals }
    }

    /// A request that was due then: its latency, or none where it was lost.
    #[inline]
    pub(crate) fn note(&mut self, due: u64, latency: Option<u64>) {
        let Some(since) = due.checked_sub(self.open) else { return };
        let Some((times, lost)) = self.intervals.get_mut((since / INTERVAL) as usize) else {
            return;
        };
        match latency {
            Some(latency) => times.push(latency),
            None => *lost += 1,
        }
    }

    /// Adds those of another flow of the same trial.
    pub(crate) fn add(&mut self, other: Self) {
        self.intervals
            .resize_with(self.intervals.len().max(other.intervals.len()), Default::default);
        for ((times, lost), (more, further)) in self.intervals.iter_mut().zip(other.intervals) {
            times.extend(more);
            *lost += further;
        }
    }

    /// What they come to.
    pub(crate) fn finish(self) -> Vec<Interval> {
        let length_s = clock::seconds(INTERVAL);
        let interval = |(number, (mut times, lost)): (usize, (Vec<u64>, u64))| {
            times.sort_unstable();
            // The smallest value that at least this share does not exceed.
            let at = |share: f64| {
                let rank = (share * times.len() as f64).ceil() as usize;
                times.get(rank.saturating_sub(1)).map_or(0.0, |t| *t as f64)
            };
            Interval {
                at_s: number as f64 * length_s,
                length_s,
                count: times.len() as u64,
                lost,
                p50: at(0.5),
                p99: at(0.99),
                max: at(1.0),
            }
        };
        self.intervals.into_iter().enumerate().map(interval).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_belongs_to_the_interval_in_which_it_was_due() {
        let timeline = Timeline::new(1_000, 0.1, 1.0);
        let mut along = Along::new(timeline, 1_000.0);
        let mut other = Along::new(timeline, 1_000.0);
        along.note(timeline.open - 1, Some(9));
        for n in 1..=100 {
            along.note(timeline.open + INTERVAL, Some(n));
        }
        along.note(timeline.open + INTERVAL - 1, None);
        other.note(timeline.open + 2 * INTERVAL - 1, Some(1_000));
        other.note(timeline.close + INTERVAL, Some(9));
        along.add(other);
        let all = along.finish();
        assert_eq!(all.len(), 20);
        assert_eq!((all[0].count, all[0].lost, all[0].max), (0, 1, 0.0));
        let second = all[1];
        assert_eq!((second.count, second.p50, second.p99, second.max), (101, 51.0, 100.0, 1_000.0));
        assert!((second.at_s - 0.05).abs() < 1e-9 && second.lost == 0);
        assert!(all[2..].iter().all(|i| i.count == 0));
    }

    #[test]
    fn short_and_dense_windows_have_none() {
        assert!(Along::new(Timeline::new(0, 0.0, 0.9), 10.0).finish().is_empty());
        assert!(Along::new(Timeline::new(0, 0.0, 2.0), 600_000.0).finish().is_empty());
    }
}

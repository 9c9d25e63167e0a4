//! When a trial's measured window is, and how much was done in it, slice by slice.
//!
//! Owns the cutting off of warm-up and tail; knows nothing of sockets. One meter a flow thread.

use crate::clock;

/// Aimed length of a slice in nanoseconds.
const SLICE: u64 = 100_000_000;
/// The most slices a window is cut into.
const MAX_SLICES: u64 = 600;

/// The times of one trial at one end, in nanoseconds of its monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeline {
    /// The go: traffic starts.
    pub start: u64,
    /// The measured window begins (inclusive).
    pub open: u64,
    /// It ends (exclusive). The server's start is taken before it sends the go and the client's
    /// after that has come, so the server's window always ends before the client's.
    pub close: u64,
    /// Slices of the window.
    pub slices: usize,
}

impl Timeline {
    /// The timeline of a trial that starts at `start`.
    pub fn new(start: u64, warmup_s: f64, duration_s: f64) -> Self {
        let open = start + clock::nanos(warmup_s);
        let window = clock::nanos(duration_s).max(1);
        let slices = ((window + SLICE / 2) / SLICE).clamp(1, MAX_SLICES) as usize;
        let close = open + window;
        Self { start, open, close, slices }
    }

    /// True inside the window.
    #[inline]
    pub fn measures(&self, at: u64) -> bool {
        (self.open..self.close).contains(&at)
    }

    /// Length of one slice in seconds.
    pub fn slice_s(&self) -> f64 {
        clock::seconds(self.close - self.open) / self.slices as f64
    }

    /// When slice `i` ends.
    fn slice_end(&self, i: usize) -> u64 {
        self.open
            + ((self.close - self.open) as u128 * (i as u128 + 1) / self.slices as u128) as u64
    }
}

/// Counts an amount (bytes, transactions) inside the window. Adding costs two compares and an add.
#[derive(Debug, Clone)]
pub struct Meter {
    timeline: Timeline,
    slices: Vec<u64>,
    /// Slice being filled, when inside the window.
    current: usize,
    active: bool,
    /// When the current state ends: the window opens, a slice ends, never.
    edge: u64,
    amount: u64,
}

impl Meter {
    /// A meter for one flow.
    pub fn new(timeline: Timeline) -> Self {
        Self {
            timeline,
            slices: vec![0; timeline.slices],
            current: 0,
            active: false,
            edge: timeline.open,
            amount: 0,
        }
    }

    /// Counts what was completed at `now`; true when that is inside the window. Times must not go back.
    #[inline]
    pub fn add(&mut self, now: u64, amount: u64) -> bool {
        if now >= self.edge {
            self.cross(now);
        }
        if self.active {
            self.amount += amount;
        }
        self.active
    }

    #[cold]
    fn cross(&mut self, now: u64) {
        self.flush();
        if now >= self.timeline.close {
            self.active = false;
            self.edge = u64::MAX;
            return;
        }
        self.active = true;
        while now >= self.timeline.slice_end(self.current) {
            self.current += 1;
        }
        self.edge = self.timeline.slice_end(self.current);
    }

    fn flush(&mut self) {
        if let Some(slice) = self.slices.get_mut(self.current) {
            *slice += std::mem::take(&mut self.amount);
        }
    }

    /// The amount in every slice, oldest first; their sum is what the window saw.
    pub fn finish(mut self) -> Vec<u64> {
        self.flush();
        self.slices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline() -> Timeline {
        Timeline::new(1_000, 0.1, 0.35)
    }

    #[test]
    fn warm_up_and_tail_are_cut_off_exactly() {
        let t = timeline();
        let mut m = Meter::new(t);
        let seen: Vec<bool> = [t.start, t.open - 1, t.open, t.close - 1, t.close, t.close + 9]
            .into_iter()
            .map(|at| m.add(at, 10))
            .collect();
        assert_eq!(seen, [false, false, true, true, false, false]);
        let slices = m.finish();
        assert_eq!(slices.len(), 4);
        assert_eq!(slices, [10, 0, 0, 10]);
    }

    #[test]
    fn every_slice_gets_its_own() {
        let t = timeline();
        let mut m = Meter::new(t);
        for at in (t.start..t.close + 30_000_000).step_by(1_000_000) {
            m.add(at, 1);
        }
        let slices = m.finish();
        assert_eq!(slices.iter().sum::<u64>(), 350);
        assert!(slices.iter().all(|&n| (87..=88).contains(&n)), "{slices:?}");
    }

    #[test]
    fn a_window_that_nothing_reached_is_empty() {
        let t = timeline();
        let mut m = Meter::new(t);
        assert!(!m.add(t.close + 5, 7));
        assert_eq!(m.finish().iter().sum::<u64>(), 0);
    }

    #[test]
    fn long_windows_do_not_make_endless_slices() {
        assert_eq!(Timeline::new(0, 0.0, 86_400.0).slices, 600);
        assert_eq!(Timeline::new(0, 0.0, 0.01).slices, 1);
    }
}

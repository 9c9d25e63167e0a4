//! The one clock of the generator (CLOCK_MONOTONIC in nanoseconds), sleeping on it and pacing by it.
//!
//! Owns no knowledge of traffic; called by the flow threads and their supervisor.

use rustix::{
    thread::{ClockId as SleepClock, clock_nanosleep_absolute},
    time::{ClockId, Timespec, clock_gettime},
};

/// Nanoseconds in a second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// How long before the intended time a paced thread wakes up to spin. A pinned thread on an
/// otherwise idle CPU wakes a few microseconds late (timer interrupt, idle exit, switch); without
/// the spin that lateness would be counted as latency of the path.
pub(crate) const SPIN: u64 = 20_000;

/// The longest sleep after which a paced thread looks whether its trial was stopped.
const NAP: u64 = SECOND / 20;

/// Now, in nanoseconds of CLOCK_MONOTONIC: about 25 ns through the vDSO.
#[inline]
pub fn now() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    // CLOCK_MONOTONIC starts near zero at boot and is never negative.
    t.tv_sec as u64 * SECOND + t.tv_nsec as u64
}

/// Seconds as nanoseconds; negative and absurd values saturate.
pub(crate) fn nanos(seconds: f64) -> u64 {
    (seconds * SECOND as f64).round() as u64
}

/// Nanoseconds as seconds.
pub(crate) fn seconds(nanos: u64) -> f64 {
    nanos as f64 / SECOND as f64
}

/// Sleeps until `at`; returns at once when that is over. A signal may end the sleep early.
pub(crate) fn sleep_until(at: u64) {
    let request = Timespec { tv_sec: (at / SECOND) as _, tv_nsec: (at % SECOND) as _ };
    // The only errors are EINTR, which callers bear, and EINVAL, which the arithmetic rules out.
    let _ = clock_nanosleep_absolute(SleepClock::Monotonic, &request);
}

/// Makes the calling thread's timers fire as exactly as the kernel can (the default slack is 50 µs).
pub(crate) fn exact_timers() {
    // prctl(PR_SET_TIMERSLACK) with 1 ns does not fail; if it did, wake-ups would only be later.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

/// How a paced thread spends the last moments before an intended time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Sleep, then spin for at most [`SPIN`]: exact, for a thread that has its CPU to itself.
    Spin,
    /// Sleep only: where other flows share the CPU, or CPU cost matters more than microseconds.
    Sleep,
}

/// An absolute schedule: event `k` is due at `origin + k * interval`, whatever happened before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    origin: u64,
    interval: f64,
    next: u64,
}

impl Schedule {
    /// A schedule of `per_second` events, shifted by the share `phase` (0..1) of an interval.
    pub(crate) fn new(origin: u64, per_second: f64, phase: f64) -> Self {
        let interval = SECOND as f64 / per_second;
        Self { origin: origin + (interval * phase) as u64, interval, next: 0 }
    }

    /// The time at which the next event is due.
    pub(crate) fn due(&self) -> u64 {
        // Multiplied afresh from the origin each time, so rounding never adds up to drift.
        self.origin + (self.interval * self.next as f64) as u64
    }

    /// Goes on to the event after the next one.
    pub(crate) fn advance(&mut self) {
        self.next += 1;
    }
}

/// Waits until `at` or until `stopped` says so; returns the time then.
pub(crate) fn wait_until(at: u64, how: Wait, stopped: impl Fn() -> bool) -> u64 {
    let margin = if how == Wait::Spin { SPIN } else { 0 };
    loop {
        let t = now();
        if t >= at {
            return t;
        }
        if t + margin < at {
            if stopped() {
                return t;
            }
            sleep_until((at - margin).min(t + NAP));
        } else {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_does_not_drift() {
        let mut s = Schedule::new(1_000, 3.0, 0.0);
        for _ in 0..3_000_000 {
            s.advance();
        }
        assert_eq!(s.due(), 1_000 + 1_000_000 * SECOND);
    }

    #[test]
    fn phases_spread_flows_evenly() {
        let due: Vec<u64> =
            (0..4).map(|i| Schedule::new(0, 10.0, f64::from(i) / 4.0).due()).collect();
        assert_eq!(due, [0, SECOND / 40, SECOND / 20, 3 * SECOND / 40]);
    }

    #[test]
    fn waiting_ends_when_due_or_stopped() {
        let at = now() + 3_000_000;
        assert!(wait_until(at, Wait::Spin, || false) >= at);
        assert!(wait_until(now() + 3600 * SECOND, Wait::Sleep, || true) < now() + SECOND);
    }
}

//! The one clock of the generator (CLOCK_MONOTONIC in nanoseconds), sleeping on it and pacing by it.
//!
//! Owns no knowledge of traffic; called by the flow threads and their supervisor.

use jiff::{SignedDuration, Timestamp};
use rustix::{
    thread::{ClockId as SleepClock, clock_nanosleep_absolute},
    time::{ClockId, Timespec, clock_gettime},
};

/// Nanoseconds in a second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// The longest sleep after which a paced thread looks whether its trial was stopped.
const NAP: u64 = SECOND / 20;

/// Now, in nanoseconds of CLOCK_MONOTONIC: about 25 ns through the vDSO.
#[inline]
pub fn now() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    // CLOCK_MONOTONIC starts near zero at boot and is never negative.
    t.tv_sec as u64 * SECOND + t.tv_nsec as u64
}

/// The wall clock's time at a moment of [`now`] that is not far away; none when there is no such date.
pub(crate) fn wall(at: u64) -> Option<Timestamp> {
    let ago = now().cast_signed().wrapping_sub(at.cast_signed());
    Timestamp::now().checked_sub(SignedDuration::from_nanos(ago)).ok()
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

/// How a paced thread spends the last moments before an intended time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Sleep, then spin: exact, for a thread that has its CPU to itself.
    Spin,
    /// Sleep only: where other flows share the CPU, or CPU cost matters more than microseconds.
    Sleep,
}

/// Wakes a paced thread up at intended times.
///
/// A sleeping thread wakes up late (timer interrupt, idle exit, switch: a few microseconds on
/// hardware, 20 to 40 measured in a virtual machine), and in an open loop that would be counted as
/// latency of the path. So it is woken earlier by what it was late before and spins the rest. What
/// it spun is known and can be taken out of the CPU cost.
#[derive(Debug, Clone)]
pub(crate) struct Alarm {
    wait: Wait,
    /// Mean lateness of the sleeps and its mean deviation, smoothed as RFC 6298 smooths the RTT.
    late: f64,
    deviation: f64,
    spun: u64,
}

impl Alarm {
    /// The least and the most that a thread is woken up early, in nanoseconds.
    const EARLY: (f64, f64) = (2_000.0, 100_000.0);
    /// Lateness beyond this is somebody else's use of the CPU, which waking earlier does not help.
    const DISPLACED: u64 = 500_000;
    /// Two clock reads of a spinning thread further apart than this: it was interrupted.
    const INTERRUPTED: u64 = 2_000;

    pub(crate) fn new(wait: Wait) -> Self {
        Self { wait, late: 30_000.0, deviation: 10_000.0, spun: 0 }
    }

    /// Waits until `at` or until `stopped`, which is told the time, says so; returns the time then.
    pub(crate) fn wait_until(&mut self, at: u64, stopped: impl Fn(u64) -> bool) -> u64 {
        let mut t = now();
        let margin = self.margin();
        while t + margin < at {
            if stopped(t) {
                return t;
            }
            let wake = (at - margin).min(t + NAP);
            sleep_until(wake);
            t = now();
            self.learn(t.saturating_sub(wake));
        }
        while t < at {
            std::hint::spin_loop();
            let next = now();
            if next - t <= Self::INTERRUPTED {
                self.spun += next - t;
            }
            t = next;
        }
        t
    }

    fn margin(&self) -> u64 {
        match self.wait {
            Wait::Spin => {
                (self.late + 3.0 * self.deviation).clamp(Self::EARLY.0, Self::EARLY.1) as u64
            }
            Wait::Sleep => 0,
        }
    }

    fn learn(&mut self, late: u64) {
        if late > Self::DISPLACED {
            return;
        }
        let error = late as f64 - self.late;
        self.deviation += (error.abs() - self.deviation) / 4.0;
        self.late += error / 8.0;
    }

    /// How late sleeps ended lately, in nanoseconds.
    pub(crate) fn lateness(&self) -> f64 {
        self.late
    }

    /// CPU time spent spinning so far, in nanoseconds.
    pub(crate) fn spun(&self) -> u64 {
        self.spun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_a_date() {
        let (before, at) = (Timestamp::now(), now());
        let close = |t: Timestamp, to: Timestamp| t.duration_since(to).abs().as_secs() < 5;
        assert!(close(wall(at).unwrap(), before));
        assert!(close(wall(at - SECOND).unwrap(), before - SignedDuration::from_secs(1)));
        assert!(close(wall(at + 60 * SECOND).unwrap(), before + SignedDuration::from_secs(60)));
    }

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
        for wait in [Wait::Spin, Wait::Sleep] {
            let mut alarm = Alarm::new(wait);
            let at = now() + 3_000_000;
            assert!(alarm.wait_until(at, |_| false) >= at);
            assert!(alarm.wait_until(now() + 3600 * SECOND, |_| true) < now() + SECOND);
        }
    }

    #[test]
    fn an_alarm_learns_how_late_it_is() {
        let mut alarm = Alarm::new(Wait::Spin);
        for _ in 0..200 {
            alarm.learn(5_000);
            alarm.learn(80_000_000);
        }
        assert!((alarm.lateness() - 5_000.0).abs() < 10.0);
        assert!((5_000..6_000).contains(&alarm.margin()), "{}", alarm.margin());
        assert_eq!(Alarm::new(Wait::Sleep).margin(), 0);
    }

    #[test]
    fn only_a_spinning_alarm_spins() {
        let mut sleeper = Alarm::new(Wait::Sleep);
        let mut spinner = Alarm::new(Wait::Spin);
        for _ in 0..20 {
            sleeper.wait_until(now() + 200_000, |_| false);
            spinner.wait_until(now() + 200_000, |_| false);
        }
        assert_eq!(sleeper.spun(), 0);
        assert!(spinner.spun() > 0 && spinner.spun() < 20 * 200_000);
    }
}

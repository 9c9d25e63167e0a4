//! The window of a trial as the generator saw it, and whether it is the one in which stages were counted.

use cnibench_model::{Case, Trial, probe::RoundTrip};
use jiff::Timestamp;
use std::time::Duration;

/// How far the windows of the generator and of the probes may be apart, in shares of the window, and at
/// least in seconds: one begins when the first thread says go, the other when a flow first sends.
const APART: f64 = 0.01;
const APART_S: f64 = 0.002;

/// From a flow's first send: until the window opens, and how long it is open.
pub(super) fn of(case: &Case) -> (Duration, Duration) {
    (Duration::from_secs_f64(case.warmup_s), Duration::from_secs_f64(case.duration_s))
}

/// What the generator saw in its window.
pub fn round_trip(trial: &Trial) -> Option<RoundTrip> {
    let histogram = trial.histogram.as_ref()?.decode().ok()?;
    (!histogram.is_empty()).then(|| RoundTrip {
        transactions: histogram.len(),
        mean_ns: histogram.mean(),
        window_s: trial.client.window_s,
    })
}

/// What the generator saw in the window in which stages were counted, if it is the same.
pub(super) fn same(trial: &Trial, opened: Option<Timestamp>) -> Result<RoundTrip, String> {
    let seen = round_trip(trial).ok_or("the trial has no latencies")?;
    let theirs = trial.window_opened.ok_or("the trial does not say when its window opened")?;
    let ours = opened.ok_or("no flow of the client was seen to send")?;
    together(ours, theirs, seen.window_s)?;
    Ok(seen)
}

fn together(ours: Timestamp, theirs: Timestamp, window_s: f64) -> Result<(), String> {
    let apart = ours.duration_since(theirs).as_secs_f64();
    if apart.abs() <= (APART * window_s).max(APART_S) {
        return Ok(());
    }
    Err(format!(
        "stages were counted from {:.1} ms after the generator's window opened (of {:.0} ms): the machine is too busy, or the trial too short; try --duration 2s",
        apart * 1e3,
        window_s * 1e3
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_that_are_apart_are_told() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let opened = at("2026-02-03T10:20:31Z");
        assert_eq!(together(at("2026-02-03T10:20:31.0015Z"), opened, 0.1), Ok(()));
        assert_eq!(together(at("2026-02-03T10:20:30.991Z"), opened, 2.0), Ok(()));
        let far = together(at("2026-02-03T10:20:31.004Z"), opened, 0.1).unwrap_err();
        assert!(far.contains("from 4.0 ms after") && far.contains("--duration"), "{far}");
    }
}

//! The part of a trial in which stages are counted, and the round trips that the generator made in it.

use cnibench_model::{Case, Trial, probe::RoundTrip};
use jiff::Timestamp;

/// Shares of the trial's window before and in which stages are counted.
const BEFORE: f64 = 0.25;
const COUNTED: f64 = 0.55;
/// Seconds that agents may take to connect before the warm-up begins.
const CONNECT_S: f64 = 0.05;

/// From the trial's beginning: seconds until counting begins, and seconds for which it goes on.
pub(super) fn within(case: &Case) -> (f64, f64) {
    (case.warmup_s + CONNECT_S + BEFORE * case.duration_s, COUNTED * case.duration_s)
}

/// What the generator saw in its whole window.
pub fn round_trip(trial: &Trial) -> Option<RoundTrip> {
    let histogram = trial.histogram.as_ref()?.decode().ok()?;
    (!histogram.is_empty()).then(|| RoundTrip {
        transactions: histogram.len(),
        mean_ns: histogram.mean(),
        window_s: trial.client.window_s,
    })
}

/// What the generator saw between two moments: the transactions of its slices, cut at both ends.
pub(super) fn counted(trial: &Trial, from: Timestamp, to: Timestamp) -> Result<RoundTrip, String> {
    let whole = round_trip(trial).ok_or("the trial has no latencies")?;
    let opened = trial.window_opened.ok_or("the trial does not say when its window opened")?;
    let after = |t: Timestamp| t.duration_since(opened).as_secs_f64();
    let (from, to) = (after(from), after(to));
    let end = trial.slices.len() as f64 * trial.slice_s;
    if from < 0.0 || to > end.max(whole.window_s) || from >= to {
        return Err(format!(
            "stages were counted from {from:.3} to {to:.3} s of the trial's window of {:.3} s, which is not inside it",
            whole.window_s
        ));
    }
    let transactions: f64 = (0u32..)
        .zip(&trial.slices)
        .map(|(i, rate)| {
            let begin = f64::from(i) * trial.slice_s;
            let overlap = to.min(begin + trial.slice_s) - from.max(begin);
            rate * overlap.max(0.0)
        })
        .sum();
    if transactions < 1.0 {
        return Err("the generator completed nothing while stages were counted".to_owned());
    }
    // One flow that waits for each answer: its mean time goes with the inverse of its rate. The mean of
    // the whole trial is that of another stretch of time, on a busy machine of quite another one.
    let here = transactions / (to - from);
    let overall = whole.rate().ok_or("the trial has no window")?;
    Ok(RoundTrip {
        transactions: transactions.round() as u64,
        mean_ns: whole.mean_ns * overall / here,
        window_s: to - from,
    })
}

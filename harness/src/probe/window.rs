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
    let transactions = within_slices(&trial.slices, trial.slice_s, from, to);
    if transactions < 1.0 {
        return Err("the generator completed nothing while stages were counted".to_owned());
    }
    part(whole, transactions, to - from).ok_or_else(|| "the trial has no window".to_owned())
}

/// Transactions between two moments, of rates in slices of time.
fn within_slices(slices: &[f64], slice_s: f64, from: f64, to: f64) -> f64 {
    let parts = (0u32..).zip(slices).map(|(i, rate)| {
        let begin = f64::from(i) * slice_s;
        let overlap = to.min(begin + slice_s) - from.max(begin);
        rate * overlap.max(0.0)
    });
    parts.sum()
}

/// A part of a trial. One flow that waits for each answer has a mean time that goes with the inverse of
/// its rate: the mean of the whole trial is that of another stretch of time, on a busy machine of quite
/// another one. None: the trial has no rate.
fn part(whole: RoundTrip, transactions: f64, window_s: f64) -> Option<RoundTrip> {
    let here = transactions / window_s;
    let mean_ns = whole.mean_ns * whole.rate()? / here;
    Some(RoundTrip { transactions: transactions.round() as u64, mean_ns, window_s })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_cut_at_both_ends() {
        let slices = [1000.0, 3000.0, 2000.0];
        let cut = |from, to| within_slices(&slices, 0.1, from, to).round();
        assert_eq!(cut(0.0, 0.3), 600.0);
        assert_eq!(cut(0.05, 0.15), 200.0);
        assert_eq!(cut(0.22, 0.27), 100.0);
        assert_eq!(cut(0.3, 0.4), 0.0);
    }

    #[test]
    fn a_slow_part_of_a_trial_has_longer_round_trips() {
        // Of 100 us each, 98 of which the generator saw as round trips.
        let whole = RoundTrip { transactions: 10_000, mean_ns: 98_000.0, window_s: 1.0 };
        let slow = part(whole, 2_500.0, 0.5).unwrap();
        assert_eq!((slow.transactions, slow.mean_ns.round()), (2_500, 196_000.0));
        let same = part(whole, 5_000.0, 0.5).unwrap();
        assert_eq!(same.mean_ns.round(), 98_000.0);
        assert_eq!(part(RoundTrip { window_s: 0.0, ..whole }, 1.0, 0.5), None);
    }
}

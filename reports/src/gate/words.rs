//! The sentences of verdicts.
//!
//! Owns their words; sizes are put into words by the metric's own vocabulary. Called by `judge` and by
//! whoever prints a gate.

use super::{
    judge::Setting,
    rule::{Bounds, Finding},
};
use crate::{
    stats::{Basis, Change, ChangeMethod, Interval},
    units::{counted, number},
    words,
};
use cnibench_model::{
    EffectBasis, Estimate, Floor, FloorSource, GateDesign, Metric, PairArm, Role, Verdict,
};

/// "baseline" or "candidate".
pub(crate) fn side(arm: PairArm) -> &'static str {
    match arm {
        PairArm::Baseline => "baseline",
        PairArm::Candidate => "candidate",
    }
}

/// An estimate as the reports' own change, whose words and figures it shares.
pub(crate) fn as_change(estimate: &Estimate) -> Change {
    let interval = estimate.low.zip(estimate.high);
    Change {
        basis: match estimate.basis {
            EffectBasis::Ratio => Basis::Ratio,
            EffectBasis::Difference => Basis::Difference,
        },
        size: estimate.size,
        interval: interval.map(|(low, high)| Interval { low, high }),
        n: estimate.pairs as usize,
        method: ChangeMethod::PairedRank,
    }
}

/// "31 % slower", whatever the interval shows.
pub(crate) fn size(metric: Metric, estimate: &Estimate) -> String {
    words::size_alone(metric, &as_change(estimate))
}

/// "29–33 %" or "1 % less time to 2 % slower"; none without an interval.
pub(crate) fn interval(metric: Metric, estimate: &Estimate) -> Option<String> {
    words::interval(metric, &as_change(estimate))
}

/// "31 % slower (29–33 %)".
pub(crate) fn change(metric: Metric, estimate: &Estimate) -> String {
    match interval(metric, estimate) {
        Some(range) => format!("{} ({range})", size(metric, estimate)),
        None => size(metric, estimate),
    }
}

/// "3 %", or of metrics that are shares "3 points".
pub(crate) fn floor_size(metric: Metric, size: f64) -> String {
    let percent = size * 100.0;
    let digits = match percent {
        p if (p - p.round()).abs() < 1e-9 || p >= 10.0 => 0,
        p if p >= 1.0 => 1,
        _ => 2,
    };
    let unit = match crate::matrix::basis(metric) {
        Basis::Ratio => "%",
        Basis::Difference => "points",
    };
    format!("{} {unit}", number(percent, digits))
}

/// "the floor of 3 %", with where it comes from if that is not the policy.
pub(crate) fn floor(metric: Metric, floor: &Floor) -> String {
    let size = floor_size(metric, floor.size);
    match floor.source {
        FloorSource::MinimumEffect => format!("the floor of {size}"),
        FloorSource::Calibrated => format!("this host's calibrated floor of {size}"),
        FloorSource::ApartInTime => format!("the floor of {size} between runs of different times"),
    }
}

/// "99.6 %": how sure an interval is.
pub(crate) fn confidence(share: f64) -> String {
    let percent = share * 100.0;
    let digits = match 100.0 - percent {
        left if left >= 1.0 - 1e-9 => 0,
        left if left >= 0.1 - 1e-9 => 1,
        _ => 2,
    };
    // Never rounded up to what is not so.
    let cut = 10f64.powi(digits);
    format!("{} %", number((percent * cut + 1e-6).floor() / cut, digits as usize))
}

/// Why a verdict is what it is.
pub(crate) fn reason(
    finding: Finding,
    metric: Metric,
    estimate: &Estimate,
    its_floor: &Floor,
    bounds: &Bounds,
    setting: &Setting,
) -> String {
    let change = change(metric, estimate);
    let floor = floor(metric, its_floor);
    match finding {
        Finding::Regression | Finding::Improvement => format!("{change}, beyond {floor}"),
        Finding::TooGood => {
            let most = bounds.allowed_improvement.unwrap_or_default();
            format!(
                "{change}: better by more than the policy allows ({}); see whether the same mode is in force",
                floor_size(metric, most)
            )
        }
        Finding::Small => format!("{change}, smaller than {floor}"),
        Finding::NoneAsLarge => {
            let range = interval(metric, estimate).unwrap_or_default();
            format!("no change for the worse beyond {floor} is left in the interval ({range})")
        }
        Finding::Wide => {
            let range = interval(metric, estimate).unwrap_or_default();
            format!("cannot tell: the interval ({range}) is wider than {floor}{}", more(setting))
        }
        Finding::NoInterval => format!("cannot tell: {}", too_little(estimate, setting)),
    }
}

/// What makes an interval narrower.
fn more(setting: &Setting) -> &'static str {
    match (setting.design, &setting.calibration) {
        (GateDesign::Stored, _) => "; measure both in pairs (cnibench ab)",
        (_, None) => "; more rebuilds, or a calibrated host, make it narrower",
        (_, Some(_)) => "; more rebuilds make it narrower",
    }
}

fn too_little(estimate: &Estimate, setting: &Setting) -> String {
    match (setting.design, estimate.rebuilds, estimate.pairs) {
        (GateDesign::Stored, _, n) => {
            format!("{} at a side, 3 are needed", counted(u64::from(n), "trial"))
        }
        (_, 1, n) if n >= 3 => "one rebuild says nothing of how far rebuilds are apart: measure 3 or more (--rebuilds), or calibrate this host".to_owned(),
        (_, _, n) => format!("{}, 3 are needed", counted(u64::from(n), "pair")),
    }
}

/// The word of a verdict as tables show it; of what does not gate in brackets.
pub(crate) fn verdict(verdict: Verdict, role: Role) -> String {
    match role {
        Role::Gates => verdict.name().to_owned(),
        Role::Informs => format!("({verdict})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_confidences_are_not_rounded_up() {
        assert_eq!(floor_size(Metric::LatencyP50, 0.03), "3 %");
        assert_eq!(floor_size(Metric::LatencyP50, 0.0345), "3.5 %");
        assert_eq!(floor_size(Metric::LatencyP50, 0.123), "12 %");
        assert_eq!(floor_size(Metric::Loss, 0.005), "0.50 points");
        assert_eq!(confidence(0.98), "98 %");
        assert_eq!(confidence(0.996), "99.6 %");
        assert_eq!(confidence(0.99978), "99.97 %");
    }
}

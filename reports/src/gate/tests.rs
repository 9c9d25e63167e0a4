//! The gate on whole records: every verdict with its reason, and what each format shows.

use super::*;
use crate::fixtures::{Builder, in_pairs, set_status, verdicts};
use cnibench_model::{
    CellStatus, FloorSource, GateOutcome, Judgement, Metric, PairArm, Sample, Verdict,
};

fn judged(record: &Record) -> Gate {
    judge_pairs(record, &Policy::default(), None).unwrap()
}

fn policy(text: &str) -> Policy {
    Policy::from_toml("policy", text).unwrap()
}

fn of<'g>(gate: &'g Gate, part: &str) -> &'g Judgement {
    gate.gating().find(|j| j.title.contains(part)).unwrap()
}

#[test]
fn every_verdict_has_its_reason() {
    let gate = judged(&verdicts());
    for (case, verdict, reason) in [
        ("tcp_rr cross-node", Verdict::Pass, "no change for the worse beyond the floor of 3 %"),
        ("tcp_stream", Verdict::Regression, "% less throughput ("),
        ("tcp_crr", Verdict::Improvement, "% less time ("),
        ("udp_stream", Verdict::Missing, "the candidate failed: trial 3"),
        ("udp_rr", Verdict::Inconclusive, "cannot tell: the interval ("),
    ] {
        let found = of(&gate, case);
        assert_eq!(found.verdict, verdict, "{case}: {}", found.reason);
        assert!(found.reason.contains(reason), "{case}: {}", found.reason);
    }
    assert_eq!((gate.outcome, gate.exit_code), (GateOutcome::Regression, 1));
    assert_eq!(gate, judged(&verdicts()), "the same record is judged the same again");
}

#[test]
fn markdown_of_every_verdict() {
    let command = ["cnibench", "ab", "--baseline", "flannel-vxlan"].map(str::to_owned);
    insta::assert_snapshot!(markdown(&judged(&verdicts()), &command));
}

#[test]
fn table_of_every_verdict() {
    insta::assert_snapshot!(table(&judged(&verdicts()), Some(150)));
}

#[test]
fn junit_of_every_verdict() {
    insta::assert_snapshot!(junit(&judged(&verdicts())).unwrap());
}

/// Changes trials of one arm, by the number of their pair in their rebuild.
fn change(record: &mut Record, arm: PairArm, pairs: u32, how: impl Fn(&mut cnibench_model::Trial)) {
    let own =
        |t: &&mut cnibench_model::Trial| t.pair.is_some_and(|p| p.arm == arm && p.pair < pairs);
    record.trials.iter_mut().filter(own).for_each(how);
}

fn saturate(trial: &mut cnibench_model::Trial) {
    trial.warnings.push("rate not held: less than asked for (saturated)".to_owned());
}

#[test]
fn trials_that_carry_less_than_asked_for_are_a_verdict_or_leave_it_open() {
    let mut record = in_pairs(5, 6, 1.0);
    change(&mut record, PairArm::Candidate, 4, saturate);
    let found = judged(&record);
    let p50 = of(&found, "tcp_rr");
    assert_eq!(p50.verdict, Verdict::Regression);
    assert!(p50.reason.contains("20 of 30 of the candidate, 0 of 30 of the baseline"), "{p50:?}");
    // The same of the baseline is better; of both nothing can be said; of one in thirty it is left out.
    let mut record = in_pairs(5, 6, 1.0);
    change(&mut record, PairArm::Baseline, 4, saturate);
    assert_eq!(of(&judged(&record), "tcp_rr").verdict, Verdict::Improvement);
    change(&mut record, PairArm::Candidate, 4, saturate);
    assert_eq!(of(&judged(&record), "tcp_rr").verdict, Verdict::Inconclusive);
    let mut record = in_pairs(5, 6, 1.0);
    record.trials[0].samples.iter_mut().for_each(|s: &mut Sample| s.value = 0.0);
    let gate = judged(&record);
    let p50 = of(&gate, "tcp_rr");
    assert_eq!(p50.verdict, Verdict::Regression, "31 % slower all the same");
    let left = &p50.left_out;
    assert_eq!((left.baseline_unfit + left.candidate_unfit, left.unpaired), (1, 1));
    let noted = summary::left_out(p50).unwrap();
    assert!(noted.contains("1 pair of which one trial is missing"), "{noted}");
}

#[test]
fn what_is_missing_says_what_and_from_which_side() {
    let reason = |spoil: &dyn Fn(&mut Record)| {
        let mut record = in_pairs(3, 4, 1.0);
        spoil(&mut record);
        let gate = judged(&record);
        assert_eq!((gate.outcome, gate.exit_code), (GateOutcome::Inconclusive, 3));
        let found = gate.gating().next().unwrap();
        assert_eq!(found.verdict, Verdict::Missing);
        assert!(found.estimate.is_none() && found.medians.is_none());
        found.reason.clone()
    };
    let skipped = |r: &mut Record| {
        let status = CellStatus::Skipped { reason: "no module".to_owned() };
        set_status(r, "/host/", status);
    };
    assert_eq!(reason(&skipped), "the baseline was skipped: no module");
    let gone = |r: &mut Record| r.header.cases.retain(|c| c.cni.name == "host");
    assert_eq!(reason(&gone), "the candidate has no such case");
    let unmeasured = |r: &mut Record| r.trials.retain(|t| t.case.0.contains("/host/"));
    assert_eq!(reason(&unmeasured), "no trial of the candidate was measured");
    let short = |r: &mut Record| {
        change(r, PairArm::Candidate, 1, |t| t.samples.retain(|s| s.metric != Metric::LatencyP50));
    };
    let said =
        "too few transactions for latency p50 in 0 trials of the baseline and 3 of the candidate";
    assert!(reason(&short).starts_with(said), "{}", reason(&short));
    let apart = |r: &mut Record| {
        r.trials.retain(|t| t.case.0.contains("/host/") == (t.block % 2 == 0));
    };
    assert_eq!(reason(&apart), "no pair is whole");
}

#[test]
fn one_rebuild_cannot_be_told_unless_the_host_is_calibrated() {
    let record = in_pairs(1, 10, 1.0);
    let gate = judged(&record);
    assert_eq!(gate.outcome, GateOutcome::Inconclusive);
    let reason = &gate.gating().next().unwrap().reason;
    assert!(reason.contains("one rebuild says nothing of how far rebuilds are apart"), "{reason}");

    let same: Vec<Record> = (0..6u8).map(|n| twice(&record, f64::from(n % 3) - 1.0)).collect();
    let calibration = calibrate::calibration(&same).unwrap();
    let gate = judge_pairs(&record, &Policy::default(), Some(&calibration)).unwrap();
    assert_eq!(gate.outcome, GateOutcome::Regression, "{gate:?}");
    let floor = gate.gating().next().unwrap().floor.unwrap();
    assert_eq!(floor.source, FloorSource::Calibrated);
    // 1 % up and down: t(6) of 0.995 times their root mean square.
    assert!(floor.size > 0.03 && floor.size < 0.04, "{floor:?}");
    let other = cnibench_model::Environment::default();
    let mut stale = record.clone();
    stale.header.environment = other;
    let gate = judge_pairs(&stale, &Policy::default(), Some(&calibration)).unwrap();
    assert_eq!(gate.gating().next().unwrap().floor.unwrap().source, FloorSource::MinimumEffect);
    let said = how_sure(&gate).join(" ");
    assert!(
        said.contains("is not this host's as it is now") && said.contains("hostname: bench-01")
    );
}

/// The same cni twice, the second so many per cent slower.
fn twice(record: &Record, percent: f64) -> Record {
    let mut record = record.clone();
    let pairing = record.header.pairing.as_mut().unwrap();
    let cni = pairing.candidate.clone();
    (pairing.baseline, pairing.candidate) = (cni.first(), cni.second());
    for case in &mut record.header.cases {
        case.cni = if case.cni == cni { cni.second() } else { cni.clone() };
    }
    for trial in &mut record.trials {
        let second = trial.pair.unwrap().arm == PairArm::Candidate;
        let factor = if second { (percent / 100.0).exp() } else { 1.0 };
        trial.samples.iter_mut().for_each(|s| s.value = 100.0 * factor);
    }
    record
}

#[test]
fn a_policy_is_obeyed() {
    let record = in_pairs(5, 6, 1.0);
    let judge = |text: &str| judge_pairs(&record, &policy(text), None).unwrap();
    assert_eq!(judge("min_effect = \"40%\"").outcome, GateOutcome::Pass);
    let rule = "[[rule]]\ncases = \"tcp_rr/*\"\nmin_effect = \"40%\"";
    assert_eq!(judge(rule).outcome, GateOutcome::Pass);
    let other = judge("[[rule]]\ncases = \"udp_rr/*\"\nmin_effect = \"40%\"");
    assert_eq!(other.outcome, GateOutcome::Regression);
    assert_eq!(other.notes, ["The rule of the policy's line 1 for \"udp_rr/*\" fits no case."]);
    let nothing = judge("[gates]\ntcp_rr = []");
    assert_eq!(nothing.outcome, GateOutcome::Inconclusive);
    assert!(nothing.notes[0].starts_with("Nothing gates"), "{:?}", nothing.notes);
    assert_eq!(headline(&nothing), "inconclusive: nothing gates");
    let two = judge("min_effect = \"50%\"\n[gates]\ntcp_rr = [\"latency_p50\", \"latency_p99\"]");
    assert_eq!(headline(&two), "pass: none of 2 metrics that gate is worse");
    let confidence = two.gating().map(|j| j.estimate.as_ref().unwrap().confidence);
    // Both are shown, the first as one of two, the other then as the only one left.
    let confidence: Vec<f64> = confidence.collect();
    assert!((confidence.iter().copied().fold(0.0, f64::max) - 0.99).abs() < 1e-9, "{confidence:?}");
}

#[test]
fn an_improvement_beyond_what_is_believed_is_looked_at() {
    let mut record = in_pairs(5, 6, 1.0);
    let pairing = record.header.pairing.as_mut().unwrap();
    std::mem::swap(&mut pairing.baseline, &mut pairing.candidate);
    for slot in record.trials.iter_mut().filter_map(|t| t.pair.as_mut()) {
        slot.arm = match slot.arm {
            PairArm::Baseline => PairArm::Candidate,
            PairArm::Candidate => PairArm::Baseline,
        };
    }
    let judge = |most: &str| {
        let text = format!("[[rule]]\ncases = \"*\"\nallowed_improvement = \"{most}\"");
        judge_pairs(&record, &policy(&text), None).unwrap()
    };
    assert_eq!(judge("30%").gating().next().unwrap().verdict, Verdict::Improvement);
    let looked = judge("20%");
    let found = looked.gating().next().unwrap();
    assert_eq!(found.verdict, Verdict::Inconclusive);
    assert!(found.reason.contains("by more than the policy allows (20 %)"), "{}", found.reason);
}

#[test]
fn records_of_different_times_have_a_floor_of_their_own() {
    let record = Builder { trials: 10, ..Builder::default() }.build();
    let gate =
        judge_stored(&record, &record, &Policy::default(), None, Strictness::Refuse).unwrap();
    assert_eq!(gate.design, GateDesign::Stored);
    let first = gate.gating().next().unwrap();
    let floor = first.floor.unwrap();
    assert_eq!((floor.size, floor.source), (0.15, FloorSource::ApartInTime));
    assert!(first.title.starts_with("host: "), "{}", first.title);
    assert!(gate.notes[0].starts_with("The records were made at different times"));
    let counted = Builder { clock: Clock::Instructions, trials: 10, ..Builder::default() }.build();
    let gate =
        judge_stored(&counted, &counted, &Policy::default(), None, Strictness::Refuse).unwrap();
    assert_eq!(
        gate.gating().next().unwrap().floor.unwrap().size,
        super::policy::COUNTED_MIN_EFFECT
    );
    assert!(gate.gating().all(|j| j.verdict == Verdict::Pass));
    assert!(gate.notes.is_empty());
}

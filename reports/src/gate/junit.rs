//! The verdicts as JUnit XML, for CI systems that show test results.
//!
//! Owns what a verdict is there: a regression is a failure; inconclusive and missing are errors (the
//! command exits with 3); what does not gate is skipped, with its words. Called by the commands.

use super::summary::{self, Line};
use cnibench_model::{Gate, Judgement, Role, Verdict};
use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite};

/// The whole file.
///
/// # Errors
/// A text that XML cannot hold, whatever it is.
pub fn junit(gate: &Gate) -> Result<String, quick_junit::SerializeError> {
    let mut report = Report::new("cnibench gate");
    let mut suite = TestSuite::new(summary::about(gate));
    for (name, value) in [
        ("outcome", gate.outcome.name().to_owned()),
        ("exit_code", gate.exit_code.to_string()),
        ("headline", summary::headline(gate)),
        ("runs", gate.runs.join(" ")),
    ] {
        suite.add_property(Property::new(name, value));
    }
    for difference in &gate.differences {
        let name = format!("differs: {}", difference.field);
        suite.add_property(Property::new(
            name,
            format!("{} and {}", difference.baseline, difference.candidate),
        ));
    }
    let lines = summary::lines(gate);
    suite.add_test_cases(lines.iter().zip(&gate.judgements).map(|(l, j)| case(l, j, gate)));
    suite.set_system_out(summary::how_sure(gate).join("\n"));
    report.add_test_suite(suite);
    report.to_string()
}

fn case(line: &Line, judgement: &Judgement, gate: &Gate) -> TestCase {
    let mut status = match (judgement.role, judgement.verdict) {
        (Role::Informs, _) => TestCaseStatus::skipped(),
        (Role::Gates, Verdict::Pass | Verdict::Improvement) => TestCaseStatus::success(),
        (Role::Gates, Verdict::Regression) if gate.advisory.is_empty() => {
            TestCaseStatus::non_success(NonSuccessKind::Failure)
        }
        (Role::Gates, _) => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    status.set_message(format!("{}: {}", line.verdict, line.reason));
    if !matches!(status, TestCaseStatus::Success { .. } | TestCaseStatus::Skipped { .. }) {
        status.set_type(judgement.verdict.name());
    }
    let name = match line.metric.split(',').next() {
        Some(metric) if !metric.is_empty() => format!("{}, {metric}", line.case),
        _ => line.case.clone(),
    };
    let mut case = TestCase::new(name, status);
    case.set_classname(format!("cnibench.{}", judgement.series));
    let [baseline, candidate] = &line.values;
    let mut text = vec![format!("{}: {}", line.verdict, line.reason)];
    if !line.change.is_empty() {
        text.push(format!(
            "{}: baseline {baseline}, candidate {candidate}; {}; floor {}",
            line.metric, line.change, line.floor
        ));
    }
    text.extend(summary::left_out(judgement));
    case.set_system_out(text.join("\n"));
    case
}

//! A ladder of offered rates: the trials in which the highest rate that is still held was looked for.
//!
//! They stand apart from the measured trials, since at which rates they ran was decided by what was
//! found before. Written by the run, read by the reports, which say where the knee is.

use crate::{case::CaseId, trial::Trial, workload::Rate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One trial on the ladder of a case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RungTrial {
    /// The case whose ladder it is; the trial itself has the id of that case at this rate.
    pub case: CaseId,
    /// What was offered.
    pub rate: Rate,
    /// What came of it.
    pub trial: Trial,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::JournalLine;

    #[test]
    fn a_rung_is_read_as_it_was_written_and_knows_that_it_was_saturated() {
        let end = r#"{"window_s":1,"process":{"user_s":0,"system_s":0,"softirq_s":0,"irq_s":0,
            "kthread_s":0,"steal_s":0},"node":{"machine":"m","window_s":1,"time":{"user_s":0,
            "system_s":0,"softirq_s":0,"irq_s":0,"kthread_s":0,"steal_s":0},"busy":{"0":0.5}},"flows":[]}"#;
        let text = format!(
            r#"{{"case":"c/rate=5000","index":0,"block":0,"sequence":0,"started":"2026-02-03T10:20:31Z",
            "workload":"tcp_rr","samples":[],"histogram":null,"slices":[],"slice_s":0.1,"client":{end},
            "server":{end},"proofs":[],"warnings":["{}"]}}"#,
            crate::trial::SATURATED
        );
        let trial: Trial = serde_json::from_str(&text).unwrap();
        assert!(trial.is_saturated());
        let line = JournalLine::Rung(Box::new(RungTrial {
            case: CaseId("c".to_owned()),
            rate: Rate(5_000.0),
            trial,
        }));
        let text = serde_json::to_string(&line).unwrap();
        assert!(text.starts_with("{\"event\":\"rung\""), "{text}");
        assert_eq!(serde_json::from_str::<JournalLine>(&text).unwrap(), line);
    }
}

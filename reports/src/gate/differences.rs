//! What two records differ in, and which of it forbids to compare them.
//!
//! Owns that division; the fields of a machine are the model's. Called by the gate and by `compare`.

use cnibench_model::{Clock, Difference, Fingerprint, Record};
use std::collections::BTreeSet;

/// Fields of a machine that say nothing of how fast it is.
const HARMLESS: &[&str] = &["memory_bytes"];
/// A machine's memory differs by a little from one boot to the next.
const MEMORY_TOLERANCE: f64 = 0.02;
/// Where instructions are counted, only these fields move them: the machine's own kernel and CPU do not.
const COUNTED: &[&str] =
    &["arch", "version.cnibench", "version.guest_cpu", "version.guest_kernel", "version.qemu"];

/// What two records differ in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparability {
    /// What moves every number: the machine, its kernel and settings, the suite, the generator.
    pub forbidding: Vec<Difference>,
    /// What a reader may want to know, and what may be the very thing compared.
    pub telling: Vec<Difference>,
}

impl Comparability {
    /// Everything, what forbids first.
    pub fn all(&self) -> Vec<Difference> {
        self.forbidding.iter().chain(&self.telling).cloned().collect()
    }
}

/// Compares everything but the trials of two records.
pub fn comparability(baseline: &Record, candidate: &Record) -> Comparability {
    let mut out = Comparability::default();
    let [of_baseline, of_candidate] = [baseline, candidate].map(|r| &r.header.environment);
    let machine = Fingerprint::of(of_baseline).differences(&Fingerprint::of(of_candidate));
    let clock = baseline.header.clock;
    for difference in machine {
        match forbids(&difference, clock) {
            true => out.forbidding.push(difference),
            false => out.telling.push(difference),
        }
    }
    let mut differ = |forbids: bool, field: &str, values: [String; 2]| {
        let [baseline, candidate] = values;
        if baseline != candidate {
            let difference = Difference { field: field.to_owned(), baseline, candidate };
            match forbids {
                true => out.forbidding.push(difference),
                false => out.telling.push(difference),
            }
        }
    };
    let records = [baseline, candidate];
    differ(true, "clock", records.map(|r| r.header.clock.name().to_owned()));
    differ(true, "suite", records.map(|r| r.header.suite.clone()));
    differ(true, "congestion_control (as set)", records.map(congestion_controls));
    differ(
        true,
        "topology",
        records.map(|r| serde_json::to_string(&r.header.topology).unwrap_or_default()),
    );
    for case in &baseline.header.cases {
        let Some(other) = candidate.case(&case.id) else { continue };
        let timing = [case, other].map(|c| format!("{} s after {} s", c.duration_s, c.warmup_s));
        differ(true, &format!("duration of {}", case.id), timing);
    }
    for info in &baseline.cnis {
        let Some(other) = candidate.cni(&info.spec) else { continue };
        differ(false, &format!("mtu of {}", info.spec), [info, other].map(|c| c.mtu.to_string()));
    }
    differ(false, "trials interleaved", records.map(|r| r.header.interleaved.to_string()));
    differ(false, "suite text", records.map(suite_text));
    out.forbidding.sort();
    out.forbidding.dedup();
    out
}

fn forbids(difference: &Difference, clock: Clock) -> bool {
    let field = difference.field.as_str();
    if clock == Clock::Instructions {
        return COUNTED.contains(&field);
    }
    if field == "memory_bytes" {
        let bytes = |text: &str| text.parse::<f64>().ok();
        let both = bytes(&difference.baseline).zip(bytes(&difference.candidate));
        return both.is_none_or(|(a, b)| (a / b).ln().abs() > MEMORY_TOLERANCE);
    }
    // Versions of other tools are as often the thing compared.
    field == "version.cnibench" || !(field.starts_with("version.") || HARMLESS.contains(&field))
}

/// What sockets really had, all trials together.
fn congestion_controls(record: &Record) -> String {
    let flows = record.trials.iter().flat_map(|t| t.client.flows.iter().chain(&t.server.flows));
    let names: BTreeSet<&str> =
        flows.filter_map(|f| f.options.get("congestion_control")).map(String::as_str).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.into_iter().collect::<Vec<_>>().join(", "),
    }
}

/// The suite without comments and empty lines, in one line.
fn suite_text(record: &Record) -> String {
    let lines = record.header.suite_text.lines().map(|l| l.split('#').next().unwrap_or("").trim());
    lines.filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Builder;

    fn fields(differences: &[Difference]) -> Vec<&str> {
        differences.iter().map(|d| d.field.as_str()).collect()
    }

    #[test]
    fn every_kind_of_difference_is_named_and_sorted_by_what_it_forbids() {
        let record = Builder { trials: 2, ..Builder::default() }.build();
        assert_eq!(comparability(&record, &record), Comparability::default());
        let mut other = record.clone();
        other.header.environment.kernel_release = "6.12.1".to_owned();
        other.header.environment.memory_bytes += 4096;
        other.header.environment.versions.insert("cnibench".to_owned(), "0.2.0".to_owned());
        other.header.environment.versions.insert("kind".to_owned(), "0.30".to_owned());
        other.header.suite = "standard".to_owned();
        other.header.suite_text.push_str("# a word\ntrials = 3\n");
        other.header.cases[0].duration_s = 2.0;
        other.trials[0].client.flows[0]
            .options
            .insert("congestion_control".to_owned(), "bbr".to_owned());
        other.cnis[0].mtu = 9000;
        let found = comparability(&record, &other);
        let duration = format!("duration of {}", record.header.cases[0].id);
        let expected = [
            "congestion_control (as set)",
            duration.as_str(),
            "kernel_release",
            "suite",
            "version.cnibench",
        ];
        assert_eq!(fields(&found.forbidding), expected);
        let expected = ["memory_bytes", "version.kind", "mtu of host", "suite text"];
        assert_eq!(fields(&found.telling), expected);
        let said = found.forbidding[0].to_string();
        assert_eq!(said, "congestion_control (as set): cubic and bbr, cubic");
    }

    #[test]
    fn instructions_do_not_depend_on_the_machine_but_on_the_guest() {
        let record =
            Builder { trials: 2, clock: Clock::Instructions, ..Builder::default() }.build();
        let mut other = record.clone();
        other.header.environment.hostname = "ci-17".to_owned();
        other.header.environment.cpus = 64;
        other.header.environment.kernel_release = "6.12.1".to_owned();
        assert!(comparability(&record, &other).forbidding.is_empty());
        other.header.environment.versions.insert("guest_kernel".to_owned(), "6.12.1".to_owned());
        other.header.environment.versions.insert("qemu".to_owned(), "10.0.2".to_owned());
        let forbidding = comparability(&record, &other).forbidding;
        assert_eq!(fields(&forbidding), ["version.guest_kernel", "version.qemu"]);
    }
}

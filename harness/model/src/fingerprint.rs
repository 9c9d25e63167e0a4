//! What makes two machines comparable: the settings that move a number, by name, and how two differ.
//!
//! Owns which fields of an environment count and the words for a difference. Decides nothing: whether a
//! difference forbids a comparison is the gate's. Called by the gate, `compare` and calibration.

use crate::environment::Environment;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What stands for a field that could not be read.
const UNKNOWN: &str = "unknown";

/// The fields of an environment that move a number, by name (`kernel_release`,
/// `sysctl.net.core.rmem_max`, `mitigation.spectre_v2`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Fingerprint(pub BTreeMap<String, String>);

/// One field in which two sides differ.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    /// The field's name.
    pub field: String,
    /// Its value at the side that is compared with.
    pub baseline: String,
    /// Its value at the side that is compared.
    pub candidate: String,
}

impl fmt::Display for Difference {
    /// `kernel_release: 6.12.3 and 6.18.5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} and {}", self.field, self.baseline, self.candidate)
    }
}

impl Fingerprint {
    /// Of an environment. What changes from minute to minute (load, steal) and what the run found out
    /// about features is no part of it.
    pub fn of(environment: &Environment) -> Self {
        let e = environment;
        let or_unknown = |v: Option<String>| v.unwrap_or_else(|| UNKNOWN.to_owned());
        let mut fields = BTreeMap::new();
        for (name, value) in [
            ("arch", e.arch.clone()),
            ("clocksource", or_unknown(e.clocksource.clone())),
            ("cpu_limit", e.cpu_limit.map_or_else(|| "none".to_owned(), |v| v.to_string())),
            ("cpu_model", e.cpu_model.clone()),
            ("cpus", e.cpus.to_string()),
            ("cpus_online", e.cpus_online.to_string()),
            ("governor", or_unknown(e.governor.clone())),
            ("hostname", e.hostname.clone()),
            ("hypervisor", e.hypervisor.clone().unwrap_or_else(|| "none".to_owned())),
            ("kernel_cmdline", e.kernel_cmdline.clone()),
            ("kernel_release", e.kernel_release.clone()),
            ("kernel_version", e.kernel_version.clone()),
            ("memory_bytes", e.memory_bytes.to_string()),
            (
                "memory_limit_bytes",
                e.memory_limit_bytes.map_or_else(|| "none".to_owned(), |v| v.to_string()),
            ),
            ("smt", or_unknown(e.smt.map(|v| v.to_string()))),
            ("turbo", or_unknown(e.turbo.map(|v| v.to_string()))),
            ("user_namespace", e.user_namespace.to_string()),
        ] {
            fields.insert(name.to_owned(), value);
        }
        for (prefix, values) in
            [("mitigation", &e.mitigations), ("sysctl", &e.sysctls), ("version", &e.versions)]
        {
            fields.extend(values.iter().map(|(k, v)| (format!("{prefix}.{k}"), v.clone())));
        }
        Self(fields)
    }

    /// Every field in which `candidate` differs from this, in the order of their names. A field that one
    /// side lacks differs as "unknown".
    pub fn differences(&self, candidate: &Self) -> Vec<Difference> {
        let names: BTreeSet<&String> = self.0.keys().chain(candidate.0.keys()).collect();
        let value = |side: &Self, name: &String| {
            side.0.get(name).cloned().unwrap_or_else(|| UNKNOWN.to_owned())
        };
        names
            .into_iter()
            .map(|name| Difference {
                field: name.clone(),
                baseline: value(self, name),
                candidate: value(candidate, name),
            })
            .filter(|d| d.baseline != d.candidate)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_no_difference_and_a_kernel_is() {
        let mut a = Environment { kernel_release: "6.12.3".to_owned(), ..Environment::default() };
        let mut b = a.clone();
        (a.load_1m, b.load_1m, b.steal_since_boot) = (0.1, 7.0, 0.3);
        let of = Fingerprint::of;
        assert_eq!(of(&a).differences(&of(&b)), []);
        b.kernel_release = "6.18.5".to_owned();
        b.sysctls.insert("net.core.rmem_max".to_owned(), "4194304".to_owned());
        let said: Vec<String> = of(&a).differences(&of(&b)).iter().map(|d| d.to_string()).collect();
        let expected =
            ["kernel_release: 6.12.3 and 6.18.5", "sysctl.net.core.rmem_max: unknown and 4194304"];
        assert_eq!(said, expected);
    }
}

//! The catalogue: suites that are built into the binary.

use crate::{error::SuiteError, suite::Suite};
use cnibench_model::nearest::did_you_mean;

/// Name and text of every catalogue suite, in the order in which `cnibench list suites` shows them.
pub const SUITES: &[(&str, &str)] = &[
    ("quick", include_str!("../catalog/quick.toml")),
    ("gate", include_str!("../catalog/gate.toml")),
    ("counted", include_str!("../catalog/counted.toml")),
    ("standard", include_str!("../catalog/standard.toml")),
    ("placements", include_str!("../catalog/placements.toml")),
    ("streams", include_str!("../catalog/streams.toml")),
    ("knee", include_str!("../catalog/knee.toml")),
    ("mtu", include_str!("../catalog/mtu.toml")),
    ("rotation", include_str!("../catalog/rotation.toml")),
    ("policies", include_str!("../catalog/policies.toml")),
    ("services", include_str!("../catalog/services.toml")),
    ("hubble", include_str!("../catalog/hubble.toml")),
    ("article", include_str!("../catalog/article.toml")),
    ("smoke", include_str!("../catalog/smoke.toml")),
];

/// A catalogue suite by name.
///
/// # Errors
/// A sentence when there is no such suite, with the nearest one offered.
pub fn by_name(name: &str) -> Result<Suite, String> {
    let (name, text) = SUITES.iter().find(|(n, _)| *n == name).ok_or_else(|| {
        format!(
            "unknown suite {name:?}{} (a suite is a name from `cnibench list suites` or a TOML file)",
            did_you_mean(name, SUITES.iter().map(|(n, _)| *n))
        )
    })?;
    parse(name, text).map_err(|e| e.to_string())
}

/// Every catalogue suite.
///
/// # Errors
/// Never in a released build: a test parses them all.
pub fn all() -> Result<Vec<Suite>, SuiteError> {
    SUITES.iter().map(|(name, text)| parse(name, text)).collect()
}

fn parse(name: &str, text: &str) -> Result<Suite, SuiteError> {
    Suite::parse(&format!("catalogue suite {name:?}"), text)
}

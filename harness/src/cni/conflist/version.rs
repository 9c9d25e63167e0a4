//! The CNI versions this runtime speaks, and what each of them has.

use std::{fmt, str::FromStr};

/// A version of the CNI specification with the result format of 0.3.0 and later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CniVersion {
    /// 0.3.0: result with interfaces, ips, routes, dns.
    V0_3_0,
    /// 0.3.1.
    V0_3_1,
    /// 0.4.0: CHECK, and a previous result for DEL.
    V0_4_0,
    /// 1.0.0: no `version` in ips, no single-plugin configurations.
    V1_0_0,
    /// 1.1.0: STATUS, GC, more fields in interfaces and routes.
    V1_1_0,
}

impl CniVersion {
    /// Every version, ascending.
    pub const ALL: &'static [Self] =
        &[Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The text in `cniVersion`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// CHECK exists, and DEL is given the result of ADD.
    pub fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    /// STATUS and GC exist.
    pub fn has_status_and_gc(self) -> bool {
        self >= Self::V1_1_0
    }

    /// `0.4.0, 1.0.0`: for messages.
    pub fn list(versions: &[Self]) -> String {
        versions.iter().map(|v| v.name()).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CniVersion {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .copied()
            .find(|v| v.name() == s)
            .ok_or_else(|| format!("CNI version {s:?} is not one of {}", Self::list(Self::ALL)))
    }
}

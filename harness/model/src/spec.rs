//! A cni as it is written on the command line: `name[#2][:key=value,...]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// A cni profile's name with its parameters, e.g. `flannel-vxlan:mtu=1400`.
///
/// Whether the name exists and takes those parameters is for the provider's cni table to say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(with = "String")]
pub struct CniSpec {
    /// The profile's name.
    pub name: String,
    /// True for the second of two that are otherwise the same, so that a cni can be compared with
    /// itself. Written `name#2`; it changes nothing of what is built.
    pub second: bool,
    /// Its parameters, sorted by key.
    pub params: BTreeMap<String, String>,
}

/// What follows the name of the second of two.
const SECOND: &str = "#2";

/// Why a text is not a cni.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    /// The name is empty or has a character other than a-z, 0-9 and `-`.
    #[error(
        "cni {0:?}: a name is lower-case letters, digits and '-' (of the second of two that are the same followed by #2), then optionally \":key=value,...\""
    )]
    Name(String),
    /// A parameter is not `key=value`.
    #[error("cni {spec:?}: parameter {part:?} is not key=value")]
    Param {
        /// The whole text.
        spec: String,
        /// The part that is wrong.
        part: String,
    },
    /// A key stands twice.
    #[error("cni {spec:?}: parameter {key:?} is given twice")]
    Twice {
        /// The whole text.
        spec: String,
        /// The key.
        key: String,
    },
}

impl CniSpec {
    /// The parameter that says in which kernel a cni is measured.
    pub const KERNEL: &str = "kernel";

    /// A profile with no parameters.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), second: false, params: BTreeMap::new() }
    }

    /// The first of two that are the same.
    pub fn first(&self) -> Self {
        Self { second: false, ..self.clone() }
    }

    /// The version of the kernel in which it is measured, where that is part of what is compared.
    pub fn kernel(&self) -> Option<&str> {
        self.params.get(Self::KERNEL).map(String::as_str)
    }

    /// The second of two that are the same.
    pub fn second(&self) -> Self {
        Self { second: true, ..self.clone() }
    }
}

impl FromStr for CniSpec {
    type Err = SpecError;
    fn from_str(s: &str) -> Result<Self, SpecError> {
        let (name, rest) = s.split_once(':').map_or((s, None), |(n, r)| (n, Some(r)));
        let (name, second) = name.strip_suffix(SECOND).map_or((name, false), |n| (n, true));
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || !name.chars().all(legal) {
            return Err(SpecError::Name(s.to_owned()));
        }
        let mut params = BTreeMap::new();
        for part in rest.into_iter().flat_map(|r| r.split(',')) {
            let (key, value) = part
                .split_once('=')
                .filter(|(k, v)| !k.is_empty() && !v.is_empty())
                .ok_or_else(|| SpecError::Param { spec: s.to_owned(), part: part.to_owned() })?;
            if params.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(SpecError::Twice { spec: s.to_owned(), key: key.to_owned() });
            }
        }
        Ok(Self { name: name.to_owned(), second, params })
    }
}

impl fmt::Display for CniSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.second {
            f.write_str(SECOND)?;
        }
        for (i, (key, value)) in self.params.iter().enumerate() {
            write!(f, "{}{key}={value}", if i == 0 { ':' } else { ',' })?;
        }
        Ok(())
    }
}

impl Serialize for CniSpec {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CniSpec {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn says_what_is_wrong() {
        assert!(matches!("".parse::<CniSpec>(), Err(SpecError::Name(_))));
        assert!(matches!("Flannel".parse::<CniSpec>(), Err(SpecError::Name(_))));
        for name in ["#2", "a#3", "a#2#2", "a#"] {
            assert!(matches!(name.parse::<CniSpec>(), Err(SpecError::Name(_))), "{name}");
        }
        assert!(matches!("a:mtu".parse::<CniSpec>(), Err(SpecError::Param { .. })));
        assert!(matches!("a:".parse::<CniSpec>(), Err(SpecError::Param { .. })));
        assert!(matches!("a:b=1,b=2".parse::<CniSpec>(), Err(SpecError::Twice { .. })));
    }

    proptest! {
        #[test]
        fn text_round_trips(name in "[a-z][a-z0-9-]{0,20}", second: bool, params in prop::collection::btree_map("[a-z_]{1,8}", "[a-zA-Z0-9/._=-]{1,12}", 0..4)) {
            let spec = CniSpec { name, second, params };
            prop_assert_ne!(spec.second().to_string(), spec.first().to_string());
            prop_assert!(spec == spec.first() || spec == spec.second());
            prop_assert_eq!(spec.to_string().parse::<CniSpec>().unwrap(), spec);
        }
    }
}

//! A cni as it is written on the command line: `name[:key=value,...]`.

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
    /// Its parameters, sorted by key.
    pub params: BTreeMap<String, String>,
}

/// Why a text is not a cni.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    /// The name is empty or has a character other than a-z, 0-9 and `-`.
    #[error(
        "cni {0:?}: a name is lower-case letters, digits and '-', then optionally \":key=value,...\""
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
    /// A profile with no parameters.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), params: BTreeMap::new() }
    }
}

impl FromStr for CniSpec {
    type Err = SpecError;
    fn from_str(s: &str) -> Result<Self, SpecError> {
        let (name, rest) = s.split_once(':').map_or((s, None), |(n, r)| (n, Some(r)));
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
        Ok(Self { name: name.to_owned(), params })
    }
}

impl fmt::Display for CniSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
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
        assert!(matches!("a:mtu".parse::<CniSpec>(), Err(SpecError::Param { .. })));
        assert!(matches!("a:".parse::<CniSpec>(), Err(SpecError::Param { .. })));
        assert!(matches!("a:b=1,b=2".parse::<CniSpec>(), Err(SpecError::Twice { .. })));
    }

    proptest! {
        #[test]
        fn text_round_trips(name in "[a-z][a-z0-9-]{0,20}", params in prop::collection::btree_map("[a-z_]{1,8}", "[a-zA-Z0-9/._=-]{1,12}", 0..4)) {
            let spec = CniSpec { name, params };
            prop_assert_eq!(spec.to_string().parse::<CniSpec>().unwrap(), spec);
        }
    }
}

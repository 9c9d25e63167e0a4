//! Parameters of a profile: their names, and reading their values with errors that help.

use crate::cluster::{ClusterError, IpFamily, Topology};
use cnibench_model::{CniSpec, nearest::did_you_mean};
use std::{fmt::Display, ops::RangeInclusive, str::FromStr};

/// One parameter of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    /// The key.
    pub name: &'static str,
    /// What it means and its default.
    pub help: &'static str,
}

/// Encryption that is off on purpose, of the profiles that encrypt.
pub const LEAK: Param = Param {
    name: "leak",
    help: "true: pods' packets go around the encryption, to see whether its proof finds that (default false)",
};

impl Param {
    /// Is it this one? A name in capitals behind a dot (`env.NAME`) stands for any.
    fn takes(&self, key: &str) -> bool {
        match self.name.split_once('.') {
            Some((kind, _)) => {
                key.split_once('.').is_some_and(|(k, name)| k == kind && !name.is_empty())
            }
            None => key == self.name,
        }
    }
}

/// Refuses keys that the profile does not know.
///
/// # Errors
/// `Usage` with the nearest name.
pub fn check_names(spec: &CniSpec, known: &[Param]) -> Result<(), ClusterError> {
    let Some(key) = spec.params.keys().find(|k| !known.iter().any(|p| p.takes(k))) else {
        return Ok(());
    };
    if known.is_empty() {
        return Err(ClusterError::Usage(format!("cni {spec}: {} takes no parameters", spec.name)));
    }
    let names: Vec<&str> = known.iter().map(|p| p.name).collect();
    Err(ClusterError::Usage(format!(
        "cni {spec}: {} has no parameter {key:?}{} (it has {})",
        spec.name,
        did_you_mean(key, names.iter().copied()),
        names.join(", ")
    )))
}

/// The smallest MTU that a family allows: 1280 for IPv6 (RFC 8200, section 5), 576 for IPv4, the
/// least that every host must take (RFC 791).
pub fn min_mtu(family: IpFamily) -> u32 {
    if family == IpFamily::V4 { 576 } else { 1280 }
}

/// The parameters of one spec.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a>(&'a CniSpec);

impl<'a> Settings<'a> {
    /// Of a spec whose names were checked.
    pub fn new(spec: &'a CniSpec) -> Self {
        Self(spec)
    }

    /// The spec.
    pub fn spec(&self) -> &'a CniSpec {
        self.0
    }

    /// The text of a parameter, if given.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.0.params.get(key).map(String::as_str)
    }

    /// A number in a range; the default may lie outside.
    ///
    /// # Errors
    /// `Usage`.
    pub fn number<T>(
        &self,
        key: &str,
        default: T,
        range: RangeInclusive<T>,
    ) -> Result<T, ClusterError>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.text(key) else { return Ok(default) };
        text.parse().ok().filter(|v| range.contains(v)).ok_or_else(|| {
            self.wrong(key, format!("a number from {} to {}", range.start(), range.end()))
        })
    }

    /// The MTU of pods in a tunnel: what is asked for, else all that the tunnel leaves of the
    /// underlay's.
    ///
    /// # Errors
    /// `Usage`: it is out of range, or the tunnel leaves less than the family needs.
    pub fn tunnel_mtu(&self, topology: &Topology, overhead: u32) -> Result<u32, ClusterError> {
        let least = min_mtu(topology.family);
        let most = topology.underlay_mtu.checked_sub(overhead).filter(|most| *most >= least);
        let most = most.ok_or_else(|| {
            ClusterError::Usage(format!(
                "cni {}: an underlay MTU of {} leaves less than {least} bytes in the tunnel: use at least {}",
                self.0,
                topology.underlay_mtu,
                least + overhead
            ))
        })?;
        self.number("mtu", most, least..=most)
    }

    /// The MTU of pods in a tunnel that takes `usual` bytes by the CNI's count, while packets of `most`
    /// bytes do fit: what is asked for, else by that count.
    ///
    /// # Errors
    /// As [`tunnel_mtu`](Self::tunnel_mtu).
    pub fn mtu_within(
        &self,
        topology: &Topology,
        usual: u32,
        most: u32,
    ) -> Result<u32, ClusterError> {
        match self.text("mtu") {
            None => self.tunnel_mtu(topology, usual),
            Some(_) => self.number("mtu", most, min_mtu(topology.family)..=most),
        }
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// `Usage`.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, ClusterError> {
        let Some(text) = self.text(key) else { return Ok(default) };
        text.parse().map_err(|_| self.wrong(key, "true or false"))
    }

    /// The error for a value that is not what it must be.
    pub fn wrong(&self, key: &str, expected: impl Display) -> ClusterError {
        let value = self.text(key).unwrap_or_default();
        ClusterError::Usage(format!("cni {}: {key}={value:?} is not {expected}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_held_to_their_range() {
        let spec: CniSpec = "x:mtu=90,on=yes".parse().unwrap();
        let settings = Settings::new(&spec);
        assert_eq!(settings.number("vni", 1u32, 1..=9).unwrap(), 1);
        let e = settings.number("mtu", 1450u32, 576..=1450).unwrap_err().to_string();
        assert_eq!(e, "cni x:mtu=90,on=yes: mtu=\"90\" is not a number from 576 to 1450");
        assert!(settings.flag("on", false).is_err());
        assert!(settings.flag("off", true).unwrap());
    }

    #[test]
    fn unknown_names_offer_the_nearest() {
        let spec: CniSpec = "x:mtuu=90".parse().unwrap();
        let known = [Param { name: "mtu", help: "" }, Param { name: "vni", help: "" }];
        let e = check_names(&spec, &known).unwrap_err().to_string();
        assert!(
            e.contains("has no parameter \"mtuu\"; did you mean \"mtu\"? (it has mtu, vni)"),
            "{e}"
        );
    }
}

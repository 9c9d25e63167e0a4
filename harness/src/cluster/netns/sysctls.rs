//! Sysctls that an arm of a comparison sets: the parameters `sysctl.KEY=VALUE`, which every cni takes.
//!
//! Owns which keys belong to a network namespace, and writing them in those of a cluster. A key of the
//! whole machine is refused before anything is made: the host is never written to. Called by the provider.

use crate::{
    cluster::ClusterError,
    netlink::{Netns, namespace, sysctl},
};
use anyhow::{Context as _, anyhow, ensure};
use cnibench_model::CniSpec;
use rustix::{
    fs::{Mode, OFlags, Stat, fstat, open},
    io::Errno,
};
use std::{fs, os::fd::OwnedFd};

/// What begins the name of such a parameter.
const PREFIX: &str = "sysctl.";
/// What stands for it in lists of parameters.
pub const NAME: &str = "sysctl.KEY";
/// The same in a sentence.
pub const HELP: &str = "a sysctl of the nodes' and pods' namespaces, e.g. sysctl.net.ipv4.tcp_sack=0; with slashes where a device's name has a dot";

/// One sysctl to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Below /proc/sys/net, e.g. `ipv4/tcp_sack`.
    key: String,
    /// Its value as it is written.
    value: String,
}

/// When a sysctl is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Before there are devices: those that are made take defaults from it.
    Early,
    /// When the cluster is whole: what the cni set itself gives way, and each must be in some namespace.
    Final,
}

/// The spec without its sysctls, which is what the cni itself is asked.
pub fn without(spec: &CniSpec) -> CniSpec {
    let own = spec.params.iter().filter(|(key, _)| !key.starts_with(PREFIX));
    CniSpec { params: own.map(|(k, v)| (k.clone(), v.clone())).collect(), ..spec.clone() }
}

/// The sysctls of a spec.
///
/// # Errors
/// `Usage`: a key that is no path below `net`.
pub fn of(spec: &CniSpec) -> Result<Vec<Sysctl>, ClusterError> {
    let named = spec.params.iter().filter_map(|(k, v)| Some((k.strip_prefix(PREFIX)?, v)));
    named
        .map(|(key, value)| {
            let key = parse(key).map_err(|e| ClusterError::Usage(format!("cni {spec}: {e}")))?;
            Ok(Sysctl { key, value: value.clone() })
        })
        .collect()
}

/// As sysctl(8) reads names: whichever of '.' and '/' comes first separates, the other is a letter.
fn parse(name: &str) -> Result<String, String> {
    let slashes = match (name.find('/'), name.find('.')) {
        (Some(slash), Some(dot)) => slash < dot,
        (slash, _) => slash.is_some(),
    };
    let parts: Vec<String> = match slashes {
        true => name.split('/').map(str::to_owned).collect(),
        false => name.split('.').map(|part| part.replace('/', ".")).collect(),
    };
    if parts.len() < 2 || parts.iter().any(|p| p.is_empty() || p == "." || p == "..") {
        return Err(format!(
            "sysctl {name:?} is no key: write for example sysctl.net.ipv4.tcp_sack=0"
        ));
    }
    if parts[0] != "net" {
        return Err(format!(
            "sysctl {name}: only keys below net belong to a network namespace, this one is the whole machine's and is not touched"
        ));
    }
    Ok(parts[1..].join("/"))
}

impl Sysctl {
    /// Can it be set in a namespace, to this value? Tried in a scratch namespace. Blocks.
    ///
    /// # Errors
    /// A sentence with the reason.
    pub fn check(&self) -> Result<(), String> {
        let key = self.tried();
        // Held open, or the kernel might give its number to another file meanwhile.
        let host = open_path(&key);
        let name = format!("sysctl net.{}", self.key.replace('/', "."));
        let tried = namespace::scratch(|| {
            let (own, stat) = match open_path(&key) {
                Ok(found) => found,
                Err(_) if host.is_ok() => {
                    return Ok(Err(format!(
                        "{name} is the whole machine's, not a network namespace's: it is not touched"
                    )));
                }
                Err(_) => return Ok(Err(format!("{name}: this kernel has no such key"))),
            };
            // A key that namespaces share is one file, one of each namespace another (proc_sys_compare).
            let shared = host
                .as_ref()
                .is_ok_and(|(_, there)| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino));
            // What is the machine's can be read only (ensure_safe_net_sysctl).
            let sealed = stat.st_mode & 0o222 == 0;
            drop(own);
            if shared || sealed {
                return Ok(Err(format!(
                    "{name} can be set for the whole machine only: it is not touched"
                )));
            }
            Ok(fs::write(sysctl::path(&key), &self.value)
                .map_err(|e| format!("{name}={}: the kernel does not take it: {e}", self.value)))
        });
        tried.map_err(|e| format!("{name}: {e:#}"))?
    }

    /// The key that a namespace without the cluster's devices has in its place.
    fn tried(&self) -> String {
        let parts: Vec<&str> = self.key.split('/').collect();
        match parts[..] {
            [family, kind @ ("conf" | "neigh"), device, key] if device != "all" => {
                format!("{family}/{kind}/default/{key}")
            }
            _ => self.key.clone(),
        }
    }
}

fn open_path(key: &str) -> Result<(OwnedFd, Stat), Errno> {
    let fd = open(sysctl::path(key), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let stat = fstat(&fd)?;
    Ok((fd, stat))
}

/// Sets all of them in every namespace that has them; says what was set where, one line each.
///
/// # Errors
/// A value that was refused; in the final pass a key that no namespace has.
pub async fn set(list: &[Sysctl], spaces: &[Netns], pass: Pass) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for Sysctl { key, value } in list {
        let mut count = 0;
        for space in spaces {
            let (k, v) = (key.clone(), value.clone());
            let there = space.run(move || sysctl::write_if_present(&k, &v)).await;
            count += usize::from(there.with_context(|| space.name().to_owned())?);
        }
        let name = key.replace('/', ".");
        ensure!(
            pass == Pass::Early || count > 0,
            anyhow!("sysctl net.{name}: no node or pod of this cluster has it")
        );
        lines.push(format!("sysctl net.{name} = {value} in {count} namespaces (nodes and pods)"));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_sysctl_reads_them() {
        for (name, key) in [
            ("net.ipv4.tcp_sack", "ipv4/tcp_sack"),
            ("net/ipv4/tcp_sack", "ipv4/tcp_sack"),
            ("net/ipv4/conf/flannel.1/forwarding", "ipv4/conf/flannel.1/forwarding"),
            ("net.ipv4.conf.eth0/5.forwarding", "ipv4/conf/eth0.5/forwarding"),
        ] {
            assert_eq!(parse(name).as_deref(), Ok(key), "{name}");
        }
        for name in ["", "net", "net.", "net..x", "net/../kernel/hostname", "net/./x", "tcp_sack"] {
            assert!(parse(name).unwrap_err().contains("is no key"), "{name}");
        }
        for name in ["kernel.hostname", "vm/swappiness"] {
            assert!(parse(name).unwrap_err().contains("the whole machine's"), "{name}");
        }
    }

    #[test]
    fn a_spec_is_parted_from_its_sysctls() {
        let spec: CniSpec = "x:mtu=9,sysctl.net.ipv4.tcp_rmem=4096 8192 16384".parse().unwrap();
        assert_eq!(without(&spec).to_string(), "x:mtu=9");
        let list = of(&spec).unwrap();
        assert_eq!(list.len(), 1);
        assert_eq!((&*list[0].key, &*list[0].value), ("ipv4/tcp_rmem", "4096 8192 16384"));
        let wrong: CniSpec = "x:sysctl.vm.swappiness=1".parse().unwrap();
        assert!(matches!(of(&wrong), Err(ClusterError::Usage(_))));
    }

    #[test]
    fn a_device_of_the_cluster_is_tried_as_any_other() {
        let tried = |key: &str| Sysctl { key: key.to_owned(), value: String::new() }.tried();
        assert_eq!(tried("ipv4/conf/flannel.1/forwarding"), "ipv4/conf/default/forwarding");
        assert_eq!(tried("ipv4/conf/all/forwarding"), "ipv4/conf/all/forwarding");
        assert_eq!(tried("ipv4/tcp_sack"), "ipv4/tcp_sack");
    }
}

//! The namespaces of one cluster: made side by side, removed last in first out, also on a panic.

use super::clean::end_processes;
use crate::{
    cluster::IpFamily,
    netlink::{Batch, Netns, Rtnl, namespace, sysctl},
};
use anyhow::{Context as _, anyhow};
use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// What a namespace stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The wire between the nodes.
    Underlay,
    /// A node.
    Node,
    /// A pod.
    Pod,
}

/// Every namespace of a cluster, in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Spaces(Mutex<Vec<Netns>>);

impl Spaces {
    /// Makes namespaces side by side; returns them in the order asked for.
    pub(super) async fn make(
        self: &Arc<Self>,
        wanted: Vec<(String, Role)>,
        family: IpFamily,
    ) -> anyhow::Result<Vec<Netns>> {
        // Making one is CPU work in the kernel (setup_net): as many at a time as there are CPUs.
        let lanes = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        let share = wanted.len().div_ceil(lanes).max(1);
        let tasks: Vec<_> = wanted
            .chunks(share)
            .map(|chunk| {
                let (all, chunk) = (self.clone(), chunk.to_vec());
                tokio::task::spawn_blocking(move || {
                    let one = |(name, role): &(String, Role)| all.make_one(name, *role, family);
                    chunk.iter().map(one).collect::<anyhow::Result<Vec<_>>>()
                })
            })
            .collect();
        let mut made = Vec::with_capacity(wanted.len());
        let mut failed = None;
        // Every task is waited for, also after a failure: none may go on making namespaces.
        for task in tasks {
            match task.await.context("making namespaces panicked").flatten() {
                Ok(some) => made.extend(some),
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        failed.map_or(Ok(made), Err)
    }

    fn make_one(&self, name: &str, role: Role, family: IpFamily) -> anyhow::Result<Netns> {
        let made = Netns::create(name, || first_settings(role, family))?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(made.clone());
        Ok(made)
    }

    /// Removes all of them, last in first out, ends processes that still stand in them, and looks
    /// whether anything is left. Idempotent. Blocks.
    pub(super) fn remove_all(&self) -> Vec<anyhow::Error> {
        let spaces = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let inodes = spaces.iter().filter_map(|s| namespace::inode(s.path())).collect();
        let mut errors = Vec::new();
        match end_processes(&inodes) {
            Ok(ended) if !ended.is_empty() => {
                tracing::warn!(
                    "killed processes that still stood in a cluster's namespaces: {ended:?}"
                );
            }
            Ok(_) => {}
            Err(e) => errors.push(e),
        }
        errors.extend(spaces.iter().rev().filter_map(|s| s.remove().err()));
        let paths: Vec<PathBuf> = spaces.iter().map(|s| s.path().to_owned()).collect();
        errors.extend(remains(&paths));
        errors
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        for e in self.remove_all() {
            tracing::error!("{e:#}");
        }
    }
}

/// What of these paths is still a file or a mount.
fn remains(paths: &[PathBuf]) -> Vec<anyhow::Error> {
    if paths.is_empty() {
        return Vec::new();
    }
    // Fields of a line: id, parent, device, root, mount point (proc_pid_mountinfo(5)).
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounted: Vec<&str> = mounts.lines().filter_map(|l| l.split(' ').nth(4)).collect();
    let left = paths.iter().filter(|p| p.exists() || mounted.iter().any(|m| p.as_os_str() == *m));
    left.map(|p| anyhow!("{} is still there", p.display())).collect()
}

/// What every namespace begins with: no waiting for addresses, no surprises from routers, `lo` up.
fn first_settings(role: Role, family: IpFamily) -> anyhow::Result<()> {
    let mut settings = vec![("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/default/rp_filter", "0")];
    let nf = if role == Role::Node { "1" } else { "0" };
    match role {
        // A wire has no addresses and no firewall.
        Role::Underlay => settings.push(("bridge/bridge-nf-call-arptables", nf)),
        Role::Node | Role::Pod => {}
    }
    // 1 on nodes, since kube-proxy and Flannel ask for it (br_netfilter).
    settings.push(("bridge/bridge-nf-call-iptables", nf));
    settings.push(("bridge/bridge-nf-call-ip6tables", nf));
    if family == IpFamily::V4 || role == Role::Underlay {
        settings.push(("ipv6/conf/all/disable_ipv6", "1"));
        settings.push(("ipv6/conf/default/disable_ipv6", "1"));
    } else {
        for key in ["ipv6/conf/all/accept_dad", "ipv6/conf/default/accept_dad"] {
            settings.push((key, "0"));
        }
        for key in ["ipv6/conf/all/accept_ra", "ipv6/conf/default/accept_ra"] {
            settings.push((key, "0"));
        }
    }
    for (key, value) in settings {
        sysctl::write_if_present(key, value)?;
    }
    let mut rtnl = Rtnl::open()?;
    let lo = rtnl.link("lo")?.index;
    let mut batch = Batch::new();
    batch.up(lo);
    rtnl.apply(&batch)
}

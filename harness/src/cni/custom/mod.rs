//! `custom`: a CNI with an agent of its own, as commands for each node in a TOML file and a conflist.
//!
//! Owns what the file means: `file` reads it, `agent` runs it on a node, `daemon` looks after a process,
//! `node` is what commands are told, `needs` what they use of a machine. Pods are attached by the runtime of `conflist`. On Kubernetes the
//! same name is another file (`cni/kubernetes`).

mod agent;
mod daemon;
mod file;
mod needs;
mod node;

use super::{
    Claim, Cni, Entry, Needs, NodeAgent, NodeCtx, Param, Profile, Settings, Wrapping,
    conflist::profile::Conflist,
};
use crate::cluster::{ClusterError, Topology};
use async_trait::async_trait;
use cnibench_model::{CniSpec, Placement};
use file::File;
use std::{net::IpAddr, path::Path, sync::Arc};

/// The profile.
pub const PROFILE: Profile = Profile {
    name: "custom",
    family: "custom",
    description: "a CNI with an agent: commands for each node and a conflist, from a TOML file",
    params: &[
        Param {
            name: "path",
            help: "the profile, a TOML file (see scenarios/custom/README.md; required)",
        },
        Param {
            name: "mtu",
            help: "MTU of the pods in bytes (default: the file's, or the underlay's)",
        },
        Param {
            name: "bin",
            help: "directories of the plugins, separated by ':' (default: the file's)",
        },
        Param { name: "env.NAME", help: "a variable for the file's commands, before its own" },
    ],
    encrypted: false,
    modules: &["nft_ct", "nft_masq", "nft_nat", "nft_chain_nat"],
    automatic: false,
    check,
    build: |settings, topology| Ok(Arc::new(Custom::new(settings, topology)?)),
};

/// A file that was read, for one cluster.
#[derive(Debug, Clone)]
struct Custom {
    /// As it was named.
    path: String,
    file: File,
    conflist: Conflist,
}

/// Are the plugins there? Parameters that are wrong are for `build` to say.
fn check(spec: &CniSpec) -> Result<(), String> {
    match Custom::new(&Settings::new(spec), &Topology::default()) {
        Ok(custom) => custom.conflist.findable(),
        Err(_) if spec.params.contains_key("path") => Ok(()),
        Err(_) => Err("needs a profile: custom:path=FILE.toml".to_owned()),
    }
}

impl Custom {
    fn new(settings: &Settings<'_>, topology: &Topology) -> Result<Self, ClusterError> {
        let usage = |text: String| ClusterError::Usage(format!("cni {}: {text}", settings.spec()));
        let Some(path) = settings.text("path") else {
            return Err(usage("path is missing: say custom:path=FILE.toml".to_owned()));
        };
        let text = std::fs::read_to_string(path)
            .map_err(|e| usage(format!("{path} cannot be read: {e}")))?;
        let mut file = file::parse(Path::new(path), &text, topology.underlay_mtu)
            .map_err(|e| usage(e.to_string()))?;
        file.chain.mtu = settings.number("mtu", file.chain.mtu, 576..=65535)?;
        if let Some(list) = settings.text("bin") {
            let dirs = list.split(':').filter(|dir| !dir.is_empty());
            file.chain.dirs =
                dirs.map(|dir| std::path::absolute(dir).unwrap_or_else(|_| dir.into())).collect();
        }
        for (key, value) in &settings.spec().params {
            let Some(name) = key.strip_prefix("env.") else { continue };
            file::check_variable(name).map_err(usage)?;
            file.env.insert(name.to_owned(), value.clone());
        }
        let conflist = Conflist::open(file.chain.clone()).map_err(usage)?;
        Ok(Self { path: path.to_owned(), file, conflist })
    }
}

#[async_trait]
impl Cni for Custom {
    fn pod_mtu(&self) -> u32 {
        self.file.chain.mtu
    }

    fn refuses(&self, placement: Placement) -> Option<String> {
        let refused = self.file.refuse.contains(&placement);
        refused.then(|| format!("{} says that it has no {placement}", self.path))
    }

    fn path(&self, placement: Placement, _to: IpAddr) -> Vec<Claim> {
        let mut claims = match placement {
            Placement::SameNode => return Claim::silent("eth0").into(),
            _ => Claim::carried_by("eth0").to_vec(),
        };
        if matches!(placement, Placement::CrossNode | Placement::PodService) {
            claims.extend(self.file.carries.iter().flat_map(|device| Claim::carried_by(device)));
            claims.extend(self.file.silent.iter().flat_map(|device| Claim::silent(device)));
        }
        claims
    }

    fn names_whole_path(&self) -> bool {
        // What else its commands make is its own.
        false
    }

    fn entry(&self) -> Entry {
        Entry::Either
    }

    fn wrapping(&self) -> Option<Wrapping> {
        self.file.wrapping.clone()
    }

    fn needs(&self) -> Result<Needs, String> {
        let mut needs = needs::of(Path::new(&self.path), &self.file)?;
        needs.add(self.conflist.needs()?);
        Ok(needs)
    }

    fn details(&self) -> Vec<String> {
        let mut lines = vec![format!("{}: {}", self.path, self.file.description)];
        if let Some(daemon) = &self.file.daemon {
            lines.push(format!("a daemon on every node: {}", daemon.command.join(" ")));
        }
        lines.extend(self.file.env.iter().map(|(name, value)| format!("{name}={value}")));
        lines.extend(self.conflist.details());
        lines
    }

    async fn start(&self, node: Arc<NodeCtx>) -> anyhow::Result<Box<dyn NodeAgent>> {
        Ok(Box::new(agent::Agent::start(self.clone(), node).await?))
    }
}

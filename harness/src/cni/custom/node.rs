//! What a node's commands are told (variables and files), and running them one after the other.

use super::file::{Steps, Words};
use crate::cni::{
    Facts, NodeCtx, Peer,
    conflist::{
        error::Fault,
        interrupt::Token,
        node::STATE,
        process::{Limits, Output, run_command},
    },
};
use anyhow::{Context as _, anyhow, bail};
use ipnet::IpNet;
use serde_json::json;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// Where a node's commands find what they are told, and may keep what is theirs.
pub fn state() -> PathBuf {
    Path::new(STATE).join("cnibench")
}

/// How commands run on a node: their folder and their variables.
#[derive(Debug, Clone)]
pub struct Place {
    folder: PathBuf,
    env: BTreeMap<String, String>,
}

impl Place {
    /// Of a node; `more` are the file's own variables.
    pub fn new(folder: &Path, node: &NodeCtx, mtu: u32, more: &BTreeMap<String, String>) -> Self {
        let mut env = more.clone();
        let mut set = |key: &str, value: String| env.insert(format!("CNIBENCH_{key}"), value);
        set("NODE_INDEX", node.index.to_string());
        set("NODE_NAME", node.name.clone());
        set("NODE_DEVICE", node.device.clone());
        set("UNDERLAY_MTU", node.underlay_mtu.to_string());
        set("MTU", mtu.to_string());
        set("PROFILE_DIR", folder.display().to_string());
        set("STATE_DIR", state().display().to_string());
        set("NODES", state().join("nodes.json").display().to_string());
        set("PEERS", state().join("peers").display().to_string());
        for (v4, v6, nets) in [
            ("POD_CIDR", "POD_CIDR6", &node.pod_cidrs),
            ("CLUSTER_CIDR", "CLUSTER_CIDR6", &node.cluster_cidrs),
        ] {
            for net in nets {
                set(if net.addr().is_ipv4() { v4 } else { v6 }, net.to_string());
            }
        }
        for addr in node.addrs.iter().map(IpNet::addr) {
            set(if addr.is_ipv4() { "NODE_IP" } else { "NODE_IP6" }, addr.to_string());
        }
        Self { folder: folder.to_owned(), env }
    }

    /// A command of this place.
    pub fn command(&self, words: &Words) -> Command {
        // Never empty: see `file`.
        let (program, args) = words.split_first().map_or(("", &words[..]), |(p, a)| (p, a));
        let mut command = Command::new(program);
        command.args(args).current_dir(&self.folder).envs(&self.env);
        command
    }

    /// Runs one command to its end. Blocks.
    ///
    /// # Errors
    /// That it failed, and what it said.
    pub fn run(&self, words: &Words, timeout: Duration, token: &Token) -> anyhow::Result<Output> {
        let limits = Limits { deadline: timeout, token: token.clone(), grace: Duration::ZERO };
        let name = words.join(" ");
        match run_command(&mut self.command(words), b"", &limits) {
            Ok(output) if output.status.success() => Ok(output),
            Ok(output) => bail!("`{name}`: {}{}", output.status_text(), said(&output.stderr)),
            Err((fault, stderr)) => {
                let what = match fault {
                    Fault::Deadline(limit) => {
                        format!("did not end within {} s and was killed", limit.as_secs_f64())
                    }
                    Fault::Interrupted => "was given up before it was done, and killed".to_owned(),
                    Fault::TooMuch(limit) => {
                        format!("printed more than {limit} bytes and was killed")
                    }
                    Fault::Start { cause, .. } => format!("could not be started: {cause}"),
                    other => format!("{other:?}"),
                };
                bail!("`{name}` {what}{}", said(&stderr))
            }
        }
    }

    /// Runs commands until one fails or their time is over. Blocks.
    ///
    /// # Errors
    /// The first that failed.
    pub fn run_all(&self, steps: &Steps, token: &Token) -> anyhow::Result<String> {
        let until = Instant::now() + steps.timeout;
        let mut printed = String::new();
        for words in &steps.commands {
            let left = until.saturating_duration_since(Instant::now());
            let output = self.run(words, left, token)?;
            printed.push_str(&String::from_utf8_lossy(&output.stdout));
        }
        Ok(printed)
    }
}

fn said(stderr: &str) -> String {
    match stderr.trim() {
        "" => String::new(),
        text => format!("; standard error:\n{text}"),
    }
}

/// The nodes of a cluster as files: `nodes.json` with all of them, `peers` with the others as lines of
/// number, address and pod range, one for each family.
pub fn write_nodes(node: &NodeCtx, facts: &Facts, peers: &[Peer]) -> anyhow::Result<()> {
    let own = Peer {
        index: node.index,
        addrs: node.addrs.iter().map(IpNet::addr).collect(),
        pod_cidrs: node.pod_cidrs.clone(),
        facts: facts.clone(),
    };
    let mut all: Vec<&Peer> = peers.iter().chain([&own]).collect();
    all.sort_by_key(|peer| peer.index);
    let all: Vec<_> = all
        .iter()
        .map(|p| json!({"index": p.index, "addresses": p.addrs, "pod_cidrs": p.pod_cidrs, "facts": p.facts}))
        .collect();
    let mut lines = String::new();
    for peer in peers {
        for range in &peer.pod_cidrs {
            let via = peer.addr_like(range.addr());
            let via = via.with_context(|| format!("node {} has no address", peer.index))?;
            writeln!(lines, "{} {via} {range}", peer.index)?;
        }
    }
    let write = |name: &str, text: String| {
        let path = state().join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())
    };
    write("nodes.json", serde_json::to_string_pretty(&all)?)?;
    write("peers", lines)
}

/// `KEY=VALUE` lines.
///
/// # Errors
/// The line that is none.
pub fn read_facts(text: &str) -> anyhow::Result<Facts> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let pair = line.split_once('=').filter(|(key, _)| !key.is_empty());
            let (key, value) = pair.ok_or_else(|| anyhow!("{line:?} is not KEY=VALUE"))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_lines() {
        let facts = read_facts("key=a=b\n\n name=x \n").unwrap();
        assert_eq!((facts["key"].as_str(), facts["name"].as_str()), ("a=b", "x"));
        assert!(read_facts("nothing").unwrap_err().to_string().contains("\"nothing\" is not"));
    }

    #[test]
    fn a_command_that_fails_is_told_with_its_words() {
        let place = Place { folder: "/".into(), env: BTreeMap::from([("A".into(), "b".into())]) };
        let words = |text: &str| ["sh", "-c", text].map(str::to_owned).to_vec();
        let long = Duration::from_secs(60);
        let run = |text: &str, t| place.run(&words(text), t, &Token::default());
        assert_eq!(run("printf $A$PWD", long).unwrap().stdout, b"b/");
        let error = run("echo why >&2; exit 7", long).unwrap_err().to_string();
        assert!(error.ends_with("exit status 7; standard error:\nwhy"), "{error}");
        let error = run("sleep 600", Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("did not end within 0.05 s and was killed"), "{error}");
        let none = place.run(&vec!["no-such-program".into()], long, &Token::default());
        assert!(none.unwrap_err().to_string().contains("could not be started: "));
        let steps = Steps { commands: vec![words("echo 1"), words("exit 1")], timeout: long };
        assert!(place.run_all(&steps, &Token::default()).is_err());
    }
}

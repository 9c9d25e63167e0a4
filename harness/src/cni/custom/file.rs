//! The file of a `custom` profile: reading and checking it, with the line of what is wrong. Runs nothing.

use crate::cni::{
    Wrapping,
    conflist::chain::{Chain, Routes},
};
use cnibench_model::Placement;
use cnibench_scenarios::{SuiteError, quantity};
use serde::Deserialize;
use serde_spanned::Spanned;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// What stopping the daemon and tear-down may take together: no step of taking a cluster down is waited
/// for longer, and the namespaces go in any case.
const MOST_TEARDOWN: Duration = Duration::from_secs(9);
/// Folders below which a node can have directories of its own.
const PRIVATE_ROOTS: [&str; 2] = ["/run", "/var"];

/// A program with its arguments, never empty.
pub type Words = Vec<String>;

/// What a file says.
#[derive(Debug, Clone)]
pub struct File {
    /// One line.
    pub description: String,
    /// The folder that the file is in, where commands run.
    pub folder: PathBuf,
    /// Plugins that attach pods.
    pub chain: Chain,
    /// Directories that are each node's own.
    pub private: Vec<PathBuf>,
    /// Further variables for commands.
    pub env: BTreeMap<String, String>,
    /// Prints what peers must know of a node.
    pub facts: Option<Steps>,
    /// Before the daemon.
    pub setup: Option<Steps>,
    /// What runs as long as the cluster is there.
    pub daemon: Option<DaemonSpec>,
    /// After the daemon.
    pub teardown: Option<Steps>,
    /// Devices that carry packets between nodes.
    pub carries: Vec<String>,
    /// Devices that carry none.
    pub silent: Vec<String>,
    /// Placements that it has not.
    pub refuse: Vec<Placement>,
    /// What packets between nodes are wrapped in, where it encrypts.
    pub wrapping: Option<Wrapping>,
    /// What a place needs that has none of it.
    pub guest: Guest,
}

/// What the commands use beyond themselves, as it is written: variables of `env` are not filled in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guest {
    /// Programs that commands start: names on PATH, or paths.
    pub programs: Vec<String>,
    /// Files that they read, and folders.
    pub files: Vec<String>,
    /// Kernel modules.
    pub modules: Vec<String>,
}

/// Commands, one after the other.
#[derive(Debug, Clone)]
pub struct Steps {
    /// The commands.
    pub commands: Vec<Words>,
    /// What all of them may take together.
    pub timeout: Duration,
}

/// A daemon of every node.
#[derive(Debug, Clone)]
pub struct DaemonSpec {
    /// What is started.
    pub command: Words,
    /// Ends with status 0 once the daemon is ready; asked again and again.
    pub ready: Words,
    /// Until then.
    pub timeout: Duration,
    /// From SIGTERM to SIGKILL.
    pub stop: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    description: String,
    #[serde(default)]
    encrypted: bool,
    conflist: Spanned<String>,
    #[serde(default)]
    bin: Vec<String>,
    mtu: Option<u32>,
    #[serde(default = "none")]
    routes: Routes,
    #[serde(default = "yes")]
    check: bool,
    #[serde(default)]
    private: Vec<Spanned<String>>,
    #[serde(default)]
    env: BTreeMap<Spanned<String>, String>,
    #[serde(default)]
    refuse: Vec<Placement>,
    facts: Option<RawFacts>,
    setup: Option<RawSteps>,
    daemon: Option<RawDaemon>,
    teardown: Option<Spanned<RawSteps>>,
    #[serde(default)]
    path: RawPath,
    encryption: Option<Spanned<RawEncryption>>,
    #[serde(default)]
    guest: Guest,
}

fn none() -> Routes {
    Routes::None
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFacts {
    command: Spanned<Words>,
    timeout: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSteps {
    commands: Vec<Spanned<Words>>,
    timeout: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDaemon {
    command: Spanned<Words>,
    ready: Spanned<Words>,
    timeout: Option<Spanned<String>>,
    stop: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawPath {
    carries: Vec<String>,
    silent: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEncryption {
    wrapping: Spanned<String>,
}

/// The text with its name, for errors that say where.
struct Source<'a> {
    file: &'a str,
    text: &'a str,
    folder: &'a Path,
}

impl Source<'_> {
    fn error<T>(&self, at: &Spanned<T>, message: impl Into<String>) -> SuiteError {
        SuiteError::at(self.file, self.text, at.span(), message)
    }

    /// Checked; a program that is named by a path is one beside the file.
    fn words(&self, words: &Spanned<Words>) -> Result<Words, SuiteError> {
        let mut words_ = words.get_ref().clone();
        let Some(program) = words_.first_mut().filter(|p| !p.is_empty()) else {
            return Err(self.error(words, "a command has at least the program's name"));
        };
        if program.contains('/') {
            let path = self.folder.join(&*program);
            if !path.is_file() {
                return Err(self.error(words, format!("{} is no file", path.display())));
            }
            *program = path.display().to_string();
        }
        Ok(words_)
    }

    fn time(&self, text: Option<&Spanned<String>>, default: u64) -> Result<Duration, SuiteError> {
        let Some(text) = text else { return Ok(Duration::from_secs(default)) };
        match quantity::seconds(text.get_ref()) {
            Ok(s) if (0.01..=3600.0).contains(&s) => Ok(Duration::from_secs_f64(s)),
            Ok(_) => Err(self.error(text, "a time from 10ms to 1h")),
            Err(e) => Err(self.error(text, e)),
        }
    }

    fn steps(&self, raw: &RawSteps, default: u64) -> Result<Steps, SuiteError> {
        let commands = raw.commands.iter().map(|c| self.words(c)).collect::<Result<_, _>>()?;
        Ok(Steps { commands, timeout: self.time(raw.timeout.as_ref(), default)? })
    }
}

/// Reads and checks a file. `underlay` is what pods' MTU is where nothing is said, in bytes.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub fn parse(file: &Path, text: &str, underlay: u32) -> Result<File, SuiteError> {
    let name = file.display().to_string();
    let raw: Raw = toml::from_str(text).map_err(|e| SuiteError::from_toml(&name, text, &e))?;
    let folder = std::path::absolute(file.parent().unwrap_or(Path::new("."))).unwrap_or_default();
    let source = Source { file: &name, text, folder: &folder };
    for key in raw.env.keys() {
        check_variable(key.get_ref()).map_err(|e| source.error(key, e))?;
    }
    let private = raw.private.iter().map(|d| private(&source, d)).collect::<Result<_, _>>()?;
    let daemon = raw.daemon.as_ref().map(|d| daemon(&source, d)).transpose()?;
    let teardown = raw.teardown.as_ref().map(|t| source.steps(t.get_ref(), 5)).transpose()?;
    let stop = daemon.as_ref().map_or(Duration::ZERO, |d| d.stop);
    if let (Some(at), Some(steps)) = (&raw.teardown, &teardown)
        && stop + steps.timeout > MOST_TEARDOWN
    {
        let most = MOST_TEARDOWN.as_secs();
        let says = format!("tear-down and the daemon's stop may take {most} s together");
        return Err(source.error(at, says));
    }
    let wrapping = match &raw.encryption {
        Some(at) if !raw.encrypted => {
            return Err(source.error(at, "what has an [encryption] says encrypted = true"));
        }
        Some(e) => Some(wrapping(&source, e.get_ref())?),
        None if raw.encrypted => {
            let says = "what encrypts has an [encryption] with its wrapping";
            return Err(SuiteError::at(&name, text, 0..0, says));
        }
        None => None,
    };
    let dirs = match raw.bin.is_empty() {
        true => crate::cni::conflist::process::DEFAULT_DIRS.iter().map(PathBuf::from).collect(),
        false => raw.bin.iter().map(|dir| folder.join(dir)).collect(),
    };
    let path = folder.join(raw.conflist.get_ref());
    if !path.is_file() {
        return Err(source.error(&raw.conflist, format!("{} is no file", path.display())));
    }
    Ok(File {
        description: raw.description,
        chain: Chain {
            path,
            dirs,
            ifname: "eth0".to_owned(),
            mtu: raw.mtu.unwrap_or(underlay),
            routes: raw.routes,
            check: raw.check,
            deadline: Duration::from_secs(30),
        },
        private,
        env: raw.env.into_iter().map(|(k, v)| (k.into_inner(), v)).collect(),
        facts: raw.facts.as_ref().map(|f| facts(&source, f)).transpose()?,
        setup: raw.setup.as_ref().map(|s| source.steps(s, 30)).transpose()?,
        daemon,
        teardown,
        carries: raw.path.carries,
        silent: raw.path.silent,
        refuse: raw.refuse,
        wrapping,
        guest: raw.guest,
        folder: folder.clone(),
    })
}

/// May a variable have this name?
///
/// # Errors
/// A sentence.
pub fn check_variable(name: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(legal) || name.starts_with(|c: char| c.is_ascii_digit())
    {
        return Err(format!("{name:?} is no name of a variable"));
    }
    if name.starts_with("CNIBENCH_") || name.starts_with("CNI_") {
        return Err(format!("{name}: variables that begin with CNIBENCH_ or CNI_ are set here"));
    }
    Ok(())
}

fn private(source: &Source<'_>, dir: &Spanned<String>) -> Result<PathBuf, SuiteError> {
    let path = PathBuf::from(dir.get_ref());
    let plain = path.components().all(|c| !matches!(c, std::path::Component::ParentDir));
    let below = PRIVATE_ROOTS.iter().any(|r| path.starts_with(r) && path != Path::new(r));
    match plain && below && !path.starts_with("/run/netns") {
        true => Ok(path),
        false => Err(source.error(dir, "a private directory is one below /run or /var")),
    }
}

fn facts(source: &Source<'_>, raw: &RawFacts) -> Result<Steps, SuiteError> {
    let commands = vec![source.words(&raw.command)?];
    Ok(Steps { commands, timeout: source.time(raw.timeout.as_ref(), 30)? })
}

fn daemon(source: &Source<'_>, raw: &RawDaemon) -> Result<DaemonSpec, SuiteError> {
    let stop = source.time(raw.stop.as_ref(), 3)?;
    if let Some(at) = raw.stop.as_ref().filter(|_| stop > MOST_TEARDOWN) {
        let most = MOST_TEARDOWN.as_secs();
        return Err(source.error(at, format!("a daemon has at most {most} s to stop")));
    }
    Ok(DaemonSpec {
        command: source.words(&raw.command)?,
        ready: source.words(&raw.ready)?,
        timeout: source.time(raw.timeout.as_ref(), 30)?,
        stop,
    })
}

fn wrapping(source: &Source<'_>, raw: &RawEncryption) -> Result<Wrapping, SuiteError> {
    let text = raw.wrapping.get_ref();
    match text.strip_prefix("udp:").map(str::parse) {
        Some(Ok(port @ 1..)) => Ok(Wrapping::Udp([port].into())),
        None if text == "esp" => Ok(Wrapping::Esp),
        _ => {
            Err(source.error(&raw.wrapping, format!("{text:?}: expected \"esp\" or \"udp:PORT\"")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "description = \"mine\"\nconflist = \"c.conflist\"\n";

    fn read(rest: &str) -> Result<File, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("c.conflist"), "").unwrap();
        std::fs::write(dir.path().join("agent"), "").unwrap();
        parse(&dir.path().join("x.toml"), &format!("{HEAD}{rest}"), 1500).map_err(|e| e.to_string())
    }

    #[test]
    fn a_file_says_all_of_it() {
        let file = read(
            "encrypted = true\nmtu = 1400\nroutes = \"node\"\nprivate = [\"/run/mine\"]\nrefuse = [\"pod-service\"]\n\
             [env]\nMODE = \"fast\"\n[setup]\ncommands = [[\"ip\", \"link\"], [\"./agent\", \"prepare\"]]\n\
             [daemon]\ncommand = [\"./agent\"]\nready = [\"true\"]\ntimeout = \"500ms\"\nstop = \"4s\"\n\
             [teardown]\ncommands = []\n[path]\ncarries = [\"mine0\"]\n[encryption]\nwrapping = \"udp:51820\"\n",
        )
        .unwrap();
        assert_eq!((file.chain.mtu, file.chain.routes), (1400, Routes::Node));
        let daemon = file.daemon.unwrap();
        assert_eq!(daemon.command, [file.folder.join("./agent").display().to_string()]);
        assert_eq!(
            (daemon.timeout, daemon.stop),
            (Duration::from_millis(500), Duration::from_secs(4))
        );
        assert_eq!(file.setup.unwrap().commands[0], ["ip", "link"]);
        assert_eq!(file.wrapping, Some(Wrapping::Udp([51820].into())));
        assert_eq!((file.env["MODE"].as_str(), file.refuse), ("fast", vec![Placement::PodService]));
        let plain = read("").unwrap();
        assert_eq!(
            (plain.chain.mtu, plain.chain.routes, plain.daemon.is_none()),
            (1500, Routes::None, true)
        );
    }

    #[test]
    fn errors_say_where_and_what_is_expected() {
        for (rest, expected) in [
            ("\ndeamon = 1\n", "x.toml:4:1: unknown field"),
            ("\ndeamon = 1\n", "did you mean \"daemon\"?"),
            ("[setup]\ncommands = [[]]\n", "x.toml:4:13: a command has at least"),
            ("[setup]\ncommands = [[\"./no\"]]\n", "no is no file"),
            ("[daemon]\ncommand = [\"a\"]\n", "missing field `ready`"),
            (
                "[daemon]\ncommand = [\"a\"]\nready = [\"a\"]\nstop = \"1m\"\n",
                "x.toml:6:8: a daemon has at most 9 s",
            ),
            ("[teardown]\ncommands = []\ntimeout = \"10s\"\n", "may take 9 s together"),
            ("[setup]\ncommands = []\ntimeout = \"soon\"\n", "x.toml:5:11: "),
            ("private = [\"/etc/x\"]\n", "below /run or /var"),
            ("private = [\"/run/../etc\"]\n", "below /run or /var"),
            ("private = [\"/run\"]\n", "below /run or /var"),
            ("[env]\n\"A B\" = \"\"\n", "no name of a variable"),
            ("[env]\nCNI_PATH = \"\"\n", "are set here"),
            ("encrypted = true\n", "has an [encryption]"),
            ("[encryption]\nwrapping = \"esp\"\n", "says encrypted = true"),
            ("refuse = [\"moon\"]\n", "unknown variant"),
        ] {
            let text = read(rest).unwrap_err();
            assert!(text.contains(expected), "{rest}: {text}");
        }
    }
}

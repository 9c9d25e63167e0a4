//! The programs this provider is made of: docker, kind and helm. Are they there, new enough, answering?
//!
//! Owns their paths, least versions and what to do when one is missing. Asked by `doctor` and before
//! anything is made.

use super::{
    command::{CommandError, Invocation},
    sources::Sources,
};
use std::{fmt, path::PathBuf, time::Duration};

/// A tool that only says its version needs no longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// What kind itself asks for (its page "Known issues", "Pod errors due to too many open files").
const INOTIFY_INSTANCES: u32 = 512;

/// A program of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// Docker: the nodes are its containers.
    Docker,
    /// kind: makes the cluster.
    Kind,
    /// helm: renders charts.
    Helm,
}

/// Major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Version {
    /// The first word that is a version: `kind v0.33.0 go1.26.0`, `v3.21`, `20.10.24+dfsg1`.
    pub fn find(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(|word| {
            let word = word.strip_prefix('v').unwrap_or(word);
            let mut parts = word.split(['.', '-', '+']);
            let major = parts.next()?.parse().ok()?;
            let minor = parts.next()?.parse().ok()?;
            Some(Self(major, minor, parts.next().and_then(|p| p.parse().ok()).unwrap_or(0)))
        })
    }
}

impl Tool {
    /// All of them, in the order in which they are looked at.
    pub const ALL: [Self; 3] = [Self::Docker, Self::Kind, Self::Helm];

    /// The command.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Kind => "kind",
            Self::Helm => "helm",
        }
    }

    /// The least version: Docker with cgroup namespaces (kind asks for them), kind whose nodes run
    /// containerd 1.7, helm with `oci://` charts.
    fn least(self) -> Version {
        match self {
            Self::Docker => Version(20, 10, 0),
            Self::Kind => Version(0, 20, 0),
            Self::Helm => Version(3, 8, 0),
        }
    }

    fn next(self) -> &'static str {
        match self {
            Self::Docker => "install Docker (https://docs.docker.com/engine/install)",
            Self::Kind => "install kind (https://kind.sigs.k8s.io), or name it in --sources",
            Self::Helm => {
                "install helm (https://helm.sh/docs/intro/install), or name it in --sources"
            }
        }
    }
}

/// Where the programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    /// docker.
    pub docker: PathBuf,
    /// kind.
    pub kind: PathBuf,
    /// helm.
    pub helm: PathBuf,
}

impl Default for Tools {
    fn default() -> Self {
        Self::of(&Sources::default())
    }
}

impl Tools {
    /// As a sources file names them, else by name.
    pub fn of(sources: &Sources) -> Self {
        let or = |path: &Option<PathBuf>, tool: Tool| path.clone().unwrap_or(tool.name().into());
        Self {
            docker: or(&sources.docker, Tool::Docker),
            kind: or(&sources.kind, Tool::Kind),
            helm: or(&sources.helm, Tool::Helm),
        }
    }

    /// A command of docker.
    pub fn docker(&self, limit: Duration) -> Invocation {
        Invocation::new(&self.docker, limit)
    }

    /// A command of kind.
    pub fn kind(&self, limit: Duration) -> Invocation {
        Invocation::new(&self.kind, limit)
    }

    /// A command of helm.
    pub fn helm(&self, limit: Duration) -> Invocation {
        Invocation::new(&self.helm, limit)
    }

    /// Is the tool there, new enough and, for Docker, answering? Gives its version.
    ///
    /// # Errors
    /// A sentence with the next step.
    pub async fn check(&self, tool: Tool) -> Result<String, String> {
        let asked = match tool {
            Tool::Docker => {
                self.docker(PATIENCE).args(["version", "--format", "{{.Server.Version}}"])
            }
            Tool::Kind => self.kind(PATIENCE).arg("version"),
            Tool::Helm => self.helm(PATIENCE).args(["version", "--short"]),
        };
        let said = asked.run().await.map_err(|e| refusal(tool, &e))?;
        let least = tool.least();
        match Version::find(&said) {
            Some(version) if version < least => Err(format!(
                "{} {version} is too old, {least} is the least: {}",
                tool.name(),
                tool.next()
            )),
            Some(version) => Ok(version.to_string()),
            None => Ok("of unknown version".to_owned()),
        }
    }
}

fn refusal(tool: Tool, error: &CommandError) -> String {
    let name = tool.name();
    match error {
        CommandError::Missing { program } => format!("no {program} here: {}", tool.next()),
        e if tool == Tool::Docker && e.says("permission denied") => format!(
            "the Docker daemon may not be used by this user: join its group (usermod -aG docker), or run as root ({e})"
        ),
        e if tool == Tool::Docker => format!(
            "the Docker daemon does not answer: start it (systemctl start docker), or set DOCKER_HOST to where it is ({e})"
        ),
        e => format!("{name} does not work: {e}; {}", tool.next()),
    }
}

/// Enough inotify instances for the kubelets of several nodes on one kernel? The value, or what to do.
///
/// # Errors
/// A sentence with the next step.
pub fn inotify() -> Result<u32, String> {
    let key = "/proc/sys/fs/inotify/max_user_instances";
    let text = std::fs::read_to_string(key).map_err(|e| format!("{key}: {e}"))?;
    match text.trim().parse() {
        Ok(n) if n >= INOTIFY_INSTANCES => Ok(n),
        _ => Err(format!(
            "fs.inotify.max_user_instances is {}: pods of a third node fail with \"too many open files\"; sysctl fs.inotify.max_user_instances={INOTIFY_INSTANCES}",
            text.trim()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::kind::fake::Fakes;

    #[test]
    fn versions_are_found_in_what_tools_say() {
        for (said, version) in [
            ("kind v0.33.0 go1.26.8 linux/amd64\n", Version(0, 33, 0)),
            ("v3.21.4+gabcdef\n", Version(3, 21, 4)),
            ("v3.21\n", Version(3, 21, 0)),
            ("20.10.24+dfsg1\n", Version(20, 10, 24)),
            ("kind v0.34.0-alpha+abc go1.26\n", Version(0, 34, 0)),
        ] {
            assert_eq!(Version::find(said), Some(version), "{said}");
        }
        assert_eq!(Version::find("devel\n"), None);
    }

    #[tokio::test]
    async fn tools_that_are_there_say_their_version() {
        let fakes = Fakes::new();
        fakes.program("docker", "echo 20.10.24+dfsg1");
        fakes.program("kind", "echo kind v0.33.0 go1.26 linux/amd64");
        fakes.program("helm", "echo v3.21.4");
        let tools = fakes.tools();
        assert_eq!(tools.check(Tool::Docker).await.unwrap(), "20.10.24");
        assert_eq!(tools.check(Tool::Kind).await.unwrap(), "0.33.0");
        assert_eq!(tools.check(Tool::Helm).await.unwrap(), "3.21.4");
        assert_eq!(fakes.calls("kind"), ["version"]);
    }

    #[tokio::test]
    async fn a_tool_that_cannot_be_used_is_a_sentence_with_a_way_out() {
        let fakes = Fakes::new();
        let tools = fakes.tools();
        let text = tools.check(Tool::Kind).await.unwrap_err();
        assert!(text.contains("kind here: install kind"), "{text}");
        fakes.program("kind", "echo kind v0.11.1 go1.16");
        let text = tools.check(Tool::Kind).await.unwrap_err();
        assert!(text.starts_with("kind 0.11.1 is too old, 0.20.0 is the least"), "{text}");
        fakes.program(
            "docker",
            "echo Cannot connect to the Docker daemon at unix:///x. >&2; exit 1",
        );
        let text = tools.check(Tool::Docker).await.unwrap_err();
        assert!(text.contains("does not answer: start it"), "{text}");
        assert!(text.contains("Cannot connect to the Docker daemon at unix:///x."), "{text}");
        fakes.program("docker", "echo dial unix: connect: permission denied >&2; exit 1");
        let text = tools.check(Tool::Docker).await.unwrap_err();
        assert!(text.contains("join its group"), "{text}");
        fakes.program("helm", "echo no >&2; exit 1");
        let text = tools.check(Tool::Helm).await.unwrap_err();
        assert!(text.contains("helm does not work") && text.contains("no"), "{text}");
    }
}

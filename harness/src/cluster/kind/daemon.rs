//! Which Docker daemon a cluster is on.
//!
//! Owns what the docker CLI makes of its environment, as far as it decides whom it asks, so that a
//! cluster is removed where it was made, whatever is set or switched by then. Noted by `leftovers`.

use super::command::Invocation;
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

/// The way to a daemon. Without host, context and config: as the environment says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// `DOCKER_HOST`, which wins over a context.
    #[serde(rename = "docker_host")]
    host: Option<String>,
    /// The context: `DOCKER_CONTEXT`, else the one in use then (`docker context use`).
    #[serde(default)]
    context: Option<String>,
    /// The folder of contexts: `DOCKER_CONFIG`, else ~/.docker.
    #[serde(default)]
    config: Option<PathBuf>,
    /// `DOCKER_TLS_VERIFY`.
    #[serde(default)]
    tls_verify: Option<String>,
    /// `DOCKER_CERT_PATH`.
    #[serde(default)]
    certificates: Option<PathBuf>,
}

/// What docker calls the daemon of this machine when no context is used.
const DEFAULT_CONTEXT: &str = "default";

impl Daemon {
    /// The one that docker asks now.
    pub fn here() -> Self {
        Self::of(|key| std::env::var(key).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |key: &str| variable(key).filter(|value| !value.is_empty());
        // Whoever asks later may stand elsewhere.
        let path = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let config = set("DOCKER_CONFIG").map(PathBuf::from);
        let config = config.or_else(|| Some(Path::new(&set("HOME")?).join(".docker"))).map(path);
        let host = set("DOCKER_HOST");
        // docker/cli, cli/command/cli.go, resolveContextName: the host, the variable, the file.
        let context = match host {
            Some(_) => None,
            None => set("DOCKER_CONTEXT")
                .or_else(|| in_use(config.as_deref()?))
                .or_else(|| Some(DEFAULT_CONTEXT.to_owned())),
        };
        Self {
            host,
            context,
            config,
            tls_verify: set("DOCKER_TLS_VERIFY"),
            certificates: set("DOCKER_CERT_PATH").map(PathBuf::from).map(path),
        }
    }

    /// A command that asks this daemon, through docker or what calls docker.
    pub fn asked_by(&self, command: Invocation) -> Invocation {
        if *self == Self::default() {
            return command;
        }
        let text = |value: &Option<String>| value.as_ref().map(OsString::from);
        let path = |value: &Option<PathBuf>| value.as_ref().map(OsString::from);
        [
            ("DOCKER_HOST", text(&self.host)),
            ("DOCKER_CONTEXT", text(&self.context)),
            ("DOCKER_CONFIG", path(&self.config)),
            ("DOCKER_TLS_VERIFY", text(&self.tls_verify)),
            ("DOCKER_CERT_PATH", path(&self.certificates)),
        ]
        .into_iter()
        .fold(command, |command, (key, value)| match value {
            Some(value) => command.env(key, value),
            None => command.without_env(key),
        })
    }

    /// For an error: where it is.
    pub fn describe(&self) -> String {
        match (&self.host, &self.context) {
            (Some(host), _) => format!("DOCKER_HOST={host}"),
            (None, Some(context)) => format!("docker context {context}"),
            (None, None) => "Docker".to_owned(),
        }
    }
}

/// The context that docker's config file names.
fn in_use(config: &Path) -> Option<String> {
    let text = fs::read(config.join("config.json")).ok()?;
    let value: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let context = value.get("currentContext")?.as_str()?;
    (!context.is_empty()).then(|| context.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::HashMap, time::Duration};

    fn of(variables: &[(&str, &str)]) -> Daemon {
        let variables: HashMap<String, String> =
            variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Daemon::of(|key| variables.get(key).cloned())
    }

    #[test]
    fn the_host_wins_over_the_context_and_the_variable_over_the_file() {
        let home = tempfile::tempdir().unwrap();
        let at = home.path().to_str().unwrap();
        let docker = home.path().join(".docker");
        assert_eq!(of(&[("HOME", at)]).context.as_deref(), Some("default"));
        fs::create_dir(&docker).unwrap();
        fs::write(docker.join("config.json"), r#"{"currentContext": "lab"}"#).unwrap();
        let used = of(&[("HOME", at), ("DOCKER_HOST", "")]);
        assert_eq!((used.context.as_deref(), used.config), (Some("lab"), Some(docker.clone())));
        let named = of(&[("HOME", at), ("DOCKER_CONTEXT", "other")]);
        assert_eq!(named.context.as_deref(), Some("other"));
        let host = of(&[("HOME", at), ("DOCKER_CONTEXT", "other"), ("DOCKER_HOST", "tcp://x")]);
        assert_eq!((host.context, host.host.as_deref()), (None, Some("tcp://x")));
        fs::write(docker.join("config.json"), "{").unwrap();
        assert_eq!(of(&[("HOME", at)]).context.as_deref(), Some("default"));
    }

    #[tokio::test]
    async fn commands_ask_it_whatever_the_environment_says() {
        let script = "echo $DOCKER_HOST,$DOCKER_CONTEXT,$DOCKER_CONFIG,$DOCKER_TLS_VERIFY";
        let ask = |daemon: Daemon| async move {
            let command = Invocation::new("sh", Duration::from_secs(5)).args(["-c", script]);
            let elsewhere =
                command.env("DOCKER_HOST", "tcp://elsewhere").env("DOCKER_CONTEXT", "e");
            daemon.asked_by(elsewhere).run().await.unwrap()
        };
        let host = of(&[
            ("DOCKER_HOST", "unix:///d"),
            ("DOCKER_CONFIG", "/c"),
            ("DOCKER_TLS_VERIFY", "1"),
        ]);
        assert_eq!(ask(host).await, "unix:///d,,/c,1\n");
        let context = of(&[("DOCKER_CONTEXT", "lab"), ("DOCKER_CONFIG", "/c")]);
        assert_eq!(ask(context).await, ",lab,/c,\n");
        assert_eq!(ask(Daemon::default()).await.split(',').next(), Some("tcp://elsewhere"));
    }

    #[test]
    fn notes_of_before_are_read() {
        let old: Daemon = serde_json::from_str(r#"{"docker_host": null}"#).unwrap();
        assert_eq!(old, Daemon::default());
        let now = of(&[("DOCKER_CONTEXT", "lab"), ("HOME", "/h")]);
        let text = serde_json::to_string(&now).unwrap();
        assert_eq!(serde_json::from_str::<Daemon>(&text).unwrap(), now);
    }
}

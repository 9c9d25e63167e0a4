//! The file format of a profile: reading and checking it, with the line of what is wrong.

use super::{
    AgentPods, Chart, Check, Component, EncryptionClaim, Flows, Install, InstallFrom,
    KernelFeature, KubeProfile, MtuValue, PathClaims, Replace, Secret, SetValues, Settled,
    values::nested,
};
use crate::cni::Wrapping;
use cnibench_scenarios::SuiteError;
use serde::Deserialize;
use serde_spanned::Spanned;
use std::{collections::BTreeMap, fs, path::Path, path::PathBuf};

/// Where the files lie that a profile names.
pub enum Files<'a> {
    /// In the binary.
    BuiltIn(&'a [(&'a str, &'a str)]),
    /// In this folder.
    In(&'a Path),
}

impl Files<'_> {
    fn read(&self, name: &str) -> Result<String, String> {
        match self {
            Self::BuiltIn(files) => files
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, text)| (*text).to_owned())
                .ok_or_else(|| format!("{name} is not built in")),
            Self::In(folder) => {
                let path = folder.join(name);
                fs::read_to_string(&path)
                    .map_err(|e| format!("cannot read {}: {e}", path.display()))
            }
        }
    }

    /// The file of this machine, if profiles from here may name one.
    fn path(&self, name: &str) -> Option<PathBuf> {
        match self {
            Self::BuiltIn(_) => None,
            Self::In(folder) => Some(folder.join(name)),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    /// As on the command line: lower-case letters, digits, '-'.
    name: Spanned<String>,
    /// "flannel", "cilium", "host" or "custom".
    family: String,
    description: String,
    encrypted: Spanned<bool>,
    enforces_policies: bool,
    #[serde(default)]
    host_network: bool,
    #[serde(default)]
    automatic: bool,
    #[serde(default)]
    kernel: Vec<KernelFeature>,
    #[serde(default)]
    plugins: Vec<Spanned<String>>,
    /// The kind config, a file beside this one.
    kind: Option<Spanned<String>>,
    install: Option<Spanned<RawInstall>>,
    agent: Option<RawAgent>,
    /// Without any the agent alone is counted.
    #[serde(default)]
    component: Vec<Component>,
    #[serde(default)]
    settled: RawSettled,
    #[serde(default)]
    path: RawPath,
    encryption: Option<RawEncryption>,
    flows: Option<Spanned<RawFlows>>,
    mtu: Option<Spanned<RawMtu>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawInstall {
    namespace: Option<String>,
    /// A chart's name, with `repository`; an `oci://` reference; or a folder or archive.
    chart: Option<Spanned<String>>,
    repository: Option<Spanned<String>>,
    version: Option<String>,
    release: Option<String>,
    /// The chart's values, a file beside this one.
    values: Option<Spanned<String>>,
    manifest: Option<Spanned<String>>,
    command: Option<Spanned<Vec<String>>>,
    #[serde(default)]
    secret: Vec<RawSecret>,
    #[serde(default)]
    replace: Vec<RawReplace>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSecret {
    name: String,
    data: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReplace {
    kind: String,
    name: String,
    field: Spanned<String>,
    with: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAgent {
    namespace: String,
    selector: String,
    container: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawSettled {
    /// Seconds for which all of it must hold.
    hold: u32,
    log: Option<String>,
    trouble: Vec<String>,
    check: Vec<RawCheck>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCheck {
    command: Spanned<Vec<String>>,
    says: String,
    #[serde(default)]
    lacks: Vec<String>,
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
    /// `esp` or `udp:PORT`.
    wrapping: Spanned<String>,
    status: Option<Spanned<Vec<String>>>,
    says: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFlows {
    observe: Spanned<Vec<String>>,
    on: Spanned<SetValues>,
    off: Spanned<SetValues>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMtu {
    value: String,
    #[serde(default)]
    overhead: u32,
}

/// The text with its name, for errors that say where.
struct Source<'a> {
    file: &'a str,
    text: &'a str,
    files: &'a Files<'a>,
}

impl Source<'_> {
    fn error<T>(&self, at: &Spanned<T>, message: impl Into<String>) -> SuiteError {
        SuiteError::at(self.file, self.text, at.span(), message)
    }

    fn read(&self, name: &Spanned<String>) -> Result<String, SuiteError> {
        self.files.read(name.get_ref()).map_err(|e| self.error(name, e))
    }

    fn command(&self, command: &Spanned<Vec<String>>) -> Result<Vec<String>, SuiteError> {
        match command.get_ref().first() {
            Some(program) if !program.is_empty() => Ok(command.get_ref().clone()),
            _ => Err(self.error(command, "a command has at least the program's name")),
        }
    }
}

/// Reads and checks a profile. `file` is only used in errors.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub fn parse(file: &str, text: &str, files: &Files<'_>) -> Result<KubeProfile, SuiteError> {
    let raw: Raw = toml::from_str(text).map_err(|e| SuiteError::from_toml(file, text, &e))?;
    let source = Source { file, text, files };
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let name = raw.name.get_ref();
    if name.is_empty() || !name.chars().all(legal) {
        return Err(source.error(&raw.name, "a name is lower-case letters, digits and '-'"));
    }
    for plugin in &raw.plugins {
        if plugin.get_ref().is_empty() || plugin.get_ref().contains('/') {
            return Err(source.error(plugin, "a plugin is the name of a file in /opt/cni/bin"));
        }
    }
    if *raw.encrypted.get_ref() != raw.encryption.is_some() {
        let says = "what encrypts has an [encryption] with its wrapping, what does not has none";
        return Err(source.error(&raw.encrypted, says));
    }
    let kind = match (&raw.kind, files) {
        (Some(name), _) => source.read(name)?,
        (None, Files::BuiltIn(_)) => {
            files.read("kind.yaml").map_err(|e| SuiteError::at(file, text, 0..0, e))?
        }
        (None, Files::In(_)) => DEFAULT_KIND.to_owned(),
    };
    let install = raw.install.as_ref().map(|i| install(&source, name, i)).transpose()?;
    let is_chart = matches!(&install, Some(Install { from: InstallFrom::Chart(_), .. }));
    if let Some(mtu) = raw.mtu.as_ref().filter(|_| !is_chart) {
        return Err(
            source.error(mtu, "an MTU is set by a value of the chart, and there is no chart")
        );
    }
    if let Some(flows) = raw.flows.as_ref().filter(|_| !is_chart) {
        return Err(source.error(
            flows,
            "a flow observer is switched by values of the chart, and there is no chart",
        ));
    }
    let components = match (raw.component, &raw.agent) {
        (none, Some(agent)) if none.is_empty() => vec![Component {
            name: "agent".to_owned(),
            namespace: agent.namespace.clone(),
            selector: agent.selector.clone(),
        }],
        (components, _) => components,
    };
    Ok(KubeProfile {
        name: name.clone(),
        family: raw.family,
        description: raw.description,
        encrypted: raw.encrypted.into_inner(),
        enforces_policies: raw.enforces_policies,
        host_network: raw.host_network,
        automatic: raw.automatic,
        kernel: raw.kernel,
        plugins: raw.plugins.into_iter().map(Spanned::into_inner).collect(),
        kind,
        install,
        agent: raw.agent.map(|RawAgent { namespace, selector, container }| AgentPods {
            namespace,
            selector,
            container,
        }),
        components,
        settled: settled(&source, raw.settled)?,
        path: PathClaims { carries: raw.path.carries, silent: raw.path.silent },
        encryption: raw.encryption.map(|e| encryption(&source, e)).transpose()?,
        flows: raw.flows.map(|f| flows(&source, f.into_inner())).transpose()?,
        mtu: raw.mtu.map(|m| {
            let RawMtu { value, overhead } = m.into_inner();
            MtuValue { value, overhead }
        }),
    })
}

/// The network of a cluster whose profile names no kind config.
const DEFAULT_KIND: &str = include_str!("../../../../kind-configs/host/kind.yaml");

fn install(
    source: &Source<'_>,
    name: &str,
    spanned: &Spanned<RawInstall>,
) -> Result<Install, SuiteError> {
    let raw = spanned.get_ref();
    let from = match (&raw.chart, &raw.manifest, &raw.command) {
        (Some(chart), None, None) => InstallFrom::Chart(self::chart(source, name, raw, chart)?),
        (None, Some(manifest), None) => {
            let path = source
                .files
                .path(manifest.get_ref())
                .ok_or_else(|| source.error(manifest, "a built-in profile names no manifest"))?;
            if !path.is_file() {
                return Err(source.error(manifest, format!("{} is no file", path.display())));
            }
            InstallFrom::Manifest(path)
        }
        (None, None, Some(command)) => InstallFrom::Command(source.command(command)?),
        _ => {
            return Err(source.error(spanned, "[install] has one of chart, manifest and command"));
        }
    };
    if !matches!(from, InstallFrom::Chart(_))
        && let Some(key) = raw.repository.as_ref().or(raw.values.as_ref())
    {
        return Err(source.error(key, "repository and values belong to a chart"));
    }
    let replace = raw
        .replace
        .iter()
        .map(|r| match r.field.get_ref().starts_with('/') {
            true => Ok(Replace {
                kind: r.kind.clone(),
                name: r.name.clone(),
                field: r.field.get_ref().clone(),
                with: r.with.clone(),
            }),
            false => Err(source.error(&r.field, "a field is a JSON pointer: /data/net-conf.json")),
        })
        .collect::<Result<_, _>>()?;
    let secrets =
        raw.secret.iter().map(|s| Secret { name: s.name.clone(), data: s.data.clone() }).collect();
    let namespace = raw.namespace.clone().unwrap_or_else(|| "kube-system".to_owned());
    Ok(Install { namespace, from, secrets, replace })
}

fn chart(
    source: &Source<'_>,
    name: &str,
    raw: &RawInstall,
    chart: &Spanned<String>,
) -> Result<Chart, SuiteError> {
    let mut text = chart.get_ref().clone();
    if raw.repository.is_none() && !text.starts_with("oci://") {
        let path = source.files.path(&text).filter(|p| p.exists()).ok_or_else(|| {
            let says = "is neither a folder nor an archive here; a chart's name needs its repository = \"https://...\"";
            source.error(chart, format!("{text:?} {says}"))
        })?;
        text = path.display().to_string();
    }
    let values = raw.values.as_ref().map(|v| source.read(v)).transpose()?;
    let values = match (values, source.files) {
        (Some(values), _) => values,
        (None, Files::BuiltIn(_)) => source.files.read("values.yaml").unwrap_or_default(),
        (None, Files::In(_)) => String::new(),
    };
    Ok(Chart {
        chart: text,
        repository: raw.repository.as_ref().map(|r| r.get_ref().clone()),
        version: raw.version.clone(),
        release: raw.release.clone().unwrap_or_else(|| name.to_owned()),
        values,
    })
}

fn settled(source: &Source<'_>, raw: RawSettled) -> Result<Settled, SuiteError> {
    let checks = raw
        .check
        .into_iter()
        .map(|c| Ok(Check { command: source.command(&c.command)?, says: c.says, lacks: c.lacks }))
        .collect::<Result<_, SuiteError>>()?;
    Ok(Settled { hold_s: raw.hold, log: raw.log, trouble: raw.trouble, checks })
}

fn encryption(source: &Source<'_>, raw: RawEncryption) -> Result<EncryptionClaim, SuiteError> {
    let text = raw.wrapping.get_ref();
    let wrapping = match text.strip_prefix("udp:").map(str::parse) {
        Some(Ok(port @ 1..)) => Wrapping::Udp([port].into()),
        None if text == "esp" => Wrapping::Esp,
        _ => {
            let says = format!("{text:?}: expected \"esp\" or \"udp:PORT\"");
            return Err(source.error(&raw.wrapping, says));
        }
    };
    let status = match (&raw.status, raw.says) {
        (Some(command), Some(says)) => {
            Some(Check { command: source.command(command)?, says, lacks: Vec::new() })
        }
        (None, None) => None,
        _ => return Err(source.error(&raw.wrapping, "status and says go together")),
    };
    Ok(EncryptionClaim { wrapping, status })
}

fn flows(source: &Source<'_>, raw: RawFlows) -> Result<Flows, SuiteError> {
    for values in [&raw.on, &raw.off] {
        nested(values.get_ref()).map_err(|e| source.error(values, e))?;
    }
    let observe = source.command(&raw.observe)?;
    Ok(Flows { observe, on: raw.on.into_inner(), off: raw.off.into_inner() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "name = \"x\"\nfamily = \"custom\"\ndescription = \"\"\nencrypted = false\nenforces_policies = false\n";

    fn error(rest: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        parse("x.toml", &format!("{HEAD}{rest}"), &Files::In(dir.path())).unwrap_err().to_string()
    }

    #[test]
    fn a_file_names_what_lies_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("m.yaml"), "kind: ConfigMap").unwrap();
        let text = format!("{HEAD}[install]\nmanifest = \"m.yaml\"\n");
        let profile = parse("x.toml", &text, &Files::In(dir.path())).unwrap();
        let install = profile.install.unwrap();
        assert_eq!(install.from, InstallFrom::Manifest(dir.path().join("m.yaml")));
        assert_eq!(install.namespace, "kube-system");
        assert!(profile.kind.contains("disableDefaultCNI: true"));
    }

    #[test]
    fn what_is_counted_is_named_or_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let names = |rest: &str| -> Vec<String> {
            let profile = parse("x", &format!("{HEAD}{rest}"), &Files::In(dir.path())).unwrap();
            profile.components.into_iter().map(|c| c.name).collect()
        };
        let agent = "[agent]\nnamespace = \"n\"\nselector = \"a=b\"\ncontainer = \"c\"\n";
        assert_eq!(names(""), [""; 0]);
        assert_eq!(names(agent), ["agent"]);
        let operator = format!(
            "{agent}[[component]]\nname = \"operator\"\nnamespace = \"n\"\nselector = \"o\"\n"
        );
        assert_eq!(names(&operator), ["operator"]);
        for profile in crate::cni::kubernetes::embedded().unwrap() {
            let proxy = profile.components.iter().any(|c| c.name == "kube-proxy");
            let has_proxy = !profile.kind.contains("kubeProxyMode: none");
            assert_eq!(proxy, has_proxy && !profile.host_network, "{}", profile.name);
        }
    }

    #[test]
    fn errors_say_where_and_what_is_expected() {
        for (rest, expected) in [
            ("encypted = true\n", "x.toml:6:1: unknown field"),
            ("[install]\nmanifest = \"no.yaml\"\n", "x.toml:7:12: "),
            ("[install]\nmanifest = \"no.yaml\"\n", "no.yaml is no file"),
            ("[install]\n", "has one of chart, manifest and command"),
            ("[install]\ncommand = []\n", "at least the program's name"),
            ("[install]\nchart = \"cilium\"\n", "needs its repository"),
            ("[install]\ncommand = [\"x\"]\nvalues = \"v\"\n", "belong to a chart"),
            ("[mtu]\nvalue = \"a\"\n", "there is no chart"),
            ("plugins = [\"../x\"]\n", "name of a file in /opt/cni/bin"),
            ("kind = \"k.yaml\"\n", "cannot read"),
            ("[encryption]\nwrapping = \"esp\"\n", "what encrypts has an [encryption]"),
        ] {
            let text = error(rest);
            assert!(text.contains(expected), "{rest}: {text}");
        }
        assert!(error("encypted = true\n").contains("did you mean \"encrypted\"?"));
    }

    #[test]
    fn wrapping_is_esp_or_a_port() {
        let text = |w: &str| {
            let head = HEAD.replace("encrypted = false", "encrypted = true");
            format!("{head}[encryption]\nwrapping = \"{w}\"\n")
        };
        let dir = tempfile::tempdir().unwrap();
        let parse = |w| parse("x", &text(w), &Files::In(dir.path()));
        let wrapping = |w| parse(w).unwrap().encryption.unwrap().wrapping;
        assert_eq!(wrapping("esp"), Wrapping::Esp);
        assert_eq!(wrapping("udp:51820"), Wrapping::Udp([51820].into()));
        for wrong in ["udp", "udp:0", "udp:70000", "tcp:1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}

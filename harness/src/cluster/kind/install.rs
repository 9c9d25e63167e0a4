//! Installing a cni in a cluster that has none: a chart, a manifest or a command.
//!
//! A chart is rendered by helm and applied by us, like any manifest: so every object is seen, profiles
//! can replace fields, and what a cluster refuses is named. When it is settled is `wait`'s.

use super::{apply::apply_all, command::Invocation, documents, sources::CniSources, tools::Tools};
use crate::{
    cluster::kube::Access,
    cni::kubernetes::{Chart, Facts, Install, InstallFrom, KubeCni, fill, nested},
};
use anyhow::{Context as _, anyhow};
use serde_json::Value;
use std::{fs, path::Path, time::Duration};

/// Fetching a chart over a slow line and rendering it.
const RENDER: Duration = Duration::from_secs(180);
/// A command of the user's, which may wait for pods itself.
const COMMAND: Duration = Duration::from_secs(900);

/// Installs a cni, or applies it again with other values.
///
/// # Errors
/// What helm, the API server or the command said.
pub async fn install(
    access: &Access,
    tools: &Tools,
    cni: &KubeCni,
    sources: &CniSources,
    facts: &Facts,
    kubeconfig: &Path,
) -> anyhow::Result<()> {
    let Some(install) = &cni.profile.install else { return Ok(()) };
    let what = || format!("cni {} cannot be installed", cni.spec);
    let text = match from(install, sources) {
        InstallFrom::Command(command) => {
            let [program, args @ ..] = command.as_slice() else { return Ok(()) };
            let run = Invocation::new(program, COMMAND).args(args).env("KUBECONFIG", kubeconfig);
            return run.run().await.map(drop).with_context(what);
        }
        InstallFrom::Manifest(path) => {
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        }
        InstallFrom::Chart(chart) => {
            let version = access.version().await?;
            let rendering = Rendering { chart: &chart, install, cni, sources, facts };
            rendering.render(tools, &version).await
        }
    };
    let objects = objects(&text.with_context(what)?, install, facts).with_context(what)?;
    apply_all(access, &objects, &install.namespace).await.with_context(what)
}

/// What is installed, one line each, for the reader who asks.
pub fn details(cni: &KubeCni, sources: &CniSources) -> Vec<String> {
    let Some(install) = &cni.profile.install else {
        return vec!["no CNI: pods are on the nodes' network".to_owned()];
    };
    let mut lines = vec![match from(install, sources) {
        InstallFrom::Chart(Chart { chart, version: Some(version), .. }) => {
            format!("chart {chart} {version} in namespace {}", install.namespace)
        }
        InstallFrom::Chart(chart) => {
            format!("chart {} in namespace {}", chart.chart, install.namespace)
        }
        InstallFrom::Manifest(path) => format!("manifest {}", path.display()),
        InstallFrom::Command(command) => format!("command {}", command.join(" ")),
    }];
    if let Some(on) = cni.hubble {
        lines.push(format!("Hubble {}", if on { "on" } else { "off" }));
    }
    let mut set = cni.set.clone();
    set.extend(sources.set.clone());
    if !set.is_empty() {
        let set: Vec<String> = set.iter().map(|(path, value)| format!("{path}={value}")).collect();
        lines.push(format!("values beside its profile's: {}", set.join(", ")));
    }
    lines
}

/// What replaces the profile's own chart or manifest.
fn from(install: &Install, sources: &CniSources) -> InstallFrom {
    match (&sources.manifest, &sources.chart, &install.from) {
        (Some(manifest), _, _) => InstallFrom::Manifest(manifest.clone()),
        (None, Some(local), InstallFrom::Chart(chart)) => InstallFrom::Chart(Chart {
            chart: local.display().to_string(),
            repository: None,
            version: None,
            ..chart.clone()
        }),
        (_, _, own) => own.clone(),
    }
}

fn objects(text: &str, install: &Install, facts: &Facts) -> anyhow::Result<Vec<Value>> {
    let objects = documents::parse(text).map_err(|e| anyhow!(e))?;
    documents::prepare(objects, install, facts).map_err(|e| anyhow!(e))
}

/// A chart with everything that goes into it.
struct Rendering<'a> {
    chart: &'a Chart,
    install: &'a Install,
    cni: &'a KubeCni,
    sources: &'a CniSources,
    facts: &'a Facts,
}

impl Rendering<'_> {
    /// Renders it: our values, then the user's files, then single values of parameters and the user's.
    async fn render(&self, tools: &Tools, kubernetes: &str) -> anyhow::Result<String> {
        let Self { chart, install, cni, sources, facts } = self;
        // Values may hold keys: the folder is this user's alone.
        let folder = tempfile::Builder::new().prefix("cnibench-").tempdir()?;
        let ours = folder.path().join("values.yaml");
        fs::write(&ours, fill(&chart.values, facts).map_err(|e| anyhow!("values: {e}"))?)?;
        let mut set = cni.set.clone();
        set.extend(sources.set.clone());
        let single = folder.path().join("set.json");
        let mut values = nested(&set).map_err(|e| anyhow!(e))?;
        fill_all(&mut values, facts).map_err(|e| anyhow!("values: {e}"))?;
        fs::write(&single, values.to_string())?;
        let mut command = tools.helm(RENDER).args(["template", &chart.release, &chart.chart]);
        if let Some(repository) = &chart.repository {
            command = command.args(["--repo", repository]);
        }
        if let Some(version) = &chart.version {
            command = command.args(["--version", version]);
        }
        command = command.args(["--namespace", &install.namespace, "--include-crds"]);
        command = command.args(["--kube-version", kubernetes]);
        for file in std::iter::once(&ours).chain(&sources.values).chain([&single]) {
            command = command.arg("--values").arg(file);
        }
        let rendered = command.run().await;
        rendered.with_context(|| {
            let next = "name a local one (chart in --sources) where there is no way out";
            match &chart.repository {
                Some(repository) => format!("chart {} of {repository}; {next}", chart.chart),
                None => format!("chart {}", chart.chart),
            }
        })
    }
}

/// Placeholders in every text of the values.
fn fill_all(value: &mut Value, facts: &Facts) -> Result<(), String> {
    match value {
        Value::String(text) => *text = fill(text, facts)?,
        Value::Array(items) => items.iter_mut().try_for_each(|v| fill_all(v, facts))?,
        Value::Object(map) => map.values_mut().try_for_each(|v| fill_all(v, facts))?,
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::kind::fake::Fakes,
        cni::kubernetes::{KeySeed, SetValues},
    };
    use serde_json::json;

    fn facts() -> Facts {
        Facts {
            pod_cidr: "10.244.0.0/16".to_owned(),
            service_cidr: "10.96.0.0/16".to_owned(),
            control_plane: "cp".to_owned(),
            seed: KeySeed::random(),
        }
    }

    fn resolve(spec: &str) -> (KubeCni, Install) {
        let cni = KubeCni::resolve(&spec.parse().unwrap()).unwrap();
        let install = cni.profile.install.clone().unwrap();
        (cni, install)
    }

    /// A helm that keeps the values it was given and prints a manifest.
    const HELM: &str = "n=0; for word in \"$@\"; do
        case $last in --values) cp \"$word\" \"$FAKES/values-$n\"; n=$((n + 1));; esac
        last=$word
    done
    cat \"$FAKES/manifest\"";

    async fn render(fakes: &Fakes, spec: &str, sources: &CniSources) -> anyhow::Result<String> {
        let (cni, install) = resolve(spec);
        let InstallFrom::Chart(chart) = from(&install, sources) else { panic!("no chart") };
        let (cni, facts) = (&cni, &facts());
        let rendering = Rendering { chart: &chart, install: &install, cni, sources, facts };
        rendering.render(&fakes.tools(), "v1.34.2").await
    }

    #[tokio::test]
    async fn a_chart_is_rendered_from_its_repository_with_our_values_and_the_users() {
        let fakes = Fakes::new();
        fakes.program("helm", HELM);
        fs::write(fakes.path("manifest"), "kind: X").unwrap();
        fs::write(fakes.path("user.yaml"), "user: true").unwrap();
        let sources = CniSources {
            values: vec![fakes.path("user.yaml")],
            set: SetValues::from([
                ("flannel.mtu".to_owned(), json!(1400)),
                ("at".to_owned(), json!("${CONTROL_PLANE}")),
            ]),
            ..CniSources::default()
        };
        let text = render(&fakes, "flannel-vxlan:mtu=1300", &sources).await.unwrap();
        assert_eq!(text, "kind: X");
        let call = &fakes.calls("helm")[0];
        let begin = "template flannel flannel --repo https://flannel-io.github.io/flannel/ --version v0.28.10 --namespace kube-flannel --include-crds --kube-version v1.34.2 --values ";
        assert!(call.starts_with(begin), "{call}");
        let value = |n: usize| fs::read_to_string(fakes.path(&format!("values-{n}"))).unwrap();
        assert_eq!(value(0), "podCidr: 10.244.0.0/16\nflannel:\n  backend: vxlan\n");
        assert_eq!(value(1), "user: true");
        assert_eq!(value(2), r#"{"at":"cp","flannel":{"mtu":1400}}"#);
    }

    #[tokio::test]
    async fn a_local_chart_needs_no_repository_and_errors_say_what_helm_said() {
        let fakes = Fakes::new();
        fakes.program("helm", "echo Error: no such host >&2; exit 1");
        let local = CniSources { chart: Some("/charts/cilium".into()), ..CniSources::default() };
        let text = format!("{:#}", render(&fakes, "cilium", &local).await.unwrap_err());
        assert!(
            text.starts_with("chart /charts/cilium: ") && text.contains("no such host"),
            "{text}"
        );
        assert!(fakes.calls("helm")[0].starts_with("template cilium /charts/cilium --namespace"));
        let text =
            format!("{:#}", render(&fakes, "cilium", &CniSources::default()).await.unwrap_err());
        assert!(text.contains("chart in --sources"), "{text}");
    }

    #[test]
    fn flannels_ipsec_gets_a_key_and_ciliums_a_secret() {
        let (_, install) = resolve("flannel-ipsec");
        let chart = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kube-flannel-cfg}\ndata: {net-conf.json: x}\n";
        let objects = objects(chart, &install, &facts()).unwrap();
        let conf = objects.iter().find(|o| o["kind"] == json!("ConfigMap")).unwrap();
        let conf: Value =
            serde_json::from_str(conf["data"]["net-conf.json"].as_str().unwrap()).unwrap();
        assert_eq!(conf["Network"], json!("10.244.0.0/16"));
        assert_eq!(conf["Backend"]["Type"], json!("ipsec"));
        assert!(conf["Backend"]["PSK"].as_str().unwrap().len() >= 96);
        let (_, install) = resolve("cilium-ipsec");
        let facts = facts();
        let objects = super::objects("", &install, &facts).unwrap();
        // Installed again, as Hubble is switched, it keeps its key.
        assert_eq!(objects, super::objects("", &install, &facts).unwrap());
        let keys = objects[0]["stringData"]["keys"].as_str().unwrap();
        let words: Vec<&str> = keys.split(' ').collect();
        assert_eq!(
            (words[0], words[1], words[2].len(), words[3]),
            ("3+", "rfc4106(gcm(aes))", 40, "128")
        );
        assert_eq!(objects[0]["metadata"]["namespace"], json!("kube-system"));
    }

    #[test]
    fn a_manifest_of_the_users_takes_the_place_of_the_chart() {
        let (_, install) = resolve("flannel-vxlan");
        let sources = CniSources { manifest: Some("/m.yaml".into()), ..CniSources::default() };
        assert_eq!(from(&install, &sources), InstallFrom::Manifest("/m.yaml".into()));
        let (cni, _) = resolve("cilium:hubble=on");
        let lines = details(&cni, &CniSources::default());
        assert_eq!(
            lines,
            [
                "chart cilium 1.20.2 in namespace kube-system",
                "Hubble on",
                "values beside its profile's: hubble.enabled=true, hubble.tls.enabled=false",
            ]
        );
    }
}

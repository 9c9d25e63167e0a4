//! Where things come from on a machine without a way out: node image, charts, manifests, image archives.
//!
//! Owns the file that `--sources` names. Nothing is fetched or loaded here; the provider does that.

use crate::cni::kubernetes::{SetValues, nested};
use cnibench_model::nearest::did_you_mean;
use cnibench_scenarios::SuiteError;
use serde::Deserialize;
use serde_spanned::Spanned;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// A checked sources file, or the defaults: everything from where its makers publish it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sources {
    /// Name of the image of the nodes.
    pub node_image: Option<String>,
    /// An archive that holds it, loaded when Docker does not have the image.
    pub node_image_archive: Option<PathBuf>,
    /// A folder of CNI plugins for nodes that lack one.
    pub cni_plugins: Option<PathBuf>,
    /// The docker command.
    pub docker: Option<PathBuf>,
    /// The kind command.
    pub kind: Option<PathBuf>,
    /// The helm command.
    pub helm: Option<PathBuf>,
    cni: BTreeMap<String, CniSources>,
    family: BTreeMap<String, CniSources>,
    /// Entries of cnis that are not built in, with what is wrong when no cni is called so.
    unknown: Unknown,
}

/// Where the things of one cni come from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CniSources {
    /// A folder or an archive in the place of the profile's chart.
    pub chart: Option<PathBuf>,
    /// A manifest in the place of the profile's chart.
    pub manifest: Option<PathBuf>,
    /// Archives of images that are loaded into the nodes.
    pub images: Vec<PathBuf>,
    /// Values of the chart, after ours.
    pub values: Vec<PathBuf>,
    /// Values of the chart by dotted path, after those.
    pub set: SetValues,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    node_image: Option<String>,
    node_image_archive: Option<Spanned<String>>,
    cni_plugins: Option<Spanned<String>>,
    docker: Option<Spanned<String>>,
    kind: Option<Spanned<String>>,
    helm: Option<Spanned<String>>,
    #[serde(default)]
    cni: BTreeMap<Spanned<String>, RawCni>,
    #[serde(default)]
    family: BTreeMap<Spanned<String>, RawCni>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCni {
    chart: Option<Spanned<String>>,
    manifest: Option<Spanned<String>>,
    #[serde(default)]
    images: Vec<Spanned<String>>,
    values: Option<Spanned<String>>,
    set: Option<Spanned<SetValues>>,
}

/// What a path must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Must {
    File,
    Folder,
    Either,
}

type Unknown = BTreeMap<String, SuiteError>;

struct Checked<'a> {
    file: &'a str,
    text: &'a str,
    folder: &'a Path,
}

impl Checked<'_> {
    fn error<T>(&self, at: &Spanned<T>, message: String) -> SuiteError {
        SuiteError::at(self.file, self.text, at.span(), message)
    }

    fn path(&self, name: &Spanned<String>, must: Must) -> Result<PathBuf, SuiteError> {
        let path = self.folder.join(name.get_ref());
        // Commands run elsewhere than where the file was named.
        let path = std::path::absolute(&path)
            .map_err(|e| self.error(name, format!("{}: {e}", path.display())))?;
        let at = path.display();
        let kind = fs::metadata(&path).map_err(|e| self.error(name, format!("{at}: {e}")))?;
        let says = match must {
            Must::File if !kind.is_file() => "is no file",
            Must::Folder if !kind.is_dir() => "is no folder",
            _ => return Ok(path),
        };
        Err(self.error(name, format!("{at} {says}")))
    }

    fn optional(
        &self,
        name: &Option<Spanned<String>>,
        must: Must,
    ) -> Result<Option<PathBuf>, SuiteError> {
        name.as_ref().map(|n| self.path(n, must)).transpose()
    }

    /// A command: a path when it has a slash, else a name to be found in PATH.
    fn command(&self, name: &Option<Spanned<String>>) -> Result<Option<PathBuf>, SuiteError> {
        match name {
            Some(n) if !n.get_ref().contains('/') => Ok(Some(n.get_ref().into())),
            name => self.optional(name, Must::File),
        }
    }

    fn cni(&self, raw: &RawCni) -> Result<CniSources, SuiteError> {
        if let (Some(_), Some(manifest)) = (&raw.chart, &raw.manifest) {
            let says = "a cni comes from a chart or from a manifest, not from both";
            return Err(self.error(manifest, says.to_owned()));
        }
        if let Some(set) = &raw.set {
            nested(set.get_ref()).map_err(|e| self.error(set, e))?;
        }
        Ok(CniSources {
            chart: self.optional(&raw.chart, Must::Either)?,
            manifest: self.optional(&raw.manifest, Must::File)?,
            images: raw
                .images
                .iter()
                .map(|i| self.path(i, Must::File))
                .collect::<Result<_, _>>()?,
            values: self.optional(&raw.values, Must::File)?.into_iter().collect(),
            set: raw.set.as_ref().map(|s| s.get_ref().clone()).unwrap_or_default(),
        })
    }

    fn all(
        &self,
        raw: &BTreeMap<Spanned<String>, RawCni>,
        what: &str,
        known: &[&str],
    ) -> Result<BTreeMap<String, CniSources>, SuiteError> {
        raw.iter()
            .map(|(name, raw)| {
                self.known(name, what, known)?;
                Ok((name.get_ref().clone(), self.cni(raw)?))
            })
            .collect()
    }

    fn known(&self, name: &Spanned<String>, what: &str, known: &[&str]) -> Result<(), SuiteError> {
        if known.contains(&name.get_ref().as_str()) {
            return Ok(());
        }
        let near = did_you_mean(name.get_ref(), known.iter().copied());
        Err(self.error(name, format!("unknown {what} {:?}{near}", name.get_ref())))
    }

    /// Names that are not built in: a cni of the user's is called so, or none is.
    fn unknown(&self, raw: &BTreeMap<Spanned<String>, RawCni>, built_in: &[&str]) -> Unknown {
        let errors = raw.keys().filter_map(|name| {
            let error = self.known(name, "cni", built_in).err()?;
            Some((name.get_ref().clone(), error))
        });
        errors.collect()
    }
}

impl Sources {
    /// Reads and checks a file. `families` may have an entry, and so may `cnis`, which are built in, and
    /// those of the user's, which [`Self::check_names`] looks at.
    ///
    /// # Errors
    /// The file cannot be read, or the first thing that is wrong, with its line.
    pub fn read(path: &Path, cnis: &[&str], families: &[&str]) -> anyhow::Result<Self> {
        let file = path.display().to_string();
        let text = fs::read_to_string(path)
            .map_err(|e| anyhow::anyhow!("the sources file {file} cannot be read: {e}"))?;
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        Ok(Self::parse(&file, &text, folder, cnis, families)?)
    }

    fn parse(
        file: &str,
        text: &str,
        folder: &Path,
        cnis: &[&str],
        families: &[&str],
    ) -> Result<Self, SuiteError> {
        let raw: Raw = toml::from_str(text).map_err(|e| SuiteError::from_toml(file, text, &e))?;
        let checked = Checked { file, text, folder };
        if let (Some(archive), None) = (&raw.node_image_archive, &raw.node_image) {
            let says = "say also node_image = \"NAME:TAG\", the name of the image in it";
            return Err(checked.error(archive, says.to_owned()));
        }
        Ok(Self {
            node_image_archive: checked.optional(&raw.node_image_archive, Must::File)?,
            cni_plugins: checked.optional(&raw.cni_plugins, Must::Folder)?,
            docker: checked.command(&raw.docker)?,
            kind: checked.command(&raw.kind)?,
            helm: checked.command(&raw.helm)?,
            unknown: checked.unknown(&raw.cni, cnis),
            cni: checked.all(
                &raw.cni,
                "cni",
                &raw.cni.keys().map(|n| n.get_ref().as_str()).collect::<Vec<_>>(),
            )?,
            family: checked.all(&raw.family, "family", families)?,
            node_image: raw.node_image,
        })
    }

    /// Has every entry a cni? `custom` are the names of cnis that are not built in.
    ///
    /// # Errors
    /// The line of one that has none.
    pub fn check_names(&self, custom: &[&str]) -> Result<(), SuiteError> {
        let nobodys = self.unknown.iter().find(|(name, _)| !custom.contains(&name.as_str()));
        nobodys.map_or(Ok(()), |(_, error)| Err(error.clone()))
    }

    /// What holds for a cni: its family's entry, then its own. Lists are joined, values of the chart
    /// merged, the rest replaced.
    pub fn of(&self, cni: &str, family: &str) -> CniSources {
        let mut all = self.family.get(family).cloned().unwrap_or_default();
        let Some(own) = self.cni.get(cni).cloned() else { return all };
        if own.chart.is_some() || own.manifest.is_some() {
            (all.chart, all.manifest) = (own.chart, own.manifest);
        }
        all.images.extend(own.images);
        all.values.extend(own.values);
        all.set.extend(own.set);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CNIS: &[&str] = &["cilium", "cilium-native", "flannel-vxlan"];
    const FAMILIES: &[&str] = &["cilium", "flannel"];

    fn parse(folder: &Path, text: &str) -> Result<Sources, String> {
        Sources::parse("s.toml", text, folder, CNIS, FAMILIES).map_err(|e| e.to_string())
    }

    #[test]
    fn a_cni_inherits_from_its_family() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["c.tar", "d.tar", "v.yaml", "m.yaml"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir(dir.path().join("chart")).unwrap();
        let text = r#"
            node_image = "node:1"
            kind = "kind"
            cni_plugins = "chart"
            [family.cilium]
            chart = "chart"
            images = ["c.tar"]
            set = { "a.b" = 1, c = "x" }
            [cni.cilium-native]
            images = ["d.tar"]
            values = "v.yaml"
            set = { "a.b" = 2 }
            [cni.cilium]
            manifest = "m.yaml"
        "#;
        let sources = parse(dir.path(), text).unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(sources.node_image.as_deref(), Some("node:1"));
        assert_eq!((&sources.kind, &sources.helm), (&Some("kind".into()), &None));
        assert_eq!(sources.cni_plugins, Some(at("chart")));
        let native = sources.of("cilium-native", "cilium");
        assert_eq!(native.chart, Some(at("chart")));
        assert_eq!(native.images, [at("c.tar"), at("d.tar")]);
        assert_eq!(native.values, [at("v.yaml")]);
        assert_eq!(native.set, [("a.b".into(), json!(2)), ("c".into(), json!("x"))].into());
        let plain = sources.of("cilium", "cilium");
        assert_eq!((plain.chart, plain.manifest), (None, Some(at("m.yaml"))));
        assert_eq!(sources.of("flannel-vxlan", "flannel"), CniSources::default());
    }

    #[test]
    fn a_cni_of_the_users_has_an_entry_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("i.tar"), "").unwrap();
        let text = "[cni.mine]\nimages = [\"i.tar\"]\n[cni.cillium]\n";
        let sources = parse(dir.path(), text).unwrap();
        assert_eq!(sources.of("mine", "custom").images, [dir.path().join("i.tar")]);
        assert!(sources.check_names(&["mine", "cillium"]).is_ok());
        let error = sources.check_names(&["mine"]).unwrap_err().to_string();
        let expected = "s.toml:3:6: unknown cni \"cillium\"; did you mean \"cilium\"?";
        assert!(error.starts_with(expected), "{error}");
        assert!(sources.check_names(&[]).unwrap_err().to_string().contains("\"cillium\""));
    }

    #[test]
    fn errors_say_where() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "").unwrap();
        for (text, expected) in [
            ("nodeimage = \"x\"", "s.toml:1:1: unknown field `nodeimage`"),
            ("nodeimage = \"x\"", "did you mean \"node_image\"?"),
            ("cni_plugins = \"f\"", "s.toml:1:15: "),
            ("cni_plugins = \"f\"", "/f is no folder"),
            ("\n[cni.cilium]\nimages = [\"f\", \"no\"]", "s.toml:3:16: "),
            ("[family.calico]\n", "unknown family \"calico\"; expected cilium, flannel"),
            ("[cni.cilium]\nchart = \"f\"\nmanifest = \"f\"", "not from both"),
            ("[cni.cilium]\nset = { a = 1, \"a.b\" = 2 }", "leads through another value"),
            ("node_image_archive = \"f\"", "say also node_image"),
            ("kind = \"bin/kind\"", "bin/kind: No such file"),
        ] {
            let error = parse(dir.path(), text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}

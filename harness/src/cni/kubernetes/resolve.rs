//! From a spec on the command line to a profile with its parameters settled.

use super::{InstallFrom, KubeProfile, SetValues, catalog, file};
use crate::{
    cluster::ClusterError,
    cni::params::{Param, Settings, check_names},
};
use cnibench_model::{CniSpec, nearest::did_you_mean};
use serde_json::json;
use std::{fs, path::Path};

/// The name under which a user's own file is named.
const CUSTOM: &str = "custom";

/// A real CNI with its parameters settled.
#[derive(Debug, Clone, PartialEq)]
pub struct KubeCni {
    /// As asked for.
    pub spec: CniSpec,
    /// Its profile, the version replaced by the one asked for.
    pub profile: KubeProfile,
    /// Values of the chart that parameters set.
    pub set: SetValues,
    /// Is its flow observer on? None when it has none.
    pub hubble: Option<bool>,
}

/// Every parameter there is; a profile takes those that it has a use for.
const VERSION: Param = Param { name: "version", help: "the chart's version" };
const MTU: Param = Param { name: "mtu", help: "the pods' MTU; what the cni finds by default" };
const HUBBLE: Param =
    Param { name: "hubble", help: "the flow observer, on or off; off by default" };
const PATH: Param =
    Param { name: "path", help: "the profile, a TOML file like kind-configs/*/cni.toml" };

impl KubeProfile {
    /// Parameters that it takes.
    pub fn params(&self) -> Vec<Param> {
        let versioned = match self.install.as_ref().map(|i| &i.from) {
            Some(InstallFrom::Chart(chart)) => chart.version.is_some(),
            _ => false,
        };
        [(VERSION, versioned), (MTU, self.mtu.is_some()), (HUBBLE, self.flows.is_some())]
            .into_iter()
            .filter_map(|(param, has)| has.then_some(param))
            .collect()
    }
}

impl KubeCni {
    /// Names, parameters and, for `custom`, the file are checked.
    ///
    /// # Errors
    /// `Usage` with the nearest name, the range of a value, or the line of a file.
    pub fn resolve(spec: &CniSpec) -> Result<Self, ClusterError> {
        let custom = spec.name == CUSTOM;
        let mut profile = if custom { read(spec)? } else { built_in(spec)?.clone() };
        let mut params = profile.params();
        if custom {
            params.insert(0, PATH);
        }
        check_names(spec, &params)?;
        let settings = Settings::new(spec);
        let mut set = SetValues::new();
        if let (Some(version), Some(install)) = (settings.text(VERSION.name), &mut profile.install)
            && let InstallFrom::Chart(chart) = &mut install.from
        {
            chart.version = Some(version.to_owned());
        }
        if let Some(mtu) = &profile.mtu {
            let pods: u32 = settings.number(MTU.name, 0, 576..=65_535 - mtu.overhead)?;
            if pods != 0 {
                set.insert(mtu.value.clone(), json!(pods + mtu.overhead));
            }
        }
        let mut hubble = None;
        if let Some(flows) = &profile.flows {
            let on = match settings.text(HUBBLE.name) {
                Some("on") => true,
                None | Some("off") => false,
                Some(_) => return Err(settings.wrong(HUBBLE.name, "on or off")),
            };
            set.extend(if on { flows.on.clone() } else { flows.off.clone() });
            hubble = Some(on);
        }
        Ok(Self { spec: spec.clone(), profile, set, hubble })
    }

    /// The same cni with its flow observer switched; None when it has none.
    pub fn with_hubble(&self, on: bool) -> Option<Self> {
        let flows = self.profile.flows.as_ref()?;
        let mut other = self.clone();
        other.set.extend(if on { flows.on.clone() } else { flows.off.clone() });
        other.hubble = Some(on);
        Some(other)
    }
}

fn built_in(spec: &CniSpec) -> Result<&'static KubeProfile, ClusterError> {
    let profiles = catalog::embedded().map_err(ClusterError::Usage)?;
    profiles.iter().find(|p| p.name == spec.name).ok_or_else(|| {
        let near = did_you_mean(&spec.name, catalog::names().chain([CUSTOM]));
        ClusterError::Usage(format!(
            "unknown cni {:?}{near} (`cnibench list cnis --provider kind` names them all)",
            spec.name
        ))
    })
}

fn read(spec: &CniSpec) -> Result<KubeProfile, ClusterError> {
    let Some(path) = spec.params.get(PATH.name) else {
        return Err(ClusterError::Usage(
            "cni custom: say which, custom:path=FILE.toml (a file like kind-configs/*/cni.toml)"
                .to_owned(),
        ));
    };
    let text = fs::read_to_string(path)
        .map_err(|e| ClusterError::Usage(format!("cni {spec}: {path} cannot be read: {e}")))?;
    let folder = Path::new(path).parent().unwrap_or_else(|| Path::new("."));
    file::parse(path, &text, &file::Files::In(folder))
        .map_err(|e| ClusterError::Usage(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(spec: &str) -> Result<KubeCni, String> {
        KubeCni::resolve(&spec.parse().unwrap()).map_err(|e| e.to_string())
    }

    fn version(cni: &KubeCni) -> Option<&str> {
        match &cni.profile.install.as_ref()?.from {
            InstallFrom::Chart(chart) => chart.version.as_deref(),
            _ => None,
        }
    }

    #[test]
    fn parameters_become_values_of_the_chart() {
        let cni = resolve("flannel-vxlan:mtu=1400,version=v0.28.0").unwrap();
        assert_eq!(cni.set["flannel.mtu"], json!(1450));
        assert_eq!(version(&cni), Some("v0.28.0"));
        let cni = resolve("cilium:hubble=on").unwrap();
        assert_eq!((cni.hubble, &cni.set["hubble.enabled"]), (Some(true), &json!(true)));
        let off = cni.with_hubble(false).unwrap();
        assert_eq!((off.hubble, &off.set["hubble.enabled"]), (Some(false), &json!(false)));
        assert_eq!(resolve("host").unwrap().with_hubble(true), None);
    }

    #[test]
    fn wrong_words_are_answered() {
        for (spec, expected) in [
            ("flanel-vxlan", "did you mean \"flannel-vxlan\"?"),
            ("host:version=1", "takes no parameters"),
            ("flannel-host-gw:mtu=1400", "has no parameter \"mtu\""),
            ("cilium:hubble=yes", "is not on or off"),
            ("flannel-vxlan:mtu=65500", "576 to 65485"),
            ("custom", "custom:path=FILE.toml"),
            ("custom:path=/no/such.toml", "/no/such.toml cannot be read"),
        ] {
            let text = resolve(spec).unwrap_err();
            assert!(text.contains(expected), "{spec}: {text}");
        }
    }

    #[test]
    fn a_profile_of_the_users_is_read_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mine.toml");
        let text = "name = \"mine\"\nfamily = \"custom\"\ndescription = \"d\"\nencrypted = false\nenforces_policies = true\n[install]\ncommand = [\"cilium\", \"install\"]\n";
        fs::write(&file, text).unwrap();
        let cni = resolve(&format!("custom:path={}", file.display())).unwrap();
        assert_eq!(cni.profile.name, "mine");
        let command = InstallFrom::Command(vec!["cilium".to_owned(), "install".to_owned()]);
        assert_eq!(cni.profile.install.unwrap().from, command);
        let text = text.replace("name", "nam");
        fs::write(&file, text).unwrap();
        let error = resolve(&format!("custom:path={}", file.display())).unwrap_err();
        assert!(error.contains("mine.toml:1:1: unknown field `nam`"), "{error}");
    }
}

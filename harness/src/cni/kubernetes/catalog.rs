//! The profiles that are built into the binary, in the order in which people see them.

use super::{
    KubeProfile,
    file::{Files, parse},
};
use std::sync::OnceLock;

/// The files of a folder of kind-configs.
struct Folder {
    name: &'static str,
    cni: &'static str,
    files: &'static [(&'static str, &'static str)],
}

macro_rules! folder {
    ($name:literal, [$($file:literal),*]) => {
        Folder {
            name: $name,
            cni: include_str!(concat!("../../../../kind-configs/", $name, "/cni.toml")),
            files: &[$((
                $file,
                include_str!(concat!("../../../../kind-configs/", $name, "/", $file)),
            )),*],
        }
    };
}

const FOLDERS: &[Folder] = &[
    folder!("host", ["kind.yaml"]),
    folder!("flannel-host-gw", ["kind.yaml", "values.yaml"]),
    folder!("flannel-vxlan", ["kind.yaml", "values.yaml"]),
    folder!("flannel-wireguard", ["kind.yaml", "values.yaml"]),
    folder!("flannel-ipsec", ["kind.yaml", "values.yaml"]),
    folder!("cilium", ["kind.yaml", "values.yaml"]),
    folder!("cilium-kpr", ["kind.yaml", "values.yaml"]),
    folder!("cilium-native", ["kind.yaml", "values.yaml"]),
    folder!("cilium-wireguard", ["kind.yaml", "values.yaml"]),
    folder!("cilium-ipsec", ["kind.yaml", "values.yaml"]),
];

/// The names of all profiles, without parsing them.
pub fn names() -> impl Iterator<Item = &'static str> {
    FOLDERS.iter().map(|f| f.name)
}

/// All profiles that are built in.
///
/// # Errors
/// When one of them is broken, which a test keeps from being released.
pub fn embedded() -> Result<&'static [KubeProfile], String> {
    static PROFILES: OnceLock<Result<Vec<KubeProfile>, String>> = OnceLock::new();
    PROFILES
        .get_or_init(|| {
            FOLDERS
                .iter()
                .map(|folder| {
                    let file = format!("kind-configs/{}/cni.toml", folder.name);
                    parse(&file, folder.cni, &Files::BuiltIn(folder.files))
                        .map_err(|e| e.to_string())
                })
                .collect()
        })
        .as_deref()
        .map_err(Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_folder_is_built_in_and_sound() {
        let profiles = embedded().unwrap();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../kind-configs");
        let mut there: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .flatten()
            .filter(|e| e.path().is_dir())
            .map(|e| e.file_name().into_string().unwrap())
            .collect();
        let mut ours: Vec<String> = profiles.iter().map(|p| p.name.clone()).collect();
        there.sort();
        ours.sort();
        assert_eq!(ours, there);
        assert!(names().eq(profiles.iter().map(|p| p.name.as_str())));
    }

    #[test]
    fn what_encrypts_says_how() {
        for p in embedded().unwrap() {
            assert_eq!(p.encrypted, p.encryption.is_some(), "{}", p.name);
            assert_eq!(p.host_network, p.install.is_none(), "{}", p.name);
            assert!(!p.path.carries.is_empty(), "{}", p.name);
            assert!(p.install.is_none() || p.agent.is_some(), "{}", p.name);
        }
    }
}

//! The config that kind makes a cluster from: the profile's network part, with the suite's nodes added.

use crate::{
    cluster::{ClusterError, IpFamily, Topology},
    cni::kubernetes::{Facts, KeySeed, KubeProfile},
};
use cnibench_model::CniSpec;
use serde_json::{Map, Value, json};

/// More nodes than this are more kubelets on one kernel than kind is made for.
pub const MAX_NODES: u32 = 50;
/// The MTU of Docker's networks when nobody set another.
pub const DOCKER_MTU: u32 = 1500;
/// What kind and Kubernetes take when a config names no range.
const POD_SUBNET: &str = "10.244.0.0/16";
const SERVICE_SUBNET: &str = "10.96.0.0/16";

/// A cluster's config, and what it settles for the cni.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// YAML for `kind create cluster --config`.
    pub yaml: String,
    /// What the profile's placeholders stand for.
    pub facts: Facts,
}

/// Can kind make a cluster of this shape?
///
/// # Errors
/// `Usage`.
pub fn check_topology(cni: &CniSpec, topology: &Topology) -> Result<(), ClusterError> {
    let usage = |text: String| Err(ClusterError::Usage(text));
    if topology.nodes > MAX_NODES {
        return usage(format!(
            "{} nodes: the kind provider makes up to {MAX_NODES}; --provider kubeconfig measures larger clusters",
            topology.nodes
        ));
    }
    if topology.underlay_mtu != DOCKER_MTU {
        return usage(format!(
            "underlay_mtu = {}: nodes of kind are on Docker's network `kind`, whose MTU is {DOCKER_MTU}; leave it out",
            topology.underlay_mtu
        ));
    }
    if topology.family != IpFamily::V4 {
        return Err(ClusterError::Unsupported {
            cni: cni.clone(),
            reason: "the kind provider makes IPv4 clusters only: use family = \"v4\", or the netns provider".to_owned(),
        });
    }
    Ok(())
}

/// The config of a cluster of `nodes` nodes that is called `cluster`.
///
/// # Errors
/// A sentence when the profile's part is no kind config, or says what the harness must say.
pub fn config(profile: &KubeProfile, cluster: &str, nodes: u32) -> Result<Config, String> {
    let wrong = |what: &str| format!("kind config of cni {}: {what}", profile.name);
    let value: Value =
        serde_saphyr::from_str(&profile.kind).map_err(|e| wrong(&format!("not YAML: {e}")))?;
    let Value::Object(mut root) = value else { return Err(wrong("not a mapping")) };
    if root.get("kind") != Some(&json!("Cluster")) {
        return Err(wrong("it must say `kind: Cluster` and `apiVersion: kind.x-k8s.io/v1alpha4`"));
    }
    for (key, why) in [
        ("nodes", "the suite's topology says the nodes"),
        ("name", "a cluster is named by its run"),
    ] {
        if root.contains_key(key) {
            return Err(wrong(&format!("`{key}` must not be in it: {why}")));
        }
    }
    let networking = root.entry("networking").or_insert_with(|| Value::Object(Map::new()));
    let Value::Object(networking) = networking else {
        return Err(wrong("`networking` is not a mapping"));
    };
    let mut range = |key: &str, otherwise: &str| {
        let range = networking.entry(key).or_insert_with(|| json!(otherwise));
        range.as_str().map(str::to_owned).ok_or_else(|| wrong(&format!("`{key}` is no text")))
    };
    let facts = Facts {
        pod_cidr: range("podSubnet", POD_SUBNET)?,
        service_cidr: range("serviceSubnet", SERVICE_SUBNET)?,
        // kind's name for the container, which Docker's resolver knows on every node.
        control_plane: format!("{cluster}-control-plane"),
        seed: KeySeed::random(),
    };
    let mut list = vec![json!({
        "role": "control-plane",
        // Without its taint it carries pods like every other node.
        "kubeadmConfigPatches": ["kind: InitConfiguration\nnodeRegistration:\n  taints: []\n"],
    })];
    list.extend((1..nodes).map(|_| json!({ "role": "worker" })));
    root.insert("nodes".to_owned(), Value::Array(list));
    let yaml = serde_saphyr::to_string(&Value::Object(root)).map_err(|e| wrong(&e.to_string()))?;
    Ok(Config { yaml, facts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::kubernetes::{KubeCni, embedded};

    fn profile(name: &str) -> KubeProfile {
        KubeCni::resolve(&CniSpec::named(name)).unwrap().profile
    }

    #[test]
    fn the_config_is_this() {
        let config = config(&profile("cilium-kpr"), "cnb-abcdef-c0", 3).unwrap();
        assert_eq!(config.yaml, include_str!("golden/cilium-kpr.yaml"));
        assert_eq!(config.facts.control_plane, "cnb-abcdef-c0-control-plane");
        assert_eq!(config.facts.pod_cidr, "10.244.0.0/16");
    }

    #[test]
    fn every_profile_makes_one() {
        for profile in embedded().unwrap() {
            for nodes in [1, 2] {
                let text = config(profile, "x", nodes).unwrap().yaml;
                let back: Value = serde_saphyr::from_str(&text).unwrap();
                assert_eq!(back["nodes"].as_array().unwrap().len(), nodes as usize);
                assert_eq!(back["networking"]["disableDefaultCNI"], json!(true));
            }
        }
    }

    #[test]
    fn what_the_harness_says_stands_in_no_profile() {
        let mut profile = profile("host");
        for (text, expected) in [
            ("kind: Cluster\nnodes: []\n", "`nodes` must not be in it"),
            ("kind: Cluster\nname: x\n", "named by its run"),
            ("kind: Deployment\n", "it must say `kind: Cluster`"),
            ("[]", "not a mapping"),
            ("a: [", "not YAML"),
            ("kind: Cluster\nnetworking: 1\n", "`networking` is not a mapping"),
            ("kind: Cluster\nnetworking: {podSubnet: 1}\n", "`podSubnet` is no text"),
        ] {
            profile.kind = text.to_owned();
            let error = config(&profile, "x", 2).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn shapes_that_kind_cannot_make_are_refused() {
        let cni = CniSpec::named("cilium");
        let check = |t: Topology| check_topology(&cni, &t).map_err(|e| e.to_string());
        assert_eq!(check(Topology::default()), Ok(()));
        let large = Topology { nodes: 1000, ..Topology::default() };
        assert!(check(large).unwrap_err().contains("--provider kubeconfig"));
        let jumbo = Topology { underlay_mtu: 9000, ..Topology::default() };
        assert!(check(jumbo).unwrap_err().contains("leave it out"));
        let v6 = Topology { family: IpFamily::V6, ..Topology::default() };
        assert!(check(v6).unwrap_err().starts_with("cilium: "));
    }
}

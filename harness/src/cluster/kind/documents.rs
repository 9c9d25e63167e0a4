//! The objects of a manifest: read from YAML, changed where a profile says so, in the order in which
//! they can be made. Pure.

use crate::cni::kubernetes::{Facts, Install, Replace, fill};
use serde_json::{Value, json};

/// Namespaces that every cluster has.
const THERE: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
/// What others need comes first; kinds that are not named come last.
const ORDER: &[&str] = &[
    "Namespace",
    "CustomResourceDefinition",
    "PriorityClass",
    "ServiceAccount",
    "Secret",
    "ConfigMap",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Service",
    "DaemonSet",
    "Deployment",
];

/// The objects of a manifest, lists taken apart.
///
/// # Errors
/// What is no YAML, or no object of Kubernetes.
pub fn parse(text: &str) -> Result<Vec<Value>, String> {
    let options = serde_saphyr::options! {
        // `defaultMode: 0400` is octal to Kubernetes, whose YAML is 1.1.
        legacy_octal_numbers: true,
    };
    let documents: Vec<Value> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|e| e.to_string())?;
    let mut objects = Vec::new();
    for document in documents {
        match document {
            Value::Null => {}
            Value::Object(mut list) if list.get("kind") == Some(&json!("List")) => {
                match list.remove("items") {
                    Some(Value::Array(items)) => objects.extend(items),
                    _ => return Err("a List without items".to_owned()),
                }
            }
            object => objects.push(object),
        }
    }
    for object in &objects {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        if text("/apiVersion").is_none()
            || text("/kind").is_none()
            || text("/metadata/name").is_none()
        {
            let shown: String = object.to_string().chars().take(120).collect();
            return Err(format!("not an object with apiVersion, kind and metadata.name: {shown}"));
        }
    }
    Ok(objects)
}

/// Makes a cni's objects ready to be applied: its namespace and secrets added, fields replaced, sorted.
///
/// # Errors
/// A field to be replaced that is not there, or a placeholder that is unknown.
pub fn prepare(
    mut objects: Vec<Value>,
    install: &Install,
    facts: &Facts,
) -> Result<Vec<Value>, String> {
    for replace in &install.replace {
        apply_replace(&mut objects, replace, facts)?;
    }
    for secret in &install.secrets {
        let mut data = serde_json::Map::new();
        for (key, text) in &secret.data {
            data.insert(key.clone(), json!(fill(text, facts)?));
        }
        objects.push(json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": secret.name, "namespace": install.namespace },
            "stringData": data,
        }));
    }
    let namespace = install.namespace.as_str();
    if !THERE.contains(&namespace) && !objects.iter().any(|o| is(o, "Namespace", namespace)) {
        objects.push(json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {
                "name": namespace,
                // A cni's pods work on their node's network.
                "labels": { "pod-security.kubernetes.io/enforce": "privileged" },
            },
        }));
    }
    let place = |object: &Value| {
        let kind = object["kind"].as_str().unwrap_or_default();
        ORDER.iter().position(|k| *k == kind).unwrap_or(ORDER.len())
    };
    objects.sort_by_key(place);
    Ok(objects)
}

fn is(object: &Value, kind: &str, name: &str) -> bool {
    object["kind"] == json!(kind) && object["metadata"]["name"] == json!(name)
}

fn apply_replace(objects: &mut [Value], replace: &Replace, facts: &Facts) -> Result<(), String> {
    let Replace { kind, name, field, with } = replace;
    let found = objects.iter_mut().filter(|o| is(o, kind, name));
    let mut done = false;
    for object in found {
        let there = object
            .pointer_mut(field)
            .ok_or_else(|| format!("{kind} {name} has no field {field} to be replaced"))?;
        *there = json!(fill(with, facts)?);
        done = true;
    }
    if done {
        Ok(())
    } else {
        Err(format!("there is no {kind} {name} whose {field} is to be replaced"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::kubernetes::{InstallFrom, KeySeed, Secret};

    fn facts() -> Facts {
        Facts {
            pod_cidr: "10.244.0.0/16".to_owned(),
            service_cidr: "10.96.0.0/16".to_owned(),
            control_plane: "c".to_owned(),
            seed: KeySeed::random(),
        }
    }

    fn install(namespace: &str) -> Install {
        Install {
            namespace: namespace.to_owned(),
            from: InstallFrom::Command(Vec::new()),
            secrets: vec![Secret {
                name: "keys".to_owned(),
                data: [("keys".to_owned(), "3+ ${HEX:20}".to_owned())].into(),
            }],
            replace: vec![Replace {
                kind: "ConfigMap".to_owned(),
                name: "cfg".to_owned(),
                field: "/data/net-conf.json".to_owned(),
                with: "{\"Network\": \"${POD_CIDR}\"}".to_owned(),
            }],
        }
    }

    const MANIFEST: &str = "---
# Source: x
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: ds}
spec: {mode: 0400}
---
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: cfg}
  data: {net-conf.json: '{}'}
- apiVersion: v1
  kind: ServiceAccount
  metadata: {name: sa}
";

    #[test]
    fn objects_are_changed_completed_and_sorted() {
        let objects = prepare(parse(MANIFEST).unwrap(), &install("flannel"), &facts()).unwrap();
        let kinds: Vec<_> = objects.iter().map(|o| o["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["Namespace", "ServiceAccount", "Secret", "ConfigMap", "DaemonSet"]);
        assert_eq!(objects[0]["metadata"]["name"], json!("flannel"));
        assert_eq!(objects[2]["stringData"]["keys"].as_str().unwrap().len(), 43);
        assert_eq!(objects[3]["data"]["net-conf.json"], json!("{\"Network\": \"10.244.0.0/16\"}"));
        assert_eq!(objects[4]["spec"]["mode"], json!(0o400), "octal, as Kubernetes reads it");
        let objects = prepare(parse(MANIFEST).unwrap(), &install("kube-system"), &facts()).unwrap();
        assert_eq!(
            objects[0]["kind"],
            json!("ServiceAccount"),
            "a namespace that is there is not made"
        );
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        assert!(parse("a: [").is_err());
        assert!(parse("kind: X\n").unwrap_err().contains("apiVersion, kind and metadata.name"));
        let mut i = install("kube-system");
        i.replace[0].field = "/data/no".to_owned();
        let text = prepare(parse(MANIFEST).unwrap(), &i, &facts()).unwrap_err();
        assert_eq!(text, "ConfigMap cfg has no field /data/no to be replaced");
        i.replace[0].name = "other".to_owned();
        let text = prepare(parse(MANIFEST).unwrap(), &i, &facts()).unwrap_err();
        assert!(text.starts_with("there is no ConfigMap other"), "{text}");
    }
}

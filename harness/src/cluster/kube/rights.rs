//! The rights that a run needs in a cluster: asked before anything is made, printed by `rbac`.

use super::access::{Access, Right};
use anyhow::bail;
use serde_json::{Value, json};

/// What a run is going to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scope {
    /// It makes a namespace of its own.
    pub own_namespace: bool,
    /// It measures the node-pair matrix.
    pub matrix: bool,
    /// It reads what the cni's own pods cost, their logs and status.
    pub cni_pods: bool,
}

const fn right(
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    verb: &'static str,
    needed_for: &'static str,
) -> Right {
    Right { group, resource, subresource, verb, cluster_wide: false, needed_for }
}

const fn cluster_wide(right: Right) -> Right {
    Right { cluster_wide: true, ..right }
}

const PODS: &str = "workload pods";
const SERVICES: &str = "the placement pod-service, and services at scale";
const POLICIES: &str = "the policy proof, and policies at scale";

/// What every run needs in its namespace.
const BASE: &[Right] = &[
    right("", "pods", "", "get", PODS),
    right("", "pods", "", "list", PODS),
    right("", "pods", "", "watch", PODS),
    right("", "pods", "", "create", PODS),
    right("", "pods", "", "patch", PODS),
    right("", "pods", "", "delete", PODS),
    right("", "pods", "log", "get", "the last lines of a pod that fails"),
    right("", "pods", "exec", "create", "the control channel, which is the exec API alone"),
    right("", "pods", "exec", "get", "the control channel, which is the exec API alone"),
    right("", "events", "", "list", "why a pod does not start"),
    right("", "services", "", "list", SERVICES),
    right("", "services", "", "create", SERVICES),
    right("", "services", "", "patch", SERVICES),
    right("", "services", "", "delete", SERVICES),
    right("networking.k8s.io", "networkpolicies", "", "list", POLICIES),
    right("networking.k8s.io", "networkpolicies", "", "create", POLICIES),
    right("networking.k8s.io", "networkpolicies", "", "patch", POLICIES),
    right("networking.k8s.io", "networkpolicies", "", "delete", POLICIES),
];

const NAMESPACE: &[Right] = &[
    cluster_wide(right("", "namespaces", "", "get", "a namespace of the run's own")),
    cluster_wide(right("", "namespaces", "", "list", "`cnibench clean`")),
    cluster_wide(right("", "namespaces", "", "create", "a namespace of the run's own")),
    cluster_wide(right("", "namespaces", "", "patch", "a namespace of the run's own")),
    cluster_wide(right("", "namespaces", "", "delete", "a namespace of the run's own")),
];

const MATRIX: &[Right] =
    &[cluster_wide(right("", "nodes", "", "list", "putting pods on every node"))];

const CNI_PODS: &[Right] = &[
    cluster_wide(right("", "nodes", "", "list", "naming nodes")),
    cluster_wide(right("", "nodes", "proxy", "get", "what the cni's pods cost (kubelet's stats)")),
    cluster_wide(right("", "pods", "", "list", "finding the cni's own pods")),
    cluster_wide(right("", "pods", "log", "get", "the cni's own logs")),
    cluster_wide(right("", "pods", "exec", "create", "the cni's own status commands")),
    cluster_wide(right("", "pods", "exec", "get", "the cni's own status commands")),
];

/// The rights of a scope.
pub fn needed(scope: Scope) -> Vec<Right> {
    let mut all = BASE.to_vec();
    let more: [(bool, &[Right]); 3] =
        [(scope.own_namespace, NAMESPACE), (scope.matrix, MATRIX), (scope.cni_pods, CNI_PODS)];
    for (wanted, rights) in more {
        if wanted {
            all.extend(rights);
        }
    }
    all
}

/// Asks the server for the rights without which nothing can be measured.
///
/// # Errors
/// The rights that lack, each with what needs it.
pub async fn check(access: &Access, namespace: &str, scope: Scope) -> anyhow::Result<()> {
    // One verb stands for the others of its resource: who may create pods may list them.
    let asked = needed(Scope { cni_pods: false, ..scope }).into_iter().filter(|r| {
        r.verb == "create" && matches!(r.resource, "pods" | "namespaces")
            || r.cluster_wide && r.resource == "nodes"
    });
    let mut lacking = Vec::new();
    for right in asked {
        let place = (!right.cluster_wide).then_some(namespace);
        if !access.may(&right, place).await? {
            let place = match place {
                Some(namespace) if !scope.own_namespace => format!(" in namespace {namespace}"),
                _ => String::new(),
            };
            lacking.push(format!("{right}{place} ({})", right.needed_for));
        }
    }
    if !lacking.is_empty() {
        let mut rbac = "cnibench rbac".to_owned();
        if !scope.own_namespace {
            rbac += &format!(" --namespace {namespace}");
        }
        if scope.matrix {
            rbac += " --matrix";
        }
        bail!(
            "cluster {}: this user has no right to {}; `{rbac}` prints what this run needs",
            access.name,
            lacking.join(", ")
        );
    }
    Ok(())
}

/// The manifest of the rights of a scope, for `subject`: a Role in `namespace` and, where a Role
/// cannot give them, a ClusterRole; each with its binding.
pub fn manifest(scope: Scope, namespace: &str, subject: &Value) -> Vec<Value> {
    let rights = needed(scope);
    // In a namespace of the run's own, which is not there yet, a Role cannot be made.
    let (cluster, local): (Vec<Right>, Vec<Right>) =
        rights.into_iter().partition(|r| r.cluster_wide || scope.own_namespace);
    let mut all = Vec::new();
    let reference = |kind: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "cnibench"});
    if !local.is_empty() {
        let metadata = json!({"name": "cnibench", "namespace": namespace});
        all.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": metadata, "rules": rules(&local),
        }));
        all.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": metadata, "roleRef": reference("Role"), "subjects": [subject],
        }));
    }
    if !cluster.is_empty() {
        let metadata = json!({"name": "cnibench"});
        all.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": metadata, "rules": rules(&cluster),
        }));
        all.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": metadata, "roleRef": reference("ClusterRole"), "subjects": [subject],
        }));
    }
    all
}

/// Rules with the verbs of each resource together, in the order of the rights.
fn rules(rights: &[Right]) -> Vec<Value> {
    let mut grouped: Vec<(&str, String, Vec<&str>)> = Vec::new();
    for right in rights {
        let resource = match right.subresource {
            "" => right.resource.to_owned(),
            sub => format!("{}/{sub}", right.resource),
        };
        match grouped.iter_mut().find(|(g, r, _)| *g == right.group && *r == resource) {
            Some((_, _, verbs)) if verbs.contains(&right.verb) => {}
            Some((_, _, verbs)) => verbs.push(right.verb),
            None => grouped.push((right.group, resource, vec![right.verb])),
        }
    }
    grouped
        .into_iter()
        .map(|(group, resource, verbs)| {
            json!({"apiGroups": [group], "resources": [resource], "verbs": verbs})
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::rbac::v1::{ClusterRole, Role, RoleBinding};

    fn subject() -> Value {
        json!({"kind": "ServiceAccount", "name": "bench", "namespace": "ci"})
    }

    #[test]
    fn an_unprivileged_run_in_a_namespace_needs_no_cluster_role() {
        let all = manifest(Scope::default(), "bench", &subject());
        let kinds: Vec<_> = all.iter().map(|v| v["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["Role", "RoleBinding"]);
        let role: Role = serde_json::from_value(all[0].clone()).unwrap();
        let rules = role.rules.unwrap();
        let exec = rules.iter().find(|r| r.resources == Some(vec!["pods/exec".to_owned()]));
        assert_eq!(exec.unwrap().verbs, ["create", "get"]);
        assert!(rules.iter().all(|r| r.resources != Some(vec!["secrets".to_owned()])));
        let _: RoleBinding = serde_json::from_value(all[1].clone()).unwrap();
    }

    #[test]
    fn more_is_asked_for_more() {
        let scope = Scope { matrix: true, ..Scope::default() };
        let all = manifest(scope, "bench", &subject());
        assert_eq!(all.len(), 4);
        let role: ClusterRole = serde_json::from_value(all[2].clone()).unwrap();
        assert_eq!(role.rules.unwrap().len(), 1);
        let own = Scope { own_namespace: true, ..Scope::default() };
        let all = manifest(own, "bench", &subject());
        assert_eq!(all.len(), 2, "no Role in a namespace that is not there yet");
    }
}

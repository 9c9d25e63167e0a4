//! The rights that a run needs in a cluster: one table, of which a run asks its part before anything is
//! made, and `rbac` prints the part that such runs need.
//!
//! Knows no objects; called by the provider kubeconfig, `cnibench rbac` and `cnibench doctor`.

use super::{
    access::{Access, Right},
    demand::Demand,
    options::Options,
};
use anyhow::bail;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

/// Questions to the API server at a time.
const AT_ONCE: usize = 16;

/// What is going to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scope {
    /// A namespace of the run's own is made.
    pub own_namespace: bool,
    /// Services are made: the placement pod-service, or services as surroundings.
    pub services: bool,
    /// Network policies are made: a cni is measured, whose policies are tried.
    pub policies: bool,
    /// The node-pair matrix is measured.
    pub matrix: bool,
    /// A cni is named, whose pods must be there.
    pub named_cni: bool,
    /// What the cni's own pods cost, their status and their flow log are read.
    pub cni_pods: bool,
    /// What dead runs left is removed.
    pub clean: bool,
}

impl Scope {
    /// What a run does.
    pub fn of(options: &Options, demand: &Demand) -> Self {
        Self {
            own_namespace: options.namespace.is_none(),
            services: demand.cni && demand.services(),
            policies: demand.cni,
            matrix: options.pairs.is_some(),
            named_cni: demand.named_cni,
            cni_pods: demand.cni && demand.cni_pods(options.privileged),
            clean: false,
        }
    }

    /// What `cnibench rbac` prints with these options: enough for every suite.
    pub fn printed(own_namespace: bool, matrix: bool, cni_pods: bool) -> Self {
        Self {
            own_namespace,
            services: true,
            policies: true,
            matrix,
            named_cni: cni_pods,
            cni_pods,
            clean: true,
        }
    }

    /// What the command of [`Scope::command`] prints.
    pub fn granted(self) -> Self {
        Self::printed(self.own_namespace, self.matrix, self.named_cni || self.cni_pods)
    }

    /// The command that prints the rights to do this.
    pub fn command(self, namespace: &str) -> String {
        let mut text = "cnibench rbac".to_owned();
        let granted = self.granted();
        if !granted.own_namespace {
            text += &format!(" --namespace {namespace}");
        }
        if granted.matrix {
            text += " --matrix";
        }
        if granted.cni_pods {
            text += " --cni-pods";
        }
        text
    }

    fn needs(self, when: When) -> bool {
        match when {
            When::Always => true,
            When::OwnNamespace => self.own_namespace,
            When::GivenNamespace => !self.own_namespace,
            When::Services => self.services,
            When::Policies => self.policies,
            When::Matrix => self.matrix,
            When::FindCni => self.named_cni || self.cni_pods,
            When::CniPods => self.cni_pods,
            When::Clean => self.clean,
            When::CleanNamespaces => self.clean && self.own_namespace,
        }
    }
}

/// What makes a right needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    OwnNamespace,
    /// Removal goes object by object.
    GivenNamespace,
    Services,
    Policies,
    Matrix,
    FindCni,
    CniPods,
    /// Removal of what was left, of whatever kind.
    Clean,
    CleanNamespaces,
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

const fn cluster_wide(
    resource: &'static str,
    subresource: &'static str,
    verb: &'static str,
    needed_for: &'static str,
) -> Right {
    Right { cluster_wide: true, ..right("", resource, subresource, verb, needed_for) }
}

const PODS: &str = "workload pods";
const CHANNEL: &str = "the control channel, which is the exec API alone";
const SERVICES: &str = "the placement pod-service, and services at scale";
const POLICIES: &str = "the policy proof, and policies at scale";
const REMOVAL: &str = "taking everything down in a namespace that stays";
const LEFT: &str = "`cnibench clean`";
const OWN: &str = "a namespace of the run's own";
const SILENT: &str = "what is said of a node that is silent";
const STATUS: &str = "the cni's own status commands and flow log";
const NETWORKING: &str = "networking.k8s.io";

/// Every right that is ever used. Server-side apply is `patch`, and `create` where the object is not
/// there yet.
const TABLE: &[(When, Right)] = &[
    (When::Always, right("", "pods", "", "create", PODS)),
    (When::Always, right("", "pods", "", "list", PODS)),
    (When::Always, right("", "pods", "", "watch", PODS)),
    (When::Always, right("", "pods", "", "patch", PODS)),
    (When::GivenNamespace, right("", "pods", "", "delete", REMOVAL)),
    (When::Always, right("", "pods", "log", "get", "the last lines of a pod that fails")),
    (When::Always, right("", "pods", "exec", "create", CHANNEL)),
    (When::Always, right("", "pods", "exec", "get", CHANNEL)),
    (When::Always, right("", "events", "", "list", "why a pod does not start")),
    (When::GivenNamespace, right("", "services", "", "list", REMOVAL)),
    (When::Services, right("", "services", "", "create", SERVICES)),
    (When::Services, right("", "services", "", "patch", SERVICES)),
    (When::Services, right("", "services", "", "delete", SERVICES)),
    (When::GivenNamespace, right(NETWORKING, "networkpolicies", "", "list", REMOVAL)),
    (When::Policies, right(NETWORKING, "networkpolicies", "", "create", POLICIES)),
    (When::Policies, right(NETWORKING, "networkpolicies", "", "patch", POLICIES)),
    (When::Policies, right(NETWORKING, "networkpolicies", "", "delete", POLICIES)),
    (When::Clean, right("", "pods", "", "delete", LEFT)),
    (When::Clean, right("", "services", "", "delete", LEFT)),
    (When::Clean, right(NETWORKING, "networkpolicies", "", "delete", LEFT)),
    (When::OwnNamespace, cluster_wide("namespaces", "", "get", OWN)),
    (When::OwnNamespace, cluster_wide("namespaces", "", "create", OWN)),
    (When::OwnNamespace, cluster_wide("namespaces", "", "patch", OWN)),
    (When::OwnNamespace, cluster_wide("namespaces", "", "delete", OWN)),
    (When::CleanNamespaces, cluster_wide("namespaces", "", "list", LEFT)),
    (When::Matrix, cluster_wide("nodes", "", "list", "putting pods on every node")),
    (When::Matrix, cluster_wide("nodes", "", "get", SILENT)),
    (When::FindCni, cluster_wide("pods", "", "list", "finding the cni's own pods")),
    (When::CniPods, cluster_wide("pods", "exec", "create", STATUS)),
    (When::CniPods, cluster_wide("pods", "exec", "get", STATUS)),
    (When::CniPods, cluster_wide("nodes", "", "list", "naming nodes")),
    (When::CniPods, cluster_wide("nodes", "", "get", SILENT)),
    (
        When::CniPods,
        cluster_wide("nodes", "proxy", "get", "what the cni's pods cost (kubelet's stats)"),
    ),
];

/// The rights of a scope, each once.
pub fn needed(scope: Scope) -> Vec<Right> {
    let mut all: Vec<Right> = Vec::new();
    for (when, right) in TABLE {
        if scope.needs(*when) && !all.iter().any(|r| r.same(right)) {
            all.push(*right);
        }
    }
    all
}

/// Those of these rights that this user has not. `namespace`: where those are asked that a Role can
/// give; none: everywhere, for a namespace that is not there yet.
///
/// # Errors
/// When the server cannot be asked.
pub async fn lacking(
    access: &Access,
    namespace: Option<&str>,
    rights: &[Right],
) -> anyhow::Result<Vec<Right>> {
    let asked = stream::iter(rights.to_vec()).map(|right| async move {
        let place = namespace.filter(|_| !right.cluster_wide);
        let may = access.may(&right, place).await?;
        anyhow::Ok((!may).then_some(right))
    });
    let answers: Vec<Option<Right>> = asked.buffered(AT_ONCE).try_collect().await?;
    Ok(answers.into_iter().flatten().collect())
}

/// Asks the server for every right that a run will use.
///
/// # Errors
/// All the rights that lack, each with what needs it, and the command that prints them.
pub async fn check(access: &Access, namespace: &str, scope: Scope) -> anyhow::Result<()> {
    let given = (!scope.own_namespace).then_some(namespace);
    let lacking = lacking(access, given, &needed(scope)).await?;
    if lacking.is_empty() {
        return Ok(());
    }
    let each = lacking.iter().map(|right| {
        let place = match given.filter(|_| !right.cluster_wide) {
            Some(namespace) => format!(" in namespace {namespace}"),
            None => String::new(),
        };
        format!("{right}{place} ({})", right.needed_for)
    });
    bail!(
        "cluster {}: this user has no right to {}; `{}` prints what this run needs",
        access.name,
        each.collect::<Vec<_>>().join(", "),
        scope.command(namespace)
    );
}

/// What a name of the manifest may be made of, so that another subject or namespace gets objects of its
/// own: RBAC allows nearly everything, but nothing that is a part of a path.
fn name_of(scope: Scope, namespace: &str, subject: &Value) -> String {
    let part = |key: &str| subject[key].as_str().unwrap_or_default();
    // In capitals what is no namespace, whose names have none.
    let works = if scope.own_namespace { "Own" } else { namespace };
    let whose = match part("namespace") {
        "" => format!("User:{}", part("name")),
        namespace => format!("{namespace}:{}", part("name")),
    };
    format!("cnibench:{works}:{whose}").replace(['/', '%'], "_")
}

/// What one who grants the rights of a scope should know of them; nothing where they are harmless.
pub fn caution(scope: Scope) -> Option<&'static str> {
    scope.cni_pods.then_some(
        "pods/exec and nodes/proxy in the whole cluster are far-reaching: who has them can run commands in every pod and ask every kubelet, which is as good as root on the nodes. Grant them for as long as you measure.",
    )
}

/// The manifest of the rights of a scope, for `subject`: a Role in `namespace` and, where a Role
/// cannot give them, a ClusterRole; each with its binding. They are named after both.
pub fn manifest(scope: Scope, namespace: &str, subject: &Value) -> Vec<Value> {
    let rights = needed(scope);
    // In a namespace of the run's own, which is not there yet, a Role cannot be made.
    let (cluster, local): (Vec<Right>, Vec<Right>) =
        rights.into_iter().partition(|r| r.cluster_wide || scope.own_namespace);
    let mut all = Vec::new();
    let name = name_of(scope, namespace, subject);
    let reference =
        |kind: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
    if !local.is_empty() {
        let metadata = json!({"name": name, "namespace": namespace});
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
        let metadata = json!({"name": name});
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
        let all = manifest(Scope::printed(false, false, false), "bench", &subject());
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
        let all = manifest(Scope::printed(false, true, false), "bench", &subject());
        assert_eq!(all.len(), 4);
        let role: ClusterRole = serde_json::from_value(all[2].clone()).unwrap();
        assert_eq!(role.rules.unwrap().len(), 1);
        let all = manifest(Scope::printed(true, false, false), "bench", &subject());
        assert_eq!(all.len(), 2, "no Role in a namespace that is not there yet");
    }

    #[test]
    fn another_subject_or_namespace_does_not_replace_the_first() {
        let scope = Scope::printed(false, false, true);
        let name = |namespace: &str, subject: &Value| {
            let all = manifest(scope, namespace, subject);
            assert!(all.iter().all(|v| v["metadata"]["name"] == all[0]["metadata"]["name"]));
            assert_eq!(all[3]["roleRef"]["name"], all[2]["metadata"]["name"]);
            all[2]["metadata"]["name"].as_str().unwrap().to_owned()
        };
        let user = json!({"kind": "User", "name": "a/b", "apiGroup": "rbac.authorization.k8s.io"});
        assert_eq!(name("bench", &subject()), "cnibench:bench:ci:bench");
        assert_eq!(name("bench", &user), "cnibench:bench:User:a_b");
        assert_eq!(name("other", &subject()), "cnibench:other:ci:bench");
        assert!(caution(scope).is_some());
        assert!(caution(Scope::printed(true, true, false)).is_none());
    }

    /// Every scope that a run can have.
    fn runs() -> impl Iterator<Item = Scope> {
        (0..64u32).map(|bits| Scope {
            own_namespace: bits & 1 > 0,
            services: bits & 2 > 0,
            policies: bits & 4 > 0,
            matrix: bits & 8 > 0,
            named_cni: bits & 16 > 0,
            cni_pods: bits & 32 > 0,
            clean: false,
        })
    }

    #[test]
    fn what_is_printed_covers_what_is_asked() {
        for run in runs() {
            let printed = needed(run.granted());
            for right in needed(run) {
                assert!(printed.iter().any(|p| p.same(&right)), "{run:?}: {right}");
            }
        }
    }

    #[test]
    fn every_right_of_the_table_is_asked_by_some_run_but_those_of_a_clean_up() {
        for (when, right) in TABLE {
            let asked = runs().any(|run| needed(run).iter().any(|r| r.same(right)));
            let only_clean = matches!(when, When::CleanNamespaces);
            assert!(asked != only_clean, "{when:?}: {right}");
        }
    }

    #[test]
    fn the_command_has_the_options_that_are_needed() {
        let run = Scope { matrix: true, named_cni: true, ..Scope::default() };
        assert_eq!(run.command("bench"), "cnibench rbac --namespace bench --matrix --cni-pods");
        let own = Scope { own_namespace: true, ..Scope::default() };
        assert_eq!(own.command("bench"), "cnibench rbac");
    }
}

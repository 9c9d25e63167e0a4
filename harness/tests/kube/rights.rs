//! The rights of a run: asked of the server, and printed by `cnibench rbac`, from one table.

use super::{
    access,
    fake::{Answer, Call, Fake, ok, recorded},
};
use cnibench::cluster::kube::{
    Demand, KubeconfigProvider, Options,
    access::Right,
    rights::{self, Scope},
};
use cnibench_model::Placement;
use serde_json::json;

/// The answer to "may I": yes for what a list of rights has, as RBAC would say it.
fn reviewed(call: &Call, granted: &[Right]) -> Option<Answer> {
    if !call.path.contains("selfsubjectaccessreviews") {
        return None;
    }
    let asked = &call.body["spec"]["resourceAttributes"];
    let everywhere = asked["namespace"].as_str().is_none_or(str::is_empty);
    let allowed = granted.iter().any(|r| {
        asked["group"].as_str().unwrap_or_default() == r.group
            && asked["resource"] == r.resource
            && asked["subresource"].as_str().unwrap_or_default() == r.subresource
            && asked["verb"] == r.verb
            && (r.cluster_wide || !everywhere)
    });
    Some(ok(&json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "metadata": {}, "spec": call.body["spec"], "status": {"allowed": allowed},
    })))
}

/// Everything that a run can do.
fn all_of(own_namespace: bool) -> Scope {
    Scope {
        own_namespace,
        services: true,
        policies: true,
        matrix: true,
        named_cni: true,
        cni_pods: true,
        clean: false,
    }
}

#[tokio::test]
async fn all_rights_that_lack_are_named_at_once() {
    let fake = Fake::default();
    let access = access(&fake, |call| reviewed(call, &[]).unwrap());
    let scope = all_of(false);
    let error = rights::check(&access, "bench", scope).await.unwrap_err().to_string();
    for right in rights::needed(scope) {
        assert!(error.contains(&right.to_string()), "{right}: {error}");
    }
    for text in [
        "create pods in namespace bench (workload pods)",
        "create pods/exec in namespace bench",
        "get pods/log",
        "list events",
        "delete networkpolicies.networking.k8s.io in namespace bench",
        "patch services",
        "get nodes (",
        "get nodes/proxy (",
        "`cnibench rbac --namespace bench --matrix --cni-pods` prints",
    ] {
        assert!(error.contains(text), "{text}: {error}");
    }
    let asked = fake.count("POST", "selfsubjectaccessreviews");
    assert_eq!(asked, rights::needed(scope).len());
}

#[tokio::test]
async fn what_rbac_prints_is_enough_and_nothing_less_is() {
    for bits in 0..64u32 {
        let scope = Scope {
            own_namespace: bits & 1 > 0,
            services: bits & 2 > 0,
            policies: bits & 4 > 0,
            matrix: bits & 8 > 0,
            named_cni: bits & 16 > 0,
            cni_pods: bits & 32 > 0,
            clean: false,
        };
        // In a namespace that is not there yet only a ClusterRole gives rights.
        let given = |scope: Scope| -> Vec<Right> {
            let all = rights::needed(scope.granted()).into_iter();
            all.map(|r| Right { cluster_wide: r.cluster_wide || scope.own_namespace, ..r })
                .collect()
        };
        let granted = given(scope);
        let fake = Fake::default();
        let whole = access(&fake, move |call| reviewed(call, &granted).unwrap());
        rights::check(&whole, "bench", scope).await.unwrap();
        for lacking in rights::needed(scope) {
            let mut granted = given(scope);
            granted.retain(|r| {
                (r.resource, r.subresource, r.verb)
                    != (lacking.resource, lacking.subresource, lacking.verb)
            });
            let part = access(&fake, move |call| reviewed(call, &granted).unwrap());
            let error = rights::check(&part, "bench", scope).await.unwrap_err().to_string();
            assert!(error.contains(&lacking.to_string()), "{scope:?}: {lacking}: {error}");
        }
    }
}

#[tokio::test]
async fn a_run_asks_for_its_own_rights_before_it_makes_anything() {
    let fake = Fake::default();
    let access = access(&fake, |call| {
        let granted = rights::needed(Scope::default());
        reviewed(call, &granted)
            .unwrap_or_else(|| ok(&recorded(include_str!("answers/version.json"))))
    });
    let options = Options { namespace: Some("bench".to_owned()), ..Options::default() };
    let make = |placements: Vec<Placement>, cni| {
        let demand = Demand { placements, cni, host: true, ..Demand::default() };
        KubeconfigProvider::with_access(
            access.clone(),
            options.clone(),
            "abcdef".to_owned(),
            demand,
        )
    };
    // The baseline alone needs no policies.
    make(vec![Placement::CrossNode], false).await.unwrap();
    // `list` measures nothing.
    make(Vec::new(), true).await.unwrap();
    let error = make(vec![Placement::PodService], true).await.err().unwrap().to_string();
    assert!(
        error.contains("create networkpolicies") && error.contains("create services"),
        "{error}"
    );
    assert!(!error.contains("create pods in") && !error.contains("nodes"), "{error}");
    assert!(error.contains("`cnibench rbac --namespace bench`"), "{error}");
    assert_eq!(fake.count("PATCH", ""), 0);
}

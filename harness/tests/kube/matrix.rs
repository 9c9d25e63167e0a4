//! The node-pair matrix in a cluster of 1,000 nodes.

use super::{
    access,
    fake::{Answer, Call, Fake, many_nodes, ok, recorded, refused},
};
use cnibench::{
    cluster::{
        Provider as _,
        kube::{Demand, KubeconfigProvider, Options, options::Pairs},
    },
    plan::{self, Arrangement, Plan, TrialOrder},
};
use cnibench_model::{CniSpec, Placement, ProviderKind};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// A cluster of 1,000 nodes in which every pod that is made is ready at once on the node that it asked
/// for. Commands cannot be run in it.
fn thousand(call: &Call, list: &[u8], made: &Mutex<Vec<Value>>) -> Answer {
    if call.path.contains("selfsubjectaccessreviews") {
        return ok(&json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "metadata": {}, "spec": call.body["spec"], "status": {"allowed": true},
        }));
    }
    if call.path.contains("/version") {
        return ok(&recorded(include_str!("answers/version.json")));
    }
    if call.path.contains("/exec") {
        return refused(400, "BadRequest", "no commands here");
    }
    if call.path.contains("watch=true") {
        return Some((200, Vec::new()));
    }
    if call.path.contains("/pods") && call.method == "PATCH" {
        let mut pod = call.body.clone();
        let terms = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            ["nodeSelectorTerms"];
        pod["spec"]["nodeName"] = terms[0]["matchExpressions"][0]["values"][0].clone();
        pod["status"] = json!({
            "phase": "Running", "podIP": "10.0.0.1", "hostIP": "10.1.0.1",
            "conditions": [{"type": "Ready", "status": "True"}],
        });
        made.lock().unwrap().push(pod.clone());
        return ok(&pod);
    }
    if call.path.contains("/namespaces/cnibench-abcdef-0/pods") {
        let items = made.lock().unwrap().clone();
        return ok(&json!({
            "apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": items,
        }));
    }
    // No cni that is known.
    if call.path.contains("/pods") {
        return ok(&json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": []}));
    }
    match call.method.as_str() {
        "PATCH" => ok(&call.body),
        "DELETE" => {
            ok(&json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
        }
        // Gone as soon as it is deleted.
        "GET" if call.path.contains("/namespaces/") => refused(404, "NotFound", "not found"),
        _ => Some((200, list.to_vec())),
    }
}

fn matrix_plan(matrix: plan::Matrix, cnis: &[CniSpec]) -> Plan {
    let suite = cnibench_scenarios::Suite::parse(
        "matrix.toml",
        "name = \"m\"\n[[scenario]]\nworkloads = \"tcp_rr\"\nplacements = \"cross-node\"\ntrials = 1\n",
    )
    .unwrap();
    let cases = cnibench_scenarios::expand(&suite, ProviderKind::Kubeconfig, cnis);
    let arrangement = Arrangement {
        matrix: Some(matrix),
        host_rides: true,
        ..Arrangement::simple(TrialOrder::Interleaved)
    };
    Plan::new(cases, &arrangement, 7)
}

fn cross_node(host: bool) -> Demand {
    Demand { placements: vec![Placement::CrossNode], cni: true, host, ..Demand::default() }
}

#[tokio::test]
async fn a_sample_of_pairs_makes_pods_on_its_nodes_alone() {
    for host in [false, true] {
        let fake = Fake::default();
        let list = many_nodes(1000).to_string().into_bytes();
        let made = Arc::new(Mutex::new(Vec::new()));
        let noted = made.clone();
        let access = access(&fake, move |call| thousand(call, &list, &noted));
        let options =
            Options { pairs: Some(Pairs::Some(10)), pairs_at_once: 4, ..Options::default() };
        let run = "abcdef".to_owned();
        let provider =
            KubeconfigProvider::with_access(access, options, run, cross_node(host)).await.unwrap();
        let matrix = provider.matrix().await.unwrap().unwrap();
        let plan = matrix_plan(matrix, &[CniSpec::named("installed")]);
        assert_eq!(plan.schedule.len(), 10);
        provider.plan_for(&plan);
        let topology = cnibench_model::Topology::default();
        let up = provider.up(0, &CniSpec::named("installed"), &topology).await;
        assert!(up.is_err(), "nothing can run here");
        let made = made.lock().unwrap().clone();
        let of = |pod: &Value, key: &str| pod["metadata"][key].as_str().unwrap().to_owned();
        let nodes: BTreeSet<String> =
            made.iter().map(|p| p["spec"]["nodeName"].as_str().unwrap().to_owned()).collect();
        // The nodes of the plan, which numbers those of the list.
        let planned: BTreeSet<String> =
            plan.nodes().iter().map(|n| format!("node-{n:04}")).collect();
        assert_eq!(nodes, planned);
        assert!(nodes.len() <= 20, "{}", nodes.len());
        let twins = made.iter().filter(|p| of(p, "name").starts_with("host-")).count();
        assert_eq!(twins, if host { nodes.len() } else { 0 });
        // The pod that a policy denies is one more.
        assert_eq!(made.len() - twins, nodes.len() + 1);
        assert_eq!(fake.count("GET", "/api/v1/nodes"), 1, "plan and pods see the same list");
        assert!(provider.sweep().await.is_empty());
    }
}

#[tokio::test]
async fn a_thousand_nodes_are_planned_quickly() {
    let fake = Fake::default();
    let list = many_nodes(1000).to_string().into_bytes();
    let made = Mutex::new(Vec::new());
    let access = access(&fake, move |call| thousand(call, &list, &made));
    let options = Options { pairs: Some(Pairs::All), pairs_at_once: 500, ..Options::default() };
    let provider =
        KubeconfigProvider::with_access(access, options, "abcdef".to_owned(), cross_node(true))
            .await
            .unwrap();
    let matrix = provider.matrix().await.unwrap().unwrap();
    assert_eq!(matrix.nodes, 1000);
    let begun = Instant::now();
    let plan = matrix_plan(matrix, &[CniSpec::named("installed")]);
    // Not a benchmark: only that nothing is quadratic in the pairs.
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(plan.schedule.len(), 499_500);
    assert_eq!(plan.batches().count(), 999);
}

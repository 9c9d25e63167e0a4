//! The code that talks to Kubernetes, against a fake API server that answers as real ones did.
//! `answers/` was recorded from a cluster of kind with Kubernetes 1.34.

#![allow(clippy::unwrap_used, reason = "tests")]

mod fake;

use cnibench::{
    cluster::Provider as _,
    cluster::kube::{
        Access, Demand, KubeconfigProvider, Options,
        access::Right,
        deployment::{Deployment, Seats},
        leftovers::{self, Whose},
        logged::Logged,
        nodes::{self, Wanted},
        objects::Image,
        options::Pairs,
        pods::{Pods, apply},
        ready::{self, Wait},
        removal::remove_namespace,
        rights::{self, Scope},
        settle,
    },
    cni::kubernetes::KubeCni,
    plan::{self, Arrangement, Plan, TrialOrder},
};
use cnibench_model::{CniSpec, Placement, ProviderKind};
use fake::{Answer, Call, Fake, many_nodes, ok, recorded, refused};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

fn access(fake: &Fake, answer: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Access {
    Access { client: fake.client(answer), name: "fake".to_owned(), namespace: "bench".to_owned() }
}

fn deployment() -> Deployment {
    Deployment {
        run: "abcdef".to_owned(),
        namespace: Some("bench".to_owned()),
        own_namespace: "cnibench-abcdef-0".to_owned(),
        image: Image::Any("busybox".to_owned()),
        cpus: None,
        nodes: Wanted::default(),
        seats: Seats::Scheduler,
        placements: vec![Placement::CrossNode],
        host_network: false,
        host: true,
        control: false,
        observers: false,
        net_admin: false,
        deadline: Duration::from_secs(600),
    }
}

fn pods() -> Value {
    recorded(include_str!("answers/pods.json"))
}

#[tokio::test]
async fn recorded_nodes_are_chosen_workers_first() {
    let fake = Fake::default();
    let access = access(&fake, |_| ok(&recorded(include_str!("answers/nodes.json"))));
    let nodes = nodes::choose(&access, &Wanted::default(), 2).await.unwrap().unwrap();
    let names: Vec<_> = nodes.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names.len(), 2);
    assert!(names[0].ends_with("worker") && names[1].ends_with("control-plane"), "{names:?}");
    let error = nodes::choose(&access, &Wanted::default(), 3).await.unwrap_err();
    assert!(error.to_string().contains("2 usable nodes, at least 3 are needed"), "{error}");
}

#[tokio::test]
async fn without_the_right_to_list_nodes_the_scheduler_keeps_pods_apart() {
    let fake = Fake::default();
    let answer = |_: &Call| refused(403, "Forbidden", "nodes is forbidden");
    let found = nodes::choose(&access(&fake, answer), &Wanted::default(), 2).await.unwrap();
    assert_eq!(found, None);
}

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

#[tokio::test]
async fn an_expired_token_is_told_as_such() {
    let fake = Fake::default();
    let access = access(&fake, |_| refused(401, "Unauthorized", "Unauthorized"));
    let error = access.version().await.unwrap_err().to_string();
    assert!(error.contains("fake") && error.contains("has expired"), "{error}");
}

#[tokio::test]
async fn causes_of_pods_that_do_not_start_are_read_from_recorded_answers() {
    let fake = Fake::default();
    let access = access(&fake, |call| {
        if call.path.contains("/log?") {
            return Some((200, b"first\nthe last words\n".to_vec()));
        }
        if call.path.contains("watch=true") {
            return Some((200, Vec::new()));
        }
        ok(&pods())
    });
    let wait = Wait {
        client: &access.client,
        namespace: "rec",
        selector: "cnibench/run=abcdef",
        count: 4,
        what: "workload pods",
        patience: Duration::from_millis(1500),
    };
    let error = wait.ready().await.unwrap_err().to_string();
    assert!(error.contains("pod-0-0") && error.contains("cannot be pulled"), "{error}");
    assert!(error.contains("nowhere.invalid/none:1"), "{error}");
    assert!(error.contains("pod-1-0") && error.contains("2 Insufficient cpu"), "{error}");
    assert!(error.contains("--pod-cpus"), "{error}");
    assert!(error.contains("pod-0-1") && error.contains("the last words"), "{error}");
    assert!(!error.contains("pod-ready"), "{error}");
}

#[tokio::test]
async fn pods_that_are_ready_are_not_waited_for() {
    let fake = Fake::default();
    let access = access(&fake, |call| {
        if call.path.contains("watch=true") {
            return Some((200, Vec::new()));
        }
        let mut list = pods();
        let items = list["items"].as_array_mut().unwrap();
        items.retain(|p| p["metadata"]["name"] == "pod-ready");
        ok(&list)
    });
    let wait = Wait {
        client: &access.client,
        namespace: "rec",
        selector: "cnibench/run=abcdef",
        count: 1,
        what: "workload pods",
        patience: Duration::from_secs(20),
    };
    assert_eq!(wait.ready().await.unwrap().len(), 1);
    let listed = ready::list(&access.client, "rec", "a=b").await.unwrap();
    assert_eq!(listed.len(), 1);
}

#[tokio::test]
async fn an_api_server_that_is_away_for_a_moment_is_waited_for() {
    let fake = Fake::default();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let access = access(&fake, move |call| match counter.fetch_add(1, Ordering::SeqCst) {
        0 => None,
        1 => refused(503, "ServiceUnavailable", "apiserver is shutting down"),
        _ => ok(&call.body),
    });
    let api: Api<Pod> = Api::namespaced(access.client.clone(), "bench");
    let value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
        "spec": {"containers": [{"name": "c"}]}});
    apply(&api, "x", &value).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    assert_eq!(fake.count("PATCH", "fieldManager=cnibench"), 3);
}

#[tokio::test]
async fn a_server_that_comes_back_may_refuse_everybody_at_first() {
    // Recorded: a starting API server answers so to its administrator, until it has read its roles.
    let refuses = "forbidden: User \"kubernetes-admin\" cannot get path \"/version\"";
    let fake = Fake::default();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let access = access(&fake, move |call| match counter.fetch_add(1, Ordering::SeqCst) {
        0 => None,
        1 => refused(403, "Forbidden", refuses),
        _ if call.path.contains("/version") => ok(&recorded(include_str!("answers/version.json"))),
        _ => ok(&call.body),
    });
    let pods = Pods::new(access, &deployment());
    let happened = pods.was_cut(Duration::from_secs(20)).await.unwrap();
    assert_eq!(happened, Some("the API server was away"));
    assert_eq!(pods.was_cut(Duration::from_secs(20)).await.unwrap(), None);
    asked.store(0, Ordering::SeqCst);
    let api: Api<Pod> = pods.api();
    let value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
        "spec": {"containers": [{"name": "c"}]}});
    apply(&api, "x", &value).await.unwrap();
    assert_eq!(fake.count("PATCH", ""), 3);
}

#[tokio::test]
async fn everything_that_can_be_removed_is_though_something_cannot() {
    let fake = Fake::default();
    let access = access(&fake, |call| {
        if call.path.contains("/version") {
            return ok(&recorded(include_str!("answers/version.json")));
        }
        if call.path.contains("networkpolicies") {
            return refused(
                403,
                "Forbidden",
                "networkpolicies is forbidden: User \"x\" cannot list",
            );
        }
        ok(&json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": []}))
    });
    let mut pods = Pods::new(access, &deployment());
    let twin = pods.twin();
    let errors = pods.remove().await;
    assert_eq!(errors.len(), 1);
    let text = format!("{:#}", errors[0]);
    assert!(text.contains("cnibench clean --namespace bench"), "{text}");
    assert!(text.contains("NetworkPolicy: not allowed"), "{text}");
    assert_eq!((fake.count("GET", "/services"), fake.count("GET", "/pods")), (1, 1));
    assert!(twin.is_removed());
}

#[tokio::test]
async fn only_what_is_dead_is_cleaned() {
    let namespace = |run: &str, expires: &str| {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": format!("cnibench-{run}-0"), "labels": {"cnibench/run": run},
            "annotations": {"cnibench/lock": "another machine's", "cnibench/host": "bench-7",
                "cnibench/expires": expires},
        }})
    };
    let items = [
        namespace("aaaaaa", "2001-01-01T00:00:00Z"),
        namespace("bbbbbb", "9001-01-01T00:00:00Z"),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": "theirs", "labels": {"cnibench/run": "not an id"}}}),
    ];
    let list = json!({"apiVersion": "v1", "kind": "NamespaceList", "metadata": {}, "items": items});
    let fake = Fake::default();
    let answer = move |call: &Call| match (call.method.as_str(), call.path.contains("?")) {
        ("GET", true) => ok(&list),
        ("GET", false) => refused(404, "NotFound", "not found"),
        _ => {
            ok(&json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
        }
    };
    let access = access(&fake, answer);
    let cleaned = leftovers::clean(&access, None, Whose::Dead).await;
    assert!(cleaned.errors.is_empty(), "{cleaned:?}");
    assert_eq!(cleaned.removed, ["namespace cnibench-aaaaaa-0 of run aaaaaa"]);
    assert_eq!(cleaned.left.len(), 1);
    assert!(cleaned.left[0].contains("cnibench-bbbbbb-0") && cleaned.left[0].contains("bench-7"));
    assert_eq!(fake.count("DELETE", ""), 1);
    let cleaned = leftovers::clean(&access, None, Whose::Unknown).await;
    assert_eq!(cleaned.removed.len(), 2, "{cleaned:?}");
}

#[tokio::test]
async fn a_refusal_is_not_tried_again() {
    let fake = Fake::default();
    let access = access(&fake, |_| {
        refused(403, "Forbidden", "pods \"x\" is forbidden: exceeded quota: small")
    });
    let api: Api<Pod> = Api::namespaced(access.client.clone(), "bench");
    let value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}});
    let error = apply(&api, "x", &value).await.unwrap_err().to_string();
    assert!(error.contains("Pod x") && error.contains("exceeded quota"), "{error}");
    assert!(error.contains("--pod-cpus") && !error.contains("rbac"), "{error}");
    assert_eq!(fake.count("PATCH", ""), 1);
}

#[tokio::test]
async fn a_namespace_that_hangs_says_what_keeps_it() {
    let fake = Fake::default();
    let access = access(&fake, |call| {
        ok(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"},
            "status": {"phase": "Terminating", "conditions": [
                {"type": "NamespaceContentRemaining", "status": "True",
                 "message": "Some resources are remaining: pods. has 1 resource instances"},
                {"type": "NamespaceDeletionDiscoveryFailure", "status": "False", "message": "fine"},
            ], "asked": call.path}}))
    });
    let error =
        remove_namespace(&access, "n", Duration::from_millis(700)).await.unwrap_err().to_string();
    assert!(error.contains("still Terminating"), "{error}");
    assert!(error.contains("pods. has 1 resource instances") && !error.contains("fine"), "{error}");
    assert_eq!(fake.count("DELETE", "/api/v1/namespaces/n"), 1);
}

#[tokio::test]
async fn a_log_is_read_on_and_what_it_said_once_holds_though_it_is_rotated() {
    let pod = |life: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "kube-flannel-x", "uid": "1"},
            "spec": {"nodeName": "n", "containers": [{"name": "kube-flannel"}]},
            "status": {"containerStatuses": [{"name": "kube-flannel", "image": "", "imageID": "",
                "ready": true, "restartCount": 0, "containerID": life}]}})
    };
    let fake = Fake::default();
    let (life, logs) = (Arc::new(Mutex::new("a".to_owned())), Arc::new(AtomicUsize::new(0)));
    let (lives, asked) = (life.clone(), logs.clone());
    let access = access(&fake, move |call| {
        if !call.path.contains("/log?") {
            let items = [pod(&lives.lock().unwrap())];
            return ok(
                &json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items}),
            );
        }
        let text = match asked.fetch_add(1, Ordering::SeqCst) {
            0 => "2026-11-23T10:00:01.5Z starting\n",
            1 if call.path.contains("sinceTime=2026-11-23T10%3A00%3A01Z") => {
                "2026-11-23T10:00:01.5Z starting\n2026-11-23T10:00:02.5Z Running backend.\n"
            }
            // Rotated: it begins in the middle.
            _ => "2026-11-23T11:00:00.5Z a lease was renewed\n",
        };
        Some((200, text.as_bytes().to_vec()))
    });
    let profile = KubeCni::resolve(&CniSpec::named("flannel-vxlan")).unwrap().profile;
    let logged = Logged::default();
    let look = |patience| settle::at_rest(&access, &logged, &profile, None, patience);
    look(Duration::from_secs(20)).await.unwrap();
    assert_eq!(logs.load(Ordering::SeqCst), 2);
    look(Duration::from_secs(20)).await.unwrap();
    assert_eq!(logs.load(Ordering::SeqCst), 2, "nothing is left to be asked");
    // One that was started again says it again.
    *life.lock().unwrap() = "b".to_owned();
    let error = look(Duration::ZERO).await.unwrap_err().to_string();
    assert!(error.contains("n: its log does not say \"Running backend.\""), "{error}");
}

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
        let made = made.lock().unwrap();
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
        drop(made);
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

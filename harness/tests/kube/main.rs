//! The code that talks to Kubernetes, against a fake API server that answers as real ones did.
//! `answers/` was recorded from a cluster of kind with Kubernetes 1.34.

#![allow(clippy::unwrap_used, reason = "tests")]

mod fake;
mod matrix;
mod rights;

use cnibench::{
    cluster::kube::{
        Access,
        deployment::{Deployment, Seats},
        leftovers::{self, Whose},
        logged::Logged,
        nodes::{self, Wanted},
        objects::Image,
        pods::{Pods, apply},
        ready::{self, Wait},
        removal::remove_namespace,
        settle,
    },
    cni::kubernetes::KubeCni,
};
use cnibench_model::{CniSpec, Placement};
use fake::{Answer, Call, Fake, ok, recorded, refused};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
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

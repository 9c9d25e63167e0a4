//! What dead runs left in a cluster: found by the label, judged by the marks on it, removed.
//!
//! Several machines may measure in one cluster. Whether a run lives is known only where its lock is;
//! of others the annotation tells when nothing of theirs is used any more. Called by `cnibench clean`.

use super::{
    access::{Access, answer, explain, is_forbidden},
    objects::{EXPIRES, HOST, LOCK, RUN_LABEL},
    removal::{GONE, remove_named, remove_namespace},
};
use crate::cluster::owner::{Missing, RunId, is_missing, locks, try_lock, whereabouts};
use anyhow::anyhow;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Pod, Service},
        networking::v1::NetworkPolicy,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Resource, api::ListParams};
use serde::de::DeserializeOwned;
use std::{collections::BTreeMap, fmt::Debug};

/// Namespaces removed at a time.
const AT_ONCE: usize = 8;

/// What a clean-up of a cluster did, in words.
#[derive(Debug, Default)]
pub struct Cleaned {
    /// What is gone now.
    pub removed: Vec<String>,
    /// Runs that are alive, whose things were left alone.
    pub kept: Vec<RunId>,
    /// What was left because nothing is known of its run here.
    pub left: Vec<String>,
    /// What could not be done.
    pub errors: Vec<anyhow::Error>,
}

/// Whose leftovers are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Those of dead runs.
    Dead,
    /// Also those of runs of which nothing is known here.
    Unknown,
}

/// Removes what dead runs left: their namespaces and, in `namespace`, their objects.
pub async fn clean(access: &Access, namespace: Option<&str>, whose: Whose) -> Cleaned {
    let mut cleaned = Cleaned::default();
    clean_namespaces(access, namespace.is_some(), whose, &mut cleaned).await;
    if let Some(name) = namespace {
        clean_objects::<NetworkPolicy>(access, name, whose, &mut cleaned).await;
        clean_objects::<Service>(access, name, whose, &mut cleaned).await;
        clean_objects::<Pod>(access, name, whose, &mut cleaned).await;
    }
    cleaned
}

async fn clean_namespaces(access: &Access, named: bool, whose: Whose, cleaned: &mut Cleaned) {
    let api: Api<Namespace> = Api::all(access.client.clone());
    let found = match answer(api.list(&ListParams::default().labels(RUN_LABEL))).await {
        Ok(list) => list.items,
        // Who works in a given namespace needs no right to see the others.
        Err(e) if named && is_forbidden(&e) => return,
        Err(e) => {
            let cause = anyhow!("{}", explain(&e));
            cleaned.errors.push(cause.context(format!("cluster {}", access.name)));
            return;
        }
    };
    let mut due = Vec::new();
    for namespace in &found {
        let what = || format!("namespace {}", namespace.metadata.name.as_deref().unwrap_or("?"));
        if let Some(run) = sort(&namespace.metadata, what, whose, cleaned) {
            due.push((namespace.metadata.name.clone().unwrap_or_default(), run));
        }
    }
    let gone = stream::iter(due).map(|(name, run)| async move {
        let gone = remove_namespace(access, &name, GONE).await;
        gone.map(|()| format!("namespace {name} of run {run}"))
    });
    for gone in gone.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await {
        match gone {
            Ok(what) => cleaned.removed.push(what),
            Err(e) => cleaned.errors.push(e),
        }
    }
}

async fn clean_objects<K>(access: &Access, namespace: &str, whose: Whose, cleaned: &mut Cleaned)
where
    K: Clone
        + DeserializeOwned
        + Debug
        + Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    let kind = K::kind(&()).into_owned();
    let api: Api<K> = Api::namespaced(access.client.clone(), namespace);
    let found = match answer(api.list(&ListParams::default().labels(RUN_LABEL))).await {
        Ok(list) => list.items,
        Err(e) => {
            let cause = anyhow!("{kind}: {}", explain(&e));
            cleaned.errors.push(cause.context(format!("cluster {}", access.name)));
            return;
        }
    };
    let mut due: BTreeMap<RunId, Vec<String>> = BTreeMap::new();
    for object in &found {
        let name = object.meta().name.clone().unwrap_or_default();
        let what = || format!("{kind} {name} in namespace {namespace}");
        if let Some(run) = sort(object.meta(), what, whose, cleaned) {
            due.entry(run).or_default().push(name);
        }
    }
    for (run, names) in due {
        let what = match names.as_slice() {
            [one] => format!("{kind} {one} of run {run} in namespace {namespace}"),
            all => format!("{} of kind {kind} of run {run} in namespace {namespace}", all.len()),
        };
        let errors = remove_named(&api, names).await;
        if errors.is_empty() {
            cleaned.removed.push(what);
        }
        cleaned.errors.extend(errors);
    }
}

/// The run of something that is to be removed; notes why it is not.
fn sort(
    meta: &ObjectMeta,
    what: impl Fn() -> String,
    whose: Whose,
    cleaned: &mut Cleaned,
) -> Option<RunId> {
    let run = RunId::of_label(meta.labels.as_ref()?.get(RUN_LABEL)?)?;
    let here = whereabouts().unwrap_or_default();
    let marks = meta.annotations.clone().unwrap_or_default();
    match fate(&marks, &here, lives(&run), Timestamp::now()) {
        Fate::Dead => Some(run),
        Fate::Alive => {
            if !cleaned.kept.contains(&run) {
                cleaned.kept.push(run);
            }
            None
        }
        Fate::Unknown if whose == Whose::Unknown => Some(run),
        Fate::Unknown => {
            let host = marks.get(HOST).map_or("an unknown host", String::as_str);
            let expires = marks.get(EXPIRES).map_or("never", String::as_str);
            cleaned.left.push(format!("{} of run {run} on {host}, expires {expires}", what()));
            None
        }
    }
}

/// What became of the run that made something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Dead,
    Alive,
    /// Its lock is elsewhere, and its time is not over.
    Unknown,
}

/// By its marks; `lives`: whether its lock is held, if it is here.
fn fate(marks: &BTreeMap<String, String>, here: &str, lives: bool, now: Timestamp) -> Fate {
    if marks.get(LOCK).is_some_and(|lock| !here.is_empty() && lock == here) {
        return if lives { Fate::Alive } else { Fate::Dead };
    }
    let expires = marks.get(EXPIRES).and_then(|at| at.parse::<Timestamp>().ok());
    if expires.is_some_and(|at| at < now) { Fate::Dead } else { Fate::Unknown }
}

/// Is the lock of a run held? A run takes its lock first and gives it up last.
fn lives(run: &RunId) -> bool {
    let Ok(folder) = locks() else { return false };
    match try_lock(&folder, run, Missing::Report) {
        Ok(lock) => lock.is_none(),
        Err(e) => !is_missing(&e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(lock: &str, expires: &str) -> BTreeMap<String, String> {
        BTreeMap::from([
            (LOCK.to_owned(), lock.to_owned()),
            (EXPIRES.to_owned(), expires.to_owned()),
        ])
    }

    #[test]
    fn a_lock_that_is_here_decides_and_elsewhere_the_time() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let (past, future) = ("2026-01-01T11:59:59Z", "2026-01-01T12:00:01Z");
        for expires in [past, future] {
            assert_eq!(fate(&marks("here", expires), "here", true, now), Fate::Alive);
            assert_eq!(fate(&marks("here", expires), "here", false, now), Fate::Dead);
        }
        assert_eq!(fate(&marks("there", past), "here", false, now), Fate::Dead);
        assert_eq!(fate(&marks("there", future), "here", false, now), Fate::Unknown);
        // A user without a place for locks is not every other one.
        assert_eq!(fate(&marks("", future), "", false, now), Fate::Unknown);
        assert_eq!(fate(&BTreeMap::new(), "here", false, now), Fate::Unknown);
    }
}

//! Taking away what a run made in a cluster, and saying what stays and why.
//!
//! Called at the end of a run, and by `cnibench clean` for runs that are dead.

use super::{
    access::{Access, answer, explain, is_missing, is_unreachable},
    pods::{AT_ONCE, Pods},
};
use anyhow::{anyhow, bail};
use futures::{StreamExt, stream};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service},
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, Resource,
    api::{DeleteParams, ListParams},
};
use serde::de::DeserializeOwned;
use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// How long a namespace or pods may take to go.
pub const GONE: Duration = Duration::from_secs(60);

impl Pods {
    /// Removes what the run made, and waits until it is gone. Idempotent.
    pub async fn remove(&mut self) -> Vec<anyhow::Error> {
        self.removed();
        self.pods.clear();
        if let Err(e) = self.outage(GONE, "to take everything down").await {
            return vec![e.context(self.left())];
        }
        if self.own_namespace {
            let gone = remove_namespace(&self.access, &self.common.namespace, GONE).await;
            return gone.err().into_iter().collect();
        }
        let mut errors = Vec::new();
        let selector = self.selector();
        errors.extend(remove_all(&self.api::<NetworkPolicy>(), &selector).await);
        errors.extend(remove_all(&self.api::<Service>(), &selector).await);
        errors.extend(remove_all(&self.api::<Pod>(), &selector).await);
        if errors.is_empty() {
            errors.extend(self.wait_until_gone(&selector).await.err());
        }
        errors.into_iter().map(|e| e.context(self.left())).collect()
    }

    /// What stays where removing it fails, and how it goes then.
    fn left(&self) -> String {
        let namespace = &self.common.namespace;
        if self.own_namespace {
            return format!("namespace {namespace} is left, `cnibench clean` removes it");
        }
        format!(
            "objects with the label {} are left in namespace {namespace}, `cnibench clean --namespace {namespace}` removes them",
            self.selector()
        )
    }

    async fn wait_until_gone(&self, selector: &str) -> anyhow::Result<()> {
        let (pods, selected) = (self.api::<Pod>(), ListParams::default().labels(selector));
        let begun = Instant::now();
        loop {
            let left = match answer(pods.list(&selected)).await {
                Ok(list) if list.items.is_empty() => return Ok(()),
                Ok(list) => list.items,
                Err(e) if is_unreachable(&e) && begun.elapsed() < GONE => continue,
                Err(e) => bail!("{}", explain(&e)),
            };
            if begun.elapsed() > GONE {
                let held = |p: Pod| {
                    let name = p.metadata.name?;
                    Some(match p.metadata.finalizers.unwrap_or_default() {
                        all if all.is_empty() => name,
                        all => format!("{name} (finalizers {})", all.join(", ")),
                    })
                };
                let names: Vec<_> = left.into_iter().filter_map(held).collect();
                bail!("pods do not go away within {} s: {}", GONE.as_secs(), names.join(", "));
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

/// Removes a namespace and waits until it is gone.
///
/// # Errors
/// What keeps it: its conditions and finalizers, as the API server says them.
pub async fn remove_namespace(
    access: &Access,
    name: &str,
    patience: Duration,
) -> anyhow::Result<()> {
    let api: Api<Namespace> = Api::all(access.client.clone());
    match answer(api.delete(name, &DeleteParams::background())).await {
        Ok(_) => {}
        Err(e) if is_missing(&e) => return Ok(()),
        // Being deleted already.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(e) => bail!("namespace {name} is left: {}", explain(&e)),
    }
    let begun = Instant::now();
    loop {
        let namespace = match answer(api.get_opt(name)).await {
            Ok(None) => return Ok(()),
            Ok(Some(namespace)) => Some(namespace),
            Err(e) if is_unreachable(&e) => None,
            Err(e) => bail!("namespace {name}: {}", explain(&e)),
        };
        if begun.elapsed() > patience {
            let why = namespace.as_ref().map(hangs).unwrap_or_default();
            bail!(
                "namespace {name} is still Terminating after {} s{why}; once that is mended it goes by itself",
                patience.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// What a namespace that hangs says of it.
fn hangs(namespace: &Namespace) -> String {
    let conditions = namespace.status.as_ref().and_then(|s| s.conditions.as_ref());
    let said: Vec<String> = conditions
        .into_iter()
        .flatten()
        .filter(|c| c.status == "True")
        .filter_map(|c| Some(format!("{}: {}", c.type_, c.message.as_deref()?)))
        .collect();
    if said.is_empty() { String::new() } else { format!(" ({})", said.join("; ")) }
}

/// Removes every object of a kind that a selector names.
///
/// # Errors
/// Each one that could not be removed.
pub async fn remove_all<K>(api: &Api<K>, selector: &str) -> Vec<anyhow::Error>
where
    K: Clone + DeserializeOwned + Debug + Resource,
    K::DynamicType: Default,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let params = ListParams::default().labels(selector);
    let items = match answer(api.list(&params)).await {
        Ok(list) => list.items,
        Err(e) => return vec![anyhow!("{kind}: {}", explain(&e))],
    };
    let names: Vec<String> = items.iter().filter_map(|i| i.meta().name.clone()).collect();
    remove_named(api, names).await
}

/// Removes objects of a kind by name, one by one: the right to delete a collection is another, and
/// rarely given. One that is gone already is no error.
///
/// # Errors
/// Each one that could not be removed.
pub async fn remove_named<K>(api: &Api<K>, names: Vec<String>) -> Vec<anyhow::Error>
where
    K: Clone + DeserializeOwned + Debug + Resource,
    K::DynamicType: Default,
{
    let kind = &K::kind(&K::DynamicType::default()).into_owned();
    let gone = stream::iter(names).map(|name| async move {
        match answer(api.delete(&name, &DeleteParams::default())).await {
            Ok(_) => None,
            Err(e) if is_missing(&e) => None,
            Err(e) => Some(anyhow!("{kind} {name}: {}", explain(&e))),
        }
    });
    gone.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}

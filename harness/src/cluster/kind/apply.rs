//! Applying any objects to a cluster: server-side, in order, with the kinds that they define themselves.

use crate::cluster::kube::{
    Access,
    access::{explain, is_unreachable},
    pods::apply,
};
use anyhow::{Context as _, anyhow, bail};
use kube::{
    Api, Error,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
    discovery::{Scope, pinned_kind},
    error::DiscoveryError,
};
use serde_json::Value;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// How long a kind that was just defined may take to be served.
const DEFINED: Duration = Duration::from_secs(30);

/// Applies objects one after the other; `namespace` is for those that name none.
///
/// # Errors
/// The object that the API server refused, and why.
pub async fn apply_all(access: &Access, objects: &[Value], namespace: &str) -> anyhow::Result<()> {
    let mut kinds: HashMap<GroupVersionKind, (ApiResource, Scope)> = HashMap::new();
    for object in objects {
        let gvk = kind_of(object);
        if !kinds.contains_key(&gvk) {
            let found = find(access, &gvk).await.with_context(|| name_of(object))?;
            kinds.insert(gvk.clone(), found);
        }
        let Some((resource, scope)) = kinds.get(&gvk) else { continue };
        let api: Api<DynamicObject> = match scope {
            Scope::Cluster => Api::all_with(access.client.clone(), resource),
            Scope::Namespaced => {
                let own = object["metadata"]["namespace"].as_str().unwrap_or(namespace);
                Api::namespaced_with(access.client.clone(), own, resource)
            }
        };
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        apply(&api, name, object).await?;
    }
    Ok(())
}

fn kind_of(object: &Value) -> GroupVersionKind {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    GroupVersionKind::gvk(group, version, object["kind"].as_str().unwrap_or_default())
}

fn name_of(object: &Value) -> String {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

async fn find(access: &Access, gvk: &GroupVersionKind) -> anyhow::Result<(ApiResource, Scope)> {
    let begun = Instant::now();
    loop {
        let error = match pinned_kind(&access.client, gvk).await {
            Ok((resource, can)) => return Ok((resource, can.scope)),
            Err(e) => e,
        };
        let later = is_unreachable(&error) || unknown(&error);
        if !later || begun.elapsed() > DEFINED {
            let known = if unknown(&error) {
                anyhow!("the cluster has no kind {} in {}", gvk.kind, gvk.api_version())
            } else {
                anyhow!("{}", explain(&error))
            };
            bail!(known);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// True when the server does not know the kind (yet).
fn unknown(error: &Error) -> bool {
    match error {
        Error::Api(status) => status.code == 404,
        Error::Discovery(e) => matches!(
            e,
            DiscoveryError::MissingKind(_)
                | DiscoveryError::MissingApiGroup(_)
                | DiscoveryError::MissingResource(_)
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kinds_are_read_from_objects() {
        let object =
            json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "x"}});
        assert_eq!(kind_of(&object), GroupVersionKind::gvk("apps", "v1", "DaemonSet"));
        assert_eq!(name_of(&object), "DaemonSet x");
        assert_eq!(kind_of(&json!({"apiVersion": "v1", "kind": "Pod"})).group, "");
    }
}

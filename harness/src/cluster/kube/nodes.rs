//! Which nodes carry the pods of a run.

use super::{
    access::{Access, answer, explain, is_forbidden},
    toleration::Toleration,
};
use anyhow::{anyhow, bail};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use kube::{Api, api::ListParams};
use std::collections::BTreeMap;

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its value of `kubernetes.io/hostname`, by which pods are put on it.
    pub hostname: String,
}

/// What nodes must have to be used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Labels.
    pub selector: BTreeMap<String, String>,
    /// Taints that are tolerated.
    pub tolerations: Vec<Toleration>,
    /// True where pods need no cni: nodes that are not ready for want of one are as good.
    pub without_cni: bool,
}

/// The nodes that can carry pods, workers first; none without the right to list nodes, where pods
/// are kept apart by the scheduler instead.
///
/// # Errors
/// The server does not answer, or no two nodes are as wanted: then why each of the others is not.
pub async fn choose(
    access: &Access,
    wanted: &Wanted,
    least: usize,
) -> anyhow::Result<Option<Vec<NodeFacts>>> {
    let api: Api<Node> = Api::all(access.client.clone());
    let labels: Vec<String> = wanted.selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let params = ListParams::default().labels(&labels.join(","));
    let nodes = match answer(api.list(&params)).await {
        Ok(list) => list.items,
        Err(e) if is_forbidden(&e) => return Ok(None),
        Err(e) => return Err(anyhow!("cluster {}: {}", access.name, explain(&e))),
    };
    let (fit, unfit) = sort(&nodes, wanted);
    if fit.len() < least {
        let selected =
            if labels.is_empty() { String::new() } else { format!(" with {}", labels.join(",")) };
        let mut text = format!("{} usable nodes{selected}, at least {least} are needed", fit.len());
        for (name, reason) in unfit.iter().take(5) {
            text += &format!("; {name}: {reason}");
        }
        bail!("cluster {}: {text}", access.name);
    }
    Ok(Some(fit))
}

/// What the API says of a node: whether it is ready, and if not why; none where it cannot be asked.
pub async fn state(access: &Access, name: &str) -> Option<String> {
    let api: Api<Node> = Api::all(access.client.clone());
    match answer(api.get(name)).await {
        Ok(node) => Some(match ready(&node) {
            Some(c) if c.status == "True" => "Ready, so far".to_owned(),
            Some(c) => format!("not ready: {}", c.message.as_deref().unwrap_or("it says not why")),
            None => "nothing: its kubelet is not heard".to_owned(),
        }),
        Err(e) if super::access::is_missing(&e) => Some("it is no node of the cluster".to_owned()),
        Err(_) => None,
    }
}

fn ready(node: &Node) -> Option<&NodeCondition> {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().find(|c| c.type_ == "Ready")
}

/// Nodes that can be used, workers first, and why the others cannot.
fn sort(nodes: &[Node], wanted: &Wanted) -> (Vec<NodeFacts>, Vec<(String, String)>) {
    let (mut fit, mut unfit) = (Vec::new(), Vec::new());
    for node in nodes {
        let name = node.metadata.name.clone().unwrap_or_default();
        let labels = node.metadata.labels.clone().unwrap_or_default();
        match unusable(node, wanted) {
            Some(reason) => unfit.push((name, reason)),
            None => {
                let control_plane = labels.contains_key("node-role.kubernetes.io/control-plane");
                let hostname = labels.get("kubernetes.io/hostname").unwrap_or(&name).clone();
                fit.push((control_plane, NodeFacts { name, hostname }));
            }
        }
    }
    fit.sort_by(|(a, x), (b, y)| (a, &x.name).cmp(&(b, &y.name)));
    (fit.into_iter().map(|(_, node)| node).collect(), unfit)
}

fn unusable(node: &Node, wanted: &Wanted) -> Option<String> {
    let spec = node.spec.as_ref()?;
    if spec.unschedulable == Some(true) {
        return Some("cordoned".to_owned());
    }
    let ready = ready(node);
    if !wanted.without_cni && ready.is_none_or(|c| c.status != "True") {
        let why = ready.and_then(|c| c.message.as_deref()).unwrap_or("its kubelet is not heard");
        return Some(format!("not ready: {why}"));
    }
    let repels = |taint: &&Taint| {
        taint.effect != "PreferNoSchedule"
            && !(wanted.without_cni && taint.key.starts_with("node.kubernetes.io/"))
            && !wanted.tolerations.iter().any(|t| t.tolerates(taint))
    };
    let taint = spec.taints.iter().flatten().find(repels)?;
    let value = taint.value.as_deref().map(|v| format!("={v}")).unwrap_or_default();
    let (key, effect) = (&taint.key, &taint.effect);
    Some(format!("tainted {key}{value}:{effect}, which --toleration {key}{value} tolerates"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ready: bool, rest: &str) -> Node {
        let ready = if ready { "True" } else { "False" };
        serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"{name}","labels":{{"kubernetes.io/hostname":"{name}"{rest},
            "status":{{"conditions":[{{"type":"Ready","status":"{ready}","message":"no cni"}}]}}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn workers_come_first_and_the_unusable_say_why() {
        let plain = r#"}},"spec":{}"#;
        let control = r#","node-role.kubernetes.io/control-plane":""}},"spec":{}"#;
        let tainted = r#"}},"spec":{"taints":[{"key":"gpu","value":"yes","effect":"NoSchedule"}]}"#;
        let nodes = [
            node("a", true, control),
            node("b", true, plain),
            node("c", false, plain),
            node("d", true, tainted),
        ];
        let (fit, unfit) = sort(&nodes, &Wanted::default());
        let names: Vec<_> = fit.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!(unfit[0], ("c".to_owned(), "not ready: no cni".to_owned()));
        assert_eq!(unfit[1].1, "tainted gpu=yes:NoSchedule, which --toleration gpu=yes tolerates");
        for text in ["gpu", "gpu=yes", "gpu=yes:NoSchedule", "gpu:NoSchedule"] {
            let wanted = Wanted { tolerations: vec![text.parse().unwrap()], ..Wanted::default() };
            assert_eq!(sort(&nodes, &wanted).0.len(), 3, "{text}");
        }
        let wanted = Wanted { without_cni: true, ..Wanted::default() };
        assert_eq!(sort(&nodes, &wanted).0.len(), 3);
    }
}

//! `cnibench rbac`: the rights that a run needs in a cluster, as a manifest.

use super::{Outcome, print};
use crate::cluster::kube::rights::{self, Scope};
use anyhow::{Result, bail};
use serde_json::{Value, json};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The namespace in which runs are to work (`run --namespace`); without one the rights are for a
    /// namespace of each run's own, which takes a ClusterRole.
    #[arg(long)]
    namespace: Option<String>,
    /// With the node-pair matrix (`run --pairs`).
    #[arg(long)]
    matrix: bool,
    /// With what the cni's own pods cost and what they say of themselves (`run --privileged`, a cni that
    /// is named, and its flow observer). Far-reaching: pods/exec and nodes/proxy in the whole cluster,
    /// which is as good as root on its nodes.
    #[arg(long)]
    cni_pods: bool,
    /// Who gets them: a service account as NAMESPACE/NAME, or a user's name.
    #[arg(long, value_name = "NAMESPACE/NAME|USER", default_value = "default/cnibench")]
    subject: String,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let scope = Scope::printed(args.namespace.is_none(), args.matrix, args.cni_pods);
    let namespace = args.namespace.as_deref().unwrap_or("default");
    let all = rights::manifest(scope, namespace, &subject(&args.subject)?);
    let mut text = match rights::caution(scope) {
        Some(caution) => format!("# {caution}\n"),
        None => String::new(),
    };
    for value in all {
        text += "---\n";
        text += &serde_saphyr::to_string(&value)?;
    }
    print(&text)?;
    Ok(Outcome::Done)
}

fn subject(text: &str) -> Result<Value> {
    Ok(match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
        None if !text.is_empty() => {
            json!({"kind": "User", "name": text, "apiGroup": "rbac.authorization.k8s.io"})
        }
        _ => bail!("--subject {text:?} is neither NAMESPACE/NAME nor a user's name"),
    })
}

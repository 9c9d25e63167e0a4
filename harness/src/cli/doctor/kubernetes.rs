//! The providers kind and kubeconfig: their tools, and the cluster that a kubeconfig leads to.

use super::{Args, Check};
use crate::cluster::{
    kind::{Sources, Tool, Tools, plugins, tools},
    kube::{
        Access,
        access::Right,
        rights::{Scope, lacking, needed},
    },
};
use futures::future::join_all;

const KIND: &str = "provider kind";
const KUBECONFIG: &str = "provider kubeconfig";

/// What the provider kind is made of.
pub(super) async fn kind(sources: &Sources) -> Vec<Check> {
    let tools = Tools::of(sources);
    let looks = Tool::ALL.map(|tool| {
        let tools = &tools;
        async move { Check::new(KIND, tool.name(), tools.check(tool).await) }
    });
    let mut checks = join_all(looks).await;
    let inotify = tools::inotify().map(|n| format!("{n} instances"));
    checks.push(Check::new(KIND, "inotify", inotify));
    let bridge = plugins::find("bridge", sources.cni_plugins.as_deref());
    let bridge =
        bridge.map(|path| format!("{}, for Flannel on nodes that lack it", path.display()));
    let bridge = bridge
        .map_err(|e| format!("{e}; only Flannel needs it, and not every node image lacks it"));
    checks.push(Check::new(KIND, "CNI plugin bridge", bridge));
    checks
}

/// Where the kubeconfig leads, and what its user may do there.
pub(super) async fn kubeconfig(args: &Args) -> Vec<Check> {
    let found = Access::from_kubeconfig(args.kubeconfig.as_deref(), args.context.as_deref()).await;
    let access = match found {
        Ok(access) => access,
        Err(e) => return vec![Check::new(KUBECONFIG, "kubeconfig", Err(format!("{e:#}")))],
    };
    let mut checks = vec![Check::new(KUBECONFIG, "kubeconfig", Ok(access.name.clone()))];
    let version = access.version().await;
    let answers = version.is_ok();
    checks.push(Check::new(KUBECONFIG, "API server", version.map_err(|e| format!("{e:#}"))));
    if !answers {
        return checks;
    }
    let base = needed(Scope::printed(true, false, false));
    let all = needed(Scope::printed(true, true, true));
    let more: Vec<Right> = all.into_iter().filter(|r| !base.contains(r)).collect();
    checks.push(Check::new(KUBECONFIG, "rights to measure", rights(&access, &base).await));
    checks.push(Check::new(KUBECONFIG, "rights to look closer", rights(&access, &more).await));
    checks
}

/// Has this user all of these? Else which are missing, and what for.
async fn rights(access: &Access, wanted: &[Right]) -> Result<String, String> {
    // Everywhere, for a namespace of the run's own, which is not there yet.
    let lacking = lacking(access, None, wanted).await.map_err(|e| format!("{e:#}"))?;
    let lacking: Vec<String> =
        lacking.iter().map(|right| format!("{right} ({})", right.needed_for)).collect();
    if lacking.is_empty() {
        return Ok(format!("all {}", wanted.len()));
    }
    Err(format!("none to {}; `cnibench rbac` prints what a run needs", lacking.join(", ")))
}

//! CNI plugins that a cni needs and kind's nodes lack are copied into them.
//!
//! kind's node image has host-local, loopback, portmap and ptp; Flannel needs bridge.

use super::lifecycle::KindCluster;
use anyhow::Context as _;
use std::path::{Path, PathBuf};

/// Where nodes have them.
const IN_NODE: &str = "/opt/cni/bin";
/// Where this machine may have them: Debian's package, and where everybody else puts them.
const HERE: &[&str] = &["/usr/lib/cni", "/opt/cni/bin"];

/// Brings what is missing into every node; gives the names of what was brought.
///
/// # Errors
/// A plugin that neither the nodes nor this machine have, and where to get it; or what docker said.
pub async fn bring(
    cluster: &KindCluster,
    nodes: &[String],
    needed: &[String],
    folder: Option<&Path>,
) -> anyhow::Result<Vec<String>> {
    let mut brought: Vec<String> = Vec::new();
    for node in nodes {
        let there = cluster.in_node(node, &["ls", IN_NODE]).await;
        let there = there.with_context(|| format!("node {node}: which CNI plugins it has"))?;
        for plugin in needed.iter().filter(|p| there.lines().all(|l| l.trim() != p.as_str())) {
            let file = find(plugin, folder)
                .with_context(|| format!("node {node} lacks a CNI plugin that the cni needs"))?;
            let to = format!("{IN_NODE}/{plugin}");
            let copied = cluster.copy(&file, node, &to).await;
            copied.with_context(|| format!("CNI plugin {} into node {node}", file.display()))?;
            if !brought.contains(plugin) {
                brought.push(plugin.clone());
            }
        }
    }
    Ok(brought)
}

/// Where this machine has a plugin, for nodes that lack it.
///
/// # Errors
/// Nowhere: where was looked, and where to get it.
pub fn find(plugin: &str, folder: Option<&Path>) -> anyhow::Result<PathBuf> {
    let folders: Vec<&Path> = folder.into_iter().chain(HERE.iter().map(Path::new)).collect();
    let found = folders.iter().map(|f| f.join(plugin)).find(|p| p.is_file());
    found.with_context(|| {
        let looked: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
        format!(
            "this machine has no CNI plugin {plugin:?} (looked in {}): install containernetworking-plugins, or name a folder with it (cni_plugins in --sources; https://github.com/containernetworking/plugins/releases)",
            looked.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_folder_comes_first_and_what_is_nowhere_says_where_to_get_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("bridge"), "").unwrap();
        assert_eq!(find("bridge", Some(dir.path())).unwrap(), dir.path().join("bridge"));
        let text = find("no-such-plugin", Some(dir.path())).unwrap_err().to_string();
        assert!(text.contains(&dir.path().display().to_string()), "{text}");
        assert!(
            text.contains("/usr/lib/cni") && text.contains("cni_plugins in --sources"),
            "{text}"
        );
    }
}

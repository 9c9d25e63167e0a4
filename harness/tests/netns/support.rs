//! What the tests share: a provider of their own, and looking at what is really there.

use cnibench::{
    cluster::{
        Cluster, IpFamily, Provider as _, Topology,
        netns::{NetnsProvider, Owner, user_namespace},
    },
    netlink::{Netns, Rtnl},
};
use std::{path::Path, process::Command};

/// A provider with a run of its own.
pub fn provider() -> NetnsProvider {
    assert!(
        user_namespace::is_privileged(),
        "these tests make network namespaces: run them as root (sudo -E cargo test --features netns-tests --test netns)"
    );
    NetnsProvider::new(Owner::acquire().unwrap()).unwrap()
}

pub fn topology(nodes: u32, pods_per_node: u32, family: IpFamily) -> Topology {
    Topology { nodes, pods_per_node, family, underlay_mtu: 1500 }
}

pub async fn up(provider: &NetnsProvider, spec: &str, topology: &Topology) -> Box<dyn Cluster> {
    match provider.up(0, &spec.parse().unwrap(), topology).await {
        Ok(cluster) => cluster,
        Err(e) => panic!("{spec}: {e}"),
    }
}

pub async fn down(mut cluster: Box<dyn Cluster>) {
    let errors = cluster.down().await;
    assert!(errors.is_empty(), "{errors:?}");
}

/// A namespace of a run's first cluster, e.g. "n0p1".
pub fn space(run: &str, thing: &str) -> Netns {
    Netns::open(Path::new(&format!("/run/netns/cnb-{run}-c0-{thing}"))).unwrap()
}

/// Names under /run/netns and mounts that belong to a run.
pub fn traces(run: &str) -> Vec<String> {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = names.map(|e| e.file_name().to_string_lossy().into_owned());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts: Vec<String> = mounts.lines().map(str::to_owned).collect();
    names.chain(mounts).filter(|t| t.contains(&format!("cnb-{run}-"))).collect()
}

/// What a command says inside a namespace (the tools are only looked through, never relied on).
pub fn says(netns: &Netns, command: &[&str]) -> String {
    let command: Vec<String> = command.iter().map(|s| (*s).to_owned()).collect();
    let run = move || {
        let output = Command::new(&command[0]).args(&command[1..]).output()?;
        assert!(output.status.success(), "{command:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    netns.run_blocking(run).unwrap()
}

/// Names of the links in this process' own namespace.
pub fn host_links() -> Vec<String> {
    let mut links: Vec<String> =
        Rtnl::open().unwrap().links().unwrap().into_iter().map(|l| l.name).collect();
    links.sort();
    links
}

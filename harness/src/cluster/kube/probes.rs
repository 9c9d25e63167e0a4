//! Where the latency probes of a trial between pods are attached: by the observer of the client's node,
//! told of both nodes. A packet is followed within one kernel, so both nodes must be on one machine
//! (nodes of kind); between machines its skb ends at the network card.

use super::cluster::KubeCluster;
use crate::{
    cluster::{Cluster as _, Ends, Place},
    exec::Observer,
    observe::protocol::Station,
    probe::{By, Sights},
};
use anyhow::{Context as _, bail};
use cnibench_probes::stages::Scene;

/// An end's node, asked by its observer.
struct Looked {
    observer: Observer,
    station: Station,
}

/// The way between two ends, and the observer that attaches probes to it.
pub(super) async fn sights(cluster: &KubeCluster, ends: &Ends) -> anyhow::Result<Sights> {
    let client = look(cluster, &ends.client).await?;
    let server = match look(cluster, &ends.server).await {
        Ok(server) => server,
        Err(error) => {
            client.observer.stop().await;
            return Err(error);
        }
    };
    let together = client.observer.machine() == server.observer.machine();
    server.observer.stop().await;
    let refused = match scene(&client.station, &server.station) {
        _ if !together => {
            "latency probes follow a packet within one kernel, and the nodes of both ends are two machines"
        }
        None => "both ends are in one network namespace: no packet crosses a device",
        Some(scene) => return Ok(Sights { scene, by: By::Node(Box::new(client.observer)) }),
    };
    client.observer.stop().await;
    bail!(refused)
}

async fn look(cluster: &KubeCluster, place: &Place) -> anyhow::Result<Looked> {
    let facts = cluster.pod(place).with_context(|| format!("there is no {}", place.label))?;
    let of_pod = cluster
        .observer(place)
        .context("latency probes need an observer on the measured nodes (--privileged)")?;
    let mut observer = Observer::start(&of_pod.label, cluster.observe(&of_pod).await?).await?;
    // A pod on the node's network has the node's address.
    let pod = (facts.ip != facts.host_ip).then_some(facts.ip);
    match observer.station(pod, facts.host_ip).await {
        Ok(station) => Ok(Looked { observer, station }),
        Err(error) => {
            observer.stop().await;
            Err(error.into())
        }
    }
}

/// Both nodes in one scene; none: both ends are in one namespace.
fn scene(client: &Station, server: &Station) -> Option<Scene> {
    let end = |station: &Station| station.pod.unwrap_or(station.node);
    let (from, to) = (end(client), end(server));
    let mut devices = client.devices.clone();
    devices.extend(server.devices.iter().filter(|d| !client.devices.contains(d)));
    let mut others = vec![(client.node, "client's node".to_owned())];
    others.push((server.node, "server's node".to_owned()));
    others.retain(|(netns, _)| *netns != from && *netns != to);
    others.dedup_by_key(|(netns, _)| *netns);
    (from != to).then_some(Scene { client: from, server: to, others, devices })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnibench_probes::stages::{Device, layout::Role as On};

    fn station(node: u32, pod: Option<u32>) -> Station {
        let of_node = Device { netns: node, ifindex: 2, role: On::Underlay };
        let of_pod = pod.map(|netns| Device { netns, ifindex: 2, role: On::Pod });
        Station { node, pod, devices: std::iter::once(of_node).chain(of_pod).collect() }
    }

    #[test]
    fn both_nodes_are_in_the_scene_and_each_thing_once() {
        let found = scene(&station(1, Some(11)), &station(2, Some(12))).unwrap();
        assert_eq!((found.client, found.server, found.devices.len()), (11, 12, 4));
        assert_eq!(found.others.iter().map(|o| o.0).collect::<Vec<_>>(), [1, 2]);
        let found = scene(&station(1, Some(11)), &station(1, Some(12))).unwrap();
        assert_eq!((found.devices.len(), found.others.len()), (3, 1));
        let hosts = scene(&station(1, None), &station(2, None)).unwrap();
        assert!(hosts.others.is_empty() && (hosts.client, hosts.server) == (1, 2));
        assert!(scene(&station(1, None), &station(1, None)).is_none());
    }
}

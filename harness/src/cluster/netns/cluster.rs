//! A cluster of namespaces that is up: its ends, its proofs, and taking it down.

use super::{addressing::Plan, spaces::Spaces, sysctls::Sysctl};
use crate::{
    cluster::{Cluster, Ends, IpFamily, Place, StateError, Topology, owner::Owner},
    cni::{Cni, NodeAgent, NodeCtx, PodCtx, PodNet, keys::Holder},
    exec::{self, Link},
    netlink::{Netns, namespace},
    probe::{
        self, By, Sights,
        losses::Spot,
        netns::{Stands, Station},
    },
    proof::{self, Way, lookout::Lookout},
};
use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use cnibench_model::{CniInfo, Placement, Proof, ProofKind, ProofOutcome, Surroundings};
use cnibench_probes::datapath::Counters;
use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

/// How long one step of taking down may take before it is given up and reported.
const PATIENCE: Duration = Duration::from_secs(10);

/// A cluster made by [`super::NetnsProvider`]. Dropped without [`Cluster::down`], it still removes
/// its namespaces.
pub struct NetnsCluster {
    pub(super) info: CniInfo,
    pub(super) cni: Arc<dyn Cni>,
    pub(super) topology: Topology,
    pub(super) plan: Plan,
    // Agents before namespaces: fields are dropped in this order.
    pub(super) nodes: Vec<Node>,
    pub(super) underlay: Option<Netns>,
    /// Why the service of `pod-service` is not there, when it could not be programmed.
    pub(super) no_service: Option<String>,
    /// Policies that the server's pod has now; None while they are changed, or after that failed.
    pub(super) policies: Option<u32>,
    /// Set in every node and pod.
    pub(super) sysctls: Vec<Sysctl>,
    pub(super) spaces: Arc<Spaces>,
    /// Keeps the run's lock for as long as anything of it may be there.
    pub(super) _owner: Arc<Owner>,
}

/// A node with its cni's agent and its pods.
pub(super) struct Node {
    pub(super) ctx: Arc<NodeCtx>,
    pub(super) agent: Option<Box<dyn NodeAgent>>,
    pub(super) pods: Vec<Pod>,
}

/// A pod that was connected.
pub(super) struct Pod {
    pub(super) ctx: PodCtx,
    pub(super) net: PodNet,
}

/// An end before it is given away: which namespace, on which node, at which address.
struct End<'a> {
    place: Place,
    netns: &'a Netns,
    node: &'a Node,
    addrs: Vec<IpAddr>,
}

impl NetnsCluster {
    fn node_end(&self, index: usize) -> Result<End<'_>, String> {
        let node = self.nodes.get(index).ok_or_else(|| self.too_few("nodes", index))?;
        Ok(End {
            place: Place {
                label: format!("node {index}"),
                id: node.ctx.netns.path().display().to_string(),
            },
            netns: &node.ctx.netns,
            node,
            addrs: node.ctx.addrs.iter().map(|a| a.addr()).collect(),
        })
    }

    fn pod_end(&self, node: usize, index: usize) -> Result<End<'_>, String> {
        if self.cni.host_network() {
            return self.node_end(node);
        }
        let node_index = node;
        let node = self.nodes.get(node).ok_or_else(|| self.too_few("nodes", node))?;
        let pod = node.pods.get(index).ok_or_else(|| self.too_few("pods per node", index))?;
        Ok(End {
            place: Place {
                label: format!("pod {index} of node {node_index}"),
                id: pod.ctx.netns.path().display().to_string(),
            },
            netns: &pod.ctx.netns,
            node,
            addrs: pod.net.addrs.clone(),
        })
    }

    /// What agents still do for a step that failed or was dropped ends, on all nodes at a time.
    fn abandon(&self) {
        self.nodes.iter().filter_map(|n| n.agent.as_ref()).for_each(|a| a.abandon());
    }

    fn too_few(&self, what: &str, index: usize) -> String {
        let have = if what == "nodes" { self.topology.nodes } else { self.topology.pods_per_node };
        format!("needs at least {} {what}; this cluster has {have}", index + 1)
    }

    /// Client, server and the address that the client uses, for one address family.
    pub(super) fn way(&self, placement: Placement, v4: bool) -> Result<Way, String> {
        if let Some(reason) = self.cni.refuses(placement) {
            return Err(reason);
        }
        if let Some(reason) =
            self.no_service.as_ref().filter(|_| placement == Placement::PodService)
        {
            return Err(reason.clone());
        }
        let (client, server) = match placement {
            Placement::SameNode if self.cni.host_network() => {
                (self.node_end(0)?, self.node_end(0)?)
            }
            Placement::SameNode => (self.pod_end(0, 0)?, self.pod_end(0, 1)?),
            Placement::CrossNode | Placement::PodService => {
                (self.pod_end(0, 0)?, self.pod_end(1, 0)?)
            }
            Placement::HostHost => (self.node_end(0)?, self.node_end(1)?),
            Placement::HostPod => (self.node_end(0)?, self.pod_end(1, 0)?),
        };
        let of_family = |addrs: &[IpAddr]| {
            let found = addrs.iter().copied().find(|a| a.is_ipv4() == v4);
            found.ok_or_else(|| {
                let version = if v4 { 4 } else { 6 };
                format!("{} has no IPv{version} address", server.place.label)
            })
        };
        let bind_addr = of_family(&server.addrs)?;
        let server_addr = match placement {
            Placement::PodService => of_family(&self.plan.service_addrs())?,
            _ => bind_addr,
        };
        Ok(Way {
            placement,
            client: client.netns.clone(),
            server: server.netns.clone(),
            client_node: client.node.ctx.netns.clone(),
            server_node: server.node.ctx.netns.clone(),
            ends: Ends {
                client: client.place,
                server: server.place,
                server_addr,
                bind_addr,
                port: None,
            },
        })
    }

    /// What proofs look at; every way that this cluster offers, in every address family.
    pub(super) fn scene(&self) -> anyhow::Result<proof::Scene> {
        let families = [true, false].into_iter().filter(|v4| match self.topology.family {
            IpFamily::V4 => *v4,
            IpFamily::V6 => !v4,
            IpFamily::Dual => true,
        });
        let ways = families
            .flat_map(|v4| Placement::ALL.iter().filter_map(move |p| self.way(*p, v4).ok()))
            .collect();
        Ok(proof::Scene {
            spec: self.info.spec.clone(),
            encrypted: self.info.encrypted,
            cni: self.cni.clone(),
            underlay: self.underlay.clone().context("the cluster is down")?,
            underlay_mtu: self.topology.underlay_mtu,
            ways,
        })
    }
}

#[async_trait]
impl Cluster for NetnsCluster {
    fn info(&self) -> &CniInfo {
        &self.info
    }

    fn ends(&self, placement: Placement) -> Result<Ends, String> {
        self.way(placement, self.topology.family != IpFamily::V6).map(|way| way.ends)
    }

    async fn sights(&self, placement: Placement, _: bool) -> Result<Sights, String> {
        let way = self.way(placement, self.topology.family != IpFamily::V6)?;
        let path = |netns: &Netns| netns.path().to_owned();
        if path(&way.client) == path(&way.server) {
            return Err(
                "both ends are in one network namespace: no packet crosses a device".to_owned()
            );
        }
        let stands = |netns: &Netns| {
            let node = self.nodes.iter().find(|n| path(&n.ctx.netns) == path(netns));
            node.map_or(Stands::Pod, |n| Stands::Node { underlay: Some(n.ctx.device.clone()) })
        };
        let station =
            |netns: &Netns, what| Station { netns: netns.clone(), what, stands: stands(netns) };
        let nodes = vec![
            station(&way.client_node, "client's node"),
            station(&way.server_node, "server's node"),
        ];
        let (client, server) = (station(&way.client, "client"), station(&way.server, "server"));
        let scene = probe::netns::scene(client, server, nodes).await;
        Ok(Sights { scene: scene.map_err(|e| format!("{e:#}"))?, by: By::This })
    }

    fn spots(&self, placement: Placement) -> Vec<Spot> {
        let Ok(way) = self.way(placement, self.topology.family != IpFamily::V6) else {
            return Vec::new();
        };
        let one_node = way.client_node.path() == way.server_node.path();
        let all = [
            (&way.client, "client"),
            (&way.server, "server"),
            (&way.client_node, if one_node { "node of both" } else { "client's node" }),
            (&way.server_node, "server's node"),
        ];
        let mut spots: Vec<Spot> = Vec::new();
        for (netns, what) in all {
            let inode = namespace::inode(netns.path()).and_then(|inode| u32::try_from(inode).ok());
            // An end that is a node is the end.
            let Some(netns) = inode.filter(|i| spots.iter().all(|s| s.netns != *i)) else {
                continue;
            };
            spots.push(Spot { netns, what });
        }
        spots
    }

    fn lookout(&self, placement: Placement) -> Option<Lookout> {
        self.look_at(placement)
    }

    async fn surround(&mut self, wanted: &Surroundings) -> Result<Vec<Proof>, StateError> {
        self.reach(wanted).await
    }

    fn counted(&self) -> anyhow::Result<Vec<(u32, Counters)>> {
        let mut all = Vec::new();
        for node in &self.nodes {
            let counted = node.agent.as_ref().map(|agent| agent.counters()).transpose()?;
            all.extend(counted.flatten().map(|counters| (node.ctx.index, counters)));
        }
        Ok(all)
    }

    async fn enter(&self, place: &Place) -> anyhow::Result<Link> {
        Ok(exec::local::start("agent", Path::new(&place.id))?)
    }

    async fn prove(&self) -> Vec<Proof> {
        match self.scene() {
            Ok(scene) => proof::all(&scene).await,
            // A cluster that cannot be looked at is not one without claims.
            Err(e) => vec![Proof {
                kind: ProofKind::Connectivity,
                cni: self.info.spec.clone(),
                outcome: ProofOutcome::Failed,
                summary: format!("nothing could be looked at: {e:#}"),
                evidence: Vec::new(),
            }],
        }
    }

    fn holders(&self) -> Option<Vec<Holder>> {
        self.all_keys()
    }

    async fn prove_keys(&mut self) -> Option<Proof> {
        self.without_key().await
    }

    async fn check(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            let Some(agent) = &mut node.agent else { continue };
            let step = format!("node {}: asking the cni's agent", node.ctx.index);
            in_time(step, agent.check()).await?;
        }
        Ok(())
    }

    async fn down(&mut self) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        self.abandon();
        for node in self.nodes.iter_mut().rev() {
            let Some(agent) = &mut node.agent else { continue };
            for pod in node.pods.iter().rev() {
                let step = format!("node {}: disconnecting pod {}", node.ctx.index, pod.ctx.index);
                errors.extend(in_time(step, agent.remove_pod(&pod.ctx)).await.err());
            }
            let step = format!("node {}: stopping the cni's agent", node.ctx.index);
            errors.extend(in_time(step, agent.stop()).await.err());
        }
        // Handles are dropped before names are removed: the kernel frees what nobody holds.
        self.nodes.clear();
        self.underlay = None;
        let spaces = self.spaces.clone();
        match tokio::task::spawn_blocking(move || spaces.remove_all()).await {
            Ok(more) => errors.extend(more),
            Err(e) => errors.push(anyhow!(e).context("removing namespaces panicked")),
        }
        errors
    }
}

impl Drop for NetnsCluster {
    fn drop(&mut self) {
        self.abandon();
    }
}

async fn in_time(
    step: String,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(result) => result.context(step),
        Err(_) => Err(anyhow!("{step}: not done after {} s", PATIENCE.as_secs())),
    }
}

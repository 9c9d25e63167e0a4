//! Brings a cluster up step by step. Whoever calls takes it down when a step fails.

use super::{
    cluster::{NetnsCluster, Node, Pod},
    service,
    spaces::Role,
    sysctls::{self, Pass},
};
use crate::{
    cluster::owner::RunId,
    cni::{NodeCtx, Peer, PodCtx},
    netlink::{Batch, Netns, Rtnl, batch::Mac, sysctl},
    proof,
};
use anyhow::Context as _;
use cnibench_model::Placement;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use netlink_packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkBridge, LinkUnspec, LinkVeth};
use std::{net::IpAddr, os::fd::AsRawFd as _, sync::Arc};

/// The bridge between the nodes, in a namespace of its own.
const WIRE: &str = "wire";
/// A node's device towards the others.
const NODE_DEVICE: &str = "eth0";
/// Nodes that are programmed at the same time; more wait for the kernel's lock anyway.
const AT_ONCE: usize = 8;

impl NetnsCluster {
    /// From nothing to ready: namespaces, wire, cni, pods, service, and a handshake everywhere.
    pub(super) async fn build(&mut self, run: &RunId, index: u32) -> anyhow::Result<()> {
        self.make_namespaces(run, index).await?;
        self.set_sysctls(Pass::Early).await?;
        self.lay_wire().await?;
        self.start_agents().await?;
        self.join_peers().await?;
        self.add_pods().await?;
        self.add_service().await;
        let set = self.set_sysctls(Pass::Final).await?;
        self.info.details.extend(set);
        self.note_settings().await?;
        proof::reachable(&self.scene()?).await
    }

    async fn make_namespaces(&mut self, run: &RunId, index: u32) -> anyhow::Result<()> {
        // Pods of a cni without pods of its own are the nodes.
        let pods = if self.cni.host_network() { 0 } else { self.topology.pods_per_node };
        let mut wanted = vec![(run.name(index, "ul"), Role::Underlay)];
        for node in 0..self.topology.nodes {
            wanted.push((run.name(index, &format!("n{node}")), Role::Node));
            let names = (0..pods).map(|pod| run.name(index, &format!("n{node}p{pod}")));
            wanted.extend(names.map(|name| (name, Role::Pod)));
        }
        let made = self.spaces.make(wanted, self.topology.family).await?;
        let mut made = made.into_iter();
        self.underlay = made.next();
        for node in 0..self.topology.nodes {
            let netns = made.next().context("a namespace is missing")?;
            let ctx = NodeCtx {
                index: node,
                name: netns.name().to_owned(),
                netns,
                device: NODE_DEVICE.to_owned(),
                addrs: self.plan.node_addrs(node),
                pod_cidrs: self.plan.pod_cidrs(node),
                cluster_cidrs: self.plan.cluster_cidrs(),
                underlay_mtu: self.topology.underlay_mtu,
            };
            let mut of_node = Vec::new();
            for pod in 0..pods {
                let netns = made.next().context("a namespace is missing")?;
                let addrs = self.plan.pod_addrs(node, pod);
                let gateways = self.plan.gateways(node);
                let name = netns.name().to_owned();
                let ctx = PodCtx { index: pod, name, netns, addrs, gateways };
                of_node.push(Pod { ctx, net: crate::cni::PodNet { addrs: Vec::new() } });
            }
            self.nodes.push(Node { ctx: Arc::new(ctx), agent: None, pods: of_node });
        }
        Ok(())
    }

    async fn set_sysctls(&self, pass: Pass) -> anyhow::Result<Vec<String>> {
        let of_node = |node: &Node| {
            let pods = node.pods.iter().map(|pod| pod.ctx.netns.clone());
            std::iter::once(node.ctx.netns.clone()).chain(pods).collect::<Vec<_>>()
        };
        let spaces: Vec<Netns> = self.nodes.iter().flat_map(of_node).collect();
        sysctls::set(&self.sysctls, &spaces, pass).await
    }

    /// The bridge, and a veth pair from it straight into every node (IFLA_NET_NS_FD).
    async fn lay_wire(&mut self) -> anyhow::Result<()> {
        let underlay = self.underlay.clone().context("no underlay")?;
        let mtu = self.topology.underlay_mtu;
        let nodes: Vec<(u32, Netns)> =
            self.nodes.iter().map(|n| (n.ctx.index, n.ctx.netns.clone())).collect();
        let lay = move || {
            let mut rtnl = Rtnl::open()?;
            let mut batch = Batch::new();
            // No snooping: a wire passes on what it gets, also without a querier.
            batch.add_link(LinkBridge::new(WIRE).mcast_snooping(false).mtu(mtu).up().build());
            rtnl.apply(&batch)?;
            let wire = rtnl.link(WIRE)?.index;
            let mut batch = Batch::new();
            for (index, netns) in &nodes {
                // Set up later: the kernel opens a peer before it is joined (veth_newlink).
                let peer = LinkUnspec::new_with_name(NODE_DEVICE).mtu(mtu);
                let peer = peer.address(node_mac(*index).to_vec());
                let peer = peer.setns_by_fd(netns.fd().as_raw_fd()).build();
                let link = LinkVeth::new(&port(*index), NODE_DEVICE).mtu(mtu);
                let link = link.controller(wire).up();
                let link = link.set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
                batch.add_link(link.build());
            }
            rtnl.apply(&batch)
        };
        underlay.run(lay).await.context("the network between the nodes")?;
        for_each(&mut self.nodes, |node| {
            let ctx = node.ctx.clone();
            let address = move || {
                let mut rtnl = Rtnl::open()?;
                let device = rtnl.link(&ctx.device)?.index;
                let mut batch = Batch::new();
                for addr in &ctx.addrs {
                    batch.add_addr(device, *addr);
                }
                batch.up(device);
                rtnl.apply(&batch)?;
                rtnl.wait_running(&[&ctx.device])
            };
            async move { node.ctx.netns.run(address).await }.boxed()
        })
        .await?;
        let ports: Vec<String> = self.nodes.iter().map(|n| port(n.ctx.index)).collect();
        let ready = move || {
            let names: Vec<&str> = ports.iter().map(String::as_str).chain([WIRE]).collect();
            Rtnl::open()?.wait_running(&names)
        };
        underlay.run(ready).await.context("the network between the nodes")
    }

    async fn start_agents(&mut self) -> anyhow::Result<()> {
        let cni = self.cni.clone();
        for_each(&mut self.nodes, |node| {
            let cni = cni.clone();
            async move {
                node.agent = Some(cni.start(node.ctx.clone()).await?);
                Ok(())
            }
            .boxed()
        })
        .await
    }

    async fn join_peers(&mut self) -> anyhow::Result<()> {
        let all: Arc<[Peer]> = self
            .nodes
            .iter()
            .map(|node| Peer {
                index: node.ctx.index,
                addrs: node.ctx.addrs.iter().map(|a| a.addr()).collect(),
                pod_cidrs: node.ctx.pod_cidrs.clone(),
                facts: node.agent.as_ref().map(|a| a.facts()).unwrap_or_default(),
            })
            .collect();
        for_each(&mut self.nodes, |node| {
            let (own, all) = (node.ctx.index, all.clone());
            async move {
                let peers: Vec<Peer> = all.iter().filter(|p| p.index != own).cloned().collect();
                match &mut node.agent {
                    Some(agent) => agent.join(&peers).await,
                    None => Ok(()),
                }
            }
            .boxed()
        })
        .await
    }

    async fn add_pods(&mut self) -> anyhow::Result<()> {
        for_each(&mut self.nodes, |node| {
            async move {
                let Some(agent) = &mut node.agent else { return Ok(()) };
                for pod in &mut node.pods {
                    let added = agent.add_pod(&pod.ctx).await;
                    pod.net = added.with_context(|| format!("connecting pod {}", pod.ctx.index))?;
                }
                Ok(())
            }
            .boxed()
        })
        .await
    }

    /// The service of `pod-service` on every node, where the cni offers it. A cluster without it
    /// still carries everything else, and says why that one placement is not there.
    async fn add_service(&mut self) {
        let backends: Vec<IpAddr> = match self.nodes.get(1).and_then(|n| n.pods.first()) {
            Some(pod) if self.cni.refuses(Placement::PodService).is_none() => pod.net.addrs.clone(),
            _ => return,
        };
        let services = self.plan.service_addrs();
        let added = for_each(&mut self.nodes, |node| {
            let (services, backends) = (services.clone(), backends.clone());
            let add = move || {
                for service in services {
                    service::table(&[service], &backends)?.commit()?;
                }
                Ok(())
            };
            async move { node.ctx.netns.run(add).await }.boxed()
        });
        let added = added.await;
        self.no_service =
            added.err().map(|e| format!("the service could not be programmed: {e:#}"));
    }

    /// Writes down what is the host's doing and moves numbers between pods of one node.
    async fn note_settings(&mut self) -> anyhow::Result<()> {
        let Some(node) = self.nodes.first().filter(|_| !self.cni.host_network()) else {
            return Ok(());
        };
        let notes = node.agent.as_ref().map(|agent| agent.notes()).unwrap_or_default();
        self.info.details.extend(notes);
        let key = "bridge/bridge-nf-call-iptables";
        let look = move || {
            let bridged = Rtnl::open()?.links()?.iter().any(|l| l.kind == "bridge");
            Ok((bridged, sysctl::read(key).ok()))
        };
        let (bridged, value) = node.ctx.netns.run(look).await?;
        if !bridged {
            return Ok(());
        }
        self.info.details.push(match value.as_deref() {
            Some("1") => "bridged packets pass nf_tables (bridge-nf-call-iptables 1)".to_owned(),
            _ => "bridged packets pass no nf_tables (the host has not loaded br_netfilter, as \
                  Kubernetes nodes do)"
                .to_owned(),
        });
        Ok(())
    }
}

/// The wire's end of a node's link.
fn port(index: u32) -> String {
    format!("n{index}")
}

/// The address of a node's eth0: local, and the same in every run.
fn node_mac(index: u32) -> Mac {
    let [a, b, c, d] = index.to_be_bytes();
    [0x02, 0x66, a, b, c, d]
}

/// Does the same on all nodes, some at a time; the first failure ends it.
async fn for_each(
    nodes: &mut [Node],
    step: impl for<'a> Fn(&'a mut Node) -> BoxFuture<'a, anyhow::Result<()>>,
) -> anyhow::Result<()> {
    // Boxed, or the compiler cannot see that these futures are Send (rust-lang/rust#102211).
    let mut steps: Vec<BoxFuture<'_, anyhow::Result<()>>> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let index = node.ctx.index;
        let step = step(node);
        steps.push(async move { step.await.with_context(|| format!("node {index}")) }.boxed());
    }
    stream::iter(steps).buffer_unordered(AT_ONCE).try_collect().await
}

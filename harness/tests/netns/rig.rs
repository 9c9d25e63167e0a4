//! Two or more nodes on a bridge with pods' namespaces, laid bare: what the provider hides from
//! its users, tests of a single cni want to look into and to break.

use cnibench::{
    cluster::{IpFamily, Topology},
    cni::{Cni, NodeAgent, NodeCtx, Peer, PodCtx, PodNet, Profile},
    netlink::{Batch, Netns, Rtnl, sysctl},
    proof::payload::deliver,
};
use ipnet::IpNet;
use netlink_packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkBridge, LinkUnspec, LinkVeth};
use std::{
    net::IpAddr,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

static COUNT: AtomicU32 = AtomicU32::new(0);

pub struct Node {
    pub ctx: Arc<NodeCtx>,
    pub pods: Vec<PodCtx>,
}

pub struct Rig {
    pub underlay: Netns,
    pub nodes: Vec<Node>,
    pub topology: Topology,
    _namespaces: Namespaces,
}

/// Namespaces that go when this does, however the test ends.
struct Namespaces(Vec<Netns>);

/// The agents of a rig with all pods attached.
pub struct Attached {
    pub agents: Vec<Box<dyn NodeAgent>>,
    pub pods: Vec<Vec<PodNet>>,
}

fn net(text: String) -> IpNet {
    text.parse().unwrap()
}

impl Rig {
    pub fn new(nodes: u32, pods_per_node: u32, family: IpFamily) -> Self {
        assert_eq!(
            rustix::process::geteuid().as_raw(),
            0,
            "this test makes network namespaces: run it as root (sudo -E cargo test ...)"
        );
        let stem = format!("ct{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut namespaces = Namespaces(Vec::new());
        let mut create = |name: String| {
            let ns = Netns::create(&name, lo_up).unwrap();
            namespaces.0.push(ns.clone());
            ns
        };
        let underlay = create(format!("{stem}-u"));
        apply(&underlay, |_, batch| {
            batch.add_link(LinkBridge::new("br0").up().build());
        });
        let (v4, v6) = (family != IpFamily::V6, family != IpFamily::V4);
        let both = |four: String, six: String| -> Vec<IpNet> {
            [(v4, four), (v6, six)].into_iter().filter(|(on, _)| *on).map(|(_, t)| net(t)).collect()
        };
        let nodes = (0..nodes)
            .map(|index| {
                let netns = create(format!("{stem}-n{index}"));
                let addrs = both(
                    format!("172.31.0.{}/24", index + 1),
                    format!("fd00:31::{}/64", index + 1),
                );
                plug(&underlay, &netns, index, &addrs);
                let ctx = NodeCtx {
                    index,
                    name: netns.name().to_owned(),
                    netns,
                    device: "eth0".to_owned(),
                    addrs,
                    pod_cidrs: both(
                        format!("10.244.{index}.0/24"),
                        format!("fd00:10:244:{index}::/64"),
                    ),
                    cluster_cidrs: both("10.244.0.0/16".into(), "fd00:10:244::/48".into()),
                    underlay_mtu: 1500,
                };
                let pods = (0..pods_per_node)
                    .map(|pod| PodCtx {
                        index: pod,
                        name: format!("{stem}-n{index}p{pod}"),
                        netns: create(format!("{stem}-n{index}p{pod}")),
                        addrs: both(
                            format!("10.244.{index}.{}/24", pod + 2),
                            format!("fd00:10:244:{index}::{}/64", pod + 2),
                        ),
                        gateways: both(
                            format!("10.244.{index}.1/24"),
                            format!("fd00:10:244:{index}::1/64"),
                        )
                        .iter()
                        .map(IpNet::addr)
                        .collect(),
                    })
                    .collect();
                Node { ctx: Arc::new(ctx), pods }
            })
            .collect();
        let topology = Topology { nodes: 2, pods_per_node, family, underlay_mtu: 1500 };
        Self { underlay, nodes, topology, _namespaces: namespaces }
    }

    /// The cni of a spec, as the provider would settle it.
    pub fn cni(&self, spec: &str) -> Arc<dyn Cni> {
        let spec = spec.parse().unwrap();
        let (profile, cni) = Profile::resolve(&spec, &self.topology).unwrap();
        (profile.check)(&spec).unwrap();
        cni
    }

    /// Starts the agents, tells them of each other and attaches every pod.
    pub async fn attach(&self, cni: &dyn Cni) -> anyhow::Result<Attached> {
        let mut agents = Vec::new();
        for node in &self.nodes {
            agents.push(cni.start(node.ctx.clone()).await?);
        }
        let all: Vec<Peer> = self
            .nodes
            .iter()
            .zip(&agents)
            .map(|(node, agent)| Peer {
                index: node.ctx.index,
                addrs: node.ctx.addrs.iter().map(IpNet::addr).collect(),
                pod_cidrs: node.ctx.pod_cidrs.clone(),
                facts: agent.facts(),
            })
            .collect();
        for (index, agent) in agents.iter_mut().enumerate() {
            let peers: Vec<Peer> =
                all.iter().filter(|p| p.index as usize != index).cloned().collect();
            agent.join(&peers).await?;
        }
        let mut pods = Vec::new();
        for (node, agent) in self.nodes.iter().zip(&mut agents) {
            let mut of_node = Vec::new();
            for pod in &node.pods {
                of_node.push(agent.add_pod(pod).await?);
            }
            pods.push(of_node);
        }
        Ok(Attached { agents, pods })
    }

    /// Detaches every pod and stops the agents; every error counts.
    pub async fn detach(&self, attached: &mut Attached) -> Vec<String> {
        let mut errors = Vec::new();
        for (node, agent) in self.nodes.iter().zip(&mut attached.agents) {
            for pod in &node.pods {
                errors.extend(agent.remove_pod(pod).await.err().map(|e| format!("{e:#}")));
            }
            errors.extend(agent.stop().await.err().map(|e| format!("{e:#}")));
        }
        errors
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for ns in self.0.iter().rev() {
            ns.remove().unwrap_or_else(|e| eprintln!("{e:#}"));
        }
    }
}

fn lo_up() -> anyhow::Result<()> {
    let mut rtnl = Rtnl::open()?;
    let mut batch = Batch::new();
    batch.up(rtnl.link("lo")?.index);
    rtnl.apply(&batch)
}

/// Runs a batch in a namespace.
pub fn apply(ns: &Netns, fill: impl FnOnce(&mut Rtnl, &mut Batch) + Send) {
    ns.run_blocking(|| {
        let mut rtnl = Rtnl::open()?;
        let mut batch = Batch::new();
        fill(&mut rtnl, &mut batch);
        rtnl.apply(&batch)
    })
    .unwrap();
}

/// Names of the links of a namespace, sorted.
pub fn links(ns: &Netns) -> Vec<String> {
    let mut names: Vec<String> = ns
        .run_blocking(|| Ok(Rtnl::open()?.links()?.into_iter().map(|l| l.name).collect()))
        .unwrap();
    names.sort();
    names
}

fn plug(underlay: &Netns, node: &Netns, index: u32, addrs: &[IpNet]) {
    let fd = node.clone();
    apply(underlay, |rtnl, batch| {
        let bridge = rtnl.link("br0").unwrap().index;
        let peer = LinkUnspec::new_with_name("eth0").setns_by_fd(fd.fd().as_raw_fd()).build();
        let name = format!("port{index}");
        let veth = LinkVeth::new(&name, "eth0").controller(bridge).up();
        batch.add_link(veth.set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build());
    });
    apply(node, |rtnl, batch| {
        let eth0 = rtnl.link("eth0").unwrap().index;
        batch.up(eth0);
        for addr in addrs {
            batch.add_addr(eth0, *addr);
        }
    });
    node.run_blocking(|| {
        sysctl::write("ipv4/ip_forward", "1")?;
        sysctl::write_if_present("ipv6/conf/all/forwarding", "1").map(drop)
    })
    .unwrap();
}

/// The address of this family.
pub fn addr_of(pod: &PodNet, v4: bool) -> IpAddr {
    *pod.addrs.iter().find(|a| a.is_ipv4() == v4).unwrap()
}

/// Sends a payload once the way is there: a link that has just come up refuses for a moment.
pub fn carry(from: &Netns, to: &Netns, addr: IpAddr) {
    let end = Instant::now() + Duration::from_secs(30);
    while let Err(e) = deliver(from, to, addr, b"canary") {
        assert!(Instant::now() < end, "{} to {addr}: {e:#}", from.name());
        std::thread::sleep(Duration::from_millis(20));
    }
}

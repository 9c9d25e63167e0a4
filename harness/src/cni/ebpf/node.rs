//! The agent of `ebpf` and `ebpf-*` on one node: attaches the programs, connects pods, and keeps
//! the maps in step with pods, peers and policies.
//!
//! The node's own stack keeps routes to its pods and peers too: for what the program passes to it
//! and for the node's own traffic.

use super::{
    super::{Facts, Keys, NodeAgent, NodeCtx, Peer, PodCtx, PodNet, Policy, bridge::gateway},
    Between, Ebpf, GATEWAY_MAC, encrypted, host_device, pod_mac,
    tunnel::{self, Devices},
};
use crate::netlink::{Batch, Mac, Rtnl, sysctl};
use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use cnibench_probes::datapath::{Counters, Datapath, Endpoint, Hook, Outcome, Ports, Route, Way};
use ipnet::IpNet;
use netlink_packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkUnspec, LinkVeth};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::AsRawFd as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Programs of `ebpf`.
pub(super) const NATIVE: &[Hook] = &[Hook::FromPod, Hook::FromUnderlay];
/// Programs of `ebpf-vxlan`: on the underlay all packets of pods are the tunnel's.
pub(super) const TUNNELLED: &[Hook] = &[Hook::FromPod, Hook::FromVxlan];

/// The fact that tells peers the tunnel's hardware address.
const TUNNEL_MAC: &str = "TunnelMAC";

/// One node's agent.
pub(super) struct Agent {
    cni: Ebpf,
    node: Arc<NodeCtx>,
    datapath: Arc<Mutex<Datapath>>,
    tunnel: Option<Devices>,
    encrypted: Option<encrypted::Node>,
    /// Pods by their number, as the datapath knows them.
    pods: BTreeMap<u32, Endpoint>,
}

impl Agent {
    pub(super) async fn start(cni: Ebpf, node: Arc<NodeCtx>) -> anyhow::Result<Self> {
        let (settings, of) = (cni.clone(), node.clone());
        let prepare = move || {
            let mut datapath = settings.load()?;
            for cidr in &of.pod_cidrs {
                let key = if cidr.addr().is_ipv4() {
                    "ipv4/ip_forward"
                } else {
                    "ipv6/conf/all/forwarding"
                };
                sysctl::write(key, "1")?;
                datapath.set_gateway(gateway(*cidr).addr(), GATEWAY_MAC)?;
            }
            let devices = match &settings.between {
                Between::Vxlan(tunnel) => {
                    let devices = tunnel::make(&of, *tunnel, settings.mtu)?;
                    datapath.attach(Hook::FromVxlan, tunnel::DEVICE)?;
                    datapath.attach(Hook::FromPod, tunnel::PROGRAM_END)?;
                    Some(devices)
                }
                Between::Native => {
                    datapath.attach(Hook::FromUnderlay, &of.device)?;
                    None
                }
                // Its devices come first.
                Between::Encrypted(_) => None,
            };
            Ok((datapath, devices))
        };
        let (datapath, tunnel) = node.netns.run(prepare).await?;
        let datapath = Arc::new(Mutex::new(datapath));
        let mut this = Self { cni, node, datapath, tunnel, encrypted: None, pods: BTreeMap::new() };
        if let Between::Encrypted(encryption) = this.cni.between.clone() {
            let made = encryption.make(&this.node, &this.datapath, this.cni.mtu).await?;
            let (datapath, device) = (this.datapath.clone(), this.node.device.clone());
            let attach = move || encryption.attach(&mut locked(&datapath), &device);
            this.node.netns.run(attach).await?;
            this.encrypted = Some(made);
        }
        Ok(this)
    }

    /// The entries for peers' pods and for peers themselves.
    fn routes(&self, peers: &[Peer], underlay: u32) -> anyhow::Result<Vec<(IpNet, Route)>> {
        let mut routes = Vec::new();
        for peer in peers {
            for cidr in &peer.pod_cidrs {
                let remote = peer.addr_like(cidr.addr());
                let remote =
                    remote.with_context(|| format!("node {} has no address", peer.index))?;
                let route = match (self.tunnel, &self.cni.between) {
                    (Some(devices), Between::Vxlan(settings)) => {
                        let mac = peer.facts.get(TUNNEL_MAC).and_then(|text| parse(text));
                        Route::Tunnel {
                            ifindex: devices.index,
                            vni: settings.vni,
                            remote,
                            inner_destination: mac.with_context(|| {
                                format!("node {} published no tunnel", peer.index)
                            })?,
                            inner_source: devices.mac,
                        }
                    }
                    _ => match self.encrypted.as_ref().filter(|e| !e.leaks()) {
                        Some(encrypted) => match encrypted.to_pods() {
                            Some(route) => route,
                            None => continue,
                        },
                        None => Route::Native { ifindex: underlay, next_hop: remote },
                    },
                };
                routes.push((*cidr, route));
            }
            let nodes = peer.addrs.iter().map(|addr| {
                let route = match &self.encrypted {
                    Some(encrypted) => encrypted.to_node(peer, underlay, *addr),
                    None => Route::Native { ifindex: underlay, next_hop: *addr },
                };
                (IpNet::from(*addr), route)
            });
            routes.extend(nodes);
        }
        Ok(routes)
    }

    fn endpoint(&self, pod: &PodCtx) -> anyhow::Result<Endpoint> {
        self.pods.get(&pod.index).copied().with_context(|| format!("pod {} is unknown", pod.index))
    }
}

#[async_trait]
impl NodeAgent for Agent {
    fn facts(&self) -> Facts {
        if let Some(encrypted) = &self.encrypted {
            return encrypted.facts();
        }
        self.tunnel.iter().map(|d| (TUNNEL_MAC.to_owned(), text(d.mac))).collect()
    }

    async fn join(&mut self, peers: &[Peer]) -> anyhow::Result<()> {
        let device = self.node.device.clone();
        let underlay = self.node.netns.run(move || Ok(Rtnl::open()?.link(&device)?.index)).await?;
        let routes = self.routes(peers, underlay)?;
        {
            let mut datapath = locked(&self.datapath);
            for (to, route) in &routes {
                datapath.set_route(to.network(), to.prefix_len(), route)?;
            }
        }
        if self.tunnel.is_some() {
            return Ok(());
        }
        if let Some(encrypted) = &self.encrypted {
            encrypted.join(peers).await?;
        }
        let of = |peer: &Peer| -> Vec<(IpNet, IpAddr)> {
            peer.pod_cidrs.iter().filter_map(|c| Some((*c, peer.addr_like(c.addr())?))).collect()
        };
        let kernel: Vec<(IpNet, IpAddr)> = peers.iter().flat_map(of).collect();
        self.node
            .netns
            .run(move || {
                let mut batch = Batch::new();
                for (to, via) in kernel {
                    batch.route_via(to, via, underlay, false);
                }
                Rtnl::open()?.apply(&batch)
            })
            .await
    }

    async fn add_pod(&mut self, pod: &PodCtx) -> anyhow::Result<PodNet> {
        let mac = pod_mac(self.node.index, pod.index);
        let ifindex = self.make_port(pod, mac).await?;
        let endpoint = Endpoint {
            ifindex,
            id: pod.index + 1,
            mac,
            gateway_mac: GATEWAY_MAC,
            has_policy: false,
        };
        configure_pod(pod).await?;
        {
            let mut datapath = locked(&self.datapath);
            for addr in &pod.addrs {
                datapath.set_endpoint(addr.addr(), &endpoint)?;
            }
        }
        self.pods.insert(pod.index, endpoint);
        let host = host_device(pod.index);
        self.node.netns.run(move || Rtnl::open()?.wait_running(&[&host])).await?;
        Ok(PodNet { addrs: pod.addrs.iter().map(IpNet::addr).collect() })
    }

    async fn check(&mut self) -> anyhow::Result<()> {
        match &self.encrypted {
            Some(encrypted) => encrypted.check().await,
            None => Ok(()),
        }
    }

    fn notes(&self) -> Vec<String> {
        let by = match locked(&self.datapath).way() {
            Way::Clsact => "filters of clsact qdiscs",
            Way::Best | Way::Tcx => "tcx links",
        };
        let cipher = self.encrypted.as_ref().and_then(encrypted::Node::notes);
        [format!("programs attached by {by}")].into_iter().chain(cipher).collect()
    }

    async fn set_policies(&mut self, pod: &PodCtx, policies: &[Policy]) -> anyhow::Result<()> {
        let endpoint = Endpoint { has_policy: !policies.is_empty(), ..self.endpoint(pod)? };
        let mut datapath = locked(&self.datapath);
        // From open to closed and back: an endpoint whose list is being made admits nobody.
        if endpoint.has_policy {
            for addr in &pod.addrs {
                datapath.set_endpoint(addr.addr(), &endpoint)?;
            }
        }
        if datapath.has_policies() {
            datapath.forget(endpoint.id)?;
        }
        for source in policies.iter().flat_map(|p| &p.admits) {
            let bits = if source.is_ipv4() { 32 } else { 128 };
            datapath.allow(endpoint.id, *source, bits, Ports::Any)?;
        }
        if !endpoint.has_policy {
            for addr in &pod.addrs {
                datapath.set_endpoint(addr.addr(), &endpoint)?;
            }
        }
        Ok(())
    }

    async fn denied(&self, _pod: &PodCtx) -> anyhow::Result<Option<u64>> {
        Ok(self.counters()?.map(|counters| counters.of(Outcome::Denied)))
    }

    fn counters(&self) -> anyhow::Result<Option<Counters>> {
        Ok(locked(&self.datapath).counters()?)
    }

    fn keys(&self) -> Option<Arc<dyn Keys>> {
        self.encrypted.as_ref().map(encrypted::Node::keys)
    }

    async fn remove_pod(&mut self, pod: &PodCtx) -> anyhow::Result<()> {
        if self.pods.remove(&pod.index).is_none() {
            return Ok(());
        }
        let mut datapath = locked(&self.datapath);
        let gone = pod.addrs.iter().map(|addr| datapath.remove_endpoint(addr.addr()));
        let failed: Vec<String> = gone.filter_map(|r| Some(r.err()?.to_string())).collect();
        if failed.is_empty() { Ok(()) } else { Err(anyhow!(failed.join("; "))) }
    }
}

impl Agent {
    /// The pod's veth pair with the program at the node's end, and the node's own way to the pod.
    async fn make_port(&self, pod: &PodCtx, mac: Mac) -> anyhow::Result<u32> {
        let (host, mtu) = (host_device(pod.index), self.cni.mtu);
        let (netns, addrs) = (pod.netns.clone(), pod.addrs.clone());
        let (datapath, hook) = (self.datapath.clone(), self.cni.port_hook());
        let make = move || {
            let mut rtnl = Rtnl::open()?;
            // Set up later: the kernel opens a peer before it is joined (veth_newlink).
            let peer = LinkUnspec::new_with_name("eth0").mtu(mtu).address(mac.to_vec());
            let peer = peer.setns_by_fd(netns.fd().as_raw_fd()).build();
            let veth = LinkVeth::new(&host, "eth0").mtu(mtu).address(GATEWAY_MAC.to_vec()).up();
            let mut batch = Batch::new();
            batch.add_link(veth.set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build());
            rtnl.apply(&batch)?;
            sysctl::write_if_present(&format!("ipv6/conf/{host}/accept_ra"), "0")?;
            let index = rtnl.link(&host)?.index;
            locked(&datapath).attach(hook, &host)?;
            let mut batch = Batch::new();
            for addr in &addrs {
                batch.neighbour(index, addr.addr(), mac);
                batch.route_dev(IpNet::from(addr.addr()), index);
            }
            rtnl.apply(&batch)?;
            Ok(index)
        };
        self.node.netns.run(make).await
    }
}

/// Host addresses, and everything by way of a gateway that is on no device.
async fn configure_pod(pod: &PodCtx) -> anyhow::Result<()> {
    let (addrs, gateways) = (pod.addrs.clone(), pod.gateways.clone());
    let configure = move || {
        let mut rtnl = Rtnl::open()?;
        let index = rtnl.link("eth0")?.index;
        let mut batch = Batch::new();
        for addr in &addrs {
            batch.add_addr(index, IpNet::from(addr.addr()));
        }
        batch.up(index);
        for gateway in gateways {
            let everything = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" }.parse()?;
            batch.route_dev(IpNet::from(gateway), index);
            batch.route_via(everything, gateway, index, false);
        }
        rtnl.apply(&batch)?;
        rtnl.wait_running(&["eth0"])
    };
    pod.netns.run(configure).await
}

pub(super) fn locked(datapath: &Mutex<Datapath>) -> MutexGuard<'_, Datapath> {
    datapath.lock().unwrap_or_else(PoisonError::into_inner)
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn parse(text: &str) -> Option<Mac> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|b| u8::from_str_radix(b, 16).ok()).collect();
    bytes?.try_into().ok()
}

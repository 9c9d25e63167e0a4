//! The profile `conflist`: attaches the pods of a cluster with anybody's CNI plugins.
//!
//! One file serves every node: placeholders are filled in per node (`substitute.rs`). Plugins such
//! as bridge and ptp end at the node, so `routes=node` (the default) gives every node routes to
//! the other nodes' pod ranges by way of their addresses, as the route controller of a cloud
//! does; `routes=none` leaves the way between nodes to the plugins.
//! Plugins run as they do on a real node: in the node's network namespace, on the machine's own
//! files but for the state they keep (`node.rs`), never rewritten. `CNI_ARGS` and the capability
//! `ipRanges` are what a kubelet's runtime passes.

use super::{
    chain::{Chain, Routes},
    config::ConfList,
    node::NodeThread,
    plugins,
    process::{DEFAULT_DIRS, find},
    result::AddResult,
    runtime::{Attachment, Runtime},
    substitute::substitute,
};
use crate::{
    cluster::{ClusterError, Topology},
    cni::{Claim, Cni, Needs, NodeAgent, NodeCtx, Param, Peer, PodCtx, PodNet, Profile, Settings},
    netlink::{Batch, Rtnl, sysctl},
};
use anyhow::{Context, anyhow, bail, ensure};
use async_trait::async_trait;
use cnibench_model::{CniSpec, Placement};
use ipnet::IpNet;
use serde_json::json;
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

/// The profile.
pub const PROFILE: Profile = Profile {
    name: "conflist",
    family: "conflist",
    description: "any CNI plugins, run by the CNI specification from a .conflist",
    params: &[
        Param {
            name: "path",
            help: "the .conflist; ${NODE_INDEX}, ${NODE_NAME}, ${NODE_IP}, ${POD_CIDR}, ${POD_CIDR6}, ${CLUSTER_CIDR}, ${CLUSTER_CIDR6} and ${MTU} in it are filled in per node (required)",
        },
        Param {
            name: "bin",
            help: "directories of the plugins, separated by ':' (default /opt/cni/bin:/usr/lib/cni)",
        },
        Param { name: "ifname", help: "name of the pods' interface (default eth0)" },
        Param {
            name: "mtu",
            help: "MTU that the plugins give to pods, also ${MTU} (default: the underlay's)",
        },
        Param {
            name: "routes",
            help: "node: routes to the other nodes' pod ranges through their addresses; none: the plugins see to it (default node)",
        },
        Param {
            name: "check",
            help: "true: CHECK pods after ADD, after a failed trial and at the end; false for plugins that cannot, as Kubernetes never asks them (default true)",
        },
        Param { name: "deadline", help: "seconds that one plugin call may take (default 30)" },
        Param {
            name: "carry",
            help: "programs (names on PATH, or paths) that the plugins start and files that they read, for a guest to have them, separated by ':'",
        },
    ],
    encrypted: false,
    automatic: false,
    modules: &["nft_ct", "nft_masq", "nft_nat", "nft_chain_nat"],
    check,
    build: |settings, topology| Ok(Arc::new(Conflist::new(settings, topology)?)),
};

/// The plugins of one cluster.
#[derive(Debug, Clone)]
pub struct Conflist {
    chain: Chain,
    text: String,
    summary: String,
    /// What plugins use, as the parameter says.
    carry: Vec<PathBuf>,
}

/// Are the binaries there? Parameters that are wrong are for `build` to say.
fn check(spec: &CniSpec) -> Result<(), String> {
    match Conflist::new(&Settings::new(spec), &Topology::default()) {
        Ok(cni) => cni.findable(),
        Err(_) if spec.params.contains_key("path") => Ok(()),
        Err(_) => Err("needs a conflist: conflist:path=FILE[,bin=DIR]".to_owned()),
    }
}

impl Conflist {
    fn new(settings: &Settings<'_>, topology: &Topology) -> Result<Self, ClusterError> {
        let usage = |text: String| ClusterError::Usage(format!("cni {}: {text}", settings.spec()));
        let path = settings
            .text("path")
            .ok_or_else(|| usage("path is missing: say conflist:path=FILE[,bin=DIR]".to_owned()))?;
        let dirs = match settings.text("bin") {
            Some(list) => list.split(':').filter(|d| !d.is_empty()).map(absolute).collect(),
            None => DEFAULT_DIRS.iter().map(PathBuf::from).collect(),
        };
        let routes = match settings.text("routes") {
            None | Some("node") => Routes::Node,
            Some("none") => Routes::None,
            Some(_) => return Err(settings.wrong("routes", "node or none")),
        };
        let chain = Chain {
            path: path.into(),
            dirs,
            mtu: settings.number("mtu", topology.underlay_mtu, 576..=65535)?,
            routes,
            check: settings.flag("check", true)?,
            deadline: Duration::from_secs(settings.number("deadline", 30, 1..=3600)?),
            ifname: settings.text("ifname").unwrap_or("eth0").to_owned(),
        };
        let carry = settings.text("carry").unwrap_or_default().split(':');
        let carry = carry.filter(|name| !name.is_empty()).map(PathBuf::from).collect();
        Ok(Self { carry, ..Self::open(chain).map_err(usage)? })
    }

    /// Reads and checks the list.
    ///
    /// # Errors
    /// A sentence.
    pub fn open(chain: Chain) -> Result<Self, String> {
        let path = chain.path.display();
        let text = std::fs::read_to_string(&chain.path)
            .map_err(|e| format!("{path} cannot be read: {e}"))?;
        let mut this = Self { chain, text, summary: String::new(), carry: Vec::new() };
        let list = this.sample().map_err(|e| format!("{e:#}"))?;
        let names: Vec<&str> = list.plugins.iter().map(|p| p.plugin.as_str()).collect();
        this.summary = format!("network {:?}: {}", list.name, names.join(", then "));
        let probe = Attachment {
            container_id: "pod".into(),
            netns: PathBuf::new(),
            ifname: this.chain.ifname.clone(),
            args: Vec::new(),
            capability_args: serde_json::Map::new(),
        };
        probe.check()?;
        Ok(this)
    }

    /// Are the plugins there?
    ///
    /// # Errors
    /// Which is not, and where it was looked for.
    pub fn findable(&self) -> Result<(), String> {
        let list = self.sample().map_err(|e| format!("{e:#}"))?;
        let runtime = Runtime::new(list, self.chain.dirs.clone(), self.chain.deadline);
        runtime.find_all().map(drop).map_err(|e| e.to_string())
    }

    /// What a place needs that has none of it: the list, its plugins, and what those are known to use.
    ///
    /// # Errors
    /// A plugin is not there.
    pub fn needs(&self) -> Result<Needs, String> {
        let list = self.sample().map_err(|e| format!("{e:#}"))?;
        let mut needs = plugins::needs(&list);
        let unnamed = plugins::started_unnamed(&list);
        let dirs = &self.chain.dirs;
        let runtime = Runtime::new(list, dirs.clone(), self.chain.deadline);
        needs.programs.extend(runtime.find_all().map_err(|e| e.to_string())?);
        // What is not there is for the plugin to say, which may not ask for it.
        needs.programs.extend(unnamed.iter().filter_map(|name| find(name, dirs).ok()));
        needs.files.push(self.chain.path.clone());
        needs.programs.extend(self.carry.iter().cloned());
        Ok(needs)
    }

    /// The list as a node of a dual-stack cluster would have it, for checks before there is one.
    fn sample(&self) -> anyhow::Result<ConfList> {
        let values = BTreeMap::from([
            ("NODE_INDEX", "0".to_owned()),
            ("NODE_NAME", "node".to_owned()),
            ("NODE_IP", "192.0.2.1".to_owned()),
            ("POD_CIDR", "10.244.0.0/24".to_owned()),
            ("POD_CIDR6", "fd00:10:244::/64".to_owned()),
            ("CLUSTER_CIDR", "10.244.0.0/16".to_owned()),
            ("CLUSTER_CIDR6", "fd00:10:244::/56".to_owned()),
            ("MTU", self.chain.mtu.to_string()),
        ]);
        self.parse(&values)
    }

    fn for_node(&self, node: &NodeCtx) -> anyhow::Result<ConfList> {
        let mut values = BTreeMap::from([
            ("NODE_INDEX", node.index.to_string()),
            ("NODE_NAME", node.name.clone()),
            ("MTU", self.chain.mtu.to_string()),
        ]);
        values.extend(node.addrs.first().map(|a| ("NODE_IP", a.addr().to_string())));
        for (v4, v6, nets) in [
            ("POD_CIDR", "POD_CIDR6", &node.pod_cidrs),
            ("CLUSTER_CIDR", "CLUSTER_CIDR6", &node.cluster_cidrs),
        ] {
            values.extend(
                nets.iter()
                    .map(|net| (if net.addr().is_ipv4() { v4 } else { v6 }, net.to_string())),
            );
        }
        self.parse(&values)
    }

    fn parse(&self, values: &BTreeMap<&str, String>) -> anyhow::Result<ConfList> {
        substitute(&self.text, values)
            .map_err(|e| anyhow!(e))
            .and_then(|text| Ok(ConfList::parse(&text)?))
            .with_context(|| self.chain.path.display().to_string())
    }
}

/// Did the plugins give an address in every family of the cluster, whose pod ranges these are?
fn families_covered(addrs: &[IpAddr], pod_cidrs: &[IpNet]) -> anyhow::Result<()> {
    let v4 = |net: &IpNet| net.addr().is_ipv4();
    let lacks = |net: &&IpNet| !addrs.iter().any(|a| a.is_ipv4() == v4(net));
    let Some(net) = pod_cidrs.iter().find(lacks) else { return Ok(()) };
    let (version, range, other) =
        if v4(net) { (4, "${POD_CIDR}", "v6") } else { (6, "${POD_CIDR6}", "v4") };
    let family = match (pod_cidrs.len(), version) {
        (2.., _) => "dual",
        (_, 4) => "v4",
        _ => "v6",
    };
    bail!(
        "the plugins gave no IPv{version} address, the suite's family is {family}: add an IPv{version} range ({range}) or use family = \"{other}\""
    )
}

/// Plugins look for others by the same list from wherever they stand.
fn absolute(dir: &str) -> PathBuf {
    std::path::absolute(dir).unwrap_or_else(|_| PathBuf::from(dir))
}

#[async_trait]
impl Cni for Conflist {
    fn pod_mtu(&self) -> u32 {
        self.chain.mtu
    }

    fn path(&self, placement: Placement, _to: IpAddr) -> Vec<Claim> {
        match placement {
            Placement::SameNode => Claim::silent("eth0").into(),
            _ => Claim::carried_by("eth0").into(),
        }
    }

    fn names_whole_path(&self) -> bool {
        // What plugins make and call it is their own.
        false
    }

    fn needs(&self) -> Result<Needs, String> {
        Self::needs(self)
    }

    fn details(&self) -> Vec<String> {
        let dirs: Vec<_> = self.chain.dirs.iter().map(|d| d.display().to_string()).collect();
        let way = match self.chain.routes {
            Routes::Node => "routes to the other nodes' pod ranges through their addresses",
            Routes::None => "the way between nodes is the plugins' own",
        };
        vec![
            format!("{}, from {}", self.summary, self.chain.path.display()),
            format!("plugins from {}", dirs.join(":")),
            way.to_owned(),
        ]
    }

    async fn start(&self, node: Arc<NodeCtx>) -> anyhow::Result<Box<dyn NodeAgent>> {
        let (name, netns) = (node.name.clone(), node.netns.path().to_owned());
        let thread = move || NodeThread::start(&name, &netns, &[]);
        let thread = tokio::task::spawn_blocking(thread).await??;
        self.start_on(node, Arc::new(thread)).await
    }
}

impl Conflist {
    /// Starts on a thread of the node that others may use as well.
    ///
    /// # Errors
    /// What the plugins said.
    pub async fn start_on(
        &self,
        node: Arc<NodeCtx>,
        thread: Arc<NodeThread>,
    ) -> anyhow::Result<Box<dyn NodeAgent>> {
        let list = self.for_node(&node)?;
        let runtime = Runtime::new(list, self.chain.dirs.clone(), self.chain.deadline);
        let token = thread.token();
        let runtime = thread
            .run(move || -> anyhow::Result<Runtime> {
                // As on every node of Kubernetes; plugins expect it or set it themselves.
                sysctl::write("ipv4/ip_forward", "1")?;
                sysctl::write_if_present("ipv6/conf/all/forwarding", "1")?;
                let mut runtime = runtime.while_wanted(token);
                runtime.negotiate()?;
                runtime.status()?;
                Ok(runtime)
            })
            .await??;
        let agent = Agent {
            cni: self.clone(),
            node,
            runtime,
            thread: Some(thread),
            attached: BTreeMap::new(),
        };
        Ok(Box::new(agent))
    }
}

struct Agent {
    cni: Conflist,
    node: Arc<NodeCtx>,
    runtime: Runtime,
    thread: Option<Arc<NodeThread>>,
    attached: BTreeMap<u32, (Attachment, Arc<AddResult>)>,
}

impl Agent {
    fn thread(&self) -> anyhow::Result<&NodeThread> {
        self.thread.as_deref().context("the cni's agent was stopped")
    }

    /// The runtime for a job that begins now. An agent is asked one thing at a time, so whatever
    /// its thread still does was given up by the one who asked for it.
    fn begin(&self) -> anyhow::Result<(&NodeThread, Runtime)> {
        let thread = self.thread()?;
        thread.interrupt();
        Ok((thread, self.runtime.while_wanted(thread.token())))
    }

    fn attachment(&self, pod: &PodCtx) -> Attachment {
        let ranges: Vec<_> =
            self.node.pod_cidrs.iter().map(|net| json!([{"subnet": net.to_string()}])).collect();
        let arg = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        Attachment {
            container_id: pod.name.clone(),
            netns: pod.netns.path().to_owned(),
            ifname: self.cni.chain.ifname.clone(),
            args: vec![
                arg("IgnoreUnknown", "1"),
                arg("K8S_POD_NAMESPACE", "cnibench"),
                arg("K8S_POD_NAME", &pod.name),
                arg("K8S_POD_INFRA_CONTAINER_ID", &pod.name),
            ],
            capability_args: [("ipRanges".to_owned(), json!(ranges))].into_iter().collect(),
        }
    }
}

#[async_trait]
impl NodeAgent for Agent {
    async fn join(&mut self, peers: &[Peer]) -> anyhow::Result<()> {
        if self.cni.chain.routes == Routes::None {
            return Ok(());
        }
        let mut ways: Vec<(IpNet, IpAddr)> = Vec::new();
        for peer in peers {
            for &range in &peer.pod_cidrs {
                let via = peer.addr_like(range.addr()).with_context(|| {
                    format!("node {} has no address of the family of {range}", peer.index)
                })?;
                ways.push((range, via));
            }
        }
        let device = self.node.device.clone();
        self.thread()?
            .run(move || -> anyhow::Result<()> {
                let mut rtnl = Rtnl::open()?;
                let index = rtnl.link(&device)?.index;
                let mut batch = Batch::new();
                for (range, via) in ways {
                    batch.route_via(range, via, index, false);
                }
                rtnl.apply(&batch)
            })
            .await?
            .context("routes to the other nodes' pods")
    }

    async fn add_pod(&mut self, pod: &PodCtx) -> anyhow::Result<PodNet> {
        let attachment = self.attachment(pod);
        attachment.check().map_err(|e| anyhow!(e))?;
        let to = attachment.clone();
        let (thread, runtime) = self.begin()?;
        let result = thread.run(move || runtime.add(&to)).await??;
        let result = Arc::new(result);
        self.attached.insert(pod.index, (attachment.clone(), result.clone()));
        let sandbox = attachment.netns.display().to_string();
        let addrs: Vec<IpAddr> =
            result.addresses_in(&sandbox).map(|ip| ip.address.addr()).collect();
        ensure!(
            !addrs.is_empty(),
            "the plugins of {} gave no address in the pod's namespace: the chain needs a plugin with IPAM",
            self.cni.chain.path.display()
        );
        families_covered(&addrs, &self.node.pod_cidrs)?;
        let (ifname, expected) = (self.cni.chain.ifname.clone(), self.cni.chain.mtu);
        let mtu = pod.netns.run(move || Ok(Rtnl::open()?.link(&ifname)?.mtu)).await.context(
            "the plugins reported success, but the pod does not have the interface asked for",
        )?;
        if mtu != expected {
            bail!(
                "the plugins gave the pod an MTU of {mtu}, the cluster counts on {expected}: say mtu={mtu}, or \"mtu\": ${{MTU}} in the conflist"
            );
        }
        self.check_pod(attachment, result).await?;
        Ok(PodNet { addrs })
    }

    async fn check(&mut self) -> anyhow::Result<()> {
        for (attachment, result) in self.attached.values() {
            self.check_pod(attachment.clone(), result.clone()).await?;
        }
        Ok(())
    }

    async fn remove_pod(&mut self, pod: &PodCtx) -> anyhow::Result<()> {
        let Some((attachment, result)) = self.attached.remove(&pod.index) else { return Ok(()) };
        let (thread, runtime) = self.begin()?;
        let errors = thread.run(move || runtime.del(&attachment, Some(&result))).await?;
        if errors.is_empty() {
            return Ok(());
        }
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        bail!("{}", texts.join("; "))
    }

    fn abandon(&self) {
        self.thread.iter().for_each(|thread| thread.interrupt());
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        // Ends the thread, and with it the plugins' state. A call that it is still at was given
        // up and is ended first.
        let thread = self.thread.take();
        tokio::task::spawn_blocking(|| drop(thread)).await.context("ending the node's thread")
    }
}

impl Agent {
    async fn check_pod(
        &self,
        attachment: Attachment,
        result: Arc<AddResult>,
    ) -> anyhow::Result<()> {
        if !self.cni.chain.check {
            return Ok(());
        }
        let (thread, runtime) = self.begin()?;
        let checked = thread.run(move || runtime.check(&attachment, &result)).await?;
        checked.map(drop).context(
            "the plugins do not find what they made (say check=false if they cannot tell; Kubernetes never asks)",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn build(params: &str, text: &str) -> Result<Conflist, ClusterError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.conflist");
        std::fs::write(&file, text).unwrap();
        let spec: CniSpec = format!("conflist:path={}{params}", file.display()).parse().unwrap();
        Conflist::new(&Settings::new(&spec), &Topology::default())
    }

    const LIST: &str =
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","mtu":${MTU}}]}"#;

    #[test]
    fn an_address_in_every_family_of_the_suite_is_asked_for() {
        let nets = |list: &[&str]| list.iter().map(|n| n.parse().unwrap()).collect::<Vec<IpNet>>();
        let (v4, v6): (IpAddr, IpAddr) =
            ("10.244.0.2".parse().unwrap(), "fd00:10:244::2".parse().unwrap());
        let dual = nets(&["10.244.0.0/24", "fd00:10:244::/64"]);
        let says = |addrs: &[IpAddr], nets: &[IpNet]| {
            families_covered(addrs, nets).map_err(|e| e.to_string())
        };
        assert_eq!(says(&[v4, v6], &dual), Ok(()));
        assert_eq!(says(&[v4], &dual[..1]), Ok(()));
        let text = says(&[v4], &dual).unwrap_err();
        assert!(text.contains("no IPv6 address, the suite's family is dual"), "{text}");
        assert!(text.ends_with("(${POD_CIDR6}) or use family = \"v4\""), "{text}");
        assert!(says(&[v4], &dual[1..]).unwrap_err().contains("family is v6"));
        assert!(says(&[v6], &dual).unwrap_err().ends_with("(${POD_CIDR}) or use family = \"v6\""));
    }

    #[test]
    fn parameters_and_file_are_checked_before_anything_is_touched() {
        let cni = build(",mtu=1400,bin=/a:/b,routes=none", LIST).unwrap();
        assert_eq!(cni.pod_mtu(), 1400);
        assert_eq!(cni.chain.dirs, [Path::new("/a"), Path::new("/b")]);
        assert!(cni.details()[0].starts_with("network \"n\": bridge, from "));
        let error = |params: &str, text: &str| build(params, text).unwrap_err().to_string();
        assert!(error(",routes=some", LIST).contains("routes=\"some\" is not node or none"));
        assert!(error(",ifname=interface-name-16", LIST).contains("1 to 15 characters"));
        assert!(error(",deadline=0", LIST).contains("a number from 1 to 3600"));
        assert!(error("", "{").contains("x.conflist: not JSON"));
        assert!(error("", "\n${PODCIDR}").contains("line 2: unknown placeholder ${PODCIDR}; did"));
        let spec: CniSpec = "conflist".parse().unwrap();
        assert!(check(&spec).unwrap_err().contains("conflist:path=FILE"));
        let spec: CniSpec = "conflist:path=/no/such".parse().unwrap();
        let missing = Conflist::new(&Settings::new(&spec), &Topology::default()).unwrap_err();
        assert!(missing.to_string().contains("/no/such cannot be read"));
    }
}

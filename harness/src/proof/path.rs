//! Path: counted packets show in the counters of the devices that the cni claims to use and of the
//! pods' own veth pairs, and of no other device of their nodes.
//!
//! A cni that cannot name all of its devices (plugins of a conflist) is held to what it names; of
//! the others the evidence tells which carried packets as well.

use super::{
    Finding, Scene, Way,
    echo::{Echo, Udp},
    proof,
};
use crate::{
    cni::{Claim, Entry, Side},
    netlink::{Link, Netns, Rtnl},
};
use anyhow::Context as _;
use cnibench_model::{Proof, ProofKind};
use std::net::SocketAddr;

/// Requests that are sent and answered.
const EXCHANGES: u64 = 200;
/// Packets that neighbour discovery and the like may add to a device that should be silent.
const BACKGROUND: u64 = EXCHANGES / 10;

pub(super) async fn prove(scene: &Scene) -> Proof {
    let mut findings = Vec::new();
    // One at a time: each counts packets on devices that others use as well.
    for way in &scene.ways {
        match look(scene, way).await {
            Ok(more) => findings.extend(more),
            Err(e) => findings.push(Err(format!("{way}: {e:#}"))),
        }
    }
    let others = if scene.cni.names_whole_path() {
        ", and on no other device of the nodes"
    } else {
        "; other devices were not claimed"
    };
    let passed = format!(
        "{EXCHANGES} requests and answers of {} showed on the devices claimed{others}",
        match scene.ways.len() {
            1 => "the one way".to_owned(),
            ways => format!("each of {ways} ways"),
        }
    );
    proof(&scene.spec, ProofKind::Path, &passed, findings)
}

async fn look(scene: &Scene, way: &Way) -> anyhow::Result<Vec<Finding>> {
    let echo = Echo::start(&way.server, way.ends.bind_addr).await?;
    let to = SocketAddr::new(way.ends.server_addr, echo.port);
    let mut udp = Udp::connect(&way.client, to).await?;
    // One before counting: neighbours are resolved, connections tracked.
    udp.exchange(64, 10).await?;
    let pods = [links(&way.client).await?, links(&way.server).await?];
    let before = Nodes::read(way).await?;
    for _ in 0..EXCHANGES {
        udp.exchange(64, 10).await?;
    }
    let after = Nodes::read(way).await?;
    let counted = Counted { way, before, after };
    let claims = scene.cni.path(way.placement, way.ends.server_addr);
    let mut findings: Vec<Finding> = claims.iter().map(|claim| counted.judge(claim)).collect();
    let mut known = claims;
    for (side, pod) in [Side::Client, Side::Server].into_iter().zip(&pods) {
        let (finding, port) = match scene.cni.entry() {
            Entry::Port => counted.port(side, pod),
            entry => counted.entered(side, entry, pod, &links(way.end(side)).await?),
        };
        findings.extend(finding);
        known.extend(port);
    }
    findings.extend(counted.others(&known, scene.cni.names_whole_path()));
    Ok(findings)
}

async fn links(netns: &Netns) -> anyhow::Result<Vec<Link>> {
    netns.run(|| Rtnl::open()?.links()).await
}

/// The links of both nodes at one moment.
struct Nodes {
    client: Vec<Link>,
    server: Vec<Link>,
}

impl Nodes {
    async fn read(way: &Way) -> anyhow::Result<Self> {
        let client = links(&way.client_node).await.context("links of the client's node")?;
        let server = links(&way.server_node).await.context("links of the server's node")?;
        Ok(Self { client, server })
    }

    fn of(&self, side: Side) -> &[Link] {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }
}

/// Packets of a device while they were counted.
#[derive(Debug, Clone, Copy)]
struct Rise {
    rx: u64,
    tx: u64,
}

impl Rise {
    fn carried(self) -> bool {
        self.rx >= EXCHANGES && self.tx >= EXCHANGES
    }

    fn silent(self) -> bool {
        self.rx + self.tx <= BACKGROUND
    }

    fn only_received(self) -> bool {
        self.rx >= EXCHANGES && self.tx <= BACKGROUND
    }

    fn only_sent(self) -> bool {
        self.tx >= EXCHANGES && self.rx <= BACKGROUND
    }
}

struct Counted<'a> {
    way: &'a Way,
    before: Nodes,
    after: Nodes,
}

impl Counted<'_> {
    /// None when there is no such device.
    fn rise(&self, side: Side, device: &str) -> Option<Rise> {
        let find = |nodes: &Nodes| nodes.of(side).iter().find(|l| l.name == device).cloned();
        let now = find(&self.after)?.counters;
        let then = find(&self.before).map(|l| l.counters).unwrap_or_default();
        Some(Rise {
            rx: now.rx_packets.saturating_sub(then.rx_packets),
            tx: now.tx_packets.saturating_sub(then.tx_packets),
        })
    }

    fn line(&self, side: Side, device: &str) -> String {
        let node = match side {
            Side::Client => "client's node",
            Side::Server => "server's node",
        };
        format!("{}: {device} on the {node}", self.way)
    }

    fn judge(&self, claim: &Claim) -> Finding {
        let (side, device) = claim.device();
        let line = self.line(side, device);
        match (claim, self.rise(side, device)) {
            (Claim::Absent { .. }, None) => Ok(format!("{line}: not there, as claimed")),
            (Claim::Absent { .. }, Some(_)) => Err(format!("{line}: is there")),
            (_, None) => Err(format!("{line}: not there")),
            (Claim::Carries { .. }, Some(rise)) => carried(&line, rise),
            (Claim::Receives { .. }, Some(rise)) => told(
                rise.only_received(),
                format!("{line}: {} received, {} sent, should only receive", rise.rx, rise.tx),
            ),
            (Claim::Sends { .. }, Some(rise)) => told(
                rise.only_sent(),
                format!("{line}: {} sent, {} received, should only send", rise.tx, rise.rx),
            ),
            (Claim::Silent { .. }, Some(rise)) => {
                let text = format!("{line}: {} packets, should be silent", rise.rx + rise.tx);
                told(rise.silent(), text)
            }
        }
    }

    /// The node's end of the pod's veth pair must carry, whatever the cni calls it. Nothing to find
    /// where the end is the node itself.
    fn port(&self, side: Side, pod: &[Link]) -> (Option<Finding>, Option<Claim>) {
        if self.way.is_node(side) {
            return (None, None);
        }
        let Some((device, rise)) = self.ports(side, pod).max_by_key(|(_, r)| r.rx.min(r.tx)) else {
            let text = self.line(side, "the pod's interface");
            return (Some(Ok(format!("{text}: no veth, so it has no counters there"))), None);
        };
        let finding = carried(&format!("{} (the pod's port)", self.line(side, device)), rise);
        (Some(finding), Some(Claim::Carries { side, device: device.to_owned() }))
    }

    /// Where packets are put straight into pods, the node's end of the veth pair only receives, and the
    /// pod's own end counts what it was given (skb_do_redirect, net/core/filter.c).
    fn entered(
        &self,
        side: Side,
        entry: Entry,
        before: &[Link],
        after: &[Link],
    ) -> (Option<Finding>, Option<Claim>) {
        if self.way.is_node(side) {
            return (None, None);
        }
        let Some((device, rise)) = self.ports(side, after).max_by_key(|(_, rise)| rise.rx) else {
            let text = self.line(side, "the pod's interface");
            return (Some(Err(format!("{text}: no veth"))), None);
        };
        let received = |links: &[Link]| {
            let inner = links.iter().find(|l| l.kind == "veth");
            inner.map(|l| l.counters.rx_packets).unwrap_or_default()
        };
        let given = received(after).saturating_sub(received(before));
        let line = self.line(side, device);
        let text = format!(
            "{line} (the pod's port): {} received, {} sent; {given} came into the pod, of {EXCHANGES}",
            rise.rx, rise.tx
        );
        let as_claimed = match entry {
            // Kernels before 6.7 did not count what was given (bpf_redirect_peer): then that the port
            // sent nothing, and all was answered, says it alone.
            Entry::Direct => rise.only_received() && (given >= EXCHANGES || given <= BACKGROUND),
            // The pod got them all, whichever way.
            Entry::Either | Entry::Port => rise.rx >= EXCHANGES && given >= EXCHANGES,
        };
        let finding = told(as_claimed, text);
        (Some(finding), Some(Claim::Receives { side, device: device.to_owned() }))
    }

    /// The node's ends of veth pairs that a pod has the other ends of, and what they carried.
    fn ports<'b>(
        &'b self,
        side: Side,
        pod: &'b [Link],
    ) -> impl Iterator<Item = (&'b str, Rise)> + 'b {
        // Indexes are of two namespaces: only pairs that name each other are one.
        let paired = |port: &&Link| {
            let inner = |l: &Link| l.peer == Some(port.index) && port.peer == Some(l.index);
            port.kind == "veth" && pod.iter().any(inner)
        };
        let ports = self.after.of(side).iter().filter(paired);
        ports.filter_map(move |l| Some((l.name.as_str(), self.rise(side, &l.name)?)))
    }

    /// Devices that nobody claims: silent where everything is claimed, else told.
    fn others(&self, known: &[Claim], all_are_named: bool) -> Vec<Finding> {
        let one_node = self.way.client_node.path() == self.way.server_node.path();
        let sides: &[Side] = if one_node { &[Side::Client] } else { &[Side::Client, Side::Server] };
        let mut findings = Vec::new();
        for &side in sides {
            let is_known = |device: &str| {
                known.iter().any(|c| {
                    let (of, name) = c.device();
                    name == device && (one_node || of == side)
                })
            };
            for link in self.after.of(side).iter().filter(|l| !is_known(&l.name)) {
                let Some(rise) = self.rise(side, &link.name) else { continue };
                let line = self.line(side, &link.name);
                let packets = rise.rx + rise.tx;
                findings.extend(match (rise.silent(), all_are_named) {
                    (true, true) => Some(Ok(format!("{line}: {packets} packets, not claimed"))),
                    (true, false) => None,
                    (false, true) => {
                        Some(Err(format!("{line}: {packets} packets, but nothing claims it")))
                    }
                    (false, false) => Some(Ok(format!("{line}: also carried, {packets} packets"))),
                });
            }
        }
        findings
    }
}

fn told(as_claimed: bool, text: String) -> Finding {
    if as_claimed { Ok(text) } else { Err(text) }
}

fn carried(line: &str, rise: Rise) -> Finding {
    let text = format!("{line}: {} sent, {} received, of {EXCHANGES} each way", rise.tx, rise.rx);
    if rise.carried() { Ok(text) } else { Err(text) }
}

//! The encryption proof: pods' payload does not cross the link between nodes in clear.
//!
//! A random canary fills TCP and UDP payloads sent from pods to pods of other nodes, while a
//! sniffer watches the link between the nodes. The proof holds when no frame has the canary in it,
//! the claimed wrapping carried at least as many bytes as were delivered, and the same sniffer
//! saw another canary that went from node to node in clear at the same time: without that control
//! a blind sniffer would prove anything.

use super::{
    Scene, Way,
    judgement::{ATTEMPTS, Observed, Sent, View, canary, judge},
    payload::deliver,
    sniffer::{Sniffer, Watch},
};
use crate::{cni::Wrapping, netlink::Netns};
use anyhow::Context;
use cnibench_model::{CniSpec, Placement, Proof, ProofKind, ProofOutcome};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    thread,
};

/// One direction to send in.
#[derive(Debug, Clone)]
pub struct Line {
    /// For people: "pod 0 of node 0 to pod 0 of node 1".
    pub label: String,
    /// Where the sender stands.
    pub from: Netns,
    /// Where the receiver stands.
    pub to: Netns,
    /// The receiver's address.
    pub addr: IpAddr,
}

/// What is to be proved, and where.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The cni that claims it.
    pub cni: CniSpec,
    /// The namespace with the link between the nodes, every frame of which enters a device there.
    pub underlay: Netns,
    /// From pods to pods of other nodes, at least one.
    pub pods: Vec<Line>,
    /// From node to node, around the cni.
    pub control: Vec<Line>,
    /// Addresses of the nodes.
    pub nodes: BTreeSet<IpAddr>,
    /// What pods' packets are wrapped in.
    pub wrapping: Wrapping,
}

/// Takes the proof for a cluster, in both directions of every way between pods of two nodes. None
/// for a cni that does not claim to encrypt, and for a cluster with nothing to cross.
pub(super) async fn prove_scene(scene: &Scene) -> Option<Proof> {
    if !scene.encrypted || !scene.ways.iter().any(|w| w.placement == Placement::CrossNode) {
        return None;
    }
    let (for_thread, spec) = (scene.clone(), scene.spec.clone());
    let taken = tokio::task::spawn_blocking(move || anyhow::Ok(prove(&claimed(&for_thread)?)));
    let taken = taken.await.unwrap_or_else(|e| Err(e.into()));
    Some(taken.unwrap_or_else(|e| Proof {
        kind: ProofKind::Encryption,
        cni: spec,
        outcome: ProofOutcome::Failed,
        summary: format!("could not be taken: {e:#}"),
        evidence: Vec::new(),
    }))
}

fn claimed(scene: &Scene) -> anyhow::Result<Claimed> {
    let of = |placement| scene.ways.iter().filter(move |way| way.placement == placement);
    let lines = |placement| -> anyhow::Result<Vec<Line>> {
        let both = of(placement).map(Line::both).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(both.into_iter().flatten().collect())
    };
    let control = lines(Placement::HostHost)?;
    Ok(Claimed {
        cni: scene.spec.clone(),
        underlay: scene.underlay.clone(),
        pods: lines(Placement::CrossNode)?,
        nodes: control.iter().map(|line| line.addr).collect(),
        control,
        wrapping: scene.cni.wrapping().context("it does not say what it wraps packets in")?,
    })
}

impl Line {
    /// From client to server and back. The client's address is the one the kernel would send from.
    pub(crate) fn both(way: &Way) -> anyhow::Result<[Self; 2]> {
        let to = way.ends.server_addr;
        let source = way.client.run_blocking(|| {
            let any: IpAddr = match to {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect((to, 9))?;
            Ok(socket.local_addr()?.ip())
        });
        let source = source.with_context(|| format!("the way to {to}"))?;
        let (client, server) = (&way.ends.client.label, &way.ends.server.label);
        let line = |a: &str, b: &str, from: &Netns, to: &Netns, addr| Self {
            label: format!("{a} to {b} ({addr})"),
            from: from.clone(),
            to: to.clone(),
            addr,
        };
        Ok([
            line(client, server, &way.client, &way.server, to),
            line(server, client, &way.server, &way.client, source),
        ])
    }
}

/// Takes the proof. Blocks for as long as it takes to send a few hundred KiB; takes it again when
/// the sniffer could not keep up, which says nothing of the cni.
pub fn prove(claimed: &Claimed) -> Proof {
    let mut watched = observe(claimed);
    for _ in 1..ATTEMPTS {
        if !watched.as_ref().is_ok_and(Observed::could_not_keep_up) {
            break;
        }
        watched = observe(claimed);
    }
    let (outcome, summary, evidence) = match &watched {
        Ok(observed) => judge(observed),
        Err(e) => (ProofOutcome::Failed, format!("could not be taken: {e:#}"), Vec::new()),
    };
    Proof { kind: ProofKind::Encryption, cni: claimed.cni.clone(), outcome, summary, evidence }
}

fn observe(claimed: &Claimed) -> anyhow::Result<Observed> {
    let (secret, control) = (canary(), canary());
    let watch = Watch {
        secret: secret.clone(),
        control: control.clone(),
        nodes: claimed.nodes.clone(),
        wrapping: claimed.wrapping.clone(),
        flows: Vec::new(),
    };
    let sniffer = Sniffer::start(&claimed.underlay, watch).context("the sniffer")?;
    // Both at the same time, so that one sniffer is asked the same of both.
    let (pods, control) = thread::scope(|scope| {
        let control = scope.spawn(|| send(&claimed.control, &control));
        let pods = send(&claimed.pods, &secret);
        (pods, control.join())
    });
    let seen = sniffer.finish().context("the sniffer")?;
    let control = control.map_err(|_| anyhow::anyhow!("the sender of the control panicked"))?;
    let payload = pods.iter().map(Sent::bytes).sum();
    let view = View { of: "link between nodes".to_owned(), payload, seen };
    Ok(Observed { pods, control, views: vec![view], wrapping: claimed.wrapping.clone() })
}

fn send(lines: &[Line], canary: &[u8]) -> Vec<Sent> {
    let sent = |way: &Line| Sent {
        label: way.label.clone(),
        arrived: deliver(&way.from, &way.to, way.addr, canary).map_err(|e| format!("{e:#}")),
    };
    lines.iter().map(sent).collect()
}

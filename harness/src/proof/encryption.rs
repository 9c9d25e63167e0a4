//! The encryption proof: pods' payload does not cross the link between nodes in clear.
//!
//! A random canary fills TCP and UDP payloads sent from pods to pods of other nodes, while a
//! sniffer watches the link between the nodes. The proof holds when no frame has the canary in it,
//! the claimed wrapping carried at least as many bytes as were delivered, and the same sniffer
//! saw another canary that went from node to node in clear at the same time: without that control
//! a blind sniffer would prove anything.

use super::{
    Scene, Way,
    payload::{Delivery, deliver},
    sniffer::{Sightings, Sniffer, Watch},
};
use crate::{cni::Wrapping, netlink::Netns};
use anyhow::Context;
use cnibench_model::{CniSpec, Placement, Proof, ProofKind, ProofOutcome};
use rand::Rng;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    thread,
};

/// Bytes of a canary: long enough never to occur by chance in all the frames there are.
const CANARY: usize = 24;
/// Attempts of a sniffer that loses frames (its buffer is small without root).
const ATTEMPTS: u32 = 3;

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
    fn both(way: &Way) -> anyhow::Result<[Self; 2]> {
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
        if !watched.as_ref().is_ok_and(|o| o.seen.lost > 0 && o.seen.secret == 0) {
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

/// What was sent and seen.
struct Observed {
    pods: Vec<(String, Result<Delivery, String>)>,
    control: Vec<(String, Result<Delivery, String>)>,
    seen: Sightings,
    wrapping: Wrapping,
}

fn observe(claimed: &Claimed) -> anyhow::Result<Observed> {
    let canary = || -> Vec<u8> { rand::rng().random::<[u8; CANARY]>().into() };
    let (secret, control) = (canary(), canary());
    let watch = Watch {
        secret: secret.clone(),
        control: control.clone(),
        nodes: claimed.nodes.clone(),
        wrapping: claimed.wrapping.clone(),
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
    Ok(Observed { pods, control, seen, wrapping: claimed.wrapping.clone() })
}

fn send(lines: &[Line], canary: &[u8]) -> Vec<(String, Result<Delivery, String>)> {
    lines
        .iter()
        .map(|way| {
            let sent = deliver(&way.from, &way.to, way.addr, canary);
            (way.label.clone(), sent.map_err(|e| format!("{e:#}")))
        })
        .collect()
}

fn judge(observed: &Observed) -> (ProofOutcome, String, Vec<String>) {
    let Observed { pods, control, seen, wrapping } = observed;
    let what = match wrapping {
        Wrapping::Udp(ports) => {
            let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
            format!("UDP port {}", ports.join(", "))
        }
        Wrapping::Esp => "ESP".to_owned(),
    };
    let mut evidence: Vec<String> = [("canary", pods), ("control", control)]
        .into_iter()
        .flat_map(|(name, ways)| ways.iter().map(move |(label, sent)| (name, label, sent)))
        .map(|(name, label, sent)| match sent {
            Ok(d) => format!(
                "{name}, {label}: {} bytes by TCP, {} datagrams of {} bytes by UDP delivered",
                d.tcp_bytes, d.datagrams, d.datagram_bytes
            ),
            Err(e) => format!("{name}, {label}: not delivered: {e}"),
        })
        .collect();
    evidence.push(format!("link between nodes: {} frames, {} bytes seen", seen.frames, seen.bytes));
    evidence.push(format!("frames with the canary: {}", seen.secret));
    evidence.push(format!("frames with the control: {}", seen.control));
    evidence.push(format!(
        "{what} between nodes: {} frames, {} bytes",
        seen.wrapped_frames, seen.wrapped_bytes
    ));
    if seen.fragments > 0 {
        evidence.push(format!("fragments between nodes, not counted: {}", seen.fragments));
    }
    if seen.lost + seen.cut > 0 {
        evidence
            .push(format!("frames lost: {}, too large to be read whole: {}", seen.lost, seen.cut));
    }
    evidence
        .extend(seen.secret_example.iter().map(|e| format!("first frame with the canary: {e}")));
    let payload: u64 = pods.iter().filter_map(|(_, d)| d.as_ref().ok()).map(Delivery::bytes).sum();
    match fault(observed, payload, &what) {
        Some(fault) => (ProofOutcome::Failed, fault, evidence),
        None => {
            let summary = format!(
                "none of {} frames shows the {payload} bytes that pods sent, {} bytes of {what} cover them, the control in clear was seen {} times",
                seen.frames, seen.wrapped_bytes, seen.control
            );
            (ProofOutcome::Passed, summary, evidence)
        }
    }
}

/// The first reason why the claim does not stand. Clear text first: it is one whatever else failed.
fn fault(observed: &Observed, payload: u64, what: &str) -> Option<String> {
    let Observed { pods, control, seen, .. } = observed;
    if seen.secret > 0 {
        return Some(format!(
            "payload in clear: {} of {} frames between nodes show what pods sent",
            seen.secret, seen.frames
        ));
    }
    if pods.is_empty() || control.is_empty() {
        return Some("nothing to send: it takes pods on two nodes".to_owned());
    }
    for (whose, ways) in [("pods'", pods), ("the control's", control)] {
        if let Some((label, Err(e))) = ways.iter().find(|(_, sent)| sent.is_err()) {
            return Some(format!("{whose} payload did not arrive, {label}: {e}"));
        }
    }
    if seen.control == 0 {
        return Some("sniffer blind: it did not see what went between nodes in clear".to_owned());
    }
    if seen.lost + seen.cut > 0 {
        return Some(format!(
            "sniffer lost {} frames and read {} only in part: what they held is not known",
            seen.lost, seen.cut
        ));
    }
    if seen.wrapped_bytes < payload {
        let why = if seen.fragments > 0 {
            "the tunnel's packets do not fit and are fragmented"
        } else {
            "they took another way"
        };
        return Some(format!(
            "pods sent {payload} bytes, but only {} bytes of {what} crossed between the nodes: {why}",
            seen.wrapped_bytes
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed() -> Observed {
        let sent = Delivery { tcp_bytes: 1000, datagrams: 2, datagram_bytes: 50 };
        Observed {
            pods: vec![("a to b".into(), Ok(sent)), ("b to a".into(), Ok(sent))],
            control: vec![("node to node".into(), Ok(sent))],
            seen: Sightings {
                frames: 100,
                bytes: 9000,
                control: 7,
                wrapped_frames: 40,
                wrapped_bytes: 2200,
                ..Sightings::default()
            },
            wrapping: Wrapping::Udp([51820].into()),
        }
    }

    fn failure(change: impl FnOnce(&mut Observed)) -> String {
        let mut observed = observed();
        change(&mut observed);
        let (outcome, summary, evidence) = judge(&observed);
        assert_eq!(outcome, ProofOutcome::Failed, "{summary}");
        assert!(evidence.len() >= 4, "a failure has its evidence too");
        summary
    }

    #[test]
    fn it_passes_on_exactly_enough_wrapped_bytes() {
        let (outcome, summary, _) = judge(&observed());
        assert_eq!(outcome, ProofOutcome::Passed, "{summary}");
        assert!(summary.contains("2200 bytes of UDP port 51820 cover them"), "{summary}");
        assert!(failure(|o| o.seen.wrapped_bytes = 2199).contains("took another way"));
    }

    #[test]
    fn every_hole_in_the_evidence_fails() {
        let clear = failure(|o| {
            o.seen.secret = 1;
            o.control.clear();
        });
        assert!(clear.starts_with("payload in clear: 1 of 100"), "{clear}");
        assert!(failure(|o| o.seen.control = 0).starts_with("sniffer blind"));
        assert!(failure(|o| o.seen.lost = 1).contains("lost 1 frames"));
        assert!(failure(|o| o.seen.cut = 1).contains("1 only in part"));
        assert!(failure(|o| o.pods.clear()).contains("two nodes"));
        assert!(failure(|o| o.pods[1].1 = Err("refused".into())).contains("b to a: refused"));
        assert!(failure(|o| o.control[0].1 = Err("x".into())).contains("the control's payload"));
    }
}

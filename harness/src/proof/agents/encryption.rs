//! Encryption over agents and observers: pods' payload does not enter either node in clear, while an
//! observer on each sees what is sent around the cni.
//!
//! The client sends a canary to an echo server, so its payload crosses once in each direction; what
//! arrived is known at both ends. Each node's observer looks at what enters its underlay device and
//! is judged on its own.

use super::{Cast, NEEDS_OBSERVERS, Stage, Status, Watched, Way, cross_node, serve, volley};
use crate::{
    cni::Wrapping,
    exec::Agent,
    observe::protocol::Which,
    proof::{
        judgement::{ATTEMPTS, Observed, Sent, View, canary, judge},
        payload::Delivery,
        sniffer::Watch,
    },
};
use anyhow::{Context as _, ensure};
use cnibench_model::{CniSpec, Proof, ProofKind, ProofOutcome};
use cnibench_workloads::protocol::Volley;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Bytes sent by TCP.
const STREAM: u32 = 128 << 10;
/// Datagrams sent by UDP.
const DATAGRAMS: u32 = 64;
/// Bytes of one: it fits every path that carries IPv6 (RFC 8200, 5) in a tunnel.
const DATAGRAM: u32 = 1000;
/// How often what did not come back is sent again.
const TRIES: u32 = 5;
/// Lines of a status command's output that are kept.
const STATUS_LINES: usize = 8;

/// None for a cni that does not claim to encrypt, and where no way crosses from node to node.
pub(super) async fn prove(stage: &mut Stage) -> Option<Proof> {
    let Stage { spec, ways, control, cast, nodes, claims, .. } = stage;
    let crossing = cross_node(ways);
    if !claims.encrypted || crossing.is_empty() {
        return None;
    }
    let (mut status, mut faults) = status(&claims.status);
    let Some(wrapping) = &claims.wrapping else {
        let summary =
            "could not be taken: the cni does not say what it wraps packets in".to_owned();
        return Some(failed(spec, summary, status));
    };
    let pairs: BTreeSet<(String, String)> = crossing
        .iter()
        .map(|&i| (ways[i].client_node.clone(), ways[i].server_node.clone()))
        .collect();
    let (mut passed, mut evidence) = (Vec::new(), Vec::new());
    for pair in pairs {
        let of = |ways: &[Way]| -> Vec<Way> {
            let fits = |w: &&Way| (&w.client_node, &w.server_node) == (&pair.0, &pair.1);
            ways.iter().filter(fits).cloned().collect()
        };
        let own: Vec<Way> = crossing.iter().map(|&i| ways[i].clone()).collect();
        let between = Between { pods: of(&own), control: of(control), wrapping, pair: &pair };
        match between.prove(cast, nodes).await {
            Ok((outcome, summary, lines)) => {
                evidence.extend(lines);
                if outcome == ProofOutcome::Passed { &mut passed } else { &mut faults }
                    .push(summary);
            }
            Err(e) => faults.push(format!("could not be taken: {e:#}")),
        }
    }
    evidence.append(&mut status);
    if let Some(first) = faults.first() {
        return Some(failed(spec, first.clone(), evidence));
    }
    let summary = passed.join("; ");
    let outcome = ProofOutcome::Passed;
    Some(Proof { kind: ProofKind::Encryption, cni: spec.clone(), outcome, summary, evidence })
}

fn failed(spec: &CniSpec, summary: String, evidence: Vec<String>) -> Proof {
    let outcome = ProofOutcome::Failed;
    Proof { kind: ProofKind::Encryption, cni: spec.clone(), outcome, summary, evidence }
}

/// What the cni says of itself: evidence, and what in it is not as expected.
fn status(all: &[Status]) -> (Vec<String>, Vec<String>) {
    let (mut evidence, mut faults) = (Vec::new(), Vec::new());
    for Status { node, command, output, expected } in all {
        let text = match output {
            Ok(text) => text,
            Err(e) => {
                evidence.push(format!("{command} on {node}: {e}"));
                if expected.is_some() {
                    faults.push(format!("the cni's own status on {node} could not be read: {e}"));
                }
                continue;
            }
        };
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let shown = lines.iter().take(STATUS_LINES).copied().collect::<Vec<_>>().join(" | ");
        evidence.push(format!("{command} on {node}: {shown}"));
        if let Some(expected) = expected.as_ref().filter(|e| !text.contains(e.as_str())) {
            faults.push(format!(
                "the cni's own status on {node} does not say {expected:?} ({command})"
            ));
        }
    }
    (evidence, faults)
}

/// Two nodes, and what is sent between them.
struct Between<'a> {
    pods: Vec<Way>,
    control: Vec<Way>,
    wrapping: &'a Wrapping,
    pair: &'a (String, String),
}

impl Between<'_> {
    async fn prove(
        &self,
        cast: &mut Cast,
        nodes: &mut BTreeMap<String, Watched>,
    ) -> anyhow::Result<(ProofOutcome, String, Vec<String>)> {
        let (a, b) = self.pair;
        for node in [a, b] {
            ensure!(nodes.contains_key(node), "node {node} cannot be looked at: {NEEDS_OBSERVERS}");
        }
        ensure!(
            !self.control.is_empty(),
            "no host-network pods on {a} and {b}: without a control in clear a blind sniffer would prove anything"
        );
        let mut observed = self.observe(cast, nodes).await?;
        for _ in 1..ATTEMPTS {
            if !observed.could_not_keep_up() {
                break;
            }
            observed = self.observe(cast, nodes).await?;
        }
        Ok(judge(&observed))
    }

    async fn observe(
        &self,
        cast: &mut Cast,
        nodes: &mut BTreeMap<String, Watched>,
    ) -> anyhow::Result<Observed> {
        let (secret, control) = (canary(), canary());
        let (a, b) = self.pair;
        let watch = Watch {
            secret: secret.clone(),
            control: control.clone(),
            nodes: [a, b].into_iter().filter_map(|n| nodes.get(n)).flat_map(addresses).collect(),
            wrapping: self.wrapping.clone(),
            flows: Vec::new(),
        };
        let mut devices = BTreeMap::new();
        for name in [a, b] {
            let node = nodes.get_mut(name).with_context(|| format!("node {name}"))?;
            let device = Which::WithAddress(node.addr);
            devices.insert(name.clone(), node.observer.sniff(device, watch.clone()).await?);
        }
        let mut arrived: BTreeMap<&str, u64> = BTreeMap::new();
        let (mut pods, mut around) = (Vec::new(), Vec::new());
        for way in &self.pods {
            for (node, sent) in deliver(cast, way, &secret).await {
                *arrived.entry(node).or_default() += sent.bytes();
                pods.push(sent);
            }
        }
        for way in &self.control {
            around.extend(deliver(cast, way, &control).await.into_iter().map(|(_, sent)| sent));
        }
        let mut views = Vec::new();
        for name in [a, b] {
            let node = nodes.get_mut(name).with_context(|| format!("node {name}"))?;
            let seen = node.observer.sightings().await?;
            let of = format!("entering {} of {name}", devices[name]);
            let payload = arrived.get(name.as_str()).copied().unwrap_or(0);
            views.push(View { of, payload, seen });
        }
        Ok(Observed { pods, control: around, views, wrapping: self.wrapping.clone() })
    }
}

/// All addresses of the device that has a node's: its packets may come from each of them.
fn addresses(node: &Watched) -> Vec<IpAddr> {
    let device = node.observer.devices().iter().find(|d| d.addrs.contains(&node.addr));
    device.map_or_else(|| vec![node.addr], |d| d.addrs.clone())
}

/// Sends the canary from client to server, which sends it back: what arrived on each node.
async fn deliver<'a>(cast: &mut Cast, way: &'a Way, canary: &[u8]) -> [(&'a str, Sent); 2] {
    let ends = &way.ends;
    let (client, server) = (&ends.client.label, &ends.server.label);
    let label = |from: &str, to: &str, how: &str| format!("{from} to {to} ({way}{how})");
    let (there, back) = match exchange(cast, way, canary).await {
        Ok((there, back)) => (Ok(there), Ok(back)),
        Err(e) => (Err(format!("{e:#}")), Err("was not sent back".to_owned())),
    };
    [
        (&way.server_node, Sent { label: label(client, server, ""), arrived: there }),
        (&way.client_node, Sent { label: label(server, client, ", sent back"), arrived: back }),
    ]
}

async fn exchange(
    cast: &mut Cast,
    way: &Way,
    canary: &[u8],
) -> anyhow::Result<(Delivery, Delivery)> {
    let ends = &way.ends;
    let [client, server] = cast.several([&ends.client.id, &ends.server.id])?;
    let to = serve(server, ends).await?;
    let mut whole = Volley {
        datagrams: DATAGRAMS,
        datagram_bytes: DATAGRAM,
        connects: 1,
        stream_bytes: STREAM,
        canary: canary.to_vec(),
        patience_ms: 1_000,
        ..volley(to)
    };
    let back = send(client, &mut whole).await;
    let counts = server.echoed().await?;
    let back = back?;
    let there = Delivery {
        tcp_bytes: counts.iter().map(|c| c.stream_bytes).sum(),
        datagrams: counts.iter().map(|c| c.datagrams).sum(),
        datagram_bytes: DATAGRAM.into(),
    };
    Ok((there, back))
}

/// Sends until everything came back.
async fn send(client: &mut Agent, whole: &mut Volley) -> anyhow::Result<Delivery> {
    let mut back = Delivery { tcp_bytes: 0, datagrams: 0, datagram_bytes: DATAGRAM.into() };
    let mut trouble = None;
    for _ in 0..TRIES {
        let tally = client.volley(whole).await?;
        back.tcp_bytes += tally.stream_bytes;
        back.datagrams += u64::from(tally.answered);
        whole.datagrams -= tally.answered.min(whole.datagrams);
        whole.connects -= tally.connected.min(whole.connects);
        if whole.datagrams == 0 && whole.connects == 0 {
            return Ok(back);
        }
        trouble = tally.trouble;
    }
    let why = trouble.map(|t| format!(" ({t})")).unwrap_or_default();
    anyhow::bail!(
        "{} of {DATAGRAMS} datagrams and {} of 1 connections were not answered in {TRIES} tries{why}",
        whole.datagrams,
        whole.connects
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(output: Result<&str, &str>, expected: Option<&str>) -> (Vec<String>, Vec<String>) {
        status(&[Status {
            node: "n0".to_owned(),
            command: "cilium-dbg encrypt status".to_owned(),
            output: output.map(str::to_owned).map_err(str::to_owned),
            expected: expected.map(str::to_owned),
        }])
    }

    #[test]
    fn the_cnis_own_words_are_evidence_and_are_held_to_what_is_expected() {
        let text = "Encryption: Wireguard\nInterface: cilium_wg0\n\tPublic key: x\n";
        let (evidence, faults) = said(Ok(text), Some("Wireguard"));
        assert_eq!(faults, Vec::<String>::new());
        assert!(evidence[0].contains("n0: Encryption: Wireguard | Interface: cilium_wg0 | Public"));
        let (evidence, faults) = said(Ok("Encryption: Disabled"), Some("Wireguard"));
        assert!(faults[0].contains("does not say \"Wireguard\"") && evidence.len() == 1);
        assert!(said(Err("exit status 1"), Some("x")).1[0].contains("exit status 1"));
        assert!(said(Err("exit status 1"), None).1.is_empty(), "nothing was claimed of it");
    }
}

//! Key removal: without the key on one node nothing gets from pods of that node to pods of another, nor
//! back, and nothing of it shows on the link between the nodes.
//!
//! A datapath that passes the encryption proof could still send in clear when it has no key. Taken once
//! for a cluster, after its last trial: nothing reaches other nodes any more when it is over. Knows no
//! cni by name; what a key is, its agent says ([`Keys`]).

use super::{
    encryption::Line,
    judgement::{canary, describe},
    payload::deliver,
    sniffer::{Sightings, Sniffer, Watch},
};
use crate::{
    cni::{Keys, Wrapping},
    netlink::Netns,
};
use anyhow::{Context as _, bail};
use cnibench_model::{CniSpec, Proof, ProofKind, ProofOutcome};
use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

/// Exchanges that have to work before the key is taken.
const EXCHANGES: u32 = 20;
/// Bytes of a datagram: a canary has room many times.
const DATAGRAM: usize = 200;
/// How long one exchange may take while there is a key; a handshake may come first.
const PATIENCE: Duration = Duration::from_secs(12);
/// After the key was taken, what was on its way may arrive for so long.
const GRACE: Duration = Duration::from_millis(500);
/// For so long nothing may arrive after that.
const SILENCE: Duration = Duration::from_secs(2);
/// Between two datagrams of each direction.
const PAUSE: Duration = Duration::from_millis(10);

/// What is to be proved, and where.
pub struct Removal {
    /// The cni that claims it.
    pub cni: CniSpec,
    /// The namespace with the link between the nodes.
    pub underlay: Netns,
    /// Addresses of the nodes.
    pub nodes: BTreeSet<IpAddr>,
    /// What pods' packets are wrapped in.
    pub wrapping: Wrapping,
    /// From a pod of the node whose key is taken to a pod of another, and back.
    pub pods: [Line; 2],
    /// From node to node, around the cni.
    pub control: Line,
    /// The keys of the first pod's node.
    pub keys: Arc<dyn Keys>,
    /// That node, for people: "node 0".
    pub node: String,
}

/// What was sent and what arrived without the key.
#[derive(Debug, Clone, Default)]
struct Found {
    /// Datagrams that the kernel took, of both directions.
    sent: u64,
    /// Those that it refused.
    refused: u64,
    /// Datagrams that arrived.
    arrived: u64,
    /// When the last one did, after the key was taken.
    last: Option<Duration>,
    seen: Sightings,
}

/// Takes the key away, and the proof.
pub async fn prove(removal: Removal) -> Proof {
    let (cni, how) = (removal.cni.clone(), removal.keys.describe());
    let (node, what) = (removal.node.clone(), describe(&removal.wrapping));
    let proof = |outcome, summary, evidence| Proof {
        kind: ProofKind::KeyRemoval,
        cni,
        outcome,
        summary,
        evidence,
    };
    match look(removal).await {
        Err(e) => proof(ProofOutcome::Failed, format!("could not be taken: {e:#}"), Vec::new()),
        Ok(found) => {
            let Found { sent, refused, arrived, seen, .. } = &found;
            let mut evidence = vec![
                format!("before: {EXCHANGES} exchanges between the pods answered"),
                format!("the key of {node} was taken away ({how})"),
                format!(
                    "without it: {sent} datagrams sent and {refused} refused by the senders' kernels, both ways; {arrived} arrived"
                ),
                format!(
                    "link between nodes: {} frames, {} with the canary, {} with the flow's headers, {} with the control; {what}: {} frames; lost {}",
                    seen.frames,
                    seen.secret,
                    seen.headers,
                    seen.control,
                    seen.wrapped_frames,
                    seen.lost
                ),
            ];
            evidence
                .extend(seen.secret_example.iter().map(|e| format!("first frame in clear: {e}")));
            match fault(&found) {
                Some(fault) => proof(ProofOutcome::Failed, fault, evidence),
                None => {
                    let stopped = match found.last {
                        None => "nothing arrived any more".to_owned(),
                        Some(last) => {
                            format!("the last datagram arrived after {} ms", last.as_millis())
                        }
                    };
                    let summary = format!(
                        "without the key of {node} {stopped}, of {} that pods tried to send both ways in {:.1} s; none of {} frames shows them, the control in clear was seen {} times",
                        sent + refused,
                        (GRACE + SILENCE).as_secs_f64(),
                        seen.frames,
                        seen.control
                    );
                    proof(ProofOutcome::Passed, summary, evidence)
                }
            }
        }
    }
}

fn fault(found: &Found) -> Option<String> {
    let Found { sent, refused, arrived, last, seen } = found;
    if seen.in_clear() > 0 {
        return Some(format!(
            "payload in clear: without the key {} of {} frames show what pods sent",
            seen.in_clear(),
            seen.frames
        ));
    }
    if let Some(last) = last.filter(|last| *last > GRACE) {
        return Some(format!(
            "traffic goes on without the key: {arrived} datagrams arrived, the last one {} ms after it was taken away",
            last.as_millis()
        ));
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
    (sent + refused == 0).then(|| "nothing was sent".to_owned())
}

async fn look(removal: Removal) -> anyhow::Result<Found> {
    let (secret, control) = (canary(), canary());
    let Removal { underlay, nodes, wrapping, pods, control: around, keys, .. } = removal;
    let watch = Watch {
        secret: secret.clone(),
        control: control.clone(),
        nodes,
        wrapping,
        flows: vec![(pods[0].addr, pods[1].addr)],
    };
    let payload: Vec<u8> = secret.iter().copied().cycle().take(DATAGRAM).collect();
    let open = move || {
        let ends = Ends::open(&pods)?;
        for number in 0..EXCHANGES {
            ends.exchange(&payload).with_context(|| format!("exchange {number}, with the key"))?;
        }
        anyhow::Ok((ends, payload, Sniffer::start(&underlay, watch).context("the sniffer")?))
    };
    let (ends, payload, sniffer) = tokio::task::spawn_blocking(open).await??;
    keys.remove().await.context("taking the key away")?;
    let taken = Instant::now();
    let rest = move || {
        let mut found = ends.try_on(&payload, taken)?;
        let sent = deliver(&around.from, &around.to, around.addr, &control);
        sent.with_context(|| format!("the control, {}", around.label))?;
        found.seen = sniffer.finish().context("the sniffer")?;
        Ok(found)
    };
    tokio::task::spawn_blocking(rest).await?
}

/// A socket in each pod, each sending to the other.
struct Ends([UdpSocket; 2]);

impl Ends {
    /// `lines` lead there and back: each one's target is the other's sender.
    fn open(lines: &[Line; 2]) -> anyhow::Result<Self> {
        let [there, back] = lines;
        let bind = |line: &Line, own: IpAddr| {
            line.from.run_blocking(|| {
                UdpSocket::bind((own, 0)).with_context(|| format!("a socket on {own}"))
            })
        };
        let (a, b) = (bind(there, back.addr)?, bind(back, there.addr)?);
        a.connect(b.local_addr()?)?;
        b.connect(a.local_addr()?)?;
        for socket in [&a, &b] {
            socket.set_nonblocking(true)?;
        }
        Ok(Self([a, b]))
    }

    /// A datagram there and back.
    fn exchange(&self, payload: &[u8]) -> anyhow::Result<()> {
        let [a, b] = &self.0;
        for (from, to) in [(a, b), (b, a)] {
            let begun = Instant::now();
            while take(to) == 0 {
                // What is refused is tried again: a tunnel may still have to shake hands.
                let _ = from.send(payload);
                std::thread::sleep(PAUSE);
                if begun.elapsed() > PATIENCE {
                    bail!("a datagram did not arrive within {} s", PATIENCE.as_secs());
                }
            }
        }
        Ok(())
    }

    /// Goes on sending both ways, and sees what arrives.
    fn try_on(&self, payload: &[u8], taken: Instant) -> anyhow::Result<Found> {
        let [a, b] = &self.0;
        let mut found = Found::default();
        loop {
            for socket in [a, b] {
                match socket.send(payload) {
                    Ok(_) => found.sent += 1,
                    Err(_) => found.refused += 1,
                }
            }
            std::thread::sleep(PAUSE);
            let now = taken.elapsed();
            let arrived = take(a) + take(b);
            if arrived > 0 {
                found.arrived += arrived;
                found.last = Some(now);
            }
            if now > GRACE + SILENCE {
                return Ok(found);
            }
        }
    }
}

/// Takes what waits at a socket.
fn take(socket: &UdpSocket) -> u64 {
    let (mut count, mut buffer) = (0, [0; DATAGRAM]);
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => count += 1,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return count,
            // An ICMP error of an earlier datagram; the socket goes on.
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => {}
            Err(_) => return count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(change: impl FnOnce(&mut Found)) -> Option<String> {
        let seen = Sightings { frames: 9, control: 4, ..Sightings::default() };
        let mut found = Found { sent: 500, refused: 0, arrived: 2, last: Some(GRACE), seen };
        change(&mut found);
        fault(&found)
    }

    #[test]
    fn what_was_on_its_way_may_arrive_and_every_hole_fails() {
        assert_eq!(why(|_| {}), None);
        assert!(why(|f| f.last = Some(GRACE * 2)).unwrap().contains("the last one 1000 ms"));
        let clear = why(|f| {
            f.seen.headers = 7;
            f.seen.control = 0;
        });
        assert!(clear.unwrap().starts_with("payload in clear: without the key 7 of 9"));
        assert!(why(|f| f.seen.control = 0).unwrap().starts_with("sniffer blind"));
        assert!(why(|f| f.seen.lost = 1).unwrap().starts_with("sniffer lost 1"));
        assert_eq!(why(|f| f.sent = 0), Some("nothing was sent".to_owned()));
    }
}

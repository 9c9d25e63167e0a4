//! Path over agents and observers: counted packets show in the counters of the devices that the cni
//! claims to use, on both nodes, and not on those that it claims not to.

use super::{
    Cast, Finding, NEEDS_OBSERVERS, Stage, Watched, Way, cross_node, not_taken, proof, serve,
    volley,
};
use crate::{exec::Agent, observe::protocol::Device};
use anyhow::ensure;
use cnibench_model::{Proof, ProofKind};
use cnibench_workloads::protocol::Volley;
use std::{collections::BTreeMap, net::SocketAddr};

/// Datagrams that are sent, and answered.
const EXCHANGES: u32 = 200;
/// Packets that neighbour discovery and the like may add to a device that should be silent.
const BACKGROUND: u64 = EXCHANGES as u64 / 10;
/// Other devices that are told of, at most.
const OTHERS: usize = 8;

/// None when nothing is claimed or no way crosses from node to node.
pub(super) async fn prove(stage: &mut Stage) -> Option<Proof> {
    let Stage { spec, ways, cast, nodes, claims, .. } = stage;
    let crossing = cross_node(ways);
    if crossing.is_empty() || (claims.carries.is_empty() && claims.silent.is_empty()) {
        return None;
    }
    let unseen = |way: &Way| {
        [&way.client_node, &way.server_node].into_iter().find(|n| !nodes.contains_key(*n)).cloned()
    };
    if let Some(node) = crossing.iter().find_map(|&i| unseen(&ways[i])) {
        let summary =
            format!("device counters of node {node} were not looked at: {NEEDS_OBSERVERS}");
        return Some(not_taken(spec, ProofKind::Path, summary));
    }
    let mut findings = Vec::new();
    for way in crossing.into_iter().map(|i| &ways[i]) {
        match count(cast, nodes, way).await {
            Ok(counted) => {
                for node in &counted {
                    findings.extend(node.judge(&way.to_string(), &claims.carries, &claims.silent));
                }
            }
            Err(e) => findings.push(Err(format!("{way}: {e:#}"))),
        }
    }
    let carried: Vec<&str> = claims.carries.iter().map(String::as_str).collect();
    let silent: Vec<&str> = claims.silent.iter().map(String::as_str).collect();
    let not =
        if silent.is_empty() { String::new() } else { format!(", not on {}", silent.join(", ")) };
    let on = if carried.is_empty() { String::new() } else { format!(" on {}", carried.join(", ")) };
    let passed = format!("{EXCHANGES} requests and answers showed{on}{not}, on both nodes");
    Some(proof(spec, ProofKind::Path, &passed, findings))
}

/// A node's devices before and after.
struct Counted {
    node: String,
    before: Vec<Device>,
    after: Vec<Device>,
}

async fn count(
    cast: &mut Cast,
    nodes: &mut BTreeMap<String, Watched>,
    way: &Way,
) -> anyhow::Result<Vec<Counted>> {
    let ends = &way.ends;
    let [client, server] = cast.several([&ends.client.id, &ends.server.id])?;
    let to = serve(server, ends).await?;
    let counted = send(client, nodes, way, to).await;
    server.echoed().await?;
    counted
}

async fn send(
    client: &mut Agent,
    nodes: &mut BTreeMap<String, Watched>,
    way: &Way,
    to: SocketAddr,
) -> anyhow::Result<Vec<Counted>> {
    // Before counting: neighbours are resolved, connections tracked.
    client.volley(&Volley { datagrams: 3, ..volley(to) }).await?;
    let mut counted = Vec::new();
    for name in [&way.client_node, &way.server_node] {
        if let Some(node) = nodes.get_mut(name) {
            let before = node.observer.counters().await?;
            counted.push(Counted { node: name.clone(), before, after: Vec::new() });
        }
    }
    let mut left = EXCHANGES;
    for _ in 0..5 {
        let tally = client.volley(&Volley { datagrams: left, ..volley(to) }).await?;
        left -= tally.answered.min(left);
        if left == 0 {
            break;
        }
    }
    ensure!(left == 0, "{left} of {EXCHANGES} datagrams were never answered");
    for one in &mut counted {
        if let Some(node) = nodes.get_mut(&one.node) {
            one.after = node.observer.counters().await?;
        }
    }
    Ok(counted)
}

impl Counted {
    /// Packets received and sent by a device meanwhile; none when there is no such device.
    fn rise(&self, device: &str) -> Option<(u64, u64)> {
        let find = |all: &[Device]| all.iter().find(|d| d.name == device).map(|d| d.counters);
        let now = find(&self.after)?;
        let then = find(&self.before).unwrap_or_default();
        Some((
            now.rx_packets.saturating_sub(then.rx_packets),
            now.tx_packets.saturating_sub(then.tx_packets),
        ))
    }

    fn judge(&self, way: &str, carries: &[String], silent: &[String]) -> Vec<Finding> {
        let line = |device: &str| format!("{way}: {device} on {}", self.node);
        let mut findings = Vec::new();
        for device in carries {
            let line = line(device);
            findings.push(match self.rise(device) {
                None => Err(format!("{line}: not there")),
                Some((rx, tx)) => {
                    let text = format!("{line}: {tx} sent, {rx} received, of {EXCHANGES} each way");
                    let enough = rx.min(tx) >= EXCHANGES.into();
                    if enough { Ok(text) } else { Err(text) }
                }
            });
        }
        for device in silent {
            let line = line(device);
            findings.push(match self.rise(device) {
                None => Ok(format!("{line}: not there, so it carried nothing")),
                Some((rx, tx)) => {
                    let text = format!("{line}: {} packets, should be silent", rx + tx);
                    if rx + tx <= BACKGROUND { Ok(text) } else { Err(text) }
                }
            });
        }
        let known = |name: &String| carries.contains(name) || silent.contains(name);
        let others = self.after.iter().filter(|d| !known(&d.name)).filter_map(|d| {
            let (rx, tx) = self.rise(&d.name)?;
            (rx + tx >= EXCHANGES.into())
                .then(|| Ok(format!("{}: also carried, {tx} sent, {rx} received", line(&d.name))))
        });
        findings.extend(others.take(OTHERS));
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::rtnl::Counters;

    fn device(name: &str, rx_packets: u64, tx_packets: u64) -> Device {
        Device {
            name: name.to_owned(),
            kind: String::new(),
            mtu: 1500,
            addrs: Vec::new(),
            counters: Counters { rx_packets, tx_packets, ..Counters::default() },
        }
    }

    #[test]
    fn claimed_devices_carry_and_silent_ones_do_not() {
        let counted = Counted {
            node: "n0".to_owned(),
            before: vec![device("eth0", 1000, 1000), device("vxlan", 7, 7), device("old", 0, 0)],
            after: vec![
                device("eth0", 1300, 1300),
                device("vxlan", 207, 206),
                device("old", 11, 10),
                device("new", 10, 10),
            ],
        };
        let judge = |carries: &[&str], silent: &[&str]| {
            let of = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
            counted.judge("way", &of(carries), &of(silent))
        };
        let passed = judge(&["eth0"], &["new", "missing"]);
        assert!(passed.iter().all(Result::is_ok), "{passed:?}");
        assert!(!passed.iter().flatten().any(|l| l.contains("old on")), "{passed:?}");
        // One answer short of what was sent is not what was claimed.
        let short = judge(&["vxlan"], &[]);
        assert!(short[0].as_ref().unwrap_err().contains("199 sent, 200 received"), "{short:?}");
        assert!(short[1].as_ref().unwrap().contains("eth0 on n0: also carried"), "{short:?}");
        assert!(judge(&["missing"], &[])[0].as_ref().unwrap_err().contains("not there"));
        assert!(judge(&[], &["old"])[0].is_err(), "21 packets are no background");
    }
}

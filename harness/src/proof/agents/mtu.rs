//! MTU over agents: the largest datagram that the sender's kernel promises crosses whole, and one
//! byte more is refused there.

use super::{Cast, Finding, Stage, Way, cross_node, proof, serve, volley};
use crate::exec::Agent;
use anyhow::Context as _;
use cnibench_model::{Proof, ProofKind};
use cnibench_workloads::protocol::{Tally, Volley};
use std::net::SocketAddr;

/// Datagrams that should pass: the machine may be busy, and one that comes back is enough.
const TRIES: u32 = 10;
/// Datagrams that should not.
const TRIES_TOO_LARGE: u32 = 3;

/// None when no way crosses from node to node.
pub(super) async fn prove(stage: &mut Stage) -> Option<Proof> {
    let Stage { spec, ways, cast, claims, .. } = stage;
    let crossing = cross_node(ways);
    if crossing.is_empty() {
        return None;
    }
    let (mut findings, mut mtus) = (Vec::new(), Vec::new());
    for way in crossing.into_iter().map(|i| &ways[i]) {
        let (finding, mtu) = look(cast, way, claims.mtu).await;
        findings.push(finding);
        mtus.extend(mtu);
    }
    mtus.sort_unstable();
    mtus.dedup();
    let mtus: Vec<String> = mtus.iter().map(u32::to_string).collect();
    let passed =
        format!("packets of {} bytes cross whole, one byte more does not", mtus.join(", "));
    Some(proof(spec, ProofKind::Mtu, &passed, findings))
}

async fn look(cast: &mut Cast, way: &Way, claimed: Option<u32>) -> (Finding, Option<u32>) {
    match attempt(cast, way).await {
        Ok(seen) => (judge(&way.to_string(), claimed, &seen), Some(seen.mtu)),
        Err(e) => (Err(format!("{way}: {e:#}")), None),
    }
}

/// What was tried.
struct Seen {
    /// Of the path, by the sender's kernel.
    mtu: u32,
    /// Payload that fits a packet of that size.
    fits: u32,
    /// The interfaces of the client's place.
    interfaces: String,
    fitting: Tally,
    too_large: Tally,
}

async fn attempt(cast: &mut Cast, way: &Way) -> anyhow::Result<Seen> {
    let ends = &way.ends;
    let [client, server] = cast.several([&ends.client.id, &ends.server.id])?;
    let to = serve(server, ends).await?;
    let tried = exchange(client, to).await;
    server.echoed().await?;
    tried
}

async fn exchange(client: &mut Agent, to: SocketAddr) -> anyhow::Result<Seen> {
    let interfaces: Vec<String> =
        client.interfaces().iter().map(|i| format!("{} {}", i.name, i.mtu)).collect();
    let small = client.volley(&Volley { datagrams: 1, ..volley(to) }).await?;
    let mtu = small.mtu.context("the client's kernel does not say the path's MTU")?;
    // IP header without options and UDP header (RFC 791, RFC 8200, RFC 768).
    let headers = if to.is_ipv4() { 28 } else { 48 };
    let fits = mtu.saturating_sub(headers);
    let of = |bytes, datagrams| Volley { datagrams, datagram_bytes: bytes, ..volley(to) };
    let fitting = client.volley(&of(fits, TRIES)).await?;
    let too_large = client.volley(&of(fits + 1, TRIES_TOO_LARGE)).await?;
    Ok(Seen { mtu, fits, interfaces: interfaces.join(", "), fitting, too_large })
}

fn judge(way: &str, claimed: Option<u32>, seen: &Seen) -> Finding {
    let Seen { mtu, fits, interfaces, fitting, too_large } = seen;
    let path = format!("{way}: path MTU {mtu} (interfaces: {interfaces})");
    if let Some(claimed) = claimed.filter(|claimed| claimed != mtu) {
        return Err(format!("{path}: {claimed} was claimed"));
    }
    if fitting.answered == 0 {
        let how = match fitting.too_long {
            0 => format!("none of {} came back", fitting.sent),
            n => format!("the kernel refused {n} of {TRIES}: something on the way takes less"),
        };
        return Err(format!("{path}: {fits} bytes of UDP payload fit it, but {how}"));
    }
    if too_large.answered > 0 {
        return Err(format!("{path}: {} bytes of UDP payload came back as well", fits + 1));
    }
    let how = match too_large.too_long {
        0 => "were lost",
        _ => "were refused (EMSGSIZE)",
    };
    Ok(format!("{path}: {fits} bytes of UDP payload came back, {} {how}", fits + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(change: impl FnOnce(&mut Seen)) -> Finding {
        let mut seen = Seen {
            mtu: 1450,
            fits: 1422,
            interfaces: "eth0 1450".to_owned(),
            fitting: Tally { sent: 10, answered: 10, ..Tally::default() },
            too_large: Tally { too_long: 3, ..Tally::default() },
        };
        change(&mut seen);
        judge("cross-node (IPv4)", Some(1450), &seen)
    }

    #[test]
    fn what_fits_must_cross_and_one_byte_more_must_not() {
        let text = seen(|_| {}).unwrap();
        assert!(text.contains("1422 bytes") && text.contains("1423 were refused"), "{text}");
        assert!(seen(|s| s.too_large.too_long = 0).unwrap().contains("were lost"));
        assert!(seen(|s| s.fitting.answered = 1).is_ok());
        assert!(seen(|s| s.fitting.answered = 0).unwrap_err().contains("none of 10"));
        let less = seen(|s| (s.fitting.answered, s.fitting.too_long) = (0, 9)).unwrap_err();
        assert!(less.contains("refused 9 of 10"), "{less}");
        assert!(seen(|s| s.too_large.answered = 1).unwrap_err().contains("1423 bytes"));
        assert!(seen(|s| s.mtu = 1500).unwrap_err().contains("1450 was claimed"));
    }
}

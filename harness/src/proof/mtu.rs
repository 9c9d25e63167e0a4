//! MTU: the largest datagram that the pods' MTU promises crosses unfragmented, one byte more does not.

use super::{
    Finding, Scene, Way,
    echo::{Echo, TrafficError, Udp},
    proof,
};
use cnibench_model::{Placement, Proof, ProofKind};
use futures::future::join_all;
use std::net::SocketAddr;

/// Datagrams that should pass and do not, before the path counts as too small: the machine may be
/// busy, and a refusal by the kernel ends it at once.
const TRIES: u32 = 10;
/// Datagrams that should not pass and do not, before that counts as shown.
const TRIES_TOO_LARGE: u32 = 3;

/// None when the cluster has only one node: then nothing crosses.
pub(super) async fn prove(scene: &Scene) -> Option<Proof> {
    let ways: Vec<&Way> =
        scene.ways.iter().filter(|w| w.placement == Placement::CrossNode).collect();
    if ways.is_empty() {
        return None;
    }
    let mtu = scene.cni.pod_mtu();
    let findings = join_all(ways.iter().map(|way| look(way, mtu))).await;
    let passed = format!("packets of {mtu} bytes cross whole, one byte more does not");
    Some(proof(&scene.spec, ProofKind::Mtu, &passed, findings))
}

async fn look(way: &Way, mtu: u32) -> Finding {
    // IP header without options and UDP header (RFC 791, RFC 8200, RFC 768).
    let headers = if way.ends.server_addr.is_ipv4() { 28 } else { 48 };
    let fits = mtu as usize - headers;
    match attempt(way, fits).await {
        Ok((Ok(_), Err(TrafficError::TooLong))) => Ok(format!(
            "{way}: {fits} bytes of UDP payload came back, {} were refused (EMSGSIZE)",
            fits + 1
        )),
        Ok((Ok(_), Err(TrafficError::Silent))) => {
            Ok(format!("{way}: {fits} bytes of UDP payload came back, {} were lost", fits + 1))
        }
        Ok((Ok(_), Ok(_))) => Err(format!(
            "{way}: {} bytes of UDP payload came back, though an MTU of {mtu} allows {fits}",
            fits + 1
        )),
        Ok((Err(e), _)) => {
            Err(format!("{way}: {fits} bytes of UDP payload, as an MTU of {mtu} allows: {e}"))
        }
        Ok((_, Err(e))) => Err(format!("{way}: {} bytes of UDP payload: {e}", fits + 1)),
        Err(e) => Err(format!("{way}: {e:#}")),
    }
}

type Exchanged = Result<u32, TrafficError>;

async fn attempt(way: &Way, fits: usize) -> anyhow::Result<(Exchanged, Exchanged)> {
    let echo = Echo::start(&way.server, way.ends.bind_addr).await?;
    let to = SocketAddr::new(way.ends.server_addr, echo.port);
    let mut udp = Udp::connect(&way.client, to).await?;
    Ok((udp.exchange(fits, TRIES).await, udp.exchange(fits + 1, TRIES_TOO_LARGE).await))
}

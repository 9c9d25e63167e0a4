//! Connectivity: a TCP handshake with bytes there and back, and a UDP echo, on every way.

use super::{
    Finding, Scene, Way,
    echo::{Echo, Udp, tcp},
    proof,
};
use crate::tell::counted;
use anyhow::bail;
use cnibench_model::{Proof, ProofKind};
use futures::future::join_all;
use std::{net::SocketAddr, time::Duration};
use tokio::time::{Instant, sleep};

/// How long a way may take to work after everything was set up: more than the 5 s after which
/// WireGuard repeats a handshake that was lost (REKEY_TIMEOUT).
const DEADLINE: Duration = Duration::from_secs(8);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until every way works: the cluster's readiness.
///
/// # Errors
/// The ways that do not.
pub async fn reachable(scene: &Scene) -> anyhow::Result<()> {
    let findings = join_all(scene.ways.iter().map(look)).await;
    let failed: Vec<String> = findings.into_iter().filter_map(Result::err).collect();
    if !failed.is_empty() {
        bail!("not ready after {} s: {}", DEADLINE.as_secs(), failed.join("; "));
    }
    Ok(())
}

pub(super) async fn prove(scene: &Scene) -> Proof {
    let findings = join_all(scene.ways.iter().map(look)).await;
    let passed = format!("TCP and UDP answered on {}", counted(findings.len(), "way"));
    proof(&scene.spec, ProofKind::Connectivity, &passed, findings)
}

async fn look(way: &Way) -> Finding {
    let begun = Instant::now();
    let (client, server) = (&way.ends.client.label, &way.ends.server.label);
    let route = format!("{way}: {client} to {server} at {}", way.ends.server_addr);
    match attempt(way, begun + DEADLINE).await {
        Ok(()) => Ok(format!(
            "{route}: TCP and UDP answered within {:.1} ms",
            begun.elapsed().as_secs_f64() * 1e3
        )),
        Err(e) => Err(format!("{route}: {e:#}")),
    }
}

async fn attempt(way: &Way, deadline: Instant) -> anyhow::Result<()> {
    let echo = Echo::start(&way.server, way.ends.bind_addr).await?;
    let to = SocketAddr::new(way.ends.server_addr, echo.port);
    // A link that has just come up refuses for a moment, until the kernel's link watch has run
    // (addrconf_dad_work, linkwatch_event). New tries, since TCP would wait a second for its own.
    while let Err(e) = tcp(&way.client, to).await {
        if Instant::now() >= deadline {
            bail!("TCP: {e}");
        }
        sleep(PAUSE).await;
    }
    let mut udp = Udp::connect(&way.client, to).await?;
    while let Err(e) = udp.exchange(64, 1).await {
        if Instant::now() >= deadline {
            bail!("UDP: {e}");
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

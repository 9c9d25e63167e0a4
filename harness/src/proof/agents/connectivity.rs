//! Connectivity over agents: bytes there and back by TCP and by UDP, on every way.

use super::{Cast, Finding, Stage, Way, proof, serve, volley};
use crate::{exec::Agent, tell::counted};
use anyhow::bail;
use cnibench_model::{Proof, ProofKind};
use cnibench_workloads::protocol::Volley;
use std::{net::SocketAddr, time::Duration};
use tokio::time::{Instant, sleep};

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn prove(stage: &mut Stage) -> Proof {
    let Stage { spec, ways, cast, patience, .. } = stage;
    let mut findings = Vec::new();
    // One after the other: an agent does one thing at a time, and most serve several ways.
    for way in ways.iter() {
        findings.push(look(cast, way, *patience).await);
    }
    let passed = format!("TCP and UDP answered on {}", counted(findings.len(), "way"));
    proof(spec, ProofKind::Connectivity, &passed, findings)
}

async fn look(cast: &mut Cast, way: &Way, patience: Duration) -> Finding {
    let (client, server) = (&way.ends.client.label, &way.ends.server.label);
    let route = format!("{way}: {client} to {server} at {}", way.ends.server_addr);
    match attempt(cast, way, patience).await {
        Ok(found) => Ok(format!("{route}: {found}")),
        Err(e) => Err(format!("{route}: {e:#}")),
    }
}

async fn attempt(cast: &mut Cast, way: &Way, patience: Duration) -> anyhow::Result<String> {
    let ends = &way.ends;
    let [client, server] = cast.several([&ends.client.id, &ends.server.id])?;
    let to = serve(server, ends).await?;
    let tried = contact(client, to, patience).await;
    // Ended whatever became of the client, so that the server's agent can serve the next way.
    let counts = server.echoed().await?;
    let tries = tried?;
    let from: Vec<String> = counts.iter().map(|c| c.from.to_string()).collect();
    Ok(format!("TCP and UDP answered at try {tries}, the server saw {}", from.join(", ")))
}

/// Tries until both worked; how many tries that took.
async fn contact(client: &mut Agent, to: SocketAddr, patience: Duration) -> anyhow::Result<u32> {
    let end = Instant::now() + patience;
    let (mut tcp, mut udp, mut tries) = (false, false, 0);
    loop {
        tries += 1;
        let one = Volley { datagrams: (!udp).into(), connects: (!tcp).into(), ..volley(to) };
        let tally = client.volley(&one).await?;
        tcp |= tally.connected > 0;
        udp |= tally.answered > 0;
        if tcp && udp {
            return Ok(tries);
        }
        if Instant::now() >= end {
            let missing: Vec<&str> = [(tcp, "TCP"), (udp, "UDP")]
                .into_iter()
                .filter_map(|(works, name)| (!works).then_some(name))
                .collect();
            let why = tally.trouble.map(|t| format!(" ({t})")).unwrap_or_default();
            bail!(
                "{} not answered within {} s, {tries} tries{why}",
                missing.join(" and "),
                patience.as_secs()
            );
        }
        sleep(PAUSE).await;
    }
}

//! Path: counted packets show in the counters of the devices that the cni claims to use, and not
//! in those it claims to leave alone.

use super::{
    Finding, Scene, Way,
    echo::{Echo, Udp},
    proof,
};
use crate::{
    cni::{Claim, Side},
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
    let passed = format!(
        "{EXCHANGES} requests and answers on each of {} ways showed on the devices claimed, and on no other",
        scene.ways.len()
    );
    proof(scene, ProofKind::Path, &passed, findings)
}

async fn look(scene: &Scene, way: &Way) -> anyhow::Result<Vec<Finding>> {
    let echo = Echo::start(&way.server, way.ends.bind_addr).await?;
    let to = SocketAddr::new(way.ends.server_addr, echo.port);
    let mut udp = Udp::connect(&way.client, to).await?;
    // One before counting: neighbours are resolved, connections tracked.
    udp.exchange(64, 10).await?;
    let before = Counters::read(way).await?;
    for _ in 0..EXCHANGES {
        udp.exchange(64, 10).await?;
    }
    let after = Counters::read(way).await?;
    let claims = scene.cni.path(way.placement, way.ends.server_addr);
    Ok(claims.iter().map(|claim| judge(way, claim, &before, &after)).collect())
}

/// The links of both nodes at one moment.
struct Counters {
    client: Vec<Link>,
    server: Vec<Link>,
}

impl Counters {
    async fn read(way: &Way) -> anyhow::Result<Self> {
        let links = async |netns: &Netns| netns.run(|| Rtnl::open()?.links()).await;
        let client = links(&way.client_node).await.context("links of the client's node")?;
        let server = links(&way.server_node).await.context("links of the server's node")?;
        Ok(Self { client, server })
    }

    fn of(&self, side: Side, device: &str) -> Option<&Link> {
        let links = match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        };
        links.iter().find(|l| l.name == device)
    }
}

fn judge(way: &Way, claim: &Claim, before: &Counters, after: &Counters) -> Finding {
    let (Claim::Carries { side, device }
    | Claim::Silent { side, device }
    | Claim::Absent { side, device }) = claim;
    let node = match side {
        Side::Client => "client's node",
        Side::Server => "server's node",
    };
    let line = format!("{way}: {device} on the {node}");
    let rise = |l: &Link| {
        let then = before.of(*side, device).map(|b| b.counters).unwrap_or_default();
        let rx = l.counters.rx_packets.saturating_sub(then.rx_packets);
        (rx, l.counters.tx_packets.saturating_sub(then.tx_packets))
    };
    match (claim, after.of(*side, device).map(rise)) {
        (Claim::Absent { .. }, None) => Ok(format!("{line}: not there, as claimed")),
        (Claim::Absent { .. }, Some(_)) => Err(format!("{line}: is there")),
        (_, None) => Err(format!("{line}: not there")),
        (Claim::Carries { .. }, Some((rx, tx))) => {
            let counted = format!("{line}: {tx} sent, {rx} received, of {EXCHANGES} each way");
            if rx >= EXCHANGES && tx >= EXCHANGES { Ok(counted) } else { Err(counted) }
        }
        (Claim::Silent { .. }, Some((rx, tx))) => {
            let counted = format!("{line}: {} packets, should be silent", rx + tx);
            if rx + tx <= BACKGROUND { Ok(counted) } else { Err(counted) }
        }
    }
}

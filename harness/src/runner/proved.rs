//! A trial with the proof that its own traffic was encrypted, where its cni claims that.
//!
//! Owns the order: look, measure, look no more before the window opens, make the same traffic once more
//! for a moment. What is looked at and how it is judged is `proof::lookout`'s. Called by the arms.

use super::trial::{self, Broken, Latencies, Onlookers, Slot};
use crate::{
    cluster::Ends,
    exec::{Agent, Observer},
    proof::lookout::{self, Looking, Lookout},
};
use anyhow::Context as _;
use cnibench_model::{
    Case, CellStatus, EndpointResult, Generator, Trial, Workload, WorkloadParams,
};
use cnibench_workloads::protocol::Request;
use std::{net::SocketAddr, time::Duration};

/// Seconds of the encore.
const ENCORE_S: f64 = 0.02;
/// How often an encore is tried: an end of it may fail for its own reasons.
const ENCORES: u32 = 2;
/// Bytes of the shortest message that has room for a whole canary, by workload: behind the number and
/// the time of `udp_stream`, and next to the number that takes the first one's place in `udp_rr`.
const fn room(workload: Workload) -> u64 {
    const CANARY: u64 = 24;
    match workload {
        Workload::TcpStream | Workload::TcpRr | Workload::TcpCrr => CANARY,
        Workload::UdpStream => 16 + CANARY,
        Workload::UdpRr => 2 * CANARY,
    }
}

/// Runs one trial between two agents, and proves it where there is a lookout.
pub(super) async fn measure(
    case: &Case,
    taken: Latencies,
    slot: Slot,
    ends: &Ends,
    (client, server): (&mut Agent, &mut Agent),
    eyes: &mut [Observer],
    lookout: Option<&Lookout>,
) -> Result<Trial, Broken> {
    let Some(lookout) = lookout else {
        let onlookers = Onlookers { eyes, looking: None };
        return trial::measure(case, taken, slot, ends, client, server, onlookers).await;
    };
    let looking = lookout.open(taken != Latencies::Counted).await;
    let onlookers = Onlookers { eyes, looking: looking.as_ref().ok() };
    let mut trial = trial::measure(case, taken, slot, ends, client, server, onlookers).await?;
    let seen = look(case, ends, (client, server), lookout, looking).await;
    let payload = arrived(&trial.client) + arrived(&trial.server);
    let fits = case.params.generator.is_own() && longest(&case.params) >= room(case.workload);
    trial.proofs.push(lookout::judge(lookout, seen, payload, fits));
    Ok(trial)
}

async fn look(
    case: &Case,
    ends: &Ends,
    (client, server): (&mut Agent, &mut Agent),
    lookout: &Lookout,
    looking: anyhow::Result<Looking>,
) -> anyhow::Result<(lookout::Glimpse, lookout::Encore)> {
    let looking = looking?;
    let canary = looking.canary();
    let glimpse = looking.close().await?;
    let mut tries = 1;
    loop {
        let made = encore(case, ends, (&mut *client, &mut *server), canary.clone());
        match lookout.encore(&canary, made).await {
            Err(_) if tries < ENCORES => tries += 1,
            done => return Ok((glimpse, done.context("after the trial")?)),
        }
    }
}

/// The same traffic for a moment, by cnibench's own generator. Gives the bytes that arrived.
async fn encore(
    case: &Case,
    ends: &Ends,
    (client, server): (&mut Agent, &mut Agent),
    canary: Vec<u8>,
) -> anyhow::Result<u64> {
    let mut short = case.clone();
    short.params.generator = Generator::own();
    (short.duration_s, short.warmup_s) = (ENCORE_S, 0.0);
    let task = trial::task(&short, Latencies::Left, (&*client, &*server), canary);
    let port = ends.port.unwrap_or(0);
    server.send(&Request::Serve { task: task.clone(), bind: ends.bind_addr, port }).await?;
    let port = server.listening(trial::GRACE).await?;
    let target = SocketAddr::new(ends.server_addr, port);
    client.send(&Request::Drive { task, server: target }).await?;
    let limit = Duration::from_secs_f64(ENCORE_S) + trial::GRACE;
    // Both are waited for, whatever becomes of the other.
    let (at_client, at_server) = tokio::join!(client.finished(limit), server.finished(limit));
    Ok(arrived(&at_client?.endpoint) + arrived(&at_server?.endpoint))
}

/// Bytes of payload that an end received.
fn arrived(end: &EndpointResult) -> u64 {
    end.flows.iter().map(|flow| flow.received_bytes).sum()
}

fn longest(params: &WorkloadParams) -> u64 {
    params.size.max(params.response_size)
}

/// What a trial whose own proof failed makes of its cell.
pub(super) fn failed(trial: &Trial) -> Option<CellStatus> {
    match super::arms::failed_proof(&trial.proofs)? {
        CellStatus::Invalid { short, reason } => {
            let reason = format!("trial {}: {reason}", trial.index + 1);
            Some(CellStatus::Invalid { short, reason })
        }
        other => Some(other),
    }
}

//! One trial: both agents told, both waited for, their reports put together.

use crate::{
    cluster::Ends,
    exec::{Agent, AgentError, Observer},
    proof::lookout::Looking,
};
use cnibench_model::{Case, PairSlot, Trial};
use cnibench_workloads::{
    counted::{Count, pinned},
    cpus, observed,
    outcome::combine,
    peers,
    protocol::{FaultKind, Request, Task},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, time::Duration};

/// Seconds without progress after which an end gives a trial up.
const PATIENCE_S: f64 = 3.0;
/// What an agent may take beyond a trial's own time before it counts as lost.
pub(super) const GRACE: Duration = Duration::from_secs(15);

/// A trial's place in the run.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Slot {
    /// Trial number of the case.
    pub index: u32,
    /// Adjacent trials of a series share it.
    pub block: u32,
    /// Number in the whole run.
    pub sequence: u32,
    /// Its place among the pairs of its series, where arms are measured in pairs.
    pub pair: Option<PairSlot>,
}

/// Whether the time of every transaction is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Latencies {
    /// As in every run.
    Taken,
    /// As in a run whose clock counts instructions: the window is an amount of work, not of time, where the
    /// traffic has one.
    Counted,
    /// Only to measure what taking them costs, and to compare rates with generators that take none.
    Left,
}

/// Why there is no trial.
#[derive(Debug)]
pub enum TrialError {
    /// The cluster has no such placement.
    NotOffered(String),
    /// It was begun and went wrong.
    Broken(Broken),
    /// The cluster itself is no longer whole: no trial of this cni can be trusted from here on.
    ClusterDead(Broken),
}

impl std::fmt::Display for TrialError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotOffered(reason) => f.write_str(reason),
            Self::Broken(broken) | Self::ClusterDead(broken) => f.write_str(&broken.reason),
        }
    }
}

/// A trial that went wrong.
#[derive(Debug)]
pub struct Broken {
    /// Up to three words.
    pub short: String,
    /// The whole error.
    pub reason: String,
}

impl From<AgentError> for Broken {
    fn from(error: AgentError) -> Self {
        Self { short: error.short().to_owned(), reason: error.to_string() }
    }
}

impl From<Broken> for TrialError {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// Why the generator of a case cannot make its traffic between these ends, if it cannot.
pub fn not_offered(case: &Case, ends: &Ends) -> Option<String> {
    let generator = case.params.generator;
    peers::refuses(case.workload, &case.params).or_else(|| {
        (ends.port.is_some() && !peers::one_port(generator))
            .then(|| format!("{generator} needs a second port, which a service does not lead to"))
    })
}

/// Who looks on while a trial is measured.
#[derive(Default)]
pub struct Onlookers<'a> {
    /// Observers of the nodes.
    pub eyes: &'a mut [Observer],
    /// What looks at the link between the nodes until the window opens.
    pub looking: Option<&'a Looking>,
}

/// What both ends are told of a trial of this case.
pub(super) fn task(
    case: &Case,
    latencies: Latencies,
    (client, server): (&Agent, &Agent),
    canary: Vec<u8>,
) -> Task {
    let (client_cpus, server_cpus) =
        cpus::assign(case.params.pinning, client.allowed(), server.allowed());
    let count = match latencies {
        Latencies::Taken | Latencies::Left => None,
        Latencies::Counted => {
            Count::of(case.workload, &case.params, case.warmup_s, case.duration_s)
        }
    };
    Task {
        workload: case.workload,
        params: match count {
            Some(_) => pinned(case.workload, case.params.clone()),
            None => case.params.clone(),
        },
        duration_s: case.duration_s,
        warmup_s: case.warmup_s,
        client_cpus,
        server_cpus,
        patience_s: PATIENCE_S,
        canary,
        latencies: latencies != Latencies::Left,
        count,
    }
}

/// Runs one trial between two agents.
pub async fn measure(
    case: &Case,
    latencies: Latencies,
    slot: Slot,
    ends: &Ends,
    client: &mut Agent,
    server: &mut Agent,
    onlookers: Onlookers<'_>,
) -> Result<Trial, Broken> {
    let Onlookers { eyes, looking } = onlookers;
    let canary = looking.map(Looking::canary).unwrap_or_default();
    let task = task(case, latencies, (&*client, &*server), canary);
    let started = Timestamp::now();
    let port = ends.port.unwrap_or(0);
    server.send(&Request::Serve { task: task.clone(), bind: ends.bind_addr, port }).await?;
    let port = server.listening(GRACE).await?;
    let target = SocketAddr::new(ends.server_addr, port);
    let mut blind = Vec::new();
    for eye in eyes.iter_mut() {
        if let Err(e) = eye.measure_cpu(case.warmup_s, case.duration_s).await {
            blind.push(unseen(&e));
        }
    }
    if let Some(looking) = looking {
        looking.begins(case.warmup_s);
    }
    client.send(&Request::Drive { task: task.clone(), server: target }).await?;
    let limit = Duration::from_secs_f64(case.duration_s + case.warmup_s + PATIENCE_S) + GRACE;
    let (at_client, at_server) = if case.params.generator.is_own() {
        tokio::join!(client.finished(limit), server.finished(limit))
    } else {
        // Most servers of other generators do not know when they are done.
        let at_client = client.finished(limit).await;
        server.send(&Request::Cancel).await?;
        (at_client, server.finished(GRACE).await)
    };
    let (mut at_client, mut at_server) = match (at_client, at_server) {
        (Ok(c), Ok(s)) => (c, s),
        (Err(c), Err(s)) => return Err(both(c, s)),
        (Err(e), Ok(_)) | (Ok(_), Err(e)) => return Err(e.into()),
    };
    for eye in eyes.iter_mut() {
        match eye.measured_cpu(GRACE).await {
            Ok(seen) => {
                observed::observe(&mut at_client, &seen);
                observed::observe(&mut at_server, &seen);
            }
            Err(e) => blind.push(unseen(&e)),
        }
    }
    let mut outcome = combine(&task, &at_client, &at_server);
    outcome.warnings.append(&mut blind);
    Ok(Trial {
        case: case.id.clone(),
        index: slot.index,
        block: slot.block,
        sequence: slot.sequence,
        pair: slot.pair,
        started,
        workload: case.workload,
        samples: outcome.samples,
        histogram: outcome.histogram,
        slices: outcome.slices,
        slice_s: outcome.slice_s,
        client: at_client.endpoint,
        server: at_server.endpoint,
        nodes: None,
        server_addr: Some(target.to_string()),
        window_opened: outcome.window_opened,
        datagrams: outcome.datagrams,
        made_by: outcome.made_by,
        losses: None,
        intervals: outcome.intervals,
        proofs: Vec::new(),
        warnings: outcome.warnings,
    })
}

/// A trial is no worse for it than one without an observer.
fn unseen(error: &AgentError) -> String {
    format!("no CPU times of the node's observer ({})", error.short())
}

/// Two errors of one trial: the one that says more comes first. An end that only saw its peer fall
/// silent knows less than the peer.
fn both(client: AgentError, server: AgentError) -> Broken {
    let vague = |e: &AgentError| {
        matches!(
            e,
            AgentError::Fault { kind: FaultKind::PeerSilent | FaultKind::Cancelled, .. }
                | AgentError::Silent { .. }
        )
    };
    let (first, second) =
        if vague(&client) && !vague(&server) { (server, client) } else { (client, server) };
    Broken { short: first.short().to_owned(), reason: format!("{first}; {second}") }
}

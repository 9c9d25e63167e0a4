//! The clusters of a run, one for each cni, with the agents in them.

use super::{
    eyes::Eyes,
    probed::Unprobed,
    proved, rotations,
    trial::{self, Broken, Slot, TrialError},
};
use crate::{
    cluster::{Cluster, ClusterError, Ends, Place, Provider, StateError, Topology},
    exec::{Agent, AgentError, Observer},
    probe::{Sights, losses::LossCounters},
    proof::lookout::Lookout,
};
use cnibench_model::{
    Case, CellStatus, CniInfo, CniSpec, Footprint, Metric, NodePair, Phase, Placement, ProbedTrial,
    Proof, ProofKind, ProofOutcome, RotationTrial, Surroundings, Trial,
};
use std::collections::HashMap;

/// Warning of a trial whose machine carried another one.
const BESIDE: &str = "another pair ran on this machine at the same time: what the machine's CPUs did is no pair's own, and is left out";

/// One cni's cluster and the agents that were started in it.
pub struct Arm {
    cluster: Box<dyn Cluster>,
    agents: HashMap<Place, Agent>,
    /// Observers of nodes by their places; none where one could not be started.
    observers: HashMap<Place, Option<Observer>>,
    /// Counters of what its trials lose; none where they are not to be had.
    counters: Option<LossCounters>,
    /// Why not.
    uncounted: Option<anyhow::Error>,
    /// How its trials are measured.
    latencies: trial::Latencies,
}

impl Arm {
    /// Brings a cluster up and proves that it is what it claims to be.
    pub async fn up(
        provider: &dyn Provider,
        index: u32,
        cni: &CniSpec,
        topology: &Topology,
    ) -> Result<(Self, Vec<Proof>), ClusterError> {
        let mut arm = Self::of(provider.up(index, cni, topology).await?);
        let proofs = arm.prove().await?;
        arm.attach_counters().await;
        Ok((arm, proofs))
    }

    /// Once for all trials here, where the cluster is on this kernel.
    pub async fn attach_counters(&mut self) {
        let spots: Vec<_> = Placement::ALL.iter().flat_map(|p| self.cluster.spots(*p)).collect();
        if spots.is_empty() {
            return;
        }
        match LossCounters::attach(spots).await {
            Ok(counters) => self.counters = Some(counters),
            Err(why) => self.uncounted = Some(why),
        }
    }

    /// Why drops and retransmits of its trials are not counted, where they could be.
    pub fn uncounted(&self) -> Option<&anyhow::Error> {
        self.uncounted.as_ref()
    }

    /// A cluster that is up, with no agents yet.
    pub fn of(cluster: Box<dyn Cluster>) -> Self {
        Self {
            cluster,
            agents: HashMap::new(),
            observers: HashMap::new(),
            counters: None,
            uncounted: None,
            latencies: trial::Latencies::Taken,
        }
    }

    /// The cluster itself.
    pub fn cluster(&self) -> &dyn Cluster {
        &*self.cluster
    }

    /// The same where the clock counts instructions.
    pub fn counting(self) -> Self {
        Self { latencies: trial::Latencies::Counted, ..self }
    }

    /// Is the cluster still whole?
    pub async fn check(&mut self) -> anyhow::Result<()> {
        self.cluster.check().await
    }

    /// Takes the proofs, and once more where the way to the cluster was cut in between.
    pub async fn prove(&mut self) -> anyhow::Result<Vec<Proof>> {
        let proofs = self.cluster.prove().await;
        let shaky = verdict(&proofs).is_some()
            || proofs.iter().any(|p| p.outcome == ProofOutcome::NotTaken);
        if shaky && self.cluster.mend().await?.is_some() {
            return Ok(self.cluster.prove().await);
        }
        Ok(proofs)
    }

    /// Is the cluster, at the end of the run, still what was proved at its beginning? None: it is.
    pub async fn still_proved(&mut self) -> (Vec<Proof>, Option<CellStatus>) {
        let whole = match self.cluster.mend().await {
            Ok(_) => self.cluster.check().await,
            Err(cause) => Err(cause),
        };
        if let Err(cause) = whole {
            let status = CellStatus::Failed {
                short: "cni died".to_owned(),
                reason: format!("found at the end of the run: {cause:#}"),
            };
            return (Vec::new(), Some(status));
        }
        // As it came up: the last case may have left policies.
        let proved = match self.reach(&Surroundings::default()).await {
            Ok(_) => self.prove().await.map_err(|e| format!("{e:#}")),
            Err(e) => Err(e.to_string()),
        };
        match proved {
            Ok(proofs) => {
                let status = verdict(&proofs);
                (proofs, status)
            }
            Err(e) => {
                let reason = format!("found at the end of the run: {e}");
                let short = "state not reached".to_owned();
                (Vec::new(), Some(CellStatus::Failed { short, reason }))
            }
        }
    }

    /// The proof that nothing crosses without its key, the last thing that is asked of it.
    pub async fn prove_keys(&mut self) -> Option<Proof> {
        self.forget_agents().await;
        self.cluster.prove_keys().await
    }

    /// What came up.
    pub fn info(&self) -> &CniInfo {
        self.cluster.info()
    }

    /// Things that a reader of the record should know of this cluster.
    pub fn notes(&self) -> Vec<String> {
        self.cluster.notes()
    }

    /// Brings the cluster to the state that a case asks for.
    pub async fn surround(&mut self, case: &Case) -> Result<Vec<Proof>, StateError> {
        self.reach(&case.surroundings).await
    }

    /// The same by the state alone; once more where the way to the cluster was cut in between.
    pub async fn reach(&mut self, wanted: &Surroundings) -> Result<Vec<Proof>, StateError> {
        match self.cluster.surround(wanted).await {
            Err(StateError::Failed(cause)) => match self.cluster.mend().await {
                Ok(Some(_)) => self.cluster.surround(wanted).await,
                Ok(None) => Err(StateError::Failed(cause)),
                Err(away) => Err(StateError::Failed(away)),
            },
            reached => reached,
        }
    }

    /// One trial with probes, where the cluster has its own controller.
    pub async fn conduct_probed(
        &self,
        case: &Case,
        slot: Slot,
    ) -> Option<Result<ProbedTrial, Unprobed>> {
        self.cluster.conduct_probed(case, slot).await
    }

    /// What latency probes are told of the way between the ends of a placement.
    pub async fn sights(&self, placement: Placement, host: bool) -> Result<Sights, String> {
        self.cluster.sights(placement, host).await
    }

    /// What the cni's own pods cost in this phase; `known`: what they cost idle was seen when the
    /// cluster was made before, and is not waited for again.
    pub async fn footprint(&mut self, phase: Phase, known: bool) -> Vec<Footprint> {
        if phase == Phase::Idle && known {
            self.cluster.footprint_begins().await;
            return Vec::new();
        }
        self.cluster.footprint(phase).await
    }

    /// Runs trials of a case here, all at the same time; their ends must be in different places.
    /// Trials that failed because the way to the cluster was cut are run once more.
    pub async fn trials(&mut self, case: &Case, asked: &[Asked]) -> Vec<Result<Trial, TrialError>> {
        let mut results = self.try_all(case, asked).await;
        if !results.iter().any(|r| matches!(r, Err(TrialError::Broken(_)))) {
            return results;
        }
        let note = match self.cluster.mend().await {
            Ok(Some(note)) => note,
            Ok(None) => return self.blame(asked, results).await,
            Err(cause) => {
                return results.into_iter().map(|r| r.map_err(|e| dead(&cause, e))).collect();
            }
        };
        // What cut the way to one agent has cut it to the others.
        self.forget_agents().await;
        for (result, asked) in results.iter_mut().zip(asked) {
            if matches!(result, Err(TrialError::Broken(_))) {
                let again = self.try_all(case, std::slice::from_ref(asked)).await;
                *result = again.into_iter().next().unwrap_or(Err(TrialError::NotOffered(
                    "the trial was not run again".to_owned(),
                )));
                if let Ok(trial) = result {
                    trial.warnings.push(note.clone());
                }
            }
        }
        self.blame(asked, results).await
    }

    /// After trials that broke: was it the cluster?
    async fn blame(
        &mut self,
        asked: &[Asked],
        results: Vec<Result<Trial, TrialError>>,
    ) -> Vec<Result<Trial, TrialError>> {
        // In the node-pair matrix a node that is gone takes its own pairs with it, not the others.
        let matrix = asked.iter().any(|a| a.pair.is_some());
        if matrix || !results.iter().any(|r| matches!(r, Err(TrialError::Broken(_)))) {
            return results;
        }
        match self.cluster.check().await {
            Ok(()) => results,
            Err(cause) => results.into_iter().map(|r| r.map_err(|e| dead(&cause, e))).collect(),
        }
    }

    /// One trial while the keys of all nodes are changed so often. Of a cni without keys: the same without
    /// a change.
    pub async fn rotated(
        &mut self,
        case: &Case,
        slot: Slot,
        times: u32,
    ) -> Result<RotationTrial, TrialError> {
        if let Some(conducted) = self.cluster.conduct_rotation(case, slot, times).await {
            return conducted;
        }
        let asked = [Asked { slot, host: false, pair: None }];
        let holders = self.cluster.holders();
        if holders.is_none() && self.info().encrypted {
            let text = "the cni's agent lets nobody change its keys".to_owned();
            return Err(TrialError::NotOffered(text));
        }
        rotations::around(case, holders, times, self.trials(case, &asked)).await
    }

    async fn try_all(&mut self, case: &Case, asked: &[Asked]) -> Vec<Result<Trial, TrialError>> {
        let armed = self.counters.as_mut().map(|counters| counters.arm(case));
        let mut results = self.run_all(case, asked).await;
        let Some(counters) = &self.counters else { return results };
        let spots = self.cluster.spots(case.placement);
        let armed = armed.unwrap_or(Ok(())).map_err(|e| format!("{e:#}"));
        for trial in results.iter_mut().flatten() {
            let lost = armed.clone();
            match lost.and_then(|()| counters.read(&spots, trial).map_err(|e| format!("{e:#}"))) {
                Ok(lost) => trial.losses = Some(lost),
                Err(why) => {
                    trial.warnings.push(format!("drops and retransmits were not counted: {why}"));
                }
            }
        }
        results
    }

    async fn run_all(&mut self, case: &Case, asked: &[Asked]) -> Vec<Result<Trial, TrialError>> {
        if let [asked] = asked
            && let Some(conducted) = self.cluster.conduct(case, asked.slot).await
        {
            return vec![conducted];
        }
        let ready: Vec<_> = asked.iter().map(|a| self.cast(case, a)).collect();
        let (cluster, taken) = (&*self.cluster, self.latencies);
        let running = ready.into_iter().zip(asked).map(|(cast, asked)| async move {
            let mut cast = cast?;
            let (client, server) = tokio::join!(
                cast.client.ready(cluster, &cast.ends.client),
                cast.server.ready(cluster, &cast.ends.server)
            );
            let (mut client, mut server) = match (client, server) {
                (Ok(client), Ok(server)) => (client, server),
                (Err(e), _) | (_, Err(e)) => return Err(e.into()),
            };
            let mut eyes = Eyes::open(cluster, cast.eyes).await;
            let (ends, eyes_open) = (&cast.ends, &mut eyes.open);
            let pair = (&mut client, &mut server);
            let lookout = cast.lookout.as_ref();
            match proved::measure(case, taken, asked.slot, ends, pair, eyes_open, lookout).await {
                Ok(mut trial) => {
                    trial.nodes = cast.nodes.take();
                    trial.warnings.append(&mut eyes.warnings);
                    let agents = [(cast.ends.client, client), (cast.ends.server, server)];
                    Ok((trial, agents, eyes.back().await))
                }
                Err(broken) => {
                    eyes.stop(case).await;
                    // What state the pair is in is not known: the next trial starts with fresh agents.
                    client.stop().await;
                    server.stop().await;
                    Err(TrialError::Broken(broken))
                }
            }
        });
        let done = futures::future::join_all(running).await;
        let mut results: Vec<_> = done
            .into_iter()
            .map(|result| {
                result.map(|(trial, agents, observers)| {
                    self.agents.extend(agents);
                    self.observers.extend(observers);
                    trial
                })
            })
            .collect();
        crowded(&mut results);
        results
    }

    /// Finds the ends of a trial and takes their agents out of the pool.
    fn cast(&mut self, case: &Case, asked: &Asked) -> Result<Cast, TrialError> {
        let found = match asked.pair {
            Some(pair) => {
                let found = self.cluster.pair_ends(case.placement, asked.host, pair);
                found.map(|(ends, nodes)| (ends, Some(nodes)))
            }
            None if asked.host => self.cluster.host_ends(case.placement).map(|e| (e, None)),
            None => self.cluster.ends(case.placement).map(|e| (e, None)),
        };
        let (ends, nodes) = found.map_err(TrialError::NotOffered)?;
        if let Some(reason) = trial::not_offered(case, &ends) {
            return Err(TrialError::NotOffered(reason));
        }
        let client = Pooled(self.agents.remove(&ends.client));
        let server = Pooled(self.agents.remove(&ends.server));
        let mut places: Vec<Place> = [&ends.client, &ends.server]
            .into_iter()
            .filter_map(|place| self.cluster.observer(place))
            .collect();
        places.dedup();
        let eyes = places
            .into_iter()
            .map(|place| {
                let known = self.observers.remove(&place);
                (place, known)
            })
            .collect();
        let lookout = match (asked.host, asked.pair) {
            (false, None) => self.cluster.lookout(case.placement),
            _ => None,
        };
        Ok(Cast { ends, nodes, client, server, eyes, lookout })
    }

    /// Drops agents that may be in the middle of something.
    pub async fn forget_agents(&mut self) {
        for (_, agent) in self.agents.drain() {
            agent.stop().await;
        }
        for observer in self.observers.drain().filter_map(|(_, observer)| observer) {
            observer.stop().await;
        }
    }

    /// Takes everything down, collecting every error.
    pub async fn down(mut self) -> Vec<anyhow::Error> {
        self.forget_agents().await;
        self.cluster.down().await
    }
}

/// A trial that is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Its place in the run.
    pub slot: Slot,
    /// True for the baseline in a cluster of another cni.
    pub host: bool,
    /// The nodes by number, in the node-pair matrix.
    pub pair: Option<(u32, u32)>,
}

/// What a trial needs.
struct Cast {
    ends: Ends,
    nodes: Option<NodePair>,
    client: Pooled,
    server: Pooled,
    /// Observers of both nodes: none where it was not tried yet to start one.
    eyes: Vec<(Place, Option<Option<Observer>>)>,
    /// Where it is looked at that its traffic is encrypted, where that is claimed and can be seen.
    lookout: Option<Lookout>,
}

/// An agent of an earlier trial, if there is one.
struct Pooled(Option<Agent>);

impl Pooled {
    /// The agent, started if there was none.
    async fn ready(&mut self, cluster: &dyn Cluster, place: &Place) -> Result<Agent, Broken> {
        if let Some(agent) = self.0.take() {
            return Ok(agent);
        }
        let link = cluster.enter(place).await.map_err(|e| {
            Broken::from(AgentError::Start { place: place.label.clone(), cause: format!("{e:#}") })
        })?;
        Ok(Agent::start(&place.label, link).await?)
    }
}

/// Trials at the same time whose nodes are one machine: each saw the CPU time of all of them, so that
/// none has a cost of its own.
fn crowded(results: &mut [Result<Trial, TrialError>]) {
    let machines = |t: &Trial| [t.client.node.machine.clone(), t.server.node.machine.clone()];
    let all: Vec<_> = results.iter().map(|r| r.as_ref().ok().map(machines)).collect();
    for (i, result) in results.iter_mut().enumerate() {
        let (Ok(trial), Some(own)) = (result, &all[i]) else { continue };
        let shared = |(j, other): (usize, &Option<[String; 2]>)| {
            j != i && other.iter().flatten().any(|machine| own.contains(machine))
        };
        if all.iter().enumerate().any(shared) {
            let cost = [Metric::CpuPerGigabit, Metric::CpuPerTransaction];
            trial.samples.retain(|s| !cost.contains(&s.metric));
            trial.warnings.push(BESIDE.to_owned());
        }
    }
}

/// A trial that broke because its cluster did.
fn dead(cause: &anyhow::Error, error: TrialError) -> TrialError {
    match error {
        TrialError::Broken(broken) => TrialError::ClusterDead(Broken {
            short: "cluster failed".to_owned(),
            reason: format!("{cause:#}; {}", broken.reason),
        }),
        other => other,
    }
}

/// What failed proofs make of all cells of a cni; a cluster that nothing proved is not proved.
pub fn verdict(proofs: &[Proof]) -> Option<CellStatus> {
    if !proofs.iter().any(|p| p.kind == ProofKind::Connectivity) {
        return Some(CellStatus::Invalid {
            short: "nothing proved".to_owned(),
            reason: "the cluster gave no connectivity proof".to_owned(),
        });
    }
    failed_proof(proofs)
}

/// What the first proof that failed makes of the cells that rest on it.
pub fn failed_proof(proofs: &[Proof]) -> Option<CellStatus> {
    let failed = proofs.iter().find(|p| p.outcome == ProofOutcome::Failed)?;
    Some(CellStatus::Invalid {
        short: format!("{} not proved", failed.kind.name()),
        reason: format!("{} proof failed: {}", failed.kind.name(), failed.summary),
    })
}

/// All clusters that are up.
#[derive(Default)]
pub struct Arms {
    /// In the order in which they came up.
    up: Vec<(CniSpec, Arm)>,
}

impl Arms {
    /// Adds a cluster.
    pub fn insert(&mut self, cni: CniSpec, arm: Arm) {
        self.up.push((cni, arm));
    }

    /// The cluster of a cni.
    pub fn get(&mut self, cni: &CniSpec) -> Option<&mut Arm> {
        self.up.iter_mut().find(|(name, _)| name == cni).map(|(_, arm)| arm)
    }

    /// The cluster that came up first.
    pub fn first(&mut self) -> Option<&mut Arm> {
        self.up.first_mut().map(|(_, arm)| arm)
    }

    /// Every cluster that is up.
    pub fn all(&mut self) -> impl Iterator<Item = (&CniSpec, &mut Arm)> {
        self.up.iter_mut().map(|(cni, arm)| (&*cni, arm))
    }

    /// Takes all down, last in first out, and gives every error.
    pub async fn down_all(&mut self) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        while let Some((cni, arm)) = self.up.pop() {
            errors.extend(arm.down().await.into_iter().map(|e| e.context(cni.to_string())));
        }
        errors
    }
}

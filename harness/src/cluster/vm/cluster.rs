//! A cluster of namespaces in a guest, as the runner sees it. One guest has one cluster in its life.

use super::{
    ahead::Ahead,
    choice,
    console::Console,
    wire::{Answer, Ask, Refusal},
};
use crate::{
    cluster::{Cluster, ClusterError, Ends, Place, StateError},
    exec::Link,
    runner::{Broken, Slot, TrialError, Unprobed},
};
use anyhow::{anyhow, bail};
use async_trait::async_trait;
use cnibench_model::{
    Case, CaseId, Clock, CniInfo, Metric, Placement, ProbedTrial, Proof, ProofKind, ProofOutcome,
    RotationTrial, Surroundings, Trial,
};
use jiff::Timestamp;
use std::{sync::Arc, time::Duration};
use tokio::sync::Mutex;

/// How long a guest may take to bring up its cluster, to prove it, and to take it down. Emulated
/// kernels are some thirty times slower than the machine they run on.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);
/// Seconds of this machine that a second of a guest's may take, at most.
const SLOWEST: f64 = 60.0;
/// How long the machine may take to switch itself off.
const OFF: Duration = Duration::from_secs(10);

/// A cluster made by [`super::VmProvider`]. Dropped, its machine is off.
pub struct VmCluster {
    pub(super) info: CniInfo,
    pub(super) notes: Vec<String>,
    pub(super) ends: Vec<(Placement, Result<Ends, String>)>,
    pub(super) console: Arc<Console>,
    pub(super) clock: Clock,
    /// What it was asked before its turn; none where time counts.
    pub(super) ahead: Option<Mutex<Ahead>>,
    /// The state that it was brought to.
    pub(super) state: Surroundings,
    pub(super) down: bool,
}

/// How long a guest may take for an answer.
pub(super) fn patience(ask: &Ask) -> Duration {
    let (Ask::Measure { case, .. } | Ask::Rotate { case, .. } | Ask::Probe { case, .. }) = ask
    else {
        return PATIENCE;
    };
    let seconds = (case.duration_s + case.warmup_s) * SLOWEST;
    PATIENCE + Duration::try_from_secs_f64(seconds).unwrap_or(PATIENCE)
}

/// The question that a trial of a case is.
pub(super) fn measure(case: &Case) -> Ask {
    Ask::Measure { case: Box::new(anonymous(case)), slot: NOWHERE }
}

/// What a guest is told of a trial's place in the run.
const NOWHERE: Slot = Slot { index: 0, block: 0, sequence: 0, pair: None };

/// A case without what tells whose it is. A question is part of what a guest computes with: the same traffic
/// has the same words in every run, whatever it is compared with.
fn anonymous(case: &Case) -> Case {
    Case {
        id: CaseId(case.workload.name().to_owned()),
        cni: choice::without(&case.cni.first()),
        ..case.clone()
    }
}

impl VmCluster {
    /// Runs a command on a node, once the cluster is up, and gives what it printed. For who compares what
    /// cnis make; the guest has the programs of [`super::VmOptions::carry`].
    ///
    /// # Errors
    /// It failed; then with its words.
    pub async fn look(&self, node: u32, command: &[&str]) -> anyhow::Result<String> {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        match self.console.ask(Ask::Look { node, command }, PATIENCE).await? {
            Answer::Seen { output } => Ok(output),
            Answer::Refused { why } => Err(anyhow!(ClusterError::from(why))),
            other => bail!("an answer out of turn: {other:?}"),
        }
    }

    /// In the words of the run: of two cnis that are the same, each guest takes its own for the first.
    fn named(&self, mut proofs: Vec<Proof>) -> Vec<Proof> {
        proofs.iter_mut().for_each(|proof| proof.cni = self.info.spec.clone());
        proofs
    }

    async fn ask(&self, ask: Ask) -> anyhow::Result<Answer> {
        if let Some(ahead) = &self.ahead
            && let Some(answer) = ahead.lock().await.answer(&ask).await
        {
            return answer;
        }
        let patience = patience(&ask);
        self.console.ask(ask, patience).await
    }

    async fn proofs(&self, ask: Ask) -> Result<Vec<Proof>, Refusal> {
        match self.ask(ask).await? {
            Answer::Proofs { proofs } => Ok(self.named(proofs)),
            Answer::Refused { why } => Err(why),
            other => Err(anyhow!("an answer out of turn: {other:?}").into()),
        }
    }
}

#[async_trait]
impl Cluster for VmCluster {
    fn info(&self) -> &CniInfo {
        &self.info
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn ends(&self, placement: Placement) -> Result<Ends, String> {
        let found = self.ends.iter().find(|(p, _)| *p == placement);
        found.map_or_else(|| Err(format!("the guest offers no {placement}")), |(_, e)| e.clone())
    }

    async fn surround(&mut self, wanted: &Surroundings) -> Result<Vec<Proof>, StateError> {
        if self.state == *wanted {
            return Ok(Vec::new());
        }
        let proofs = self.proofs(Ask::Surround { wanted: *wanted }).await?;
        self.state = *wanted;
        Ok(proofs)
    }

    async fn conduct(&self, case: &Case, slot: Slot) -> Option<Result<Trial, TrialError>> {
        let begun = Timestamp::now();
        let broken =
            |reason| TrialError::Broken(Broken { short: "guest failed".to_owned(), reason });
        Some(match self.ask(measure(case)).await {
            Ok(Answer::Measured { mut trial }) => {
                trial.proofs = self.named(std::mem::take(&mut trial.proofs));
                trial.case = case.id.clone();
                let Slot { index, block, sequence, pair } = slot;
                (trial.index, trial.block) = (index, block);
                (trial.sequence, trial.pair) = (sequence, pair);
                if self.clock == Clock::Instructions {
                    // Ticks of a guest's CPU time are no seconds of any CPU.
                    let cost = [Metric::CpuPerGigabit, Metric::CpuPerTransaction];
                    trial.samples.retain(|s| !cost.contains(&s.metric));
                }
                // The guest's calendar is none.
                trial.started = begun;
                trial.window_opened = None;
                Ok(*trial)
            }
            Ok(Answer::Refused { why }) => Err(why.into()),
            Ok(other) => Err(broken(format!("an answer out of turn: {other:?}"))),
            Err(e) => Err(broken(format!("{e:#}"))),
        })
    }

    async fn conduct_rotation(
        &self,
        case: &Case,
        slot: Slot,
        times: u32,
    ) -> Option<Result<RotationTrial, TrialError>> {
        let begun = Timestamp::now();
        let ask = Ask::Rotate { case: Box::new(case.clone()), slot, times };
        let broken =
            |reason| TrialError::Broken(Broken { short: "guest failed".to_owned(), reason });
        Some(match self.ask(ask).await {
            Ok(Answer::Rotated { trial: mut rotated }) => {
                // The guest's calendar is none.
                rotated.trial.started = begun;
                rotated.trial.window_opened = None;
                Ok(*rotated)
            }
            Ok(Answer::Refused { why }) => Err(why.into()),
            Ok(other) => Err(broken(format!("an answer out of turn: {other:?}"))),
            Err(e) => Err(broken(format!("{e:#}"))),
        })
    }

    async fn conduct_probed(
        &self,
        case: &Case,
        slot: Slot,
    ) -> Option<Result<ProbedTrial, Unprobed>> {
        let begun = Timestamp::now();
        let ask = Ask::Probe { case: Box::new(case.clone()), slot };
        Some(match self.ask(ask).await {
            Ok(Answer::Probed { mut trial }) => {
                trial.started = begun;
                Ok(*trial)
            }
            Ok(Answer::Refused { why: Refusal::NotOffered { text } }) => Err(Unprobed::Never(text)),
            Ok(Answer::Refused { why }) => {
                Err(Unprobed::ThisTime(ClusterError::from(why).to_string()))
            }
            Ok(other) => Err(Unprobed::ThisTime(format!("an answer out of turn: {other:?}"))),
            Err(e) => Err(Unprobed::ThisTime(format!("{e:#}"))),
        })
    }

    async fn enter(&self, place: &Place) -> anyhow::Result<Link> {
        bail!("{}: the guest starts its own agents", place.label)
    }

    async fn prove(&self) -> Vec<Proof> {
        match self.proofs(Ask::Prove).await {
            Ok(proofs) => proofs,
            Err(why) => vec![Proof {
                kind: ProofKind::Connectivity,
                cni: self.info.spec.clone(),
                outcome: ProofOutcome::Failed,
                summary: format!("nothing could be looked at: {}", ClusterError::from(why)),
                evidence: Vec::new(),
            }],
        }
    }

    async fn prove_keys(&mut self) -> Option<Proof> {
        match self.proofs(Ask::ProveKeys).await {
            Ok(proofs) => proofs.into_iter().next(),
            Err(why) => Some(Proof {
                kind: ProofKind::KeyRemoval,
                cni: self.info.spec.clone(),
                outcome: ProofOutcome::Failed,
                summary: format!("could not be taken: {}", ClusterError::from(why)),
                evidence: Vec::new(),
            }),
        }
    }

    async fn check(&mut self) -> anyhow::Result<()> {
        if let Some(why) = self.console.last_words() {
            return Err(anyhow!("{why}"));
        }
        match self.ask(Ask::Inspect).await? {
            Answer::Done => Ok(()),
            Answer::Refused { why } => Err(anyhow!(ClusterError::from(why))),
            other => Err(anyhow!("an answer out of turn: {other:?}")),
        }
    }

    async fn down(&mut self) -> Vec<anyhow::Error> {
        if std::mem::replace(&mut self.down, true) {
            return Vec::new();
        }
        // What a dead machine held is gone with it.
        if self.console.last_words().is_some() {
            return Vec::new();
        }
        let mut errors = Vec::new();
        match self.console.ask(Ask::Down, PATIENCE).await {
            Ok(Answer::Troubles { troubles }) => {
                errors.extend(troubles.into_iter().map(|text| anyhow!("in the guest: {text}")));
            }
            Ok(other) => errors.push(anyhow!("the guest answered out of turn: {other:?}")),
            Err(e) => errors.push(e.context("taking the guest's cluster down")),
        }
        if self.console.done(Ask::Off, OFF).await.is_ok() {
            let _ = tokio::time::timeout(OFF, self.console.off()).await;
        }
        self.console.kill();
        self.console.off().await;
        errors
    }
}

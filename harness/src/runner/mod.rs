//! The run: clusters up, proofs, every trial of the plan, clusters down; all of it into the journal.
//!
//! Owns the order of these steps and what happens when one fails: a failed cni or case becomes
//! failed cells, the rest goes on. Knows no provider and no CNI; prints nothing (see [`progress`]).

mod arms;
pub mod cliffs;
mod enough;
mod eyes;
pub mod ladders;
mod missed;
mod pairs;
mod probed;
pub mod progress;
mod proved;
mod rotations;
pub mod trial;

use crate::{
    cluster::{ClusterError, Provider, StateError, Topology},
    interrupt::{Interrupt, Urgency},
    plan::{Plan, Scheduled},
    store::Journal,
};
use anyhow::Result;
use arms::Arms;
pub use arms::{Arm, Asked};
use cnibench_model::{
    Case, CaseId, Cell, CellStatus, CniSpec, JournalLine, Phase, Proof, Surroundings, Trial,
};
use enough::Enough;
pub use enough::{Limits, Referee};
pub use probed::{Unprobed, probed_trial};
use progress::Progress;
use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};
pub use trial::{Broken, Slot, TrialError};

/// Runs a plan, or as much of it as its limits leave. Every cluster that it brings up is down again when it returns.
///
/// # Errors
/// Only when the journal cannot be written: everything else becomes cells and notes in it.
pub async fn run(
    plan: &Plan,
    provider: &dyn Provider,
    topology: &Topology,
    journal: &mut Journal,
    interrupt: &Interrupt,
    progress: &mut dyn Progress,
    limits: Limits,
) -> Result<()> {
    let mut arms = Arms::default();
    let mut run = Run {
        plan,
        journal,
        progress,
        ends: HashMap::new(),
        left: trials_left(plan),
        missed: HashMap::new(),
        bad_states: HashMap::new(),
        pairs: pairs::Kept::default(),
        enough: Enough::new(limits),
        idle: HashSet::new(),
        unprobed: false,
        climbed: ladders::Climbed::default(),
        searched: Vec::new(),
        rotated: Vec::new(),
        uncounted: false,
    };
    let outcome = run.everything(provider, topology, &mut arms, interrupt.clone()).await;
    // Down first, so that what could not be cleaned is in the record.
    run.progress.phase("taking everything down");
    let mut errors = arms.down_all().await;
    errors.extend(provider.sweep().await);
    if outcome.is_err() {
        // The journal is what failed: standard error is the only place left for these.
        errors.iter().for_each(|error| run.progress.trouble(&format!("clean-up: {error:#}")));
    }
    outcome?;
    for error in errors {
        run.note(format!("clean-up: {error:#}"))?;
    }
    run.close(interrupt.urgency())
}

fn failed(broken: trial::Broken, index: u32) -> CellStatus {
    let reason = format!("trial {}: {}", index + 1, broken.reason);
    CellStatus::Failed { short: broken.short, reason }
}

fn trials_left(plan: &Plan) -> HashMap<CaseId, u32> {
    plan.cases.iter().map(|c| (c.id.clone(), c.trials)).collect()
}

/// A run that is going on.
struct Run<'a> {
    plan: &'a Plan,
    journal: &'a mut Journal,
    progress: &'a mut dyn Progress,
    /// Cases that have ended.
    ends: HashMap<CaseId, CellStatus>,
    /// Trials still to be measured of each case.
    left: HashMap<CaseId, u32>,
    /// Why a case was not measured in a cluster or on a pair of nodes, though it may be in others.
    missed: HashMap<CaseId, CellStatus>,
    /// States of a cni's cluster whose proof failed.
    bad_states: HashMap<(CniSpec, Surroundings), CellStatus>,
    /// What became of pairs, where two arms are measured in pairs.
    pairs: pairs::Kept,
    /// When enough of them were measured.
    enough: Enough,
    /// Cnis whose idle pods were looked at.
    idle: HashSet<CniSpec>,
    /// It was found, and said, that this process cannot probe.
    unprobed: bool,
    /// What ladders of rates begin with, and which are done.
    climbed: ladders::Climbed,
    /// Cases whose payload sizes were searched.
    searched: Vec<CaseId>,
    /// Cases that have their timelines of changes of keys.
    rotated: Vec<CaseId>,
    /// The same of counting what is lost.
    uncounted: bool,
}

impl Run<'_> {
    async fn everything(
        &mut self,
        provider: &dyn Provider,
        topology: &Topology,
        arms: &mut Arms,
        mut interrupt: Interrupt,
    ) -> Result<()> {
        let plan = self.plan;
        let mut sequence = 0;
        let mut index = 0;
        for (number, group) in plan.groups.iter().enumerate() {
            let making = self.making_of(number);
            if self.is_enough_for(number)? {
                return Ok(());
            }
            let begun = Instant::now();
            for cni in group {
                if self.is_lost(making) {
                    break;
                }
                if interrupt.urgency() != Urgency::None {
                    return Ok(());
                }
                if plan.cases.iter().all(|c| c.cni != *cni || self.is_over(c)) {
                    // It failed when it was up before.
                    continue;
                }
                self.progress.phase(&format!("bringing up {cni}"));
                let up = tokio::select! {
                    biased;
                    // Dropped when interrupted: what was half built is taken down by its guard, or swept.
                    () = interrupt.wait() => return Ok(()),
                    up = Arm::up(provider, index, cni, topology) => up,
                };
                index += 1;
                self.came_up(cni, making, up, arms)?;
            }
            self.enough.came_up(begun);
            self.footprints(arms, Phase::Idle, &mut interrupt).await?;
            let due = plan.batches().filter(|b| b[0].group == number);
            for batch in due {
                if interrupt.urgency() != Urgency::None {
                    return Ok(());
                }
                if self.is_enough(&batch[0])? {
                    break;
                }
                self.batch(batch, &mut sequence, arms, &mut interrupt).await?;
            }
            self.footprints(arms, Phase::Load, &mut interrupt).await?;
            self.ladders(number, arms, &mut interrupt, &mut sequence).await?;
            self.cliffs(number, arms, &mut interrupt, &mut sequence).await?;
            self.rotations(number, arms, &mut interrupt, &mut sequence).await?;
            self.probed(number, arms, &mut interrupt, &mut sequence).await?;
            if interrupt.urgency() != Urgency::None {
                return Ok(());
            }
            self.prove_again(making, arms).await?;
            self.look(number)?;
            if number + 1 < plan.groups.len() {
                self.progress.phase("taking clusters down");
                for error in arms.down_all().await {
                    self.note(format!("clean-up: {error:#}"))?;
                }
            }
        }
        Ok(())
    }

    fn came_up(
        &mut self,
        cni: &CniSpec,
        making: Option<u32>,
        up: Result<(Arm, Vec<Proof>), ClusterError>,
        arms: &mut Arms,
    ) -> Result<()> {
        let (arm, proofs) = match up {
            Ok(up) => up,
            Err(error) => {
                let status = CellStatus::Failed {
                    short: "cni not up".to_owned(),
                    reason: format!("{error:#}"),
                };
                return self.cni_lost(cni, making, &status);
            }
        };
        self.journal.append(&JournalLine::Cni(arm.info().clone()))?;
        for note in arm.notes() {
            self.note(format!("{cni}: {note}"))?;
        }
        if let Some(why) = arm.uncounted().filter(|_| !self.uncounted) {
            self.uncounted = true;
            let remedy = crate::probe::REMEDY;
            self.note(format!(
                "drops and retransmits are not counted: {why:#} (it takes {remedy})"
            ))?;
        }
        let invalid = arms::verdict(&proofs);
        for proof in proofs {
            self.journal.append(&JournalLine::Proof(proof))?;
        }
        arms.insert(cni.clone(), arm);
        match invalid {
            Some(status) => self.end_cni(cni, &status),
            None => Ok(()),
        }
    }

    /// What the cnis' own pods cost, of every cluster that is up, all at the same time; idle only when
    /// a cni is up for the first time.
    async fn footprints(
        &mut self,
        arms: &mut Arms,
        phase: Phase,
        interrupt: &mut Interrupt,
    ) -> Result<()> {
        let idle = &mut self.idle;
        let asked = arms.all().map(|(cni, arm)| {
            let known = phase == Phase::Idle && !idle.insert(cni.clone());
            arm.footprint(phase, known)
        });
        let taken = tokio::select! {
            biased;
            () = interrupt.wait() => return Ok(()),
            taken = futures::future::join_all(asked) => taken,
        };
        for footprint in taken.into_iter().flatten() {
            self.journal.append(&JournalLine::Footprint(footprint))?;
        }
        Ok(())
    }

    /// A route or a daemon may have changed since the first proofs: what was measured counts only if
    /// they still hold.
    async fn prove_again(&mut self, making: Option<u32>, arms: &mut Arms) -> Result<()> {
        self.progress.phase("proving again");
        for (cni, arm) in arms.all() {
            // Of a cluster that is made anew later the cases are still open.
            let good = |c: &&Case| {
                let begun = self.left.get(&c.id).is_some_and(|left| *left < c.trials);
                let bad = self.ends.get(&c.id).is_some_and(|e| *e != CellStatus::Measured);
                c.cni == *cni && begun && !bad
            };
            let cases: Vec<&Case> = self.plan.cases.iter().filter(good).collect();
            if cases.is_empty() {
                continue;
            }
            if self.is_dead(cni, making) {
                continue;
            }
            let (mut proofs, mut status) = arm.still_proved().await;
            // Nothing is measured on it after this.
            if status.is_none()
                && let Some(proof) = arm.prove_keys().await
            {
                status = arms::failed_proof(std::slice::from_ref(&proof));
                proofs = vec![proof];
                if status.is_none() {
                    proofs
                        .drain(..)
                        .try_for_each(|p| self.journal.append(&JournalLine::Proof(p)))?;
                }
            }
            let Some(status) = status else { continue };
            for proof in proofs {
                self.journal.append(&JournalLine::Proof(proof))?;
            }
            if making.is_some() && matches!(status, CellStatus::Failed { .. }) {
                self.cni_lost(cni, making, &status)?;
                continue;
            }
            self.tell(cni, &status);
            for case in cases {
                self.ends.remove(&case.id);
                self.end_quietly(case, status.clone())?;
            }
        }
        Ok(())
    }

    /// Is nothing more to be measured of a case? It has ended, or the other one of its pairs has, and
    /// not well.
    fn is_over(&mut self, case: &Case) -> bool {
        if self.ends.contains_key(&case.id) {
            return true;
        }
        let Some(twin) = self.twin(case) else { return false };
        let lost = self.ends.get(&twin.id).is_some_and(|end| *end != CellStatus::Measured);
        if lost {
            let status = pairs::without(twin);
            self.missed.entry(case.id.clone()).or_insert(status);
        }
        lost
    }

    /// One trial, or those of several pairs of nodes at the same time: all of one case.
    async fn batch(
        &mut self,
        batch: &[Scheduled],
        sequence: &mut u32,
        arms: &mut Arms,
        interrupt: &mut Interrupt,
    ) -> Result<()> {
        let plan = self.plan;
        let first = batch[0];
        let case = &plan.cases[first.case];
        let begin = *sequence;
        *sequence += batch.len() as u32;
        let rides = plan.host_rides && !plan.groups[first.group].contains(&case.cni);
        let arm = if rides { arms.first() } else { arms.get(&case.cni) };
        let open = !self.is_over(case);
        if self.is_lost(first.arm.map(|slot| slot.rebuild)) {
            self.progress.trials_over(case, 0, batch.len());
            return Ok(());
        }
        let Some(arm) = arm.filter(|_| open) else {
            if rides && open {
                let reason = "the clusters that it was to be measured in did not come up";
                let short = "cni not up".to_owned();
                let status = CellStatus::Failed { short, reason: reason.to_owned() };
                self.missed.entry(case.id.clone()).or_insert(status);
            }
            self.progress.trials_over(case, 0, batch.len());
            return Ok(());
        };
        let cluster = arm.info().spec.clone();
        let state = (cluster.clone(), case.surroundings);
        if let Some(status) = self.bad_states.get(&state).cloned() {
            self.not_here(case, rides, status)?;
            self.progress.trials_over(case, 0, batch.len());
            return Ok(());
        }
        self.progress.trial_begins(case, first.index);
        let asked: Vec<Asked> = batch
            .iter()
            .zip(begin..)
            .map(|(s, sequence)| Asked {
                slot: trial::Slot { index: s.index, block: s.block, sequence, pair: s.arm },
                host: rides,
                pair: s.pair,
            })
            .collect();
        let measured = tokio::select! {
            biased;
            measured = async {
                let proofs = arm.surround(case).await?;
                // Nothing is measured in a state that was not proved.
                let results = match arms::failed_proof(&proofs) {
                    None => Ok(arm.trials(case, &asked).await),
                    Some(status) => Err(status),
                };
                Ok((proofs, results))
            } => Some(measured),
            () = interrupt.wait() => None,
        };
        let mut done = 0;
        match measured {
            None => {
                arm.forget_agents().await;
                return Ok(());
            }
            Some(Ok((proofs, results))) => {
                for proof in proofs {
                    self.journal.append(&JournalLine::Proof(proof))?;
                }
                match results {
                    Ok(results) => {
                        done = results.iter().filter(|result| result.is_ok()).count();
                        for (result, scheduled) in results.into_iter().zip(batch) {
                            self.take(case, scheduled, &cluster, result)?;
                        }
                    }
                    Err(status) => {
                        self.bad_states.insert(state, status.clone());
                        self.not_here(case, rides, status)?;
                    }
                }
            }
            Some(Err(StateError::NotOffered(reason))) => {
                self.not_here(case, rides, CellStatus::Skipped { reason })?;
            }
            Some(Err(StateError::Failed(cause))) => {
                let status = CellStatus::Failed {
                    short: "state not reached".to_owned(),
                    reason: format!("{cause:#}"),
                };
                self.not_here(case, rides, status)?;
            }
        }
        self.progress.trials_over(case, done, batch.len() - done);
        Ok(())
    }

    /// A case that this cluster cannot carry. A baseline that rides along may be measured in the next.
    fn not_here(&mut self, case: &Case, rides: bool, status: CellStatus) -> Result<()> {
        if rides {
            self.missed.entry(case.id.clone()).or_insert(status);
            return Ok(());
        }
        self.end(case, status)
    }

    /// `cluster`: the cni in whose cluster it ran, which for a baseline that rides along is another.
    fn take(
        &mut self,
        case: &Case,
        scheduled: &Scheduled,
        cluster: &CniSpec,
        result: Result<Trial, TrialError>,
    ) -> Result<()> {
        let status = match result {
            Ok(trial) => {
                let unproved = proved::failed(&trial);
                if unproved.is_none() {
                    self.enough.measured(&trial);
                    self.climbed.note(&trial);
                }
                self.journal.append(&JournalLine::Trial(Box::new(trial)))?;
                match unproved {
                    Some(status) => status,
                    None => {
                        self.pair_measured(case, scheduled);
                        return self.one_less(case);
                    }
                }
            }
            Err(TrialError::ClusterDead(broken)) => {
                let making = scheduled.arm.map(|slot| slot.rebuild);
                return self.cni_lost(cluster, making, &failed(broken, scheduled.index));
            }
            Err(TrialError::NotOffered(reason)) => CellStatus::Skipped { reason },
            Err(TrialError::Broken(broken)) => failed(broken, scheduled.index),
        };
        if let (Some(slot), CellStatus::Failed { .. }) = (scheduled.arm, &status) {
            return self.pair_broke(case, slot, status);
        }
        let Some((a, b)) = scheduled.pair else { return self.end(case, status) };
        // One pair of many: the others are measured all the same.
        let (CellStatus::Failed { reason, .. } | CellStatus::Skipped { reason }) = &status else {
            return self.end(case, status);
        };
        self.note(format!("{}: nodes {a} and {b}: {reason}", case.id))?;
        self.missed.entry(case.id.clone()).or_insert(status);
        Ok(())
    }

    fn one_less(&mut self, case: &Case) -> Result<()> {
        let left = self.left.entry(case.id.clone()).or_insert(1);
        *left -= 1;
        if *left == 0 {
            self.end(case, CellStatus::Measured)?;
        }
        Ok(())
    }

    /// Ends every case of a cni that has not ended yet.
    fn end_cni(&mut self, cni: &CniSpec, status: &CellStatus) -> Result<()> {
        self.tell(cni, status);
        let plan = self.plan;
        let cases = plan.cases.iter().filter(|c| c.cni == *cni);
        cases.into_iter().try_for_each(|c| self.end_quietly(c, status.clone()))
    }

    fn tell(&mut self, what: &dyn std::fmt::Display, status: &CellStatus) {
        if let CellStatus::Failed { reason, .. } | CellStatus::Invalid { reason, .. } = status {
            self.progress.trouble(&format!("{what}: {reason}"));
        }
    }

    fn end(&mut self, case: &Case, status: CellStatus) -> Result<()> {
        self.tell(&case.id, &status);
        self.end_quietly(case, status)
    }

    fn end_quietly(&mut self, case: &Case, status: CellStatus) -> Result<()> {
        if self.ends.contains_key(&case.id) {
            return Ok(());
        }
        self.ends.insert(case.id.clone(), status.clone());
        self.journal.append(&JournalLine::Cell(Cell { case: case.id.clone(), status }))
    }

    fn note(&mut self, text: String) -> Result<()> {
        self.progress.trouble(&text);
        self.journal.append(&JournalLine::Note { text })
    }

    /// Says of every case that did not end why it did not.
    fn close(&mut self, urgency: Urgency) -> Result<()> {
        let plan = self.plan;
        let reason = match urgency {
            Urgency::Orderly(signal) => format!("stopped by {signal}"),
            Urgency::Impatient => "stopped by a second signal".to_owned(),
            Urgency::None => "not all trials were run".to_owned(),
        };
        let open = plan.cases.iter().filter(|c| !self.ends.contains_key(&c.id));
        let open: Vec<&Case> = open.collect();
        for case in open {
            if let Some(end) = self.enough.ended().filter(|_| urgency == Urgency::None) {
                let status = self.cut_short(case, end);
                self.end(case, status)?;
                continue;
            }
            if let Some(status) =
                self.missed.get(&case.id).cloned().filter(|_| urgency == Urgency::None)
            {
                let begun = match plan.pairing {
                    Some(_) => self.whole_pairs(case) >= pairs::ENOUGH,
                    None => self.left.get(&case.id).is_some_and(|left| *left < case.trials),
                };
                // What there is, is whole: other clusters, or other pairs of nodes or trials.
                let status = if begun { CellStatus::Measured } else { status };
                self.end(case, status)?;
                continue;
            }
            self.end(case, CellStatus::Interrupted { reason: reason.clone() })?;
        }
        Ok(())
    }
}

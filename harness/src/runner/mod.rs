//! The run: clusters up, proofs, every trial of the plan, clusters down; all of it into the journal.
//!
//! Owns the order of these steps and what happens when one fails: a failed cni or case becomes
//! failed cells, the rest goes on. Knows no provider and no CNI; prints nothing (see [`progress`]).

mod arms;
pub mod progress;
mod trial;

use crate::{
    cluster::{Provider, Topology},
    interrupt::{Interrupt, Urgency},
    plan::{Plan, Scheduled, TrialOrder},
    store::Journal,
};
use anyhow::Result;
use arms::{Arm, Arms};
use cnibench_model::{Case, CaseId, Cell, CellStatus, JournalLine};
use progress::Progress;
use std::collections::HashMap;

/// Runs a plan. Every cluster that it brings up is down again when it returns.
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
) -> Result<()> {
    let mut arms = Arms::default();
    let mut run = Run { plan, journal, progress, ends: HashMap::new(), left: trials_left(plan) };
    let outcome = run.everything(provider, topology, &mut arms, interrupt.clone()).await;
    // Down first, so that what could not be cleaned is in the record.
    run.progress.phase("taking everything down");
    let errors = arms.down_all().await;
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
}

impl Run<'_> {
    async fn everything(
        &mut self,
        provider: &dyn Provider,
        topology: &Topology,
        arms: &mut Arms,
        mut interrupt: Interrupt,
    ) -> Result<()> {
        let mut cnis: Vec<_> = self.plan.cases.iter().map(|c| c.cni.clone()).collect();
        let mut seen = std::collections::HashSet::new();
        cnis.retain(|cni| seen.insert(cni.clone()));
        // One after the other when trials are not interleaved: then only one cni is up at a time.
        let groups: Vec<Vec<_>> = match self.plan.order {
            TrialOrder::Interleaved => vec![cnis],
            TrialOrder::ByCni => cnis.into_iter().map(|cni| vec![cni]).collect(),
        };
        let mut sequence = 0;
        for (number, group) in groups.into_iter().enumerate() {
            for (position, cni) in group.iter().enumerate() {
                if interrupt.urgency() != Urgency::None {
                    return Ok(());
                }
                self.progress.phase(&format!("bringing up {cni}"));
                let index = (number + position) as u32;
                let up = tokio::select! {
                    biased;
                    // Dropped when interrupted: what was half built is taken down by its guard.
                    () = interrupt.wait() => return Ok(()),
                    up = Arm::up(provider, index, cni, topology) => up,
                };
                match up {
                    Ok((arm, proofs)) => {
                        self.journal.append(&JournalLine::Cni(arm.info().clone()))?;
                        let invalid = arms::verdict(&proofs);
                        for proof in proofs {
                            self.journal.append(&JournalLine::Proof(proof))?;
                        }
                        arms.insert(cni.clone(), arm);
                        if let Some(status) = invalid {
                            self.end_cni(cni, &status)?;
                        }
                    }
                    Err(error) => {
                        let status = CellStatus::Failed {
                            short: "cni not up".to_owned(),
                            reason: format!("{error:#}"),
                        };
                        self.end_cni(cni, &status)?;
                    }
                }
            }
            let due: Vec<Scheduled> = self
                .plan
                .schedule
                .iter()
                .copied()
                .filter(|s| group.contains(&self.plan.cases[s.case].cni))
                .collect();
            for scheduled in due {
                if interrupt.urgency() != Urgency::None {
                    return Ok(());
                }
                self.trial(scheduled, sequence, arms, &mut interrupt).await?;
                sequence += 1;
            }
            self.prove_again(arms).await?;
            if self.plan.order == TrialOrder::ByCni {
                for error in arms.down_all().await {
                    self.note(format!("clean-up: {error:#}"))?;
                }
            }
        }
        Ok(())
    }

    /// A route or a daemon may have changed since the first proofs: what was measured counts only if
    /// they still hold.
    async fn prove_again(&mut self, arms: &mut Arms) -> Result<()> {
        self.progress.phase("proving again");
        for (cni, arm) in arms.all() {
            let measured = |c: &&Case| {
                c.cni == *cni && self.ends.get(&c.id).is_some_and(|e| *e == CellStatus::Measured)
            };
            let cases: Vec<&Case> = self.plan.cases.iter().filter(measured).collect();
            if cases.is_empty() {
                continue;
            }
            let (proofs, status) = arm.still_proved().await;
            let Some(status) = status else { continue };
            for proof in proofs {
                self.journal.append(&JournalLine::Proof(proof))?;
            }
            self.tell(cni, &status);
            for case in cases {
                self.ends.remove(&case.id);
                self.end_quietly(case, status.clone())?;
            }
        }
        Ok(())
    }

    async fn trial(
        &mut self,
        scheduled: Scheduled,
        sequence: u32,
        arms: &mut Arms,
        interrupt: &mut Interrupt,
    ) -> Result<()> {
        let case = &self.plan.cases[scheduled.case];
        if self.ends.contains_key(&case.id) {
            self.progress.trial_done(case);
            return Ok(());
        }
        let Some(arm) = arms.get(&case.cni) else { return Ok(()) };
        self.progress.trial_begins(case, scheduled.index);
        let slot = trial::Slot { index: scheduled.index, block: scheduled.block, sequence };
        let measured = tokio::select! {
            biased;
            measured = arm.trial(case, slot) => Some(measured),
            () = interrupt.wait() => None,
        };
        let Some(measured) = measured else {
            arm.forget_agents().await;
            return Ok(());
        };
        match measured {
            Ok(trial) => {
                self.journal.append(&JournalLine::Trial(Box::new(trial)))?;
                let left = self.left.entry(case.id.clone()).or_insert(1);
                *left -= 1;
                if *left == 0 {
                    self.end(case, CellStatus::Measured)?;
                }
            }
            Err(trial::TrialError::NotOffered(reason)) => {
                self.end(case, CellStatus::Skipped { reason })?;
            }
            Err(trial::TrialError::Broken(broken)) => {
                self.end(case, failed(broken, scheduled.index))?;
            }
            Err(trial::TrialError::ClusterDead(broken)) => {
                self.end_cni(&case.cni, &failed(broken, scheduled.index))?;
            }
        }
        self.progress.trial_done(case);
        Ok(())
    }

    /// Ends every case of a cni that has not ended yet.
    fn end_cni(&mut self, cni: &cnibench_model::CniSpec, status: &CellStatus) -> Result<()> {
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
            self.end(case, CellStatus::Interrupted { reason: reason.clone() })?;
        }
        Ok(())
    }
}

//! Probed trials: after the measured ones of a group of clusters, adjacent pairs of trials with and
//! without the latency probes. They end in a list of their own in the record; nothing that fails here
//! makes a measured cell fail.

use super::{
    Run,
    arms::{Arm, Arms, Asked},
    trial::Slot,
};
use crate::{
    interrupt::{Interrupt, Urgency},
    probe::{self, Probes},
};
use anyhow::{Result, anyhow};
use cnibench_model::{Case, CellStatus, JournalLine, ProbedTrial, Trial};
use rand::{Rng as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use std::collections::HashSet;

impl Run<'_> {
    /// Probes every case of the clusters that are up which was measured and has round trips.
    pub(super) async fn probed(
        &mut self,
        arms: &mut Arms,
        interrupt: &mut Interrupt,
        sequence: &mut u32,
    ) -> Result<()> {
        let plan = self.plan;
        let Some(pairs) = plan.probe_pairs else { return Ok(()) };
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed ^ u64::from(*sequence));
        let mut given_up = HashSet::new();
        let measured = |case: &&Case| self.ends.get(&case.id) == Some(&CellStatus::Measured);
        let mut cases: Vec<&Case> = plan.cases.iter().filter(measured).collect();
        cases.retain(|case| arms.get(&case.cni).is_some());
        for case in cases.iter().filter_map(|c| probe::refuses(c).map(|reason| (&c.id, reason))) {
            self.note(format!("{}: not probed: {}", case.0, case.1))?;
            given_up.insert(case.0.clone());
        }
        cases.retain(|case| !given_up.contains(&case.id));
        if cases.is_empty() || self.unprobed {
            return Ok(());
        }
        // Said once, not of every case.
        if let Err(reason) = probe::possible().await {
            self.unprobed = true;
            return self.note(format!("not probed: {reason}"));
        }
        for block in 0..pairs {
            cases.shuffle(&mut rng);
            for case in &cases {
                if interrupt.urgency() != Urgency::None {
                    return Ok(());
                }
                if given_up.contains(&case.id) {
                    continue;
                }
                let Some(arm) = arms.get(&case.cni) else { continue };
                self.progress.phase(&format!(
                    "probing {} {} on {}, pair {} of {pairs}",
                    case.workload,
                    case.placement,
                    case.cni,
                    block + 1
                ));
                let slot = Slot { index: block, block, sequence: *sequence, pair: None };
                *sequence += 2;
                let taken = tokio::select! {
                    biased;
                    taken = pair(arm, case, slot, rng.random()) => Some(taken),
                    () = interrupt.wait() => None,
                };
                match taken {
                    None => {
                        arm.forget_agents().await;
                        return Ok(());
                    }
                    Some(Ok(trial)) => {
                        self.journal.append(&JournalLine::Probed(Box::new(trial)))?
                    }
                    Some(Err(error)) => {
                        arm.forget_agents().await;
                        given_up.insert(case.id.clone());
                        self.note(format!("{}: not probed: {error:#}", case.id))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// One trial with probes and one without, next to each other.
async fn pair(arm: &mut Arm, case: &Case, slot: Slot, first: bool) -> Result<ProbedTrial> {
    arm.surround(case).await?;
    if first {
        let probed = with(arm, case, slot).await?;
        let beside = without(arm, case, slot).await?;
        return Ok(ProbedTrial { beside: probe::whole(&beside), ..probed });
    }
    let beside = without(arm, case, slot).await?;
    let probed = with(arm, case, slot).await?;
    Ok(ProbedTrial { beside: probe::whole(&beside), ..probed })
}

async fn without(arm: &mut Arm, case: &Case, slot: Slot) -> Result<Trial> {
    let asked = [Asked { slot, host: false, pair: None }];
    let results = arm.trials(case, &asked).await;
    let result = results.into_iter().next().ok_or_else(|| anyhow!("there was no trial"))?;
    result.map_err(|e| anyhow!("{e}"))
}

/// Tries before a case is given up whose trial was not where it was expected (a busy machine).
const TRIES: u32 = 3;

async fn with(arm: &mut Arm, case: &Case, slot: Slot) -> Result<ProbedTrial> {
    let mut tries = 1;
    loop {
        match try_with(arm, case, slot).await {
            Err(_) if tries < TRIES => tries += 1,
            done => return done,
        }
    }
}

async fn try_with(arm: &mut Arm, case: &Case, slot: Slot) -> Result<ProbedTrial> {
    let scene = arm.sights(case.placement).await.map_err(|reason| anyhow!(reason))?;
    let mut probes = Probes::attach(scene).await?;
    let (counted, trial) = tokio::join!(probes.count(case), without(arm, case, slot));
    let trial = trial?;
    let result = probes.finish(&trial, counted?).await?;
    Ok(ProbedTrial {
        case: case.id.clone(),
        index: slot.index,
        block: slot.block,
        started: trial.started,
        workload: case.workload,
        nodes: trial.nodes.clone(),
        result,
        beside: None,
        warnings: trial.warnings,
    })
}

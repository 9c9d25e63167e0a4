//! Probed trials: after the measured ones of a group of clusters, adjacent pairs of trials with and
//! without the latency probes. They end in a list of their own in the record; nothing that fails here
//! makes a measured cell fail.

use super::{
    Run,
    arms::{Arm, Arms, Asked},
    missed::{Miss, Missed},
    trial::Slot,
};
use crate::{
    interrupt::{Interrupt, Urgency},
    probe::{self, Probes, REMEDY},
};
use anyhow::{Result, anyhow};
use cnibench_model::{Case, CellStatus, JournalLine, ProbedTrial, Trial};
use cnibench_probes::capability::Lack;
use rand::{Rng as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

impl Run<'_> {
    /// Probes every case of the clusters that are up which was measured and has round trips.
    pub(super) async fn probed(
        &mut self,
        group: usize,
        arms: &mut Arms,
        interrupt: &mut Interrupt,
        sequence: &mut u32,
    ) -> Result<()> {
        let Some(pairs) = self.plan.probe_pairs else { return Ok(()) };
        let mut missed = Missed::default();
        let done = self.pairs_of(group, pairs, arms, interrupt, sequence, &mut missed).await;
        // Also where it was interrupted.
        missed.notes(pairs).into_iter().try_for_each(|text| self.note(text))?;
        done
    }

    async fn pairs_of(
        &mut self,
        group: usize,
        pairs: u32,
        arms: &mut Arms,
        interrupt: &mut Interrupt,
        sequence: &mut u32,
        missed: &mut Missed,
    ) -> Result<()> {
        let plan = self.plan;
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed ^ u64::from(*sequence));
        // The baseline that rides along is measured in later groups, too, and has not ended yet.
        let rides = |case: &Case| plan.host_rides && !plan.groups[group].contains(&case.cni);
        let here = |case: &&Case| match self.ends.get(&case.id) {
            Some(status) => *status == CellStatus::Measured,
            None => rides(case) && case.cni.name == "host",
        };
        let mut cases: Vec<&Case> = plan.cases.iter().filter(here).collect();
        cases.retain(|case| {
            arms.get(&case.cni).is_some() || (rides(case) && case.cni.name == "host")
        });
        let begin = group as u32 * pairs;
        cases.retain(|case| match probe::refuses(case) {
            Some(reason) => {
                missed.missed(&case.id, Miss::Never(reason));
                false
            }
            None => true,
        });
        if cases.is_empty() || self.unprobed {
            return Ok(());
        }
        for block in 0..pairs {
            cases.shuffle(&mut rng);
            for case in &cases {
                if interrupt.urgency() != Urgency::None {
                    return Ok(());
                }
                if missed.is_over(&case.id) {
                    continue;
                }
                let host = rides(case);
                let arm = if host { arms.first() } else { arms.get(&case.cni) };
                let Some(arm) = arm else { continue };
                self.progress.phase(&format!(
                    "probing {} {} on {}, pair {} of {pairs}",
                    case.workload,
                    case.placement,
                    case.cni,
                    block + 1
                ));
                let slot = Slot {
                    index: begin + block,
                    block: begin + block,
                    sequence: *sequence,
                    pair: None,
                };
                let asked = Asked { slot, host, pair: None };
                *sequence += 2;
                let taken = tokio::select! {
                    biased;
                    taken = pair(arm, case, asked, rng.random()) => Some(taken),
                    () = interrupt.wait() => None,
                };
                match taken {
                    None => {
                        arm.forget_agents().await;
                        return Ok(());
                    }
                    Some(Ok(trial)) => {
                        missed.taken(&case.id);
                        self.journal.append(&JournalLine::Probed(Box::new(trial)))?;
                    }
                    // Of all cases: this kernel, or this process, has no probes. Said once.
                    Some(Err(error)) if error.downcast_ref::<Lack>().is_some() => {
                        self.unprobed = true;
                        return self.note(format!("not probed: {error:#} (it takes {REMEDY})"));
                    }
                    Some(Err(error)) => {
                        arm.forget_agents().await;
                        let why = match error.downcast::<Unprobed>() {
                            Ok(Unprobed::Never(reason)) => Miss::Never(reason),
                            Ok(error) => Miss::ThisTime(error.to_string()),
                            Err(error) => Miss::ThisTime(format!("{error:#}")),
                        };
                        missed.missed(&case.id, why);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Why there is no probed trial.
#[derive(Debug, thiserror::Error)]
pub enum Unprobed {
    /// There never will be one of the case.
    #[error("{0}")]
    Never(String),
    /// This one went wrong.
    #[error("{0}")]
    ThisTime(String),
}

/// Measures once with probes, for a controller that somebody else asks.
///
/// # Errors
/// Why not.
pub async fn probed_trial(arm: &mut Arm, case: &Case, slot: Slot) -> Result<ProbedTrial, Unprobed> {
    let asked = Asked { slot, host: false, pair: None };
    with(arm, case, asked).await.map_err(|error| match error.downcast::<Unprobed>() {
        Ok(error) => error,
        // What a kernel lacks it will not have at the next trial.
        Err(error) if error.downcast_ref::<Lack>().is_some() => {
            Unprobed::Never(format!("{error:#}"))
        }
        Err(error) => Unprobed::ThisTime(format!("{error:#}")),
    })
}

/// One trial with probes and one without, next to each other.
async fn pair(arm: &mut Arm, case: &Case, asked: Asked, first: bool) -> Result<ProbedTrial> {
    arm.surround(case).await?;
    let (probed, beside) = if first {
        let probed = with(arm, case, asked).await?;
        (probed, without(arm, case, asked).await?)
    } else {
        let beside = without(arm, case, asked).await?;
        (with(arm, case, asked).await?, beside)
    };
    Ok(ProbedTrial { beside: probe::whole(&beside), ..probed })
}

async fn without(arm: &mut Arm, case: &Case, asked: Asked) -> Result<Trial> {
    let results = arm.trials(case, &[asked]).await;
    let result = results.into_iter().next().ok_or_else(|| anyhow!("there was no trial"))?;
    result.map_err(|e| anyhow!("{e}"))
}

/// Tries before a case is given up whose trial was not where it was expected (a busy machine).
const TRIES: u32 = 3;

async fn with(arm: &mut Arm, case: &Case, asked: Asked) -> Result<ProbedTrial> {
    if let Some(conducted) = arm.conduct_probed(case, asked.slot).await {
        return Ok(conducted?);
    }
    let mut tries = 1;
    loop {
        let sights = arm.sights(case.placement, asked.host).await;
        let sights = sights.map_err(Unprobed::Never)?;
        let probes = Probes::attach(sights).await?;
        match around(arm, case, asked, probes).await {
            Err(_) if tries < TRIES => tries += 1,
            done => return done,
        }
    }
}

async fn around(
    arm: &mut Arm,
    case: &Case,
    asked: Asked,
    mut probes: Probes,
) -> Result<ProbedTrial> {
    let trial = match probes.arm(case).await {
        Ok(()) => without(arm, case, asked).await,
        Err(error) => Err(error),
    };
    let trial = match trial {
        Ok(trial) => trial,
        Err(error) => {
            probes.give_up().await;
            return Err(error);
        }
    };
    let result = probes.finish(&trial).await?;
    Ok(ProbedTrial {
        case: case.id.clone(),
        index: asked.slot.index,
        block: asked.slot.block,
        started: trial.started,
        workload: case.workload,
        nodes: trial.nodes.clone(),
        result,
        beside: None,
        warnings: trial.warnings,
    })
}

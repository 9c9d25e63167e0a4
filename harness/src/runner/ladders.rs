//! Ladders: after the measured trials of a group of clusters, offered rates are climbed for each case
//! that asks for it, until the highest is known that is still held.
//!
//! Owns the trials; which rate comes next is [`cnibench_reports::knee`]'s to say. Their cnis take turns
//! in random order. Nothing that fails here makes a measured cell fail.

use super::{
    Run,
    arms::{Arms, Asked, failed_proof},
    trial::Slot,
};
use crate::interrupt::{Interrupt, Urgency};
use anyhow::Result;
use cnibench_model::{Case, CaseId, JournalLine, Rate, RungTrial, Trial};
use cnibench_reports::{
    knee::{self, Number, Rung},
    stats::median,
};
use rand::{SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, HashMap};

/// Rungs that a ladder has by experience, for the time that a run is said to take: three doublings, the
/// rung that does not hold, three bisections.
pub const USUAL_RUNGS: f64 = 7.5;

/// What cases with a ladder did flat out, and which ladders are done.
#[derive(Debug, Default)]
pub(super) struct Climbed {
    flat_out: HashMap<CaseId, Vec<f64>>,
    done: Vec<CaseId>,
}

impl Climbed {
    /// Keeps what a trial did.
    pub(super) fn note(&mut self, trial: &Trial) {
        let rate = trial.value(cnibench_reports::matrix::main_rate(trial.workload));
        self.flat_out.entry(trial.case.clone()).or_default().extend(rate);
    }

    fn first(&self, case: &Case) -> Option<Number> {
        knee::first(case.workload, median(self.flat_out.get(&case.id)?)?)
    }
}

/// One ladder on its way up.
struct Ladder<'a> {
    case: &'a Case,
    host: bool,
    first: Number,
    tried: BTreeMap<Number, Rung>,
}

impl Run<'_> {
    /// Climbs the ladders of the cases that were measured in this group of clusters.
    pub(super) async fn ladders(
        &mut self,
        group: usize,
        arms: &mut Arms,
        interrupt: &mut Interrupt,
        sequence: &mut u32,
    ) -> Result<()> {
        let plan = self.plan;
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed ^ u64::from(*sequence) ^ 0x1add);
        let mut block = plan.schedule.iter().map(|s| s.block).max().unwrap_or(0) + *sequence;
        let mut ladders = Vec::new();
        for case in plan.cases.iter().filter(|c| plan.ladders.contains(&c.id)) {
            let host = plan.host_rides && !plan.groups[group].contains(&case.cni);
            let there = arms.get(&case.cni).is_some() || host && arms.first().is_some();
            if !there || self.climbed.done.contains(&case.id) {
                continue;
            }
            if let Some(first) = self.climbed.first(case) {
                self.climbed.done.push(case.id.clone());
                ladders.push(Ladder { case, host, first, tried: BTreeMap::new() });
            }
        }
        while !ladders.is_empty() {
            let mut rungs: Vec<(usize, Number, Vec<Trial>)> = ladders
                .iter()
                .enumerate()
                .filter_map(|(i, l)| Some((i, knee::next(&l.tried, l.first)?, Vec::new())))
                .collect();
            if rungs.is_empty() {
                return Ok(());
            }
            let most = ladders.iter().map(|l| l.case.trials).max().unwrap_or(1);
            let mut broken = Vec::new();
            for index in 0..most {
                rungs.shuffle(&mut rng);
                block += 1;
                for (which, number, trials) in &mut rungs {
                    let ladder = &ladders[*which];
                    if index >= ladder.case.trials || broken.contains(which) {
                        continue;
                    }
                    if interrupt.urgency() != Urgency::None {
                        return Ok(());
                    }
                    let slot = Slot { index, block, sequence: *sequence, pair: None };
                    *sequence += 1;
                    match self.rung(ladder, *number, slot, arms, interrupt).await? {
                        Climb::Trial(trial) => trials.push(*trial),
                        Climb::Broken => broken.push(*which),
                        Climb::Interrupted => return Ok(()),
                    }
                }
            }
            for (which, number, trials) in rungs {
                let ladder = &mut ladders[which];
                let rate = knee::rate(ladder.case.workload, number);
                match Rung::of(ladder.case.workload, rate, &trials) {
                    Some(rung) => drop(ladder.tried.insert(number, rung)),
                    None => broken.push(which),
                }
            }
            broken.sort_unstable();
            broken.dedup();
            for which in broken.into_iter().rev() {
                ladders.remove(which);
            }
        }
        Ok(())
    }

    async fn rung(
        &mut self,
        ladder: &Ladder<'_>,
        number: Number,
        slot: Slot,
        arms: &mut Arms,
        interrupt: &mut Interrupt,
    ) -> Result<Climb> {
        let rate = knee::rate(ladder.case.workload, number);
        let case = at_rate(ladder.case, rate);
        self.progress.phase(&format!("climbing: {}", case.id));
        let arm = if ladder.host { arms.first() } else { arms.get(&case.cni) };
        let Some(arm) = arm else { return Ok(Climb::Broken) };
        let asked = Asked { slot, host: ladder.host, pair: None };
        let taken = tokio::select! {
            biased;
            taken = async {
                let proofs = arm.surround(&case).await.map_err(|e| e.to_string())?;
                if failed_proof(&proofs).is_some() {
                    return Err("its state was not proved".to_owned());
                }
                let results = arm.trials(&case, &[asked]).await;
                let result = results.into_iter().next().ok_or("there was no trial")?;
                let trial = result.map_err(|e| e.to_string())?;
                match failed_proof(&trial.proofs) {
                    Some(_) => Err("a trial was not proved to be encrypted".to_owned()),
                    None => Ok(trial),
                }
            } => taken,
            () = interrupt.wait() => {
                arm.forget_agents().await;
                return Ok(Climb::Interrupted);
            }
        };
        match taken {
            Ok(trial) => {
                let rung = RungTrial { case: ladder.case.id.clone(), rate, trial: trial.clone() };
                self.journal.append(&JournalLine::Rung(Box::new(rung)))?;
                Ok(Climb::Trial(Box::new(trial)))
            }
            Err(reason) => {
                arm.forget_agents().await;
                self.note(format!("{}: its ladder ended: {reason}", case.id))?;
                Ok(Climb::Broken)
            }
        }
    }
}

enum Climb {
    Trial(Box<Trial>),
    Broken,
    Interrupted,
}

fn at_rate(case: &Case, rate: Rate) -> Case {
    let mut case = case.clone();
    case.params.rate = Some(rate);
    case.id = Case::id_of(
        case.provider,
        &case.cni,
        case.workload,
        case.placement,
        &case.params,
        &case.surroundings,
    );
    case
}

//! Searches over payload sizes: after the measured trials of a group of clusters, the size at which
//! throughput falls is looked for, for each case that asks for it.
//!
//! Owns the trials; which sizes come next is [`cnibench_reports::cliff`]'s to say. Sizes of one case are
//! compared with each other: they take turns, and no other case comes in between. Nothing that fails here
//! makes a measured cell fail.

use super::{
    Run,
    arms::{Arms, Asked, failed_proof},
    trial::Slot,
};
use crate::interrupt::{Interrupt, Urgency};
use anyhow::Result;
use cnibench_model::{Case, JournalLine, SizeTrial};
use cnibench_reports::cliff::Seen;

/// Trials that a search takes by experience for each round, for the time that a run is said to take: the
/// grid, then three for each bisection of a thousand bytes, then the last two.
pub const USUAL_SIZES: f64 = 40.0;

/// One search.
struct Search<'a> {
    case: &'a Case,
    host: bool,
    done: Vec<SizeTrial>,
    round: u32,
}

/// How a search goes on.
enum Next {
    On,
    Broken,
    Interrupted,
}

impl Run<'_> {
    /// Searches the sizes of the cases that were measured in this group of clusters.
    pub(super) async fn cliffs(
        &mut self,
        group: usize,
        arms: &mut Arms,
        interrupt: &mut Interrupt,
        sequence: &mut u32,
    ) -> Result<()> {
        let plan = self.plan;
        for case in plan.cases.iter().filter(|c| plan.cliffs.contains(&c.id)) {
            let host = plan.host_rides && !plan.groups[group].contains(&case.cni);
            let there = arms.get(&case.cni).is_some() || host && arms.first().is_some();
            let measured = self.left.get(&case.id).is_some_and(|left| *left == 0);
            if !there || !measured || self.searched.contains(&case.id) {
                continue;
            }
            self.searched.push(case.id.clone());
            let mut search = Search { case, host, done: Vec::new(), round: 0 };
            if let Next::Interrupted = self.search(&mut search, arms, interrupt, sequence).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn search(
        &mut self,
        search: &mut Search<'_>,
        arms: &mut Arms,
        interrupt: &mut Interrupt,
        sequence: &mut u32,
    ) -> Result<Next> {
        while let Some(sizes) = Seen::of(&search.done).next() {
            for _ in 0..search.case.trials {
                for &size in &sizes {
                    match self.size(search, size, arms, interrupt, sequence).await? {
                        Next::On => {}
                        end => return Ok(end),
                    }
                }
                search.round += 1;
            }
        }
        Ok(Next::On)
    }

    async fn size(
        &mut self,
        search: &mut Search<'_>,
        size: u64,
        arms: &mut Arms,
        interrupt: &mut Interrupt,
        sequence: &mut u32,
    ) -> Result<Next> {
        if interrupt.urgency() != Urgency::None {
            return Ok(Next::Interrupted);
        }
        let case = at_size(search.case, size);
        self.progress.phase(&format!("searching: {}", case.id));
        let arm = if search.host { arms.first() } else { arms.get(&case.cni) };
        let Some(arm) = arm else { return Ok(Next::Broken) };
        let round = search.round;
        let slot = Slot { index: round, block: round, sequence: *sequence, pair: None };
        *sequence += 1;
        let asked = Asked { slot, host: search.host, pair: None };
        let taken = tokio::select! {
            biased;
            taken = async {
                let proofs = arm.surround(&case).await.map_err(|e| e.to_string())?;
                if failed_proof(&proofs).is_some() {
                    return Err("its state was not proved".to_owned());
                }
                let results = arm.trials(&case, &[asked]).await;
                let trial = results.into_iter().next().ok_or("there was no trial")?;
                let trial = trial.map_err(|e| e.to_string())?;
                match failed_proof(&trial.proofs) {
                    Some(_) => Err("a trial was not proved to be encrypted".to_owned()),
                    None => Ok(trial),
                }
            } => taken,
            () = interrupt.wait() => {
                arm.forget_agents().await;
                return Ok(Next::Interrupted);
            }
        };
        match taken {
            Ok(trial) => {
                let trial = SizeTrial { case: search.case.id.clone(), size, trial };
                search.done.push(trial.clone());
                self.journal.append(&JournalLine::Size(Box::new(trial)))?;
                Ok(Next::On)
            }
            Err(reason) => {
                arm.forget_agents().await;
                self.note(format!("{}: its search ended: {reason}", case.id))?;
                Ok(Next::Broken)
            }
        }
    }
}

fn at_size(case: &Case, size: u64) -> Case {
    let mut case = case.clone();
    case.params.size = size;
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

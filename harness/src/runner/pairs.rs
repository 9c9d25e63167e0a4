//! What happens when a trial or a cluster fails where two arms are measured in pairs: the pair, or the
//! rest of that making of the clusters, is missing, and the comparison goes on.
//!
//! Owns which pairs are whole and from when on a case is given up. Called by the run.

use super::Run;
use crate::plan::Scheduled;
use anyhow::Result;
use cnibench_model::{Case, CaseId, CellStatus, CniSpec, PairSlot};
use std::collections::{HashMap, HashSet};

/// Whole pairs from which on a case counts as measured although others failed: fewer give no interval.
pub(super) const ENOUGH: usize = 3;
/// Trials that break before any was measured, after which a case is given up.
const HOPELESS: u32 = 3;

/// What became of pairs so far.
#[derive(Default)]
pub(super) struct Kept {
    /// The blocks of each case that have a trial.
    measured: HashMap<CaseId, HashSet<u32>>,
    /// Trials of each case that broke.
    broken: HashMap<CaseId, u32>,
    /// Makings of the clusters in which nothing more is measured, with the cnis that failed in them.
    lost: HashMap<u32, HashSet<CniSpec>>,
}

/// What becomes of a case whose partner in its pairs was not measured.
pub(super) fn without(twin: &Case) -> CellStatus {
    let reason = format!("{} was not measured, and this is measured in pairs with it", twin.id);
    CellStatus::Skipped { reason }
}

impl Run<'_> {
    /// Which making of the clusters a group belongs to; none where nothing is measured in pairs.
    pub(super) fn making_of(&self, group: usize) -> Option<u32> {
        let first = self.plan.schedule.iter().find(|s| s.group == group)?;
        first.arm.map(|slot| slot.rebuild)
    }

    /// Is nothing more measured in a making?
    pub(super) fn is_lost(&self, making: Option<u32>) -> bool {
        making.is_some_and(|making| self.pairs.lost.contains_key(&making))
    }

    /// Did a cni fail in a making?
    pub(super) fn is_dead(&self, cni: &CniSpec, making: Option<u32>) -> bool {
        let failed = making.and_then(|making| self.pairs.lost.get(&making));
        failed.is_some_and(|failed| failed.contains(cni))
    }

    /// The case of the other arm.
    pub(super) fn twin(&self, case: &Case) -> Option<&Case> {
        let pairing = self.plan.pairing.as_ref()?;
        let arms = [&pairing.baseline, &pairing.candidate];
        let other = arms.into_iter().find(|c| **c != case.cni)?;
        self.plan.cases.iter().find(|c| c.cni == *other && c.series() == case.series())
    }

    /// Pairs of a case of which both trials were measured.
    pub(super) fn whole_pairs(&self, case: &Case) -> usize {
        let blocks = |case: &Case| self.pairs.measured.get(&case.id);
        let both = self.twin(case).and_then(|twin| Some((blocks(case)?, blocks(twin)?)));
        both.map_or(0, |(own, other)| own.intersection(other).count())
    }

    pub(super) fn pair_measured(&mut self, case: &Case, scheduled: &Scheduled) {
        if scheduled.arm.is_some() {
            self.pairs.measured.entry(case.id.clone()).or_default().insert(scheduled.block);
        }
    }

    /// One trial of a pair broke: the other pairs are measured all the same, unless none ever was.
    pub(super) fn pair_broke(
        &mut self,
        case: &Case,
        slot: PairSlot,
        status: CellStatus,
    ) -> Result<()> {
        let broken = self.pairs.broken.entry(case.id.clone()).or_default();
        *broken += 1;
        if *broken >= HOPELESS && !self.pairs.measured.contains_key(&case.id) {
            return self.end(case, status);
        }
        if let CellStatus::Failed { reason, .. } = &status {
            let (pair, making) = (slot.pair + 1, slot.rebuild + 1);
            self.note(format!("{}: pair {pair} of making {making} failed: {reason}", case.id))?;
        }
        self.missed.entry(case.id.clone()).or_insert(status);
        Ok(())
    }

    /// A cluster did not come up, or died. In pairs the next making has a new one; without, this ends
    /// every case of the cni.
    pub(super) fn cni_lost(
        &mut self,
        cni: &CniSpec,
        making: Option<u32>,
        status: &CellStatus,
    ) -> Result<()> {
        let (Some(making), CellStatus::Failed { reason, .. }) = (making, status) else {
            return self.end_cni(cni, status);
        };
        let failed = self.pairs.lost.entry(making).or_default();
        if !failed.insert(cni.clone()) {
            return Ok(());
        }
        self.note(format!(
            "making {}: {cni} failed, and the rest of this making was not measured: {reason}",
            making + 1
        ))?;
        let plan = self.plan;
        for case in &plan.cases {
            let status = match self.twin(case) {
                Some(twin) if case.cni != *cni => without(twin),
                _ => status.clone(),
            };
            self.missed.entry(case.id.clone()).or_insert(status);
        }
        Ok(())
    }
}

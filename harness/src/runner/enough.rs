//! When enough pairs were measured: the answer of a case is clear, or the time that was given is over.
//!
//! Owns when it is asked and what becomes of cases then; judges nothing itself (see [`Referee`]). Called
//! by the run.

use super::{Run, pairs::ENOUGH};
use crate::plan::{Plan, Scheduled};
use anyhow::Result;
use cnibench_model::{Case, CellStatus, SeriesKey, Trial};
use std::time::{Duration, Instant};

/// Whoever judges pairs while they are measured.
pub trait Referee: Send {
    /// A trial of a pair was measured.
    fn measured(&mut self, trial: &Trial);
    /// So many makings of the clusters are over, and it was planned to look now: cases whose answer is
    /// clear, which are not measured any more, each with what is clear.
    fn look(&mut self, makings: u32) -> Vec<(SeriesKey, String)>;
}

/// What may end a run of pairs before its plan does.
#[derive(Default)]
pub struct Limits {
    /// Ends cases whose answer is clear.
    pub referee: Option<Box<dyn Referee>>,
    /// From the beginning of the run until its report; none: as long as it takes.
    pub max_time: Option<Duration>,
}

/// A run's limits and what they did so far.
pub(super) struct Enough {
    limits: Limits,
    began: Instant,
    /// What bringing up the clusters of one making took, the longest so far.
    up: Duration,
    /// The time that was given is over.
    pub(super) late: bool,
}

impl Enough {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, began: Instant::now(), up: Duration::ZERO, late: false }
    }

    pub(super) fn measured(&mut self, trial: &Trial) {
        if let Some(referee) = self.limits.referee.as_mut().filter(|_| trial.pair.is_some()) {
            referee.measured(trial);
        }
    }

    /// Clusters came up that were begun at this moment.
    pub(super) fn came_up(&mut self, begun: Instant) {
        self.up = self.up.max(begun.elapsed());
    }

    /// Would work of this length end, with everything taken down and reported, after the time is over?
    fn too_long(&self, work: Duration) -> bool {
        let Some(limit) = self.limits.max_time else { return false };
        // Taking down proves again and waits for daemons: about as long as coming up.
        let after = self.up + Duration::from_secs_f64(crate::plan::REPORT_S);
        self.began.elapsed() + work + after > limit
    }
}

impl Run<'_> {
    /// Is there no time to begin this? Says so once. Pairs are begun only when they can be ended.
    pub(super) fn is_late(&mut self, next: &Scheduled) -> Result<bool> {
        if self.enough.late {
            return Ok(true);
        }
        let (plan, Some(slot)) = (self.plan, next.arm) else { return Ok(false) };
        let adjacent = plan.pairing.as_ref().is_some_and(|p| p.adjacent);
        if !adjacent || slot.order.arms()[0] != slot.arm {
            return Ok(false);
        }
        let pair = 2.0 * Plan::trial_s(&plan.cases[next.case]);
        self.late_for(Duration::from_secs_f64(pair))
    }

    /// Is there no time to make the clusters of a group, and to measure one pair of every open case?
    pub(super) fn is_late_for_group(&mut self, number: usize) -> Result<bool> {
        let plan = self.plan;
        let Some(pairing) = plan.pairing.as_ref() else { return Ok(false) };
        let of_group = || plan.schedule.iter().filter(move |s| s.group == number);
        let first = of_group().next().and_then(|s| s.arm);
        if !pairing.adjacent && first.is_some_and(|s| s.order.arms()[0] != s.arm) {
            // The other arm of this making is measured: alone it would be of no use.
            return Ok(self.enough.late);
        }
        let trial = |s: &Scheduled| Plan::trial_s(&plan.cases[s.case]);
        let open = |s: &&Scheduled| !self.ends.contains_key(&plan.cases[s.case].id);
        let work: f64 = match pairing.adjacent {
            true => of_group().filter(|s| s.arm.is_some_and(|a| a.pair == 0)).filter(open).map(trial).sum(),
            // Pairs are whole when both arms were measured: all or nothing.
            false => 2.0 * of_group().filter(open).map(trial).sum::<f64>(),
        };
        let up = if pairing.adjacent { self.enough.up } else { 3 * self.enough.up };
        self.late_for(up + Duration::from_secs_f64(work))
    }

    fn late_for(&mut self, work: Duration) -> Result<bool> {
        if !self.enough.late && self.enough.too_long(work) {
            self.enough.late = true;
            let limit = self.enough.limits.max_time.unwrap_or_default().as_secs_f64();
            self.note(format!(
                "--max-time: {} are over before all pairs that were planned were measured",
                super::progress::human(limit)
            ))?;
        }
        Ok(self.enough.late)
    }

    /// After a making: ends the cases whose answer is clear.
    pub(super) fn look(&mut self, number: usize) -> Result<()> {
        let plan = self.plan;
        let Some(pairing) = plan.pairing.as_ref() else { return Ok(()) };
        let (Some(making), next) = (self.making_of(number), self.making_of(number + 1)) else {
            return Ok(());
        };
        let makings = making + 1;
        if next == Some(making) || makings >= pairing.rebuilds || !pairing.looks.contains(&makings) {
            return Ok(());
        }
        let Some(referee) = self.enough.limits.referee.as_mut() else { return Ok(()) };
        for (series, what) in referee.look(makings) {
            let open = plan.cases.iter().filter(|c| c.series() == series);
            let open: Vec<&Case> = open.filter(|c| !self.ends.contains_key(&c.id)).collect();
            if open.is_empty() {
                continue;
            }
            self.note(format!(
                "{series}: clear after {makings} of {} makings, and not measured any more: {what}",
                pairing.rebuilds
            ))?;
            for case in open {
                self.end_quietly(case, CellStatus::Measured)?;
            }
        }
        Ok(())
    }

    /// What a case is whose pairs ended since the time was over.
    pub(super) fn cut_short(&self, case: &Case) -> CellStatus {
        match self.whole_pairs(case) >= ENOUGH {
            true => CellStatus::Measured,
            false => CellStatus::Interrupted {
                reason: "the time that was given (--max-time) was over".to_owned(),
            },
        }
    }
}

//! When enough pairs were measured: the answer is clear, or the time that was given is over.
//!
//! Owns when it is asked and what becomes of cases then; judges nothing itself (see [`Referee`]). Called
//! by the run.

use super::{Run, pairs::ENOUGH};
use crate::plan::{Plan, Scheduled};
use anyhow::Result;
use cnibench_model::{Case, CellStatus, Trial};
use std::time::{Duration, Instant};

/// Whoever judges pairs while they are measured.
pub trait Referee: Send {
    /// A trial of a pair was measured.
    fn measured(&mut self, trial: &Trial);
    /// So many makings of the clusters are over, and it was planned to look now: is the answer clear,
    /// so that nothing more need be measured? Then what is clear, in words.
    fn look(&mut self, makings: u32) -> Option<String>;
}

/// What may end a run of pairs before its plan does.
#[derive(Default)]
pub struct Limits {
    /// Ends a run whose answer is clear.
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
    /// Why no more pairs are begun; none: they are.
    end: Option<End>,
}

/// Why a run of pairs ends before its plan does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The answer is clear.
    Clear,
    /// The time that was given is over.
    Late,
}

impl Enough {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, began: Instant::now(), up: Duration::ZERO, end: None }
    }

    /// Did it end before its plan?
    pub(super) fn ended(&self) -> Option<End> {
        self.end
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
    /// Is this not begun any more? Pairs are begun only when there is time to end them.
    pub(super) fn is_enough(&mut self, next: &Scheduled) -> Result<bool> {
        if self.enough.end.is_some() {
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

    /// Are the clusters of a group not made any more? Only when there is time to measure one pair of
    /// every open case on them.
    pub(super) fn is_enough_for(&mut self, number: usize) -> Result<bool> {
        let plan = self.plan;
        let Some(pairing) = plan.pairing.as_ref() else { return Ok(false) };
        let of_group = || plan.schedule.iter().filter(move |s| s.group == number);
        let first = of_group().next().and_then(|s| s.arm);
        if !pairing.adjacent && first.is_some_and(|s| s.order.arms()[0] != s.arm) {
            // The other arm of this making is measured: alone it would be of no use.
            return Ok(self.enough.end.is_some());
        }
        let trial = |s: &Scheduled| Plan::trial_s(&plan.cases[s.case]);
        let open = |s: &&Scheduled| !self.ends.contains_key(&plan.cases[s.case].id);
        let work: f64 = match pairing.adjacent {
            true => of_group()
                .filter(|s| s.arm.is_some_and(|a| a.pair == 0))
                .filter(open)
                .map(trial)
                .sum(),
            // Pairs are whole when both arms were measured: all or nothing.
            false => 2.0 * of_group().filter(open).map(trial).sum::<f64>(),
        };
        let up = if pairing.adjacent { self.enough.up } else { 3 * self.enough.up };
        self.late_for(up + Duration::from_secs_f64(work))
    }

    fn late_for(&mut self, work: Duration) -> Result<bool> {
        if self.enough.end.is_none() && self.enough.too_long(work) {
            self.enough.end = Some(End::Late);
            let limit = self.enough.limits.max_time.unwrap_or_default().as_secs_f64();
            self.note(format!(
                "the time that was given ({}, --max-time) was over before all pairs that were planned were measured",
                super::progress::human(limit)
            ))?;
        }
        Ok(self.enough.end.is_some())
    }

    /// After a making: asks whether the answer is clear, where it was planned to.
    pub(super) fn look(&mut self, number: usize) -> Result<()> {
        let Some(pairing) = self.plan.pairing.as_ref() else { return Ok(()) };
        let (Some(making), next) = (self.making_of(number), self.making_of(number + 1)) else {
            return Ok(());
        };
        let makings = making + 1;
        let due =
            next != Some(making) && makings < pairing.rebuilds && pairing.looks.contains(&makings);
        let referee = self.enough.limits.referee.as_mut();
        let Some(referee) = referee.filter(|_| due && self.enough.end.is_none()) else {
            return Ok(());
        };
        let Some(what) = referee.look(makings) else { return Ok(()) };
        self.enough.end = Some(End::Clear);
        self.note(format!("ended after {makings} of {} makings: {what}", pairing.rebuilds))
    }

    /// What a case is of which not all pairs were begun.
    pub(super) fn cut_short(&self, case: &Case, end: End) -> CellStatus {
        let reason = match end {
            _ if self.whole_pairs(case) >= ENOUGH => return CellStatus::Measured,
            End::Clear => "the answer was clear without it",
            End::Late => "the time that was given (--max-time) was over",
        };
        CellStatus::Interrupted { reason: reason.to_owned() }
    }
}

//! Changes of keys under load: after the measured trials of a group of clusters, trials of the same cases
//! during which the keys of all nodes are changed, each with its course over time.
//!
//! Owns the trials and the moments of the changes. What a change is, is the cni's ([`crate::cni::keys`]);
//! what it cost is the report's to say. A cni that does not encrypt has the same trials without a change:
//! what a machine does by itself is seen in them. Nothing that fails here makes a measured cell fail.

use super::{
    Run,
    arms::{Arms, failed_proof},
    trial::{Broken, Slot, TrialError},
};
use crate::{
    cni::keys::{self, Holder},
    interrupt::{Interrupt, Urgency},
};
use anyhow::Result;
use cnibench_model::{Case, JournalLine, Rotation, RotationTrial, Trial};
use jiff::Timestamp;
use std::time::{Duration, Instant};

impl Run<'_> {
    /// The timelines of the cases that were measured in this group of clusters. Cnis take turns.
    pub(super) async fn rotations(
        &mut self,
        group: usize,
        arms: &mut Arms,
        interrupt: &mut Interrupt,
        sequence: &mut u32,
    ) -> Result<()> {
        let plan = self.plan;
        let mut due: Vec<(&Case, u32)> = Vec::new();
        for case in &plan.cases {
            let Some((_, times)) = plan.rotations.iter().find(|(id, _)| *id == case.id) else {
                continue;
            };
            let here = plan.groups[group].contains(&case.cni) && arms.get(&case.cni).is_some();
            let measured = self.left.get(&case.id).is_some_and(|left| *left == 0);
            if here && measured && !self.rotated.contains(&case.id) {
                self.rotated.push(case.id.clone());
                due.push((case, *times));
            }
        }
        let most = due.iter().map(|(case, _)| case.trials).max().unwrap_or(0);
        for index in 0..most {
            let mut broken = Vec::new();
            for (case, times) in due.iter().filter(|(case, _)| index < case.trials) {
                if interrupt.urgency() != Urgency::None {
                    return Ok(());
                }
                self.progress.phase(&format!("changing keys: {}", case.id));
                let slot = Slot { index, block: index, sequence: *sequence, pair: None };
                *sequence += 1;
                let Some(arm) = arms.get(&case.cni) else { continue };
                let taken = tokio::select! {
                    biased;
                    taken = async {
                        arm.surround(case).await.map_err(|e| e.to_string())?;
                        let taken = arm.rotated(case, slot, *times).await;
                        let rotated = taken.map_err(|e| e.to_string())?;
                        match failed_proof(&rotated.trial.proofs) {
                            Some(_) => Err("a trial was not proved to be encrypted".to_owned()),
                            None => Ok(rotated),
                        }
                    } => taken,
                    () = interrupt.wait() => {
                        arm.forget_agents().await;
                        return Ok(());
                    }
                };
                match taken {
                    Ok(rotated) => self.journal.append(&JournalLine::Rotated(Box::new(rotated)))?,
                    Err(reason) => {
                        arm.forget_agents().await;
                        broken.push(case.id.clone());
                        self.note(format!(
                            "{}: no timeline of changes of keys: {reason}",
                            case.id
                        ))?;
                    }
                }
            }
            due.retain(|(case, _)| !broken.contains(&case.id));
        }
        Ok(())
    }
}

/// Changes keys while a trial is made.
pub(super) async fn around(
    case: &Case,
    holders: Option<Vec<Holder>>,
    times: u32,
    trial: impl Future<Output = Vec<Result<Trial, TrialError>>>,
) -> Result<RotationTrial, TrialError> {
    let begun = Instant::now();
    let how = holders.as_ref().and_then(|all| Some(all.first()?.keys.describe().to_owned()));
    let turning = async {
        match holders {
            Some(holders) => turn(case, holders, times, begun).await,
            None => Ok(Vec::new()),
        }
    };
    let (trials, turned) = tokio::join!(trial, turning);
    let trial = trials
        .into_iter()
        .next()
        .unwrap_or_else(|| Err(TrialError::NotOffered("there was no trial".to_owned())))?;
    let broken =
        |reason| TrialError::Broken(Broken { short: "keys not changed".to_owned(), reason });
    let turned = turned.map_err(|e| broken(format!("changing keys: {e:#}")))?;
    let opened = trial
        .window_opened
        .ok_or_else(|| broken("the trial does not say when its window opened".to_owned()))?;
    let rotation = |(begun, took): (Timestamp, Duration)| Rotation {
        begun,
        at_s: begun.duration_since(opened).as_secs_f64(),
        took_s: took.as_secs_f64(),
    };
    let rotations = turned.into_iter().map(rotation).collect();
    Ok(RotationTrial { case: case.id.clone(), how, rotations, trial })
}

/// Changes the keys at moments that cut the window into equal parts.
async fn turn(
    case: &Case,
    mut holders: Vec<Holder>,
    times: u32,
    begun: Instant,
) -> Result<Vec<(Timestamp, Duration)>> {
    let mut done = Vec::new();
    for number in 1..=times {
        let share = f64::from(number) / f64::from(times + 1);
        let at = Duration::from_secs_f64(case.warmup_s + case.duration_s * share);
        tokio::time::sleep_until((begun + at).into()).await;
        let (when, start) = (Timestamp::now(), Instant::now());
        keys::rotate(&mut holders).await?;
        done.push((when, start.elapsed()));
    }
    Ok(done)
}

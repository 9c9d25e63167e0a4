//! Guests that do what they will be asked before they are asked.
//!
//! A clock that counts instructions does not see what else its machine does, so that guests may run side by
//! side, and nothing is lost when one does its trials before their turn. Owns what is planned for each guest
//! and the answers that wait to be asked for; who asks gets them as if they were given at that moment.
//! Called by the provider and its clusters; the order of the answers in the record is the runner's.

use super::{
    cluster::{VmCluster, measure, patience},
    console::Console,
    wire::{Answer, Ask},
};
use crate::{
    cluster::ClusterError,
    plan::{Plan, Scheduled},
};
use anyhow::anyhow;
use cnibench_model::{Case, CniSpec, Surroundings};
use std::{collections::VecDeque, sync::Arc};
use tokio::{
    sync::{
        Semaphore,
        mpsc::{UnboundedReceiver, unbounded_channel},
    },
    task::JoinHandle,
};

/// Everything that a guest will be asked after it came up.
#[derive(Debug, Clone)]
pub struct Errand {
    /// Of which cni.
    pub cni: CniSpec,
    /// The questions, in order.
    pub asks: Vec<Ask>,
}

/// A guest that comes up.
pub type Begun = JoinHandle<Result<VmCluster, ClusterError>>;

/// Guests begun before their turn, beside the one whose turn it is.
const EARLY: usize = 3;

/// The guests of a plan that were not asked for yet, in the order in which they will be.
#[derive(Default)]
pub struct Line(VecDeque<Place>);

enum Place {
    Waiting(Errand),
    Begun(CniSpec, Option<Begun>),
}

impl Place {
    fn cni(&self) -> &CniSpec {
        match self {
            Self::Waiting(errand) => &errand.cni,
            Self::Begun(cni, _) => cni,
        }
    }

    fn begin(&mut self, begin: impl FnOnce(Errand) -> Begun) {
        if let Self::Waiting(errand) = self {
            let errand = errand.clone();
            *self = Self::Begun(errand.cni.clone(), Some(begin(errand)));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::Begun(_, Some(begun)) = self {
            begun.abort();
        }
    }
}

impl Line {
    /// Of a plan: each making of each cni, with its proofs and its trials. What is done beside trials (pairs
    /// with probes, ladders) is not foreseen, nor is what comes after that.
    pub fn of(plan: &Plan) -> Self {
        let beside = plan.probe_pairs.is_some() || !plan.ladders.is_empty();
        let usual = |c: &Case| c.surroundings == Surroundings::default();
        let simple = plan.cases.iter().all(usual);
        let errand = |(group, cni): (usize, &CniSpec)| {
            let own = |s: &&Scheduled| s.group == group && plan.cases[s.case].cni == *cni;
            let trials = plan.schedule.iter().filter(own).map(|s| measure(&plan.cases[s.case]));
            let mut asks = vec![Ask::Prove];
            if simple {
                asks.extend(trials);
            }
            if simple && !beside {
                asks.extend([Ask::Inspect, Ask::Prove]);
            }
            Place::Waiting(Errand { cni: cni.clone(), asks })
        };
        let guests = plan.groups.iter().enumerate();
        let guests = guests.flat_map(|(group, cnis)| cnis.iter().map(move |cni| (group, cni)));
        Self(guests.map(errand).collect())
    }

    /// The guest of this cni, whose turn it is; those before it were given up. The next ones are begun.
    pub fn take(&mut self, cni: &CniSpec, begin: impl Fn(Errand) -> Begun) -> Option<Begun> {
        let place = self.0.iter().position(|place| place.cni() == cni)?;
        self.0.drain(..place);
        let mut own = self.0.pop_front()?;
        own.begin(&begin);
        self.0.iter_mut().take(EARLY).for_each(|place| place.begin(&begin));
        match &mut own {
            Place::Begun(_, begun) => begun.take(),
            Place::Waiting(_) => None,
        }
    }

    /// Gives all of them up.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Answers of one guest, some of them not given yet.
#[derive(Debug)]
pub struct Ahead {
    /// What they are answers to.
    asked: VecDeque<String>,
    answers: UnboundedReceiver<anyhow::Result<Answer>>,
    worker: JoinHandle<()>,
}

impl Ahead {
    /// Asks a guest all of this, one after the other. At any time as many guests answer as `places` has
    /// permits.
    pub fn begin(console: Arc<Console>, asks: Vec<Ask>, places: Arc<Semaphore>) -> Self {
        let (answered, answers) = unbounded_channel();
        let asked = asks.iter().map(words).collect();
        let worker = tokio::spawn(async move {
            for ask in asks {
                let Ok(_place) = places.acquire().await else { return };
                let patience = patience(&ask);
                if answered.send(console.ask(ask, patience).await).is_err() {
                    return;
                }
            }
        });
        Self { asked, answers, worker }
    }

    /// The answer to this question; none where it was not foreseen. What was foreseen before it and never
    /// asked for is left out.
    pub async fn answer(&mut self, ask: &Ask) -> Option<anyhow::Result<Answer>> {
        let words = words(ask);
        let place = self.asked.iter().position(|known| *known == words)?;
        self.asked.drain(..=place);
        let mut answer = None;
        for _ in 0..=place {
            let next = self.answers.recv().await;
            answer = Some(next.unwrap_or_else(|| Err(anyhow!("the guest was asked no more"))));
        }
        answer
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

/// A question as it is told from others.
fn words(ask: &Ask) -> String {
    serde_json::to_string(ask).unwrap_or_default()
}

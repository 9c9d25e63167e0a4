//! The observers of a trial's nodes: started when they are first needed, kept for the next trial.
//!
//! What they measure is put together by `trial`; which places have one is the cluster's to say.

use crate::{
    cluster::{Cluster, Place},
    exec::Observer,
};
use cnibench_model::Case;
use std::{collections::HashMap, time::Duration};

/// How long an observer may take to answer once its window is over.
const ANSWER: Duration = Duration::from_secs(5);

/// The observers of a trial's nodes.
pub(super) struct Eyes {
    /// One for each machine, in the order of their places.
    pub(super) open: Vec<Observer>,
    places: Vec<Place>,
    /// Those that are not used here.
    others: HashMap<Place, Option<Observer>>,
    /// What the trial must say of those that are not there.
    pub(super) warnings: Vec<String>,
}

impl Eyes {
    /// Starts those that are not there. Of two on one machine (nodes of kind) one sees everything.
    pub(super) async fn open(
        cluster: &dyn Cluster,
        known: Vec<(Place, Option<Option<Observer>>)>,
    ) -> Self {
        let mut eyes = Self {
            open: Vec::new(),
            places: Vec::new(),
            others: HashMap::new(),
            warnings: Vec::new(),
        };
        for (place, known) in known {
            let observer = match known {
                Some(observer) => observer,
                None => match Self::start(cluster, &place).await {
                    Ok(observer) => Some(observer),
                    // Told once: without one a trial is no worse, and says what it does not see.
                    Err(e) => {
                        eyes.warnings.push(format!("no observer of the node: {e:#}"));
                        None
                    }
                },
            };
            match observer {
                Some(one) if eyes.open.iter().all(|o| o.machine() != one.machine()) => {
                    eyes.open.push(one);
                    eyes.places.push(place);
                }
                other => drop(eyes.others.insert(place, other)),
            }
        }
        eyes
    }

    async fn start(cluster: &dyn Cluster, place: &Place) -> anyhow::Result<Observer> {
        let link = cluster.observe(place).await?;
        Ok(Observer::start(&place.label, link).await?)
    }

    /// For the next trial; those that did not answer are started again.
    pub(super) async fn back(self) -> HashMap<Place, Option<Observer>> {
        let mut all = self.others;
        for (place, observer) in self.places.into_iter().zip(self.open) {
            if observer.is_answering() {
                all.insert(place, Some(observer));
            } else {
                observer.stop().await;
            }
        }
        all
    }

    pub(super) async fn stop(mut self, case: &Case) {
        // One that is killed in its window would look like a connection that was lost.
        let limit = Duration::from_secs_f64(case.warmup_s + case.duration_s) + ANSWER;
        for observer in self.open.iter_mut().filter(|o| !o.is_answering()) {
            let _ = observer.measured_cpu(limit).await;
        }
        let others = self.others.into_values().flatten();
        for observer in self.open.into_iter().chain(others) {
            observer.stop().await;
        }
    }
}

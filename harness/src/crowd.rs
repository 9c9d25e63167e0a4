//! What else was using the machine during a run, in sentences for the record.
//!
//! Judges nothing: a crowded machine is still measured, and the reader is told.

use crate::{cluster::netns::CleanReport, tell::counted};
use std::collections::BTreeSet;

/// What is known of a run's neighbours so far.
#[derive(Debug)]
pub struct Crowd {
    /// Runs that need no (further) mention, this one among them.
    known: BTreeSet<String>,
}

impl Crowd {
    /// For the run with this id.
    pub fn new(own_id: &str) -> Self {
        Self { known: BTreeSet::from([own_id.to_owned()]) }
    }

    /// Other runs that are alive and were not mentioned before. Look again at the end of a run:
    /// the other one may have started later.
    pub fn newcomers(&mut self, seen: &CleanReport) -> Vec<String> {
        let ids = seen.kept.iter().map(|id| id.as_str().to_owned());
        ids.filter(|id| self.known.insert(id.clone()))
            .map(|id| {
                format!("run {id} used this machine at the same time: these numbers compare with nothing")
            })
            .collect()
    }

    /// A word on a machine that was busy when the run began: 1-minute load average and CPUs. A run
    /// right after another one is not meant: that leaves a load of about 1.
    pub fn load(&self, load: f64, cpus: u32) -> Vec<String> {
        if load <= f64::from(cpus) * 0.75 {
            return Vec::new();
        }
        vec![format!(
            "the machine was busy when the run began (load {load:.1} on {}): expect wide intervals and a CPU cost that includes other work",
            counted(cpus as usize, "CPU")
        )]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::netns::RunId;

    #[test]
    fn a_neighbour_is_mentioned_once_and_the_run_itself_never() {
        let id = |name: &str| RunId::of_name(&format!("cnb-{name}-c0-n0")).unwrap();
        let seen = CleanReport { kept: vec![id("aaaaaa"), id("bbbbbb")], ..CleanReport::default() };
        let mut crowd = Crowd::new("aaaaaa");
        let first = crowd.newcomers(&seen);
        assert!(first.len() == 1 && first[0].contains("bbbbbb"), "{first:?}");
        assert!(crowd.newcomers(&seen).is_empty());
    }

    #[test]
    fn load_counts_per_cpu() {
        let crowd = Crowd::new("aaaaaa");
        assert!(crowd.load(1.2, 2).is_empty());
        assert_eq!(crowd.load(3.0, 2).len(), 1);
    }
}

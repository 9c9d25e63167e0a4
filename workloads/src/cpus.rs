//! Which CPU the threads of a flow run on, and putting them there.
//!
//! [`assign`] is the controller's choice for a task; pinning is done by the flow threads themselves.

use crate::error::TrialError;
use cnibench_model::Pinning;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The highest CPU number that a thread can be pinned to.
pub const HIGHEST: u32 = CpuSet::MAX_CPU as u32 - 1;

/// The CPUs for the client's and the server's flow threads; flow `i` runs on element `i % len`.
///
/// The list is used in its order: which CPU of a machine a single flow runs on made no difference
/// that repeated (ten interleaved pairs of TCP_RR with one CPU taking the disk's interrupts: medians
/// 0.7 % apart, each ahead in about half of the pairs).
///
/// `allowed` are the CPUs that the agents may use, from both ends' `Hello`. `Same`: both ends of a
/// flow share a CPU. `Split`: disjoint halves; with a single allowed CPU there is nothing to split
/// and both ends share it, which [`crate::outcome::combine`] warns about. `None`, and an empty
/// `allowed`: unpinned.
pub fn assign(pinning: Pinning, allowed: &[u32]) -> (Vec<u32>, Vec<u32>) {
    match (pinning, allowed) {
        (Pinning::None, _) | (_, []) => (Vec::new(), Vec::new()),
        (Pinning::Same, all) | (Pinning::Split, all @ [_]) => (all.to_vec(), all.to_vec()),
        (Pinning::Split, all) => {
            let (client, server) = all.split_at(all.len() / 2);
            (client.to_vec(), server.to_vec())
        }
    }
}

/// The CPU of flow `flow`, if the list pins.
pub(crate) fn of_flow(cpus: &[u32], flow: u32) -> Option<u32> {
    cpus.get(flow as usize % cpus.len().max(1)).copied()
}

/// CPUs that the calling thread may run on, in ascending order.
pub(crate) fn allowed() -> Vec<u32> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..=HIGHEST).filter(|&c| set.is_set(c as usize)).collect()
}

/// Pins the calling thread and makes sure that the kernel did it.
pub(crate) fn pin(cpu: u32) -> Result<(), TrialError> {
    let mut set = CpuSet::new();
    set.set(cpu as usize);
    match sched_setaffinity(None, &set) {
        Ok(()) if allowed() == [cpu] => Ok(()),
        result => Err(TrialError::BadTask(format!(
            "cpus: a flow cannot be pinned to CPU {cpu} ({}); this agent may use {:?}",
            result.err().map_or_else(|| "the kernel ignored it".to_owned(), |e| e.to_string()),
            allowed()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_shares_and_split_does_not() {
        let all = [0, 1, 4, 5];
        assert_eq!(assign(Pinning::Same, &all), (all.to_vec(), all.to_vec()));
        assert_eq!(assign(Pinning::Split, &all), (vec![0, 1], vec![4, 5]));
        assert_eq!(assign(Pinning::Split, &all[..3]), (vec![0], vec![1, 4]));
        assert_eq!(assign(Pinning::None, &all), (vec![], vec![]));
    }

    #[test]
    fn one_cpu_cannot_be_split_and_none_cannot_be_pinned() {
        assert_eq!(assign(Pinning::Split, &[3]), (vec![3], vec![3]));
        for p in [Pinning::Same, Pinning::Split, Pinning::None] {
            assert_eq!(assign(p, &[]), (vec![], vec![]));
        }
    }

    #[test]
    fn flows_go_round() {
        let of = |flow| of_flow(&[7, 9], flow);
        assert_eq!((of(0), of(1), of(2)), (Some(7), Some(9), Some(7)));
        assert_eq!(of_flow(&[], 5), None);
    }

    #[test]
    fn pinning_takes_effect_and_a_foreign_cpu_is_refused() {
        let cpu = *allowed().last().unwrap();
        std::thread::spawn(move || {
            pin(cpu).unwrap();
            assert_eq!(allowed(), [cpu]);
            let text = pin(HIGHEST).unwrap_err().to_string();
            assert!(text.contains(&HIGHEST.to_string()), "{text}");
        })
        .join()
        .unwrap();
    }
}

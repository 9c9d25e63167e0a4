//! Which CPU the threads of a flow run on, and putting them there.
//!
//! [`assign`] is the controller's choice for a task; pinning is done by the flow threads themselves.

use crate::error::TrialError;
use cnibench_model::Pinning;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The highest CPU number that a thread can be pinned to.
pub const HIGHEST: u32 = CpuSet::MAX_CPU as u32 - 1;

/// What one end may use, from its agent's `Hello`.
#[derive(Debug, Clone, Copy)]
pub struct Allowed<'a> {
    /// CPUs that its agent may run on.
    pub cpus: &'a [u32],
    /// The machine's boot id; empty: not known, and then no other end's.
    pub machine: &'a str,
}

/// The CPUs for the client's and the server's flow threads; flow `i` runs on element `i % len`.
///
/// The lists are used in their order: which CPU of a machine a single flow runs on made no difference
/// that repeated (ten interleaved pairs of TCP_RR with one CPU taking the disk's interrupts: medians
/// 0.7 % apart, each ahead in about half of the pairs).
///
/// On two machines every end uses all that it may: CPUs of the same number are not the same.
/// On one machine, `Same`: both ends of a flow share a CPU, one of those that both may use; where
/// there is none (each end has CPUs of its own) every end uses its own. `Split`: no CPU is used by
/// both; what only one end may use is that end's, the rest is halved. With a single CPU allowed
/// there is nothing to split and both ends share it, which [`crate::outcome::combine`] warns about.
/// `None`, and an end that may use no known CPU: unpinned.
pub fn assign(pinning: Pinning, client: Allowed<'_>, server: Allowed<'_>) -> (Vec<u32>, Vec<u32>) {
    if pinning == Pinning::None || client.cpus.is_empty() || server.cpus.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let (own_client, common): (Vec<u32>, Vec<u32>) =
        client.cpus.iter().partition(|cpu| !server.cpus.contains(cpu));
    let one_machine = !client.machine.is_empty() && client.machine == server.machine;
    if !one_machine || common.is_empty() {
        return (client.cpus.to_vec(), server.cpus.to_vec());
    }
    if pinning == Pinning::Same {
        return (common.clone(), common);
    }
    let own_server: Vec<u32> =
        server.cpus.iter().copied().filter(|cpu| !client.cpus.contains(cpu)).collect();
    // The one that does without its own CPUs first gets the larger part of the common ones.
    let half = match (own_client.is_empty(), own_server.is_empty(), common.len()) {
        (true, true, 1) => return (common.clone(), common),
        (true, true, n) => n / 2,
        (true, false, n) => n.div_ceil(2),
        (false, _, n) => n / 2,
    };
    let (to_client, to_server) = common.split_at(half);
    ([&own_client, to_client].concat(), [to_server, &own_server].concat())
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

/// Lets the calling thread, and what it starts, run on these CPUs only (an empty list: as before), and
/// gives those that it had.
pub(crate) fn confine(cpus: &[u32]) -> Result<CpuSet, TrialError> {
    let doing = "reading the CPUs that this thread may run on";
    let before = sched_getaffinity(None).map_err(|e| TrialError::system(doing, e))?;
    if !cpus.is_empty() {
        let mut set = CpuSet::new();
        cpus.iter().for_each(|&cpu| set.set(cpu as usize));
        sched_setaffinity(None, &set).map_err(|e| {
            TrialError::BadTask(format!(
                "cpus: a program cannot be confined to CPUs {cpus:?} ({e}); this agent may use {:?}",
                allowed()
            ))
        })?;
    }
    Ok(before)
}

/// Undoes [`confine`].
pub(crate) fn release(before: &CpuSet) {
    // What was allowed before is allowed now; a CPU that was unplugged in between is not missed.
    let _ = sched_setaffinity(None, before);
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

    type Lists = (Vec<u32>, Vec<u32>);

    fn here(pinning: Pinning, client: &[u32], server: &[u32]) -> Lists {
        let of = |cpus| Allowed { cpus, machine: "a" };
        assign(pinning, of(client), of(server))
    }

    #[test]
    fn same_shares_and_split_does_not() {
        let all = [0, 1, 4, 5];
        assert_eq!(here(Pinning::Same, &all, &all), (all.to_vec(), all.to_vec()));
        assert_eq!(here(Pinning::Split, &all, &all), (vec![0, 1], vec![4, 5]));
        assert_eq!(here(Pinning::Split, &all[..3], &all[..3]), (vec![0], vec![1, 4]));
        assert_eq!(here(Pinning::None, &all, &all), (vec![], vec![]));
    }

    #[test]
    fn one_cpu_cannot_be_split_and_none_cannot_be_pinned() {
        assert_eq!(here(Pinning::Split, &[3], &[3]), (vec![3], vec![3]));
        for p in [Pinning::Same, Pinning::Split, Pinning::None] {
            assert_eq!(here(p, &[], &[]), (vec![], vec![]));
            assert_eq!(here(p, &[1], &[]), (vec![], vec![]));
        }
    }

    #[test]
    fn ends_of_one_machine_with_other_cpus_share_only_what_both_may_use() {
        assert_eq!(here(Pinning::Same, &[0, 1, 2], &[1, 2, 3]), (vec![1, 2], vec![1, 2]));
        assert_eq!(here(Pinning::Same, &[0, 1], &[2, 3]), (vec![0, 1], vec![2, 3]));
        assert_eq!(here(Pinning::Split, &[0, 1], &[2, 3]), (vec![0, 1], vec![2, 3]));
        assert_eq!(here(Pinning::Split, &[0, 1, 2], &[1, 2, 3]), (vec![0, 1], vec![2, 3]));
        assert_eq!(here(Pinning::Split, &[1], &[1, 2]), (vec![1], vec![2]));
        assert_eq!(here(Pinning::Split, &[0, 1], &[1]), (vec![0], vec![1]));
        assert_eq!(here(Pinning::Split, &[0, 5], &[0, 5, 6]), (vec![0], vec![5, 6]));
    }

    #[test]
    fn split_never_shares_and_never_leaves_an_end_without_a_cpu() {
        let sets = |bits: u32| (0..4).filter(|c| bits & (1 << c) != 0).collect::<Vec<u32>>();
        for (c, s) in (1..16).flat_map(|c| (1..16).map(move |s| (sets(c), sets(s)))) {
            let (client, server) = here(Pinning::Split, &c, &s);
            assert!(!client.is_empty() && !server.is_empty(), "{c:?} {s:?}");
            assert!(client.iter().all(|x| c.contains(x)), "{c:?} {s:?}: {client:?}");
            assert!(server.iter().all(|x| s.contains(x)), "{c:?} {s:?}: {server:?}");
            let shared = client.iter().any(|x| server.contains(x));
            assert_eq!(shared, c.len() == 1 && c == s, "{c:?} {s:?}: {client:?} {server:?}");
        }
    }

    #[test]
    fn on_two_machines_every_end_uses_all_of_its_own() {
        for (client, server) in [("a", "b"), ("", "")] {
            for pinning in [Pinning::Same, Pinning::Split] {
                let lists = assign(
                    pinning,
                    Allowed { cpus: &[0, 1], machine: client },
                    Allowed { cpus: &[0, 1, 2, 3], machine: server },
                );
                assert_eq!(lists, (vec![0, 1], vec![0, 1, 2, 3]), "{pinning:?}");
            }
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

//! The node's CPU time as an observer of the node saw it, in the place of what an end sees from inside
//! its own PID namespace, where kernel threads cannot be told from other system time.
//!
//! Pure. Called by the runner before the two ends are put together.

use crate::{protocol::EndReport, trial::KTHREADS_UNSEEN};
use cnibench_model::{CpuTime, NodeCpu};
use jiff::Timestamp;

/// An observer's window may be off from the end's by this share of it: the traffic is the same before
/// and behind it, and CPU times are scaled to the end's length.
const OFF: f64 = 0.1;
/// Warning where it is off by more.
const TOO_FAR: &str = "the node observer's CPU window was off by more than 10 %: kernel threads are in the system time of the end's own reading";

/// From this share on a window that is off is taken with a warning.
const NOTABLE: f64 = 0.02;
/// That warning: the same of all trials, so that a report says it once.
const SCALED: &str = "the node observer's CPU window was off by more than 2 %: CPU times of the node are scaled to the trial's window";

/// What an observer measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// When the window opened, by the node's wall clock.
    pub opened: Timestamp,
    /// The node's CPU time in it.
    pub node: NodeCpu,
}

/// Puts what an observer saw into the report of an end on the same machine. Where their windows are too
/// far apart the end's own reading stays, and its warnings say so.
pub fn observe(end: &mut EndReport, seen: &Observed) {
    if end.endpoint.node.machine != seen.node.machine {
        return;
    }
    let window_s = end.endpoint.window_s;
    let off = end.window_opened.map(|at| seen.opened.duration_since(at).as_secs_f64().abs());
    let longer = (seen.node.window_s - window_s).abs();
    let Some(off) = off.map(|off| off.max(longer)).filter(|off| *off <= OFF * window_s) else {
        end.warnings.push(TOO_FAR.to_owned());
        return;
    };
    if off > NOTABLE * window_s {
        end.warnings.push(SCALED.to_owned());
    }
    end.endpoint.node = scaled(&seen.node, window_s);
    end.warnings.retain(|w| w != KTHREADS_UNSEEN);
}

/// What the node used, as if its window had been this long.
fn scaled(node: &NodeCpu, window_s: f64) -> NodeCpu {
    let factor = if node.window_s > 0.0 { window_s / node.window_s } else { 1.0 };
    let mut node = node.clone();
    node.window_s = window_s;
    let CpuTime { user_s, system_s, softirq_s, irq_s, kthread_s, steal_s } = &mut node.time;
    for seconds in [user_s, system_s, softirq_s, irq_s, kthread_s, steal_s] {
        *seconds *= factor;
    }
    // What each CPU was busy is a share already.
    node
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnibench_model::EndpointResult;
    use std::collections::BTreeMap;

    fn node(machine: &str, system_s: f64, kthread_s: f64) -> NodeCpu {
        let time = CpuTime { system_s, kthread_s, softirq_s: 0.3, ..CpuTime::default() };
        NodeCpu { machine: machine.to_owned(), window_s: 1.0, time, busy: BTreeMap::new() }
    }

    fn end() -> EndReport {
        EndReport {
            endpoint: EndpointResult {
                window_s: 1.0,
                process: CpuTime::default(),
                node: node("m", 0.5, 0.0),
                flows: Vec::new(),
            },
            histogram: None,
            slices: Vec::new(),
            slice_s: 0.1,
            datagrams: None,
            window_opened: Some("2026-11-23T10:00:00Z".parse().unwrap()),
            told: None,
            intervals: Vec::new(),
            warnings: vec![KTHREADS_UNSEEN.to_owned(), "another".to_owned()],
        }
    }

    fn seen(machine: &str, opened: &str) -> Observed {
        Observed { opened: opened.parse().unwrap(), node: node(machine, 0.2, 0.3) }
    }

    #[test]
    fn the_observer_tells_kernel_threads_from_the_rest() {
        let mut end = end();
        observe(&mut end, &seen("m", "2026-11-23T10:00:00.01Z"));
        assert_eq!(end.endpoint.node, node("m", 0.2, 0.3));
        assert_eq!(end.warnings, ["another"]);
    }

    #[test]
    fn a_window_of_another_length_is_scaled_and_one_that_is_notably_off_is_said_to_be() {
        let mut end = end();
        let mut longer = seen("m", "2026-11-23T10:00:00Z");
        longer.node.window_s = 1.08;
        observe(&mut end, &longer);
        let node = &end.endpoint.node;
        assert_eq!(node.window_s, 1.0);
        assert!((node.time.system_s - 0.2 / 1.08).abs() < 1e-12);
        assert!((node.time.softirq_s - 0.3 / 1.08).abs() < 1e-12);
        assert_eq!(end.warnings, ["another", SCALED]);
    }

    #[test]
    fn another_machine_or_another_time_is_not_taken() {
        let mut other = end();
        observe(&mut other, &seen("n", "2026-11-23T10:00:00Z"));
        assert_eq!(other, end());
        for opened in ["2026-11-23T10:00:00.2Z", "2026-11-23T09:59:59.8Z"] {
            let mut late = end();
            observe(&mut late, &seen("m", opened));
            assert_eq!(late.endpoint.node, end().endpoint.node);
            assert_eq!(late.warnings, [KTHREADS_UNSEEN, "another", TOO_FAR]);
        }
        let mut short = end();
        let mut seen = seen("m", "2026-11-23T10:00:00Z");
        seen.node.window_s = 0.5;
        observe(&mut short, &seen);
        assert_eq!(short.warnings.len(), 3);
    }
}

//! Trials that are measured by how much they do instead of for how long.
//!
//! Where a clock counts instructions, how long a window takes is the result: its ends are where so many
//! transactions, or bytes, are done, so that what is divided by what is exact. Owns how much that is and
//! which trials can be measured so; carried out by the workloads.

use cnibench_model::{FlowDirection, Workload, WorkloadParams};
use serde::{Deserialize, Serialize};

/// How much a trial does: transactions of a transactional workload, bytes of a stream, of all flows together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Before the window.
    pub warmup: u64,
    /// In it.
    pub measured: u64,
}

/// What is done in a nominal second: about 10^9 instructions of the path that costs least, on which round
/// trips take 40 thousand instructions and connections 400 thousand.
fn in_a_second(workload: Workload) -> f64 {
    match workload {
        Workload::TcpRr | Workload::UdpRr => 20_000.0,
        Workload::TcpCrr => 2_500.0,
        Workload::TcpStream | Workload::UdpStream => (512u64 << 20) as f64,
    }
}

impl Count {
    /// What stands for these times; none where the traffic has no end of its own: at a rate, of datagrams
    /// that nobody answers, in both directions at once.
    pub fn of(
        workload: Workload,
        params: &WorkloadParams,
        warmup_s: f64,
        duration_s: f64,
    ) -> Option<Self> {
        let endless = workload == Workload::UdpStream
            || params.rate.is_some()
            || params.direction == FlowDirection::Both;
        let of = |seconds: f64| (in_a_second(workload) * seconds).round() as u64;
        let least = u64::from(params.streams);
        (!endless && params.generator.is_own())
            .then(|| Self { warmup: of(warmup_s), measured: of(duration_s).max(least) })
    }

    /// One flow's part of it: the same for each.
    pub(crate) fn of_flow(self, streams: u32) -> Self {
        let part = |all: u64| all / u64::from(streams.max(1));
        Self { warmup: part(self.warmup), measured: part(self.measured).max(1) }
    }
}

/// Socket buffers of a counted stream: far from full they change nothing, and a kernel that sizes them itself
/// does it by round trip times, so that one stream in ten took 4 % fewer instructions than the others.
const BUFFERS: [u64; 2] = [1 << 20, 4 << 20];

/// The parameters with what a counted trial pins, where they leave it to the kernel.
pub fn pinned(workload: Workload, mut params: WorkloadParams) -> WorkloadParams {
    if workload == Workload::TcpStream {
        params.send_buffer.get_or_insert(BUFFERS[0]);
        params.receive_buffer.get_or_insert(BUFFERS[1]);
    }
    params
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnibench_model::Rate;

    #[test]
    fn a_count_stands_for_a_time() {
        let params = Workload::TcpRr.defaults();
        let count = Count::of(Workload::TcpRr, &params, 0.02, 0.1).unwrap();
        assert_eq!(count, Count { warmup: 400, measured: 2_000 });
        assert_eq!(count.of_flow(3), Count { warmup: 133, measured: 666 });
        let params = Workload::TcpStream.defaults();
        let count = Count::of(Workload::TcpStream, &params, 0.0, 0.5).unwrap();
        assert_eq!(count, Count { warmup: 0, measured: 256 << 20 });
    }

    #[test]
    fn only_what_was_left_open_is_pinned() {
        let mut params = Workload::TcpStream.defaults();
        params.send_buffer = Some(5);
        let pinned = pinned(Workload::TcpStream, params);
        assert_eq!((pinned.send_buffer, pinned.receive_buffer), (Some(5), Some(4 << 20)));
        let params = Workload::TcpRr.defaults();
        assert_eq!(super::pinned(Workload::TcpRr, params.clone()), params);
    }

    #[test]
    fn what_has_no_end_is_not_counted() {
        let of = |workload: Workload, change: &dyn Fn(&mut WorkloadParams)| {
            let mut params = workload.defaults();
            change(&mut params);
            Count::of(workload, &params, 0.1, 1.0)
        };
        assert_eq!(of(Workload::UdpStream, &|_| ()), None);
        assert_eq!(of(Workload::TcpRr, &|p| p.rate = Some(Rate(5.0))), None);
        assert_eq!(of(Workload::TcpStream, &|p| p.direction = FlowDirection::Both), None);
        assert!(of(Workload::TcpStream, &|p| p.direction = FlowDirection::Reverse).is_some());
    }
}

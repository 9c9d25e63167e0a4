//! What a number means, where a reader could take it wrong.
//!
//! Owns these texts; each appears only where the record makes it true. Called by the page.

use crate::book::Book;
use cnibench_model::{Clock, Pinning, ProviderKind, Workload};

fn one_machine(book: &Book<'_>) -> bool {
    let mut trials = book.records.iter().flat_map(|r| &r.trials);
    trials.any(|t| t.client.node.machine == t.server.node.machine)
}

fn netns(book: &Book<'_>) -> bool {
    let mut cases = book.records.iter().flat_map(|r| &r.header.cases);
    cases.any(|c| c.provider == ProviderKind::Netns)
}

/// Notes that belong to one workload's figures.
pub(crate) fn workload_notes(book: &Book<'_>, workload: Workload) -> Vec<String> {
    let pinned =
        |pinning| book.rows.iter().any(|r| r.workload == workload && r.params.pinning == pinning);
    let mut notes = Vec::new();
    if workload.is_transactional() && pinned(Pinning::Same) {
        notes.push(
            "Client and server thread share one CPU: a round trip is the CPU cost of the path both ways plus two context switches, without a wire and without wake-ups across CPUs."
                .to_owned(),
        );
    }
    if workload.is_transactional() && pinned(Pinning::Split) {
        notes.push(
            "Client and server thread run on different CPUs: a round trip includes two wake-ups across CPUs."
                .to_owned(),
        );
    }
    if pinned(Pinning::None) {
        notes.push(
            "Threads were not pinned: the scheduler's choice can move these values fourfold."
                .to_owned(),
        );
    }
    if workload == Workload::UdpStream {
        notes.push(
            "The rate is that of payload that arrived; what was lost is shown beside it."
                .to_owned(),
        );
        if book.rows.iter().any(|r| r.workload == workload && r.params.rate.is_none()) {
            notes.push(
                "Without an offered rate the sender sends flat out: that is overload, not the capacity of the path. Its loss says mostly how large the receive buffer is and how far the sender outruns the receiver, so it is not tinted; offer a rate to compare loss."
                    .to_owned(),
            );
        }
    }
    if workload == Workload::TcpCrr {
        notes.push(
            "Each transaction is a new connection: connect, request, response, close.".to_owned(),
        );
    }
    notes
}

/// Terms and texts, most easily misread first.
pub(crate) fn meaning(book: &Book<'_>) -> Vec<(&'static str, String)> {
    let mut out: Vec<(&'static str, String)> = Vec::new();
    if netns(book) {
        out.push((
            "Namespaces, not Kubernetes",
            "Nodes and pods are network namespaces on one kernel, wired as the CNI wires them. Nothing of Kubernetes runs (no kubelet, no kube-proxy, no control plane) and no physical network card is crossed: the numbers compare datapaths, they do not predict a cluster."
                .to_owned(),
        ));
    }
    if one_machine(book) {
        out.push((
            "Both ends on one machine",
            "Sender, datapath and receiver share the CPUs. A throughput here is what that machine can do with all three at once, and CPU time is counted once for all of them."
                .to_owned(),
        ));
    }
    if netns(book) && one_machine(book) && book.rows.iter().any(|r| !r.workload.is_transactional())
    {
        out.push((
            "Tens of Gbit/s",
            "Between namespaces of one machine a segmentation-offload (GSO) packet of about 40 to 60 KB crosses every veth uncut and no link limits it, which explains tens of Gbit/s and much of the gap to a datapath that must cut it into packets, such as a TUN device without offload."
                .to_owned(),
        ));
    }
    if book.records.iter().any(|r| r.header.clock == Clock::Instructions) {
        out.push((
            "Instruction clock",
            "Time counts instructions of the guest, not nanoseconds: it repeats almost exactly and shows the length of the code path, not cache misses, memory or hardware offloads."
                .to_owned(),
        ));
    }
    out.push((
        "Intervals",
        "A value is the median of its trials. Its 95 % interval is Student's t on the logarithms for 3 to 5 trials and comes from order statistics for 6 and more; one or two have none. The interval of t belongs to the mean of the logarithms, which for so few trials stands in for the median. It speaks of this machine in this hour: another machine, kernel or day is not inside it."
            .to_owned(),
    ));
    out.push(("Changes", changes(book)));
    if book.rows.iter().any(|r| r.workload.is_transactional()) {
        out.push((
            "Percentiles",
            "In the matrix p50 and p99 are medians over trials of each trial's own percentile. In the percentile figure all trials' transactions are pooled, so that one bad trial shows in the tail."
                .to_owned(),
        ));
        out.push((
            "Closed loop",
            "Without a rate the next request waits for the last response: a stall delays requests instead of being measured by them, so tails look better than under a fixed load."
                .to_owned(),
        ));
    }
    out.push((
        "CPU time",
        "Whole-machine time from /proc/stat (user, system, softirq, interrupts and kernel threads), counted in ticks of 10 ms, the traffic generator included. What else ran on the machine is in it too."
            .to_owned(),
    ));
    out
}

fn changes(book: &Book<'_>) -> String {
    let baseline = match book.columns.iter().all(|c| book.columns[c.baseline].is_host()) {
        true => "the host baseline (node to node, no CNI)",
        false => "the baseline named above",
    };
    let how = match book.columns.iter().all(|c| c.interleaved) {
        true => {
            "Trials of different cnis ran next to each other in random order, and each is compared with its neighbour, so that a drifting machine cancels out: Student's t on the log ratios for 3 to 5 pairs, the Hodges-Lehmann estimate with its signed-rank interval for 6 and more. A change is therefore not simply the ratio of the two medians shown."
        }
        false => {
            "Trials were not interleaved: Welch's t on log values, or the Hodges-Lehmann shift with its rank-sum interval where there are enough trials. Drift between them counts as a difference."
        }
    };
    format!(
        "Every change is against {baseline} in the same series. {how} Where the 95 % interval includes no change, no difference is shown; that does not prove there is none. Intervals are not corrected for the number of cells: of twenty comparisons without a difference about one shows one. Shares (loss, reordering) change by a difference in percentage points, made the same way on plain values, since many baselines are at zero."
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Builder;

    #[test]
    fn texts_follow_the_record() {
        let terms = |builder: Builder| -> Vec<&'static str> {
            let records = [builder.build()];
            meaning(&Book::new(&records)).into_iter().map(|(t, _)| t).collect()
        };
        assert!(terms(Builder::default()).contains(&"Both ends on one machine"));
        assert!(terms(Builder::default()).contains(&"Tens of Gbit/s"));
        let apart =
            terms(Builder { two_machines: true, clock: Clock::Instructions, ..Builder::default() });
        assert!(!apart.contains(&"Both ends on one machine"));
        assert!(apart.contains(&"Instruction clock") && !apart.contains(&"Tens of Gbit/s"));
        let series = vec![(Workload::UdpStream, cnibench_model::Placement::CrossNode)];
        let records = [Builder { series, ..Builder::default() }.build()];
        let notes = workload_notes(&Book::new(&records), Workload::UdpStream).join(" ");
        assert!(notes.contains("overload, not the capacity"), "{notes}");
        let records = [Builder { interleaved: false, ..Builder::default() }.build()];
        assert!(changes(&Book::new(&records)).contains("not interleaved"));
    }
}

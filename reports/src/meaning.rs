//! What a number means, where a reader could take it wrong.
//!
//! Owns these texts; each appears only where the record makes it true. Called by the page.

use crate::{book::Book, curves, trust};
use cnibench_model::{
    Case, Clock, Metric, Pinning, ProofKind, ProofOutcome, ProviderKind, Workload,
};

fn one_machine(book: &Book<'_>) -> bool {
    let mut trials = book.records.iter().flat_map(|r| &r.trials);
    trials.any(|t| t.client.node.machine == t.server.node.machine)
}

fn any_case(book: &Book<'_>, is: impl Fn(&Case) -> bool) -> bool {
    book.records.iter().flat_map(|r| &r.header.cases).any(is)
}

fn on(book: &Book<'_>, provider: ProviderKind) -> bool {
    any_case(book, |c| c.provider == provider)
}

/// True where a trial carried more than a usual link does.
fn beyond_a_link(book: &Book<'_>) -> bool {
    let mut trials = book.records.iter().flat_map(|r| &r.trials);
    trials.any(|t| t.value(Metric::Throughput).is_some_and(|bits| bits >= 1e10))
}

/// Notes that belong to one workload's figures.
pub(crate) fn workload_notes(book: &Book<'_>, workload: Workload) -> Vec<String> {
    let pinned =
        |pinning| book.rows.iter().any(|r| r.workload == workload && r.params.pinning == pinning);
    let mut notes = Vec::new();
    let together = one_machine(book);
    if workload.is_transactional() && !together && (pinned(Pinning::Same) || pinned(Pinning::Split))
    {
        notes.push("Each end's thread is pinned to one CPU of its own machine.".to_owned());
    }
    if workload.is_transactional() && together && pinned(Pinning::Same) {
        notes.push(
            "Client and server thread share one CPU: a round trip is the CPU cost of the path both ways plus two context switches, without a wire and without wake-ups across CPUs."
                .to_owned(),
        );
    }
    if workload.is_transactional() && together && pinned(Pinning::Split) {
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
    out.extend(providers(book));
    if one_machine(book) {
        out.push((
            "Both ends on one machine",
            "Sender, datapath and receiver share the CPUs. A throughput here is what that machine can do with all three at once, and CPU time is counted once for all of them."
                .to_owned(),
        ));
    }
    if (on(book, ProviderKind::Netns) || on(book, ProviderKind::Kind))
        && one_machine(book)
        && beyond_a_link(book)
    {
        out.push((
            "Tens of Gbit/s",
            "Between namespaces or containers of one machine a segmentation-offload (GSO) packet of up to 64 KiB can cross a veth uncut, and no link limits it: that is how tens of Gbit/s come about. A datapath that must cut it into packets, such as a TUN device without offload, is far below."
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
    if book.rows.iter().enumerate().any(|(row, _)| book.over_pairs(row).is_some()) {
        out.push((
            "Node pairs",
            "Where trials ran between several pairs of nodes, every value is one pair's: the median of its trials in one direction. The median and the interval are over these, so they speak of the cluster's pairs and not of how well one of them repeats; pairs that share a node are not independent, which makes the interval a little too narrow. A change compares each pair with the same pair of the baseline. A node is named when the ranks of its pairs would be that bad by chance in fewer than 5 % of clusters of this size."
                .to_owned(),
        ));
    }
    if book.columns.len() > 1 {
        out.push(("Changes", changes(book)));
    }
    out.extend(around(book));
    if book.rows.iter().any(|r| r.workload.is_transactional()) {
        out.push((
            "Percentiles",
            "In the matrix p50 and p99 are medians over trials of each trial's own percentile. In the percentile figure all trials' transactions are pooled, so that one bad trial shows in the tail."
                .to_owned(),
        ));
    }
    if book.rows.iter().any(|r| r.workload.is_transactional() && r.params.rate.is_none()) {
        out.push((
            "Closed loop",
            "Without a rate the next request waits for the last response: a stall delays requests instead of being measured by them, so tails look better than under a fixed load."
                .to_owned(),
        ));
    }
    if book.records.iter().any(|r| !r.probed.is_empty()) {
        out.push((
            "Stages",
            "Probes in the kernel take the time at which a packet passes certain points; a stage lies between two of them. Its mean is the sum over all packets divided by the round trips that the generator counted in the same window, so that the means of all stages and what no stage has (unattributed) add up to the generator's own mean. Quantiles do not: the p99 of a round trip is no sum of p99s. Events that could not be told to belong to one packet are in no stage and make unattributed larger. Probing takes time itself: what it cost is from trials with and without probes next to each other, and where it is large a stage with more probes in it looks longer than it is."
                .to_owned(),
        ));
    }
    out.extend(proofs(book));
    if book.records.iter().any(|r| r.header.clock == Clock::Wall) {
        out.push((
            "CPU time",
            "Whole-machine time from /proc/stat (user, system, softirq, interrupts and kernel threads), counted in ticks of 10 ms, the traffic generator included. What else ran on the machine is in it too."
                .to_owned(),
        ));
    }
    out
}

/// What the nodes were.
fn providers(book: &Book<'_>) -> Vec<(&'static str, String)> {
    let texts = [
        (
            ProviderKind::Netns,
            "Namespaces, not Kubernetes",
            "Nodes and pods are network namespaces on one kernel, wired as the CNI wires them. Nothing of Kubernetes runs (no kubelet, no kube-proxy, no control plane) and no physical network card is crossed: the numbers compare datapaths, they do not predict a cluster.",
        ),
        (
            ProviderKind::Kind,
            "Kubernetes in containers",
            "The nodes are containers of one machine with a real kubelet and the real CNI. They share its CPUs and its kernel, and between two of them there is a bridge and no network card: the numbers compare what CNIs cost, they do not predict a cluster of machines. What else runs in the cluster takes CPU time from the trials.",
        ),
        (
            ProviderKind::Kubeconfig,
            "An existing cluster",
            "The environment below is that of the machine from which the cluster was reached, not of its nodes. What other pods did on the nodes meanwhile is in the values.",
        ),
    ];
    let there = texts.into_iter().filter(|(provider, ..)| on(book, *provider));
    there.map(|(_, term, text)| (term, text.to_owned())).collect()
}

/// What was asked of the cluster around the pods.
fn around(book: &Book<'_>) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    if any_case(book, |c| c.surroundings.policies.is_some()) {
        out.push((
            "Policies",
            "policies=N: N NetworkPolicies select the server's pod; one of them admits the measured flow, the others admit other peers. Where a cni enforces none, what is seen is the cost of their being there. The host's pods are in the network of their nodes, which no NetworkPolicy selects: how their values move with N is how the machine moved."
                .to_owned(),
        ));
    }
    if any_case(book, |c| c.surroundings.services.is_some()) {
        out.push((
            "Services",
            "services=N: N ClusterIP services beside the one that is measured, each with the server's pod behind it.".to_owned(),
        ));
    }
    if any_case(book, |c| c.surroundings.hubble.is_some()) {
        out.push((
            "Hubble",
            "Cilium's observer of flows, off or on for the trials of a case. What it costs is its line on against off: the host's pods share the nodes' CPUs with the observer, so a change against the host can understate it. Switching takes time, so that several trials with it off follow each other, then several with it on: where those of one block ran near enough to each other they are compared in pairs, and the sentence says how long after each other they began; elsewhere it says that they are not. What the machine did in that time is in the difference.".to_owned(),
        ));
    }
    let curves = curves::curves(book);
    if !curves.is_empty() {
        out.push((
            "Cliffs",
            "In a curve a cliff is a step to the next value whose change is worse by more than 20 % with its whole 95 % interval. The trials on both sides ran at different times and are not paired."
                .to_owned(),
        ));
    }
    out
}

/// What proofs of a cluster show, and which of their ends are no failure.
fn proofs(book: &Book<'_>) -> Vec<(&'static str, String)> {
    let all = || book.records.iter().flat_map(|r| &r.proofs);
    let texts = [
        (
            all().any(|p| p.kind == ProofKind::Policy),
            "Policy proof",
            "A flow that a NetworkPolicy admits arrives, one that it denies does not reach the server, and without the policy the denied flow arrives again. Not enforced: the denied flow arrives all the same, which some cnis (Flannel) never claimed to prevent: a finding about the cni, and no failure of the run.",
        ),
        (
            all().any(|p| p.kind == ProofKind::Flows),
            "Flows proof",
            "The flows that the cni's own observer (Hubble) reports are counted against what was sent.",
        ),
        (
            all().any(|p| p.outcome == ProofOutcome::NotTaken),
            "Proofs not taken",
            "The rights that the run was given did not allow a look. Nothing rests on such a proof, for or against.",
        ),
    ];
    let there = texts.into_iter().filter(|(there, ..)| *there);
    there.map(|(_, term, text)| (term, text.to_owned())).collect()
}

fn changes(book: &Book<'_>) -> String {
    let baseline = match book.columns.iter().all(|c| book.columns[c.baseline].is_host()) {
        true => "the host baseline (processes in the network of the nodes, no CNI)",
        false => "the baseline named above",
    };
    let paired = "so that a drifting machine cancels out: Student's t on the log ratios for 3 to 5 pairs, the Hodges-Lehmann estimate with its signed-rank interval for 6 and more. A change is therefore not simply the ratio of the two medians shown.";
    let how = match book.columns.iter().all(|c| c.interleaved) {
        // Every cluster has the baseline in it; two cnis of different clusters never met.
        true if !book.records.iter().all(trust::interleaved) => format!(
            "Each trial of a cni is compared with the baseline's next to it in the same cluster, {paired} Trials of cnis of different clusters ran at different times: they are compared with each other unpaired."
        ),
        true => format!(
            "Trials of different cnis ran next to each other in random order, and each is compared with its neighbour, {paired}"
        ),
        false => {
            "Trials were not interleaved: Welch's t on log values, or the Hodges-Lehmann shift with its rank-sum interval where there are enough trials. Drift between them counts as a difference."
                .to_owned()
        }
    };
    format!(
        "Every change is against {baseline} in the same series. {how} Where the 95 % interval includes no change, no difference is shown; that does not prove there is none. Intervals are not corrected for the number of cells: of twenty comparisons without a difference about one shows one. Shares (loss, reordering) change by a difference in percentage points, made the same way on plain values, since many baselines are at zero."
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Builder, many_nodes, policies};

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
        let alone =
            terms(Builder { paths: crate::fixtures::usual()[..1].to_vec(), ..Builder::default() });
        assert!(!alone.contains(&"Changes"));
        let slow =
            vec![crate::fixtures::path("flannel-wireguard-userspace", "flannel", true, 3.4, 0.02)];
        assert!(!terms(Builder { paths: slow, ..Builder::default() }).contains(&"Tens of Gbit/s"));
        let records = [Builder { two_machines: true, ..Builder::default() }.build()];
        let notes = workload_notes(&Book::new(&records), Workload::TcpRr).join(" ");
        assert!(
            notes.contains("of its own machine") && !notes.contains("without a wire"),
            "{notes}"
        );
    }

    #[test]
    fn what_belongs_to_a_cluster_is_explained_where_it_was_measured() {
        let terms = |record| -> Vec<&'static str> {
            let records = [record];
            meaning(&Book::new(&records)).into_iter().map(|(t, _)| t).collect()
        };
        let policies = terms(policies());
        for term in
            ["Kubernetes in containers", "Policies", "Cliffs", "Policy proof", "Flows proof"]
        {
            assert!(policies.contains(&term), "{term}");
        }
        assert!(terms(crate::fixtures::probed()).contains(&"Stages"));
        assert!(policies.contains(&"Proofs not taken") && !policies.contains(&"Services"));
        let nodes = terms(many_nodes(4, usize::MAX));
        assert!(nodes.contains(&"Node pairs") && nodes.contains(&"An existing cluster"));
        let plain = terms(Builder::default().build());
        for term in [
            "Node pairs",
            "Policies",
            "Hubble",
            "Cliffs",
            "Policy proof",
            "An existing cluster",
            "Stages",
        ] {
            assert!(!plain.contains(&term), "{term}");
        }
    }
}

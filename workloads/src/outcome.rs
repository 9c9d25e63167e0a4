//! From the reports of both ends to the samples of a trial: which end speaks for which metric.
//!
//! Pure. Throughput, packet rate, loss, reordering and jitter are the receivers' (of both
//! directions together); transactions and latencies the client's; retransmits the senders'; CPU
//! time is that of every machine once. Warnings carry no figures of the trial, which are in its
//! record: reports count equal ones. Called by the runner.

use crate::{
    options::{BUFFER_DROPS, RETRANS_IN_WINDOW},
    protocol::{EndReport, Task, Told},
    transact::SPUN_NS,
    trial::KTHREADS_UNSEEN,
};
use cnibench_model::{
    DatagramStats, EndpointResult, FlowDirection, FlowResult, Interval, MadeBy, Metric, Pinning,
    Sample, StoredHistogram, Workload,
    trial::{CPU_FULL, SATURATED},
};
use jiff::Timestamp;

/// A rate that is off by more than this share was not held.
pub const RATE_TOLERANCE: f64 = 0.001;
/// A percentile with fewer transactions beyond it than these is an accident, and is left out.
pub const SUPPORT: u64 = 10;
/// More time of others than this share of a node's busy time is told,
pub const OTHERS_TOLERANCE: f64 = 0.1;
/// if it is more seconds than these: five of the ticks in which /proc/stat counts.
const OTHERS_LEAST_S: f64 = 0.05;
/// Bytes.
const MEBIBYTE: f64 = (1u32 << 20) as f64;
/// More steal than this share of the node's time makes wall-clock values doubtful.
pub const STEAL_TOLERANCE: f64 = 0.02;

/// What a trial measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// One value of each metric that the workload has.
    pub samples: Vec<Sample>,
    /// Latencies of all transactions.
    pub histogram: Option<StoredHistogram>,
    /// The main rate in equal slices of the window.
    pub slices: Vec<f64>,
    /// Seconds of one slice.
    pub slice_s: f64,
    /// What the receivers of datagrams counted, together.
    pub datagrams: Option<DatagramStats>,
    /// The other generator that made the traffic.
    pub made_by: Option<MadeBy>,
    /// What the requests of each interval met, where they were due at times.
    pub intervals: Vec<Interval>,
    /// When the client's window opened.
    pub window_opened: Option<Timestamp>,
    /// What a reader must know to trust the values.
    pub warnings: Vec<String>,
}

/// The two ends, and which of them send and receive a stream.
struct Ends<'a> {
    task: &'a Task,
    client: &'a EndReport,
    server: &'a EndReport,
    warnings: Vec<String>,
    samples: Vec<Sample>,
}

/// Combines the reports of both ends of one trial.
pub fn combine(task: &Task, client: &EndReport, server: &EndReport) -> Outcome {
    let mut ends = Ends { task, client, server, warnings: Vec::new(), samples: Vec::new() };
    for (name, end) in [("client", client), ("server", server)] {
        ends.warnings.extend(end.warnings.iter().map(|w| format!("{name}: {w}")));
    }
    if let Some(told) = &client.told {
        return ends.told(told);
    }
    let slices = if task.workload.is_transactional() {
        ends.transactions();
        client.slices.clone()
    } else {
        ends.stream();
        sum_slices(ends.receivers().into_iter().map(|e| e.slices.as_slice()))
    };
    ends.retransmits();
    ends.idle_flows();
    ends.pinning();
    ends.machines_warnings();
    ends.other_work();
    let datagrams = ends.datagram_stats();
    Outcome {
        samples: ends.samples,
        histogram: client.histogram.clone(),
        slices,
        slice_s: client.slice_s,
        datagrams,
        made_by: None,
        intervals: client.intervals.clone(),
        window_opened: client.window_opened,
        warnings: ends.warnings,
    }
}

fn sum_slices<'a>(all: impl Iterator<Item = &'a [f64]>) -> Vec<f64> {
    let mut sum: Vec<f64> = Vec::new();
    for slices in all {
        sum.resize(sum.len().max(slices.len()), 0.0);
        for (s, v) in sum.iter_mut().zip(slices) {
            *s += v;
        }
    }
    sum
}

fn total(end: &EndReport, of: impl Fn(&FlowResult) -> u64) -> f64 {
    end.endpoint.flows.iter().map(of).sum::<u64>() as f64
}

/// The numbers that the flows of some ends carry under a key of their options.
fn option_numbers<'a>(ends: &'a [&EndReport], key: &'a str) -> impl Iterator<Item = u64> + 'a {
    let flows = ends.iter().flat_map(|e| &e.endpoint.flows);
    flows.filter_map(move |f| f.options.get(key)?.parse().ok())
}

impl<'a> Ends<'a> {
    fn push(&mut self, metric: Metric, value: f64) {
        if value.is_finite() {
            self.samples.push(Sample { metric, value });
        }
    }

    /// A cost of zero would look perfect, and is only less than the ticks of /proc/stat can tell.
    fn cpu_cost(&mut self, metric: Metric, value: f64) {
        if value > 0.0 {
            self.push(metric, value);
        } else {
            self.warnings
                .push("the CPU cost is less than the ticks of /proc/stat can tell".to_owned());
        }
    }

    /// Of another generator there are its own values, and the CPU time of the node where both ends are on
    /// one: only the client knows when its window was.
    fn told(mut self, told: &Told) -> Outcome {
        self.samples.clone_from(&told.samples);
        let value = |metric| told.samples.iter().find(|s| s.metric == metric).map(|s| s.value);
        let window = &self.client.endpoint.node;
        let busy = window.time.busy_s() / window.window_s;
        let rate = value(Metric::TransactionRate).or(value(Metric::Throughput));
        match rate.filter(|r| *r > 0.0) {
            Some(_) if !self.one_machine() => self.warnings.push(
                "CPU costs of another generator are known only where both ends are on one machine"
                    .to_owned(),
            ),
            Some(rate) if self.task.workload.is_transactional() => {
                self.cpu_cost(Metric::CpuPerTransaction, busy / rate);
            }
            Some(rate) => self.cpu_cost(Metric::CpuPerGigabit, busy / (rate / 1e9)),
            None => self.warnings.push("nothing arrived in the window".to_owned()),
        }
        if let (Some(asked), Some(got)) = (self.task.params.rate, value(Metric::Throughput)) {
            let sent = got / (1.0 - value(Metric::Loss).unwrap_or(0.0));
            let both = self.task.params.direction == FlowDirection::Both;
            let asked = asked.0 * if both { 2.0 } else { 1.0 };
            self.rate_held(asked, sent, 0.0);
        }
        self.pinning();
        self.machines_warnings();
        Outcome {
            samples: self.samples,
            histogram: None,
            slices: Vec::new(),
            slice_s: self.client.slice_s,
            datagrams: None,
            made_by: Some(told.made_by.clone()),
            intervals: Vec::new(),
            window_opened: self.client.window_opened,
            warnings: self.warnings,
        }
    }

    fn senders(&self) -> Vec<&'a EndReport> {
        self.by_direction(self.client, self.server)
    }

    fn receivers(&self) -> Vec<&'a EndReport> {
        self.by_direction(self.server, self.client)
    }

    fn by_direction(&self, forward: &'a EndReport, reverse: &'a EndReport) -> Vec<&'a EndReport> {
        match self.task.params.direction {
            FlowDirection::Forward => vec![forward],
            FlowDirection::Reverse => vec![reverse],
            FlowDirection::Both => vec![forward, reverse],
        }
    }

    fn transactions(&mut self) {
        let client = self.client;
        let done = total(client, |f| f.transactions);
        let rate = done / client.endpoint.window_s;
        match self.task.count {
            None => self.push(Metric::TransactionRate, rate),
            Some(_) => self.push(Metric::InstructionsPerTransaction, 1e9 / rate),
        }
        if done == 0.0 {
            self.warnings.push("no transaction was completed in the window".to_owned());
        }
        self.latencies();
        if self.task.workload == Workload::UdpRr {
            let sent = total(client, |f| f.sent);
            self.push(Metric::Loss, (sent - done) / sent);
            if sent > done {
                self.warnings.push("requests were lost: their time is in no percentile".to_owned());
            }
        }
        if done > 0.0 && self.task.count.is_none() {
            // A paced flow spins before it sends; that is the generator's waiting, not a cost.
            let spun: u64 = option_numbers(&[client], SPUN_NS).sum();
            let spun = spun as f64 / 1e9 / client.endpoint.window_s;
            self.cpu_cost(Metric::CpuPerTransaction, (self.busy_rate() - spun) / rate);
        }
        if let Some(asked) = self.task.params.rate {
            // Each flow may have one more or less on either edge of the window.
            let edge = f64::from(self.task.params.streams + 1) / client.endpoint.window_s;
            self.rate_held(asked.0, rate, edge);
        }
    }

    fn latencies(&mut self) {
        let Some(stored) = &self.client.histogram else { return };
        let h = match stored.decode() {
            Ok(h) => h,
            Err(e) => {
                self.warnings.push(format!("the client's latencies cannot be read: {e}"));
                return;
            }
        };
        if h.is_empty() {
            return;
        }
        self.push(Metric::LatencyMean, h.mean());
        for (metric, beyond) in [
            (Metric::LatencyP50, 500),
            (Metric::LatencyP90, 100),
            (Metric::LatencyP99, 10),
            (Metric::LatencyP999, 1),
        ] {
            if h.len() * beyond >= SUPPORT * 1_000 {
                self.push(metric, h.value_at_quantile(1.0 - beyond as f64 / 1e3) as f64);
            }
        }
        self.push(Metric::LatencyMax, h.max() as f64);
    }

    fn stream(&mut self) {
        if self.task.count.is_some() {
            // The sender's window ends when the receiver has said that everything came.
            let senders = self.senders();
            let window = senders.iter().map(|e| e.endpoint.window_s).fold(0.0, f64::max);
            let bytes: f64 = senders.iter().map(|e| total(e, |f| f.sent_bytes)).sum();
            self.push(Metric::InstructionsPerMebibyte, window * 1e9 * MEBIBYTE / bytes);
            return;
        }
        let receivers = self.receivers();
        let rate = |of: fn(&FlowResult) -> u64| -> f64 {
            receivers.iter().map(|e| total(e, of) / e.endpoint.window_s).sum()
        };
        let bits = 8.0 * rate(|f| f.received_bytes);
        let packets = rate(|f| f.received);
        self.push(Metric::Throughput, bits);
        if bits == 0.0 {
            self.warnings.push("nothing arrived in the window".to_owned());
        } else {
            self.cpu_cost(Metric::CpuPerGigabit, self.busy_rate() / (bits / 1e9));
        }
        if self.task.workload == Workload::UdpStream {
            self.push(Metric::PacketRate, packets);
            self.datagrams(&receivers);
        }
        if let Some(asked) = self.task.params.rate {
            let senders = self.senders();
            let sent: f64 = senders
                .iter()
                .map(|e| 8.0 * total(e, |f| f.sent_bytes) / e.endpoint.window_s)
                .sum();
            let window = self.client.endpoint.window_s;
            // Bursts of up to 64 datagrams, or one block, may fall on either side of an edge.
            let unit = match self.task.workload {
                Workload::UdpStream => 64.0,
                _ => 1.0,
            };
            let edge =
                8.0 * unit * self.task.params.size as f64 * f64::from(self.task.params.streams)
                    / window;
            let asked = asked.0 * senders.len() as f64;
            self.rate_held(asked, sent, edge * senders.len() as f64);
        }
    }

    fn datagram_stats(&self) -> Option<DatagramStats> {
        let ends = self.receivers();
        DatagramStats::merge(&ends.into_iter().filter_map(|e| e.datagrams).collect::<Vec<_>>())
    }

    fn datagrams(&mut self, receivers: &[&EndReport]) {
        let sent: f64 = self.senders().iter().map(|e| total(e, |f| f.sent)).sum();
        let stats = self.datagram_stats().unwrap_or_default();
        let received = stats.received as f64;
        // The sender knows what it sent; a receiver's `expected` may miss the tail. More received
        // than sent cannot be: every datagram is marked by the sender and counted once.
        let lost = (sent - received).max(0.0);
        self.push(Metric::Loss, lost / sent);
        self.push(Metric::Reordering, stats.reordered as f64 / received);
        if received > 1.0 {
            self.push(Metric::Jitter, stats.jitter_ns);
        }
        let drops: u64 = option_numbers(receivers, BUFFER_DROPS).sum();
        if lost > 0.0 && drops > 0 {
            self.warnings.push(
                "datagrams were lost and receive buffers were full: (part of) the loss is the \
                 receiver's, not the path's"
                    .to_owned(),
            );
        }
        if stats.duplicated > 0 {
            self.warnings.push("datagrams arrived more than once".to_owned());
        }
    }

    fn rate_held(&mut self, asked: f64, got: f64, edge: f64) {
        if (got - asked).abs() > (asked * RATE_TOLERANCE).max(edge) {
            let caught_up = "rate not held: more than asked for (late ones of before the window were \
                             caught up)";
            let warning = if got < asked { SATURATED } else { caught_up };
            self.warnings.push(warning.to_owned());
        }
    }

    /// Segments sent again by every end that sends payload. `tcp_crr` has no connection that lasts.
    fn retransmits(&mut self) {
        let senders = match self.task.workload {
            Workload::TcpStream => self.senders(),
            Workload::TcpRr => vec![self.client, self.server],
            Workload::TcpCrr | Workload::UdpStream | Workload::UdpRr => return,
        };
        let counts: Option<Vec<u64>> = senders
            .iter()
            .flat_map(|e| &e.endpoint.flows)
            .map(|f| f.tcp_info.get(RETRANS_IN_WINDOW).copied())
            .collect();
        if let Some(counts) = counts {
            self.push(Metric::Retransmits, counts.iter().sum::<u64>() as f64);
        }
    }

    /// Busy CPU seconds per second, of every machine once. Two ends on one machine both saw all of
    /// it; their windows differ by the path's delay, so the mean of both is taken.
    fn busy_rate(&self) -> f64 {
        let of = |e: &EndpointResult| e.node.time.busy_s() / e.node.window_s;
        let (c, s) = (&self.client.endpoint, &self.server.endpoint);
        if c.node.machine == s.node.machine { f64::midpoint(of(c), of(s)) } else { of(c) + of(s) }
    }

    fn idle_flows(&mut self) {
        let ends = if self.task.workload.is_transactional() {
            vec![("client", self.client)]
        } else {
            match self.task.params.direction {
                FlowDirection::Forward => vec![("server", self.server)],
                FlowDirection::Reverse => vec![("client", self.client)],
                FlowDirection::Both => vec![("server", self.server), ("client", self.client)],
            }
        };
        for (name, end) in ends {
            let flows = &end.endpoint.flows;
            let idle = flows.iter().filter(|f| f.received == 0).count();
            if idle > 0 && idle < flows.len() {
                self.warnings.push(format!("{name}: a flow received nothing in the window"));
            }
        }
    }

    fn one_machine(&self) -> bool {
        self.client.endpoint.node.machine == self.server.endpoint.node.machine
    }

    fn pinning(&mut self) {
        let t = self.task;
        let one_machine = self.one_machine();
        let shared = t.client_cpus.iter().find(|c| t.server_cpus.contains(c));
        // Where instructions are counted there is one CPU, and nobody waits for another.
        if t.params.pinning == Pinning::Split
            && t.count.is_none()
            && one_machine
            && let Some(cpu) = shared
        {
            self.warnings.push(format!(
                "split pinning was asked for, but both ends run on CPU {cpu}: no other is allowed"
            ));
        }
        let apart = !t.client_cpus.is_empty()
            && t.client_cpus.iter().all(|cpu| !t.server_cpus.contains(cpu));
        if t.params.pinning == Pinning::Same && one_machine && apart {
            self.warnings.push(
                "same pinning was asked for, but the ends share no CPU: each may use its own only"
                    .to_owned(),
            );
        }
    }

    /// A closed loop whose two ends share a CPU never idles there: its latency *is* CPU time, so
    /// a full CPU says nothing about it.
    fn is_meant_to_be_full(&self, cpu: u32) -> bool {
        let t = self.task;
        let carries = |cpus: &[u32]| cpus.iter().take(t.params.streams as usize).any(|&c| c == cpu);
        self.one_machine()
            && t.workload.is_transactional()
            && t.params.rate.is_none()
            && carries(&t.client_cpus)
            && carries(&t.server_cpus)
    }

    /// Softirqs, interrupts and kernel threads are the path's; what processes did and the agents did
    /// not is somebody else's. This is a lower bound: without CONFIG_IRQ_TIME_ACCOUNTING an agent's
    /// time includes the softirqs that ran on its back.
    fn other_work(&mut self) {
        let (c, s) = (self.client, self.server);
        let processes = |e: &EndReport| e.endpoint.node.time.user_s + e.endpoint.node.time.system_s;
        let busy = |e: &EndReport| e.endpoint.node.time.busy_s();
        let own = |e: &EndReport| e.endpoint.process.busy_s();
        let nodes = if c.endpoint.node.machine == s.endpoint.node.machine {
            let all = f64::midpoint(processes(c), processes(s));
            vec![("node", all - own(c) - own(s), f64::midpoint(busy(c), busy(s)), vec![c, s])]
        } else {
            vec![
                ("client's node", processes(c) - own(c), busy(c), vec![c]),
                ("server's node", processes(s) - own(s), busy(s), vec![s]),
            ]
        };
        for (name, others, busy, ends) in nodes {
            if others <= (OTHERS_TOLERANCE * busy).max(OTHERS_LEAST_S) {
                continue;
            }
            let unseen = ends.iter().any(|e| e.warnings.iter().any(|w| w == KTHREADS_UNSEEN));
            let who = if unseen {
                "a cni's own daemon, kernel threads, which cannot be seen here, or a neighbour"
            } else {
                "a cni's own daemon, or a neighbour"
            };
            self.warnings.push(format!(
                "{name}: other work took CPU time in the window: the CPU cost includes it ({who})"
            ));
        }
    }

    fn machines_warnings(&mut self) {
        let (c, s) = (&self.client.endpoint.node, &self.server.endpoint.node);
        let nodes = if c.machine == s.machine {
            vec![("node", c)]
        } else {
            vec![("client's node", c), ("server's node", s)]
        };
        for (name, node) in nodes {
            for (cpu, _) in node.busy.iter().filter(|(_, busy)| **busy >= CPU_FULL) {
                if !self.is_meant_to_be_full(*cpu) {
                    self.warnings.push(format!("{name}: CPU {cpu} was full"));
                }
            }
            let capacity = node.window_s * node.busy.len().max(1) as f64;
            let steal = node.time.steal_s / capacity;
            if steal > STEAL_TOLERANCE {
                self.warnings.push(format!(
                    "{name}: the hypervisor took more than {:.0} % of its CPU time (steal)",
                    STEAL_TOLERANCE * 100.0
                ));
            }
        }
    }
}

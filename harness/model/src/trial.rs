//! What one trial left: samples, the histogram, both ends' CPU time, and what every flow saw.

use crate::{
    case::CaseId, generator::MadeBy, histogram::StoredHistogram, interval::Interval,
    metric::Metric, pairing::PairSlot, probe::Losses, proof::Proof, workload::Workload,
};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use std::collections::BTreeMap;

/// A CPU whose busy share in a window is at least this was full.
pub const CPU_FULL: f64 = 0.95;

/// Warning of a trial that did less than the rate that was offered.
pub const SATURATED: &str = "rate not held: less than asked for (saturated)";

/// One value of one metric of one trial, in the metric's unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    /// What was measured.
    pub metric: Metric,
    /// The value.
    pub value: f64,
}

/// CPU seconds spent in a window, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CpuTime {
    /// In user mode (nice included).
    pub user_s: f64,
    /// In the kernel on behalf of processes, kernel threads not included where they can be seen.
    pub system_s: f64,
    /// In softirq context, which is where most of a datapath runs.
    pub softirq_s: f64,
    /// In hard interrupts.
    pub irq_s: f64,
    /// In kernel threads (kworkers, crypto and WireGuard workers). Not ksoftirqd: what it runs is
    /// softirq and counted there. Zero where kernel threads cannot be seen; then it is in `system_s`.
    pub kthread_s: f64,
    /// Taken by the hypervisor: time that this machine wanted and did not get.
    pub steal_s: f64,
}

impl CpuTime {
    /// All busy time; steal is not part of it.
    pub fn busy_s(&self) -> f64 {
        self.user_s + self.system_s + self.softirq_s + self.irq_s + self.kthread_s
    }
}

/// The CPU time of a whole node during a trial's measured window, from /proc/stat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeCpu {
    /// An identity of the machine (boot id), so that two ends on one machine are not counted twice.
    pub machine: String,
    /// Length of the window in seconds.
    pub window_s: f64,
    /// The node's CPU time in it.
    pub time: CpuTime,
    /// Busy share (0..1) of each CPU in the window, by CPU number.
    #[serde(deserialize_with = "by_cpu")]
    pub busy: BTreeMap<u32, f64>,
}

/// JSON has only text keys. serde_json turns them back into numbers, but not inside an internally
/// tagged enum (a journal line, an agent's reply), where serde hands them over as text.
fn by_cpu<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<u32, f64>, D::Error> {
    BTreeMap::<String, f64>::deserialize(deserializer)?
        .into_iter()
        .map(|(cpu, busy)| Ok((cpu.parse().map_err(D::Error::custom)?, busy)))
        .collect()
}

/// What one flow did in the measured window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlowResult {
    /// Flow number, from 0, the same at both ends.
    pub flow: u32,
    /// CPU that the thread was pinned to, if it was.
    pub cpu: Option<u32>,
    /// Payload bytes sent.
    pub sent_bytes: u64,
    /// Payload bytes received.
    pub received_bytes: u64,
    /// Datagrams, writes or requests sent.
    pub sent: u64,
    /// Datagrams, or responses, received.
    pub received: u64,
    /// Transactions completed.
    pub transactions: u64,
    /// Options read back from the socket after they were set (name to value).
    pub options: BTreeMap<String, String>,
    /// TCP_INFO at the end of the window, the fields that matter (name to value; times in µs).
    pub tcp_info: BTreeMap<String, u64>,
}

/// What the receiving end of `udp_stream` counted, all flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DatagramStats {
    /// Datagrams that the peer sent in *its* window, as its goodbye said; when every goodbye was
    /// lost, the range of the numbers that came (then there is a warning).
    pub expected: u64,
    /// Of these, arrived, at any time before the end of the drain; each counted once.
    pub received: u64,
    /// Arrived after one sent later (RFC 4737).
    pub reordered: u64,
    /// Arrived more than once.
    pub duplicated: u64,
    /// Interarrival jitter (RFC 3550, 6.4.1) in nanoseconds: mean of J over the window, then over
    /// flows. A datagram arrives when the receiving thread gets hold of it; those that one system
    /// call returned arrive together. Those that were sent together (one GSO send, one burst of a
    /// paced sender) count once, by the first that arrives.
    pub jitter_ns: f64,
}

impl DatagramStats {
    /// The sum of counts and the mean of jitters; none of none.
    pub fn merge(parts: &[Self]) -> Option<Self> {
        let mut all = Self::default();
        for s in parts {
            all.expected += s.expected;
            all.received += s.received;
            all.reordered += s.reordered;
            all.duplicated += s.duplicated;
            all.jitter_ns += s.jitter_ns / parts.len() as f64;
        }
        (!parts.is_empty()).then_some(all)
    }
}

/// What one end of a trial reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointResult {
    /// Measured window in seconds, by this end's monotonic clock.
    pub window_s: f64,
    /// CPU time of the agent process in the window (user and system only).
    pub process: CpuTime,
    /// CPU time of the whole node in the window.
    pub node: NodeCpu,
    /// Every flow.
    pub flows: Vec<FlowResult>,
}

/// The nodes between which a trial ran.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct NodePair {
    /// The client's.
    pub client: String,
    /// The server's.
    pub server: String,
}

/// One measured run of a case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Trial {
    /// The case.
    pub case: CaseId,
    /// Trial number of this case, from 0.
    pub index: u32,
    /// Trials of different cnis with the same series and block ran next to each other in random order.
    pub block: u32,
    /// Place in the whole run's order, from 0.
    pub sequence: u32,
    /// Place among the pairs of its series, where two arms were measured in pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<PairSlot>,
    /// When the trial began.
    #[schemars(with = "String")]
    pub started: Timestamp,
    /// What kind of traffic it was (also in the case; here so that a line of the journal can be read alone).
    pub workload: Workload,
    /// Every value.
    pub samples: Vec<Sample>,
    /// Latencies of all transactions of all flows.
    pub histogram: Option<StoredHistogram>,
    /// The rate in equal slices of the window (metric's unit of the workload's main rate), oldest first.
    pub slices: Vec<f64>,
    /// Seconds of one slice.
    pub slice_s: f64,
    /// Client's end.
    pub client: EndpointResult,
    /// Server's end.
    pub server: EndpointResult,
    /// The nodes of both ends, where a run measures many pairs of nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodePair>,
    /// Address and port that the client was sent to; none in records of before it was kept.
    #[serde(default)]
    pub server_addr: Option<String>,
    /// When the client's measured window opened, by the client's wall clock; none as above.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub window_opened: Option<Timestamp>,
    /// What the receivers of `udp_stream` counted (for `both` those of either end together); none
    /// for other workloads and as above.
    #[serde(default)]
    pub datagrams: Option<DatagramStats>,
    /// The program that made the traffic; none: cnibench's own generator, of the version that the
    /// environment names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<MadeBy>,
    /// What the kernel dropped and sent again in the window; none where its counters could not be
    /// attached, and as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub losses: Option<Losses>,
    /// What the requests met that were due in each short interval of the window; empty where none were
    /// due at times (a closed loop), in windows of less than a second, and as above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intervals: Vec<Interval>,
    /// Proofs taken with this trial.
    pub proofs: Vec<Proof>,
    /// What a reader must know to trust the values, e.g. "core 0 was full", "rate not held".
    pub warnings: Vec<String>,
}

impl Trial {
    /// The value of a metric, if this trial measured it.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        self.samples.iter().find(|s| s.metric == metric).map(|s| s.value)
    }

    /// True when it did less than the rate that was offered.
    pub fn is_saturated(&self) -> bool {
        self.warnings.iter().any(|w| w == SATURATED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "event", rename_all = "snake_case")]
    enum Tagged {
        Node(NodeCpu),
    }

    #[test]
    fn a_trial_of_before_the_optional_fields_can_be_read() {
        let end = r#"{"window_s":1,"process":{"user_s":0,"system_s":0,"softirq_s":0,"irq_s":0,
            "kthread_s":0,"steal_s":0},"node":{"machine":"m","window_s":1,"time":{"user_s":0,
            "system_s":0,"softirq_s":0,"irq_s":0,"kthread_s":0,"steal_s":0},"busy":{}},"flows":[]}"#;
        let text = format!(
            r#"{{"case":"c","index":0,"block":0,"sequence":0,"started":"2026-02-03T10:20:31Z",
            "workload":"udp_stream","samples":[],"histogram":null,"slices":[],"slice_s":0.1,
            "client":{end},"server":{end},"proofs":[],"warnings":[]}}"#
        );
        let mut trial: Trial = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (trial.server_addr.as_ref(), trial.window_opened, trial.datagrams, &trial.losses),
            (None, None, None, &None)
        );
        trial.server_addr = Some("[fd77::2]:4000".to_owned());
        trial.window_opened = "2026-02-03T10:20:32.25Z".parse().ok();
        trial.datagrams =
            Some(DatagramStats { expected: 9, received: 7, ..DatagramStats::default() });
        trial.losses = Some(Losses { retransmits: 3, ..Losses::default() });
        let again: Trial = serde_json::from_str(&serde_json::to_string(&trial).unwrap()).unwrap();
        assert_eq!(again, trial);
    }

    #[test]
    fn datagram_counts_add_up_and_jitters_are_averaged() {
        let of = |n, jitter_ns| DatagramStats {
            expected: 4 * n,
            received: 3 * n,
            reordered: 2 * n,
            duplicated: n,
            jitter_ns,
        };
        assert_eq!(DatagramStats::merge(&[of(1, 10.0), of(10, 30.0)]), Some(of(11, 20.0)));
        assert_eq!(DatagramStats::merge(&[]), None);
    }

    #[test]
    fn busy_cpus_survive_a_tagged_line() {
        let node = NodeCpu {
            machine: "m".to_owned(),
            window_s: 1.0,
            time: CpuTime::default(),
            busy: BTreeMap::from([(0, 0.5), (11, 1.0)]),
        };
        let text = serde_json::to_string(&Tagged::Node(node.clone())).unwrap();
        assert_eq!(serde_json::from_str::<Tagged>(&text).unwrap(), Tagged::Node(node));
        let wrong = text.replace("\"11\"", "\"x\"");
        assert!(serde_json::from_str::<Tagged>(&wrong).is_err());
    }
}

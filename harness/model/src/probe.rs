//! What a trial with kernel-side probes leaves in the record: where the time of a round trip went,
//! stage by stage, what was lost on the way, and what the probing itself cost.
//!
//! Owns the stages, their order and their names, and these shapes. Owns no estimate: means, sums and
//! what is left over are made by the reports. Written by the run, read by the reports; probed trials
//! stand apart from measured ones, so that nothing that compares cnis can take one for the other.

use crate::{
    case::{CaseId, named_enum},
    histogram::StoredHistogram,
    nearest::did_you_mean,
    trial::NodePair,
    workload::Workload,
};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

named_enum! {
    /// A part of a packet's way, in the order in which a packet meets them. Each begins where the one
    /// before it ends, so that their means add up; a cni's path has some of them and not others.
    Stage, "stage" {
        /// The sender's send call up to the queue of its pod's device: socket and protocol work.
        SocketToQdisc = "socket-to-qdisc",
        /// From the queue of the pod's device to its transmit function: the qdisc and the veth.
        PodDevice = "pod-device",
        /// From netif_rx to netif_receive_skb: how long the packet waited for the softirq.
        Backlog = "backlog",
        /// From the node's receive to the queue of the next device: bridge, routing, netfilter or tc.
        NodeForward = "node-forward",
        /// From the queue of the tunnel or crypto device to the queue of the underlay device.
        Encapsulation = "encapsulation",
        /// From the transmit of the underlay device to the receive on the peer node.
        Underlay = "underlay",
        /// From the receive of the outer packet to the receive of the inner one.
        Decapsulation = "decapsulation",
        /// From the peer node's receive to the receive in the pod.
        ToPod = "to-pod",
        /// From the receive in the pod until the data is in the socket.
        ToSocket = "to-socket",
        /// From the data's being in the socket (sk_data_ready) to sched_switch of the thread that it is
        /// for: until it gets a CPU, each time that it waits for one before it sends.
        WakeUp = "wake-up",
        /// From the thread's running to its own next send: the program's part, and what is left of its
        /// receiving call. The client's is part of no round trip from its read's return on.
        Application = "application",
        /// What of the round trip no stage has. Never stored: the reports make it of the mean round
        /// trip and the sum of the stages.
        Unattributed = "unattributed",
    }
}

named_enum! {
    /// Which half of a round trip.
    Direction, "direction" {
        /// From client to server.
        Request = "request",
        /// From server to client.
        Response = "response",
    }
}

named_enum! {
    /// Why an event was not counted in a stage.
    DiscardKind, "discard" {
        /// The skb's address belongs to another packet by now: this one ended where no event says so,
        /// as one that is merged into another does (GRO, TCP's queues).
        SkbReused = "skb-reused",
        /// The event does not follow from the one seen before: no such step on any path.
        IllegalEdge = "illegal-edge",
        /// The event before it was too long ago to be of the same packet.
        TooOld = "too-old",
        /// The map of packets under way was full.
        MapFull = "map-full",
    }
}

/// One stage in one direction, over all packets of a trial's window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageStats {
    /// The stage.
    pub stage: Stage,
    /// Which half of the round trip.
    pub direction: Direction,
    /// How often it was seen. Some are met more than once in a round trip (a forward on each node),
    /// some not in each (a thread that was still running is not woken).
    pub count: u64,
    /// Nanoseconds in all. Divided by the transactions it is the stage's part of the mean round trip.
    pub sum_ns: u64,
    /// Every passage, in nanoseconds.
    pub histogram: StoredHistogram,
}

/// What the generator saw in the same window in which the stages were counted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RoundTrip {
    /// Transactions that completed.
    pub transactions: u64,
    /// Their mean time, in nanoseconds by the generator's clock.
    pub mean_ns: f64,
    /// Length of the window in seconds.
    pub window_s: f64,
}

impl RoundTrip {
    /// Transactions a second; none without a window.
    pub fn rate(&self) -> Option<f64> {
        (self.window_s > 0.0).then(|| self.transactions as f64 / self.window_s)
    }
}

/// Packets that the kernel dropped for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DropCount {
    /// The kernel's name of the reason, e.g. "NO_SOCKET".
    pub reason: String,
    /// Whose network namespace it happened in, e.g. "client", "server's node"; "elsewhere": that of
    /// none of them, of a packet that was followed.
    pub netns_role: String,
    /// How many.
    pub count: u64,
}

/// What was lost in the window of a measured trial, by counters of the kernel that are always on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Losses {
    /// Packets dropped in the namespaces of both ends and of their nodes, the most first; what GSO
    /// holds together counts once.
    pub drops: Vec<DropCount>,
    /// TCP segments sent again from there.
    pub retransmits: u64,
}

impl Losses {
    /// True where nothing was lost.
    pub fn is_none(&self) -> bool {
        self.retransmits == 0 && self.drops.iter().all(|d| d.count == 0)
    }
}

/// Events that were seen and are in no stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiscardCount {
    /// Why.
    pub why: DiscardKind,
    /// How many.
    pub count: u64,
}

/// A change between trials that ran next to each other, as a ratio: 0.97 is 3 % less.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PairedChange {
    /// With probes divided by without.
    pub ratio: f64,
    /// Lower end of its 95 % interval; none for too few pairs.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
}

/// What probing cost, from adjacent trials of the case with and without probes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProbeCost {
    /// Pairs of trials.
    pub pairs: u32,
    /// How the transactions a second changed.
    pub throughput_change: PairedChange,
}

/// One program of the probes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProbeProgram {
    /// Its name, e.g. "tp_btf/net_dev_queue".
    pub name: String,
    /// True when it was loaded and attached.
    pub attached: bool,
    /// Why it was not.
    pub reason: Option<String>,
}

/// What the probes saw in one trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProbeResult {
    /// Every stage that was seen, in each direction.
    pub stages: Vec<StageStats>,
    /// What the generator saw meanwhile.
    pub round_trip: RoundTrip,
    /// Packets dropped.
    pub drops: Vec<DropCount>,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// Events in no stage, and why.
    pub discards: Vec<DiscardCount>,
    /// Times that the kernel ran a program for nothing that it was there for, since it ran already on
    /// that CPU; from before the warm-up on, so more than in the window. Counts are too small by up to
    /// so many.
    pub lost_events: u64,
    /// What probing costs in this case, where a run has estimated it; else the reports do, of
    /// [`ProbedTrial::beside`].
    #[serde(default)]
    pub cost: Option<ProbeCost>,
    /// Every program that was tried.
    pub programs: Vec<ProbeProgram>,
}

/// One trial with probes. It is no [`crate::Trial`]: its values are slowed by the probes and are
/// compared with no measured one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProbedTrial {
    /// The case.
    pub case: CaseId,
    /// Probed trial number of this case, from 0.
    pub index: u32,
    /// Probed trials of different cnis with the same series and block ran next to each other.
    pub block: u32,
    /// When it began.
    #[schemars(with = "String")]
    pub started: Timestamp,
    /// What kind of traffic it was (also in the case; here so that a line of the journal can be read
    /// alone).
    pub workload: Workload,
    /// The nodes of both ends, where a run looks at many pairs of nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodePair>,
    /// What was seen.
    pub result: ProbeResult,
    /// The trial without probes that ran next to it.
    #[serde(default)]
    pub beside: Option<RoundTrip>,
    /// What a reader must know to trust it.
    #[serde(default)]
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{histogram, journal::JournalLine, record::Record};

    fn probed() -> ProbedTrial {
        let mut h = histogram::empty();
        h.record_n(2_400, 7).unwrap();
        let stage = |stage, direction| StageStats {
            stage,
            direction,
            count: 7,
            sum_ns: 16_800,
            histogram: StoredHistogram::encode(&h).unwrap(),
        };
        ProbedTrial {
            case: CaseId("netns/flannel-vxlan/tcp_rr/cross-node".to_owned()),
            index: 0,
            block: 3,
            started: "2026-02-03T10:20:31Z".parse().unwrap(),
            workload: Workload::TcpRr,
            nodes: None,
            result: ProbeResult {
                stages: vec![
                    stage(Stage::Encapsulation, Direction::Request),
                    stage(Stage::WakeUp, Direction::Response),
                ],
                round_trip: RoundTrip { transactions: 7, mean_ns: 31_000.5, window_s: 0.5 },
                drops: vec![DropCount {
                    reason: "NO_SOCKET".to_owned(),
                    netns_role: "server pod".to_owned(),
                    count: 1,
                }],
                retransmits: 2,
                discards: DiscardKind::ALL
                    .iter()
                    .map(|why| DiscardCount { why: *why, count: 4 })
                    .collect(),
                lost_events: 5,
                cost: Some(ProbeCost {
                    pairs: 6,
                    throughput_change: PairedChange {
                        ratio: 0.93,
                        low: Some(0.91),
                        high: Some(0.95),
                    },
                }),
                programs: vec![ProbeProgram {
                    name: "fentry/vxlan_xmit".to_owned(),
                    attached: false,
                    reason: Some("no such function".to_owned()),
                }],
            },
            beside: Some(RoundTrip { transactions: 8, mean_ns: 30_000.0, window_s: 0.5 }),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_probed_trial_is_read_as_it_was_written() {
        let trial = probed();
        let text = serde_json::to_string(&trial).unwrap();
        assert_eq!(serde_json::from_str::<ProbedTrial>(&text).unwrap(), trial);
        for name in ["\"encapsulation\"", "\"wake-up\"", "\"request\"", "\"illegal-edge\""] {
            assert!(text.contains(name), "{name} {text}");
        }
        assert_eq!(trial.result.round_trip.rate(), Some(14.0));
        let line = JournalLine::Probed(Box::new(trial));
        let text = serde_json::to_string(&line).unwrap();
        assert!(text.starts_with("{\"event\":\"probed\""), "{text}");
        assert_eq!(serde_json::from_str::<JournalLine>(&text).unwrap(), line);
    }

    #[test]
    fn what_is_optional_may_be_absent() {
        let mut value = serde_json::to_value(probed()).unwrap();
        let fields = value.as_object_mut().unwrap();
        fields.remove("beside");
        fields.remove("warnings");
        fields["result"].as_object_mut().unwrap().remove("cost");
        let trial: ProbedTrial = serde_json::from_value(value).unwrap();
        assert_eq!((trial.beside, trial.result.cost), (None, None));
    }

    #[test]
    fn stages_stand_in_the_order_of_the_path_and_have_their_names() {
        assert!(Stage::ALL.is_sorted());
        assert_eq!((Stage::ALL.len(), Stage::ALL[0]), (12, Stage::SocketToQdisc));
        for stage in Stage::ALL {
            assert_eq!(stage.name().parse::<Stage>(), Ok(*stage));
            assert_eq!(serde_json::to_value(stage).unwrap(), stage.name());
        }
        assert!("wakeup".parse::<Stage>().unwrap_err().contains("did you mean \"wake-up\"?"));
    }

    #[test]
    fn the_schema_documents_every_field() {
        let schema = serde_json::to_value(schemars::schema_for!(Record)).unwrap();
        assert!(schema["properties"]["probed"]["description"].is_string());
        for name in ["ProbedTrial", "ProbeResult", "StageStats", "RoundTrip", "PairedChange"] {
            let fields = schema["$defs"][name]["properties"].as_object().unwrap();
            for (field, of) in fields {
                assert!(of["description"].is_string(), "{name}.{field}");
            }
        }
    }
}

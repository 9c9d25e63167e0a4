//! Flows over agents: the cni's own flow log saw what was sent while a policy was in force.
//!
//! Reads lines of `hubble observe -o jsonpb` (Cilium's api/v1/flow/flow.proto and
//! observer.proto, as JSON by the protobuf mapping: zero values are left out, 64-bit numbers are
//! strings). Where the lines come from is the cluster's ([`FlowLog`]).

use async_trait::async_trait;
use cnibench_model::{CniSpec, Proof, ProofKind, ProofOutcome};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// How long the log may take to tell of the last packet.
const DEADLINE: Duration = Duration::from_secs(10);
/// How far the clocks of nodes and of this machine may be apart. The port tells what is meant.
const SKEW: SignedDuration = SignedDuration::from_mins(1);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// A packet was dropped (MessageTypeDrop in Cilium's pkg/monitor/api/types.go). The verdict of a
/// policy is an event of its own beside it, and would be counted twice.
const DROP_EVENT: i64 = 1;
/// Why a policy drops: nothing admits it, or a rule denies it (DropReason in flow.proto).
const BY_POLICY: [&str; 2] = ["POLICY_DENIED", "POLICY_DENY"];
/// Lines that were not understood are shown, at most these.
const SHOWN: usize = 2;

/// Gives the flow log.
#[async_trait]
pub trait FlowLog: Send {
    /// Where it is read, for people: "hubble observe in cilium-x on n0 and cilium-y on n1".
    fn describe(&self) -> String;

    /// Its lines since then, of all nodes that the flows touch.
    ///
    /// # Errors
    /// Why it cannot be read.
    async fn since(&mut self, since: Timestamp) -> anyhow::Result<Vec<String>>;
}

/// What was sent while a policy was in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// To here, and nothing before on this port.
    pub server: SocketAddr,
    /// Addresses of the client that was admitted.
    pub allowed: BTreeSet<IpAddr>,
    /// Addresses of the one that was not.
    pub denied: BTreeSet<IpAddr>,
    /// Datagrams that the denied client sent.
    pub denied_datagrams: u32,
    /// Connections that it tried, one SYN each.
    pub denied_connects: u32,
    /// Connections that the allowed client made.
    pub allowed_connects: u32,
    /// When that began, by this machine's clock.
    pub since: Timestamp,
}

/// Takes the proof: waits until the log has everything, or the deadline.
pub async fn prove(spec: &CniSpec, sent: &Counted, log: &mut dyn FlowLog) -> Proof {
    let end = Instant::now() + DEADLINE;
    let since = sent.since.saturating_sub(SKEW).unwrap_or(sent.since);
    let (outcome, summary, mut evidence) = loop {
        let judged = match log.since(since).await {
            Ok(lines) => judge(sent, &count(sent, &lines)),
            Err(e) => (ProofOutcome::Failed, format!("could not be read: {e:#}"), Vec::new()),
        };
        if judged.0 == ProofOutcome::Passed || Instant::now() >= end {
            break judged;
        }
        sleep(PAUSE).await;
    };
    evidence.insert(0, log.describe());
    Proof { kind: ProofKind::Flows, cni: spec.clone(), outcome, summary, evidence }
}

#[derive(Debug, Deserialize)]
struct Line {
    flow: Option<Flow>,
    lost_events: Option<Lost>,
}

#[derive(Debug, Deserialize)]
struct Lost {
    num_events_lost: Option<Number>,
}

/// 64-bit numbers are strings in protobuf's JSON; some writers make numbers of them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Number {
    Text(String),
    Plain(u64),
}

impl Number {
    fn value(&self) -> u64 {
        match self {
            Self::Text(text) => text.parse().unwrap_or(1),
            Self::Plain(number) => *number,
        }
    }
}

#[derive(Debug, Deserialize)]
struct Flow {
    #[serde(default)]
    verdict: String,
    #[serde(rename = "IP")]
    ip: Option<Ip>,
    l4: Option<Layer4>,
    drop_reason_desc: Option<String>,
    is_reply: Option<bool>,
    #[serde(default)]
    node_name: String,
    event_type: Option<EventType>,
}

#[derive(Debug, Deserialize)]
struct Ip {
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
}

#[derive(Debug, Deserialize)]
struct EventType {
    #[serde(rename = "type", default)]
    kind: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Layer4 {
    tcp: Option<Ports>,
    udp: Option<Ports>,
}

#[derive(Debug, Deserialize)]
struct Ports {
    #[serde(default)]
    source_port: u16,
    #[serde(default)]
    destination_port: u16,
}

/// What the log says of what was sent.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Lines of the log.
    lines: usize,
    /// Denied datagrams that a policy dropped.
    dropped_datagrams: u64,
    /// Denied segments that a policy dropped.
    dropped_segments: u64,
    /// Other reasons for which packets of the denied client were dropped.
    other_reasons: BTreeMap<String, u64>,
    /// Packets of the denied client that were let through.
    leaked: u64,
    /// Connections of the allowed client: its ports.
    connections: BTreeSet<(IpAddr, u16)>,
    /// UDP flows of the allowed client.
    datagram_flows: BTreeSet<(IpAddr, u16)>,
    /// Nodes that dropped.
    nodes: BTreeSet<String>,
    /// Events that the log lost.
    lost: u64,
    /// Lines that were not understood.
    unreadable: Vec<String>,
}

fn count(sent: &Counted, lines: &[String]) -> Seen {
    let mut seen = Seen { lines: lines.len(), ..Seen::default() };
    for line in lines.iter().filter(|l| !l.trim().is_empty()) {
        match serde_json::from_str::<Line>(line) {
            Ok(Line { flow: Some(flow), .. }) => note(&mut seen, sent, &flow),
            Ok(Line { lost_events: Some(lost), .. }) => {
                seen.lost += lost.num_events_lost.as_ref().map_or(1, Number::value);
            }
            // The state of a node, say.
            Ok(_) => {}
            Err(_) => seen.unreadable.push(line.chars().take(120).collect()),
        }
    }
    seen
}

fn note(seen: &mut Seen, sent: &Counted, flow: &Flow) {
    let Some(Ip { source: Some(source), destination: Some(destination) }) = flow.ip else { return };
    let Some(Layer4 { tcp, udp }) = &flow.l4 else { return };
    let Some(ports) = tcp.as_ref().or(udp.as_ref()) else { return };
    if destination != sent.server.ip()
        || ports.destination_port != sent.server.port()
        || flow.is_reply == Some(true)
    {
        return;
    }
    let kind = flow.event_type.as_ref().map(|t| t.kind);
    match flow.verdict.as_str() {
        "DROPPED" if sent.denied.contains(&source) => {
            if kind.is_some_and(|kind| kind != DROP_EVENT) {
                return;
            }
            seen.nodes.insert(flow.node_name.clone());
            let reason = flow.drop_reason_desc.as_deref().unwrap_or("no reason");
            if !BY_POLICY.contains(&reason) {
                *seen.other_reasons.entry(reason.to_owned()).or_default() += 1;
            } else if udp.is_some() {
                seen.dropped_datagrams += 1;
            } else {
                seen.dropped_segments += 1;
            }
        }
        // On its way out of its own node it is forwarded before the server's node drops it: only what
        // is forwarded where it would be dropped counts, and that is not known here. Told, not judged.
        "FORWARDED" if sent.denied.contains(&source) => seen.leaked += 1,
        "FORWARDED" if sent.allowed.contains(&source) => {
            let flows =
                if udp.is_some() { &mut seen.datagram_flows } else { &mut seen.connections };
            flows.insert((source, ports.source_port));
        }
        _ => {}
    }
}

fn judge(sent: &Counted, seen: &Seen) -> (ProofOutcome, String, Vec<String>) {
    let nodes: Vec<&str> = seen.nodes.iter().map(String::as_str).collect();
    let at = if nodes.is_empty() { String::new() } else { format!(" on {}", nodes.join(", ")) };
    let mut evidence = vec![
        format!("{} lines since the policy was in force", seen.lines),
        format!(
            "dropped by policy{at}: {} datagrams of {} sent, {} SYNs of {}",
            seen.dropped_datagrams,
            sent.denied_datagrams,
            seen.dropped_segments,
            sent.denied_connects
        ),
        format!(
            "forwarded: {} connections of {} made, {} UDP flows of the allowed client",
            seen.connections.len(),
            sent.allowed_connects,
            seen.datagram_flows.len()
        ),
    ];
    for (reason, packets) in &seen.other_reasons {
        evidence.push(format!("dropped for another reason, {reason}: {packets} packets"));
    }
    if seen.leaked > 0 {
        let n = seen.leaked;
        evidence
            .push(format!("{n} events of the denied client's packets on their way to the server"));
    }
    if seen.lost > 0 {
        evidence.push(format!("the log lost {} events", seen.lost));
    }
    if let Some(first) =
        seen.unreadable.get(..seen.unreadable.len().min(SHOWN)).filter(|l| !l.is_empty())
    {
        let n = seen.unreadable.len();
        evidence.push(format!("{n} lines were not understood: {}", first.join(" | ")));
    }
    let drops = (seen.dropped_datagrams, seen.dropped_segments);
    let denied = (u64::from(sent.denied_datagrams), u64::from(sent.denied_connects));
    let lost =
        if seen.lost > 0 { format!(" (the log lost {} events)", seen.lost) } else { String::new() };
    let fault = if drops != denied {
        Some(format!(
            "the log has {} dropped datagrams of {} and {} SYNs of {}{lost}",
            drops.0, denied.0, drops.1, denied.1
        ))
    } else if seen.connections.len() < sent.allowed_connects as usize {
        Some(format!(
            "the log has {} forwarded connections of {}{lost}",
            seen.connections.len(),
            sent.allowed_connects
        ))
    } else if seen.datagram_flows.is_empty() {
        Some(format!("the log has none of the allowed client's datagrams{lost}"))
    } else {
        None
    };
    match fault {
        Some(fault) => (ProofOutcome::Failed, fault, evidence),
        None => {
            let summary = format!(
                "the log has all {} datagrams and {} SYNs of the denied client as dropped by policy, \
                 and all {} connections of the allowed client as forwarded",
                denied.0, denied.1, sent.allowed_connects
            );
            (ProofOutcome::Passed, summary, evidence)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent() -> Counted {
        Counted {
            server: "10.0.1.117:41733".parse().unwrap(),
            allowed: ["10.0.0.12".parse().unwrap()].into(),
            denied: ["10.0.0.116".parse().unwrap()].into(),
            denied_datagrams: 3,
            denied_connects: 2,
            allowed_connects: 1,
            since: Timestamp::UNIX_EPOCH,
        }
    }

    /// A line as `hubble observe -o jsonpb` prints it.
    fn line(verdict: &str, from: &str, l4: &str, rest: &str) -> String {
        let drop = match verdict {
            "DROPPED" => r#""drop_reason":133,"drop_reason_desc":"POLICY_DENIED","#,
            _ => "",
        };
        format!(
            r#"{{"flow":{{"time":"2026-09-20T14:56:45.779111730Z","uuid":"2848b6b6-59c0","verdict":"{verdict}",{drop}"ethernet":{{"source":"2a:5d:8c:00:00:01","destination":"2a:5d:8c:00:00:02"}},"IP":{{"source":"{from}","destination":"10.0.1.117","ipVersion":"IPv4"}},"l4":{l4},"source":{{"ID":4070,"identity":60176,"namespace":"cnibench","labels":["k8s:role=client"],"pod_name":"pod-0"}},"destination":{{"ID":2376,"identity":10337,"namespace":"cnibench","pod_name":"pod-1"}},"Type":"L3_L4","node_name":"kind-worker2","traffic_direction":"INGRESS"{rest},"Summary":"x"}},"node_name":"kind-worker2","time":"2026-09-20T14:56:45.779111730Z"}}"#
        )
    }

    fn udp(port: u16) -> String {
        format!(r#"{{"UDP":{{"source_port":{port},"destination_port":41733}}}}"#)
    }

    fn tcp(port: u16) -> String {
        format!(
            r#"{{"TCP":{{"source_port":{port},"destination_port":41733,"flags":{{"SYN":true}}}}}}"#
        )
    }

    const DROP: &str = r#","event_type":{"type":1,"sub_type":133}"#;
    const VERDICT: &str = r#","event_type":{"type":5},"policy_match_type":0"#;
    const TRACE: &str =
        r#","event_type":{"type":4},"trace_observation_point":"TO_ENDPOINT","is_reply":false"#;

    fn log() -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..3 {
            lines.push(line("DROPPED", "10.0.0.116", &udp(5000), VERDICT));
            lines.push(line("DROPPED", "10.0.0.116", &udp(5000), DROP));
        }
        for port in [6000, 6001] {
            lines.push(line("DROPPED", "10.0.0.116", &tcp(port), VERDICT));
            lines.push(line("DROPPED", "10.0.0.116", &tcp(port), DROP));
        }
        lines.push(line("FORWARDED", "10.0.0.12", &udp(7000), TRACE));
        lines.push(line("FORWARDED", "10.0.0.12", &tcp(7001), TRACE));
        lines.push(line("FORWARDED", "10.0.0.12", &tcp(7001), TRACE));
        lines
    }

    fn judged(lines: &[String]) -> (ProofOutcome, String, Vec<String>) {
        judge(&sent(), &count(&sent(), lines))
    }

    #[test]
    fn a_drop_is_counted_once_beside_its_verdict() {
        let (outcome, summary, evidence) = judged(&log());
        assert_eq!(outcome, ProofOutcome::Passed, "{summary} {evidence:#?}");
        assert!(summary.contains("all 3 datagrams and 2 SYNs"), "{summary}");
        assert!(evidence.iter().any(|l| l.contains("on kind-worker2: 3 datagrams of 3")));
    }

    #[test]
    fn a_log_without_event_types_is_counted_line_by_line() {
        let lines: Vec<String> = log()
            .into_iter()
            .filter(|l| !l.contains(VERDICT))
            .map(|l| l.replace(DROP, ""))
            .collect();
        assert_eq!(judged(&lines).0, ProofOutcome::Passed);
    }

    #[test]
    fn one_too_few_or_too_many_fails() {
        let mut lines = log();
        lines.retain(|l| !(l.contains(DROP) && l.contains("6001")));
        assert!(judged(&lines).1.contains("1 SYNs of 2"), "{:?}", judged(&lines));
        let mut lines = log();
        lines.push(line("DROPPED", "10.0.0.116", &udp(5000), DROP));
        assert!(judged(&lines).1.contains("4 dropped datagrams of 3"));
        let mut lines = log();
        lines.retain(|l| !(l.contains("FORWARDED") && l.contains("TCP")));
        assert!(judged(&lines).1.contains("0 forwarded connections of 1"));
        let mut lines = log();
        lines.retain(|l| !(l.contains("FORWARDED") && l.contains("UDP")));
        assert!(judged(&lines).1.contains("none of the allowed client's datagrams"));
    }

    #[test]
    fn other_flows_are_not_counted() {
        let mut lines = log();
        // Another port, a reply, another destination, another client.
        lines.push(line("DROPPED", "10.0.0.116", &udp(5000).replace("41733", "53"), DROP));
        lines.push(line("DROPPED", "10.0.0.116", &udp(5000), &format!("{DROP},\"is_reply\":true")));
        lines.push(
            line("DROPPED", "10.0.0.116", &udp(5000), DROP).replace("10.0.1.117", "10.0.1.9"),
        );
        lines.push(line("DROPPED", "10.0.9.9", &udp(5000), DROP));
        lines.push(
            r#"{"node_status":{"state_change":"NODE_CONNECTED"},"node_name":"n"}"#.to_owned(),
        );
        lines.push(
            r#"{"flow":{"verdict":"FORWARDED","l7":{"type":"REQUEST"}},"node_name":"n"}"#
                .to_owned(),
        );
        assert_eq!(judged(&lines).0, ProofOutcome::Passed);
    }

    #[test]
    fn drops_for_another_reason_are_no_policy() {
        let lines: Vec<String> = log()
            .into_iter()
            .map(|l| l.replace("POLICY_DENIED", "CT_MAP_INSERTION_FAILED"))
            .collect();
        let (outcome, summary, evidence) = judged(&lines);
        assert_eq!(outcome, ProofOutcome::Failed);
        assert!(summary.contains("0 dropped datagrams of 3"), "{summary}");
        assert!(evidence.iter().any(|l| l.contains("CT_MAP_INSERTION_FAILED: 5 packets")));
    }

    #[test]
    fn broken_lines_and_lost_events_are_told() {
        let mut lines = log();
        lines.pop();
        lines.push("{\"flow\":{\"verdict\":".to_owned());
        lines.push("level=warn msg=\"hubble is slow\"".to_owned());
        lines.push(String::new());
        lines.push(
            r#"{"lost_events":{"source":"PERF_EVENT_RING_BUFFER","num_events_lost":"12"},"node_name":"n"}"#
                .to_owned(),
        );
        let (outcome, _, evidence) = judged(&lines);
        assert_eq!(outcome, ProofOutcome::Passed);
        assert!(
            evidence.iter().any(|l| l.starts_with("2 lines were not understood")),
            "{evidence:?}"
        );
        assert!(evidence.contains(&"the log lost 12 events".to_owned()));
        let (outcome, summary, _) = judged(&lines[6..]);
        assert_eq!(outcome, ProofOutcome::Failed);
        assert!(summary.contains("(the log lost 12 events)"), "{summary}");
    }

    /// A log that tells a line more each time.
    struct Slow {
        lines: Vec<String>,
        told: usize,
        since: Option<Timestamp>,
    }

    #[async_trait]
    impl FlowLog for Slow {
        fn describe(&self) -> String {
            "a slow log".to_owned()
        }

        async fn since(&mut self, since: Timestamp) -> anyhow::Result<Vec<String>> {
            self.since = Some(since);
            self.told += 8;
            if self.told == 8 {
                anyhow::bail!("not up yet");
            }
            Ok(self.lines.iter().take(self.told).cloned().collect())
        }
    }

    #[tokio::test]
    async fn a_log_is_waited_for() {
        let spec = "cilium".parse().unwrap();
        let mut sent = sent();
        sent.since = "2026-09-20T14:56:45Z".parse().unwrap();
        let mut slow = Slow { lines: log(), told: 0, since: None };
        let proof = prove(&spec, &sent, &mut slow).await;
        assert_eq!(proof.outcome, ProofOutcome::Passed, "{proof:#?}");
        assert_eq!(proof.evidence[0], "a slow log");
        // A node whose clock is behind has written earlier.
        assert_eq!(slow.since.unwrap().to_string(), "2026-09-20T14:55:45Z");
    }

    #[test]
    fn an_empty_log_proves_nothing() {
        let (outcome, summary, _) = judged(&[]);
        assert_eq!(outcome, ProofOutcome::Failed);
        assert!(summary.contains("0 dropped datagrams of 3"), "{summary}");
    }
}

//! The suite file: what may stand in it, and the checks that need its text for line numbers.

use crate::{error::SuiteError, quantity};
use cnibench_model::{FlowDirection, Generator, Pinning, Placement, Rate, Topology, Workload};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_spanned::Spanned;
use std::fmt::Display;

/// Longest measured window of a trial, in seconds.
pub const MAX_DURATION_S: f64 = 3600.0;
/// Most trials of a case.
pub const MAX_TRIALS: u32 = 10_000;
/// Most flows of a trial.
pub const MAX_STREAMS: u32 = 1024;
/// Most policies, or services, around a case.
pub const MAX_OBJECTS: u32 = 10_000;

/// A checked suite.
#[derive(Debug, Clone, PartialEq)]
pub struct Suite {
    /// Its name, used in the results folder.
    pub name: String,
    /// What it is for, in one line.
    pub description: String,
    /// The text it was read from.
    pub text: String,
    /// The shape of the cluster.
    pub topology: Topology,
    /// What is measured.
    pub scenarios: Vec<Scenario>,
}

/// Workloads x placements x parameters, each list a dimension.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Kinds of traffic.
    pub workloads: Vec<Workload>,
    /// Where it runs.
    pub placements: Vec<Placement>,
    /// Trials of every case.
    pub trials: u32,
    /// Measured seconds of a trial.
    pub duration_s: f64,
    /// Seconds cut off before.
    pub warmup_s: f64,
    /// After the trials of a case its ladder of offered rates is climbed.
    pub ladder: bool,
    /// After the trials of a case the payload size is searched at which its throughput falls.
    pub cliffs: bool,
    /// After the trials of a case, as many trials during each of which keys are changed so often; 0: none.
    pub rotations: u32,
    /// Parameters; an empty list means the workload's default.
    pub sweep: Sweep,
}

/// The dimensions of a scenario. An empty list means "the workload's default".
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sweep {
    /// Flows.
    pub streams: Vec<u32>,
    /// Bytes of a write, request or datagram.
    pub size: Vec<u64>,
    /// Bytes of a response.
    pub response_size: Vec<u64>,
    /// Offered rates; `None` is closed loop or flat out.
    pub rate: Vec<Option<Rate>>,
    /// Directions of streams.
    pub direction: Vec<FlowDirection>,
    /// Pinning of flow threads.
    pub pinning: Vec<Pinning>,
    /// TCP congestion controls.
    pub congestion_control: Vec<String>,
    /// TCP_NODELAY.
    pub nodelay: Vec<bool>,
    /// TCP_MAXSEG of streams.
    pub mss: Vec<Option<u16>>,
    /// UDP segmentation offload.
    pub gso: Vec<bool>,
    /// SO_SNDBUF.
    pub send_buffer: Vec<Option<u64>>,
    /// SO_RCVBUF.
    pub receive_buffer: Vec<Option<u64>>,
    /// What makes the traffic.
    pub generator: Vec<Generator>,
    /// NetworkPolicies that select the server's pod. Of this and the next two an empty list means
    /// "the cluster as it came up".
    pub policies: Vec<u32>,
    /// ClusterIP services beside the measured one.
    pub services: Vec<u32>,
    /// Hubble off or on.
    pub hubble: Vec<bool>,
}

/// A value or a list of values.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

/// A number or a text with a unit.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Quantity {
    Integer(u64),
    Float(f64),
    Text(String),
}

impl Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Integer(n) => n.fmt(f),
            Self::Float(n) => n.fmt(f),
            Self::Text(t) => t.fmt(f),
        }
    }
}

/// `true`, `false`, `"on"` or `"off"`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Switch {
    Bool(bool),
    Text(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSuite {
    name: Spanned<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    topology: Option<Spanned<Topology>>,
    #[serde(default)]
    defaults: RawTiming,
    #[serde(default)]
    scenario: Vec<Spanned<RawScenario>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTiming {
    trials: Option<Spanned<u64>>,
    duration: Option<Spanned<Quantity>>,
    warmup: Option<Spanned<Quantity>>,
}

type Values<T> = Option<Spanned<OneOrMany<T>>>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScenario {
    workloads: Spanned<OneOrMany<String>>,
    placements: Spanned<OneOrMany<String>>,
    trials: Option<Spanned<u64>>,
    duration: Option<Spanned<Quantity>>,
    warmup: Option<Spanned<Quantity>>,
    #[serde(default)]
    ladder: bool,
    #[serde(default)]
    cliffs: bool,
    #[serde(default)]
    rotations: u32,
    streams: Values<Quantity>,
    size: Values<Quantity>,
    response_size: Values<Quantity>,
    rate: Values<Quantity>,
    direction: Values<String>,
    pinning: Values<String>,
    congestion_control: Values<String>,
    nodelay: Values<bool>,
    mss: Values<Quantity>,
    gso: Values<bool>,
    send_buffer: Values<Quantity>,
    receive_buffer: Values<Quantity>,
    generator: Values<String>,
    policies: Values<Quantity>,
    services: Values<Quantity>,
    hubble: Values<Switch>,
}

/// Where a suite came from, for errors with positions.
struct Source<'a> {
    file: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn error<T>(&self, at: &Spanned<T>, message: impl Into<String>) -> SuiteError {
        SuiteError::at(self.file, self.text, at.span(), message)
    }

    /// Parses every value of a list, each error at the list's place.
    fn each<R: Clone, T>(
        &self,
        values: &Values<R>,
        key: &str,
        parse: impl Fn(&R) -> Result<T, String>,
    ) -> Result<Vec<T>, SuiteError> {
        let Some(values) = values else { return Ok(Vec::new()) };
        let list = match values.get_ref() {
            OneOrMany::One(value) => std::slice::from_ref(value),
            OneOrMany::Many(list) => list,
        };
        if list.is_empty() {
            return Err(
                self.error(values, format!("{key} is an empty list: leave it out for the default"))
            );
        }
        list.iter()
            .map(|value| parse(value).map_err(|e| self.error(values, format!("{key}: {e}"))))
            .collect()
    }
}

impl Suite {
    /// Reads and checks a suite. `file` is only used in errors.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn parse(file: &str, text: &str) -> Result<Self, SuiteError> {
        let raw: RawSuite =
            toml::from_str(text).map_err(|e| SuiteError::from_toml(file, text, &e))?;
        let source = Source { file, text };
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let name = raw.name.get_ref();
        if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
            return Err(
                source.error(&raw.name, "a suite's name is 1 to 64 letters, digits, '-' or '_'")
            );
        }
        let topology = topology(&source, raw.topology)?;
        if raw.scenario.is_empty() {
            return Err(SuiteError::at(file, text, 0..0, "a suite has at least one [[scenario]]"));
        }
        let scenarios = raw
            .scenario
            .iter()
            .map(|s| scenario(&source, s, &raw.defaults))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            name: name.clone(),
            description: raw.description,
            text: text.to_owned(),
            topology,
            scenarios,
        })
    }
}

fn topology(source: &Source<'_>, raw: Option<Spanned<Topology>>) -> Result<Topology, SuiteError> {
    let Some(raw) = raw else { return Ok(Topology::default()) };
    let t = raw.get_ref();
    for (name, value, low, high) in [
        ("nodes", t.nodes, 1, 1000),
        ("pods_per_node", t.pods_per_node, 1, 250),
        ("underlay_mtu", t.underlay_mtu, 1280, 65_535),
    ] {
        if !(low..=high).contains(&value) {
            return Err(source.error(&raw, format!("{name} = {value}: expected {low} to {high}")));
        }
    }
    Ok(raw.into_inner())
}

/// Measured seconds of a trial from a text or number.
///
/// # Errors
/// A sentence with the limits.
pub fn checked_duration(text: &str) -> Result<f64, String> {
    let s = quantity::seconds(text)?;
    if (0.01..=MAX_DURATION_S).contains(&s) {
        Ok(s)
    } else {
        Err(format!("{text:?}: a trial lasts 10ms to 1h; for more time ask for more trials"))
    }
}

/// Warm-up seconds of a trial from a text or number.
///
/// # Errors
/// A sentence with the limits.
pub fn checked_warmup(text: &str) -> Result<f64, String> {
    let s = quantity::seconds(text)?;
    if (0.0..=600.0).contains(&s) {
        Ok(s)
    } else {
        Err(format!("{text:?}: a warm-up lasts 0 to 10m"))
    }
}

/// Trials of a case.
///
/// # Errors
/// A sentence with the limits.
pub fn checked_trials(n: u64) -> Result<u32, String> {
    match u32::try_from(n) {
        Ok(n) if (1..=MAX_TRIALS).contains(&n) => Ok(n),
        _ => Err(format!("{n} trials: expected 1 to {MAX_TRIALS}")),
    }
}

fn direction(text: &str) -> Result<FlowDirection, String> {
    [FlowDirection::Forward, FlowDirection::Reverse, FlowDirection::Both]
        .into_iter()
        .find(|d| d.name() == text)
        .ok_or_else(|| format!("{text:?}: expected forward, reverse or both"))
}

fn pinning(text: &str) -> Result<Pinning, String> {
    [Pinning::Same, Pinning::Split, Pinning::None]
        .into_iter()
        .find(|p| p.name() == text)
        .ok_or_else(|| format!("{text:?}: expected same, split or none"))
}

fn buffer(text: &Quantity) -> Result<Option<u64>, String> {
    match text.to_string().as_str() {
        "auto" => Ok(None),
        text => quantity::bytes(text).map(Some),
    }
}

fn streams(text: &Quantity) -> Result<u32, String> {
    match text {
        Quantity::Integer(n) if (1..=u64::from(MAX_STREAMS)).contains(n) => Ok(*n as u32),
        other => Err(format!("{other}: expected 1 to {MAX_STREAMS} flows")),
    }
}

fn objects(what: &'static str) -> impl Fn(&Quantity) -> Result<u32, String> {
    move |number| match number {
        Quantity::Integer(n) if *n <= u64::from(MAX_OBJECTS) => Ok(*n as u32),
        other => Err(format!("{other}: expected 0 to {MAX_OBJECTS} {what}")),
    }
}

fn hubble(switch: &Switch) -> Result<bool, String> {
    match switch {
        Switch::Bool(on) => Ok(*on),
        Switch::Text(text) => match text.as_str() {
            "on" => Ok(true),
            "off" => Ok(false),
            other => Err(format!("{other:?}: expected on or off")),
        },
    }
}

/// What TCP_MAXSEG takes (TCP_MIN_MSS and MAX_TCP_WINDOW in include/net/tcp.h).
fn mss(text: &Quantity) -> Result<Option<u16>, String> {
    let n = text.to_string().parse::<u16>().ok().filter(|n| (88..=32_767).contains(n));
    n.map(Some).ok_or_else(|| format!("{text}: expected 88 to 32767 bytes"))
}

fn sizes(low: u64) -> impl Fn(&Quantity) -> Result<u64, String> {
    move |text| {
        let n = quantity::bytes(&text.to_string())?;
        if (low..=64 << 20).contains(&n) {
            Ok(n)
        } else {
            Err(format!("{text}: expected {low} byte(s) to 64MiB"))
        }
    }
}

fn scenario(
    source: &Source<'_>,
    spanned: &Spanned<RawScenario>,
    defaults: &RawTiming,
) -> Result<Scenario, SuiteError> {
    let raw = spanned.get_ref();
    let timing = |own: &Option<Spanned<Quantity>>,
                  base: &Option<Spanned<Quantity>>,
                  otherwise: f64,
                  parse: fn(&str) -> Result<f64, String>| {
        own.as_ref().or(base.as_ref()).map_or(Ok(otherwise), |q| {
            parse(&q.get_ref().to_string()).map_err(|e| source.error(q, e))
        })
    };
    let trials = raw
        .trials
        .as_ref()
        .or(defaults.trials.as_ref())
        .map_or(Ok(5), |n| checked_trials(*n.get_ref()).map_err(|e| source.error(n, e)))?;
    let workloads: Vec<Workload> =
        source.each(&Some(raw.workloads.clone()), "workloads", |s| s.parse())?;
    let sweep = Sweep {
        streams: source.each(&raw.streams, "streams", streams)?,
        size: source.each(&raw.size, "size", sizes(1))?,
        response_size: source.each(&raw.response_size, "response_size", sizes(1))?,
        rate: source.each(&raw.rate, "rate", |q| quantity::rate(&q.to_string()))?,
        direction: source.each(&raw.direction, "direction", |s| direction(s))?,
        pinning: source.each(&raw.pinning, "pinning", |s| pinning(s))?,
        congestion_control: source
            .each(&raw.congestion_control, "congestion_control", |s| Ok(s.clone()))?,
        nodelay: source.each(&raw.nodelay, "nodelay", |b| Ok(*b))?,
        mss: source.each(&raw.mss, "mss", mss)?,
        gso: source.each(&raw.gso, "gso", |b| Ok(*b))?,
        send_buffer: source.each(&raw.send_buffer, "send_buffer", buffer)?,
        receive_buffer: source.each(&raw.receive_buffer, "receive_buffer", buffer)?,
        generator: source.each(&raw.generator, "generator", |s| s.parse())?,
        policies: source.each(&raw.policies, "policies", objects("policies"))?,
        services: source.each(&raw.services, "services", objects("services"))?,
        hubble: source.each(&raw.hubble, "hubble", hubble)?,
    };
    let scenario = Scenario {
        workloads,
        placements: source.each(&Some(raw.placements.clone()), "placements", |s| s.parse())?,
        trials,
        duration_s: timing(&raw.duration, &defaults.duration, 2.0, checked_duration)?,
        ladder: raw.ladder,
        cliffs: raw.cliffs,
        rotations: raw.rotations,
        warmup_s: timing(&raw.warmup, &defaults.warmup, 0.2, checked_warmup)?,
        sweep,
    };
    meaningless(&scenario).map_or(Ok(()), |m| Err(source.error(spanned, m)))?;
    Ok(scenario)
}

/// Seconds between two changes of keys, and before the first and after the last: room to see each alone.
pub const APART_S: f64 = 0.5;

/// Why no timeline of changes of keys can be made in a scenario, if it cannot.
fn rotates_nothing(s: &Scenario) -> Option<String> {
    if let Some(w) = s.workloads.iter().find(|w| !w.is_transactional()) {
        return Some(format!("rotations means nothing to {w}: only round trips have a latency"));
    }
    if s.sweep.rate.is_empty() || s.sweep.rate.contains(&None) {
        return Some(
            "rotations needs a rate: in a closed loop nothing is due while nothing gets through"
                .to_owned(),
        );
    }
    let least = APART_S * f64::from(s.rotations + 1);
    (s.duration_s < least)
        .then(|| format!("{} rotations take trials of at least {least} s", s.rotations))
}

/// Why sizes cannot be searched in a scenario, if they cannot.
fn searches_nothing(s: &Scenario) -> Option<String> {
    if let Some(w) = s.workloads.iter().find(|w| **w != Workload::UdpStream) {
        return Some(format!(
            "cliffs means nothing to {w}: only a datagram of udp_stream has a size of its own on the wire"
        ));
    }
    if s.sweep.gso != [false] {
        return Some(
            "cliffs needs gso = false: with segmentation offload a datagram that does not fit is refused"
                .to_owned(),
        );
    }
    (!s.sweep.size.is_empty())
        .then(|| "cliffs finds its sizes by itself: leave size out".to_owned())
}

/// A parameter that no workload or placement of the scenario reads: the reader of its report would
/// be misled.
fn meaningless(s: &Scenario) -> Option<String> {
    let any = |f: fn(Workload) -> bool| s.workloads.iter().copied().any(f);
    let stream = |w: Workload| !w.is_transactional();
    let checks: [(bool, bool, &str); 6] = [
        (s.sweep.response_size.is_empty(), any(Workload::is_transactional), "response_size"),
        (s.sweep.direction.is_empty(), any(stream), "direction"),
        (s.sweep.gso.is_empty(), any(|w| w == Workload::UdpStream), "gso"),
        (s.sweep.nodelay.is_empty(), any(Workload::is_tcp), "nodelay"),
        (s.sweep.mss.is_empty(), any(|w| w == Workload::TcpStream), "mss"),
        (s.sweep.congestion_control.is_empty(), any(Workload::is_tcp), "congestion_control"),
    ];
    let ladder = s.ladder.then(|| {
        let never = s.workloads.iter().find(|w| **w == Workload::TcpStream);
        match never {
            Some(w) => Some(format!(
                "ladder means nothing to {w}: its sender waits for the path at any rate"
            )),
            None => (!s.sweep.rate.is_empty())
                .then(|| "ladder finds its rates by itself: leave rate out".to_owned()),
        }
    });
    if let Some(wrong) = ladder.flatten() {
        return Some(wrong);
    }
    if let Some(wrong) = (s.rotations > 0).then(|| rotates_nothing(s)).flatten() {
        return Some(wrong);
    }
    if let Some(wrong) = s.cliffs.then(|| searches_nothing(s)).flatten() {
        return Some(wrong);
    }
    checks
        .into_iter()
        .find(|(absent, read, _)| !absent && !read)
        .map(|(_, _, key)| format!("{key} means nothing to the workloads of this scenario"))
        .or_else(|| {
            let to_a_pod = s.placements.iter().any(|p| p.ends_in_a_pod());
            (!s.sweep.policies.is_empty() && !to_a_pod).then(|| {
                "policies mean nothing to the placements of this scenario: a NetworkPolicy selects pods, and the server is none".to_owned()
            })
        })
}

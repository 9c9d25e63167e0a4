//! Synthetic records for tests, benches and the gallery example; never part of the library.
//!
//! Values look like those of a two-core machine, are drawn from a fixed seed, and mean nothing.

#![allow(
    dead_code,
    unused_imports,
    missing_docs,
    clippy::unwrap_used,
    reason = "test data shared by tests, benches and examples, each of which uses a part"
)]

#[path = "fixtures/ladders.rs"]
mod ladders;
#[path = "fixtures/probes.rs"]
mod probes;
#[path = "fixtures/records.rs"]
mod records;
#[path = "fixtures/rotations.rs"]
mod rotations;
#[path = "fixtures/searches.rs"]
mod searches;
pub use ladders::*;
pub use probes::*;
pub use records::*;
pub use rotations::*;
pub use searches::*;

use cnibench_model::{
    Case, Cell, CellStatus, Clock, CniInfo, CniSpec, CpuTime, EndpointResult, Environment,
    FlowResult, Footprint, Metric, NodeCpu, NodePair, Phase, Placement, Proof, ProofKind,
    ProofOutcome, ProviderKind, Record, SCHEMA_VERSION, Sample, StoredHistogram, Surroundings,
    Trial, Workload, histogram, record::Header, record::SkippedCni,
};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// A cni of a synthetic record: its name, how much longer a transaction takes than the host's, and
/// which share of the host's throughput it carries.
#[derive(Debug, Clone)]
pub struct Path {
    pub spec: CniSpec,
    pub family: &'static str,
    pub encrypted: bool,
    pub time: f64,
    pub throughput: f64,
}

pub fn path(spec: &str, family: &'static str, encrypted: bool, time: f64, throughput: f64) -> Path {
    Path { spec: spec.parse().unwrap(), family, encrypted, time, throughput }
}

/// The cnis of a usual run.
pub fn usual() -> Vec<Path> {
    vec![
        path("host", "host", false, 1.0, 1.0),
        path("flannel-vxlan", "flannel", false, 1.31, 0.52),
        path("flannel-host-gw", "flannel", false, 1.17, 0.86),
        path("flannel-wireguard-userspace", "flannel", true, 3.4, 0.08),
        path("ebpf", "ebpf", false, 1.02, 0.97),
    ]
}

/// Twelve cnis, two with names that do not fit anywhere.
pub fn twelve() -> Vec<Path> {
    let mut paths = usual();
    paths.extend([
        path("ebpf-vxlan", "ebpf", false, 1.22, 0.61),
        path("ebpf-wireguard", "ebpf", true, 2.6, 0.21),
        path("ebpf-ipsec", "ebpf", true, 1.9, 0.17),
        path("cilium-native", "cilium", false, 1.01, 0.93),
        path("cilium-wireguard", "cilium", true, 2.5, 0.2),
        path("conflist:path=/home/someone/experiments/very/long/path/to/a/10-bridge-portmap-firewall.conflist,bin=/opt/cni/bin", "conflist", false, 1.19, 0.8),
        path("conflist:path=/home/someone/experiments/very/long/path/to/a/20-ptp.conflist,bin=/opt/cni/bin", "conflist", false, 1.12, 0.84),
    ]);
    paths
}

/// How a synthetic record is made.
#[derive(Debug, Clone)]
pub struct Builder {
    pub paths: Vec<Path>,
    pub series: Vec<(Workload, Placement)>,
    pub trials: u32,
    pub transactions: u64,
    pub interleaved: bool,
    pub clock: Clock,
    pub two_machines: bool,
    pub seed: u64,
    pub provider: ProviderKind,
    /// What is asked of the cluster: each one a case.
    pub around: Vec<Surroundings>,
    /// Numbers of flows: each one a case.
    pub streams: Vec<u32>,
    /// Nodes of which every ordered pair, or so many of them as `sampled` says, is measured by every
    /// trial; 0: one pair without a name.
    pub nodes: usize,
    pub sampled: usize,
    /// A node whose pairs take 40 % longer.
    pub slow: Option<usize>,
    pub footprints: bool,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            paths: usual(),
            series: vec![
                (Workload::TcpStream, Placement::CrossNode),
                (Workload::TcpRr, Placement::CrossNode),
                (Workload::TcpRr, Placement::SameNode),
            ],
            trials: 6,
            transactions: 20_000,
            interleaved: true,
            clock: Clock::Wall,
            two_machines: false,
            seed: 1,
            provider: ProviderKind::Netns,
            around: vec![Surroundings::default()],
            streams: vec![1],
            nodes: 0,
            sampled: usize::MAX,
            slow: None,
            footprints: false,
        }
    }
}

fn gauss(rng: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
}

impl Builder {
    pub fn build(&self) -> Record {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut cases = Vec::new();
        for path in &self.paths {
            for (workload, placement, around, streams) in self.points() {
                let params = cnibench_model::WorkloadParams { streams, ..workload.defaults() };
                let provider = self.provider;
                cases.push(Case {
                    id: Case::id_of(provider, &path.spec, workload, placement, &params, &around),
                    provider,
                    cni: path.spec.clone(),
                    workload,
                    placement,
                    params,
                    surroundings: around,
                    trials: self.trials,
                    duration_s: 0.5,
                    warmup_s: 0.1,
                });
            }
        }
        let pairs = self.pairs(&mut rng);
        let mut trials: Vec<Trial> = Vec::new();
        for block in 0..self.trials {
            for (workload, placement, around, streams) in self.points() {
                let drift = 1.0 + 0.04 * gauss(&mut rng);
                let mut order: Vec<&Case> = cases
                    .iter()
                    .filter(|c| c.workload == workload && c.placement == placement)
                    .filter(|c| c.surroundings == around && c.params.streams == streams)
                    .collect();
                order.shuffle(&mut rng);
                for case in order {
                    for pair in &pairs {
                        let sequence = trials.len() as u32;
                        let mut trial = self.trial(case, block, sequence, drift * pair.1, &mut rng);
                        if pair.0.is_some() {
                            let earlier = trials.iter().rev().find(|t| t.case == case.id);
                            trial.index = earlier.map_or(0, |t| t.index + 1);
                        }
                        trial.nodes.clone_from(&pair.0);
                        trials.push(trial);
                    }
                }
            }
        }
        let cells = cases
            .iter()
            .map(|c| Cell { case: c.id.clone(), status: CellStatus::Measured })
            .collect();
        let proofs = self.paths.iter().map(|p| Proof {
            kind: if p.encrypted { ProofKind::Encryption } else { ProofKind::Path },
            cni: p.spec.clone(),
            outcome: ProofOutcome::Passed,
            summary: if p.encrypted {
                "canary absent from 4,112 underlay packets that cover its 2,097,152 bytes"
                    .to_owned()
            } else {
                "2,048 packets on the datapath's own device, 2,048 sent".to_owned()
            },
            evidence: vec![
                "device flannel.1: rx 2048 tx 2048".to_owned(),
                "underlay: udp 8472, 2048 packets".to_owned(),
            ],
        });
        Record {
            header: Header {
                schema_version: SCHEMA_VERSION,
                run_id: format!("r{:04x}", self.seed),
                started: "2026-02-03T10:20:30Z".parse().unwrap(),
                command: ["cnibench", "run", "quick", "--provider", self.provider.name()]
                    .map(str::to_owned)
                    .into(),
                suite: "quick".to_owned(),
                suite_text: "name = \"quick\"\n[[scenario]]\nworkloads = [\"tcp_stream\", \"tcp_rr\"]\n".to_owned(),
                seed: self.seed,
                interleaved: self.interleaved,
                pairing: None,
                topology: cnibench_model::Topology::default(),
                clock: self.clock,
                environment: environment(),
                cases,
                skipped_cnis: vec![SkippedCni {
                    cni: CniSpec::named("flannel-wireguard"),
                    reason: "this kernel has no wireguard module (CONFIG_WIREGUARD); use the vm provider, or flannel-wireguard-userspace".to_owned(),
                }],
            },
            finished: Some("2026-02-03T10:21:18Z".parse().unwrap()),
            cnis: self.paths.iter().map(info).collect(),
            trials,
            cells,
            footprints: if self.footprints { footprints(&self.paths) } else { Vec::new() },
            probed: Vec::new(),
            rungs: Vec::new(),
            sizes: Vec::new(),
            rotated: Vec::new(),
            proofs: proofs.collect(),
            notes: vec!["steal was 1.2 % of CPU time during the run".to_owned()],
        }
    }

    /// Workload, placement, surroundings and flows of every case of a cni.
    fn points(&self) -> Vec<(Workload, Placement, Surroundings, u32)> {
        let mut points = Vec::new();
        for &(workload, placement) in &self.series {
            for &around in &self.around {
                points.extend(self.streams.iter().map(|n| (workload, placement, around, *n)));
            }
        }
        points
    }

    /// Pairs of nodes, and how much longer everything takes between them.
    fn pairs(&self, rng: &mut ChaCha8Rng) -> Vec<(Option<NodePair>, f64)> {
        if self.nodes == 0 {
            return vec![(None, 1.0)];
        }
        let name = |n: usize| format!("worker{n}");
        let all = self.nodes * (self.nodes - 1);
        let mut numbers: Vec<usize> = (0..all).collect();
        if self.sampled < all {
            numbers.shuffle(rng);
            numbers.truncate(self.sampled);
        }
        numbers
            .into_iter()
            .map(|i| {
                let (client, other) = (i / (self.nodes - 1), i % (self.nodes - 1));
                let server = other + usize::from(other >= client);
                let slow = self.slow.is_some_and(|s| s == client || s == server);
                let factor = (1.0 + 0.03 * gauss(rng)) * if slow { 1.4 } else { 1.0 };
                (Some(NodePair { client: name(client), server: name(server) }), factor)
            })
            .collect()
    }

    fn trial(
        &self,
        case: &Case,
        block: u32,
        sequence: u32,
        drift: f64,
        rng: &mut ChaCha8Rng,
    ) -> Trial {
        let path = self.paths.iter().find(|p| p.spec == case.cni).unwrap();
        let same_node = case.placement == Placement::SameNode;
        let (time, share) = if same_node {
            (1.0 + (path.time - 1.0) * 0.3, path.throughput.powf(0.4))
        } else {
            (path.time, path.throughput)
        };
        let noise = drift * (1.0 + 0.012 * gauss(rng)) * crowd(case, path);
        let streams = f64::from(case.params.streams).powf(0.7);
        let mut samples = Vec::new();
        let mut stored = None;
        let mut push = |metric, value| samples.push(Sample { metric, value });
        let work_per_s = if case.workload.is_transactional() {
            let base = if case.workload == Workload::TcpCrr { 110_000.0 } else { 18_500.0 };
            let p50 = base * time * noise;
            let h = latencies(p50, self.transactions, rng);
            push(Metric::TransactionRate, streams * 1e9 / (p50 * 1.06));
            push(Metric::LatencyMean, h.mean());
            push(Metric::LatencyP50, p50);
            if self.clock == Clock::Instructions {
                push(Metric::InstructionsPerTransaction, p50);
            }
            push(Metric::LatencyP90, h.value_at_quantile(0.9) as f64);
            push(Metric::LatencyP99, h.value_at_quantile(0.99) as f64);
            push(Metric::LatencyMax, h.max() as f64);
            stored = StoredHistogram::encode(&h).ok();
            push(Metric::CpuPerTransaction, 1.05 * p50 * 1.06 / 1e9);
            1e9 / (p50 * 1.06)
        } else {
            let base = if case.workload == Workload::UdpStream { 9.4e9 } else { 36.2e9 };
            let bits = base * share * streams / noise;
            push(Metric::Throughput, bits);
            if self.clock == Clock::Instructions {
                push(Metric::InstructionsPerMebibyte, 1e9 * f64::from(8u32 << 20) / bits);
            }
            if case.workload == Workload::UdpStream {
                push(Metric::PacketRate, bits / 8.0 / 1400.0);
                push(Metric::Loss, (0.004 / share * noise).min(0.6));
                push(Metric::Reordering, 0.0);
                push(Metric::Jitter, 2100.0 / share);
            } else {
                push(Metric::Retransmits, (4.0 * rng.random::<f64>()).floor());
            }
            push(Metric::CpuPerGigabit, 1.8 / (bits / 1e9));
            bits / 1e9
        };
        let busy = if path.encrypted { 0.985 } else { 0.62 + 0.1 * time };
        let end = |machine: &str, part: f64| EndpointResult {
            window_s: 0.5,
            process: CpuTime { user_s: 0.02, system_s: 0.2, ..CpuTime::default() },
            node: NodeCpu {
                machine: machine.to_owned(),
                window_s: 0.5,
                time: cpu(path, busy * part),
                busy: BTreeMap::from([(0, busy.min(1.0)), (1, 0.4)]),
            },
            flows: vec![FlowResult {
                cpu: Some(0),
                sent: (work_per_s * 0.5) as u64,
                options: BTreeMap::from([("congestion_control".to_owned(), "cubic".to_owned())]),
                ..FlowResult::default()
            }],
        };
        let (client, server) = if self.two_machines {
            (end("machine-a", 0.8), end("machine-b", 1.1))
        } else {
            (end("machine-a", 1.0), end("machine-a", 1.0))
        };
        Trial {
            case: case.id.clone(),
            index: block,
            block,
            sequence,
            pair: None,
            started: "2026-02-03T10:20:31Z".parse().unwrap(),
            workload: case.workload,
            samples,
            histogram: stored,
            slices: vec![work_per_s; 5],
            slice_s: 0.1,
            client,
            server,
            nodes: None,
            server_addr: None,
            window_opened: None,
            datagrams: None,
            made_by: None,
            losses: None,
            intervals: Vec::new(),
            proofs: Vec::new(),
            warnings: if path.encrypted { vec!["core 0 was full".to_owned()] } else { Vec::new() },
        }
    }
}

/// How much longer everything takes in these surroundings: walked one by one by `flannel`, over a
/// cliff at a hundred for `ebpf`, and nothing to the others.
fn crowd(case: &Case, path: &Path) -> f64 {
    let around = case.surroundings;
    let objects = around.policies.or(around.services).unwrap_or(0);
    let hubble = if around.hubble == Some(true) { 1.06 } else { 1.0 };
    hubble
        * match path.family {
            "flannel" => 1.0 + 0.0008 * f64::from(objects),
            "ebpf" if objects >= 100 => 1.55,
            _ => 1.0,
        }
}

/// Two pods on each of three nodes for every cni but the host.
fn footprints(paths: &[Path]) -> Vec<Footprint> {
    let mut out = Vec::new();
    for (number, path) in paths.iter().enumerate().filter(|(_, p)| p.spec.name != "host") {
        for (phase, busy) in [(Phase::Idle, 1.0), (Phase::Load, 4.0)] {
            for node in 0..3u32 {
                for (pod, part) in [("agent", 1.0), ("envoy", 0.25)] {
                    out.push(Footprint {
                        cni: path.spec.clone(),
                        phase,
                        node: format!("worker{node}"),
                        pod: format!("kube-system/{}-{pod}-{node}", path.spec.name),
                        component: None,
                        stretch: 0,
                        window_s: 20.0,
                        cpus: Some(0.004 * busy * part * (number as f64 + f64::from(node) / 2.0)),
                        memory_bytes: Some(
                            ((60 + 8 * node as u64) << 20) * if pod == "agent" { 4 } else { 1 } / 4,
                        ),
                    });
                }
            }
        }
    }
    out
}

fn latencies(p50: f64, n: u64, rng: &mut ChaCha8Rng) -> hdrhistogram::Histogram<u64> {
    let mut h = histogram::empty();
    // A body of 400 points with weights, and a tail drawn one by one.
    for i in 0..400 {
        let q = (f64::from(i) + 0.5) / 400.0;
        let value = p50 * (0.93 + 0.14 * q + 0.35 * q.powi(24));
        h.record_n(value as u64, n / 400).unwrap();
    }
    for _ in 0..n / 150 {
        let stall = p50 * (1.5 + 2.0 * rng.random::<f64>().powi(2) / (rng.random::<f64>() + 0.01));
        h.record(stall as u64).unwrap();
    }
    h
}

fn cpu(path: &Path, busy: f64) -> CpuTime {
    let kernel_threads = if path.encrypted { 0.25 } else { 0.02 };
    let softirq = 0.3 + 0.1 * (path.time - 1.0).min(2.0);
    CpuTime {
        user_s: 0.05 * busy,
        system_s: (0.6 - softirq / 2.0) * busy,
        softirq_s: softirq * busy,
        irq_s: 0.01 * busy,
        kthread_s: kernel_threads * busy,
        steal_s: 0.004,
    }
}

fn info(path: &Path) -> CniInfo {
    CniInfo {
        spec: path.spec.clone(),
        description: format!("synthetic datapath {}", path.spec.name),
        family: path.family.to_owned(),
        encrypted: path.encrypted,
        mtu: if path.spec.name.contains("vxlan") { 1450 } else { 1500 },
        setup_ms: 41.5,
        details: vec![
            "node0: bridge cni0 10.244.0.1/24".to_owned(),
            "node0: vxlan flannel.1 vni 1 port 8472 nolearning".to_owned(),
        ],
    }
}

fn environment() -> Environment {
    let map = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    Environment {
        hostname: "bench-01".to_owned(),
        os: "Debian GNU/Linux 12 (bookworm)".to_owned(),
        kernel_release: "6.18.4".to_owned(),
        kernel_version: "#1 SMP PREEMPT_DYNAMIC".to_owned(),
        arch: "x86_64".to_owned(),
        cpu_model: "AMD EPYC 7B13".to_owned(),
        cpus: 2,
        cpus_online: 2,
        hypervisor: Some("KVM".to_owned()),
        governor: None,
        smt: Some(true),
        mitigations: map(&[
            ("meltdown", "Not affected"),
            ("spectre_v2", "Mitigation: Retpolines; IBPB: conditional"),
        ]),
        kernel_cmdline: "console=ttyS0 root=/dev/vda".to_owned(),
        clocksource: Some("tsc".to_owned()),
        memory_bytes: 24 << 30,
        memory_limit_bytes: None,
        load_1m: 0.42,
        steal_since_boot: 0.011,
        sysctls: map(&[
            ("net.ipv4.tcp_congestion_control", "bbr"),
            ("net.core.rmem_max", "212992"),
        ]),
        versions: map(&[("cnibench", "0.1.0")]),
        features: map(&[("vxlan", "yes"), ("wireguard", "no: CONFIG_WIREGUARD is not set")]),
        ..Environment::default()
    }
}

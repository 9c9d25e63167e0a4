//! What the latency probes cost a round trip: tcp_rr with both ends on one CPU, in adjacent pairs of
//! stretches with and without the programs in the kernel. Needs root.
//!
//! Prints for each set of programs the ratio of the rates by the clock, and of the rates by this
//! process' CPU time (which other processes disturb less), each with a 95 % interval over the pairs,
//! and the machine's load meanwhile. `--test` does two short pairs.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run should say so and stop")]

use cnibench::{
    cluster::{
        Cluster, Provider as _, Topology,
        netns::{NetnsProvider, Owner},
    },
    netlink::Netns,
};
use cnibench_model::Placement;
use cnibench_probes::{
    losses::Losses,
    stages::{Scene, Stages},
};
use rustix::{
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};
use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

const WARM: Duration = Duration::from_millis(50);

/// A way to attach programs, which are gone when what it returns is dropped.
type Attach = fn(&Scene) -> Box<dyn std::any::Any>;

/// The counters of every measured trial, as they are in one.
fn counters(scene: &Scene) -> Box<dyn std::any::Any> {
    let mut losses = Losses::attach().unwrap();
    let others = scene.others.iter().map(|(netns, _)| *netns);
    for netns in [scene.client, scene.server].into_iter().chain(others) {
        losses.observe(netns).unwrap();
    }
    losses.arm(Duration::from_secs(1)).unwrap();
    Box::new(losses)
}

fn stages(scene: &Scene) -> Box<dyn std::any::Any> {
    let mut stages = Stages::attach(scene).unwrap();
    stages.count(true).unwrap();
    Box::new(stages)
}

fn on_one_cpu() {
    let mut cpus = CpuSet::new();
    cpus.set(0);
    sched_setaffinity(None, &cpus).unwrap();
}

fn cpu_seconds() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

/// Round trips between the two sockets of a connection.
struct Pair {
    client: TcpStream,
}

impl Pair {
    fn new(client: &Netns, server: &Netns, addr: IpAddr) -> Self {
        let listener = server.run_blocking(|| Ok(TcpListener::bind((addr, 0))?)).unwrap();
        let at = listener.local_addr().unwrap();
        let one = client.run_blocking(|| Ok(TcpStream::connect(at)?)).unwrap();
        let (mut two, _) = listener.accept().unwrap();
        one.set_nodelay(true).unwrap();
        two.set_nodelay(true).unwrap();
        // It ends with the connection.
        let server = server.clone();
        thread::spawn(move || {
            server.run_blocking(|| {
                on_one_cpu();
                while two.read_exact(&mut [0]).is_ok() && two.write_all(b"b").is_ok() {}
                Ok(())
            })
        });
        Self { client: one }
    }

    /// Transactions a second by the clock, and a second of this process' CPU time (of both ends).
    fn rates(&mut self, netns: &Netns, length: Duration) -> [f64; 2] {
        let socket = &mut self.client;
        let run = || {
            on_one_cpu();
            let mut exchange = |for_how_long: Duration| -> std::io::Result<[f64; 2]> {
                let (begun, used, mut times) = (Instant::now(), cpu_seconds(), 0.0);
                while begun.elapsed() < for_how_long {
                    socket.write_all(b"a")?;
                    socket.read_exact(&mut [0])?;
                    times += 1.0;
                }
                Ok([times / begun.elapsed().as_secs_f64(), times / (cpu_seconds() - used)])
            };
            exchange(WARM)?;
            Ok(exchange(length)?)
        };
        netns.run_blocking(run).unwrap()
    }
}

/// The geometric mean of ratios with its 95 % interval by Student's t.
fn told(ratios: &[f64]) -> String {
    let logs: Vec<f64> = ratios.iter().map(|r| r.ln()).collect();
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let variance = logs.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / (n - 1.0);
    // Student's t at 97.5 %: at most 2.05 from 29 degrees of freedom on; 12.7 for a single one.
    let t = if n < 30.0 { 12.7 } else { 2.05 };
    let half = t * (variance / n).sqrt();
    format!("{:.4} ({:.4} to {:.4})", mean.exp(), (mean - half).exp(), (mean + half).exp())
}

fn main() {
    let short = std::env::args().any(|a| a == "--test");
    let (pairs, length) = if short { (2, 20) } else { (40, 150) };
    let length = Duration::from_millis(length);
    let rt = Runtime::new().unwrap();
    let provider = NetnsProvider::new(Owner::acquire().unwrap()).unwrap();
    let shape = Topology { nodes: 2, pods_per_node: 1, ..Topology::default() };
    let run = provider.run_id().as_str().to_owned();
    let sets: [(&str, Attach); 2] =
        [("drops and retransmits alone", counters), ("all stages", stages)];
    for spec in ["host", "flannel-vxlan"] {
        let mut cluster: Box<dyn Cluster> =
            rt.block_on(provider.up(0, &spec.parse().unwrap(), &shape)).unwrap();
        let space = |thing: &str| {
            Netns::open(Path::new(&format!("/run/netns/cnb-{run}-c0-{thing}"))).unwrap()
        };
        let [client, server] = match spec {
            "host" => [space("n0"), space("n1")],
            _ => [space("n0p0"), space("n1p0")],
        };
        let scene = rt.block_on(cluster.sights(Placement::CrossNode, false)).unwrap().scene;
        let addr = cluster.ends(Placement::CrossNode).unwrap().server_addr;
        let mut pair = Pair::new(&client, &server, addr);
        for (name, attach) in sets {
            let (mut by_clock, mut by_cpu) = (Vec::new(), Vec::new());
            let mut bare = 0.0;
            for n in 0..pairs {
                let with = |pair: &mut Pair| {
                    let _attached = attach(&scene);
                    pair.rates(&client, length)
                };
                // Which of both is first goes to and fro.
                let (with, without) = if n % 2 == 0 {
                    let with = with(&mut pair);
                    (with, pair.rates(&client, length))
                } else {
                    let without = pair.rates(&client, length);
                    (with(&mut pair), without)
                };
                by_clock.push(with[0] / without[0]);
                by_cpu.push(with[1] / without[1]);
                bare += without[0] / f64::from(pairs);
            }
            let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
            println!(
                "probes, {spec}, {name}: {} of {bare:.0} transactions/s, by CPU time {}; {pairs} pairs, load {}",
                told(&by_clock),
                told(&by_cpu),
                load.split(' ').next().unwrap_or("?")
            );
        }
        drop(pair);
        drop((client, server));
        assert!(rt.block_on(cluster.down()).is_empty());
    }
}

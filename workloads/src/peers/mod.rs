//! Other generators than cnibench's own: what each can do of a task, how it is started, how it is read.
//!
//! One file a generator; [`process`] runs and ends their programs, [`trial`] makes a trial of it. They
//! run where an agent runs, so that they are in the same place, on the same CPUs and between the same
//! addresses as cnibench's own flows. Nothing here depends on their being installed.

mod iperf3;
mod neper;
mod netperf;
mod process;
mod sockperf;
#[cfg(test)]
mod tests;
mod trial;

use crate::protocol::Task;
use cnibench_model::{Case, FlowDirection, Generator, Metric, Sample, Workload, WorkloadParams};
use std::{collections::HashMap, net::SocketAddr};

pub(crate) use trial::{drive, serve};

/// A program to start and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invocation {
    pub(crate) program: &'static str,
    pub(crate) args: Vec<String>,
}

impl Invocation {
    /// A program with arguments separated by blanks; more are added with [`Invocation::with`].
    fn new(program: &'static str, args: &str) -> Self {
        Self { program, args: args.split_ascii_whitespace().map(str::to_owned).collect() }
    }

    fn with<T: ToString>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.to_string()));
        self
    }

    fn with_if<T: ToString>(self, when: bool, args: impl IntoIterator<Item = T>) -> Self {
        if when { self.with(args) } else { self }
    }
}

/// What a program left when it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// It ended by itself and with code 0.
    pub(crate) success: bool,
}

/// What a generator's client said, in the metrics' units.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Reading {
    /// As the output names it; empty where it does not.
    pub(crate) version: String,
    pub(crate) samples: Vec<Sample>,
    /// Seconds that it measured.
    pub(crate) window_s: f64,
    /// What it says that was in force on its sockets.
    pub(crate) options: Vec<(&'static str, String)>,
}

impl Reading {
    fn push(&mut self, metric: Metric, value: f64) {
        if value.is_finite() {
            self.samples.push(Sample { metric, value });
        }
    }
}

/// Why an output is no result: it says what is wrong with it, and the generator's own words where it
/// has any.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unreadable(pub(crate) String);

impl Unreadable {
    fn missing(what: &str) -> Self {
        Self(format!("its output has no {what}: it was cut off, or is of another version"))
    }
}

/// One generator.
pub(crate) trait Peer: Sync {
    /// Why it cannot make this traffic, if it cannot.
    fn refuses(&self, workload: Workload, params: &WorkloadParams) -> Option<String>;
    /// The server, which is to listen on this address.
    fn server(&self, task: &Task, bind: SocketAddr) -> Invocation;
    /// Further ports that the server takes behind the one that it is reached at.
    fn more_ports(&self) -> u16 {
        0
    }
    /// The client, or one for each flow.
    fn clients(&self, task: &Task, server: SocketAddr) -> Vec<Invocation>;
    /// Asks for the version where the result does not name it.
    fn version(&self) -> Option<Invocation> {
        None
    }
    /// Reads what the clients left, in the order of [`Peer::clients`].
    ///
    /// # Errors
    /// When one of them failed or is not whole.
    fn read(&self, task: &Task, outputs: &[Output]) -> Result<Reading, Unreadable>;
    /// False where it has no option for TCP's congestion control.
    fn sets_congestion_control(&self) -> bool {
        true
    }
    /// How to get it.
    fn get(&self) -> &'static str;
    /// True where a time to be cut off before its window can be asked for.
    fn warms_up(&self, workload: Workload) -> bool;
}

/// The generator of a name; none for cnibench's own.
pub(crate) fn peer(generator: Generator) -> Option<&'static dyn Peer> {
    match generator {
        Generator::Cnibench => None,
        Generator::Iperf3 => Some(&iperf3::Iperf3),
        Generator::Netperf => Some(&netperf::Netperf),
        Generator::Sockperf => Some(&sockperf::Sockperf),
        Generator::Neper => Some(&neper::Neper),
    }
}

/// Why the generator of a case cannot make its traffic, if it cannot.
pub fn refuses(workload: Workload, params: &WorkloadParams) -> Option<String> {
    let peer = peer(params.generator)?;
    if params.mss.is_some() {
        return Some(format!(
            "mss is set by cnibench's own generator only, not by {}",
            params.generator
        ));
    }
    peer.refuses(workload, params)
}

/// The programs that have to be there for a generator, and how to get each; none for our own.
pub fn needs(generator: Generator, workload: Workload) -> Vec<(&'static str, &'static str)> {
    let Some(peer) = peer(generator) else { return Vec::new() };
    let programs = match generator {
        Generator::Cnibench => vec![],
        Generator::Iperf3 => vec!["iperf3"],
        Generator::Netperf => vec!["netperf", "netserver"],
        Generator::Sockperf => vec!["sockperf"],
        Generator::Neper => vec![neper::program(workload)],
    };
    programs.into_iter().map(|program| (program, peer.get())).collect()
}

/// True where the server is reached at one port and no other, so that a service can lead to it.
pub fn one_port(generator: Generator) -> bool {
    match generator {
        Generator::Cnibench | Generator::Iperf3 | Generator::Sockperf => true,
        // Its data connection goes to a port that its server chooses.
        Generator::Netperf => false,
        Generator::Neper => false,
    }
}

/// True where a generator can cut off a time before its window.
pub fn warms_up(generator: Generator, workload: Workload) -> bool {
    peer(generator).is_none_or(|peer| peer.warms_up(workload))
}

/// Has another generator make the traffic of a case: what it lacks and cnibench's defaults have is set
/// to the nearest that it has, which the case's id then says. All of them know whole seconds only, and
/// not all cut off the time before their window.
pub fn fit(case: &mut Case) {
    let p = &mut case.params;
    let Some(peer) = peer(p.generator) else { return };
    case.duration_s = case.duration_s.ceil().max(1.0);
    let warms_up = peer.warms_up(case.workload);
    case.warmup_s = if warms_up { case.warmup_s.ceil() } else { 0.0 };
    p.gso = p.gso && case.workload != Workload::UdpStream;
    match p.generator {
        Generator::Sockperf => {
            p.size = p.size.max(sockperf::LEAST);
            if case.workload.is_transactional() {
                p.response_size = p.size;
            }
        }
        // It sets both buffers of both ends to one size.
        Generator::Iperf3 => p.send_buffer = p.send_buffer.or(p.receive_buffer),
        Generator::Neper => (p.send_buffer, p.receive_buffer) = (None, None),
        Generator::Cnibench | Generator::Netperf => {}
    }
    case.id = Case::id_of(
        case.provider,
        &case.cni,
        case.workload,
        case.placement,
        &case.params,
        &case.surroundings,
    );
}

/// The `key=value` lines of an output. A last line without an end was cut off, whatever it looks like.
fn pairs(text: &str) -> HashMap<&str, &str> {
    let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    whole.filter_map(|line| line.trim().split_once('=')).collect()
}

/// What no other generator has.
fn no_gso(w: Workload, p: &WorkloadParams) -> Option<String> {
    (w == Workload::UdpStream && p.gso)
        .then(|| format!("gso: {} sends single datagrams; ask for gso = false", p.generator))
}

fn no_rate(p: &WorkloadParams, why: &str) -> Option<String> {
    p.rate.map(|_| format!("rate: {} {why}", p.generator))
}

fn no_both(p: &WorkloadParams) -> Option<String> {
    (p.direction == FlowDirection::Both)
        .then(|| format!("direction: {} cannot send both ways at once", p.generator))
}

/// Whole seconds, as every one of them wants them.
fn seconds(s: f64) -> String {
    format!("{:.0}", s.ceil())
}

fn ip_flag(address: SocketAddr) -> &'static str {
    if address.is_ipv4() { "-4" } else { "-6" }
}

#[cfg(test)]
mod fitting {
    use super::*;
    use cnibench_model::{CniSpec, Placement, ProviderKind, Surroundings};

    fn case(generator: Generator, workload: Workload) -> Case {
        let (cni, placement) = (CniSpec::named("host"), Placement::CrossNode);
        let params = WorkloadParams { generator, ..workload.defaults() };
        let around = Surroundings::default();
        let provider = ProviderKind::Netns;
        let id = Case::id_of(provider, &cni, workload, placement, &params, &around);
        Case {
            id,
            provider,
            cni,
            workload,
            placement,
            params,
            surroundings: around,
            trials: 3,
            duration_s: 0.2,
            warmup_s: 0.05,
        }
    }

    #[test]
    fn the_id_says_the_generator_and_what_it_does_instead() {
        let told = |generator, workload| {
            let mut case = case(generator, workload);
            fit(&mut case);
            (case.id.0, case.duration_s, case.warmup_s)
        };
        let stream = "netns/host/tcp_stream/cross-node";
        assert_eq!(told(Generator::Cnibench, Workload::TcpStream), (stream.into(), 0.2, 0.05));
        assert_eq!(
            told(Generator::Iperf3, Workload::TcpStream),
            (format!("{stream}/generator=iperf3"), 1.0, 1.0)
        );
        assert_eq!(
            told(Generator::Iperf3, Workload::UdpStream).0,
            "netns/host/udp_stream/cross-node/generator=iperf3,gso=false,send_buffer=4194304"
        );
        assert_eq!(
            told(Generator::Sockperf, Workload::UdpRr).0,
            "netns/host/udp_rr/cross-node/generator=sockperf,response_size=14,size=14"
        );
        assert_eq!(told(Generator::Netperf, Workload::TcpRr).2, 0.0);
    }

    #[test]
    fn what_can_be_done_after_fitting_is_known_of_every_pair() {
        use Workload::{TcpCrr, TcpRr, TcpStream, UdpRr, UdpStream};
        for (generator, can) in [
            (Generator::Cnibench, &Workload::ALL.to_vec()),
            (Generator::Iperf3, &vec![TcpStream, UdpStream]),
            (Generator::Netperf, &Workload::ALL.to_vec()),
            (Generator::Sockperf, &vec![TcpRr, UdpRr]),
            (Generator::Neper, &vec![TcpStream, TcpRr, TcpCrr, UdpStream, UdpRr]),
        ] {
            for &workload in Workload::ALL {
                let mut case = case(generator, workload);
                fit(&mut case);
                let refused = refuses(workload, &case.params);
                assert_eq!(refused.is_none(), can.contains(&workload), "{generator} {workload}");
                assert!(refused.is_none_or(|r| r.contains(generator.name())));
            }
        }
    }
}

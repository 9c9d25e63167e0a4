//! One end of a trial whose traffic another generator makes.
//!
//! The server is told to listen once its port is bound, and ended when its client is done. The client's
//! words become samples; the node's CPU time is that of the middle of its window, since nobody says
//! when exactly that begins.

use super::{
    Invocation, Output, Peer, Reading, peer,
    process::{self, Running},
};
use crate::{
    clock, cpus,
    error::{Doing, TrialError},
    node_cpu::CpuWindow,
    protocol::{EndReport, Task, Told},
    reins::Reins,
    trial::KTHREADS_UNSEEN,
};
use cnibench_model::{CpuTime, EndpointResult, FlowResult, MadeBy, NodeCpu};
use std::{collections::BTreeMap, net::SocketAddr};

/// What a program takes beside its window: to start, to shake hands, to exchange results.
const ASIDE: u64 = clock::SECOND * 3;
/// What a socket has that nobody set (tcp(7)); each network namespace has its own.
const DEFAULT_CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
/// Share of the window that is left out on either side of the CPU's.
const MARGIN: f64 = 0.1;

fn of(task: &Task) -> Result<&'static dyn Peer, TrialError> {
    let generator = task.params.generator;
    let peer = peer(generator)
        .ok_or_else(|| TrialError::BadTask(format!("{generator} is no program to start")))?;
    match peer.refuses(task.workload, &task.params) {
        Some(reason) => Err(TrialError::BadTask(reason)),
        None => Ok(peer),
    }
}

/// Runs the generator's server until it ends or the controller cancels, which is how it says that the
/// client is done.
pub(crate) fn serve(
    task: &Task,
    bind: SocketAddr,
    reins: &Reins,
    listening: &mut dyn FnMut(u16),
) -> Result<EndReport, TrialError> {
    let peer = of(task)?;
    let port = match bind.port() {
        0 => process::free_port(bind.ip(), peer.more_ports())?,
        port => port,
    };
    let what = peer.server(task, SocketAddr::new(bind.ip(), port));
    let mut cpu = CpuWindow::prepare().doing("reading CPU times in /proc")?;
    let sees = cpu.sees_kthreads();
    let mut server = Running::start(&what, &task.server_cpus, peer.get())?;
    let until = clock::now() + clock::nanos(task.patience_s) + ASIDE;
    if !process::wait_bound(&mut server, port, until, reins)? {
        let output = server.end();
        return Err(TrialError::BadTask(format!(
            "{} does not listen on port {port}{}",
            what.program,
            said(&output)
        )));
    }
    cpu.open(clock::now()).doing("reading CPU times in /proc")?;
    listening(port);
    let mut servers = [server];
    // Its client's silence is the client's to notice.
    let ended = process::wait(&mut servers, u64::MAX, reins);
    if let Err(error) = ended
        && !matches!(error, TrialError::Cancelled)
    {
        return Err(error);
    }
    let (process, node) = cpu.close().doing("reading CPU times in /proc")?;
    let [server] = servers;
    drop(server.end());
    Ok(report(task, &task.server_cpus, process, node, &[], sees))
}

/// Runs the generator's client, or clients, and reads what they say.
pub(crate) fn drive(
    task: &Task,
    server: SocketAddr,
    reins: &Reins,
) -> Result<EndReport, TrialError> {
    let peer = of(task)?;
    let clients = peer.clients(task, server);
    let version = version(peer, reins)?;
    let mut cpu = CpuWindow::prepare().doing("reading CPU times in /proc")?;
    let sees = cpu.sees_kthreads();
    let mut running = Vec::new();
    for (flow, what) in (0..).zip(&clients) {
        // A process a flow has that flow's CPU, a process for all has those of all.
        let own = cpus::of_flow(&task.client_cpus, flow).filter(|_| clients.len() > 1);
        let on = own.map_or_else(|| task.client_cpus.clone(), |cpu| vec![cpu]);
        running.push(Running::start(what, &on, peer.get())?);
    }
    let started = clock::now();
    let window = clock::nanos(task.duration_s);
    let margin = clock::nanos(task.duration_s * MARGIN);
    let open = started + clock::nanos(task.warmup_s) + margin;
    let close = open + window - 2 * margin;
    let mut over = process::wait(&mut running, open.saturating_sub(cpu.lead()), reins)?;
    if over {
        // It failed, as its words will show.
        cpu.open(clock::now()).doing("reading CPU times in /proc")?;
    } else {
        cpu.open(open).doing("reading CPU times in /proc")?;
        over = process::wait(&mut running, close, reins)?;
    }
    let wall = clock::wall(open);
    let (process, node) = cpu.close().doing("reading CPU times in /proc")?;
    let late = close + margin + clock::nanos(task.patience_s) + ASIDE;
    if !over && !process::wait(&mut running, late, reins)? {
        let outputs: Vec<Output> = running.into_iter().map(Running::end).collect();
        return Err(TrialError::PeerSilent(format!(
            "{} did not end: no answer from {server}{}",
            task.params.generator,
            outputs.iter().map(said).find(|s| !s.is_empty()).unwrap_or_default()
        )));
    }
    let outputs: Vec<Output> = running.into_iter().map(Running::end).collect();
    let reading = peer.read(task, &outputs).map_err(|e| {
        TrialError::Unreachable(format!("{} gave no result: {e}", task.params.generator))
    })?;
    let mut end = report(task, &task.client_cpus, process, node, &reading.options, sees);
    end.endpoint.window_s = reading.window_s;
    if task.workload.is_tcp() && !peer.sets_congestion_control() {
        left_to_the_kernel(task, &mut end);
    }
    end.window_opened = wall;
    end.told = Some(told(task, reading, version, &clients));
    Ok(end)
}

/// Of a generator that cannot set the congestion control: what the kernel chose.
fn left_to_the_kernel(task: &Task, end: &mut EndReport) {
    let default = std::fs::read_to_string(DEFAULT_CONGESTION_CONTROL).unwrap_or_default();
    let default = default.trim();
    if default == task.params.congestion_control {
        return;
    }
    end.warnings.push(format!(
        "{} cannot set a congestion control: the kernel's default was in force, not what was asked for",
        task.params.generator
    ));
    for flow in &mut end.endpoint.flows {
        flow.options.insert("congestion_control".to_owned(), default.to_owned());
    }
}

fn told(task: &Task, reading: Reading, version: String, clients: &[Invocation]) -> Told {
    let first = clients.first();
    let command = first.map(|c| [vec![c.program.to_owned()], c.args.clone()].concat());
    let version = if reading.version.is_empty() { version } else { reading.version };
    let generator = task.params.generator;
    let made_by = MadeBy { generator, version, command: command.unwrap_or_default() };
    Told { made_by, samples: reading.samples }
}

/// The last word of the first line in which a program names its version.
fn version(peer: &dyn Peer, reins: &Reins) -> Result<String, TrialError> {
    let Some(what) = peer.version() else { return Ok(String::new()) };
    let mut running = [Running::start(&what, &[], peer.get())?];
    process::wait(&mut running, clock::now() + ASIDE, reins)?;
    let [running] = running;
    let words = running.end().stdout;
    let last = words.lines().next().and_then(|l| l.split_ascii_whitespace().last());
    Ok(last.unwrap_or_default().to_owned())
}

fn said(output: &Output) -> String {
    let errors = process::tail(&output.stderr);
    if errors.is_empty() { process::tail(&output.stdout) } else { errors }
}

fn report(
    task: &Task,
    cpus: &[u32],
    process: CpuTime,
    node: NodeCpu,
    options: &[(&'static str, String)],
    sees_kthreads: bool,
) -> EndReport {
    let options: BTreeMap<String, String> =
        options.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    let flow = |flow| FlowResult {
        flow,
        cpu: cpus::of_flow(cpus, flow),
        options: options.clone(),
        ..FlowResult::default()
    };
    let window_s = node.window_s;
    let flows = (0..task.params.streams).map(flow).collect();
    EndReport {
        endpoint: EndpointResult { window_s, process, node, flows },
        histogram: None,
        slices: Vec::new(),
        slice_s: task.duration_s,
        datagrams: None,
        window_opened: None,
        warnings: (!sees_kthreads).then(|| KTHREADS_UNSEEN.to_owned()).into_iter().collect(),
        told: None,
        intervals: Vec::new(),
    }
}

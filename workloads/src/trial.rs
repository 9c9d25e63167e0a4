//! One end of one trial: starts the flow threads, lets them go together, watches them, measures CPU
//! and TCP_INFO exactly at the window's edges, and makes the report. The workloads supply the
//! threads' jobs; the agent calls [`serve`] and [`drive`].

use crate::{
    along::Along,
    check, clock, cpus,
    error::{Doing, TrialError},
    flow::{Gate, Lane, Strand, Tally},
    meter::Timeline,
    node_cpu::{self, CpuWindow},
    options, peers,
    protocol::{EndReport, Task},
    reins::{Cause, Reins},
    tcp_crr, tcp_rr, tcp_stream,
    throttle::{THROTTLED, Throttle},
    udp_rr, udp_stream,
};
use cnibench_model::{
    CpuTime, DatagramStats, EndpointResult, FlowResult, NodeCpu, StoredHistogram, Workload,
};
use socket2::Socket;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// How often the supervisor looks whether anything moves.
const LOOK: u64 = clock::SECOND / 5;
/// CPU times that were read later than this share of the window are worth a warning.
const LATE_READING: f64 = 0.02;

/// Warning where kernel threads look like nobody's work.
pub(crate) const KTHREADS_UNSEEN: &str =
    "kernel threads cannot be seen here (a PID namespace): their time is in system";

/// Which end this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Everything that the supervisor needs to run one end.
pub(crate) struct Cast<'a> {
    pub(crate) side: Side,
    pub(crate) strands: Vec<Strand<'a>>,
    /// The flows' long-lived sockets in flow order, looked at at the window's edges.
    pub(crate) sockets: Vec<Arc<Socket>>,
    /// What the supervisor does when the window is over and read.
    pub(crate) at_close: Option<Box<dyn FnOnce() + 'a>>,
}

/// Be the server of a trial: binds, calls `listening` with the port, and runs until the client is done.
///
/// # Errors
/// See [`TrialError`]; every thread and socket of the trial is gone when this returns.
pub fn serve(
    task: &Task,
    bind: SocketAddr,
    reins: &Reins,
    listening: &mut dyn FnMut(u16),
) -> Result<EndReport, TrialError> {
    check::check(task, bind.ip())?;
    if !task.params.generator.is_own() {
        return peers::serve(task, bind, reins, listening);
    }
    match task.workload {
        Workload::TcpStream => tcp_stream::serve(task, bind, reins, listening),
        Workload::TcpRr => tcp_rr::serve(task, bind, reins, listening),
        Workload::TcpCrr => tcp_crr::serve(task, bind, reins, listening),
        Workload::UdpStream => udp_stream::serve(task, bind, reins, listening),
        Workload::UdpRr => udp_rr::serve(task, bind, reins, listening),
    }
}

/// Be the client of a trial.
///
/// # Errors
/// See [`TrialError`]; every thread and socket of the trial is gone when this returns.
pub fn drive(task: &Task, server: SocketAddr, reins: &Reins) -> Result<EndReport, TrialError> {
    check::check(task, server.ip())?;
    if !task.params.generator.is_own() {
        return peers::drive(task, server, reins);
    }
    match task.workload {
        Workload::TcpStream => tcp_stream::drive(task, server, reins),
        Workload::TcpRr => tcp_rr::drive(task, server, reins),
        Workload::TcpCrr => tcp_crr::drive(task, server, reins),
        Workload::UdpStream => udp_stream::drive(task, server, reins),
        Workload::UdpRr => udp_rr::drive(task, server, reins),
    }
}

/// What the supervisor read at one edge of the window.
#[derive(Default)]
struct Edge {
    progress: Vec<u64>,
    tcp_info: Vec<BTreeMap<String, u64>>,
}

/// Runs one end: threads up, `go` (send it or wait for it), window, threads down, report.
pub(crate) fn run(
    task: &Task,
    reins: &Reins,
    cast: Cast<'_>,
    go: impl FnOnce() -> Result<(), TrialError>,
) -> Result<EndReport, TrialError> {
    let Cast { side, strands, sockets, at_close } = cast;
    let (gate, counted) = (Gate::default(), task.count.is_some());
    let progress: Vec<Progress> = strands.iter().map(|_| Progress::default()).collect();
    let who: Vec<(Option<u32>, Option<u32>)> =
        strands.iter().map(|s| (s.flow, cpu(task, side, s.flow))).collect();
    let (watched, tallies) =
        thread::scope(|scope| {
            let mut handles = Vec::new();
            for (strand, (counter, &(_, cpu))) in strands.into_iter().zip(progress.iter().zip(&who))
            {
                let lane = Lane { gate: &gate, progress: &counter.0, reins };
                let started = thread::Builder::new()
                    .name(strand.name())
                    .spawn_scoped(scope, move || strand.perform(lane, cpu, counted));
                match started {
                    Ok(handle) => handles.push(handle),
                    Err(e) => {
                        reins.stop(Cause::Failed(TrialError::system("starting a flow thread", e)));
                        break;
                    }
                }
            }
            let watched =
                Watch { task, side, reins, gate: &gate, progress: &progress, sockets: &sockets }
                    .run(handles.len(), go, at_close);
            if watched.is_err() {
                // Blocked threads must end before the scope does; the error itself is returned below.
                reins.stop(Cause::Deadline);
            }
            gate.abandon();
            let tallies: Vec<Tally> = handles
                .into_iter()
                .map(|h| {
                    h.join().unwrap_or_else(|_| {
                        reins.stop(Cause::Failed(TrialError::system(
                            "running a flow thread",
                            std::io::Error::other("it panicked; see standard error"),
                        )));
                        Tally::default()
                    })
                })
                .collect();
            (watched, tallies)
        });
    let mut seen = watched?;
    if let Some(error) = reins.take_failure() {
        return Err(error);
    }
    if task.count.is_some() {
        seen.fit_to(&tallies)?;
    }
    report(task, &who, tallies, seen, &sockets)
}

fn cpu(task: &Task, side: Side, flow: Option<u32>) -> Option<u32> {
    let list = match side {
        Side::Client => &task.client_cpus,
        Side::Server => &task.server_cpus,
    };
    cpus::of_flow(list, flow?)
}

/// A counter that only its flow thread writes, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Progress(AtomicU64);

struct Watch<'a> {
    task: &'a Task,
    side: Side,
    reins: &'a Reins,
    gate: &'a Gate,
    progress: &'a [Progress],
    sockets: &'a [Arc<Socket>],
}

/// What the supervisor brings home.
struct Seen {
    timeline: Timeline,
    window_s: f64,
    process: CpuTime,
    node: NodeCpu,
    open: Edge,
    close: Edge,
    warnings: Vec<String>,
}

impl Seen {
    /// Where what was done is counted, the flows say when the window was: from the first that began to the
    /// last that ended. An end whose flows only answer has the whole trial.
    fn fit_to(&mut self, tallies: &[Tally]) -> Result<(), TrialError> {
        let spans = || tallies.iter().filter_map(|tally| tally.span);
        if let (Some(open), Some(close)) =
            (spans().map(|(open, _)| open).min(), spans().map(|(_, close)| close).max())
        {
            (self.timeline.open, self.timeline.close) = (open, close);
        }
        let Timeline { open, close, .. } = self.timeline;
        if close <= open {
            return Err(TrialError::PeerSilent("the trial ended before its window".to_owned()));
        }
        self.window_s = clock::seconds(close - open);
        self.node.window_s = self.window_s;
        Ok(())
    }
}

impl Watch<'_> {
    /// A trial that ends when its flows have done what they were told. No CPU time is read: each reading
    /// would be among what is counted, and ticks tell nothing that the count does not.
    fn counted(
        &self,
        threads: usize,
        go: impl FnOnce() -> Result<(), TrialError>,
    ) -> Result<Seen, TrialError> {
        let machine = node_cpu::machine().doing("reading the machine's boot id")?;
        self.gate.wait_ready(threads, self.reins)?;
        go()?;
        let open = self.edge();
        let mut timeline = Timeline::new(clock::now(), 0.0, self.task.duration_s);
        timeline.slices = 1;
        self.gate.open(timeline);
        let mut silence = Silence::new(self);
        loop {
            // Looked for as rarely as it can be: every look is among what is counted.
            let until = clock::now() + clock::nanos(self.task.patience_s) + 1;
            if self.reins.wait_finished(threads, until) {
                break;
            }
            if self.reins.stopped() {
                return Err(self.reins.stopped_error());
            }
            silence.look(self)?;
        }
        timeline.close = clock::now();
        let node =
            NodeCpu { machine, window_s: 0.0, time: CpuTime::default(), busy: BTreeMap::new() };
        Ok(Seen {
            timeline,
            window_s: 0.0,
            process: CpuTime::default(),
            node,
            open,
            close: self.edge(),
            warnings: Vec::new(),
        })
    }

    fn run(
        &self,
        threads: usize,
        go: impl FnOnce() -> Result<(), TrialError>,
        at_close: Option<Box<dyn FnOnce() + '_>>,
    ) -> Result<Seen, TrialError> {
        if self.task.count.is_some() {
            return self.counted(threads, go);
        }
        let mut cpu = CpuWindow::prepare().doing("reading CPU times in /proc")?;
        let sees_kthreads = cpu.sees_kthreads();
        let mut throttle = Throttle::prepare();
        self.gate.wait_ready(threads, self.reins)?;
        let before = clock::now();
        go()?;
        // However long this thread is kept from running here, the server's window starts, and so
        // ends, before the client's: no client leaves a server in the middle of its window.
        let start = match self.side {
            Side::Server => before,
            Side::Client => clock::now(),
        };
        let timeline = Timeline::new(start, self.task.warmup_s, self.task.duration_s);
        self.gate.open(timeline);

        let mut silence = Silence::new(self);
        let mut over =
            self.pass(timeline.open.saturating_sub(cpu.lead()), threads, &mut silence)?;
        cpu.open(timeline.open).doing("reading CPU times in /proc")?;
        let opened = clock::now();
        let open = self.edge();
        throttle.open();
        over = over || self.pass(timeline.close, threads, &mut silence)?;
        if over && clock::now() < timeline.close {
            // Every thread ended before the window did: one of them says why, or the peer left.
            return Err(self.reins.take_failure().unwrap_or_else(|| {
                TrialError::PeerSilent(
                    "the peer ended the trial before the window was over".to_owned(),
                )
            }));
        }
        let closed = clock::now();
        let (process, node) = cpu.close().doing("reading CPU times in /proc")?;
        let close = self.edge();
        let throttled = throttle.close();
        if let Some(act) = at_close {
            act();
        }
        let mut warnings = Vec::new();
        if !sees_kthreads {
            warnings.push(KTHREADS_UNSEEN.to_owned());
        }
        if throttled {
            warnings.push(THROTTLED.to_owned());
        }
        let late =
            clock::seconds((closed - timeline.close).max(opened.saturating_sub(timeline.open)));
        if late > LATE_READING * self.task.duration_s {
            warnings.push(
                "CPU times were read more than 2 % of the window late: a full machine let the supervisor wait"
                    .to_owned(),
            );
        }
        self.wind_down(&timeline, threads)?;
        Ok(Seen {
            timeline,
            window_s: clock::seconds(timeline.close - timeline.open),
            process,
            node,
            open,
            close,
            warnings,
        })
    }

    /// Waits until `at`; true when all threads have ended. Fails when stopped or when nothing moves.
    fn pass(&self, at: u64, threads: usize, silence: &mut Silence) -> Result<bool, TrialError> {
        loop {
            let now = clock::now();
            if now >= at {
                return Ok(false);
            }
            // The condition variable may wake up 50 µs late: the last millisecond is slept exactly.
            if at - now <= clock::SECOND / 1000 {
                clock::sleep_until(at);
                continue;
            }
            let until = (now + LOOK).min(at - clock::SECOND / 1000);
            if self.reins.wait_finished(threads, until) {
                return Ok(true);
            }
            if self.reins.stopped() {
                return Err(self.reins.stopped_error());
            }
            silence.look(self)?;
        }
    }

    /// After the window: the last messages get the task's patience, then sockets are shut down.
    fn wind_down(&self, timeline: &Timeline, threads: usize) -> Result<(), TrialError> {
        let until = timeline.close + clock::nanos(self.task.patience_s);
        if self.reins.wait_finished(threads, until) {
            return Ok(());
        }
        if self.reins.stopped() {
            return Err(self.reins.stopped_error());
        }
        self.reins.stop(if self.task.workload.is_tcp() {
            Cause::Failed(TrialError::PeerSilent(format!(
                "the peer did not finish within {} s after the window",
                self.task.patience_s
            )))
        } else {
            Cause::Deadline
        });
        Ok(())
    }

    fn edge(&self) -> Edge {
        Edge {
            progress: self.progress.iter().map(|p| p.0.load(Ordering::Relaxed)).collect(),
            tcp_info: if self.task.workload.is_tcp() {
                // A connection that is gone has no numbers; its flow thread says why.
                self.sockets.iter().map(|s| options::tcp_info(s).unwrap_or_default()).collect()
            } else {
                Vec::new()
            },
        }
    }

    fn moved(&self) -> u64 {
        self.progress.iter().map(|p| p.0.load(Ordering::Relaxed)).sum()
    }
}

/// Notices that nothing moves.
struct Silence {
    patience: u64,
    since: u64,
    moved: u64,
}

impl Silence {
    fn new(watch: &Watch<'_>) -> Self {
        let task = watch.task;
        // A paced trial is quiet on purpose between two events.
        let pause = task.params.rate.map_or(0.0, |rate| {
            let event =
                if task.workload.is_transactional() { 1.0 } else { 8.0 * task.params.size as f64 };
            2.0 * event * f64::from(task.params.streams) / rate.0
        });
        Self { patience: clock::nanos(task.patience_s + pause), since: clock::now(), moved: 0 }
    }

    fn look(&mut self, watch: &Watch<'_>) -> Result<(), TrialError> {
        let (now, moved) = (clock::now(), watch.moved());
        if moved != self.moved {
            (self.moved, self.since) = (moved, now);
        } else if now - self.since > self.patience {
            return Err(TrialError::PeerSilent(format!(
                "nothing moved on any of {} flows for {:.1} s",
                watch.task.params.streams,
                clock::seconds(now - self.since)
            )));
        }
        Ok(())
    }
}

fn report(
    task: &Task,
    who: &[(Option<u32>, Option<u32>)],
    tallies: Vec<Tally>,
    mut seen: Seen,
    sockets: &[Arc<Socket>],
) -> Result<EndReport, TrialError> {
    let mut flows: BTreeMap<u32, FlowResult> = BTreeMap::new();
    let mut slices = vec![0u64; seen.timeline.slices];
    let mut histogram: Option<hdrhistogram::Histogram<u64>> = None;
    let mut datagrams: Vec<DatagramStats> = Vec::new();
    let mut along = Along::default();
    for (i, (mut tally, &(flow, cpu))) in tallies.into_iter().zip(who).enumerate() {
        seen.warnings.append(&mut tally.warnings);
        let Some(number) = flow else { continue };
        if let Some((request, response)) = tally.by_progress {
            let count = |edge: &Edge| edge.progress.get(i).copied().unwrap_or(0);
            let before = task
                .count
                .map_or_else(|| count(&seen.open), |all| all.of_flow(task.params.streams).warmup);
            tally.transactions = count(&seen.close).saturating_sub(before);
            (tally.received, tally.sent) = (tally.transactions, tally.transactions);
            tally.received_bytes = tally.transactions * request;
            tally.sent_bytes = tally.transactions * response;
        }
        let result = flows.entry(number).or_insert_with(|| FlowResult {
            flow: number,
            cpu,
            ..FlowResult::default()
        });
        result.sent_bytes += tally.sent_bytes;
        result.received_bytes += tally.received_bytes;
        result.sent += tally.sent;
        result.received += tally.received;
        result.transactions += tally.transactions;
        result.options.extend(tally.options);
        for (sum, slice) in slices.iter_mut().zip(&tally.slices) {
            *sum += slice;
        }
        datagrams.extend(tally.datagrams);
        along.add(tally.along);
        match (&mut histogram, tally.histogram) {
            (Some(all), Some(one)) => all.add(&one).map_err(|e| {
                TrialError::system("merging histograms", std::io::Error::other(e.to_string()))
            })?,
            (all @ None, one) => *all = one,
            (Some(_), None) => {}
        }
    }
    for (i, (result, socket)) in flows.values_mut().zip(sockets).enumerate() {
        result.options.extend(options::read_back(socket, task));
        result.tcp_info = tcp_info(&seen, i);
        seen.warnings.extend(options::buffer_warnings(socket, &task.params));
    }
    seen.warnings.sort();
    seen.warnings.dedup();
    // Slices of bytes become bit/s, slices of transactions transactions/s.
    let factor = if task.workload.is_transactional() { 1.0 } else { 8.0 } / seen.timeline.slice_s();
    let histogram = histogram
        .map(|h| StoredHistogram::encode(&h))
        .transpose()
        .map_err(|e| TrialError::system("storing the histogram", std::io::Error::other(e)))?;
    Ok(EndReport {
        endpoint: EndpointResult {
            window_s: seen.window_s,
            process: seen.process,
            node: seen.node,
            flows: flows.into_values().collect(),
        },
        histogram,
        slices: slices.iter().map(|&n| n as f64 * factor).collect(),
        slice_s: seen.timeline.slice_s(),
        datagrams: DatagramStats::merge(&datagrams),
        window_opened: clock::wall(seen.timeline.open),
        warnings: seen.warnings,
        told: None,
        intervals: along.finish(),
    })
}

/// TCP_INFO at the end of the window, with what was sent again inside it.
fn tcp_info(seen: &Seen, i: usize) -> BTreeMap<String, u64> {
    let mut info = seen.close.tcp_info.get(i).cloned().unwrap_or_default();
    let total = |edge: &Edge| edge.tcp_info.get(i)?.get(options::TOTAL_RETRANS).copied();
    if let (Some(before), Some(after)) = (total(&seen.open), total(&seen.close)) {
        info.insert(options::RETRANS_IN_WINDOW.to_owned(), after.saturating_sub(before));
    }
    info
}

//! What the generator itself costs: recording, merging, accounting, and a whole loopback trial
//! against the same exchange written down naively.

use cnibench_model::{Workload, histogram};
use cnibench_workloads::{
    agent,
    arrivals::{Arrivals, Jitter},
    clock,
    meter::{Meter, Timeline},
    protocol::{EndReport, Reply, Request, Task},
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::{
    error::Error,
    hint::black_box,
    io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Length of one trial, and of one run of its naive counterpart.
const TRIAL_S: f64 = 0.2;

fn recording(c: &mut Criterion) {
    let mut group = c.benchmark_group("sample");
    group.throughput(Throughput::Elements(1));
    group.bench_function("clock_read", |b| b.iter(clock::now));
    let mut h = histogram::empty();
    let mut v = 10_000u64;
    group.bench_function("histogram_record", |b| {
        b.iter(|| {
            v = v.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            h.saturating_record(black_box(10_000 + (v >> 50)));
        });
    });
    let mut meter = Meter::new(Timeline::new(0, 0.0, 3_600.0));
    let mut now = 0;
    group.bench_function("meter_add", |b| {
        b.iter(|| {
            now += 20;
            meter.add(black_box(now), 1)
        });
    });
    let (mut arrivals, mut jitter, mut n) = (Arrivals::default(), Jitter::default(), 0u64);
    group.bench_function("datagram_note", |b| {
        b.iter(|| {
            n += 1;
            arrivals.note(black_box(n), true);
            jitter.note(n * 100, n * 100 + (n & 7), true);
        });
    });
    group.finish();
}

fn merging(c: &mut Criterion) {
    let mut one = histogram::empty();
    for i in 0..100_000u64 {
        one.saturating_record(10_000 + (i * 7_919) % 90_000);
    }
    let mut all = histogram::empty();
    c.bench_function("histogram_merge", |b| b.iter(|| all.add(black_box(&one)).is_ok()));
}

/// An agent on a thread of its own.
struct Agent {
    input: PipeWriter,
    output: BufReader<PipeReader>,
}

impl Agent {
    fn start() -> Result<Self> {
        let (theirs, input) = pipe()?;
        let (output, mine) = pipe()?;
        thread::spawn(move || agent::run(BufReader::new(theirs), mine));
        Ok(Self { input, output: BufReader::new(output) })
    }

    fn ask(&mut self, request: &Request) -> Result<()> {
        Ok(writeln!(self.input, "{}", serde_json::to_string(request)?)?)
    }

    fn reply(&mut self) -> Result<Reply> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    fn finished(&mut self) -> Result<EndReport> {
        match self.reply()? {
            Reply::Finished(report) => Ok(*report),
            other => Err(format!("{other:?}").into()),
        }
    }
}

/// What one trial did per second: transactions, or bytes at the receiver.
fn trial(workload: Workload) -> Result<f64> {
    let task = Task {
        workload,
        params: workload.defaults(),
        duration_s: TRIAL_S,
        warmup_s: 0.05,
        client_cpus: vec![],
        server_cpus: vec![],
        patience_s: 10.0,
        canary: vec![],
        latencies: true,
        count: None,
    };
    let (mut client, mut server) = (Agent::start()?, Agent::start()?);
    server.ask(&Request::Serve { task: task.clone(), bind: LOCAL, port: 0 })?;
    let Reply::Listening { port } = server.reply()? else { return Err("not listening".into()) };
    client.ask(&Request::Drive { task, server: SocketAddr::new(LOCAL, port) })?;
    let (client, server) = (client.finished()?, server.finished()?);
    let done = match workload {
        Workload::TcpStream => server.endpoint.flows[0].received_bytes,
        _ => client.endpoint.flows[0].transactions,
    };
    Ok(done as f64 / TRIAL_S)
}

/// The same exchange with nothing recorded: no clock, no histogram, no window.
fn naive(workload: Workload) -> Result<f64> {
    let listener = TcpListener::bind((LOCAL, 0))?;
    let mut flow = TcpStream::connect(listener.local_addr()?)?;
    flow.set_nodelay(true)?;
    let (mut peer, _) = listener.accept()?;
    peer.set_nodelay(true)?;
    let server = thread::spawn(move || -> std::io::Result<u64> {
        let mut room = vec![0; 128 * 1024];
        let mut bytes = 0;
        loop {
            let n = peer.read(&mut room)?;
            if n == 0 {
                return Ok(bytes);
            }
            bytes += n as u64;
            if workload == Workload::TcpRr {
                peer.write_all(&room[..1])?;
            }
        }
    });
    let block = vec![1; 128 * 1024];
    let mut byte = [0];
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs_f64(TRIAL_S) {
        // So many at a time that the clock does not count.
        for _ in 0..16 {
            if workload == Workload::TcpRr {
                flow.write_all(&byte)?;
                flow.read_exact(&mut byte)?;
            } else {
                flow.write_all(&block)?;
            }
        }
    }
    drop(flow);
    let bytes = server.join().map_err(|_| "the naive server panicked")??;
    Ok(bytes as f64 / began.elapsed().as_secs_f64())
}

/// Time for a fixed amount of work, from a measured rate: criterion's ratio of the two lines is
/// the generator's ratio to the naive program.
fn whole(c: &mut Criterion) {
    for (workload, amount) in [(Workload::TcpRr, 1.0), (Workload::TcpStream, 1e6)] {
        let mut group = c.benchmark_group(workload.name());
        group.sample_size(10).measurement_time(Duration::from_secs(3));
        type Run = fn(Workload) -> Result<f64>;
        for (name, run) in [("generator", trial as Run), ("naive", naive as Run)] {
            group.bench_function(name, |b| {
                b.iter_custom(|iterations| match run(workload) {
                    Ok(rate) => Duration::from_secs_f64(amount * iterations as f64 / rate),
                    Err(error) => {
                        eprintln!("{workload} {name}: {error}");
                        std::process::exit(1)
                    }
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, recording, merging, whole);
criterion_main!(benches);

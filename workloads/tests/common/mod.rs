//! Two agents over pipes, for every test that runs a trial.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "it is test code")]

use cnibench_model::{Workload, WorkloadParams};
use cnibench_workloads::{
    agent,
    protocol::{EndReport, FaultKind, Reply, Request, Task},
};
use std::{
    io::{BufRead, BufReader, PipeReader, PipeWriter, Write, pipe},
    net::{IpAddr, SocketAddr},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// Longer than anything that a test waits for; reached only by a bug.
pub const FOREVER: Duration = Duration::from_secs(60);

/// An agent on a thread of its own, spoken to as the controller does.
pub struct Agent {
    input: Option<PipeWriter>,
    output: BufReader<PipeReader>,
    ended: mpsc::Receiver<std::io::Result<()>>,
}

impl Agent {
    pub fn start() -> Self {
        Self::start_in(|| {})
    }

    /// `enter` runs on the agent's thread first; its threads inherit where that leads (a namespace).
    pub fn start_in(enter: impl FnOnce() + Send + 'static) -> Self {
        let (theirs, input) = pipe().unwrap();
        let (output, mine) = pipe().unwrap();
        let (tell, ended) = mpsc::channel();
        thread::spawn(move || {
            enter();
            // The receiver may be gone when a test failed.
            let _ = tell.send(agent::run(BufReader::new(theirs), mine));
        });
        Self { input: Some(input), output: BufReader::new(output), ended }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.input.as_mut().unwrap().write_all(bytes).unwrap();
    }

    pub fn ask(&mut self, request: &Request) {
        let mut line = serde_json::to_vec(request).unwrap();
        line.push(b'\n');
        self.write(&line);
    }

    /// The next reply; none at the end of output.
    pub fn reply(&mut self) -> Option<Reply> {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }

    pub fn serve(&mut self, task: &Task, bind: IpAddr) -> u16 {
        self.ask(&Request::Serve { task: task.clone(), bind, port: 0 });
        match self.reply() {
            Some(Reply::Listening { port }) => port,
            other => panic!("expected Listening, got {other:?}"),
        }
    }

    pub fn drive(&mut self, task: &Task, server: SocketAddr) {
        self.ask(&Request::Drive { task: task.clone(), server });
    }

    pub fn finished(&mut self) -> EndReport {
        match self.reply() {
            Some(Reply::Finished(report)) => *report,
            other => panic!("expected Finished, got {other:?}"),
        }
    }

    pub fn fault(&mut self) -> (FaultKind, String) {
        match self.reply() {
            Some(Reply::Fault { kind, message }) => (kind, message),
            other => panic!("expected Fault, got {other:?}"),
        }
    }

    /// The agent answers as ever.
    pub fn assert_alive(&mut self) {
        self.ask(&Request::Hello);
        assert!(matches!(self.reply(), Some(Reply::Hello { .. })));
    }

    /// Ends its input, as a killed controller does; how long the agent then took to return.
    pub fn end(mut self) -> Duration {
        let began = Instant::now();
        drop(self.input.take());
        self.ended.recv_timeout(FOREVER).expect("the agent returns").unwrap();
        began.elapsed()
    }
}

/// A short task with the workload's defaults, unpinned: tests share their CPUs.
pub fn task(workload: Workload, change: impl FnOnce(&mut WorkloadParams)) -> Task {
    let mut params = workload.defaults();
    change(&mut params);
    Task {
        workload,
        params,
        duration_s: 0.3,
        warmup_s: 0.1,
        client_cpus: vec![],
        server_cpus: vec![],
        patience_s: 20.0,
        canary: vec![],
        latencies: true,
        count: None,
    }
}

/// One trial from beginning to end: the client's and the server's report.
pub fn trial(task: &Task, address: IpAddr) -> (EndReport, EndReport) {
    between(&mut Agent::start(), &mut Agent::start(), task, address)
}

/// The same between two agents that are there.
pub fn between(
    client: &mut Agent,
    server: &mut Agent,
    task: &Task,
    address: IpAddr,
) -> (EndReport, EndReport) {
    let port = server.serve(task, address);
    client.drive(task, SocketAddr::new(address, port));
    (client.finished(), server.finished())
}

/// Sum over the flows of an end.
pub fn total(end: &EndReport, of: impl Fn(&cnibench_model::FlowResult) -> u64) -> u64 {
    end.endpoint.flows.iter().map(of).sum()
}

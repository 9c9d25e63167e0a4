//! The agent: reads requests line by line, runs one trial at a time, answers line by line.
//!
//! The calling thread keeps reading while a trial runs on a thread of its own, so `Cancel` and the
//! end of input (a controller that was killed) work at once. `cnibench agent` calls [`run`] with
//! its standard input and output after it has entered the pod's namespace.

use crate::{
    contact, cpus,
    error::TrialError,
    interfaces, node_cpu,
    protocol::{FaultKind, PROTOCOL_VERSION, Reply, Request},
    reins::Reins,
    trial,
};
use rustix::system::uname;
use std::{
    io::{self, BufRead, Write},
    net::SocketAddr,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

/// The longest request line: a task with the largest canary and CPU lists fits many times.
const MAX_LINE: u64 = 1 << 20;
/// How long a cancelled trial may take to end before the agent leaves without it.
const LEAVE: Duration = Duration::from_secs(2);

/// Serves requests until the input ends, then stops the running trial and returns; promptly, even
/// when flows are blocked.
///
/// # Errors
/// When the input cannot be read. A controller that no longer reads is no error: it is gone.
pub fn run(
    mut input: impl BufRead + Send + 'static,
    output: impl Write + Send + 'static,
) -> io::Result<()> {
    let speaker = Speaker(Arc::new(Mutex::new(output)));
    let mut current: Option<Running> = None;
    let ended = loop {
        let mut line = Vec::new();
        match io::Read::take(&mut input, MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => break Err(e),
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(request) => obey(request, &mut current, &speaker),
            Err(e) => speaker.fault(
                FaultKind::BadTask,
                format!("this line is no request of protocol {PROTOCOL_VERSION}: {e}"),
            ),
        }
    };
    if let Some(running) = current {
        running.end();
    }
    ended
}

fn obey<W: Write + Send + 'static>(
    request: Request,
    current: &mut Option<Running>,
    speaker: &Speaker<W>,
) {
    match request {
        Request::Hello => speaker.say(&Reply::Hello {
            protocol: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            cpus: cpus::allowed(),
            machine: node_cpu::machine().unwrap_or_default(),
            kernel: uname().release().to_string_lossy().into_owned(),
            // A controller that misses them says so; nothing else depends on them.
            interfaces: interfaces::list().unwrap_or_default(),
        }),
        Request::Cancel => {
            // Between trials there is nothing to give up: the last reply was the answer.
            if let Some(running) = current {
                running.reins.cancel();
            }
        }
        work => {
            if current.as_ref().is_some_and(Running::is_busy) {
                speaker.fault(
                    FaultKind::BadTask,
                    "an agent runs one trial at a time; cancel it or wait for its reply".to_owned(),
                );
                return;
            }
            // The one before has replied, and is about to be gone.
            if let Some(before) = current.take() {
                before.end();
            }
            match Running::start(work, speaker.clone()) {
                Ok(running) => *current = Some(running),
                Err(e) => {
                    speaker.fault(FaultKind::System, format!("starting the trial's thread: {e}"))
                }
            }
        }
    }
}

/// The agent's mouth; whole lines only.
struct Speaker<W>(Arc<Mutex<W>>);

impl<W> Clone for Speaker<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: Write> Speaker<W> {
    fn say(&self, reply: &Reply) {
        let Ok(mut line) = serde_json::to_vec(reply) else { return };
        line.push(b'\n');
        let mut out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A controller that cannot be written to is gone, and its end of input ends the agent.
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }

    fn fault(&self, kind: FaultKind, message: String) {
        self.say(&Reply::Fault { kind, message });
    }
}

/// A trial under way.
struct Running {
    reins: Arc<Reins>,
    /// Disconnected when the trial's thread has sent its reply.
    over: mpsc::Receiver<()>,
}

impl Running {
    fn start<W: Write + Send + 'static>(request: Request, speaker: Speaker<W>) -> io::Result<Self> {
        let reins = Arc::new(Reins::default());
        let (guard, over) = mpsc::channel();
        let own = Arc::clone(&reins);
        thread::Builder::new().name("trial".to_owned()).spawn(move || {
            let result = panic::catch_unwind(AssertUnwindSafe(|| perform(request, &own, &speaker)));
            // Before the reply: the controller may answer it with the next request.
            drop(guard);
            match result {
                Ok(Ok(reply)) => speaker.say(&reply),
                Ok(Err(error)) => speaker.fault(error.kind(), error.to_string()),
                Err(_) => speaker.fault(
                    FaultKind::System,
                    "the trial panicked; see the agent's standard error".to_owned(),
                ),
            }
        })?;
        Ok(Self { reins, over })
    }

    fn is_busy(&self) -> bool {
        matches!(self.over.try_recv(), Err(mpsc::TryRecvError::Empty))
    }

    /// Stops it and waits a little for its end.
    fn end(self) {
        self.reins.cancel();
        match self.over.recv_timeout(LEAVE) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {}
            // Returning ends the process and with it every thread.
            Err(RecvTimeoutError::Timeout) => {
                eprintln!("agent: a trial did not stop within {} s", LEAVE.as_secs());
            }
        }
    }
}

fn perform<W: Write>(
    request: Request,
    reins: &Reins,
    speaker: &Speaker<W>,
) -> Result<Reply, TrialError> {
    let listening = &mut |port| speaker.say(&Reply::Listening { port });
    let finished = |report| Reply::Finished(Box::new(report));
    match request {
        Request::Serve { task, bind, port } => {
            trial::serve(&task, SocketAddr::new(bind, port), reins, listening).map(finished)
        }
        Request::Drive { task, server } => trial::drive(&task, server, reins).map(finished),
        Request::Echo { bind, port } => {
            let counts = contact::echo(SocketAddr::new(bind, port), reins, listening)?;
            Ok(Reply::Echoed { counts })
        }
        Request::Probe { server, tcp, interval_ms, for_s } => {
            let plan = contact::Plan::new(server, tcp, interval_ms, for_s)?;
            let told = contact::probe(&plan, reins, &mut |reachable, since_ms| {
                speaker.say(&Reply::Probed { reachable, since_ms });
            })?;
            Ok(Reply::ProbeEnd { sent: told.sent, answered: told.answered })
        }
        Request::Send(volley) => contact::send(&volley, reins).map(Reply::Sent),
        Request::Hello | Request::Cancel => {
            Err(TrialError::BadTask("this request is no work".to_owned()))
        }
    }
}

//! One `cnibench agent`, seen from the controller.

use super::{Link, wire::Wire};
use cnibench_workloads::{
    cpus::Allowed,
    protocol::{
        EchoCount, EndReport, FaultKind, Interface, PROTOCOL_VERSION, Reply, Request, Tally, Volley,
    },
};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::time::Instant;

/// An agent that has not said hello by then never will.
const HELLO: Duration = Duration::from_secs(10);
/// How long an agent may take to say what it has ready at once, over a slow API server too.
const ANSWER: Duration = Duration::from_secs(10);

/// Why an agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It could not be started.
    #[error("agent in {place}: cannot start: {cause}")]
    Start {
        /// Where.
        place: String,
        /// Why.
        cause: String,
    },
    /// It ended in the middle of something.
    #[error("agent in {place} ended ({status}){stderr}")]
    Died {
        /// Where.
        place: String,
        /// Exit status.
        status: String,
        /// What it wrote to standard error, if anything.
        stderr: String,
    },
    /// It did not answer in time.
    #[error("agent in {place} did not answer within {waited_s:.1} s")]
    Silent {
        /// Where.
        place: String,
        /// How long.
        waited_s: f64,
    },
    /// It answered something that does not belong here.
    #[error("agent in {place} answered out of turn: {answer}")]
    Confused {
        /// Where.
        place: String,
        /// What.
        answer: String,
    },
    /// It reported a fault of the trial.
    #[error("{place}: {message}")]
    Fault {
        /// Where.
        place: String,
        /// What kind.
        kind: FaultKind,
        /// The whole error.
        message: String,
    },
}

impl AgentError {
    /// Up to three words for a cell of the matrix.
    pub fn short(&self) -> &'static str {
        match self {
            Self::Start { .. } => "agent not started",
            Self::Died { .. } => "agent died",
            Self::Silent { .. } => "agent never answered",
            Self::Confused { .. } => "agent out of turn",
            Self::Fault { kind, .. } => match kind {
                FaultKind::BadTask => "cannot be done",
                FaultKind::Unreachable => "server not reached",
                FaultKind::PeerSilent => "peer never answered",
                FaultKind::System => "system call failed",
                FaultKind::Cancelled => "cancelled",
            },
        }
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    wire: Wire,
    cpus: Vec<u32>,
    machine: String,
    kernel: String,
    interfaces: Vec<Interface>,
}

/// What a probe tells.
#[derive(Debug, Clone, Copy)]
pub enum ProbeEvent {
    /// Its first state, or a change.
    Turned {
        /// Does the server answer?
        reachable: bool,
        /// When the try was sent that shows it, by this machine's clock: when the line arrived less
        /// the age that it told. Late by what the line took to get here.
        at: Instant,
    },
    /// It is over.
    Ended {
        /// Tries that ended.
        sent: u64,
        /// Those that were answered.
        answered: u64,
    },
}

impl Agent {
    /// Shakes hands with an agent that was just started in a place.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn start(place: &str, link: Link) -> Result<Self, AgentError> {
        let mut wire = Wire::new(place, link);
        wire.say(&Request::Hello).await?;
        match wire.hear(HELLO).await? {
            Reply::Hello {
                protocol: PROTOCOL_VERSION, cpus, machine, kernel, interfaces, ..
            } => Ok(Self { wire, cpus, machine, kernel, interfaces }),
            other => Err(wire.confused(&format!("{other:?}"))),
        }
    }

    /// CPUs that the agent may use, and of which machine.
    pub fn allowed(&self) -> Allowed<'_> {
        Allowed { cpus: &self.cpus, machine: &self.machine }
    }

    /// Where it runs, for people.
    pub fn place(&self) -> &str {
        self.wire.place()
    }

    /// The kernel it runs on, as `uname -r` says it.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Network interfaces of its place, those with a default route first.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// How long a question and its answer take.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn round_trip(&mut self) -> Result<Duration, AgentError> {
        let asked = Instant::now();
        self.send(&Request::Hello).await?;
        match self.reply(ANSWER).await? {
            Reply::Hello { .. } => Ok(asked.elapsed()),
            other => Err(self.confused(&other)),
        }
    }

    /// Writes one request.
    ///
    /// # Errors
    /// [`AgentError::Died`].
    pub async fn send(&mut self, request: &Request) -> Result<(), AgentError> {
        self.wire.say(request).await
    }

    /// Waits for `Listening` and gives the port.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn listening(&mut self, patience: Duration) -> Result<u16, AgentError> {
        match self.reply(patience).await? {
            Reply::Listening { port } => Ok(port),
            other => Err(self.confused(&other)),
        }
    }

    /// Waits for the end of a trial.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn finished(&mut self, patience: Duration) -> Result<EndReport, AgentError> {
        match self.reply(patience).await? {
            Reply::Finished(report) => Ok(*report),
            other => Err(self.confused(&other)),
        }
    }

    /// Starts an echo server and gives its port (`port` 0: any).
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn echo(&mut self, bind: IpAddr, port: u16) -> Result<u16, AgentError> {
        self.send(&Request::Echo { bind, port }).await?;
        self.listening(ANSWER).await
    }

    /// Ends the echo server and gives what it counted.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn echoed(&mut self) -> Result<Vec<EchoCount>, AgentError> {
        self.send(&Request::Cancel).await?;
        match self.reply(ANSWER).await? {
            Reply::Echoed { counts } => Ok(counts),
            other => Err(self.confused(&other)),
        }
    }

    /// Sends a volley and waits for its end.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn volley(&mut self, volley: &Volley) -> Result<Tally, AgentError> {
        self.send(&Request::Send(volley.clone())).await?;
        let patience = Duration::from_millis(volley.patience_ms.into());
        // A datagram a millisecond, then one patience; connections one after the other.
        let most =
            Duration::from_millis(volley.datagrams.into()) + patience * (1 + volley.connects);
        match self.reply(most + ANSWER).await? {
            Reply::Sent(tally) => Ok(tally),
            other => Err(self.confused(&other)),
        }
    }

    /// Starts a probe; [`Agent::probed`] hears what it tells.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn probe(
        &mut self,
        server: SocketAddr,
        tcp: bool,
        interval_ms: u32,
        for_s: f64,
    ) -> Result<(), AgentError> {
        self.send(&Request::Probe { server, tcp, interval_ms, for_s }).await
    }

    /// Waits for the next thing that a probe tells. Nothing is lost when the wait is given up.
    ///
    /// # Errors
    /// [`AgentError`]; `Silent` where the state lasts longer than `patience`.
    pub async fn probed(&mut self, patience: Duration) -> Result<ProbeEvent, AgentError> {
        match self.reply(patience).await? {
            Reply::Probed { reachable, since_ms } => {
                let age = Duration::try_from_secs_f64(since_ms / 1e3).unwrap_or_default();
                let now = Instant::now();
                Ok(ProbeEvent::Turned { reachable, at: now.checked_sub(age).unwrap_or(now) })
            }
            Reply::ProbeEnd { sent, answered } => Ok(ProbeEvent::Ended { sent, answered }),
            other => Err(self.confused(&other)),
        }
    }

    /// Ends a probe and gives how many tries ended and were answered.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn end_probe(&mut self) -> Result<(u64, u64), AgentError> {
        self.send(&Request::Cancel).await?;
        loop {
            if let ProbeEvent::Ended { sent, answered } = self.probed(ANSWER).await? {
                return Ok((sent, answered));
            }
        }
    }

    /// Ends the agent: closes its input, and kills it if that is not enough.
    pub async fn stop(self) {
        self.wire.stop().await;
    }

    /// The next reply; a fault is an error.
    async fn reply(&mut self, patience: Duration) -> Result<Reply, AgentError> {
        match self.wire.hear(patience).await? {
            Reply::Fault { kind, message } => {
                Err(AgentError::Fault { place: self.place().to_owned(), kind, message })
            }
            reply => Ok(reply),
        }
    }

    fn confused(&self, reply: &Reply) -> AgentError {
        self.wire.confused(&format!("{reply:?}"))
    }
}

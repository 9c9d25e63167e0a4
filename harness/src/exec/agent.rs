//! One `cnibench agent`, seen from the controller.

use super::{Link, Process};
use cnibench_workloads::{
    cpus::Allowed,
    protocol::{EndReport, FaultKind, PROTOCOL_VERSION, Reply, Request},
};
use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, Lines},
    sync::Mutex,
    time::timeout,
};

/// Lines of an agent's standard error that are kept for error messages.
const STDERR_LINES: usize = 20;
/// An agent that has not said hello by then never will.
const HELLO: Duration = Duration::from_secs(10);

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
pub struct Agent {
    place: String,
    process: Box<dyn Process>,
    input: Box<dyn AsyncWrite + Send + Unpin>,
    output: Lines<BufReader<Box<dyn AsyncRead + Send + Unpin>>>,
    stderr: Arc<Mutex<VecDeque<String>>>,
    cpus: Vec<u32>,
    machine: String,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Agent {
    /// Shakes hands with an agent that was just started in a place.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn start(place: &str, link: Link) -> Result<Self, AgentError> {
        let Link { input, output, errors, process } = link;
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        let tail = Arc::clone(&stderr);
        tokio::spawn(async move {
            let mut lines = BufReader::new(errors).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut tail = tail.lock().await;
                if tail.len() == STDERR_LINES {
                    tail.pop_front();
                }
                tail.push_back(line);
            }
        });
        let mut agent = Self {
            place: place.to_owned(),
            process,
            input,
            output: BufReader::new(output).lines(),
            stderr,
            cpus: Vec::new(),
            machine: String::new(),
        };
        agent.send(&Request::Hello).await?;
        match agent.reply(HELLO).await? {
            Reply::Hello { protocol: PROTOCOL_VERSION, cpus, machine, .. } => {
                (agent.cpus, agent.machine) = (cpus, machine);
            }
            other => return Err(agent.confused(&other)),
        }
        Ok(agent)
    }

    /// CPUs that the agent may use, and of which machine.
    pub fn allowed(&self) -> Allowed<'_> {
        Allowed { cpus: &self.cpus, machine: &self.machine }
    }

    /// Writes one request.
    ///
    /// # Errors
    /// [`AgentError::Died`].
    pub async fn send(&mut self, request: &Request) -> Result<(), AgentError> {
        let mut line = serde_json::to_vec(request).map_err(|e| AgentError::Start {
            place: self.place.clone(),
            cause: format!("request cannot be written as JSON: {e}"),
        })?;
        line.push(b'\n');
        let written = async {
            self.input.write_all(&line).await?;
            self.input.flush().await
        };
        match written.await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.died().await),
        }
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

    /// Ends the agent: closes its input, and kills it if that is not enough.
    pub async fn stop(self) {
        let Self { mut process, mut input, .. } = self;
        // A pipe closes when it is dropped, an exec connection has to be told.
        let _ = input.shutdown().await;
        drop(input);
        if timeout(Duration::from_secs(2), process.wait()).await.is_err() {
            process.kill().await;
        }
    }

    /// The next reply; a fault is an error.
    async fn reply(&mut self, patience: Duration) -> Result<Reply, AgentError> {
        let line = match timeout(patience, self.output.next_line()).await {
            Err(_) => {
                return Err(AgentError::Silent {
                    place: self.place.clone(),
                    waited_s: patience.as_secs_f64(),
                });
            }
            Ok(Ok(Some(line))) => line,
            Ok(_) => return Err(self.died().await),
        };
        match serde_json::from_str(&line) {
            Ok(Reply::Fault { kind, message }) => {
                Err(AgentError::Fault { place: self.place.clone(), kind, message })
            }
            Ok(reply) => Ok(reply),
            Err(_) => Err(AgentError::Confused {
                place: self.place.clone(),
                answer: line.chars().take(200).collect(),
            }),
        }
    }

    async fn died(&mut self) -> AgentError {
        let status = match timeout(Duration::from_secs(2), self.process.wait()).await {
            Ok(status) => status,
            Err(_) => "its output was closed, the process lives on".to_owned(),
        };
        let tail: Vec<String> = self.stderr.lock().await.iter().cloned().collect();
        let stderr =
            if tail.is_empty() { String::new() } else { format!(": {}", tail.join(" | ")) };
        AgentError::Died { place: self.place.clone(), status, stderr }
    }

    fn confused(&self, reply: &Reply) -> AgentError {
        AgentError::Confused {
            place: self.place.clone(),
            answer: format!("{reply:?}").chars().take(200).collect(),
        }
    }
}

//! One `cnibench agent` in a network namespace, seen from the controller.

use crate::cluster::Place;
use cnibench_workloads::{
    cpus::Allowed,
    protocol::{EndReport, FaultKind, PROTOCOL_VERSION, Reply, Request},
};
use std::{collections::VecDeque, process::Stdio, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
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
#[derive(Debug)]
pub struct Agent {
    place: String,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    stderr: Arc<Mutex<VecDeque<String>>>,
    cpus: Vec<u32>,
    machine: String,
}

impl Agent {
    /// Starts an agent in a place and shakes hands with it.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn start(place: &Place) -> Result<Self, AgentError> {
        let start = |cause: String| AgentError::Start { place: place.label.clone(), cause };
        // The running binary itself, also when its file was replaced since.
        let mut child = Command::new("/proc/self/exe")
            .arg0("cnibench")
            .arg("agent")
            .arg("--netns")
            .arg(&place.netns)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A signal to the terminal's process group is the controller's to handle.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| start(e.to_string()))?;
        let (Some(input), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(start("no pipes".to_owned()));
        };
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
            place: place.label.clone(),
            child,
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
        match self.input.write_all(&line).await {
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
        let Self { mut child, input, .. } = self;
        drop(input);
        if timeout(Duration::from_secs(2), child.wait()).await.is_err() {
            // It may have ended in between; kill_on_drop reaps it in any case.
            let _ = child.kill().await;
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
        let status = match timeout(Duration::from_secs(2), self.child.wait()).await {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(e)) => e.to_string(),
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

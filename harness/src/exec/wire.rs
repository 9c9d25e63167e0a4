//! Lines of JSON there and back with a process, and what became of it when they stop.
//!
//! Knows pipes and patience, not what is said: that is an agent's or an observer's.

use super::{AgentError, Link, Process};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, Lines},
    sync::Mutex,
    time::timeout,
};

/// Lines of standard error that are kept for error messages.
const STDERR_LINES: usize = 20;
/// Characters of an answer out of turn that an error message shows.
const SHOWN: usize = 200;

/// A process that is spoken with.
pub(super) struct Wire {
    place: String,
    process: Box<dyn Process>,
    input: Box<dyn AsyncWrite + Send + Sync + Unpin>,
    output: Lines<BufReader<Box<dyn AsyncRead + Send + Sync + Unpin>>>,
    stderr: Arc<Mutex<VecDeque<String>>>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Wire {
    pub(super) fn new(place: &str, link: Link) -> Self {
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
        let place = place.to_owned();
        Self { place, process, input, output: BufReader::new(output).lines(), stderr }
    }

    /// Where it runs, for people.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Writes one line.
    pub(super) async fn say(&mut self, what: &impl Serialize) -> Result<(), AgentError> {
        let mut line = serde_json::to_vec(what).map_err(|e| AgentError::Start {
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

    /// Waits for one line. Nothing is lost when the wait is given up.
    pub(super) async fn hear<T: DeserializeOwned>(
        &mut self,
        patience: Duration,
    ) -> Result<T, AgentError> {
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
        serde_json::from_str(&line).map_err(|_| self.confused(&line))
    }

    /// Ends the process: closes its input, and kills it if that is not enough.
    pub(super) async fn stop(self) {
        let Self { mut process, mut input, .. } = self;
        // A pipe closes when it is dropped, an exec connection has to be told.
        let _ = input.shutdown().await;
        drop(input);
        if timeout(Duration::from_secs(2), process.wait()).await.is_err() {
            process.kill().await;
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

    /// It said something that does not belong here.
    pub(super) fn confused(&self, answer: &str) -> AgentError {
        let answer = answer.chars().take(SHOWN).collect();
        AgentError::Confused { place: self.place.clone(), answer }
    }
}

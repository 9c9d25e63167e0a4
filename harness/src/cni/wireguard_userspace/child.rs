//! The harness' hold on a node's WireGuard process: starting it, its two orders, its death.

use super::protocol::{Join, Joined, Order, Ready, Start};
use anyhow::{Context, anyhow, bail};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    task::JoinHandle,
    time::timeout,
};

/// The hidden subcommand that [`super::wireguard_node_main`] is.
pub const SUBCOMMAND: &str = "wireguard-node";
/// How long an answer may take; it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of the end of standard error kept for messages.
const STDERR_TAIL: usize = 2048;

pub use crate::exec::local::set_program;

/// A running WireGuard process. Dropping it kills it.
#[derive(Debug)]
pub struct WireguardChild {
    node: String,
    /// Its end was reported: stopping it has nothing to add.
    reported: bool,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    stderr: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl WireguardChild {
    /// Starts the process of a node; its devices exist afterwards. `node` names it in messages,
    /// `netns` on its command line, so that `ps` tells whose it is.
    ///
    /// # Errors
    /// What it said on standard error, or that it said nothing in time.
    pub async fn start(node: &str, netns: &str, order: &Start) -> anyhow::Result<(Self, Ready)> {
        let program = crate::exec::local::program();
        let mut child = Command::new(&program)
            .args([SUBCOMMAND, "--node", netns])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the harness, which takes this down in its turn.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {} {SUBCOMMAND}", program.display()))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(mut pipe)) = pipes else {
            bail!("{SUBCOMMAND} of {node} has no pipes");
        };
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let kept = stderr.clone();
        let reader = tokio::spawn(async move {
            let mut buffer = [0; 1024];
            while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
                let Ok(mut tail) = kept.lock() else { return };
                tail.extend_from_slice(&buffer[..n]);
                let surplus = tail.len().saturating_sub(STDERR_TAIL);
                tail.drain(..surplus);
            }
        });
        let stdout = BufReader::new(stdout);
        let mut this = Self {
            node: node.to_owned(),
            reported: false,
            child,
            stdin: Some(stdin),
            stdout,
            stderr,
            reader,
        };
        let ready = this.ask(order).await?;
        Ok((this, ready))
    }

    /// Tells the peers; handshakes are answered afterwards.
    ///
    /// # Errors
    /// As [`WireguardChild::start`].
    pub async fn join(&mut self, order: &Join) -> anyhow::Result<Joined> {
        self.ask(order).await
    }

    /// Changes its peers.
    ///
    /// # Errors
    /// As [`WireguardChild::start`].
    pub async fn order(&mut self, order: Order) -> anyhow::Result<()> {
        self.ask::<Joined>(&order).await.map(drop)
    }

    /// Its process id while it lives.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Is it alive?
    ///
    /// # Errors
    /// How it ended, and the end of its standard error.
    pub async fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(_)) | Err(_) => {
                self.reported = true;
                Err(self.obituary().await)
            }
        }
    }

    /// Ends it by closing its standard input, by force if that does not help.
    ///
    /// # Errors
    /// When it had to be killed, or had ended with an error that [`check`](Self::check) has not
    /// reported.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        if self.stdin.take().is_none() {
            return Ok(());
        }
        let status = match timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.context("waiting for it")?,
            Err(_) => {
                self.child.kill().await.context("killing it")?;
                bail!("{SUBCOMMAND} of {} did not end by itself and was killed", self.node);
            }
        };
        if status.success() || self.reported { Ok(()) } else { Err(self.obituary().await) }
    }

    async fn ask<T: DeserializeOwned>(&mut self, order: &impl Serialize) -> anyhow::Result<T> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        let talk = async {
            let stdin = self.stdin.as_mut().context("it was stopped")?;
            stdin.write_all(&line).await?;
            let mut answer = String::new();
            let read = self.stdout.read_line(&mut answer).await?;
            anyhow::Ok((read > 0).then_some(answer))
        };
        match timeout(PATIENCE, talk).await {
            Ok(Ok(Some(answer))) => serde_json::from_str(&answer).with_context(|| {
                format!("{SUBCOMMAND} of {} answered {:?}", self.node, answer.trim())
            }),
            // Closed pipes: it is ending, and says why on standard error.
            Ok(Ok(None) | Err(_)) => Err(self.obituary().await),
            Err(_) => Err(anyhow!(
                "{SUBCOMMAND} of {} did not answer within {} s",
                self.node,
                PATIENCE.as_secs()
            )),
        }
    }

    /// How it ended. Waits a moment for the end where only the pipes are closed yet.
    async fn obituary(&mut self) -> anyhow::Error {
        let status = match timeout(PATIENCE, self.child.wait()).await {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(e)) => format!("unknown ({e})"),
            Err(_) => "still running with its pipes closed".to_owned(),
        };
        if !self.reader.is_finished() {
            // The reader ends with the pipe; what it has by then is all there is.
            let _ = timeout(Duration::from_secs(1), &mut self.reader).await;
        }
        let tail = self.stderr.lock().map_or_else(|_| Vec::new(), |t| t.clone());
        let said = String::from_utf8_lossy(&tail);
        let said = said.trim();
        let colon = if said.is_empty() { "" } else { ": " };
        anyhow!("the userspace WireGuard of {} ended ({status}){colon}{said}", self.node)
    }
}

//! A command in a container of a pod, through the API server's exec: the only way into a cluster
//! that cnibench uses.
//!
//! The command's input closes with the connection, which is what ends an agent: the kubelet does not
//! kill what an exec started. Half-closing needs `v5.channel.k8s.io` (Kubernetes 1.30).

use super::{Link, Process};
use crate::cluster::kube::access::{answer, explain, is_unreachable};
use anyhow::{anyhow, bail};
use async_trait::async_trait;
use futures::future::BoxFuture;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api, Client,
    api::{AttachParams, AttachedProcess},
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// Bytes of each pipe's buffer; a binary travels through them.
const PIPE: usize = 256 << 10;
/// Bytes of output that [`output`] keeps of one stream.
const MOST: u64 = 16 << 20;

/// Connections to containers that were lost, counted by all of them together.
#[derive(Debug, Clone, Default)]
pub struct Cuts(Arc<AtomicU32>);

impl Cuts {
    fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many since the last question.
    pub fn take(&self) -> u32 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// A container to run commands in.
#[derive(Clone)]
pub struct Container {
    /// The cluster.
    pub client: Client,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container.
    pub container: String,
    /// Where lost connections are counted.
    pub cuts: Cuts,
}

impl std::fmt::Display for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pod {}/{}, container {}", self.namespace, self.pod, self.container)
    }
}

impl Container {
    async fn attach(&self, command: &[&str], input: bool) -> anyhow::Result<AttachedProcess> {
        let how = AttachParams::default()
            .container(&self.container)
            .stdin(input)
            .stdout(true)
            .stderr(true)
            .max_stdin_buf_size(PIPE)
            .max_stdout_buf_size(PIPE);
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let attached = answer(pods.exec(&self.pod, command.iter().copied(), &how)).await;
        attached.map_err(|e| {
            if is_unreachable(&e) {
                self.cuts.count();
            }
            anyhow!("{self}: cannot run {}: {}", command.join(" "), explain(&e))
        })
    }

    /// Starts a command and gives its pipes.
    ///
    /// # Errors
    /// What the API server or the kubelet said.
    pub async fn start(&self, command: &[&str]) -> anyhow::Result<Link> {
        let mut attached = self.attach(command, true).await?;
        let (Some(input), Some(output), Some(errors), Some(status)) =
            (attached.stdin(), attached.stdout(), attached.stderr(), attached.take_status())
        else {
            bail!("{self}: the API server gave no pipes");
        };
        Ok(Link {
            input: Box::new(input),
            output: Box::new(output),
            errors: Box::new(errors),
            process: Box::new(Exec {
                attached,
                status: Mutex::new(Box::pin(status)),
                ended: None,
                cuts: self.cuts.clone(),
            }),
        })
    }

    /// Runs a command to its end, with `input` as its standard input if there is any, and gives what
    /// it wrote to standard output.
    ///
    /// # Errors
    /// That it took longer than `patience`, or ended badly, with what it wrote to standard error.
    pub async fn output(
        &self,
        command: &[&str],
        input: Option<&[u8]>,
        patience: Duration,
    ) -> anyhow::Result<Vec<u8>> {
        let name = || command.join(" ");
        let whole = async {
            let mut attached = self.attach(command, input.is_some()).await?;
            let (Some(output), Some(errors), Some(status)) =
                (attached.stdout(), attached.stderr(), attached.take_status())
            else {
                bail!("{self}: the API server gave no pipes");
            };
            let stdin = attached.stdin();
            let feed = async {
                if let (Some(bytes), Some(mut stdin)) = (input, stdin) {
                    stdin.write_all(bytes).await?;
                    stdin.shutdown().await?;
                }
                std::io::Result::Ok(())
            };
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let (mut output, mut errors) = (output.take(MOST), errors.take(MOST));
            let (fed, read, read_errors) =
                tokio::join!(feed, output.read_to_end(&mut out), errors.read_to_end(&mut err));
            let status = status.await;
            let said = String::from_utf8_lossy(&err).trim().to_owned();
            if status.is_none() {
                self.cuts.count();
            }
            if let Some(cause) = failure(status.as_ref()) {
                let said = if said.is_empty() { cause } else { format!("{cause}: {said}") };
                bail!("{self}: {}: {said}", name());
            }
            fed.and(read.map(drop)).and(read_errors.map(drop)).map_err(|e| anyhow!(e))?;
            Ok(out)
        };
        match timeout(patience, whole).await {
            Ok(result) => result,
            Err(_) => {
                bail!("{self}: {} did not end within {} s", name(), patience.as_secs())
            }
        }
    }
}

/// Why a command did not end well, by the status that the API server sends last; none when it did.
fn failure(status: Option<&Status>) -> Option<String> {
    let Some(status) = status else {
        return Some("the connection was closed before it ended".to_owned());
    };
    if status.status.as_deref() == Some("Success") {
        return None;
    }
    let message = status.message.clone().or_else(|| status.reason.clone());
    Some(message.unwrap_or_else(|| "it failed and nobody said why".to_owned()))
}

struct Exec {
    attached: AttachedProcess,
    /// Never locked: it makes the process one that threads may share.
    status: Mutex<BoxFuture<'static, Option<Status>>>,
    ended: Option<String>,
    cuts: Cuts,
}

#[async_trait]
impl Process for Exec {
    async fn wait(&mut self) -> String {
        if let Some(ended) = &self.ended {
            return ended.clone();
        }
        let status = self.status.get_mut().unwrap_or_else(PoisonError::into_inner).await;
        if status.is_none() {
            self.cuts.count();
        }
        let ended = failure(status.as_ref()).unwrap_or_else(|| "exit status 0".to_owned());
        self.ended.insert(ended).clone()
    }

    async fn kill(&mut self) {
        if self.ended.is_none() {
            // Its input was closed and it did not end, as far as can be seen from here.
            self.cuts.count();
        }
        // Closes the connection, and with it the command's input.
        self.attached.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_command_ended_is_read_from_the_status() {
        let status = |text: &str| serde_json::from_str::<Status>(text).unwrap();
        assert_eq!(failure(Some(&status(r#"{"status":"Success"}"#))), None);
        let failed = status(
            r#"{"status":"Failure","reason":"NonZeroExitCode","message":"command terminated with exit code 2"}"#,
        );
        assert_eq!(failure(Some(&failed)).unwrap(), "command terminated with exit code 2");
        assert!(failure(None).unwrap().contains("closed"));
    }
}

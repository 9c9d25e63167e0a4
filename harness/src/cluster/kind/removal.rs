//! Removing a cluster by name so that nothing of it comes back.
//!
//! A `kind create` that was cut off may have asked Docker for containers that are not there yet when the
//! cluster is deleted, or are being started, which Docker removes only once they run, while kind
//! reports them deleted. So it is Docker that is asked, and deletion is repeated.

use super::{command::Invocation, daemon::Daemon, tools::Tools};
use anyhow::{Context as _, bail};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Deleting a cluster removes its containers and their volumes.
const DELETE: Duration = Duration::from_secs(180);
/// A question to docker.
const ASK: Duration = Duration::from_secs(30);
/// How long a container may take to appear after those who asked for it are gone.
const LATE: Duration = Duration::from_millis(if cfg!(test) { 400 } else { 3000 });
/// Between two deletions.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 700 });
/// How long deletion is repeated before it is given up.
const GIVE_UP: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 120 });

/// How far the cluster had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// kind had ended: all of it is there.
    Wholly,
    /// It may have been cut off.
    Perhaps,
}

/// A cluster to be removed.
#[derive(Debug, Clone)]
pub struct Removal {
    /// kind and docker.
    pub tools: Tools,
    /// The daemon that it is on.
    pub daemon: Daemon,
    /// The cluster.
    pub name: String,
    /// Its kubeconfig, never the user's.
    pub kubeconfig: PathBuf,
}

impl Removal {
    /// Removes it. What is not there is removed already, as far as its own daemon says so.
    ///
    /// # Errors
    /// What kind or docker said.
    pub async fn run(&self, made: Made) -> anyhow::Result<()> {
        let left = || format!("cluster {} is left ({})", self.name, self.daemon.describe());
        let begun = Instant::now();
        while begun.elapsed() < GIVE_UP {
            let delete = self.tools.kind(DELETE).args(["delete", "cluster", "--name", &self.name]);
            let delete = delete.arg("--kubeconfig").arg(&self.kubeconfig);
            self.at(delete).run().await.with_context(left)?;
            if made == Made::Wholly || !self.comes_back().await.with_context(left)? {
                self.forget_kubeconfig();
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("{}: Docker still has containers of it after {} s", left(), GIVE_UP.as_secs());
    }

    /// The same from where there is no runtime, or one that is ending.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_blocking(&self, made: Made) -> anyhow::Result<()> {
        // In a thread of its own: a thread that belongs to a runtime may not wait for another one.
        std::thread::scope(|scope| {
            let work = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(self.run(made))
            });
            work.join().unwrap_or_else(|_| bail!("removing cluster {} panicked", self.name))
        })
    }

    /// Does a container of the cluster appear, now that it is deleted?
    async fn comes_back(&self) -> anyhow::Result<bool> {
        let begun = Instant::now();
        loop {
            let label = format!("label=io.x-k8s.kind.cluster={}", self.name);
            let list = self.tools.docker(ASK).args(["ps", "--all", "--quiet", "--filter"]);
            if !self.at(list.arg(label)).run().await?.trim().is_empty() {
                return Ok(true);
            }
            if begun.elapsed() >= LATE {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    fn at(&self, command: Invocation) -> Invocation {
        self.daemon.asked_by(command)
    }

    fn forget_kubeconfig(&self) {
        // kind leaves an empty one; what is no file (/dev/null) is nobody's.
        if Path::new(&self.kubeconfig).is_file() {
            let _ = std::fs::remove_file(&self.kubeconfig);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::kind::fake::Fakes;

    fn removal(fakes: &Fakes) -> Removal {
        let kubeconfig = fakes.path("kubeconfig");
        Removal {
            tools: fakes.tools(),
            daemon: Daemon::default(),
            name: "c".to_owned(),
            kubeconfig,
        }
    }

    #[tokio::test]
    async fn a_container_that_appears_late_is_deleted_too() {
        let fakes = Fakes::new();
        fakes.program("kind", "rm -f \"$FAKES/container\"");
        // Appears with the second question.
        fakes.program(
            "docker",
            "[ -e \"$FAKES/asked\" ] || { touch \"$FAKES/asked\" \"$FAKES/container\"; exit; }\ncat \"$FAKES/container\" 2>/dev/null && echo id; true",
        );
        std::fs::write(fakes.path("kubeconfig"), "").unwrap();
        removal(&fakes).run(Made::Perhaps).await.unwrap();
        assert_eq!(fakes.calls("kind").len(), 2);
        assert!(!fakes.path("container").exists() && !fakes.path("kubeconfig").exists());
        let asked = &fakes.calls("docker")[0];
        assert_eq!(asked, "ps --all --quiet --filter label=io.x-k8s.kind.cluster=c");
    }

    #[tokio::test]
    async fn a_whole_cluster_is_deleted_once() {
        let fakes = Fakes::new();
        fakes.program("kind", "");
        let removal = removal(&fakes);
        removal.run(Made::Wholly).await.unwrap();
        // Also from a thread that belongs to a runtime.
        removal.run_blocking(Made::Wholly).unwrap();
        assert_eq!(fakes.calls("kind").len(), 2);
        assert!(fakes.calls("docker").is_empty());
    }

    #[tokio::test]
    async fn what_keeps_coming_back_is_an_error() {
        let fakes = Fakes::new();
        fakes.program("kind", "");
        fakes.program("docker", "echo id");
        let text = removal(&fakes).run(Made::Perhaps).await.unwrap_err().to_string();
        assert!(text.contains("cluster c is left (Docker): Docker still has containers"), "{text}");
    }
}

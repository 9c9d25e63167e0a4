//! The agent of `custom` on one node: runs the file's commands in order, looks after the daemon, and has
//! the plugins attach pods.
//!
//! All processes start on one thread of the node, whose namespaces (network and mounts) they share, so
//! that plugins find what the daemon wrote. They end before it does, however the run ends.

use super::{
    Custom,
    daemon::Daemon,
    node::{Place, read_facts, state, write_nodes},
};
use crate::cni::{
    Facts, NodeAgent, NodeCtx, Peer, PodCtx, PodNet,
    conflist::{interrupt::Token, node::NodeThread},
};
use anyhow::{Context as _, anyhow, bail};
use async_trait::async_trait;
use std::{
    fs,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Between two questions whether the daemon is ready.
const PAUSE: Duration = Duration::from_millis(20);

/// What a node's jobs share.
struct Shared {
    custom: Custom,
    place: Place,
    daemon: Mutex<Option<Daemon>>,
}

/// One node's agent.
pub(super) struct Agent {
    shared: Arc<Shared>,
    node: Arc<NodeCtx>,
    facts: Facts,
    /// Plugins, once the daemon is ready.
    plugins: Option<Box<dyn NodeAgent>>,
    thread: Option<Arc<NodeThread>>,
    /// Set-up was begun, so that there is something to tear down.
    begun: bool,
    /// The daemon's end was told: stopping has nothing to add.
    told: bool,
}

impl Agent {
    pub(super) async fn start(custom: Custom, node: Arc<NodeCtx>) -> anyhow::Result<Self> {
        let (name, netns, private) =
            (node.name.clone(), node.netns.path().to_owned(), custom.file.private.clone());
        let thread = move || NodeThread::start(&name, &netns, &private);
        let thread = Arc::new(tokio::task::spawn_blocking(thread).await??);
        let file = &custom.file;
        let place = Place::new(&file.folder, &node, file.chain.mtu, &file.env);
        let shared = Arc::new(Shared { place, daemon: Mutex::new(None), custom });
        let (of, token) = (shared.clone(), thread.token());
        let first = move || {
            fs::create_dir_all(state()).context("a folder for what commands are told")?;
            of.custom.file.facts.as_ref().map_or(Ok(Facts::new()), |steps| {
                read_facts(&of.place.run_all(steps, &token)?).context("facts")
            })
        };
        let facts = thread.run(first).await??;
        Ok(Self {
            shared,
            node,
            facts,
            plugins: None,
            thread: Some(thread),
            begun: false,
            told: false,
        })
    }

    fn thread(&self) -> anyhow::Result<Arc<NodeThread>> {
        self.thread.clone().context("the cni's agent was stopped")
    }

    fn plugins(&mut self) -> anyhow::Result<&mut Box<dyn NodeAgent>> {
        self.plugins.as_mut().context("the node was not set up")
    }

    /// Is the daemon alive?
    fn alive(&mut self) -> anyhow::Result<()> {
        let ended = self.shared.locked().as_mut().and_then(Daemon::ended);
        match ended {
            None => Ok(()),
            Some(how) => {
                self.told = true;
                Err(self.shared.died(&how))
            }
        }
    }

    /// Whatever failed, a dead daemon is why.
    fn blame(&mut self, error: anyhow::Error) -> anyhow::Error {
        match self.alive() {
            Ok(()) => error,
            Err(died) => died.context(format!("{error:#}")),
        }
    }
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, Option<Daemon>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn died(&self, how: &str) -> anyhow::Error {
        let words = self.custom.file.daemon.as_ref().map(|d| d.command.join(" "));
        anyhow!("the daemon `{}` ended: {how}", words.unwrap_or_default())
    }

    /// Set-up, then the daemon until it is ready. On the node's thread.
    fn set_up(&self, token: &Token) -> anyhow::Result<()> {
        if let Some(steps) = &self.custom.file.setup {
            self.place.run_all(steps, token).context("set-up")?;
        }
        let Some(spec) = &self.custom.file.daemon else { return Ok(()) };
        let words = spec.command.join(" ");
        let daemon = Daemon::start(&mut self.place.command(&spec.command))
            .with_context(|| format!("the daemon `{words}` could not be started"))?;
        *self.locked() = Some(daemon);
        let until = Instant::now() + spec.timeout;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let asked = self.place.run(&spec.ready, left.max(PAUSE), token);
            if let Some(how) = self.locked().as_mut().and_then(Daemon::ended) {
                return Err(self.died(&how).context("it was not ready yet"));
            }
            let Err(no) = asked else { return Ok(()) };
            if token.is_over() {
                bail!("given up while the daemon was getting ready");
            }
            if Instant::now() >= until {
                let so_far = self.locked().as_ref().map(Daemon::so_far).unwrap_or_default();
                let limit = spec.timeout.as_secs_f64();
                bail!("the daemon `{words}` was not ready within {limit} s: {no:#}{so_far}");
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The daemon, then tear-down. On the node's thread, and never given up: its times are bounded.
    fn tear_down(&self, told: bool) -> Vec<String> {
        let mut errors = Vec::new();
        let daemon = self.locked().take();
        if let (Some(mut daemon), Some(spec)) = (daemon, &self.custom.file.daemon) {
            match daemon.ended() {
                Some(how) if !told => errors.push(self.died(&how).to_string()),
                Some(_) => {}
                None => {
                    let words = spec.command.join(" ");
                    let stopped = daemon.stop(spec.stop);
                    errors.extend(stopped.err().map(|e| format!("the daemon `{words}` {e}")));
                }
            }
        }
        if let Some(steps) = &self.custom.file.teardown {
            let until = Instant::now() + steps.timeout;
            for words in &steps.commands {
                // One that fails takes the chance from none of the others.
                let left = until.saturating_duration_since(Instant::now());
                let ran = self.place.run(words, left, &Token::default());
                errors.extend(ran.err().map(|e| format!("tear-down: {e:#}")));
            }
        }
        errors
    }
}

#[async_trait]
impl NodeAgent for Agent {
    fn facts(&self) -> Facts {
        self.facts.clone()
    }

    async fn join(&mut self, peers: &[Peer]) -> anyhow::Result<()> {
        let thread = self.thread()?;
        let (node, facts, all) = (self.node.clone(), self.facts.clone(), peers.to_vec());
        let (shared, token) = (self.shared.clone(), thread.token());
        self.begun = true;
        let set_up = move || {
            write_nodes(&node, &facts, &all)?;
            shared.set_up(&token)
        };
        if let Err(error) = thread.run(set_up).await? {
            // Told here, so not once more when it is stopped.
            self.told = true;
            return Err(error);
        }
        let conflist = self.shared.custom.conflist.clone();
        let mut plugins = conflist.start_on(self.node.clone(), thread).await?;
        plugins.join(peers).await?;
        self.plugins = Some(plugins);
        Ok(())
    }

    async fn add_pod(&mut self, pod: &PodCtx) -> anyhow::Result<PodNet> {
        match self.plugins()?.add_pod(pod).await {
            Ok(net) => Ok(net),
            Err(e) => Err(self.blame(e)),
        }
    }

    async fn check(&mut self) -> anyhow::Result<()> {
        self.alive()?;
        match &mut self.plugins {
            Some(plugins) => plugins.check().await,
            None => Ok(()),
        }
    }

    async fn remove_pod(&mut self, pod: &PodCtx) -> anyhow::Result<()> {
        match &mut self.plugins {
            Some(plugins) => plugins.remove_pod(pod).await,
            None => Ok(()),
        }
    }

    fn abandon(&self) {
        self.thread.iter().for_each(|thread| thread.interrupt());
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let mut errors = Vec::new();
        if let Some(mut plugins) = self.plugins.take() {
            errors.extend(plugins.stop().await.err().map(|e| format!("{e:#}")));
        }
        if std::mem::take(&mut self.begun) {
            let (shared, told) = (self.shared.clone(), self.told);
            errors.extend(thread.run(move || shared.tear_down(told)).await?);
        }
        tokio::task::spawn_blocking(|| drop(thread)).await.context("ending the node's thread")?;
        if errors.is_empty() { Ok(()) } else { Err(anyhow!(errors.join("; "))) }
    }
}

impl Drop for Agent {
    /// A cluster that is dropped half built, when the run is stopped, is torn down all the same.
    fn drop(&mut self) {
        self.plugins = None;
        let Some(thread) = self.thread.take().filter(|_| self.begun) else { return };
        thread.interrupt();
        let (shared, told) = (self.shared.clone(), self.told);
        drop(thread.submit(move || {
            for error in shared.tear_down(told) {
                tracing::warn!("{error}");
            }
        }));
        // The last holder of the thread waits for its jobs.
    }
}

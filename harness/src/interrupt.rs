//! SIGINT, SIGTERM and SIGHUP: the first asks the run to end in order, the second to end without a
//! report.

use crate::tell::tell;
use anyhow::{Context, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// How urgently the run was asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nobody asked.
    None,
    /// End the trial, take everything down, keep and report what was finished.
    Orderly(&'static str),
    /// The same without the report.
    Impatient,
}

/// A handle on which any number of tasks can wait for a signal.
#[derive(Debug, Clone)]
pub struct Interrupt(watch::Receiver<Urgency>);

impl Interrupt {
    /// Starts to listen. From here on the signals no longer kill the process.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> Result<Self> {
        Self::with(|name| {
            tell(&format!("{name}: taking everything down (once more: without the report)"))
        })
    }

    /// The same for a process that has nothing to say to a person.
    ///
    /// # Errors
    /// As [`listen`](Self::listen).
    pub fn quietly() -> Result<Self> {
        Self::with(|_| {})
    }

    fn with(say: impl Fn(&str) + Send + 'static) -> Result<Self> {
        let mut sigint = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let mut sigterm = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        // A closed terminal is the usual way in which a run ends early.
        let mut sighup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        let (sender, receiver) = watch::channel(Urgency::None);
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = sigint.recv() => "SIGINT",
                    _ = sigterm.recv() => "SIGTERM",
                    _ = sighup.recv() => "SIGHUP",
                };
                say(name);
                sender.send_modify(|urgency| {
                    *urgency = match urgency {
                        Urgency::None => Urgency::Orderly(name),
                        _ => Urgency::Impatient,
                    }
                });
            }
        });
        Ok(Self(receiver))
    }

    /// What was asked so far.
    pub fn urgency(&self) -> Urgency {
        *self.0.borrow()
    }

    /// Waits until somebody asks the run to end; returns at once if that has happened.
    pub async fn wait(&mut self) {
        // The sender lives as long as the listening task, which never ends.
        let _ = self.0.wait_for(|urgency| *urgency != Urgency::None).await;
    }
}

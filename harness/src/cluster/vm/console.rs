//! The controller's end of a guest's console: a question, and its answer.

use super::{
    machine::{Event, Machine},
    wire::{Answer, Ask, ModuleState, Refusal, VERSION},
};
use anyhow::{anyhow, bail};
use std::time::Duration;
use tokio::{
    sync::{
        Mutex,
        mpsc::{UnboundedReceiver, unbounded_channel},
        watch,
    },
    time::timeout,
};

/// What a guest said first.
#[derive(Debug, Clone)]
pub struct Hello {
    /// `uname -r`.
    pub kernel: String,
    /// Modules that did not load.
    pub unloaded: Vec<ModuleState>,
}

/// A guest that answers. While nothing is asked, it is held where it is.
pub struct Console {
    machine: Machine,
    answers: Mutex<UnboundedReceiver<Box<Answer>>>,
    gone: watch::Receiver<Option<String>>,
    /// Is the guest held between questions? One with a clock that goes on meanwhile is not.
    hold: bool,
}

impl Console {
    /// Waits until the guest has booted.
    ///
    /// # Errors
    /// It did not in this time, or ended, or is of another version.
    pub async fn open(
        machine: Machine,
        mut events: UnboundedReceiver<Event>,
        patience: Duration,
        hold: bool,
    ) -> anyhow::Result<(Self, Hello)> {
        let (answered, answers) = unbounded_channel();
        let (gone_is, gone) = watch::channel(None);
        tokio::spawn(async move {
            let mut why = "the machine's thread ended".to_owned();
            while let Some(event) = events.recv().await {
                match event {
                    Event::Said(answer) => drop(answered.send(answer)),
                    Event::Gone(text) => why = text,
                }
            }
            gone_is.send_replace(Some(why));
        });
        let console = Self { machine, answers: Mutex::new(answers), gone, hold };
        let mut answers = console.answers.lock().await;
        let hello = console.answer(&mut answers, patience).await;
        drop(answers);
        match hello.map_err(|e| e.context("the guest did not boot"))? {
            Answer::Hello { version: VERSION, kernel, modules } => {
                console.machine.hold(hold);
                Ok((console, Hello { kernel, unloaded: modules }))
            }
            Answer::Hello { version, .. } => {
                bail!("the guest speaks version {version}, this controller {VERSION}")
            }
            other => bail!("the guest began with {other:?}"),
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// It came not in this time, or never will; [`Answer::Refused`] is an answer.
    pub async fn ask(&self, ask: Ask, patience: Duration) -> anyhow::Result<Answer> {
        let mut answers = self.answers.lock().await;
        // A question that was given up (a run was interrupted) leaves its answer.
        while answers.try_recv().is_ok() {}
        self.machine.hold(false);
        self.machine.send(ask);
        let begun = std::time::Instant::now();
        let answer = self.answer(&mut answers, patience).await;
        tracing::debug!(after = ?begun.elapsed(), "the guest has answered");
        if self.hold {
            self.machine.hold(true);
        }
        answer
    }

    /// [`ask`](Self::ask) where only [`Answer::Done`] is an answer.
    ///
    /// # Errors
    /// As there, or the refusal.
    pub async fn done(&self, ask: Ask, patience: Duration) -> Result<(), Refusal> {
        match self.ask(ask, patience).await? {
            Answer::Done => Ok(()),
            Answer::Refused { why } => Err(why),
            other => Err(anyhow!("an answer out of turn: {other:?}").into()),
        }
    }

    async fn answer(
        &self,
        answers: &mut UnboundedReceiver<Box<Answer>>,
        patience: Duration,
    ) -> anyhow::Result<Answer> {
        match timeout(patience, answers.recv()).await {
            Ok(Some(answer)) => Ok(*answer),
            Ok(None) => {
                self.off().await;
                Err(anyhow!("{}", self.last_words().unwrap_or_default()))
            }
            Err(_) => {
                // One that does not answer now would answer the next question with this one's answer.
                self.machine.kill();
                self.off().await;
                let waited = patience.as_secs_f64();
                let last = self.last_words().unwrap_or_default();
                bail!("the guest did not answer within {waited:.0} s and was switched off: {last}")
            }
        }
    }

    /// Why the machine is off, once it is.
    pub fn last_words(&self) -> Option<String> {
        self.gone.borrow().clone()
    }

    /// Waits until the machine is off.
    pub async fn off(&self) {
        let mut gone = self.gone.clone();
        let _ = gone.wait_for(Option::is_some).await;
    }

    /// Switches the machine off at once.
    pub fn kill(&self) {
        self.machine.kill();
    }
}

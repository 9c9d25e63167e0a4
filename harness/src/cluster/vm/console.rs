//! The controller's end of a guest's console: questions with answers, and links to its processes.

use super::{
    machine::{Event, Machine},
    wire::{Answer, Ask, CHUNK, CONTROL, Frame, Kind, ModuleState, Refusal, VERSION},
};
use crate::{
    cluster::Place,
    exec::{Link, Process},
};
use anyhow::{anyhow, bail};
use async_trait::async_trait;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    sync::{
        Mutex as AsyncMutex,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
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

/// A guest that answers.
pub struct Console {
    machine: Machine,
    answers: AsyncMutex<UnboundedReceiver<Answer>>,
    channels: Arc<Mutex<HashMap<u32, Sinks>>>,
    next: AtomicU32,
    gone: watch::Receiver<Option<String>>,
}

/// Where what comes from a process goes to.
struct Sinks {
    output: UnboundedSender<Vec<u8>>,
    errors: UnboundedSender<Vec<u8>>,
    ended: watch::Sender<Option<String>>,
}

impl Console {
    /// Waits until the guest has booted.
    ///
    /// # Errors
    /// It did not in this time, or ended, or is of another version.
    pub async fn open(
        machine: Machine,
        events: UnboundedReceiver<Event>,
        patience: Duration,
    ) -> anyhow::Result<(Arc<Self>, Hello)> {
        let (answered, answers) = unbounded_channel();
        let (gone_is, gone) = watch::channel(None);
        let channels = Arc::new(Mutex::new(HashMap::new()));
        tokio::spawn(dispatch(events, answered, Arc::clone(&channels), gone_is));
        let answers = AsyncMutex::new(answers);
        let console = Arc::new(Self { machine, answers, channels, next: AtomicU32::new(1), gone });
        let hello = console.answer(patience).await.map_err(|e| e.context("the guest did not boot"))?;
        let Answer::Hello { version, kernel, modules } = hello else {
            bail!("the guest began with {hello:?}");
        };
        if version != VERSION {
            bail!("the guest speaks version {version}, this controller {VERSION}");
        }
        Ok((console, Hello { kernel, unloaded: modules }))
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// It came not in this time, or never will; [`Answer::Refused`] is an answer.
    pub async fn ask(&self, ask: &Ask, patience: Duration) -> anyhow::Result<Answer> {
        let mut answers = self.answers.lock().await;
        // To an earlier question that was given up.
        while answers.try_recv().is_ok() {}
        self.machine.send(Frame::control(ask)?);
        self.answer_from(&mut answers, patience).await
    }

    /// [`ask`](Self::ask) where only [`Answer::Done`] is an answer.
    ///
    /// # Errors
    /// As there, or the refusal.
    pub async fn done(&self, ask: &Ask, patience: Duration) -> Result<(), Refusal> {
        match self.ask(ask, patience).await? {
            Answer::Done => Ok(()),
            Answer::Refused { why } => Err(why),
            other => Err(anyhow!("an answer out of turn: {other:?}").into()),
        }
    }

    async fn answer(&self, patience: Duration) -> anyhow::Result<Answer> {
        let mut answers = self.answers.lock().await;
        self.answer_from(&mut answers, patience).await
    }

    async fn answer_from(
        &self,
        answers: &mut UnboundedReceiver<Answer>,
        patience: Duration,
    ) -> anyhow::Result<Answer> {
        match timeout(patience, answers.recv()).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(anyhow!("{}", self.last_words().unwrap_or_default())),
            Err(_) => {
                // One that does not answer now would answer the next question with this one's answer.
                self.machine.kill();
                let waited = patience.as_secs_f64();
                let log = self.machine.log();
                let last: Vec<&str> = log.lines().rev().take(6).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                bail!(
                    "the guest did not answer within {waited:.0} s and was switched off; its last messages:\n{}",
                    last.join("\n")
                )
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

    /// Starts an agent in a place of the guest.
    ///
    /// # Errors
    /// Why it could not be started.
    pub async fn enter(self: &Arc<Self>, place: &Place, patience: Duration) -> anyhow::Result<Link> {
        let channel = self.next.fetch_add(1, Ordering::Relaxed);
        let (output_in, output) = pipe();
        let (errors_in, errors) = pipe();
        let (ended, has_ended) = watch::channel(None);
        let sinks = Sinks { output: output_in, errors: errors_in, ended };
        if let Ok(mut channels) = self.channels.lock() {
            channels.insert(channel, sinks);
        }
        let ask = Ask::Enter { place: place.clone(), channel };
        if let Err(why) = self.done(&ask, patience).await {
            if let Ok(mut channels) = self.channels.lock() {
                channels.remove(&channel);
            }
            return Err(anyhow!(crate::cluster::ClusterError::from(why)));
        }
        let (input, mut typed) = duplex(CHUNK);
        let console = Arc::clone(self);
        tokio::spawn(async move {
            let mut buffer = vec![0; CHUNK];
            while let Ok(read @ 1..) = typed.read(&mut buffer).await {
                console.to(channel, Kind::Input, buffer[..read].to_vec());
            }
            console.to(channel, Kind::Input, Vec::new());
        });
        let process = Remote { channel, ended: has_ended, console: Arc::clone(self) };
        Ok(Link {
            input: Box::new(input),
            output: Box::new(output),
            errors: Box::new(errors),
            process: Box::new(process),
        })
    }

    fn to(&self, channel: u32, kind: Kind, payload: Vec<u8>) {
        self.machine.send(Frame { channel, kind, payload });
    }
}

/// A pipe whose near end never waits: the dispatcher must not stand still for one slow reader.
fn pipe() -> (UnboundedSender<Vec<u8>>, DuplexStream) {
    let (sender, mut receiver) = unbounded_channel::<Vec<u8>>();
    let (mut near, far) = duplex(CHUNK);
    tokio::spawn(async move {
        while let Some(bytes) = receiver.recv().await {
            if near.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    (sender, far)
}

async fn dispatch(
    mut events: UnboundedReceiver<Event>,
    answers: UnboundedSender<Answer>,
    channels: Arc<Mutex<HashMap<u32, Sinks>>>,
    gone: watch::Sender<Option<String>>,
) {
    let mut why = "the machine's thread ended".to_owned();
    while let Some(event) = events.recv().await {
        match event {
            Event::Gone(text) => {
                why = text;
                break;
            }
            Event::Frame(frame) if frame.channel == CONTROL => {
                match serde_json::from_slice(&frame.payload) {
                    Ok(answer) => {
                        let _ = answers.send(answer);
                    }
                    Err(e) => {
                        let why = anyhow!("an answer that cannot be read: {e}").into();
                        let _ = answers.send(Answer::Refused { why });
                    }
                }
            }
            Event::Frame(frame) => {
                let Ok(mut channels) = channels.lock() else { continue };
                let Some(sinks) = channels.get(&frame.channel) else { continue };
                match frame.kind {
                    Kind::Output => drop(sinks.output.send(frame.payload)),
                    Kind::Errors => drop(sinks.errors.send(frame.payload)),
                    Kind::Ended => {
                        let how = String::from_utf8_lossy(&frame.payload).into_owned();
                        sinks.ended.send_replace(Some(how));
                        channels.remove(&frame.channel);
                    }
                    Kind::Control | Kind::Input | Kind::Kill => {}
                }
            }
        }
    }
    gone.send_replace(Some(why.clone()));
    if let Ok(mut channels) = channels.lock() {
        for (_, sinks) in channels.drain() {
            sinks.ended.send_replace(Some(why.clone()));
        }
    }
}

/// A process in the guest. Dropped, it is killed.
struct Remote {
    channel: u32,
    ended: watch::Receiver<Option<String>>,
    console: Arc<Console>,
}

#[async_trait]
impl Process for Remote {
    async fn wait(&mut self) -> String {
        match self.ended.wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or_default(),
            Err(_) => "the guest is gone".to_owned(),
        }
    }

    async fn kill(&mut self) {
        self.console.to(self.channel, Kind::Kill, Vec::new());
        self.wait().await;
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if self.ended.borrow().is_none() {
            self.console.to(self.channel, Kind::Kill, Vec::new());
        }
    }
}

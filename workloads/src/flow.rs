//! A flow thread: what it is given, how it waits for the common start, what it brings back.
//!
//! Owns the gate that all threads of an end pass together; what happens between is the workload's.

use crate::{
    along::Along,
    clock, cpus,
    error::{Doing as _, TrialError},
    meter::Timeline,
    protocol::Task,
    reins::{Cause, Reins},
    sys,
};
use cnibench_model::DatagramStats;
use hdrhistogram::Histogram;
use std::{
    collections::BTreeMap,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// What one thread did inside the window.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) transactions: u64,
    /// The thread read no clock (a server of transactions): the supervisor's readings of its
    /// progress at the window's edges count, with these bytes for a request and a response.
    pub(crate) by_progress: Option<(u64, u64)>,
    /// Where the thread counts: when its part of the window began and ended.
    pub(crate) span: Option<(u64, u64)>,
    pub(crate) slices: Vec<u64>,
    pub(crate) histogram: Option<Histogram<u64>>,
    pub(crate) along: Along,
    pub(crate) datagrams: Option<DatagramStats>,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) warnings: Vec<String>,
}

impl Tally {
    /// For a server of transactions, see [`Tally::by_progress`].
    pub(crate) fn by_progress(task: &Task) -> Self {
        Self { by_progress: Some((task.params.size, task.params.response_size)), ..Self::default() }
    }
}

/// Where all threads of an end wait for the go.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: usize,
    timeline: Option<Timeline>,
    abandoned: bool,
}

impl Gate {
    /// Waits until `threads` threads stand ready.
    pub(crate) fn wait_ready(&self, threads: usize, reins: &Reins) -> Result<(), TrialError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.ready < threads {
            if reins.stopped() {
                return Err(reins.stopped_error());
            }
            // A thread that fails before it is ready stops the trial, which does not wake this up.
            (state, _) = self
                .changed
                .wait_timeout(state, Duration::from_millis(20))
                .unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Lets everyone through.
    pub(crate) fn open(&self, timeline: Timeline) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).timeline = Some(timeline);
        self.changed.notify_all();
    }

    /// Sends home whoever still waits.
    pub(crate) fn abandon(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).abandoned = true;
        self.changed.notify_all();
    }

    fn pass(&self) -> Option<Timeline> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.ready += 1;
        self.changed.notify_all();
        loop {
            if state.timeline.is_some() || state.abandoned {
                return state.timeline;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A flow thread's line to its supervisor.
#[derive(Clone, Copy)]
pub(crate) struct Lane<'a> {
    pub(crate) gate: &'a Gate,
    pub(crate) progress: &'a AtomicU64,
    pub(crate) reins: &'a Reins,
}

impl Lane<'_> {
    /// Says that everything is prepared and waits for the go; none when there will be no go.
    pub(crate) fn start(&self) -> Option<Timeline> {
        self.gate.pass()
    }

    /// Reports that something moved: transactions for a server that counts by progress, else
    /// anything that grows. A plain store: this thread is the only writer.
    #[inline]
    pub(crate) fn moved(&self, total: u64) {
        self.progress.store(total, Ordering::Relaxed);
    }

    /// True once the trial is to end at once.
    #[inline]
    pub(crate) fn stopped(&self) -> bool {
        self.reins.stopped()
    }
}

type Job<'a> = Box<dyn FnOnce(Lane<'_>) -> Result<Tally, TrialError> + Send + 'a>;

/// A thread to be: its flow and what it does.
pub(crate) struct Strand<'a> {
    /// Its flow; none for a helper that carries no traffic.
    pub(crate) flow: Option<u32>,
    what: &'static str,
    job: Job<'a>,
}

impl<'a> Strand<'a> {
    /// A thread of flow `flow`; `what` is the first part of its name.
    pub(crate) fn new(
        flow: impl Into<Option<u32>>,
        what: &'static str,
        job: impl FnOnce(Lane<'_>) -> Result<Tally, TrialError> + Send + 'a,
    ) -> Self {
        Self { flow: flow.into(), what, job: Box::new(job) }
    }

    /// The thread's name, at most 15 bytes as the kernel keeps them.
    pub(crate) fn name(&self) -> String {
        self.flow.map_or_else(|| self.what.to_owned(), |flow| format!("{}-{flow}", self.what))
    }

    /// The thread's whole life. A failure stops the trial; what was counted until then is lost.
    pub(crate) fn perform(self, lane: Lane<'_>, cpu: Option<u32>, counted: bool) -> Tally {
        clock::exact_timers();
        let pinned = cpu.map_or(Ok(()), cpus::pin).and_then(|()| match counted {
            // What a fair scheduler decides depends on all that ran before: here a flow runs until it waits.
            true => sys::run_first().doing("setting SCHED_FIFO"),
            false => Ok(()),
        });
        let done = pinned.and_then(|()| (self.job)(lane)).unwrap_or_else(|error| {
            lane.reins.stop(Cause::Failed(error));
            Tally::default()
        });
        lane.reins.finished();
        done
    }
}

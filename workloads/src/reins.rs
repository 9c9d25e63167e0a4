//! How a running trial is stopped: the first cause wins, every socket is shut down, every wait ends.
//!
//! Flow threads block in plain system calls, as real clients and servers do and without a timer
//! armed on every wait, so shutting their sockets down is what wakes them. Called by the agent
//! (cancel, end of input), by the supervisor (silence, deadline) and by a flow thread that fails.

use crate::{clock, error::TrialError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;
use std::{
    net::Shutdown,
    os::fd::AsFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Why a trial was stopped.
#[derive(Debug)]
pub(crate) enum Cause {
    /// Something failed, or the controller cancelled.
    Failed(TrialError),
    /// The time for the last messages is over. For datagrams, whose goodbye may get lost, that is
    /// an end like any other.
    Deadline,
}

/// A place for the socket that a flow uses now, where sockets come and go (tcp_crr).
pub(crate) type Slot = Arc<Mutex<Option<Arc<Socket>>>>;

#[derive(Debug, Default)]
struct Inner {
    cause: Option<Cause>,
    held: Vec<Arc<Socket>>,
    slots: Vec<Slot>,
    finished: usize,
}

/// The reins of one trial at one end.
#[derive(Debug, Default)]
pub struct Reins {
    inner: Mutex<Inner>,
    changed: Condvar,
    stopped: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked is reported where it is joined; the data is whole between statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reins {
    /// Gives the trial up because the controller wants that, or is gone.
    pub fn cancel(&self) {
        self.stop(Cause::Failed(TrialError::Cancelled));
    }

    /// Stops the trial. The first failure is kept.
    pub(crate) fn stop(&self, cause: Cause) {
        let mut inner = lock(&self.inner);
        if !matches!(inner.cause, Some(Cause::Failed(_))) {
            inner.cause = Some(cause);
        }
        self.stopped.store(true, Ordering::SeqCst);
        // Errors mean that the socket is not connected (any more), so nobody waits on it.
        for socket in &inner.held {
            let _ = socket.shutdown(Shutdown::Both);
        }
        for slot in &inner.slots {
            if let Some(socket) = lock(slot).as_ref() {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// True once the trial was stopped, for whatever cause.
    #[inline]
    pub(crate) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// The failure that stopped the trial, if it was one. Taken once, at the end.
    pub(crate) fn take_failure(&self) -> Option<TrialError> {
        match lock(&self.inner).cause.take() {
            Some(Cause::Failed(error)) => Some(error),
            Some(Cause::Deadline) | None => None,
        }
    }

    /// Has the socket shut down when the trial is stopped.
    pub(crate) fn hold(&self, socket: Socket) -> Arc<Socket> {
        let socket = Arc::new(socket);
        let mut inner = lock(&self.inner);
        if self.stopped() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        inner.held.push(Arc::clone(&socket));
        socket
    }

    /// A slot whose socket is shut down when the trial is stopped.
    pub(crate) fn slot(&self) -> Slot {
        let slot = Slot::default();
        lock(&self.inner).slots.push(Arc::clone(&slot));
        slot
    }

    /// Puts a socket into a slot, or clears it.
    pub(crate) fn put(&self, slot: &Slot, socket: Option<&Arc<Socket>>) {
        *lock(slot) = socket.cloned();
        // Either `stop` finds the socket in the slot or this finds the flag: both orders are covered.
        if self.stopped.load(Ordering::SeqCst)
            && let Some(socket) = socket
        {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// A flow thread is done.
    pub(crate) fn finished(&self) {
        lock(&self.inner).finished += 1;
        self.changed.notify_all();
    }

    /// Waits until `threads` are done, the trial is stopped or the time `at` has come, whichever is
    /// first; true when all are done.
    pub(crate) fn wait_finished(&self, threads: usize, at: u64) -> bool {
        let mut inner = lock(&self.inner);
        loop {
            if inner.finished >= threads {
                return true;
            }
            let now = clock::now();
            if self.stopped() || now >= at {
                return false;
            }
            let left = Duration::from_nanos(at - now);
            (inner, _) =
                self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until one of the sockets can be read, `at` has come or the trial is stopped. Returns
    /// the indices of the readable ones; none when time is up.
    pub(crate) fn readable(&self, sockets: &[&Socket], at: u64) -> Result<Vec<usize>, TrialError> {
        let mut fds: Vec<PollFd<'_>> =
            sockets.iter().map(|s| PollFd::from_borrowed_fd(s.as_fd(), PollFlags::IN)).collect();
        loop {
            if self.stopped() {
                return Err(self.stopped_error());
            }
            let now = clock::now();
            // A shut down socket wakes poll, one that was not yet held does not: look now and then.
            let left = at.saturating_sub(now).min(clock::SECOND / 10);
            let timeout = Timespec { tv_sec: 0, tv_nsec: left as _ };
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) if now >= at => return Ok(Vec::new()),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => {
                    let hits = fds.iter().enumerate().filter(|(_, fd)| !fd.revents().is_empty());
                    return Ok(hits.map(|(i, _)| i).collect());
                }
                Err(e) => return Err(TrialError::system("waiting for the peer", e)),
            }
        }
    }

    /// What a step that noticed the stop returns; the cause itself is kept for the end.
    pub(crate) fn stopped_error(&self) -> TrialError {
        self.take_failure().unwrap_or(TrialError::Cancelled)
    }
}

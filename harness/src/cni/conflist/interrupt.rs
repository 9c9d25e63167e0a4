//! How calls of plugins are given up: a job on a node's thread asks, its caller says.
//!
//! Whoever stops waiting for a job (a run that is stopped, a step that took too long) cannot end
//! it by dropping a future: it runs on another thread. So each job carries a [`Token`].

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Gives up everything that was begun before.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicU64>);

impl Interrupt {
    /// Every token that was handed out before is over from now on.
    pub fn now(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// For a job that begins now.
    pub fn token(&self) -> Token {
        Token { interrupt: self.clone(), born: self.0.load(Ordering::Relaxed) }
    }
}

/// Asked by a job whether it is still wanted.
#[derive(Debug, Clone)]
pub struct Token {
    interrupt: Interrupt,
    born: u64,
}

impl Default for Token {
    /// A token that is never over.
    fn default() -> Self {
        Interrupt::default().token()
    }
}

impl Token {
    /// True when nobody waits for the job any more.
    pub fn is_over(&self) -> bool {
        self.interrupt.0.load(Ordering::Relaxed) != self.born
    }
}

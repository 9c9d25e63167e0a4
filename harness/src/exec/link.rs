//! The three pipes of a process and a way to end it, wherever it runs.

use async_trait::async_trait;
use std::fmt;
use tokio::io::{AsyncRead, AsyncWrite};

/// A process that runs somewhere.
#[async_trait]
pub trait Process: Send + Sync {
    /// Waits for its end and says how it ended, in words. Safe to drop and to call again.
    async fn wait(&mut self) -> String;

    /// Ends it at once. One that has ended already is no error.
    async fn kill(&mut self);
}

/// A process with its pipes. Dropped, it ends: its input closes, and a local one is killed.
pub struct Link {
    /// Its standard input.
    pub input: Box<dyn AsyncWrite + Send + Sync + Unpin>,
    /// Its standard output.
    pub output: Box<dyn AsyncRead + Send + Sync + Unpin>,
    /// Its standard error.
    pub errors: Box<dyn AsyncRead + Send + Sync + Unpin>,
    /// The process.
    pub process: Box<dyn Process>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

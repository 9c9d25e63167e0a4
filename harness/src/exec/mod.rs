//! A process in a place, with piped standard input and output that speaks JSON lines.
//!
//! Today the place is a local network namespace; the runner sees only [`Agent`].

mod agent;

pub use agent::{Agent, AgentError};

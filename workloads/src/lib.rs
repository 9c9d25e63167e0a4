//! The traffic generator and the agent that runs it.

pub mod protocol;

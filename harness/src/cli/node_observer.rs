//! `cnibench node-observer`: the node observer that the controller starts on a node.

use super::{
    Outcome,
    agent::{Args, enter},
};
use anyhow::{Context, Result};

pub fn run(args: &Args) -> Result<Outcome> {
    enter(args)?;
    crate::observe::run(std::io::stdin().lock(), std::io::stdout().lock()).context("observer")?;
    Ok(Outcome::Done)
}

//! `cnibench clean`: remove what interrupted runs left.

use super::{Outcome, print};
use crate::cluster::netns;
use anyhow::Result;

#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_: &Args) -> Result<Outcome> {
    if !rustix::process::geteuid().is_root() {
        print("nothing to clean: runs without root leave nothing behind; as root, use sudo\n")?;
        return Ok(Outcome::Done);
    }
    let report = super::runtime()?.block_on(netns::clean_leftovers());
    let mut text = String::new();
    for name in &report.removed {
        text += &format!("removed {name}\n");
    }
    for name in &report.kept {
        text += &format!("kept {}: it is alive\n", name.as_str());
    }
    if report.removed.is_empty() && report.errors.is_empty() {
        text += "nothing to clean\n";
    }
    print(&text)?;
    for error in &report.errors {
        crate::tell::tell(&format!("{error:#}"));
    }
    Ok(if report.errors.is_empty() { Outcome::Done } else { Outcome::Error })
}

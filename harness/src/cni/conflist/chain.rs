//! What is settled of a list of plugins before it is read: where it is, who helps it, how it is run.
//!
//! Made by the profiles `conflist` and `custom`, from parameters and from a file.

use serde::Deserialize;
use std::{path::PathBuf, time::Duration};

/// Who programs the way between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Routes {
    /// The harness: routes through the other nodes' addresses.
    Node,
    /// The plugins, or what runs beside them.
    None,
}

/// A list of plugins and how they are run.
#[derive(Debug, Clone)]
pub struct Chain {
    /// The .conflist.
    pub path: PathBuf,
    /// Directories of the plugins.
    pub dirs: Vec<PathBuf>,
    /// Name of the pods' interface.
    pub ifname: String,
    /// MTU of the pods in bytes.
    pub mtu: u32,
    /// Who programs the way between nodes.
    pub routes: Routes,
    /// Are the plugins asked whether all is still there?
    pub check: bool,
    /// How long a call may take.
    pub deadline: Duration,
}

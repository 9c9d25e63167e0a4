//! What can go wrong with one plugin call, said so that the reader knows which plugin, which
//! command and what to do.

use super::{process::CommandName, result::ResultError};
use std::{
    fmt::{self, Write},
    path::PathBuf,
    time::Duration,
};

/// The error object a plugin prints (CNI specification, section 5, "Error").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// Code; 0-99 are the specification's own.
    pub code: i64,
    /// Short message.
    pub msg: String,
    /// Longer message, may be empty.
    pub details: String,
}

impl Reported {
    /// What the specification calls this code.
    pub fn meaning(&self) -> Option<&'static str> {
        Some(match self.code {
            1 => "incompatible CNI version",
            2 => "unsupported field in the network configuration",
            3 => "container unknown or does not exist",
            4 => "invalid environment variables",
            5 => "I/O failure",
            6 => "failed to decode content",
            7 => "invalid network configuration",
            11 => "try again later",
            50 => "plugin not available",
            51 => "plugin not available, existing containers may have limited connectivity",
            _ => return None,
        })
    }
}

/// How a plugin call failed.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// No such file in any of these directories.
    Missing {
        /// Where it was looked for, in order.
        looked: Vec<PathBuf>,
    },
    /// The file is there but is not executable.
    NotExecutable(PathBuf),
    /// The kernel would not start it.
    Start {
        /// The binary.
        path: PathBuf,
        /// What the kernel said.
        cause: String,
    },
    /// Not finished within the deadline; it and its process group were killed.
    Deadline(Duration),
    /// Given up by the harness before it was done; it and its process group were killed.
    Interrupted,
    /// It printed more than this many bytes; it and its process group were killed.
    TooMuch(usize),
    /// It said what is wrong.
    Reported(Reported),
    /// It failed without saying why in JSON.
    Silent {
        /// "exit status 3" or "killed by signal 9".
        status: String,
        /// The beginning of what it printed instead.
        stdout: String,
    },
    /// It ended well but printed something that is not JSON.
    NotJson {
        /// What the parser said.
        cause: String,
        /// The beginning of what it printed.
        stdout: String,
    },
    /// It printed JSON that is not what the specification asks for.
    Wrong(Box<ResultError>),
}

/// One failed plugin call.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginError {
    /// `type` of the plugin.
    pub plugin: String,
    /// The operation.
    pub command: CommandName,
    /// What happened.
    pub fault: Fault,
    /// The end of its standard error, may be empty.
    pub stderr: String,
}

impl std::error::Error for PluginError {}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CNI plugin {:?}, {}: ", self.plugin, self.command)?;
        match &self.fault {
            Fault::Missing { looked } => {
                let list: Vec<_> = looked.iter().map(|p| p.display().to_string()).collect();
                write!(
                    f,
                    "no such binary in {}; name its directory with bin=DIR (Debian's package containernetworking-plugins installs to /usr/lib/cni)",
                    list.join(", ")
                )?;
            }
            Fault::NotExecutable(path) => write!(
                f,
                "{} is not an executable file; make it one with chmod +x",
                path.display()
            )?,
            Fault::Start { path, cause } => {
                write!(f, "{} could not be started: {cause}", path.display())?;
            }
            Fault::Deadline(limit) => write!(
                f,
                "did not finish within {} s and was killed; give it longer with deadline=SECONDS if it is just slow",
                limit.as_secs_f64()
            )?,
            Fault::Interrupted => f.write_str("was given up before it was done, and killed")?,
            Fault::TooMuch(limit) => {
                write!(f, "printed more than {limit} bytes on standard output and was killed")?;
            }
            Fault::Reported(error) => {
                write!(f, "{}", error.msg)?;
                if !error.details.is_empty() {
                    write!(f, ": {}", error.details)?;
                }
                write!(f, " (code {}", error.code)?;
                if let Some(meaning) = error.meaning() {
                    write!(f, ", {meaning}")?;
                }
                f.write_char(')')?;
            }
            Fault::Silent { status, stdout } => {
                write!(f, "{status} without an error object")?;
                quoted(f, "standard output", stdout)?;
            }
            Fault::NotJson { cause, stdout } => {
                write!(f, "ended well but its output is not JSON ({cause})")?;
                quoted(f, "standard output", stdout)?;
            }
            Fault::Wrong(error) => {
                write!(f, "its output is not what the CNI specification asks for: {error}")?;
            }
        }
        quoted(f, "standard error", &self.stderr)
    }
}

fn quoted(f: &mut fmt::Formatter<'_>, what: &str, text: &str) -> fmt::Result {
    let text = text.trim();
    if text.is_empty() { Ok(()) } else { write!(f, "; {what}: {text:?}") }
}

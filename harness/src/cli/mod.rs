//! The command line: what can be asked, and which exit code an outcome becomes.
//!
//! One file per subcommand. Here are only the arguments that several share.

mod ab;
mod agent;
mod bench_peers;
mod calibrate;
mod clean;
mod compare;
mod doctor;
mod gate;
mod generators;
mod judged;
mod list;
mod measure;
mod node_observer;
mod observe;
mod provider;
mod rbac;
mod reference;
mod report;
mod run;

use crate::{cluster::vm::machine, guest};
use clap::{Parser, Subcommand, ValueEnum};
use cnibench_model::Gate;
use std::process::ExitCode;

/// How a command ended. The numbers are promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 0: done.
    Done,
    /// 1: the gate found a regression.
    Regression,
    /// 2: the request or the machine is at fault, or a cell failed.
    Error,
    /// 3: stopped before the end, data missing (nothing was measured), or inconclusive.
    Incomplete,
}

impl Outcome {
    /// How a command ends that was asked for a verdict.
    fn of(gate: &Gate) -> Self {
        // Not the outcome: a regression that is advice only is none to fail for.
        match gate.exit_code {
            0 => Self::Done,
            1 => Self::Regression,
            _ => Self::Incomplete,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(match outcome {
            Outcome::Done => 0,
            Outcome::Regression => 1,
            Outcome::Error => 2,
            Outcome::Incomplete => 3,
        })
    }
}

/// Compare CNI datapaths on your own kernel, with intervals, proofs and a report.
///
/// A bare `cnibench run` compares every CNI datapath that this machine can carry in under a minute
/// and writes a report. Exit codes: 0 done or pass, 1 regression, 2 usage or environment error or a
/// failed cell, 3 stopped before the end, data missing, or inconclusive.
#[derive(Debug, Parser)]
#[command(name = "cnibench", version, max_term_width = 100)]
pub struct Cli {
    /// Say more: -v what is done, -vv how, -vvv everything (standard error).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a suite: bring clusters up, measure, prove, record, report.
    Run(Box<run::Args>),
    /// Measure two cnis in pairs: both up at once, adjacent trials in random order, everything made
    /// anew between.
    Ab(Box<ab::Args>),
    /// Measure what this host makes of nothing: the floor below which the gate believes no change.
    ///
    /// Runs `ab` of cnis with themselves, many times, and keeps how large a change came out. The gate uses
    /// it as long as the machine, its kernel and its settings are the same.
    Calibrate(Box<calibrate::Args>),
    /// Judge stored records: a candidate against a baseline, or the pairs inside a record of `ab`.
    ///
    /// Exit codes: 0 pass, 1 regression, 2 records that cannot be compared (another machine, kernel,
    /// suite, clock, version; every field is named with both values), 3 inconclusive, or a required case
    /// is missing. Two records were made at different times, and machines drift: of a wall clock only
    /// changes of 15 % or more count between them (stored_min_effect of a policy), unless a smaller size
    /// is set there. Pairs see smaller ones: `cnibench ab`.
    Gate(Box<gate::Args>),
    /// Show what changed from one record to others, and in what else they differ. Judges nothing.
    Compare(compare::Args),
    /// Measure the generator side by side with iperf3, netperf, sockperf and neper, those that are
    /// installed, in the same namespaces on the same CPUs, and print the ratios as a Markdown table.
    BenchPeers(bench_peers::Args),
    /// Render a report from one or more records.
    Report(report::Args),
    /// Say what this host can do, what is missing, and how to get it.
    Doctor(doctor::Args),
    /// List suites, cnis, workloads, providers, placements or metrics.
    List(list::Args),
    /// Remove what interrupted runs left; runs that are alive are left alone.
    Clean(clean::Args),
    /// Show where packets of a running cluster, or of any two namespaces, spend their time, live.
    ///
    /// Attaches the latency probes and prints, again and again, how long packets between two ends took
    /// in each stage of their way, in microseconds: of a cluster of namespaces that is running
    /// (`cnibench run`), or of any two ends that are named. Changes nothing; what is attached ends with
    /// the command (Ctrl-C). Needs root outside of a user namespace and a kernel with BTF.
    Observe(observe::Args),
    /// Print the rights that a run needs in a cluster, as a manifest to apply.
    Rbac(rbac::Args),
    /// Print the JSON schema of a file: record, journal, gate, calibration or comparison.
    Schema(reference::SchemaArgs),
    /// Print a completion script for a shell.
    Completions(reference::CompletionsArgs),
    /// Print the manual page.
    Man(reference::ManArgs),
    /// Does nothing for a while: what a workload pod runs until agents are started in it.
    #[command(hide = true)]
    Pause {
        /// Seconds.
        seconds: u64,
    },
    /// The traffic agent; started by the controller inside a pod or node.
    #[command(hide = true)]
    Agent(agent::Args),
    /// The node observer; started by the controller on a node.
    #[command(hide = true)]
    NodeObserver(agent::Args),
    /// The controller in a guest; started by its first process.
    #[command(hide = true)]
    GuestController {
        /// Modules that did not load, as JSON.
        unloaded: String,
    },
    /// Becomes a machine that ends with the controller.
    #[command(hide = true)]
    VmMachine {
        /// Arguments of QEMU.
        #[arg(last = true)]
        arguments: Vec<std::ffi::OsString>,
    },
    /// A userspace WireGuard node; started by the controller inside a node.
    #[command(hide = true)]
    WireguardNode {
        /// Whose it is, for those who look at processes.
        #[arg(long)]
        node: Option<String>,
    },
}

/// How a table is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Runs the command.
pub fn dispatch(cli: Cli) -> ExitCode {
    log_to_stderr(cli.verbose);
    let outcome = match cli.command {
        Command::Run(args) => run::run(*args),
        Command::Ab(args) => ab::run(*args),
        Command::Calibrate(args) => calibrate::run(*args),
        Command::Gate(args) => gate::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::BenchPeers(args) => bench_peers::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::List(args) => list::run(&args),
        Command::Clean(args) => clean::run(&args),
        Command::Rbac(args) => rbac::run(&args),
        Command::Schema(args) => reference::schema(&args),
        Command::Completions(args) => reference::completions(&args),
        Command::Man(args) => reference::man(&args),
        Command::Agent(args) => agent::run(&args),
        Command::GuestController { unloaded } => {
            guest::controller(&unloaded).map(|()| Outcome::Done)
        }
        Command::VmMachine { arguments } => {
            machine::become_machine(&arguments).map(|()| Outcome::Done)
        }
        Command::Pause { seconds } => agent::pause(seconds),
        Command::Observe(args) => observe::run(&args),
        Command::NodeObserver(args) => node_observer::run(&args),
        Command::WireguardNode { node } => {
            tracing::debug!(node, "userspace WireGuard");
            agent::wireguard_node()
        }
    };
    match outcome {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            crate::tell::tell(&format!("{error:#}"));
            Outcome::Error.into()
        }
    }
}

fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        // What its client says of a server that is away, the run says in its own words.
        0 => "warn,kube_client=off",
        1 => "cnibench=info",
        2 => "cnibench=debug",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("CNIBENCH_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// The runtime of the controller: two threads are plenty, and none may crowd what is measured.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// Without root, moves this process into a user namespace of its own, where it may build networks.
/// Must be called before any thread is started.
fn become_able() -> anyhow::Result<bool> {
    use crate::cluster::netns::user_namespace::{enter_user_namespace, is_privileged};
    use anyhow::Context;
    if is_privileged() {
        return Ok(false);
    }
    enter_user_namespace()
        .context("not root, and no user namespace to be had: run it with sudo")?;
    Ok(true)
}

/// Prints to standard output; a reader that went away (`cnibench list cnis | head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints a value as JSON.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Columns of the terminal, if standard output is one.
fn terminal_width() -> Option<usize> {
    rustix::termios::tcgetwinsize(std::io::stdout())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|w| *w > 0)
}

/// Where a person should look first: the page, or the folder where no page was asked for.
fn first_page(rendered: &cnibench_reports::Rendered, out: &std::path::Path) -> std::path::PathBuf {
    rendered.page.clone().unwrap_or_else(|| out.to_owned())
}

//! The command: parse, dispatch, map the outcome to an exit code.

use clap::Parser;
use cnibench::cli::{Cli, dispatch};
use std::process::ExitCode;

fn main() -> ExitCode {
    dispatch(Cli::parse())
}

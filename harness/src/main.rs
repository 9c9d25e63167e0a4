//! The command: parse, dispatch, map the outcome to an exit code.

use clap::Parser;
use cnibench::{
    cli::{Cli, dispatch},
    guest,
};
use std::process::ExitCode;

fn main() -> ExitCode {
    // A kernel hands its first process whatever of its command line it does not understand itself, so
    // that is not ours to parse.
    if guest::is_first_process() {
        return guest::first_process();
    }
    dispatch(Cli::parse())
}

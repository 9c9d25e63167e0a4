//! `cnibench schema`, `completions` and `man`: what other programs need to know of this one.

use super::{Cli, Outcome, print, print_json};
use anyhow::Result;
use clap::{CommandFactory, ValueEnum};
use cnibench_model::{JournalLine, Record};

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Schema {
    /// DIR/record.json.
    Record,
    /// One line of DIR/journal.jsonl.
    Journal,
}

#[derive(Debug, clap::Args)]
pub struct SchemaArgs {
    /// Of which file.
    #[arg(default_value = "record")]
    of: Schema,
}

#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// For which shell.
    shell: clap_complete::Shell,
}

#[derive(Debug, clap::Args)]
pub struct ManArgs {}

pub fn schema(args: &SchemaArgs) -> Result<Outcome> {
    print_json(&match args.of {
        Schema::Record => schemars::schema_for!(Record),
        Schema::Journal => schemars::schema_for!(JournalLine),
    })?;
    Ok(Outcome::Done)
}

pub fn completions(args: &CompletionsArgs) -> Result<Outcome> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cnibench", &mut text);
    print(&String::from_utf8_lossy(&text))?;
    Ok(Outcome::Done)
}

pub fn man(_: &ManArgs) -> Result<Outcome> {
    let mut text = Vec::new();
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(&mut text)?;
    for sub in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        let name = format!("cnibench-{}", sub.get_name());
        let page = clap_mangen::Man::new(sub.clone()).title(name);
        page.render_description_section(&mut text)?;
        page.render_synopsis_section(&mut text)?;
        page.render_options_section(&mut text)?;
    }
    print(&String::from_utf8_lossy(&text))?;
    Ok(Outcome::Done)
}

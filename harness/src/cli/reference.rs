//! `cnibench schema`, `completions` and `man`: what other programs need to know of this one.

use super::{Cli, Outcome, print, print_json};
use anyhow::Result;
use clap::{CommandFactory, ValueEnum};
use cnibench_model::{Calibration, Comparison, Gate, JournalLine, Record};

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Schema {
    /// DIR/record.json.
    Record,
    /// One line of DIR/journal.jsonl.
    Journal,
    /// DIR/gate.json, and what `gate --format json` prints.
    Gate,
    /// What `calibrate` writes.
    Calibration,
    /// What `compare --format json` prints.
    Comparison,
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
        Schema::Gate => schemars::schema_for!(Gate),
        Schema::Calibration => schemars::schema_for!(Calibration),
        Schema::Comparison => schemars::schema_for!(Comparison),
    })?;
    Ok(Outcome::Done)
}

/// The command line without what only the controller starts: hiding keeps subcommands out of
/// `--help`, not out of what is generated from it.
fn visible() -> clap::Command {
    let all = Cli::command();
    let mut shown = clap::Command::new("cnibench").version(env!("CARGO_PKG_VERSION"));
    shown = shown.args(all.get_arguments().cloned());
    shown = shown.subcommands(all.get_subcommands().filter(|c| !c.is_hide_set()).cloned());
    if let Some(about) = all.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(about) = all.get_long_about() {
        shown = shown.long_about(about.clone());
    }
    shown.subcommand_required(true)
}

pub fn completions(args: &CompletionsArgs) -> Result<Outcome> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut visible(), "cnibench", &mut text);
    print(&String::from_utf8_lossy(&text))?;
    Ok(Outcome::Done)
}

pub fn man(_: &ManArgs) -> Result<Outcome> {
    let mut text = Vec::new();
    let mut command = visible();
    command.build();
    let page = clap_mangen::Man::new(command.clone());
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    // One page: what clap_mangen makes a page of its own becomes a section.
    for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
        let mut section = Vec::new();
        let page = clap_mangen::Man::new(sub.clone());
        page.render_synopsis_section(&mut section)?;
        page.render_description_section(&mut section)?;
        page.render_options_section(&mut section)?;
        let section = String::from_utf8_lossy(&section).replace(".SH ", ".SS ");
        text.extend(format!(".SH \"{}\"\n{section}", sub.get_name().to_uppercase()).into_bytes());
    }
    page.render_version_section(&mut text)?;
    print(&String::from_utf8_lossy(&text))?;
    Ok(Outcome::Done)
}

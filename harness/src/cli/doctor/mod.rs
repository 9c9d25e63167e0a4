//! `cnibench doctor`: what this host can do for each provider, what is missing, and how to get it.

mod guests;
mod kubernetes;
mod namespaces;

use super::{Outcome, TableFormat, print, print_json};
use crate::cluster::kind::read_sources;
use anyhow::Result;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// For people or for programs.
    #[arg(long, value_enum, default_value = "table")]
    format: TableFormat,
    /// Where the tools of the provider kind come from (see `run --sources`).
    #[arg(long, value_name = "FILE")]
    sources: Option<PathBuf>,
    /// The kubeconfig to look at; by default KUBECONFIG, then ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context to look at; by default its current one.
    #[arg(long)]
    context: Option<String>,
}

#[derive(Debug, Serialize)]
struct Check {
    area: &'static str,
    name: String,
    ok: bool,
    detail: String,
}

impl Check {
    fn new(area: &'static str, name: &str, result: Result<String, String>) -> Self {
        let ok = result.is_ok();
        let detail = result.unwrap_or_else(|missing| missing);
        Self { area, name: name.to_owned(), ok, detail }
    }
}

pub fn run(args: &Args) -> Result<Outcome> {
    let sources = read_sources(args.sources.as_deref())?;
    // First, while this process stands in the host's network: without root the next step moves it into
    // one of its own, for which its threads must have ended.
    let clusters = super::runtime()?.block_on(async {
        let mut checks = guests::checks().await;
        checks.extend(kubernetes::kind(&sources).await);
        checks.extend(kubernetes::kubeconfig(args).await);
        checks
    });
    let privilege = super::become_able().map_err(|e| format!("{e:#}"));
    let mut checks = super::runtime()?.block_on(namespaces::checks(privilege))?;
    checks.extend(clusters);
    match args.format {
        TableFormat::Json => print_json(&checks)?,
        TableFormat::Table => {
            let mut text = String::new();
            let mut area = "";
            for check in &checks {
                if check.area != area {
                    area = check.area;
                    text += &format!("{}{area}\n", if text.is_empty() { "" } else { "\n" });
                }
                let mark = if check.ok { "ok     " } else { "missing" };
                text += &format!("  {mark}  {:<28} {}\n", check.name, check.detail);
            }
            print(&text)?;
        }
    }
    // What bare `cnibench run` needs: one cni that can be carried.
    let able = checks.iter().any(|c| c.area == namespaces::CNIS && c.ok);
    Ok(if able { Outcome::Done } else { Outcome::Error })
}

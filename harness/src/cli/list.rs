//! `cnibench list`: what can be named on the command line.

use super::{
    Outcome, TableFormat, print, print_json,
    provider::{Asked, Chosen, needs_namespaces},
};
use crate::cluster::{
    kind::KindOptions,
    kube,
    netns::{Owner, untried},
    vm::VmOptions,
};
use anyhow::{Result, anyhow};
use clap::ValueEnum;
use cnibench_model::{Metric, Placement, ProviderKind, Workload};
use cnibench_scenarios::catalog;
use serde::Serialize;
use std::{path::PathBuf, sync::Arc};
use tabled::{
    Table, Tabled,
    settings::{Style, Width, peaker::PriorityMax},
};

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    Suites,
    Cnis,
    Workloads,
    Providers,
    Placements,
    Metrics,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to list.
    what: What,
    /// Whose cnis.
    #[arg(long, default_value = "netns")]
    provider: ProviderKind,
    /// For people or for programs.
    #[arg(long, value_enum, default_value = "table")]
    format: TableFormat,
    /// Where the tools of the provider kind come from (see `run --sources`).
    #[arg(long, value_name = "FILE")]
    sources: Option<PathBuf>,
    /// The kubeconfig of the provider kubeconfig; by default KUBECONFIG, then ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; by default its current one.
    #[arg(long)]
    context: Option<String>,
}

#[derive(Serialize, Tabled)]
struct Row {
    name: String,
    description: String,
}

#[derive(Serialize, Tabled)]
struct CniRow {
    cni: String,
    #[tabled(rename = "what it is")]
    description: String,
    #[tabled(display = "lines")]
    parameters: Vec<String>,
    #[tabled(rename = "on this host", display = "missing")]
    missing: Option<String>,
}

#[derive(Serialize, Tabled)]
struct MetricRow {
    metric: &'static str,
    unit: &'static str,
    better: &'static str,
    description: &'static str,
}

fn lines(parameters: &[String]) -> String {
    parameters.join("\n")
}

fn missing(missing: &Option<String>) -> String {
    missing.clone().unwrap_or_else(|| "yes".to_owned())
}

fn row(name: impl ToString, description: impl ToString) -> Row {
    Row { name: name.to_string(), description: description.to_string() }
}

pub fn run(args: &Args) -> Result<Outcome> {
    let rows: Vec<Row> = match args.what {
        What::Suites => {
            let suites = catalog::all().map_err(|e| anyhow!(e))?;
            suites.iter().map(|s| row(&s.name, &s.description)).collect()
        }
        What::Cnis => return cnis(args),
        What::Workloads => Workload::ALL.iter().map(|w| row(w, w.describe())).collect(),
        What::Providers => ProviderKind::ALL.iter().map(|p| row(p, provider_line(*p))).collect(),
        What::Placements => Placement::ALL.iter().map(|p| row(p, p.describe())).collect(),
        What::Metrics => return metrics(args.format),
    };
    show(args.format, &rows)
}

fn provider_line(provider: ProviderKind) -> String {
    match provider {
        ProviderKind::Netns | ProviderKind::Vm | ProviderKind::Kind | ProviderKind::Kubeconfig => {
            provider.describe().to_owned()
        }
        _ => format!("{} Not in this release.", provider.describe()),
    }
}

fn metrics(format: TableFormat) -> Result<Outcome> {
    let rows: Vec<MetricRow> = Metric::ALL
        .iter()
        .map(|m| MetricRow {
            metric: m.name(),
            unit: m.unit().symbol(),
            better: match m.direction() {
                cnibench_model::Direction::HigherIsBetter => "higher",
                cnibench_model::Direction::LowerIsBetter => "lower",
            },
            description: m.describe(),
        })
        .collect();
    show(format, &rows)
}

fn cnis(args: &Args) -> Result<Outcome> {
    let able = if needs_namespaces(args.provider) { super::become_able() } else { Ok(false) };
    let rows = super::runtime()?.block_on(async {
        let offers = match able {
            Ok(_) => {
                let asked = Asked {
                    kind: args.provider,
                    kube: &kube::Options {
                        kubeconfig: args.kubeconfig.clone(),
                        context: args.context.clone(),
                        ..kube::Options::default()
                    },
                    kind_options: &KindOptions {
                        sources: args.sources.clone(),
                        ..KindOptions::default()
                    },
                    vm_options: &VmOptions::default(),
                    demand: kube::Demand::default(),
                };
                let chosen = Chosen::new(&asked, Arc::new(Owner::acquire()?)).await?;
                chosen.provider().cnis().await
            }
            Err(e) => untried(&format!("not tried: {e:#}")),
        };
        anyhow::Ok(
            offers
                .into_iter()
                .map(|o| CniRow {
                    cni: o.name,
                    description: o.description,
                    parameters: o
                        .params
                        .iter()
                        .map(|(key, meaning)| format!("{key}: {meaning}"))
                        .collect(),
                    missing: o.missing,
                })
                .collect::<Vec<_>>(),
        )
    })?;
    show(args.format, &rows)
}

fn show<R: Serialize + Tabled>(format: TableFormat, rows: &[R]) -> Result<Outcome> {
    match format {
        TableFormat::Json => print_json(&rows)?,
        TableFormat::Table => {
            let mut table = Table::new(rows);
            table.with(Style::blank());
            if let Some(width) = super::terminal_width() {
                table.with(Width::wrap(width).priority(PriorityMax::default()).keep_words(true));
            }
            print(&format!("{table}\n"))?;
        }
    }
    Ok(Outcome::Done)
}

//! `cnibench doctor`: what this host can do, what is missing, and how to get it.

use super::{Outcome, TableFormat, print, print_json};
use crate::cluster::{
    Provider,
    netns::{self, NetnsProvider, Owner},
};
use anyhow::Result;
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// For people or for programs.
    #[arg(long, value_enum, default_value = "table")]
    format: TableFormat,
}

#[derive(Debug, Serialize)]
struct Check {
    area: &'static str,
    name: String,
    ok: bool,
    detail: String,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let privilege = super::become_able().map_err(|e| format!("{e:#}"));
    let checks = super::runtime()?.block_on(checks(privilege))?;
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
    let able = checks.iter().any(|c| c.area == CNIS && c.ok);
    Ok(if able { Outcome::Done } else { Outcome::Error })
}

const CNIS: &str = "cnis on netns";

/// `privilege`: whether it took a user namespace, or why there is none.
async fn checks(privilege: Result<bool, String>) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let mut add = |area, name: &str, ok, detail: String| {
        checks.push(Check { area, name: name.to_owned(), ok, detail });
    };
    let environment = crate::environment::capture();
    add("machine", "kernel", true, format!("{} {}", environment.os, environment.kernel_release));
    add(
        "machine",
        "cpus",
        environment.cpus >= 2,
        match environment.cpus {
            1 => "1: client and server share it, so streams measure the CPU more than the path"
                .to_owned(),
            n => format!("{n}, {}", environment.cpu_model),
        },
    );
    add(
        "machine",
        "privilege",
        privilege == Ok(false),
        match &privilege {
            Ok(false) => "root".to_owned(),
            Ok(true) => format!("user namespace: {}", netns::user_namespace::LIMITS.join("; ")),
            Err(reason) => reason.clone(),
        },
    );
    let offers = if privilege.is_ok() {
        for capability in netns::capabilities::capabilities().await {
            add(
                "kernel features (each tried in a scratch namespace)",
                capability.name,
                capability.ok,
                capability.detail,
            );
        }
        NetnsProvider::new(Owner::acquire()?)?.cnis().await
    } else {
        netns::untried("not tried: see privilege")
    };
    for offer in offers {
        let ok = offer.missing.is_none();
        add(CNIS, &offer.name, ok, offer.missing.unwrap_or(offer.description));
    }
    for provider in cnibench_model::ProviderKind::ALL {
        let ours = *provider == cnibench_model::ProviderKind::Netns;
        let detail =
            if ours { provider.describe().to_owned() } else { "not in this release".to_owned() };
        add("providers", provider.name(), ours, detail);
    }
    Ok(checks)
}

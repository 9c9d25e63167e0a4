//! `cnibench run`: a suite from the command line to the report.

use super::{
    Outcome, TableFormat,
    measure::{Common, Design, Ends, Measure, Measured, measure, on_runtime},
    print, print_json,
};
use crate::{
    cluster::{kind, kube},
    interrupt::{Interrupt, Urgency},
    plan::TrialOrder,
    store,
    tell::tell,
};
use anyhow::{Context, Result, anyhow};
use cnibench_model::{CellStatus, CniSpec, Gate};
use cnibench_reports::{
    Format,
    gate::{headline, table},
};
use cnibench_scenarios::suite;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Cnis, separated by commas; one with parameters is written name:key=value, and several of
    /// those need several --cni. By default every cni that this host can carry.
    #[arg(long = "cni", value_name = "CNI[,CNI...]")]
    cnis: Vec<String>,
    /// Trials of every case.
    #[arg(long, value_parser = trials)]
    trials: Option<u32>,
    /// Interleave the cnis' trials in random order, or run one cni after the other.
    #[arg(long, value_enum, default_value = "interleaved")]
    order: TrialOrder,
    #[command(flatten)]
    matrix: kube::MatrixOptions,
    #[command(flatten)]
    rebuild: kind::RebuildOptions,
}

/// A cni as people name it. The second of two that are the same is `ab`'s to make.
pub(super) fn first_of_its_kind(text: &str) -> Result<CniSpec, String> {
    let spec: CniSpec = text.parse().map_err(|e: cnibench_model::SpecError| e.to_string())?;
    match spec.second {
        false => Ok(spec),
        true => Err(format!(
            "cni {text:?}: #2 is how reports name the second of two that are the same; to compare {0} with itself give `cnibench ab --baseline {0} --candidate {0}`",
            spec.first()
        )),
    }
}

fn trials(text: &str) -> Result<u32, String> {
    suite::checked_trials(text.parse().map_err(|_| format!("{text:?} is not a number of trials"))?)
}

pub fn run(args: Args) -> Result<Outcome> {
    let Args { mut common, cnis, trials, order, matrix, rebuild } = args;
    let texts = cnis.iter().flat_map(|text| split_cnis(text));
    let cnis = texts
        .map(|text| first_of_its_kind(&text))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| anyhow!(e))?;
    let what = &mut common.what;
    (what.kube.pairs, what.kube.pairs_at_once) = (matrix.pairs, matrix.pairs_at_once);
    what.kind.rebuilds = rebuild.rebuilds;
    let asked = Measure {
        what: common.what.clone(),
        suite: "quick",
        cnis,
        trials,
        design: Design::Rounds(order),
        probes: common.probes,
        seed: common.seed,
        out: common.out.clone(),
        ends: Ends::default(),
    };
    on_runtime(&common.what, async |interrupt| match measure(asked, &interrupt).await? {
        Some(measured) => finish(&common, measured, &interrupt, None),
        None => Ok(Outcome::Done),
    })
}

/// Splits `a,b:k=v,l=w,c` into `a`, `b:k=v,l=w`, `c`: a comma begins a new cni unless what follows
/// is `key=value` of the one before.
pub(super) fn split_cnis(text: &str) -> Vec<String> {
    let mut cnis: Vec<String> = Vec::new();
    for part in text.split(',') {
        match cnis.last_mut() {
            Some(last) if last.contains(':') && is_parameter(part) => {
                *last = format!("{last},{part}")
            }
            _ => cnis.push(part.to_owned()),
        }
    }
    cnis
}

fn is_parameter(part: &str) -> bool {
    part.split_once('=').is_some_and(|(key, _)| !key.contains(':'))
}

/// Report, table, exit code. `gate` is what was said of two arms in pairs: it decides how the command
/// ends where all else is well, and is the last that a person reads.
pub(super) fn finish(
    args: &Common,
    measured: Measured,
    interrupt: &Interrupt,
    gate: Option<Gate>,
) -> Result<Outcome> {
    let Measured { folder, record } = measured;
    let what = &args.what;
    let failed = record
        .cells
        .iter()
        .filter(|c| matches!(c.status, CellStatus::Failed { .. } | CellStatus::Invalid { .. }))
        .count();
    let paired = cnibench_reports::paired(&record);
    let nothing = paired.is_some_and(|pairs| pairs.measured.most == 0);
    if interrupt.urgency() != Urgency::Impatient {
        if !what.quiet && what.format == TableFormat::Table {
            print(&cnibench_reports::terminal_summary(&record, super::terminal_width()))?;
        }
        let out = folder.join(store::REPORT);
        let records = [record];
        let rendered =
            cnibench_reports::render_judged(&records, gate.as_slice(), &out, Format::ALL)
                .with_context(|| {
                    format!(
                        "the record is whole, its report is not: `cnibench report {}`",
                        folder.display()
                    )
                })?;
        match what.format {
            TableFormat::Json => {
                let mut told = serde_json::json!({
                    "record": folder.join(store::RECORD),
                    "report": super::first_page(&rendered, &out),
                    "matrix": cnibench_reports::matrix::matrix(&records),
                });
                if let Some(pairs) = records.first().and_then(cnibench_reports::paired) {
                    told["pairs"] = serde_json::to_value(pairs)?;
                }
                if let Some(gate) = &gate {
                    told["gate"] = serde_json::to_value(gate)?;
                }
                print_json(&told)?;
            }
            TableFormat::Table => {
                print(&format!("report: {}\n", super::first_page(&rendered, &out).display()))?;
                match &gate {
                    Some(gate) if what.quiet => print(&format!("{}\n", headline(gate)))?,
                    Some(gate) => print(&format!("\n{}", table(gate, super::terminal_width())))?,
                    None => {}
                }
            }
        }
    }
    let concluded = gate.as_ref().map_or(Outcome::Done, Outcome::of);
    Ok(match (interrupt.urgency(), failed) {
        (Urgency::Orderly(signal), _) => {
            tell(&format!("stopped by {signal}; finished trials are kept in {}", folder.display()));
            Outcome::Incomplete
        }
        (Urgency::Impatient, _) => {
            tell(&format!("stopped; `cnibench report {}` makes the report", folder.display()));
            Outcome::Incomplete
        }
        (Urgency::None, 0) if nothing => {
            tell("no pair was measured: the reasons are in the report");
            Outcome::Incomplete
        }
        (Urgency::None, 0) => concluded,
        (Urgency::None, n) => {
            tell(&format!("{n} cells failed (see the report)"));
            match (args.allow_failed, nothing, concluded) {
                // What was found is not made better by what failed beside it.
                (_, _, Outcome::Regression) => Outcome::Regression,
                (false, _, _) => Outcome::Error,
                (true, true, _) => Outcome::Incomplete,
                (true, false, concluded) => concluded,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{first_of_its_kind, split_cnis};

    #[test]
    fn the_second_of_two_is_not_named_by_hand() {
        assert_eq!(first_of_its_kind("host").unwrap().to_string(), "host");
        let refused = first_of_its_kind("host#2").unwrap_err();
        assert!(refused.contains("--baseline host --candidate host"), "{refused}");
    }

    #[test]
    fn a_comma_separates_cnis_or_parameters() {
        assert_eq!(split_cnis("host,flannel-vxlan"), ["host", "flannel-vxlan"]);
        assert_eq!(
            split_cnis("a:mtu=1400,vni=2,b,conflist:path=/x,bin=/y"),
            ["a:mtu=1400,vni=2", "b", "conflist:path=/x,bin=/y"]
        );
    }
}

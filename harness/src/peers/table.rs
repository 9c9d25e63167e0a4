//! The result of a bench as a Markdown table, with what a reader must know of it.

use super::{Asked, Contender, Found};
use crate::tell::counted;
use cnibench_model::{Environment, Generator, Unit};
use cnibench_reports::stats::Change;
use std::{collections::BTreeMap, fmt::Write};

/// The table: a line for each point, a column for each generator.
pub fn markdown(found: &[Found], asked: &Asked, environment: &Environment) -> String {
    let who: Vec<Contender> = asked.peers.iter().map(|g| Contender::Peer(*g)).collect();
    let mut out = String::from("| | ours |");
    for contender in &who {
        let _ = write!(out, " to {} |", name(*contender));
    }
    out += " with to without histogram |\n|---|--:|";
    out += &"--:|".repeat(who.len() + 1);
    out.push('\n');
    for point in found {
        let own = point.median(Contender::Own).map_or("-".to_owned(), |v| amount(v, point));
        let _ = write!(out, "| {} | {own} |", point.point.name);
        for contender in who.iter().chain([&Contender::Bare]) {
            let cell = point.ratio(*contender).map_or("-".to_owned(), |c| ratio(&c));
            let _ = write!(out, " {cell} |");
        }
        out.push('\n');
    }
    let e = environment;
    let versions: BTreeMap<Generator, &String> =
        found.iter().flat_map(|f| f.versions.iter().map(|(g, v)| (*g, v))).collect();
    let versions: Vec<String> = versions.iter().map(|(g, v)| format!("{g} {v}")).collect();
    let _ = write!(
        out,
        "\nOurs: median. Ratio: ours divided by theirs in {} rounds of trials of {} s next to each other in \
         random order (seed {}), Hodges-Lehmann estimate and 95 % interval; above 1 ours does more. Two \
         namespaces joined by a bridge on one machine, same CPUs, cubic, TCP_NODELAY, buffers left to the \
         kernel; request/response with both ends on one CPU, streams on two; what arrived counts. Ours keeps \
         its histogram, the others keep none where they can do without. {}; {}, kernel {}, {} CPUs.\n",
        asked.rounds,
        asked.seconds,
        asked.seed,
        versions.join(", "),
        e.cpu_model,
        e.kernel_release,
        e.cpus,
    );
    out
}

/// Why cells are empty, and what failed.
pub fn remarks(found: &[Found]) -> String {
    let mut out = String::new();
    for point in found {
        for (who, reason) in &point.absent {
            let _ = writeln!(out, "{}: {}: {reason}", point.point.name, name(*who));
        }
        for ((who, failure), count) in &point.failures {
            let trials = counted(*count as usize, "trial");
            let _ =
                writeln!(out, "{}: {}: {trials} failed: {failure}", point.point.name, name(*who));
        }
    }
    out
}

fn name(who: Contender) -> String {
    match who {
        Contender::Own => "ours".to_owned(),
        Contender::Bare => "ours without histogram".to_owned(),
        Contender::Peer(generator) => generator.to_string(),
    }
}

fn ratio(change: &Change) -> String {
    match &change.interval {
        Some(interval) => {
            format!("**{:.3}** ({:.3} to {:.3})", change.size, interval.low, interval.high)
        }
        None => format!("{:.3} (too few rounds)", change.size),
    }
}

fn amount(value: f64, point: &Found) -> String {
    match point.point.metric.unit() {
        Unit::BitsPerSecond => format!("{:.2} Gbit/s", value / 1e9),
        _ => format!("{:.1} k/s", value / 1e3),
    }
}

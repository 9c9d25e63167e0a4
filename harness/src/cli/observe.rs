//! `cnibench observe`: the latency probes on two namespaces of this machine, live.
//!
//! Owns the arguments and what is printed. Which two they are and what lies between them is
//! [`probe::target`](crate::probe::target), what was counted [`probe::live`](crate::probe::live).

use super::{Outcome, TableFormat, print};
use crate::{
    cluster::netns::user_namespace::is_privileged,
    environment::is_in_user_namespace,
    interrupt::Interrupt,
    netlink::Rtnl,
    probe::{
        live::{Interval, Live, Passed},
        spaces::{End, Found, Space},
        target::{self, Target, Wanted},
    },
    tell::tell,
};
use anyhow::{Context as _, Result, bail};
use cnibench_model::probe::Direction;
use cnibench_scenarios::quantity;
use std::{io::IsTerminal as _, num::NonZeroU32, time::Duration};
use tabled::{
    Table, Tabled,
    settings::{Alignment, Style, object::Columns},
};
use tokio::time::MissedTickBehavior;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The end whose packets are requests: a process id, a name that `ip netns` knows, or a path.
    /// By default pod 0 of node 0 of the running cluster.
    #[arg(long, value_name = "NETNS|PID", requires = "server")]
    client: Option<End>,
    /// The other end; by default pod 0 of node 1.
    #[arg(long, value_name = "NETNS|PID", requires = "client")]
    server: Option<End>,
    /// Of several running clusters: whose.
    #[arg(long, value_name = "ID", conflicts_with = "client")]
    run: Option<String>,
    /// Of several running clusters: which of the run.
    #[arg(long, value_name = "N", conflicts_with = "client", alias = "cni-index")]
    cluster: Option<u32>,
    /// Time between two prints, e.g. 1s or 500ms.
    #[arg(long, default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// End after so many prints; by default it goes on until Ctrl-C.
    #[arg(long, value_name = "N")]
    count: Option<NonZeroU32>,
    /// A table for people, or one JSON object a line.
    #[arg(long, value_enum, default_value = "table")]
    format: TableFormat,
}

/// Intervals without a packet after which this is said.
const SILENT: u32 = 3;

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = quantity::seconds(text)?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("{text:?}: an interval lasts 100ms to 1h"))
    }
}

pub fn run(args: &Args) -> Result<Outcome> {
    if !is_privileged() {
        bail!(
            "observing needs root (namespaces of others, and eBPF programs that trace the kernel): run it with sudo"
        );
    }
    if is_in_user_namespace() {
        bail!(
            "observing needs root outside of a user namespace: the kernel takes no tracing programs from inside one"
        );
    }
    super::runtime()?.block_on(observe(args))
}

async fn observe(args: &Args) -> Result<Outcome> {
    let Target { client, server, scene, sights } =
        target::find(wanted(args), describe, tell).await?;
    for sight in &sights {
        tracing::info!("{}: {}: {}: {}", sight.what, sight.netns, sight.device, sight.role.name());
    }
    let mut interrupt = Interrupt::quietly()?;
    let mut live = tokio::task::block_in_place(|| Live::attach(&scene)).context(
        "the probes cannot be attached (they need root outside of a user namespace; `cnibench doctor` tries what this kernel takes)",
    )?;
    for program in live.programs() {
        if let Some(reason) = &program.reason {
            tell(&format!("without {}: {reason}", program.name));
        }
    }
    let mut shown = Shown::new(args.format, &client, &server);
    let mut silent = 0;
    let mut left = args.count.map(NonZeroU32::get);
    let mut ticks =
        tokio::time::interval_at(tokio::time::Instant::now() + args.interval, args.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while left != Some(0) {
        tokio::select! {
            biased;
            () = interrupt.wait() => break,
            _ = ticks.tick() => {}
        }
        let seen = tokio::task::block_in_place(|| live.look())?;
        shown.show(&seen)?;
        silent = if seen.is_empty() { silent + 1 } else { 0 };
        if silent == SILENT && !shown.told_of_silence {
            shown.told_of_silence = true;
            tell(&silence(&client, &server));
        }
        left = left.map(|n| n - 1);
        if let Some(gone) = [&client, &server].into_iter().find(|space| !space.is_there()) {
            tell(&format!(
                "{} is gone: its cluster was taken down, or its process ended",
                gone.label
            ));
            break;
        }
    }
    Ok(Outcome::Done)
}

fn wanted(args: &Args) -> Wanted<'_> {
    match (&args.client, &args.server) {
        (Some(client), Some(server)) => Wanted::Ends { client, server },
        _ => Wanted::Cluster { run: args.run.as_deref(), number: args.cluster },
    }
}

/// A cluster with what tells its cni from others: the devices of its first node.
fn describe(cluster: &Found) -> String {
    let devices = || {
        let links =
            cluster.first_node()?.open().ok()?.run_blocking(|| Rtnl::open()?.links()).ok()?;
        let own = links.into_iter().filter(|l| l.name != "lo" && l.kind != "veth");
        Some(own.map(|l| l.name).collect::<Vec<_>>())
    };
    let devices = devices().filter(|names| !names.is_empty());
    let devices =
        devices.map_or_else(String::new, |names| format!("; node 0 has {}", names.join(", ")));
    format!("{cluster}{devices}")
}

fn silence(client: &Space, server: &Space) -> String {
    format!(
        "nothing seen for {SILENT} intervals: no thread in {} or {} sends data to the other (sendto, sendmsg, sendmmsg), or it takes a way that is not known (-v lists the devices that are)",
        client.label, server.label
    )
}

/// What is printed, and where.
struct Shown {
    format: TableFormat,
    ends: String,
    redraws: bool,
    told_of_silence: bool,
}

impl Shown {
    fn new(format: TableFormat, client: &Space, server: &Space) -> Self {
        Self {
            format,
            ends: format!("{} to {}", client.label, server.label),
            redraws: std::io::stdout().is_terminal(),
            told_of_silence: false,
        }
    }

    fn show(&self, seen: &Interval) -> Result<()> {
        match self.format {
            TableFormat::Json => print(&format!("{}\n", serde_json::to_string(seen)?)),
            // Home, and clear to the end (ECMA-48 CUP, ED).
            TableFormat::Table if self.redraws => {
                print(&format!("\x1b[H\x1b[J{}", table(&self.ends, seen)))
            }
            TableFormat::Table => print(&format!("{}\n", table(&self.ends, seen))),
        }
    }
}

#[derive(Tabled)]
struct Row {
    direction: Direction,
    stage: String,
    #[tabled(rename = "count/s")]
    per_second: String,
    mean: String,
    p50: String,
    p99: String,
    max: String,
}

impl From<&Passed> for Row {
    fn from(passed: &Passed) -> Self {
        let us = |value: f64| format!("{value:.2}");
        let or_dash = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), us);
        Self {
            direction: passed.direction,
            stage: passed.stage.to_string(),
            per_second: format!("{:.0}", passed.per_second),
            mean: us(passed.mean_us),
            p50: or_dash(passed.p50_us),
            p99: or_dash(passed.p99_us),
            max: or_dash(passed.max_us),
        }
    }
}

fn table(ends: &str, seen: &Interval) -> String {
    let mut text = format!(
        "{}  {ends}, last {:.2} s, times in us\n",
        seen.at.strftime("%H:%M:%SZ"),
        seen.seconds
    );
    if seen.is_empty() {
        text += "nothing seen\n";
    } else {
        let mut table = Table::new(seen.stages.iter().map(Row::from));
        table.with(Style::blank()).modify(Columns::new(2..), Alignment::right());
        text += &format!("{table}\n");
    }
    let drops = seen.drops.iter().map(|d| format!("{} {} ({})", d.reason, d.count, d.netns_role));
    let discards = seen.discards.iter().map(|d| format!("{} {}", d.why, d.count));
    let list = |all: Vec<String>| if all.is_empty() { "none".to_owned() } else { all.join(", ") };
    text += &format!(
        "drops: {}; retransmits: {}; discards: {}; lost events: {}\n",
        list(drops.collect()),
        seen.retransmits,
        list(discards.collect()),
        seen.lost_events
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use cnibench_model::{
        Stage,
        probe::{DiscardCount, DiscardKind, DropCount},
    };

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, String> {
        let words = std::iter::once("observe").chain(line.split_whitespace());
        Command::try_parse_from(words).map(|c| c.args).map_err(|e| e.to_string())
    }

    #[test]
    fn arguments_are_read_and_refused() {
        let args = parse("").unwrap();
        assert_eq!((args.interval, args.count), (Duration::from_secs(1), None));
        let args = parse("--client 17 --server blue --interval 250ms --count 2 --format json");
        let args = args.unwrap();
        assert_eq!(args.client, Some(End::Pid(17)));
        assert_eq!(args.server, Some(End::Name("blue".to_owned())));
        assert_eq!(args.interval, Duration::from_millis(250));
        for (line, says) in [
            ("--client 17", "--server"),
            ("--server 17", "--client"),
            ("--client 1 --server 2 --run abcdef", "cannot be used with"),
            ("--client 1 --server 2 --cluster 0", "cannot be used with"),
            ("--count 0", "--count"),
            ("--interval 1ms", "100ms to 1h"),
            ("--interval soon", "--interval"),
            ("--format xml", "json"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(says), "{line}: {error}");
        }
    }

    #[test]
    fn a_table_has_all_that_was_seen() {
        let passed = |stage, direction| Passed {
            stage,
            direction,
            count: 12_345,
            per_second: 12_345.4,
            mean_us: 1.234,
            p50_us: Some(1.0),
            p99_us: None,
            max_us: Some(1_000.0),
        };
        let mut seen = Interval {
            at: "2026-02-03T10:20:31Z".parse().unwrap(),
            seconds: 1.0,
            stages: vec![
                passed(Stage::Backlog, Direction::Request),
                passed(Stage::WakeUp, Direction::Response),
            ],
            drops: vec![DropCount {
                reason: "NO_SOCKET".to_owned(),
                netns_role: "server".to_owned(),
                count: 3,
            }],
            retransmits: 2,
            discards: vec![DiscardCount { why: DiscardKind::SkbReused, count: 4 }],
            lost_events: 5,
        };
        let text = table("a to b", &seen);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "10:20:31Z  a to b, last 1.00 s, times in us");
        assert!(lines[1].contains("direction") && lines[1].contains("count/s"), "{text}");
        let words: Vec<&str> = lines[2].split_whitespace().collect();
        assert_eq!(words, ["request", "backlog", "12345", "1.23", "1.00", "-", "1000.00"]);
        assert!(lines[3].contains("response") && lines[3].contains("wake-up"), "{text}");
        assert_eq!(
            lines[4],
            "drops: NO_SOCKET 3 (server); retransmits: 2; discards: skb-reused 4; lost events: 5"
        );
        seen.stages.clear();
        seen.drops.clear();
        assert!(table("a to b", &seen).contains("nothing seen\ndrops: none;"));
    }
}

//! `cnibench run`: a suite from the command line to the report.

use super::{
    Outcome, TableFormat, generators, print, print_json,
    provider::{self, Chosen},
};
use crate::{
    cluster::{
        ClusterError, kind, kube,
        netns::{self, Owner},
    },
    crowd::Crowd,
    environment,
    interrupt::{Interrupt, Urgency},
    plan::{Pairs, Plan, TrialOrder},
    runner::{self, progress},
    store::{self, Journal},
    tell::{counted, tell},
};
use anyhow::{Context, Result, anyhow, bail};
use cnibench_model::{
    CellStatus, Clock, CniSpec, Generator, Header, JournalLine, Pairing, Placement, ProviderKind,
    Record, SCHEMA_VERSION, SkippedCni, Workload,
};
use cnibench_reports::Format;
use cnibench_scenarios::{Overrides, Suite, catalog, expand, ladders, suite};
use jiff::Timestamp;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// What `run` and `ab` are both asked.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// A catalogue name (see `cnibench list suites`) or a TOML file.
    #[arg(default_value = "quick")]
    suite: String,
    /// What brings the cluster up.
    #[arg(long, default_value = "netns")]
    provider: ProviderKind,
    /// Only these workloads; one that the suite lacks is added with its defaults.
    #[arg(long = "workload", value_delimiter = ',')]
    workloads: Vec<Workload>,
    /// These placements instead of the suite's.
    #[arg(long = "placement", value_delimiter = ',')]
    placements: Vec<Placement>,
    /// What makes the traffic: cnibench, iperf3, netperf, sockperf or neper, where it is installed; by
    /// default what the suite says, which is cnibench. What it cannot do is skipped with the reason.
    #[arg(long)]
    generator: Option<Generator>,
    /// Measured time of every trial, e.g. 2s or 500ms; by default the suite's, in pairs of `ab` 500ms.
    #[arg(long, value_parser = suite::checked_duration)]
    pub(super) duration: Option<f64>,
    /// Time cut off before it, e.g. 200ms; by default the suite's, in pairs of `ab` 100ms.
    #[arg(long, value_parser = suite::checked_warmup)]
    pub(super) warmup: Option<f64>,
    /// After the measured trials, pairs of trials with and without latency probes in the kernel (this
    /// many for each case that has round trips): where the time of a round trip goes, stage by stage.
    #[arg(long, value_name = "PAIRS", num_args = 0..=1, default_missing_value = "5", value_parser = clap::value_parser!(u32).range(1..=1000))]
    probes: Option<u32>,
    /// Seed of the random order; by default a new one, which the record keeps.
    #[arg(long)]
    seed: Option<u64>,
    /// Results folder; by default cnibench-results/<suite>-<UTC time>.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print the expanded plan and the time it will take; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Exit 0 although cells failed.
    #[arg(long)]
    allow_failed: bool,
    /// No progress, no table: only the path of the report, and trouble.
    #[arg(short, long)]
    quiet: bool,
    /// How the plan or the result is printed.
    #[arg(long, value_enum, default_value = "table")]
    format: TableFormat,
    #[command(flatten)]
    kube: kube::Options,
    #[command(flatten)]
    kind: kind::KindOptions,
}

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

/// What is to be measured on which cnis.
pub(super) struct Measure {
    /// What both commands are asked.
    pub common: Common,
    /// Which cnis; empty: all that can be carried.
    pub cnis: Vec<CniSpec>,
    /// Trials of every case; none: the suite's.
    pub trials: Option<u32>,
    /// In which order.
    pub design: Design,
}

/// How trials of cnis are put side by side.
pub(super) enum Design {
    /// Cnis in rounds.
    Rounds(TrialOrder),
    /// Two arms in pairs.
    Pairs(Pairs),
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

/// What is known before anything is set up.
struct Prepared {
    suite: Suite,
    plan: Plan,
    skipped: Vec<SkippedCni>,
}

pub fn run(args: Args) -> Result<Outcome> {
    let Args { mut common, cnis, trials, order, matrix, rebuild } = args;
    let texts = cnis.iter().flat_map(|text| split_cnis(text));
    let cnis = texts
        .map(|text| first_of_its_kind(&text))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| anyhow!(e))?;
    (common.kube.pairs, common.kube.pairs_at_once) = (matrix.pairs, matrix.pairs_at_once);
    common.kind.rebuilds = rebuild.rebuilds;
    measure(Measure { common, cnis, trials, design: Design::Rounds(order) })
}

/// Measures, reports, and says how it ended.
pub(super) fn measure(asked: Measure) -> Result<Outcome> {
    let args = &asked.common;
    let suite = load(&args.suite)?;
    let suite = overrides(args, asked.trials).apply(&suite);
    let namespaces = provider::needs_namespaces(args.provider);
    let in_user_namespace = namespaces && super::become_able()?;
    let runtime = super::runtime()?;
    let outcome = runtime.block_on(async {
        let interrupt = Interrupt::listen()?;
        let owner = Arc::new(Owner::acquire()?);
        let run_id = owner.id().as_str().to_owned();
        let asked_of = provider::Asked {
            kind: args.provider,
            kube: &args.kube,
            kind_options: &args.kind,
            demand: kube::Demand::of(&suite, &asked.cnis),
        };
        let provider = Chosen::new(&asked_of, owner).await?;
        let prepared = prepare(&asked, suite, &provider).await?;
        if args.dry_run {
            show_plan(args, &prepared)?;
            return Ok(Outcome::Done);
        }
        if in_user_namespace && !args.quiet {
            tell(&format!(
                "not root: running in a user namespace ({})",
                netns::user_namespace::LIMITS.join("; ")
            ));
        }
        execute(args, run_id, prepared, &provider, interrupt).await
    });
    // Blocking helpers that hang (a plugin's pipe) must not keep a finished run from ending.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    outcome
}

fn load(name: &str) -> Result<Suite> {
    let path = Path::new(name);
    let is_file = path.extension().is_some_and(|e| e == "toml") || name.contains('/');
    if !is_file {
        return catalog::by_name(name).map_err(|e| anyhow!(e));
    }
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the suite {name}"))?;
    Ok(Suite::parse(name, &text)?)
}

/// Splits `a,b:k=v,l=w,c` into `a`, `b:k=v,l=w`, `c`: a comma begins a new cni unless what follows
/// is `key=value` of the one before.
fn split_cnis(text: &str) -> Vec<String> {
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

async fn prepare(measure: &Measure, suite: Suite, chosen: &Chosen) -> Result<Prepared> {
    let (args, asked) = (&measure.common, &measure.cnis);
    let provider = chosen.provider();
    let mut skipped = Vec::new();
    let mut cnis: Vec<CniSpec> = Vec::new();
    if asked.is_empty() {
        for offer in provider.cnis().await {
            let cni = CniSpec::named(&offer.name);
            // What needs a parameter is never chosen for the user, so it was not left out either.
            match offer.missing {
                None if offer.automatic => cnis.push(cni),
                Some(reason) if offer.automatic => skipped.push(SkippedCni { cni, reason }),
                _ => {}
            }
        }
        if cnis.is_empty() {
            let why = skipped.first().map(|s| format!(" ({}: {})", s.cni, s.reason));
            bail!(
                "this host can carry no cni{}: `cnibench doctor` says what is missing",
                why.unwrap_or_default()
            );
        }
    } else {
        for cni in asked {
            provider.check(cni, &suite.topology).await.map_err(explain)?;
            if !cnis.contains(cni) {
                cnis.push(cni.clone());
            }
        }
    }
    chosen.check_together(&cnis)?;
    let cases = generators::fitted(expand(&suite, args.provider, &cnis));
    if provider::needs_namespaces(args.provider) {
        generators::check_installed(&cases)?;
    }
    let seed = args.seed.unwrap_or_else(rand::random);
    let arrangement = match &measure.design {
        Design::Rounds(order) => chosen.arrangement(*order).await?,
        Design::Pairs(pairs) => chosen.paired(pairs.clone(), &suite.topology).await?,
    };
    let mut plan = Plan::new(cases, &arrangement, seed);
    plan.probe_pairs = args.probes;
    if plan.pairing.is_none() && plan.nodes().is_empty() {
        let climbed = generators::fitted(ladders(&suite, args.provider, &cnis));
        plan.ladders = climbed.into_iter().map(|case| case.id).collect();
    }
    chosen.plan_for(&plan);
    Ok(Prepared { plan, suite, skipped })
}

fn overrides(args: &Common, trials: Option<u32>) -> Overrides {
    Overrides {
        workloads: args.workloads.clone(),
        placements: args.placements.clone(),
        trials,
        duration_s: args.duration,
        warmup_s: args.warmup,
        generator: args.generator,
    }
}

fn explain(error: ClusterError) -> anyhow::Error {
    anyhow!("{error}")
}

fn show_plan(args: &Common, prepared: &Prepared) -> Result<()> {
    let Prepared { plan, skipped, suite } = prepared;
    let estimate = plan.estimate().as_secs_f64();
    if args.format == TableFormat::Json {
        return print_json(&serde_json::json!({
            "suite": suite.name, "plan": plan, "estimate_s": estimate, "skipped_cnis": skipped,
        }));
    }
    let mut text = String::new();
    for case in &plan.cases {
        let ladder = if plan.ladders.contains(&case.id) { ", then a ladder of rates" } else { "" };
        text += &format!("{}  {} x {} s{ladder}\n", case.id, case.trials, case.duration_s);
    }
    if let Some(pairing) = &plan.pairing {
        text += &in_pairs(pairing, args.provider);
    }
    for skip in skipped {
        text += &format!("left out: {}: {}\n", skip.cni, skip.reason);
    }
    text += &format!(
        "{}, {}, about {}; order seed {}\n",
        counted(plan.cases.len(), "case"),
        counted(plan.schedule.len(), "trial"),
        progress::human(estimate),
        plan.seed
    );
    print(&text)
}

/// Arms, makings and pairs, and whether the trials of a pair are adjacent.
fn in_pairs(pairing: &Pairing, provider: ProviderKind) -> String {
    let Pairing { baseline, candidate, rebuilds, pairs, adjacent } = pairing;
    let what = if provider == ProviderKind::Kubeconfig { "pods" } else { "clusters" };
    let how = match (adjacent, provider) {
        (true, _) => "both trials of a pair next to each other, in random order",
        (false, ProviderKind::Kubeconfig) => {
            "not adjacent: in one namespace (--namespace) the pods of one arm are there at a time"
        }
        (false, _) => {
            "not adjacent: memory, or --parallel-clusters, leaves room for one cluster at a time"
        }
    };
    format!(
        "baseline {baseline}, candidate {candidate}: {} of the {what}, {} of every case in each; {how}\n",
        counted(*rebuilds as usize, "making"),
        counted(*pairs as usize, "pair"),
    )
}

async fn execute(
    args: &Common,
    run_id: String,
    prepared: Prepared,
    chosen: &Chosen,
    interrupt: Interrupt,
) -> Result<Outcome> {
    let Prepared { suite, plan, skipped } = prepared;
    let started = Timestamp::now();
    let folder = args.out.clone().unwrap_or_else(|| store::default_folder(&suite.name, started));
    store::prepare_folder(&folder)?;
    let mut leftovers = netns::clean_leftovers().await;
    leftovers.merge(kind::leftovers::clean_leftovers(kind::leftovers::Keep::Respect).await);
    let mut environment = environment::capture();
    if provider::needs_namespaces(args.provider) {
        for capability in netns::capabilities::capabilities().await {
            let said = if capability.ok { "yes".to_owned() } else { capability.detail };
            environment.features.insert(capability.name.to_owned(), said);
        }
    }
    let mut crowd = Crowd::new(&run_id);
    let mut notes = crowd.load(environment.load_1m, environment.cpus);
    let header = Header {
        schema_version: SCHEMA_VERSION,
        run_id,
        started,
        command: std::env::args().collect(),
        suite: suite.name.clone(),
        suite_text: suite.text.clone(),
        seed: plan.seed,
        interleaved: plan.interleaved,
        pairing: plan.pairing.clone(),
        topology: suite.topology.clone(),
        clock: Clock::Wall,
        environment,
        cases: plan.cases.clone(),
        skipped_cnis: skipped,
    };
    let mut journal = Journal::begin(&folder, header)?;
    let mut progress = progress::for_stderr(&plan, args.quiet);
    if !leftovers.removed.is_empty() {
        progress.phase(&format!("removed {} leftovers of dead runs", leftovers.removed.len()));
    }
    notes.extend(crowd.newcomers(&leftovers));
    notes.extend(leftovers.errors.iter().map(|e| format!("clean-up of a dead run: {e:#}")));
    for text in notes {
        progress.trouble(&text);
        journal.append(&JournalLine::Note { text })?;
    }
    let ran = runner::run(
        &plan,
        chosen.provider(),
        &suite.topology,
        &mut journal,
        &interrupt,
        progress.as_mut(),
    )
    .await;
    progress.finish();
    let kept = || {
        format!(
            "the run was given up; what was finished is in {0}: `cnibench report {0} --out ELSEWHERE`",
            folder.display()
        )
    };
    ran.with_context(kept)?;
    for text in crowd.newcomers(&netns::clean_leftovers().await) {
        tell(&text);
        journal.append(&JournalLine::Note { text }).with_context(kept)?;
    }
    let record = journal.finalise(&folder).with_context(kept)?;
    finish(args, &folder, record, &interrupt)
}

/// Report, table, exit code.
fn finish(args: &Common, folder: &Path, record: Record, interrupt: &Interrupt) -> Result<Outcome> {
    let failed = record
        .cells
        .iter()
        .filter(|c| matches!(c.status, CellStatus::Failed { .. } | CellStatus::Invalid { .. }))
        .count();
    let paired = cnibench_reports::paired(&record);
    let nothing = paired.is_some_and(|pairs| pairs.measured.most == 0);
    if interrupt.urgency() != Urgency::Impatient {
        if !args.quiet && args.format == TableFormat::Table {
            print(&cnibench_reports::terminal_summary(&record, super::terminal_width()))?;
        }
        let out = folder.join(store::REPORT);
        let records = [record];
        let rendered =
            cnibench_reports::render(&records, &out, Format::ALL).with_context(|| {
                format!(
                    "the record is whole, its report is not: `cnibench report {}`",
                    folder.display()
                )
            })?;
        match args.format {
            TableFormat::Json => {
                let mut told = serde_json::json!({
                    "record": folder.join(store::RECORD),
                    "report": super::first_page(&rendered, &out),
                    "matrix": cnibench_reports::matrix::matrix(&records),
                });
                if let Some(pairs) = records.first().and_then(cnibench_reports::paired) {
                    told["pairs"] = serde_json::to_value(pairs)?;
                }
                print_json(&told)?;
            }
            TableFormat::Table => {
                print(&format!("report: {}\n", super::first_page(&rendered, &out).display()))?;
            }
        }
    }
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
        (Urgency::None, 0) => Outcome::Done,
        (Urgency::None, n) => {
            tell(&format!("{n} cells failed (see the report)"));
            match (args.allow_failed, nothing) {
                (false, _) => Outcome::Error,
                (true, true) => Outcome::Incomplete,
                (true, false) => Outcome::Done,
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

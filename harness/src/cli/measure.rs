//! What `run`, `ab` and `calibrate` share: from a suite and cnis to a record on disk.
//!
//! Owns the arguments of all of them, what is known before anything is set up, and carrying it out. What
//! is said of the record is each command's.

use super::{
    TableFormat, generators, print, print_json,
    provider::{self, Chosen},
};
use crate::{
    cluster::{
        ClusterError, kind, kube,
        netns::{self, Owner},
        vm,
    },
    crowd::Crowd,
    environment,
    interrupt::Interrupt,
    plan::{Pairs, Plan, TrialOrder},
    probe,
    runner::{self, Limits, Referee, progress},
    store::{self, Journal},
    tell::{counted, tell},
};
use anyhow::{Context, Result, anyhow, bail};
use cnibench_model::{
    Case, Clock, CniSpec, Generator, Header, JournalLine, Pairing, Placement, ProviderKind, Record,
    SCHEMA_VERSION, SkippedCni, Workload,
};
use cnibench_scenarios::{Overrides, Suite, catalog, cliffs, expand, ladders, rotations, suite};
use jiff::Timestamp;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Suite where none was named and the clock counts instructions.
const COUNTED: &str = "counted";

/// What is measured, where, and how it is told.
#[derive(Debug, Clone, clap::Args)]
pub struct What {
    /// A catalogue name (see `cnibench list suites`) or a TOML file; by default quick, of ab and
    /// calibrate gate; with --clock instructions counted.
    suite: Option<String>,
    /// What brings the cluster up.
    #[arg(long, default_value = "netns")]
    pub(super) provider: ProviderKind,
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
    /// Measured time of every trial, e.g. 2s or 500ms; by default the suite's, in pairs 500ms.
    #[arg(long, value_parser = suite::checked_duration)]
    pub(super) duration: Option<f64>,
    /// Time cut off before it, e.g. 200ms; by default the suite's, in pairs 100ms.
    #[arg(long, value_parser = suite::checked_warmup)]
    pub(super) warmup: Option<f64>,
    /// Print the expanded plan and the time it will take; change nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// No progress, no table: only the path of the report, and trouble.
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// How the plan or the result is printed.
    #[arg(long, value_enum, default_value = "table")]
    pub(super) format: TableFormat,
    #[command(flatten)]
    pub(super) kube: kube::Options,
    #[command(flatten)]
    pub(super) kind: kind::KindOptions,
    #[command(flatten)]
    pub(super) vm: vm::VmOptions,
}

/// What `run` and `ab` are asked beside.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    #[command(flatten)]
    pub(super) what: What,
    /// After the measured trials, pairs of trials with and without latency probes in the kernel (this
    /// many for each case that has round trips): where the time of a round trip goes, stage by stage.
    #[arg(long, value_name = "PAIRS", num_args = 0..=1, default_missing_value = "5", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) probes: Option<u32>,
    /// Seed of the random order; by default a new one, which the record keeps.
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// Results folder; by default cnibench-results/<suite>-<UTC time>.
    #[arg(long)]
    pub(super) out: Option<PathBuf>,
    /// Exit 0 although cells failed.
    #[arg(long)]
    pub(super) allow_failed: bool,
}

impl Common {
    /// Nothing but what is measured, and where it is put.
    pub fn of(what: What, out: PathBuf) -> Self {
        Self { what, probes: None, seed: None, out: Some(out), allow_failed: false }
    }
}

/// What is to be measured on which cnis.
pub(super) struct Measure {
    /// What, where and how.
    pub what: What,
    /// Suite where none was named.
    pub suite: &'static str,
    /// Which cnis; empty: all that can be carried.
    pub cnis: Vec<CniSpec>,
    /// Trials of every case; none: the suite's.
    pub trials: Option<u32>,
    /// In which order.
    pub design: Design,
    /// Pairs with and without probes.
    pub probes: Option<u32>,
    /// Seed of the order; none: a new one.
    pub seed: Option<u64>,
    /// Results folder; none: one with the suite's name and the time.
    pub out: Option<PathBuf>,
    /// What may end it before its plan does.
    pub ends: Ends,
}

/// What may end a run of pairs before its plan does.
#[derive(Default)]
pub(super) struct Ends {
    /// From its beginning until its report; none: as long as it takes.
    pub max_time: Option<Duration>,
    /// Makes who judges the pairs, of the header of the record.
    pub referee: Option<MakeReferee>,
}

/// Makes who judges the pairs of a run with this header.
pub(super) type MakeReferee = Box<dyn FnOnce(&Header) -> Box<dyn Referee>>;

/// A run that was carried out.
pub(super) struct Measured {
    /// Its results folder.
    pub folder: PathBuf,
    /// What it found.
    pub record: Record,
}

/// How trials of cnis are put side by side.
pub(super) enum Design {
    /// Cnis in rounds.
    Rounds(TrialOrder),
    /// Two arms in pairs.
    Pairs(Pairs),
}

/// What is known before anything is set up.
struct Prepared {
    suite: Suite,
    plan: Plan,
    skipped: Vec<SkippedCni>,
}

/// Runs what a command does with clusters; in a user namespace of its own where it is not root.
pub(super) fn on_runtime<T>(
    what: &What,
    work: impl AsyncFnOnce(Interrupt) -> Result<T>,
) -> Result<T> {
    let in_user_namespace = provider::needs_namespaces(what.provider) && super::become_able()?;
    if in_user_namespace && !what.quiet && !what.dry_run {
        tell(&format!(
            "not root: running in a user namespace ({})",
            netns::user_namespace::LIMITS.join("; ")
        ));
    }
    let runtime = super::runtime()?;
    let outcome = runtime.block_on(async { work(Interrupt::listen()?).await });
    // Blocking helpers that hang (a plugin's pipe) must not keep a finished run from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Measures what is asked; none where only the plan was to be shown.
pub(super) async fn measure(asked: Measure, interrupt: &Interrupt) -> Result<Option<Measured>> {
    let what = &asked.what;
    let by_default = match what.vm.clock {
        Some(Clock::Instructions) => COUNTED,
        Some(Clock::Wall) | None => asked.suite,
    };
    let suite = load(what.suite.as_deref().unwrap_or(by_default))?;
    let suite = overrides(what, asked.trials).apply(&suite);
    let owner = Arc::new(Owner::acquire()?);
    let run_id = owner.id().as_str().to_owned();
    let asked_of = provider::Asked {
        kind: what.provider,
        kube: &what.kube,
        kind_options: &what.kind,
        vm_options: &what.vm,
        demand: kube::Demand::of(&suite, &asked.cnis),
    };
    // Not every provider keeps the owner, whose lock tells every clean-up that this run lives: it is
    // held here until all is taken down.
    let provider = Chosen::new(&asked_of, Arc::clone(&owner)).await?;
    let prepared = prepare(&asked, suite, &provider).await?;
    if what.dry_run {
        show_plan(&asked, &prepared)?;
        return Ok(None);
    }
    execute(asked, run_id, prepared, &provider, interrupt).await.map(Some)
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

async fn prepare(measure: &Measure, suite: Suite, chosen: &Chosen) -> Result<Prepared> {
    let (args, asked) = (&measure.what, &measure.cnis);
    let provider = chosen.provider();
    let mut skipped = Vec::new();
    let mut cnis: Vec<CniSpec> = Vec::new();
    if asked.is_empty() {
        for offer in provider.cnis().await {
            let cni = CniSpec::named(&offer.name);
            // What needs a parameter is never chosen for the user, so it was not left out either.
            match offer.missing {
                None if offer.automatic => cnis.extend(chosen.spread(vec![cni])),
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
            if !cnis.contains(cni) {
                cnis.push(cni.clone());
            }
        }
        cnis = chosen.spread(cnis);
        if let Design::Pairs(_) = &measure.design
            && cnis.len() > asked.len()
        {
            bail!(
                "several --kernel: say in each arm which is its own, as in {}",
                cnis.first().map(ToString::to_string).unwrap_or_default()
            );
        }
        for cni in &cnis {
            provider.check(cni, &suite.topology).await.map_err(explain)?;
        }
    }
    chosen.check_together(&cnis)?;
    let cases = generators::fitted(expand(&suite, args.provider, &cnis));
    if provider::needs_namespaces(args.provider) {
        generators::check_installed(&cases)?;
    }
    let seed = measure.seed.unwrap_or_else(|| match chosen.clock() {
        Clock::Wall => rand::random(),
        // What came before a trial is among what it repeats with, and there is no drift to be evened out.
        Clock::Instructions => 1,
    });
    let arrangement = match &measure.design {
        Design::Rounds(order) => chosen.arrangement(*order).await?,
        Design::Pairs(pairs) => chosen.paired(pairs.clone(), &suite.topology).await?,
    };
    let mut plan = Plan::new(cases, &arrangement, seed);
    plan.probe_pairs = measure.probes;
    if plan.pairing.is_none() && plan.nodes().is_empty() {
        let climbed = generators::fitted(ladders(&suite, args.provider, &cnis));
        plan.ladders = climbed.into_iter().map(|case| case.id).collect();
        let searched = generators::fitted(cliffs(&suite, args.provider, &cnis));
        plan.cliffs = searched.into_iter().map(|case| case.id).collect();
        let turned = rotations(&suite, args.provider, &cnis).into_iter();
        plan.rotations = turned.map(|(case, count)| (case.id, count)).collect();
    }
    if measure.probes.is_some() {
        can_probe(&plan.cases, args.provider).await?;
    }
    chosen.plan_for(&plan);
    Ok(Prepared { plan, suite, skipped })
}

/// Refuses `--probes` where no case has anything to probe, and says at once where this process cannot:
/// all else is measured then.
async fn can_probe(cases: &[Case], provider: ProviderKind) -> Result<()> {
    let refused = |case: &Case| probe::refuses(case).map(|reason| format!("{}: {reason}", case.id));
    let reasons: Option<Vec<String>> = cases.iter().map(refused).collect();
    if let Some(reason) = reasons.as_ref().and_then(|all| all.first()) {
        bail!(
            "--probes: no case of this plan can be probed ({reason}): add one of round trips (--workload tcp_rr), or leave --probes out"
        );
    }
    if !provider::needs_namespaces(provider) {
        return Ok(());
    }
    if let Err(lack) = tokio::task::spawn_blocking(probe::try_all).await? {
        tell(&format!("--probes: nothing will be probed: {lack} (it takes {})", probe::REMEDY));
    }
    Ok(())
}

fn overrides(args: &What, trials: Option<u32>) -> Overrides {
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

fn show_plan(measure: &Measure, prepared: &Prepared) -> Result<()> {
    let Prepared { plan, skipped, suite } = prepared;
    let args = &measure.what;
    let estimate = plan.estimate().as_secs_f64();
    let most = measure.ends.max_time.map(|limit| limit.as_secs_f64());
    if args.format == TableFormat::Json {
        return print_json(&serde_json::json!({
            "suite": suite.name, "plan": plan, "estimate_s": estimate, "max_time_s": most, "skipped_cnis": skipped,
        }));
    }
    let mut text = String::new();
    for case in &plan.cases {
        let ladder = if plan.ladders.contains(&case.id) { ", then a ladder of rates" } else { "" };
        let search = if plan.cliffs.contains(&case.id) { ", then a search of sizes" } else { "" };
        let (id, trials, seconds) = (&case.id, case.trials, case.duration_s);
        text += &format!("{id}  {trials} x {seconds} s{ladder}{search}\n");
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
    if let Some(most) = most.filter(|most| *most < estimate) {
        text += &format!("ends after the pair at which {} are over\n", progress::human(most));
    }
    print(&text)
}

/// Arms, makings and pairs, and whether the trials of a pair are adjacent.
fn in_pairs(pairing: &Pairing, provider: ProviderKind) -> String {
    let Pairing { baseline, candidate, rebuilds, pairs, adjacent, .. } = pairing;
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
    measure: Measure,
    run_id: String,
    prepared: Prepared,
    chosen: &Chosen,
    interrupt: &Interrupt,
) -> Result<Measured> {
    let Prepared { suite, plan, skipped } = prepared;
    let Measure { what: args, out, ends, .. } = measure;
    let started = Timestamp::now();
    let folder = out.unwrap_or_else(|| store::default_folder(&suite.name, started));
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
    let versions = chosen.versions().into_iter();
    environment.versions.extend(versions.map(|(name, version)| (name.to_owned(), version)));
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
        clock: chosen.clock(),
        environment,
        cases: plan.cases.clone(),
        skipped_cnis: skipped,
    };
    let limits =
        Limits { max_time: ends.max_time, referee: ends.referee.map(|make| make(&header)) };
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
        interrupt,
        progress.as_mut(),
        limits,
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
    Ok(Measured { folder, record })
}

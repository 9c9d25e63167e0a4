//! The facts of a run as a reader wants them: machine, command, seeds, parameters.
//!
//! Owns their order and wording. Called by the page and by summary.md.

use crate::{
    book::{Book, record_label},
    trust,
    units::{self, bytes, counted, duration, seconds},
};
use cnibench_model::{Case, Clock, CniInfo, Environment, Pinning, ProviderKind, Record};
use std::collections::BTreeSet;

/// One record's facts, as the page shows them.
pub(crate) struct Run {
    pub label: String,
    pub facts: Vec<(&'static str, String)>,
    pub command: String,
    pub suite: String,
    pub suite_text: String,
    pub cnis: Vec<Cni>,
    /// Series, threads, parameters, trials.
    pub settings: Vec<(String, &'static str, String, String)>,
    pub folded: Vec<(&'static str, Vec<(String, String)>)>,
}

pub(crate) struct Cni {
    pub name: String,
    pub description: String,
    pub facts: String,
    pub details: Vec<String>,
}

/// The label of every record.
pub(crate) fn labels(book: &Book<'_>) -> Vec<String> {
    book.records.iter().map(|r| record_label(book.records, r)).collect()
}

pub(crate) fn title(book: &Book<'_>) -> String {
    let mut suites: Vec<&str> = book.records.iter().map(|r| r.header.suite.as_str()).collect();
    suites.dedup();
    format!("CNI datapaths compared: suite {}", suites.join(", "))
}

pub(crate) fn subtitle(book: &Book<'_>) -> String {
    let parts: Vec<String> = book
        .records
        .iter()
        .map(|r| {
            let e = &r.header.environment;
            let provider = r.header.cases.first().map(|c| c.provider);
            let machine = match provider {
                // The kernel and CPU known are not those of the nodes.
                Some(ProviderKind::Kubeconfig) => {
                    format!("an existing Kubernetes cluster, reached from {}", e.hostname)
                }
                provider => format!(
                    "{} on {}, kernel {}, {}",
                    provider.map_or("no provider", ProviderKind::name),
                    e.hostname,
                    e.kernel_release,
                    e.cpu_model,
                ),
            };
            format!(
                "{machine}, {}, {}, run {}",
                r.header.started.strftime("%Y-%m-%d %H:%M UTC"),
                counted(r.trials.len() as u64, "trial"),
                r.header.run_id,
            )
        })
        .collect();
    parts.join("; ")
}

/// A command line that a shell reads back as the same arguments.
pub(crate) fn shell(command: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    let quote = |argument: &String| match !argument.is_empty() && argument.chars().all(plain) {
        true => argument.clone(),
        false => format!("'{}'", argument.replace('\'', "'\\''")),
    };
    command.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// The machine in one line.
pub(crate) fn one_line(record: &Record) -> String {
    let e = &record.header.environment;
    let machine = e.hypervisor.as_ref().map_or(String::new(), |h| format!(" under {h}"));
    format!(
        "{}: {}, kernel {}, {}{machine}, {}, {}",
        e.hostname,
        e.os,
        e.kernel_release,
        e.cpu_model,
        counted(e.cpus.into(), "CPU"),
        bytes(e.memory_bytes),
    )
}

pub(crate) fn run(record: &Record, label: String) -> Run {
    let h = &record.header;
    let pairs = |map: &std::collections::BTreeMap<String, String>| {
        map.iter().map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>()
    };
    let e = &h.environment;
    let mut folded = vec![
        ("CPU vulnerabilities and mitigations", pairs(&e.mitigations)),
        ("Sysctls", pairs(&e.sysctls)),
        ("Kernel features, found by trying", pairs(&e.features)),
        ("Versions", pairs(&e.versions)),
    ];
    folded.push((
        "Kernel command line",
        vec![("/proc/cmdline".to_owned(), e.kernel_cmdline.clone())],
    ));
    folded.retain(|(_, pairs)| pairs.iter().any(|(_, v)| !v.is_empty()));
    Run {
        label,
        facts: facts(record),
        command: shell(&h.command),
        suite: h.suite.clone(),
        suite_text: h.suite_text.clone(),
        cnis: cnis(record),
        settings: settings(record),
        folded,
    }
}

fn facts(record: &Record) -> Vec<(&'static str, String)> {
    let h = &record.header;
    let time = |t: jiff::Timestamp| t.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    let mut facts = machine(&h.environment);
    facts.extend([
        ("run", h.run_id.clone()),
        ("started", time(h.started)),
        ("finished", record.finished.map_or_else(|| "cut off before its end".to_owned(), time)),
        ("cluster", h.topology.to_string()),
        ("clock", h.clock.name().to_owned()),
        ("seed", h.seed.to_string()),
        ("order of trials", trust::order(record).to_owned()),
    ]);
    facts.extend(generators(record).map(|text| ("other generators", text)));
    facts
}

/// The programs other than cnibench's own that made traffic, with their versions; none: there was none.
pub(crate) fn generators(record: &Record) -> Option<String> {
    let all = record.trials.iter().chain(record.rungs.iter().map(|r| &r.trial));
    let named = all.filter_map(|t| t.made_by.as_ref());
    let names: BTreeSet<String> = named.map(|m| format!("{} {}", m.generator, m.version)).collect();
    (!names.is_empty()).then(|| names.into_iter().collect::<Vec<_>>().join(", "))
}

fn machine(e: &Environment) -> Vec<(&'static str, String)> {
    let or = |v: &Option<String>, none: &str| v.clone().unwrap_or_else(|| none.to_owned());
    let switch = |v: Option<bool>| match v {
        Some(true) => "on".to_owned(),
        Some(false) => "off".to_owned(),
        None => "not readable".to_owned(),
    };
    let limit = match (e.cpu_limit, e.memory_limit_bytes) {
        (None, None) => "none".to_owned(),
        (cpu, memory) => {
            let cpu = cpu.map(|c| format!("{c} CPU{}", if c == 1.0 { "" } else { "s" }));
            let parts: Vec<String> = cpu.into_iter().chain(memory.map(bytes)).collect();
            parts.join(", ")
        }
    };
    let rights = match (e.euid, e.user_namespace) {
        (_, true) => format!("uid {} in an unprivileged user namespace", e.euid),
        (0, false) => "root".to_owned(),
        (uid, false) => format!("uid {uid}"),
    };
    vec![
        ("host", e.hostname.clone()),
        ("system", e.os.clone()),
        ("kernel", format!("{} {} {}", e.kernel_release, e.kernel_version, e.arch)),
        ("CPU", e.cpu_model.clone()),
        ("CPUs", format!("{} usable of {} online", e.cpus, e.cpus_online)),
        ("hypervisor", or(&e.hypervisor, "none seen")),
        ("governor", or(&e.governor, "not readable")),
        ("turbo", switch(e.turbo)),
        ("SMT", switch(e.smt)),
        ("clock source", or(&e.clocksource, "not readable")),
        ("memory", bytes(e.memory_bytes)),
        ("cgroup limits", limit),
        ("ran as", rights),
        ("load at the start", format!("{:.2}", e.load_1m)),
        ("steal since boot", format!("{:.2} %", e.steal_since_boot * 100.0)),
    ]
}

fn cnis(record: &Record) -> Vec<Cni> {
    let cni = |c: &CniInfo| Cni {
        name: c.spec.to_string(),
        description: c.description.clone(),
        facts: format!(
            "family {}, pod MTU {}, {}, up in {}",
            c.family,
            c.mtu,
            if c.encrypted { "encrypts between nodes" } else { "does not encrypt" },
            duration(c.setup_ms / 1e3)
        ),
        details: c.details.iter().map(|d| detail(record, c, d)).collect(),
    };
    record.cnis.iter().map(cni).collect()
}

/// A line of what was built; of Hubble, that it was switched where cases asked for both.
fn detail(record: &Record, cni: &CniInfo, line: &str) -> String {
    let asked = |on| {
        let own = |c: &&Case| c.cni == cni.spec && c.surroundings.hubble == Some(on);
        record.header.cases.iter().any(|c| own(&c))
    };
    match line {
        "Hubble off" | "Hubble on" if asked(true) || asked(false) => {
            let up = line.trim_start_matches("Hubble ");
            format!(
                "Hubble {up} as it came up; switched for the cases with hubble=on or hubble=off"
            )
        }
        line => line.to_owned(),
    }
}

fn settings(record: &Record) -> Vec<(String, &'static str, String, String)> {
    let mut out: Vec<(String, &'static str, String, String)> = Vec::new();
    for case in &record.header.cases {
        let series = case.series().0;
        if out.iter().all(|(s, ..)| *s != series) {
            let threads = match case.params.pinning {
                Pinning::Same => "client and server thread of a flow on one CPU",
                Pinning::Split => "client and server thread of a flow on different CPUs",
                Pinning::None => "not pinned",
            };
            let trials = match record.header.clock {
                Clock::Wall => format!(
                    "{} × {} after {} of warm-up",
                    case.trials,
                    seconds(case.duration_s),
                    seconds(case.warmup_s)
                ),
                Clock::Instructions => format!("{} of a counted amount of work", case.trials),
            };
            out.push((series, threads, parameters(record, case), trials));
        }
    }
    out
}

/// What a UDP socket of the case said of one of its buffers, or nothing where no trial was kept.
fn read_back(record: &Record, case: &Case, option: &str) -> Option<u64> {
    let trials = record.trials.iter().filter(|t| t.case == case.id);
    let mut flows = trials.flat_map(|t| t.client.flows.iter().chain(&t.server.flows));
    flows.find_map(|f| f.options.get(option)?.parse().ok())
}

fn parameters(record: &Record, case: &Case) -> String {
    let p = &case.params;
    let tcp = case.workload.is_tcp();
    // Of TCP the kernel grows an unset buffer as it goes; of UDP it stays at the kernel's default.
    let buffer = |set: Option<u64>, option: &str| match set {
        Some(size) => bytes(size),
        None if tcp => "autotuned".to_owned(),
        None => match read_back(record, case, option) {
            Some(size) => format!("kernel default ({} read back)", bytes(size)),
            None => "kernel default".to_owned(),
        },
    };
    let mut parts = vec![counted(p.streams.into(), "flow")];
    parts.push(match p.response_size {
        0 => format!("{} a write", bytes(p.size)),
        response => format!("request {}, response {}", bytes(p.size), bytes(response)),
    });
    parts.push(match p.rate {
        Some(rate) => format!("offered rate {}", units::rate(rate, case.workload)),
        None => "as fast as possible".to_owned(),
    });
    parts.push(format!("direction {}", p.direction.name()));
    if tcp {
        parts.push(format!(
            "{}, nodelay {}",
            p.congestion_control,
            if p.nodelay { "on" } else { "off" }
        ));
    } else {
        parts.push(format!("GSO/GRO {}", if p.gso { "on" } else { "off" }));
    }
    parts.push(format!(
        "buffers: send {}, receive {}",
        buffer(p.send_buffer, "send_buffer"),
        buffer(p.receive_buffer, "receive_buffer")
    ));
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Builder;
    use cnibench_model::{Placement, Rate, Surroundings, Workload};

    #[test]
    fn parameters_say_what_the_kernel_did() {
        let series = vec![
            (Workload::UdpStream, Placement::CrossNode),
            (Workload::TcpStream, Placement::CrossNode),
        ];
        let mut record = Builder { series, ..Builder::default() }.build();
        for trial in &mut record.trials {
            let options = &mut trial.client.flows[0].options;
            options.insert("receive_buffer".to_owned(), "212992".to_owned());
        }
        record.header.cases[0].params.rate = Some(Rate(2e9));
        record.header.cases[0].params.receive_buffer = None;
        let udp = parameters(&record, &record.header.cases[0]);
        assert!(udp.contains("offered rate 2 Gbit/s"), "{udp}");
        assert!(
            udp.contains("send kernel default, receive kernel default (208 KiB read back)"),
            "{udp}"
        );
        let tcp = parameters(&record, &record.header.cases[1]);
        assert!(tcp.contains("send autotuned, receive autotuned"), "{tcp}");
    }

    #[test]
    fn what_was_switched_is_not_said_to_be_off() {
        let around = [false, true]
            .map(|on| Surroundings { hubble: Some(on), ..Surroundings::default() })
            .to_vec();
        let facts = |builder: Builder| {
            let mut record = builder.build();
            record.cnis[1].details = vec!["Hubble off".to_owned(), "values: a=b".to_owned()];
            record.cnis[1].setup_ms = 104_902.05;
            cnis(&record).swap_remove(1)
        };
        let switched = facts(Builder { around, ..Builder::default() });
        assert!(switched.details[0].starts_with("Hubble off as it came up; switched"));
        assert_eq!(switched.details[1], "values: a=b");
        assert!(switched.facts.ends_with("up in 1 min 45 s"), "{}", switched.facts);
        assert_eq!(facts(Builder::default()).details[0], "Hubble off");
    }

    #[test]
    fn a_shell_reads_the_command_back() {
        let command = ["cnibench", "run", "--out", "a b'c", ""].map(str::to_owned);
        assert_eq!(shell(&command), r"cnibench run --out 'a b'\''c' ''");
    }
}

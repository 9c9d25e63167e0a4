//! `cnibench observe` on real traffic: stages and counts against what the generator says it sent.

use crate::{
    running::{binary, record, run_id, stderr, wait_for},
    support::{down, provider, space, topology, up},
};
use cnibench::{
    cluster::{IpFamily, netns::user_namespace::enter_user_namespace},
    exec::{Agent, local::start_program},
    netlink::Netns,
};
use cnibench_workloads::protocol::Volley;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio},
    time::{Duration, Instant},
};

fn observe(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("observe").args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// An observer that is killed when a test fails before it has ended.
struct Observing {
    child: Child,
    lines: BufReader<ChildStdout>,
    errors: BufReader<ChildStderr>,
    heard: String,
}

impl Observing {
    fn start(arguments: &[&str]) -> Self {
        let mut child = observe(arguments).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let errors = BufReader::new(child.stderr.take().unwrap());
        Self { child, lines, errors, heard: String::new() }
    }

    /// Reads what it says until a line holds these words.
    fn hear(&mut self, words: &str) {
        loop {
            let begin = self.heard.len();
            let more = self.errors.read_line(&mut self.heard).unwrap();
            assert!(more > 0, "it ended without {words:?}: {}", self.heard);
            if self.heard[begin..].contains(words) {
                return;
            }
        }
    }

    /// Ends it as a person does.
    fn interrupt(&self) {
        crate::running::signal(self.child.id(), rustix::process::Signal::INT);
    }

    /// The next interval; none when it has ended.
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }

    /// A line of a table.
    fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "it printed nothing");
        line
    }

    /// Its exit code and what it said, once it ends by itself.
    fn ended(mut self) -> (Option<i32>, String) {
        self.errors.read_to_string(&mut self.heard).unwrap();
        (self.child.wait().unwrap().code(), std::mem::take(&mut self.heard))
    }
}

impl Drop for Observing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stages(interval: &Value) -> &Vec<Value> {
    interval["stages"].as_array().unwrap()
}

/// A figure of a stage; 0 where it was not passed.
fn figure(interval: &Value, direction: &str, stage: &str, name: &str) -> f64 {
    let found =
        stages(interval).iter().find(|s| s["direction"] == direction && s["stage"] == stage);
    found.map_or(0.0, |s| s[name].as_f64().unwrap())
}

#[test]
fn a_running_cluster_is_found_and_its_stages_have_the_generators_rate() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let mut run = Command::new(binary());
    run.arg("run").arg("--out").arg(&out);
    run.args(["--cni", "flannel-vxlan", "--workload", "tcp_rr", "--placement", "cross-node"]);
    run.args(["--trials", "1", "--duration", "6s", "--warmup", "200ms"]);
    let run = run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let run = run.spawn().unwrap();
    wait_for("the run's journal", || {
        out.join("journal.jsonl").metadata().is_ok_and(|m| m.len() > 0)
    });
    let id = run_id(&out);
    // The run has said that it exists, and has begun to bring its cluster up at most.
    let named = ["--run", id.as_str(), "--interval", "500ms", "--format", "json"];
    let mut observing = Observing::start(&named);
    let mut intervals = Vec::new();
    while let Some(interval) = observing.next() {
        intervals.push(interval);
    }
    // Nobody asked for an end: it came with the cluster's.
    let (code, said) = observing.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("is gone"), "{said}");
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));

    let record = record(&out);
    let trial = &record.trials[0];
    let opened = trial.window_opened.unwrap();
    let bounds = |interval: &Value| {
        let at: jiff::Timestamp = interval["at"].as_str().unwrap().parse().unwrap();
        let to = at.duration_since(opened).as_secs_f64();
        (to - interval["seconds"].as_f64().unwrap(), to)
    };
    let window_s = trial.slices.len() as f64 * trial.slice_s;
    let inside = |interval: &&Value| bounds(interval).0 >= 0.0 && bounds(interval).1 <= window_s;
    let inside: Vec<&Value> = intervals.iter().filter(inside).collect();
    assert!(inside.len() >= 3, "{} of {} intervals in the window", inside.len(), intervals.len());
    // All of them together: where the machine is busy, one begins and ends some milliseconds from where
    // it says, and the generator's rate is not the same throughout a slice.
    let (from, to) = (bounds(inside[0]).0, bounds(inside[inside.len() - 1]).1);
    let transactions: f64 = (0u32..)
        .zip(&trial.slices)
        .map(|(i, rate)| {
            let begin = f64::from(i) * trial.slice_s;
            rate * (to.min(begin + trial.slice_s) - from.max(begin)).max(0.0)
        })
        .sum();
    for direction in ["request", "response"] {
        // Once in each transaction; a packet passes two veth pairs' backlogs beside the wire's.
        for (stage, times) in
            [("socket-to-qdisc", 1.0), ("to-socket", 1.0), ("decapsulation", 1.0), ("backlog", 2.0)]
        {
            let all = |name: &str| -> f64 {
                inside.iter().map(|interval| figure(interval, direction, stage, name)).sum()
            };
            let seen = all("count") / (times * transactions);
            assert!((0.9..1.1).contains(&seen), "{direction} {stage} {seen} {inside:?}");
            let mean = all("mean_us") / inside.len() as f64;
            let round_trip = (to - from) / transactions * 1e6;
            assert!(mean > 0.0 && mean < round_trip, "{direction} {stage} {mean} {round_trip}");
        }
    }
    let way = [
        "application",
        "backlog",
        "decapsulation",
        "encapsulation",
        "node-forward",
        "pod-device",
        "socket-to-qdisc",
        "to-pod",
        "to-socket",
        "underlay",
        "wake-up",
    ];
    for interval in inside {
        let names: BTreeSet<&str> =
            stages(interval).iter().map(|s| s["stage"].as_str().unwrap()).collect();
        assert_eq!(names, way.into(), "{interval}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_waited_for_until_its_devices_are_joined() {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    // Nothing of the cluster is there.
    let of_first = ["--run", run.as_str(), "--cluster", "0"];
    let mut early = Observing::start(&[&of_first[..], &["-v", "--interval", "100ms"]].concat());
    early.hear("waiting for at most 10 s");
    // Two nodes are there, and nothing joins them.
    let bare = |node: u32| Netns::create(&format!("cnb-{run}-c1-n{node}"), || Ok(())).unwrap();
    let nodes = [bare(0), bare(1)];
    let begun = Instant::now();
    let of_bare = ["--run", run.as_str(), "--cluster", "1"];
    let unjoined = Observing::start(&of_bare);

    let cluster = up(&provider, "flannel-vxlan", &topology(2, 1, IpFamily::V4)).await;
    early.hear("server's node: ");
    early.next_line();
    early.interrupt();
    let (code, said) = early.ended();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("waiting").count(), 1, "{said}");
    for (what, thing, device) in [
        ("client", "n0p0", "eth0: pod"),
        ("server", "n1p0", "eth0: pod"),
        ("client's node", "n0", "flannel.1: tunnel"),
        ("server's node", "n1", "cni0: bridge"),
    ] {
        let line = format!("{what}: cnb-{run}-c0-{thing}: {device}");
        assert!(said.contains(&line), "{line}\n{said}");
    }
    let (code, said) = unjoined.ended();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("no devices join") && said.contains("after 10 s of waiting"), "{said}");
    assert!(begun.elapsed() >= Duration::from_secs(10));

    // The run ends meanwhile.
    let mut orphan = Observing::start(&of_bare);
    orphan.hear("waiting for at most 10 s");
    for node in nodes {
        node.remove().unwrap();
    }
    down(cluster).await;
    let begun = Instant::now();
    drop(provider);
    let (code, said) = orphan.ended();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("the run ended before its cluster was up"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_are_observed_and_every_datagram_is_counted() {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let cluster = up(&provider, "flannel-host-gw", &topology(2, 1, IpFamily::V4)).await;
    let mut agents = Vec::new();
    for thing in ["n0p0", "n1p0"] {
        let netns = space(&run, thing);
        let link = start_program(Path::new(binary()), "agent", netns.path()).unwrap();
        agents.push(Agent::start(thing, link).await.unwrap());
    }
    let pids: Vec<String> = ["n0p0", "n1p0"]
        .into_iter()
        .map(|thing| {
            let path = format!("cnb-{run}-c0-{thing}");
            let mut all = crate::running::processes().into_iter();
            let agent = all.find(|(_, line)| line.contains(" agent ") && line.contains(&path));
            agent.unwrap().0.to_string()
        })
        .collect();
    let ends = ["--client", pids[0].as_str(), "--server", pids[1].as_str()];
    let mut observing =
        Observing::start(&[&ends[..], &["--interval", "300ms", "--format", "json"]].concat());
    let before = observing.next().unwrap();
    assert!(stages(&before).is_empty(), "{before}");

    let mut server = agents.pop().unwrap();
    let mut client = agents.pop().unwrap();
    let address = "10.244.1.2".parse().unwrap();
    let port = server.echo(address, 0).await.unwrap();
    let volley = Volley {
        server: (address, port).into(),
        datagrams: 300,
        datagram_bytes: 200,
        connects: 0,
        stream_bytes: 1,
        canary: Vec::new(),
        patience_ms: 5_000,
    };
    let tally = client.volley(&volley).await.unwrap();
    assert_eq!(tally.answered, 300, "{tally:?}");

    let mut counts = std::collections::BTreeMap::new();
    // The last datagrams are in the interval that is under way, or in the one after it.
    let mut quiet = 0;
    while quiet < 2 {
        let interval = observing.next().unwrap();
        quiet = if stages(&interval).is_empty() { quiet + 1 } else { 0 };
        for seen in stages(&interval) {
            let name = |key: &str| seen[key].as_str().unwrap().to_owned();
            *counts.entry((name("direction"), name("stage"))).or_insert(0) +=
                seen["count"].as_u64().unwrap();
        }
    }
    for direction in ["request", "response"] {
        let count = |stage: &str| counts.get(&(direction.to_owned(), stage.to_owned())).copied();
        // Steps of this way in each stage; a port hands to the bridge, and the bridge to routing.
        for (stage, steps) in [
            ("socket-to-qdisc", 1),
            ("pod-device", 2),
            ("backlog", 2),
            ("node-forward", 2),
            ("underlay", 3),
            ("to-pod", 5),
            ("to-socket", 1),
        ] {
            assert_eq!(count(stage), Some(300 * steps), "{direction} {stage}: {counts:?}");
        }
        assert_eq!(count("encapsulation"), None, "{counts:?}");
    }
    observing.interrupt();
    while observing.next().is_some() {}
    let (code, said) = observing.ended();
    assert_eq!(code, Some(0), "{said}");

    // The same ends by name, as a person sees them; one slip, and which one was meant.
    let name = |thing: &str| format!("cnb-{run}-c0-{thing}");
    let (one, other, slip) = (name("n0p0"), name("n1p0"), name("n0p9"));
    let run_it = |arguments: &[&str]| -> Output { observe(arguments).output().unwrap() };
    let quiet = run_it(&[
        "-v",
        "--client",
        &one,
        "--server",
        &other,
        "--interval",
        "100ms",
        "--count",
        "4",
    ]);
    assert_eq!(quiet.status.code(), Some(0), "{}", stderr(&quiet));
    let said = stderr(&quiet);
    assert_eq!(said.matches("nothing seen for 3 intervals").count(), 1, "{said}");
    for line in [
        format!("client: {one}: eth0: pod"),
        format!("client's node: {}: eth0: underlay", name("n0")),
        format!("server's node: {}: cni0: bridge", name("n1")),
    ] {
        assert!(said.contains(&line), "{line}\n{said}");
    }
    assert!(!said.contains("-ul"), "{said}");
    let text = String::from_utf8(quiet.stdout).unwrap();
    assert_eq!(text.matches(&format!("{one} to {other}, last 0.")).count(), 4, "{text}");
    let refused = run_it(&["--client", &slip, "--server", &other]);
    assert_eq!(refused.status.code(), Some(2));
    let said = stderr(&refused);
    assert!(
        said.contains(&format!("no network namespace {slip:?}; did you mean \"cnb-{run}-c0-")),
        "{said}"
    );
    let same = run_it(&["--client", &one, "--server", &pids[0]]);
    assert_eq!(same.status.code(), Some(2));
    assert!(stderr(&same).contains("are one network namespace"), "{}", stderr(&same));
    let own = std::process::id().to_string();
    let apart = run_it(&["--client", &one, "--server", &own]);
    assert_eq!(apart.status.code(), Some(2));
    assert!(stderr(&apart).contains("no devices join"), "{}", stderr(&apart));
    for agent in [client, server] {
        agent.stop().await;
    }
    down(cluster).await;
}

#[test]
fn without_privileges_it_says_what_it_needs() {
    // The binary may lie where only root may look.
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("cnibench");
    std::fs::copy(binary(), &program).unwrap();
    let output =
        Command::new(&program).arg("observe").uid(65534).gid(65534).current_dir("/").output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("run it with sudo"), "{}", stderr(&output));

    let mut inside = Command::new(&program);
    inside.arg("observe");
    // SAFETY: the child has one thread and is about to become another program.
    unsafe {
        inside.pre_exec(|| {
            enter_user_namespace().map_err(|e| {
                eprintln!("{e:#}");
                std::io::Error::from_raw_os_error(1)
            })
        });
    }
    let output = inside.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("outside of a user namespace"), "{}", stderr(&output));
}

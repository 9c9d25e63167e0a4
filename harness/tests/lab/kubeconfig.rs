//! The provider kubeconfig on a cluster that is there: faults are made, their messages read, and the
//! cluster mended again.

use crate::support::{Desk, output, said, turn};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// A case that needs no more than the API, for a moment.
const SHORT: &[&str] =
    &["smoke", "--workload", "udp_rr", "--trials", "1", "--duration", "300ms", "--warmup", "100ms"];
/// The label of everything that a run makes.
const OURS: &str = "cnibench/run";

/// A cluster of kind that tests may harm: nodes are containers of their names.
struct Lab {
    kubeconfig: PathBuf,
    image: Option<String>,
    /// What bears the label already: of somebody else's run.
    theirs: Vec<String>,
}

impl Lab {
    fn new() -> Self {
        let file = std::env::var_os("CNIBENCH_LAB_KUBECONFIG").expect(
            "CNIBENCH_LAB_KUBECONFIG names no kubeconfig: the lab tier needs a cluster of kind with two nodes",
        );
        let mut lab = Self {
            kubeconfig: std::path::absolute(file).unwrap(),
            image: std::env::var("CNIBENCH_LAB_WORKLOAD_IMAGE").ok(),
            theirs: Vec::new(),
        };
        lab.kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=120s"]);
        lab.theirs = lab.ours("namespaces,pods,services,networkpolicies");
        lab
    }

    fn try_kubectl(&self, args: &[&str]) -> Output {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(args);
        command.output().unwrap()
    }

    fn kubectl(&self, args: &[&str]) -> String {
        let output = self.try_kubectl(args);
        assert!(output.status.success(), "kubectl {args:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn apply(&self, desk: &Desk, manifest: &str) {
        let file = desk.path("manifest.yaml");
        fs::write(&file, manifest).unwrap();
        self.kubectl(&["apply", "-f", file.to_str().unwrap()]);
    }

    /// What tests made of these kinds and in whatever namespace, as NAMESPACE KIND NAME.
    fn ours(&self, kinds: &str) -> Vec<String> {
        let columns =
            "jsonpath={range .items[*]}{.metadata.namespace} {.kind} {.metadata.name}{'\\n'}{end}";
        let text = self.kubectl(&["get", kinds, "-A", "-l", OURS, "-o", columns]);
        text.lines().map(str::to_owned).filter(|line| !self.theirs.contains(line)).collect()
    }

    /// The namespaces that tests' runs made.
    fn namespaces(&self) -> Vec<String> {
        let all = self.ours("namespaces");
        all.iter().filter_map(|l| l.rsplit(' ').next()).map(str::to_owned).collect()
    }

    fn nothing_is_left(&self) {
        let left = self.ours("namespaces,pods,services,networkpolicies");
        assert!(left.is_empty(), "{left:?}");
    }

    fn control_plane(&self) -> String {
        let role = "node-role.kubernetes.io/control-plane";
        let names = self.kubectl(&["get", "nodes", "-l", role, "-o", "name"]);
        names.trim().trim_start_matches("node/").to_owned()
    }

    /// A run of the cni that is there, with somebody's kubeconfig.
    fn run_as(&self, desk: &Desk, kubeconfig: &Path, suite: &[&str], more: &[&str]) -> Command {
        let mut command = desk.cnibench(&["run"]);
        command.args(suite).args(["--provider", "kubeconfig", "--cni", "installed"]);
        command.args(["--out", "out", "--kubeconfig"]).arg(kubeconfig);
        let unless = |name: &str| !more.contains(&name);
        if let Some(image) = self.image.as_ref().filter(|_| unless("--workload-image")) {
            command.args(["--workload-image", image]);
        }
        if unless("--pod-cpus") {
            command.args(["--pod-cpus", "none"]);
        }
        command.args(more);
        command
    }

    fn run(&self, desk: &Desk, suite: &[&str], more: &[&str]) -> Command {
        self.run_as(desk, &self.kubeconfig, suite, more)
    }

    /// A namespace of a test's own.
    fn namespace<'a>(&'a self, name: &'static str, labels: &[&str]) -> Restore<impl FnMut() + 'a> {
        let _ = self.try_kubectl(&["delete", "namespace", name, "--ignore-not-found"]);
        self.kubectl(&["create", "namespace", name]);
        for label in labels {
            self.kubectl(&["label", "namespace", name, label]);
        }
        Restore(move || drop(self.try_kubectl(&["delete", "namespace", name])))
    }
}

/// Undoes something at the end of a test, however it ends.
struct Restore<F: FnMut()>(F);

impl<F: FnMut()> Drop for Restore<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn docker(args: &[&str]) {
    let output = Command::new("docker").args(args).output().unwrap();
    assert!(output.status.success(), "docker {args:?}: {}", said(&output));
}

/// A run that goes on beside the test.
struct Going(Child);

impl Going {
    fn start(desk: &Desk, mut command: Command) -> Self {
        let err = fs::File::create(desk.path("said")).unwrap();
        Self(command.stdout(Stdio::null()).stderr(err).spawn().unwrap())
    }

    /// Waits until something is so, which must be before it ends.
    fn until(&mut self, desk: &Desk, what: &str, so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !so() {
            let said = || fs::read_to_string(desk.path("said")).unwrap();
            assert!(self.0.try_wait().unwrap().is_none(), "it ended before {what}: {}", said());
            assert!(begun.elapsed() < Duration::from_secs(180), "never {what}: {}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Its exit code and what it said.
    fn end(mut self, desk: &Desk) -> (Option<i32>, String) {
        let code = self.0.wait().unwrap().code();
        let said = fs::read_to_string(desk.path("said")).unwrap();
        println!("{said}");
        (code, said)
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn trials(desk: &Desk) -> usize {
    let journal = fs::read_to_string(desk.path("out/journal.jsonl")).unwrap_or_default();
    journal.lines().filter(|l| l.contains("\"event\":\"trial\"")).count()
}

fn warnings(record: &Value) -> String {
    record["trials"].as_array().unwrap().iter().map(|t| t["warnings"].to_string()).collect()
}

#[test]
fn an_api_server_that_is_away_for_a_while_costs_no_case() {
    const AWAY: Duration = Duration::from_secs(20);
    let _turn = turn();
    let (lab, desk) = (Lab::new(), Desk::new());
    let node = lab.control_plane();
    let suite = &["smoke", "--workload", "udp_rr", "--trials", "4", "--duration", "4s"];
    let mut going = Going::start(&desk, lab.run(&desk, suite, &[]));
    going.until(&desk, "a trial was done", || trials(&desk) > 0);
    let here = "/etc/kubernetes/manifests/kube-apiserver.yaml";
    let shell = |script: &str| docker(&["exec", &node, "sh", "-c", script]);
    {
        let _back =
            Restore(|| shell(&format!("[ -e {here} ] || mv /root/kube-apiserver.yaml {here}")));
        shell(&format!(
            "mv {here} /root/ && crictl stop -t 1 $(crictl ps -q --name kube-apiserver)"
        ));
        std::thread::sleep(AWAY);
    }
    let (code, said) = going.end(&desk);
    assert_eq!(code, Some(0), "{said}");
    let record = desk.record();
    assert_eq!(record["trials"].as_array().unwrap().len(), 4);
    let warnings = warnings(&record);
    assert!(warnings.contains("this is the trial that was run again"), "{warnings}");
    lab.nothing_is_left();
}

#[test]
fn a_user_needs_what_rbac_prints_and_no_more() {
    let _turn = turn();
    let (lab, desk) = (Lab::new(), Desk::new());
    let _bench = lab.namespace("bench-rights", &[]);
    lab.kubectl(&["-n", "bench-rights", "create", "serviceaccount", "runner"]);
    let token = lab.kubectl(&["-n", "bench-rights", "create", "token", "runner"]);
    let config = lab.kubectl(&["config", "view", "--raw", "--flatten", "-o", "json"]);
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["users"][0]["user"] = json!({"token": token.trim()});
    let theirs = desk.path("theirs");
    fs::write(&theirs, config.to_string()).unwrap();
    let run = |more: &[&str]| output(lab.run_as(&desk, &theirs, SHORT, more));

    let refused = run(&[]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("no right to create pods"), "{}", said(&refused));
    assert!(said(&refused).contains("create namespaces"), "{}", said(&refused));

    let subject = ["--namespace", "bench-rights", "--subject", "bench-rights/runner"];
    let rbac = output(desk.cnibench(&[&["rbac"], &subject[..]].concat()));
    let rbac = String::from_utf8(rbac.stdout).unwrap();
    assert!(!rbac.contains("ClusterRole"), "{rbac}");
    lab.apply(&desk, &rbac);
    let done = run(&["--namespace", "bench-rights"]);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    assert_eq!(desk.record()["trials"].as_array().unwrap().len(), 1);
    lab.nothing_is_left();

    config["users"][0]["user"] = json!({"token": format!("{}x", token.trim())});
    fs::write(&theirs, config.to_string()).unwrap();
    let unknown = run(&["--namespace", "bench-rights"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(said(&unknown).contains("401 Unauthorized"), "{}", said(&unknown));
}

#[test]
fn a_taint_is_named_with_the_way_around_it() {
    let _turn = turn();
    let (lab, desk) = (Lab::new(), Desk::new());
    let taint = |text: &str| lab.try_kubectl(&["taint", "nodes", "--all", "--overwrite", text]);
    let _taints = Restore(|| drop(taint("bench-")));
    assert!(taint("bench=yes:NoSchedule").status.success());
    let refused = output(lab.run(&desk, SHORT, &[]));
    assert_eq!(refused.status.code(), Some(2));
    let text = said(&refused);
    assert!(
        text.contains("tainted bench=yes:NoSchedule") && text.contains("--toleration"),
        "{text}"
    );
    lab.nothing_is_left();
    fs::remove_dir_all(desk.path("out")).unwrap();
    let done = output(lab.run(&desk, SHORT, &["--toleration", "bench=yes"]));
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    lab.nothing_is_left();
}

#[test]
fn pods_that_fit_nowhere_say_why() {
    let _turn = turn();
    let (lab, desk) = (Lab::new(), Desk::new());
    let refused = |more: &[&str]| {
        let _ = fs::remove_dir_all(desk.path("out"));
        let refused = output(lab.run(&desk, SHORT, more));
        assert_eq!(refused.status.code(), Some(2));
        lab.nothing_is_left();
        said(&refused)
    };
    let text = refused(&["--pod-cpus", "64"]);
    assert!(text.contains("Insufficient cpu") && text.contains("--pod-cpus"), "{text}");
    let text = refused(&["--node-selector", "pool=none"]);
    assert!(text.contains("0 usable nodes with pool=none"), "{text}");
    let text = refused(&["--workload-image", "nowhere.invalid/none:1"]);
    assert!(text.contains("nowhere.invalid/none:1 cannot be pulled"), "{text}");
    let _bench = lab.namespace("bench-quota", &[]);
    lab.kubectl(&["-n", "bench-quota", "create", "quota", "small", "--hard=pods=1"]);
    let text = refused(&["--namespace", "bench-quota"]);
    assert!(text.contains("exceeded quota: small") && !text.contains("rbac"), "{text}");
}

#[test]
fn a_restricted_namespace_takes_the_pods_and_no_baseline() {
    let _turn = turn();
    let (lab, desk) = (Lab::new(), Desk::new());
    let _bench =
        lab.namespace("bench-restricted", &["pod-security.kubernetes.io/enforce=restricted"]);
    let more = &["--namespace", "bench-restricted", "--cni", "host"];
    let done = output(lab.run(&desk, SHORT, more));
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    assert!(said(&done).contains("no baseline: Pod host-"), "{}", said(&done));
    let record = desk.record();
    let status = |cni: &str| {
        let case = format!("kubeconfig/{cni}/udp_rr/cross-node");
        let cells = record["cells"].as_array().unwrap();
        cells.iter().find(|c| c["case"] == json!(case)).unwrap().clone()
    };
    assert!(status("installed").to_string().contains("measured"), "{}", status("installed"));
    let host = status("host").to_string();
    assert!(host.contains("skipped") && host.contains("violates PodSecurity"), "{host}");
    lab.nothing_is_left();
}

#[test]
fn a_namespace_that_hangs_is_told_and_cleaned_later() {
    let _turn = turn();
    let (lab, desk) = (Lab::new(), Desk::new());
    let suite = &["smoke", "--workload", "udp_rr", "--trials", "3", "--duration", "4s"];
    let mut going = Going::start(&desk, lab.run(&desk, suite, &[]));
    going.until(&desk, "a trial was done", || trials(&desk) > 0);
    let namespace = lab.namespaces()[0].clone();
    let config = format!(
        "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: held, namespace: {namespace}, finalizers: [example.org/held]}}}}"
    );
    lab.apply(&desk, &config);
    let release = || {
        let patch = r#"{"metadata":{"finalizers":null}}"#;
        lab.try_kubectl(&[
            "-n",
            &namespace,
            "patch",
            "configmap",
            "held",
            "--type=merge",
            "-p",
            patch,
        ])
    };
    {
        let _released = Restore(|| drop(release()));
        let (code, said) = going.end(&desk);
        assert_eq!(code, Some(0), "what was measured counts: {said}");
        assert!(
            said.contains("is still Terminating") && said.contains("example.org/held"),
            "{said}"
        );
        assert_eq!(desk.record()["trials"].as_array().unwrap().len(), 3);
    }
    let mut clean = desk.cnibench(&["clean", "--kubeconfig"]);
    clean.arg(&lab.kubeconfig);
    assert_eq!(output(clean).status.code(), Some(0));
    lab.nothing_is_left();
}

/// Stops a run when something is so, and looks for what it left.
fn stopped(lab: &Lab, desk: &Desk, what: &str, suite: &[&str], so: impl Fn() -> bool) {
    let _ = fs::remove_dir_all(desk.path("out"));
    let mut going = Going::start(desk, lab.run(desk, suite, &[]));
    going.until(desk, what, so);
    going.signal("INT");
    let (code, said) = going.end(desk);
    assert_eq!(code, Some(3), "stopped when {what}: {said}");
    lab.nothing_is_left();
}

#[test]
fn a_run_that_is_stopped_leaves_nothing_at_any_stage() {
    let _turn = turn();
    let (lab, desk) = (Lab::new(), Desk::new());
    let suite = desk.path("policies.toml");
    fs::write(
        &suite,
        "name = \"p\"\n[[scenario]]\nworkloads = \"udp_rr\"\nplacements = \"cross-node\"\ntrials = 2\npolicies = [300]\n",
    )
    .unwrap();
    let policies = [suite.to_str().unwrap()];
    let running = || {
        let phases = lab.kubectl(&[
            "get",
            "pods",
            "-A",
            "-l",
            OURS,
            "-o",
            "jsonpath={.items[*].status.phase}",
        ]);
        phases.contains("Running") && !phases.contains("Pending")
    };
    let heard = |words: &str| fs::read_to_string(desk.path("said")).unwrap().contains(words);
    stopped(&lab, &desk, "its namespace was there", SHORT, || !lab.namespaces().is_empty());
    stopped(&lab, &desk, "its pods ran", SHORT, running);
    stopped(&lab, &desk, "policies were proved", SHORT, || !lab.ours("networkpolicies").is_empty());
    stopped(&lab, &desk, "policies were made", &policies, || {
        lab.ours("networkpolicies").len() > 50
    });
    let long = &["smoke", "--workload", "udp_rr", "--trials", "9", "--duration", "2s"];
    stopped(&lab, &desk, "trials were measured", long, || trials(&desk) > 0);
    assert!(!desk.record()["trials"].as_array().unwrap().is_empty());
    stopped(&lab, &desk, "it was taken down", SHORT, || heard("taking everything down"));
}

#[test]
fn a_run_that_is_killed_is_cleaned_and_one_that_lives_is_not() {
    let _turn = turn();
    let (lab, killed, living) = (Lab::new(), Desk::new(), Desk::new());
    // Long enough that the one that lives still does when the other's namespace has gone.
    let long = &["smoke", "--workload", "udp_rr", "--trials", "40", "--duration", "4s"];
    let mut going = Going::start(&killed, lab.run(&killed, long, &[]));
    going.until(&killed, "a trial was done", || trials(&killed) > 0);
    let dead = lab.namespaces();
    going.signal("KILL");
    drop(going);
    let mut going = Going::start(&living, lab.run(&living, long, &[]));
    going.until(&living, "a trial was done", || trials(&living) > 0);
    let mut clean = killed.cnibench(&["clean", "--kubeconfig"]);
    clean.arg(&lab.kubeconfig);
    let cleaned = output(clean);
    assert_eq!(cleaned.status.code(), Some(0));
    let text = String::from_utf8(cleaned.stdout).unwrap();
    let name = &dead[0];
    assert!(text.contains(&format!("removed namespace {name} of run")), "{text}");
    let left = lab.namespaces();
    assert!(left.len() == 1 && left != dead, "{left:?}");
    going.signal("INT");
    assert_eq!(going.end(&living).0, Some(3));
    lab.nothing_is_left();
}

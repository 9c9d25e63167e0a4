//! The profile `custom`: a CNI with an agent, from a file, with Debian's plugins and a daemon in shell.

use super::{
    rig::{Rig, addr_of, carry},
    support::{down, provider, says, topology, traces, up},
};
use cnibench::cluster::{IpFamily, Provider as _};
use cnibench_model::{ProofKind, ProofOutcome};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const CONFLIST: &str = r#"{"cniVersion": "1.0.0", "name": "mine", "plugins": [
    {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true, "mtu": ${MTU},
     "ipam": {"type": "host-local", "subnet": "${POD_CIDR}"}}]}"#;

/// An agent that makes the way to its peers, says that it is ready, and undoes it when it is asked to end.
const AGENT: &str = r#"set -eu
echo "agent of node $CNIBENCH_NODE_INDEX ($MODE)"
while read -r index address range; do
    ip route replace "$range" via "$address" dev "$CNIBENCH_NODE_DEVICE"
done <"$CNIBENCH_PEERS"
trap 'echo stopped; rm -f /run/mine/ready; exit 0' TERM
echo yes >/run/mine/ready
while :; do sleep 0.05; done
"#;

struct Profile {
    dir: tempfile::TempDir,
}

impl Profile {
    /// A profile with these tables behind its head.
    fn new(tables: &str) -> Self {
        assert!(
            Path::new("/usr/lib/cni/bridge").exists(),
            "this test runs Debian's CNI plugins: apt-get install containernetworking-plugins"
        );
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("c.conflist", CONFLIST);
        write("agent.sh", AGENT);
        write(
            "x.toml",
            &format!(
                "description = \"mine\"\nconflist = \"c.conflist\"\nprivate = [\"/run/mine\"]\n{tables}"
            ),
        );
        Self { dir }
    }

    fn working(more: &str) -> Self {
        Self::new(&format!(
            r#"
[env]
MODE = "plain"
[setup]
commands = [["sysctl", "-qw", "net.ipv4.ip_forward=1"], ["sh", "-c", "echo $CNIBENCH_POD_CIDR >/run/mine/range"]]
[daemon]
command = ["sh", "agent.sh"]
ready = ["test", "-e", "/run/mine/ready"]
[teardown]
commands = [["sh", "-c", "cat /run/mine/range >>$CNIBENCH_PROFILE_DIR/torn-down; test ! -e /run/mine/ready"]]
[path]
carries = ["cni0"]
{more}"#
        ))
    }

    fn spec(&self) -> String {
        format!("custom:path={}", self.path("x.toml").display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Processes that were started in the profile's folder.
    fn processes(&self) -> Vec<PathBuf> {
        let all = fs::read_dir("/proc").unwrap().flatten();
        let cwd = all.filter_map(|e| fs::read_link(e.path().join("cwd")).ok());
        cwd.filter(|cwd| cwd.starts_with(self.dir.path())).collect()
    }
}

async fn refused(profile: &Profile) -> String {
    let provider = provider();
    let spec = profile.spec().parse().unwrap();
    let began = Instant::now();
    let Err(error) = provider.up(0, &spec, &topology(2, 2, IpFamily::V4)).await else {
        panic!("it came up")
    };
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let run = provider.run_id().as_str().to_owned();
    assert!(traces(&run).is_empty(), "{:?}", traces(&run));
    assert_eq!(profile.processes(), Vec::<PathBuf>::new());
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_its_own_joins_the_nodes_and_leaves_nothing() {
    let profile = Profile::working("");
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let cluster = up(&provider, &profile.spec(), &topology(3, 2, IpFamily::V4)).await;
    let proofs = cluster.prove().await;
    assert!(proofs.iter().any(|p| p.kind == ProofKind::Path), "{proofs:?}");
    for proof in proofs {
        assert_eq!(proof.outcome, ProofOutcome::Passed, "{proof:?}");
    }
    assert!(profile.processes().len() >= 3, "{:?}", profile.processes());
    assert!(!Path::new("/run/mine").exists(), "a node's own directory is the machine's");
    assert!(
        cluster.info().details.iter().any(|d| d.contains("a daemon on every node: sh agent.sh"))
    );
    down(cluster).await;
    let mut ranges: Vec<String> =
        fs::read_to_string(profile.path("torn-down")).unwrap().lines().map(str::to_owned).collect();
    ranges.sort();
    assert_eq!(ranges, ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"]);
    assert!(traces(&run).is_empty(), "{:?}", traces(&run));
    assert_eq!(profile.processes(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_tell_each_other_facts_and_a_variable_makes_another_arm() {
    let profile = Profile::working(
        "[facts]\ncommand = [\"sh\", \"-c\", \"echo key=k$CNIBENCH_NODE_INDEX\"]\n",
    );
    let rig = Rig::new(2, 1, IpFamily::V4);
    let cni = rig.cni(&format!("{},env.MODE=fast", profile.spec()));
    assert!(cni.details().contains(&"MODE=fast".to_owned()), "{:?}", cni.details());
    let mut attached = rig.attach(cni.as_ref()).await.unwrap();
    assert_eq!(attached.agents[1].facts()["key"], "k1");
    carry(
        &rig.nodes[0].pods[0].netns,
        &rig.nodes[1].pods[0].netns,
        addr_of(&attached.pods[1][0], true),
    );
    assert!(
        says(&rig.nodes[0].ctx.netns, &["ip", "route"]).contains("10.244.1.0/24 via 172.31.0.2")
    );
    assert_eq!(rig.detach(&mut attached).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_dies_is_found_with_its_last_lines() {
    let profile = Profile::working("");
    fs::write(
        profile.path("agent.sh"),
        format!("( sleep 0.1; until [ -e $CNIBENCH_PROFILE_DIR/die ]; do sleep 0.02; done; echo 'lost my peers' >&2; kill -9 $$ ) &\n{AGENT}"),
    )
    .unwrap();
    let provider = provider();
    let mut cluster = up(&provider, &profile.spec(), &topology(2, 2, IpFamily::V4)).await;
    cluster.check().await.unwrap();
    fs::write(profile.path("die"), "").unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    let error = loop {
        match cluster.check().await {
            Err(e) => break format!("{e:#}"),
            Ok(()) => assert!(Instant::now() < until, "its death is not seen"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(error.contains("the daemon `sh agent.sh` ended: killed by signal 9"), "{error}");
    assert!(error.contains("lost my peers"), "{error}");
    cluster.down().await;
    assert_eq!(profile.processes(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_fails_or_never_gets_ready_is_no_cluster() {
    let dying = Profile::new(
        "[daemon]\ncommand = [\"sh\", \"-c\", \"echo bad flag >&2; exit 2\"]\nready = [\"false\"]\n",
    );
    let error = refused(&dying).await;
    assert!(error.contains("exit status 2; its last lines:\nbad flag"), "{error}");
    let slow = Profile::new(
        "[daemon]\ncommand = [\"sh\", \"-c\", \"echo waiting; sleep 600\"]\nready = [\"sh\", \"-c\", \"echo not yet >&2; false\"]\ntimeout = \"300ms\"\n",
    );
    let error = refused(&slow).await;
    assert!(error.contains("was not ready within 0.3 s: "), "{error}");
    assert!(
        error.contains("not yet") && error.contains("the daemon's last lines:\nwaiting"),
        "{error}"
    );
    let hanging = Profile::new(
        "[daemon]\ncommand = [\"sleep\", \"600\"]\nready = [\"sleep\", \"600\"]\ntimeout = \"300ms\"\n",
    );
    assert!(refused(&hanging).await.contains("and was killed"));
    let unset =
        Profile::new("[setup]\ncommands = [[\"sh\", \"-c\", \"echo no device >&2; exit 4\"]]\n");
    let error = refused(&unset).await;
    assert!(error.contains("set-up: `sh -c "), "{error}");
    assert!(error.contains("exit status 4; standard error:\nno device"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_when_it_is_taken_down_is_told_and_gone() {
    let profile = Profile::new(
        r#"[setup]
commands = [["sysctl", "-qw", "net.ipv4.ip_forward=1"]]
[daemon]
command = ["sh", "-c", "trap '' TERM; while read -r i a r; do ip route replace $r via $a; done <$CNIBENCH_PEERS; touch /run/mine/ready; while :; do sleep 0.05; done"]
ready = ["test", "-e", "/run/mine/ready"]
stop = "300ms"
[teardown]
commands = [["sleep", "600"], ["touch", "after"]]
timeout = "500ms"
"#,
    );
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let mut cluster = up(&provider, &profile.spec(), &topology(2, 2, IpFamily::V4)).await;
    let began = Instant::now();
    let errors: Vec<String> = cluster.down().await.iter().map(|e| format!("{e:#}")).collect();
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert_eq!(errors.len(), 2, "one for each node: {errors:?}");
    for error in &errors {
        assert!(error.contains("did not end within 0.3 s of SIGTERM and was killed"), "{error}");
        assert!(error.contains("tear-down: `sleep 600` did not end within"), "{error}");
    }
    assert!(traces(&run).is_empty(), "{:?}", traces(&run));
    assert_eq!(profile.processes(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_dropped_is_torn_down() {
    let profile = Profile::working("");
    let provider = provider();
    let cluster = up(&provider, &profile.spec(), &topology(2, 2, IpFamily::V4)).await;
    assert!(!profile.processes().is_empty());
    tokio::task::spawn_blocking(move || drop(cluster)).await.unwrap();
    assert_eq!(profile.processes(), Vec::<PathBuf>::new());
    assert_eq!(fs::read_to_string(profile.path("torn-down")).unwrap().lines().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_that_is_shipped_passes_every_proof() {
    let provider = provider();
    let spec = concat!(
        "custom:path=",
        env!("CARGO_MANIFEST_DIR"),
        "/../scenarios/custom/example/routes.toml"
    );
    let cluster = up(&provider, spec, &topology(2, 2, IpFamily::V4)).await;
    let failed: Vec<_> =
        cluster.prove().await.into_iter().filter(|p| p.outcome != ProofOutcome::Passed).collect();
    assert!(failed.is_empty(), "{failed:?}");
    down(cluster).await;
}

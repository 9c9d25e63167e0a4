//! The profile `conflist` with Debian's plugins, and with plugins that misbehave.

use super::{
    rig::{Rig, addr_of, carry, links},
    support::{down, provider, topology, traces, up},
};
use cnibench::{
    cluster::{IpFamily, Provider as _},
    cni::conflist::{
        config::ConfList,
        node::NodeThread,
        runtime::{Attachment, CheckOutcome, Runtime},
    },
    netlink::{Batch, Rtnl},
    proof::payload::deliver,
};
use cnibench_model::{ProofKind, ProofOutcome};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

const BIN: &str = "/usr/lib/cni";

fn write_list(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("test.conflist");
    fs::write(&path, text).unwrap();
    path
}

fn assert_plugins() {
    assert!(
        Path::new(BIN).join("bridge").exists(),
        "this test runs Debian's CNI plugins: apt-get install containernetworking-plugins"
    );
}

const CHAIN: &str = r#"{
    "cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.0.0", "1.1.0"], "name": "testnet",
    "plugins": [
        {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true, "mtu": ${MTU},
         "ipam": {"type": "host-local", "ranges": [[{"subnet": "${POD_CIDR}"}], [{"subnet": "${POD_CIDR6}"}]]}},
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}, "capabilities": {"mac": true}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "firewall", "backend": "iptables"}
    ]
}"#;

#[tokio::test(flavor = "multi_thread")]
async fn debian_plugins_in_a_chain_connect_pods_across_nodes() {
    assert_plugins();
    let dir = tempfile::tempdir().unwrap();
    let list = write_list(dir.path(), CHAIN);
    let had_state = [Path::new("/var/lib/cni"), Path::new("/run/cni")].map(Path::exists);
    let rig = Rig::new(2, 2, IpFamily::Dual);
    let cni = rig.cni(&format!("conflist:path={},bin={BIN},mtu=1400", list.display()));
    let mut attached = rig.attach(cni.as_ref()).await.unwrap();
    for v4 in [true, false] {
        for (a, b) in [(0, 1), (1, 0)] {
            let target = addr_of(&attached.pods[b][1], v4);
            let range = rig.nodes[b].ctx.pod_cidrs[usize::from(!v4)];
            assert!(range.contains(&target), "{target} is not of {range}");
            let (from, to) = (&rig.nodes[a].pods[0].netns, &rig.nodes[b].pods[1].netns);
            carry(from, to, target);
        }
    }
    let pod = &rig.nodes[0].pods[0];
    let somaxconn =
        pod.netns.run_blocking(|| Ok(fs::read_to_string("/proc/sys/net/core/somaxconn")?)).unwrap();
    assert_eq!(somaxconn.trim(), "500", "the second plugin of the chain ran");
    attached.agents[0].check().await.unwrap();

    // CHECK notices what somebody took away.
    pod.netns
        .run_blocking(|| {
            let mut rtnl = Rtnl::open()?;
            let mut batch = Batch::new();
            batch.del_link(rtnl.link("eth0")?.index);
            rtnl.apply(&batch)
        })
        .unwrap();
    let gone = format!("{:#}", attached.agents[0].check().await.unwrap_err());
    assert!(gone.contains("CNI plugin \"bridge\", CHECK: "), "{gone}");
    assert!(gone.contains("eth0"), "{gone}");
    attached.agents[1].check().await.unwrap();

    // DEL succeeds although the interface is gone, and leaves the bridge alone behind.
    assert_eq!(rig.detach(&mut attached).await, Vec::<String>::new());
    for node in &rig.nodes {
        assert_eq!(links(&node.ctx.netns), ["cni0", "eth0", "lo"]);
        assert_eq!(links(&node.pods[1].netns), ["lo"]);
    }
    let has_state = [Path::new("/var/lib/cni"), Path::new("/run/cni")].map(Path::exists);
    assert_eq!(has_state, had_state, "the machine's own state directories were touched");
}

/// Debian 12's bandwidth plugin (1.1.1) crashes in CHECK when it has nothing to limit.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_cannot_check_is_named_with_the_way_round_it() {
    assert_plugins();
    let scripts = Scripts::new(&[(
        "crashes",
        r#"[ $CNI_COMMAND = CHECK ] && exit 2
        [ $CNI_COMMAND = ADD ] && echo "$input" | sed 's/.*"prevResult"://; s/,"type":"crashes"}$//'; exit 0"#,
    )]);
    let list = write_list(
        scripts.dir.path(),
        r#"{"cniVersion": "1.0.0", "name": "m", "plugins": [
            {"type": "ptp", "ipam": {"type": "host-local", "subnet": "${POD_CIDR}"}}, {"type": "crashes"}]}"#,
    );
    let spec =
        format!("conflist:path={},bin={BIN}:{}", list.display(), scripts.dir.path().display());
    let rig = Rig::new(1, 1, IpFamily::V4);
    let Err(error) = rig.attach(rig.cni(&spec).as_ref()).await else { panic!("CHECK was not run") };
    let error = format!("{error:#}");
    assert!(error.contains("say check=false"), "{error}");
    assert!(error.contains("CNI plugin \"crashes\", CHECK: exit status 2"), "{error}");
    drop(rig);
    let rig = Rig::new(1, 1, IpFamily::V4);
    let mut attached = rig.attach(rig.cni(&format!("{spec},check=false")).as_ref()).await.unwrap();
    attached.agents[0].check().await.unwrap();
    assert_eq!(rig.detach(&mut attached).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_that_is_shipped_works() {
    assert_plugins();
    let rig = Rig::new(3, 1, IpFamily::V4);
    let example =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../scenarios/conflists/bridge-host-local.conflist");
    let cni = rig.cni(&format!("conflist:path={example}"));
    let mut attached = rig.attach(cni.as_ref()).await.unwrap();
    for (a, b) in [(0, 1), (1, 2), (2, 0)] {
        let target = addr_of(&attached.pods[b][0], true);
        carry(&rig.nodes[a].pods[0].netns, &rig.nodes[b].pods[0].netns, target);
    }
    assert_eq!(rig.detach(&mut attached).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_the_example_passes_every_proof_and_leaves_nothing() {
    assert_plugins();
    let example =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../scenarios/conflists/bridge-host-local.conflist");
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let spec = format!("conflist:path={example}");
    let mut cluster = up(&provider, &spec, &topology(2, 2, IpFamily::V4)).await;
    let proofs = cluster.prove().await;
    assert_eq!(proofs.len(), 3, "{proofs:#?}");
    for proof in &proofs {
        assert_eq!(proof.outcome, ProofOutcome::Passed, "{proof:#?}");
    }
    let path = proofs.iter().find(|p| p.kind == ProofKind::Path).unwrap();
    assert!(path.summary.ends_with("other devices were not claimed"), "{path:#?}");
    let says = |way: &str, text: &str| {
        assert!(path.evidence.iter().any(|e| e.starts_with(way) && e.contains(text)), "{path:#?}");
    };
    says("same-node", "(the pod's port)");
    says("cross-node", "cni0 on the client's node: also carried");
    cluster.check().await.unwrap();
    down(cluster).await;
    assert_eq!(traces(&run), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ipv4_conflist_in_a_dual_cluster_is_told_what_to_add() {
    assert_plugins();
    let example =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../scenarios/conflists/bridge-host-local.conflist");
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let spec = format!("conflist:path={example}").parse().unwrap();
    for (family, name) in [(IpFamily::Dual, "dual"), (IpFamily::V6, "v6")] {
        let error = provider.up(0, &spec, &topology(2, 1, family)).await.err().unwrap().to_string();
        if family == IpFamily::Dual {
            let words = format!("no IPv6 address, the suite's family is {name}: add an IPv6 range");
            assert!(error.contains(&words), "{error}");
        }
        assert!(!error.contains("service") && !error.contains("cnb-"), "{error}");
        assert_eq!(traces(&run), [""; 0]);
    }
}

/// Processes whose command line has this text.
fn running(text: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = entries.filter_map(|e| fs::read_to_string(e.path().join("cmdline")).ok());
    lines.filter(|l| l.contains(text)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bringing_up_can_be_dropped_while_plugins_hang() {
    // In ADD, then also in the DEL that follows it.
    for body in ["[ $CNI_COMMAND = ADD ] && sleep 600; exit 0", "sleep 600"] {
        let scripts = Scripts::new(&[("hang", body)]);
        let list = write_list(
            scripts.dir.path(),
            r#"{"cniVersion": "1.0.0", "name": "m", "plugins": [{"type": "hang"}]}"#,
        );
        let bin = scripts.dir.path().display();
        let spec = format!("conflist:path={},bin={bin},deadline=600", list.display());
        let provider = provider();
        let run = provider.run_id().as_str().to_owned();
        let (spec, shape) = (spec.parse().unwrap(), topology(3, 1, IpFamily::V4));
        let all_hang = async {
            while scripts.log().iter().filter(|l| l.starts_with("hang ADD")).count() < 3 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            up = provider.up(0, &spec, &shape) => panic!("it came up or failed: {:?}", up.err()),
            () = all_hang => {}
        }
        let until = tokio::time::Instant::now() + Duration::from_secs(30);
        let left = || [traces(&run), running(&bin.to_string())].concat();
        while !left().is_empty() {
            assert!(tokio::time::Instant::now() < until, "{:?}", left());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // It was a thread of this process that had the plugins' state mounted.
        let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = threads.filter_map(|t| fs::read_to_string(t.path().join("comm")).ok());
        let ours = names.filter(|n| n.starts_with(&format!("cni cnb-{run}"))).count();
        assert_eq!(ours, 0, "threads of nodes are still there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ptp_plugin_works_and_without_routes_nodes_stay_apart() {
    assert_plugins();
    let dir = tempfile::tempdir().unwrap();
    let list = write_list(
        dir.path(),
        r#"{"cniVersion": "0.4.0", "name": "p2p", "plugins": [{"type": "ptp", "mtu": ${MTU},
            "ipam": {"type": "host-local", "subnet": "${POD_CIDR}", "routes": [{"dst": "0.0.0.0/0"}]}}]}"#,
    );
    let rig = Rig::new(2, 1, IpFamily::V4);
    let cni = rig.cni(&format!("conflist:path={},bin={BIN}", list.display()));
    let mut attached = rig.attach(cni.as_ref()).await.unwrap();
    let target = addr_of(&attached.pods[1][0], true);
    let ends = [0, 1].map(|i: usize| rig.nodes[i].pods[0].netns.clone());
    carry(&ends[0], &ends[1], target);
    assert_eq!(rig.detach(&mut attached).await, Vec::<String>::new());
    drop(rig);

    let rig = Rig::new(2, 1, IpFamily::V4);
    let cni = rig.cni(&format!("conflist:path={},bin={BIN},routes=none", list.display()));
    let mut attached = rig.attach(cni.as_ref()).await.unwrap();
    let target = addr_of(&attached.pods[1][0], true);
    let ends = [0, 1].map(|i: usize| rig.nodes[i].pods[0].netns.clone());
    let error = deliver(&ends[0], &ends[1], target, b"canary").unwrap_err();
    assert!(format!("{error:#}").contains("TCP: reaching"), "{error:#}");
    assert_eq!(rig.detach(&mut attached).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mtu_that_is_not_the_expected_one_is_refused() {
    assert_plugins();
    let dir = tempfile::tempdir().unwrap();
    let list = write_list(
        dir.path(),
        r#"{"cniVersion": "1.0.0", "name": "m", "plugins": [{"type": "ptp", "mtu": 1300,
            "ipam": {"type": "host-local", "subnet": "${POD_CIDR}"}}]}"#,
    );
    let rig = Rig::new(1, 1, IpFamily::V4);
    let cni = rig.cni(&format!("conflist:path={},bin={BIN}", list.display()));
    let Err(error) = rig.attach(cni.as_ref()).await else { panic!("a wrong MTU was accepted") };
    let error = format!("{error:#}");
    assert!(error.contains("an MTU of 1300, the cluster counts on 1500: say mtu=1300"), "{error}");
}

/// Plugins as shell scripts in a directory; each logs its calls.
struct Scripts {
    dir: tempfile::TempDir,
}

impl Scripts {
    fn new(plugins: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, body) in plugins {
            let path = dir.path().join(name);
            let log = dir.path().join("log");
            let text = format!(
                "#!/bin/sh\nprev=no; input=$(cat); case \"$input\" in *prevResult*) prev=yes;; esac\n\
                 [ $CNI_COMMAND = VERSION ] || echo \"{name} $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME prev=$prev\" >> {}\n\
                 if [ $CNI_COMMAND = VERSION ]; then echo '{{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.4.0\",\"1.0.0\",\"1.1.0\"]}}'; exit; fi\n{body}\n",
                log.display()
            );
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { dir }
    }

    fn runtime(&self, version: &str, plugins: &[&str]) -> Runtime {
        self.hurried(version, plugins, Duration::from_secs(120))
    }

    fn hurried(&self, version: &str, plugins: &[&str], deadline: Duration) -> Runtime {
        let plugins: Vec<_> = plugins.iter().map(|p| format!("{{\"type\":\"{p}\"}}")).collect();
        let text = format!(
            "{{\"cniVersion\":\"{version}\",\"name\":\"n\",\"plugins\":[{}]}}",
            plugins.join(",")
        );
        let list = ConfList::parse(&text).unwrap();
        Runtime::new(list, vec![self.dir.path().to_owned()], deadline)
    }

    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

fn attachment() -> Attachment {
    Attachment {
        container_id: "pod".into(),
        netns: "/run/netns/none".into(),
        ifname: "eth0".into(),
        args: Vec::new(),
        capability_args: serde_json::Map::new(),
    }
}

const GOOD: &str = r#"[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"}]}'; exit 0"#;

#[test]
fn a_failure_in_the_chain_undoes_what_was_done() {
    let scripts = Scripts::new(&[
        ("first", GOOD),
        (
            "second",
            r#"[ $CNI_COMMAND = ADD ] || exit 0; echo gossip >&2
               echo '{"cniVersion":"1.0.0","code":11,"msg":"no room","details":"come back"}'; exit 1"#,
        ),
        ("third", GOOD),
    ]);
    let runtime = scripts.runtime("1.0.0", &["first", "second", "third"]);
    let failure = runtime.add(&attachment()).unwrap_err();
    assert_eq!(
        failure.to_string(),
        "CNI plugin \"second\", ADD: no room: come back (code 11, try again later); standard error: \"gossip\""
    );
    assert_eq!(
        scripts.log(),
        [
            "first ADD pod eth0 prev=no",
            "second ADD pod eth0 prev=yes",
            "third DEL pod eth0 prev=no",
            "second DEL pod eth0 prev=no",
            "first DEL pod eth0 prev=no",
        ]
    );
}

#[test]
fn commands_get_the_result_of_add_and_del_goes_backwards_past_errors() {
    let scripts = Scripts::new(&[
        ("first", GOOD),
        ("second", &format!("[ $CNI_COMMAND = DEL ] && exit 7\n{GOOD}")),
    ]);
    let runtime = scripts.runtime("1.0.0", &["first", "second"]);
    let to = attachment();
    let result = runtime.add(&to).unwrap();
    assert_eq!(runtime.check(&to, &result), Ok(CheckOutcome::Passed));
    let errors = runtime.del(&to, Some(&result));
    assert_eq!(errors.len(), 1);
    assert_eq!(
        errors[0].to_string(),
        "CNI plugin \"second\", DEL: exit status 7 without an error object"
    );
    assert_eq!(
        scripts.log()[2..],
        [
            "first CHECK pod eth0 prev=yes",
            "second CHECK pod eth0 prev=yes",
            "second DEL pod eth0 prev=yes",
            "first DEL pod eth0 prev=yes",
        ]
    );
}

#[test]
fn older_lists_have_no_check_and_newer_ones_status_and_gc() {
    let scripts = Scripts::new(&[("first", GOOD)]);
    let old = scripts.runtime("0.3.1", &["first"]);
    let to = attachment();
    let result = old.add(&to).unwrap();
    assert!(matches!(old.check(&to, &result), Ok(CheckOutcome::Skipped(_))));
    assert_eq!(old.status(), Ok(false));
    assert_eq!(old.gc(&[]), []);
    assert_eq!(old.del(&to, Some(&result)), []);
    assert_eq!(scripts.log(), ["first ADD pod eth0 prev=no", "first DEL pod eth0 prev=no"]);

    let scripts = Scripts::new(&[(
        "first",
        "[ $CNI_COMMAND = STATUS ] && { echo '{\"code\":50,\"msg\":\"no daemon\"}'; exit 1; }\n\
             [ $CNI_COMMAND = GC ] && { case \"$input\" in *'valid-attachments\":[{\"containerID\":\"pod\",\"ifname\":\"eth0\"}]'*) exit 0;; esac; exit 1; }",
    )]);
    let new = scripts.runtime("1.1.0", &["first"]);
    let error = new.status().unwrap_err().to_string();
    assert!(error.contains("STATUS: no daemon (code 50, plugin not available)"), "{error}");
    assert_eq!(new.gc(&[to]), []);
}

#[test]
fn what_misbehaves_is_named_with_what_it_did() {
    let scripts = Scripts::new(&[
        ("good", GOOD),
        ("rubbish", "echo 'Hello, world'"),
        ("silent", "exit 0"),
        ("typed", r#"echo '{"ips":[{"address":5}]}'"#),
        ("polite", r#"echo '{"code":7,"msg":"sorry"}'; exit 0"#),
        ("huge", "[ $CNI_COMMAND = ADD ] && exec cat /dev/zero; exit 0"),
        ("hang", "[ $CNI_COMMAND = ADD ] && sleep 600; exit 0"),
        ("crash", "kill -SEGV $$"),
        ("shy", "echo 'panic: no conf' >&2; exit 2"),
    ]);
    fs::write(scripts.dir.path().join("plain"), "").unwrap();
    let error = |plugin: &str| {
        // Only the one that hangs is to meet its deadline, on a busy machine too.
        let deadline = Duration::from_secs(if plugin == "hang" { 5 } else { 120 });
        let runtime = scripts.hurried("1.0.0", &["good", plugin], deadline);
        runtime.add(&attachment()).unwrap_err().error.to_string()
    };
    let expected = [
        ("rubbish", "ADD: ended well but its output is not JSON"),
        ("rubbish", "standard output: \"Hello, world\""),
        ("silent", "not JSON (EOF"),
        ("typed", "ips[0].address: expected a string, found 5"),
        ("polite", "ADD: sorry (code 7, invalid network configuration)"),
        ("huge", "printed more than 4194304 bytes"),
        ("hang", "did not finish within 5 s and was killed"),
        ("crash", "killed by signal 11 without an error object"),
        ("shy", "exit status 2 without an error object; standard error: \"panic: no conf\""),
        ("plain", "is not an executable file"),
        ("nobody", "no such binary in /"),
        ("nobody", "containernetworking-plugins installs to /usr/lib/cni"),
    ];
    for (plugin, text) in expected {
        let error = error(plugin);
        assert!(error.starts_with(&format!("CNI plugin {plugin:?}, ADD: ")), "{error}");
        assert!(error.contains(text), "{error}\nshould say: {text}");
    }
}

#[test]
fn a_version_nobody_shares_is_refused_before_anything_is_made() {
    let scripts = Scripts::new(&[("first", GOOD)]);
    let mut runtime = scripts.runtime("0.3.1", &["first"]);
    let error = runtime.negotiate().unwrap_err().to_string();
    assert!(
        error.contains("it speaks CNI 0.4.0, 1.0.0, 1.1.0, the conflist asks for 0.3.1"),
        "{error}"
    );
    let mut runtime = scripts.runtime("1.1.0", &["first"]);
    assert_eq!(runtime.negotiate().unwrap().name(), "1.1.0");
    assert_eq!(scripts.log(), Vec::<String>::new());
}

#[test]
fn plugin_state_is_the_nodes_own_and_namespaces_stay_visible() {
    let rig = Rig::new(2, 1, IpFamily::V4);
    let threads = [0, 1].map(|i: usize| {
        let ctx = &rig.nodes[i].ctx;
        NodeThread::start(&ctx.name, ctx.netns.path(), &[]).unwrap()
    });
    let late = Rig::new(1, 1, IpFamily::V4);
    let file = Path::new("/var/lib/cni/networks/lease");
    let pods = [&rig, &late].map(|r| r.nodes[0].pods[0].netns.path().to_owned());
    threads[0]
        .run_blocking(move || {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "x").unwrap();
            fs::write("/run/cni/x", "x").unwrap();
            // A namespace is a file of nsfs; the bare file below the mount is one of tmpfs.
            for pod in &pods {
                assert!(
                    cnibench::netlink::Netns::open(pod).unwrap().run_blocking(|| Ok(())).is_ok()
                );
            }
        })
        .unwrap();
    assert!(threads[0].run_blocking(move || file.exists()).unwrap());
    assert!(!threads[1].run_blocking(move || file.exists()).unwrap());
    assert!(!file.exists() && !Path::new("/run/cni/x").exists());
}

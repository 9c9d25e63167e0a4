//! Without root: the same in a user namespace, and nothing of it on the host.

use crate::support::{provider, topology, up};
use cnibench::cluster::{ClusterError, IpFamily, Provider as _, netns::user_namespace};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::{
    os::unix::{fs::PermissionsExt, process::CommandExt as _},
    process::Command,
};

/// Runs a `child_` test below as `nobody`; `enter` moves it into a user namespace first.
fn as_nobody(test: &str, enter: bool) -> std::process::Output {
    // The test binary may lie where only root may look.
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = folder.path().join("netns-tests");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = Command::new(program);
    command.args(["--ignored", "--exact", "--nocapture", test]).uid(65534).gid(65534);
    command.current_dir("/");
    if enter {
        // SAFETY: the child has one thread here, which is why it is done here: the test runner
        // of the new program would have two.
        unsafe {
            command.pre_exec(|| {
                // As after a login: a process that has just given up root may not write its maps.
                set_dumpable_behavior(DumpableBehavior::Dumpable)?;
                user_namespace::enter_user_namespace().map_err(|e| {
                    eprintln!("{e:#}");
                    std::io::Error::from_raw_os_error(1)
                })
            });
        }
    }
    command.output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by other tests, as nobody in a user namespace"]
async fn child_measures_in_a_user_namespace() {
    let provider = provider();
    for spec in ["host", "flannel-vxlan", "flannel-host-gw"] {
        let mut cluster = up(&provider, spec, &topology(2, 2, IpFamily::Dual)).await;
        let proofs = cluster.prove().await;
        assert!(
            proofs.iter().all(|p| p.outcome == cnibench_model::ProofOutcome::Passed),
            "{proofs:#?}"
        );
        assert!(cluster.down().await.is_empty());
    }
    // eBPF takes privileges of the host: it says so, and nothing is made.
    for spec in ["ebpf", "ebpf-vxlan"] {
        let refused = provider.check(&spec.parse().unwrap(), &topology(2, 2, IpFamily::V4)).await;
        let Err(ClusterError::Unsupported { reason, .. }) = refused else { panic!("{refused:?}") };
        assert!(reason.contains("not permitted") && reason.contains("user namespace"), "{reason}");
    }
    // Where they are forbidden (here: inside this one), the way on is named.
    user_namespace::try_user_namespace().unwrap();
    std::fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
    let e = format!("{:#}", user_namespace::try_user_namespace().unwrap_err());
    assert!(e.starts_with("user.max_user_namespaces is 0 or used up"), "{e}");
    assert!(e.contains("run with sudo") && !e.contains("space left"), "{e}");
    println!("run {} was carried", provider.run_id());
}

#[tokio::test]
#[ignore = "started by other tests, as nobody"]
async fn child_is_refused() {
    assert!(!user_namespace::is_privileged());
    let e = cnibench::cluster::netns::Owner::acquire().unwrap_err().to_string();
    assert!(e.contains("run as root, or enter a user namespace"), "{e}");
    // Threads are there: the test runner's.
    let e = user_namespace::enter_user_namespace().unwrap_err().to_string();
    assert!(e.contains("before threads are started"), "{e}");
}

#[test]
fn nobody_measures_in_a_user_namespace() {
    drop(provider());
    let output = as_nobody("unprivileged::child_measures_in_a_user_namespace", true);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let run = said.lines().find_map(|l| l.split_once("run ")?.1.split(' ').next()).unwrap();
    assert!(crate::support::traces(run).is_empty());
    assert!(!std::path::Path::new(&format!("/run/cnibench/{run}.lock")).exists());
}

/// Without any privilege, and where none can be had: what can be said is still said.
#[test]
fn without_user_namespaces_doctor_and_list_still_answer() {
    drop(provider());
    let run = |args: &[&str]| {
        // A user namespace in which no further one may be made, and then no capabilities in it.
        let script = "echo 0 > /proc/sys/user/max_user_namespaces; \
            exec setpriv --bounding-set=-all --inh-caps=-all \"$@\"";
        let program = ["--user", "--map-root-user", "sh", "-ec", script, "sh"];
        let output = Command::new("unshare")
            .args(program)
            .arg(env!("CARGO_BIN_EXE_cnibench"))
            .args(args)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = run(&["doctor"]);
    assert_eq!(code, Some(2), "{said}");
    let privilege = said.lines().find(|l| l.contains("privilege")).unwrap();
    assert!(privilege.contains("missing") && privilege.contains("max_user_namespaces"), "{said}");
    for row in ["kernel  ", "cpus", "missing  flannel-vxlan", "netns", "kubeconfig"] {
        assert!(said.contains(row), "{row}: {said}");
    }
    let (code, said) = run(&["list", "cnis"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("flannel-vxlan") && said.contains("not tried: "), "{said}");
}

#[test]
fn nobody_is_told_what_to_do() {
    drop(provider());
    let output = as_nobody("unprivileged::child_is_refused", false);
    assert!(output.status.success(), "{output:?}");
}

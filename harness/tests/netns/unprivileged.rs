//! Without root: the same in a user namespace, and nothing of it on the host.

use crate::support::{provider, topology, up};
use cnibench::cluster::{IpFamily, netns::user_namespace};
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
    // Where they are forbidden (here: inside this one), the way on is named.
    user_namespace::try_user_namespace().unwrap();
    std::fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
    let e = format!("{:#}", user_namespace::try_user_namespace().unwrap_err());
    assert!(e.contains("run with sudo"), "{e}");
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

#[test]
fn nobody_is_told_what_to_do() {
    drop(provider());
    let output = as_nobody("unprivileged::child_is_refused", false);
    assert!(output.status.success(), "{output:?}");
}

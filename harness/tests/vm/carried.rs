//! What guests carry: plugins, objects, and CNIs with an agent, each measured.

#[path = "../../../ebpf-probes/build/clang.rs"]
mod clang;

use super::{record, run, stderr};
use serde_json::Value;
use std::{fs, path::Path};

/// Something in the repository.
fn ours(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path)
        .canonicalize()
        .unwrap()
        .display()
        .to_string()
}

fn plugins_are_here() {
    assert!(
        Path::new("/usr/lib/cni/bridge").exists(),
        "this test runs Debian's CNI plugins: apt-get install containernetworking-plugins"
    );
}

/// Measures a cni and gives the record, in which every proof passed and every trial is there.
fn measured(cni: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), cni, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let record = record(folder.path());
    let proofs = record["proofs"].as_array().unwrap();
    assert!(proofs.iter().any(|p| p["kind"] == "path"), "{proofs:#?}");
    assert!(proofs.iter().all(|p| p["outcome"] == "passed"), "{proofs:#?}");
    assert_eq!(record["trials"].as_array().unwrap().len(), 3);
    assert_eq!(record["clock"], "instructions");
    record
}

#[test]
fn plugins_of_a_conflist_attach_pods_in_a_guest() {
    plugins_are_here();
    let path = ours("scenarios/conflists/bridge-host-local.conflist");
    let record = measured(&format!("conflist:path={path}"));
    let details = record["cnis"][0]["details"].to_string();
    assert!(details.contains("bridge, then portmap"), "{details}");
}

#[test]
fn a_cni_with_an_agent_runs_in_a_guest() {
    plugins_are_here();
    let record = measured(&format!("custom:path={}", ours("scenarios/custom/example/routes.toml")));
    let details = record["cnis"][0]["details"].to_string();
    assert!(details.contains("a daemon on every node"), "{details}");
}

#[test]
fn a_developers_object_is_carried() {
    let folder = tempfile::tempdir().unwrap();
    let (object, sources) = (folder.path().join("mine.o"), ours("ebpf-probes/bpf"));
    let (source, sources) = (Path::new(&sources).join("datapath.bpf.c"), Path::new(&sources));
    clang::compile(&clang::find().unwrap(), &source, sources, &object).unwrap();
    let record = measured(&format!("ebpf:object={}", object.display()));
    let details = record["cnis"][0]["details"].to_string();
    assert!(details.contains("mine.o"), "{details}");
}

#[test]
fn what_is_not_here_is_named_before_anything_boots() {
    plugins_are_here();
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let write = |name: &str, text: &str| fs::write(at.join(name), text).unwrap();
    write(
        "x.conflist",
        &fs::read_to_string(ours("scenarios/custom/example/bridge.conflist")).unwrap(),
    );
    let head = "description = \"d\"\nconflist = \"x.conflist\"\n[guest]\n";
    for (table, expected) in [
        ("programs = [\"no-such-tool\"]\n", "no no-such-tool on PATH"),
        ("files = [\"no-such-file\"]\n", "no-such-file cannot be carried into a guest"),
        ("files = [\"/proc/version\"]\n", "/proc is the guest's own"),
        ("modules = [\"no_such\"]\n", "has no module no_such"),
        ("programs = [\"${NO}\"]\n", "[env] has no variable NO"),
    ] {
        write("x.toml", &format!("{head}{table}"));
        let out = at.join("out");
        let cni = format!("custom:path={}", at.join("x.toml").display());
        let output = run(&out, &cni, &[]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{table}");
        assert!(stderr(&output).contains(expected), "{table}: {}", stderr(&output));
        assert!(!out.exists(), "{table}");
    }
}

//! The command line, by running the binary; needs no privilege.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, but not what they share, as tests"
)]

use assert_cmd::Command;
use std::path::Path;

fn cnibench(args: &[&str]) -> (i32, String, String) {
    let output = Command::cargo_bin("cnibench").unwrap().args(args).output().unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// The command fails as a usage error and says all of these words.
fn refused(args: &[&str], words: &[&str]) {
    let (code, _, stderr) = cnibench(args);
    assert_eq!(code, 2, "{args:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{args:?} does not say {word:?}:\n{stderr}");
    }
}

#[test]
fn unknown_names_offer_the_nearest() {
    refused(&["run", "quik"], &["unknown suite", "did you mean \"quick\"?"]);
    refused(&["run", "--workload", "tcp_steam"], &["did you mean \"tcp_stream\"?"]);
    refused(&["run", "--placement", "cross_node"], &["did you mean \"cross-node\"?"]);
    refused(&["run", "--provider", "netsn"], &["did you mean \"netns\"?"]);
    refused(&["rum"], &["run"]);
}

#[test]
fn impossible_amounts_are_refused_with_the_limits() {
    refused(&["run", "--trials", "0"], &["expected 1 to 10000"]);
    refused(&["run", "--trials", "many"], &["not a number of trials"]);
    refused(&["run", "--duration", "0"], &["10ms to 1h"]);
    refused(&["run", "--duration", "3d"], &["not a duration"]);
    refused(&["run", "--duration", "72h"], &["10ms to 1h"]);
    refused(&["run", "--warmup=-1s"], &["does not begin with a number"]);
}

#[test]
fn cnis_that_are_not_one_are_refused() {
    refused(&["run", "--cni", "Flannel"], &["lower-case"]);
    refused(&["run", "--cni", "host:mtu"], &["key=value"]);
    refused(&["run", "--cni", ""], &["lower-case"]);
}

#[test]
fn a_suite_file_error_names_file_line_and_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    std::fs::write(
        &path,
        "name = \"mine\"\n[[scenario]]\nworkloads = \"tcp_rr\"\nplacements = \"cross-node\"\nstreems = 2\n",
    )
    .unwrap();
    let path = path.to_str().unwrap();
    refused(&["run", path], &["mine.toml:5:1", "streems", "did you mean \"streams\"?"]);
    refused(&["run", "nowhere/suite.toml"], &["cannot read the suite nowhere/suite.toml"]);
}

#[test]
fn providers_of_later_releases_are_named_as_such() {
    refused(&["run", "--provider", "bare-metal"], &["not in this release", "netns", "vm"]);
    let (code, stdout, _) = cnibench(&["list", "providers"]);
    assert_eq!(code, 0);
    assert_eq!(stdout.matches("Not in this release").count(), 1, "{stdout}");
}

#[test]
fn options_of_guests_are_those_of_one_provider() {
    let words = ["--clock means nothing to the provider netns", "--provider vm"];
    refused(&["run", "--clock", "instructions"], &words);
    refused(&["run", "--provider", "vm", "--clock", "sundial"], &["wall or instructions"]);
    refused(&["run", "--modules", "/lib/modules"], &["--kernel"]);
}

#[test]
fn the_provider_kind_says_what_is_wrong_before_anything_is_made() {
    let kind = |more: &[&'static str]| [&["run", "--provider", "kind"], more].concat();
    refused(&kind(&["--cni", "flanel-vxlan"]), &["did you mean \"flannel-vxlan\"?"]);
    refused(&kind(&["--cni", "cilium:hubble=yes"]), &["hubble=\"yes\" is not on or off"]);
    refused(&kind(&["--cni", "custom"]), &["custom:path=FILE.toml"]);
    refused(&kind(&["--pairs", "all"]), &["--pairs means nothing to the provider kind"]);
    refused(&["run", "--keep"], &["--keep means nothing to the provider netns"]);
    let folder = tempfile::tempdir().unwrap();
    let sources = folder.path().join("sources.toml");
    std::fs::write(&sources, "[cni.cilium]\nimages = [\"no.tar\"]\n").unwrap();
    let path = sources.to_str().unwrap();
    refused(
        &["run", "--provider", "kind", "--sources", path],
        &["sources.toml:2:11: ", "no.tar: No such file"],
    );
    // Tools that are nowhere: named, with where to get them.
    std::fs::write(&sources, "docker = \"no-such-docker\"\n").unwrap();
    refused(
        &["run", "--provider", "kind", "--cni", "cilium", "--sources", path],
        &["cilium: no no-such-docker here: install Docker"],
    );
    refused(
        &["run", "--provider", "kind", "--sources", path],
        &["no no-such-docker here: install Docker", "cnibench doctor"],
    );
    let (code, stdout, _) =
        cnibench(&["list", "cnis", "--provider", "kind", "--sources", path, "--format", "json"]);
    assert_eq!(code, 0);
    for name in ["flannel-ipsec", "cilium-kpr", "install Docker"] {
        assert!(stdout.contains(name), "{name}: {stdout}");
    }
}

#[test]
fn pairs_are_planned_before_anything_is_made() {
    let (code, _, stderr) = cnibench(&["ab", "--baseline", "host"]);
    assert!(code == 2 && stderr.contains("--candidate"), "{stderr}");
    let arms = ["ab", "--baseline", "host", "--candidate"];
    let ab = |more: &[&'static str]| [&arms[..], more].concat();
    refused(&ab(&["flanel-vxlan"]), &["did you mean \"flannel-vxlan\"?"]);
    refused(&ab(&["cilium"]), &["cilium is a cni of --provider kind or kubeconfig"]);
    refused(&ab(&["host#2"]), &["#2 is how reports name", "--candidate host"]);
    refused(&["run", "--cni", "host#2"], &["#2 is how reports name"]);
    refused(&["run", "--pairs", "3"], &["to the provider netns: give --provider kubeconfig\n"]);
    refused(&ab(&["host", "--pairs", "0"]), &["--pairs"]);
    let (code, stdout, stderr) = cnibench(&ab(&["host", "--dry-run", "--pairs", "4"]));
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.contains("baseline host, candidate host#2: 10 makings of the clusters, 4 pairs of every case in each; both trials of a pair next to each other"),
        "{stdout}"
    );
    refused(&ab(&["host", "--keep"]), &["--keep means nothing to the provider netns"]);
    let kind = [
        "cilium",
        "--provider",
        "kind",
        "--pairs",
        "2",
        "--rebuilds",
        "2",
        "--workload-image",
        "x",
    ];
    refused(&ab(&kind), &["--workload-image means nothing to the provider kind"]);
    let json = ["host", "--dry-run", "--format", "json", "--pairs", "4", "--workload", "tcp_rr"];
    let (code, stdout, stderr) = cnibench(&ab(&json));
    assert_eq!(code, 0, "{stderr}");
    let told: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let plan = &told["plan"];
    assert_eq!(plan["schedule"].as_array().unwrap().len(), 2 * 10 * 4);
    assert_eq!(plan["pairing"]["looks"], serde_json::json!([3, 5, 7, 10]));
    assert_eq!(plan["pairing"]["candidate"], "host#2");
    assert_eq!(plan["cases"][0]["duration_s"], 0.5);
}

#[test]
fn lists_are_tables_for_people_and_json_for_programs() {
    for (what, known) in [
        ("suites", "quick"),
        ("workloads", "tcp_crr"),
        ("placements", "pod-service"),
        ("providers", "netns"),
        ("metrics", "latency_p99"),
    ] {
        let (code, stdout, _) = cnibench(&["list", what]);
        assert!(code == 0 && stdout.contains(known), "{what}: {stdout}");
        let (_, stdout, _) = cnibench(&["list", what, "--format", "json"]);
        let rows: Vec<serde_json::Value> = serde_json::from_str(&stdout).unwrap();
        assert!(rows.iter().any(|r| r.to_string().contains(known)), "{what}");
    }
}

#[test]
fn the_schema_describes_every_file() {
    for (of, field) in [
        ("record", "schema_version"),
        ("journal", "event"),
        ("gate", "judgements"),
        ("calibration", "floors"),
        ("comparison", "candidates"),
    ] {
        let (code, stdout, _) = cnibench(&["schema", of]);
        assert_eq!(code, 0);
        let schema: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert!(schema.get("$schema").is_some() && stdout.contains(field));
    }
}

#[test]
fn completions_and_the_manual_name_every_visible_command() {
    let (_, page, _) = cnibench(&["man"]);
    let (code, bash, _) = cnibench(&["completions", "bash"]);
    assert_eq!(code, 0);
    for command in ["run", "report", "doctor", "list", "clean", "schema", "completions", "man"] {
        assert!(bash.contains(command), "completions: {command}");
        assert!(
            page.contains(&format!("\n.SH \"{}\"\n", command.to_uppercase())),
            "{command}\n{page}"
        );
    }
    for text in [&page, &bash] {
        assert!(!text.contains("wireguard"), "hidden commands are not for people:\n{text}");
    }
    assert!(!bash.contains("agent"), "hidden commands are not offered:\n{bash}");
    assert!(page.contains("\\-\\-allow\\-failed") && page.contains("\\-\\-verbose"), "{page}");
    // One page, which refers to no others.
    assert_eq!(page.matches("\n.TH ").count(), 1, "{page}");
    assert!(!page.contains("cnibench\\-run"), "{page}");
}

#[test]
fn reports_of_what_is_no_record_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    refused(&["report", "nowhere.json"], &["no record at nowhere.json"]);
    refused(
        &["report", folder.path().to_str().unwrap()],
        &["holds neither record.json nor journal.jsonl"],
    );
    refused(&["report", &at("record.json", "{}")], &["record.json", "not a cnibench record"]);
    refused(
        &["report", &at("new.json", "{\"schema_version\": 99}")],
        &["schema version 99", "newer"],
    );
    refused(&["report", &at("j.jsonl", "")], &["journal has no beginning"]);
    refused(&["report", "a.json", "b.json", "--format", "pgn"], &["png"]);
}

#[test]
fn a_results_folder_is_never_written_twice() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("record.json"), "{}").unwrap();
    assert!(
        cnibench::store::prepare_folder(folder.path())
            .unwrap_err()
            .to_string()
            .contains("already holds a run")
    );
    let inside_a_file = folder.path().join("record.json/x");
    assert!(cnibench::store::prepare_folder(Path::new(&inside_a_file)).is_err());
}

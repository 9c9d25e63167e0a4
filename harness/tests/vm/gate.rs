//! The gate on counts of instructions: nothing is nothing, and half a percent is a regression.

use crate::{record, stderr};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

fn cnibench(arguments: &[&str], out: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cnibench"));
    command.args(arguments);
    if let Some(out) = out {
        command.args(["--provider", "vm", "--clock", "instructions", "--workload", "tcp_rr"]);
        command.args(["--duration", "30ms", "--warmup", "5ms", "--quiet", "--out"]).arg(out);
    }
    command.stdin(Stdio::null()).output().unwrap()
}

fn gate(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("gate.json")).unwrap()).unwrap()
}

#[test]
fn half_a_percent_is_a_regression_and_nothing_is_none() {
    let folder = tempfile::tempdir().unwrap();
    // 13 rounds for each of two packets of a round trip of 42 thousand instructions.
    for (candidate, expected) in [("ebpf", 0), ("ebpf:burn=13", 1)] {
        let out = folder.path().join(expected.to_string());
        let arms = ["ab", "--rebuilds", "1", "--baseline", "ebpf", "--candidate", candidate];
        let output = cnibench(&arms, Some(&out));
        let code = output.status.code();
        assert_eq!(code, Some(expected), "{candidate}: {}", stderr(&output));
        let judgement = &gate(&out)["judgements"][0];
        assert_eq!(judgement["metric"], "instructions_per_transaction");
        let size = judgement["estimate"]["size"].as_f64().unwrap() - 1.0;
        match expected {
            0 => assert_eq!(size, 0.0, "the same program in the same state: {judgement}"),
            _ => assert!((0.003..0.008).contains(&size), "{judgement}"),
        }
    }
}

#[test]
fn records_of_two_boots_are_gated_and_equal() {
    let folder = tempfile::tempdir().unwrap();
    let outs = ["first", "second"].map(|name| folder.path().join(name));
    for out in &outs {
        let output = cnibench(&["run", "counted", "--cni", "host"], Some(out));
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    // Another machine with the same kernel, QEMU and cnibench.
    let path = outs[0].join("record.json");
    let mut other = record(&outs[0]);
    other["environment"]["hostname"] = "elsewhere".into();
    other["environment"]["cpu_model"] = "Another CPU".into();
    other["environment"]["cpus"] = 64.into();
    fs::write(&path, serde_json::to_vec(&other).unwrap()).unwrap();
    let [first, second] = outs.each_ref().map(|out| out.to_str().unwrap());
    let stored = ["gate", "--baseline", first, "--candidate", second, "--format", "json"];
    let output = cnibench(&stored, None);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let gate: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(gate["outcome"], "pass");
    assert_eq!(gate["judgements"][0]["estimate"]["size"], 1.0);
    // What QEMU made of it counts as much as the kernel.
    other["environment"]["versions"]["qemu"] = "0.1".into();
    fs::write(&path, serde_json::to_vec(&other).unwrap()).unwrap();
    let output = cnibench(&stored, None);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("version.qemu"), "{}", stderr(&output));
}

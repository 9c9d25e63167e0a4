//! Guests that end badly: each becomes failed cells that tell the guest's last words.

use super::{record, run, stderr};
use serde_json::Value;
use std::path::Path;

/// The reason of the only cell of a run that failed.
fn reason(out: &Path, cni: &str, more: &[&str]) -> String {
    let output = run(out, cni, more).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let record: Value = record(out);
    let cells = record["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 1, "{cells:#?}");
    cells[0].to_string()
}

#[test]
fn a_guest_without_memory_is_told_with_its_last_words() {
    let folder = tempfile::tempdir().unwrap();
    // The files of a guest do not fit, or what is left is not enough to begin with: which of them comes
    // first depends on how large the binary was built.
    let reason = reason(folder.path(), "host", &["--vm-memory", "128"]);
    let words = ["Initramfs unpacking failed", "Out of memory", "deadlocked on memory"];
    assert!(words.iter().any(|word| reason.contains(word)), "{reason}");
    assert!(reason.contains("its last messages"), "{reason}");
}

#[test]
fn a_guest_that_hangs_is_switched_off() {
    let folder = tempfile::tempdir().unwrap();
    // A kernel that waits for a root device that never comes has not ended, and does not answer.
    let more = ["--kernel-args", "rdinit=/nothing root=/dev/none rootwait panic=0"];
    let reason = reason(folder.path(), "host", &more);
    assert!(reason.contains("was switched off") || reason.contains("did not boot"), "{reason}");
}

//! Programs that stand in for docker, kind and helm in tests: shell scripts that note how they were
//! called and do what the test says.

use super::tools::Tools;
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// A folder of such programs.
pub struct Fakes(TempDir);

impl Fakes {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    /// Makes or replaces a program. `$FAKES` in the script is the folder.
    pub fn program(&self, name: &str, script: &str) {
        let folder = self.folder().display();
        let text = format!(
            "#!/bin/sh\nFAKES='{folder}'\nfor word in \"$@\"; do printf '%s ' \"$word\"; done >>\"$FAKES/{name}.calls\"\necho >>\"$FAKES/{name}.calls\"\n{script}\n"
        );
        install(text.as_bytes(), &self.path(name));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    pub fn tools(&self) -> Tools {
        Tools { docker: self.path("docker"), kind: self.path("kind"), helm: self.path("helm") }
    }

    /// How a program was called, one line a call.
    pub fn calls(&self, name: &str) -> Vec<String> {
        let text =
            fs::read_to_string(self.folder().join(format!("{name}.calls"))).unwrap_or_default();
        text.lines().map(|l| l.trim_end().to_owned()).collect()
    }
}

/// Makes a program of these bytes. Another process writes it: had this one a descriptor of it for
/// writing, a test that forks at that moment would have it, too, and running it would be refused (ETXTBSY).
pub fn install(bytes: &[u8], to: &Path) {
    let new = to.with_extension("new");
    fs::write(&new, bytes).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    let part = to.with_extension("part");
    let copied = Command::new("cp").args(["--preserve=mode"]).args([&new, &part]).status().unwrap();
    assert!(copied.success());
    fs::rename(part, to).unwrap();
}

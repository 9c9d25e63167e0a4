// How C becomes an object for the kernel: which compiler, which flags. Included by build.rs and by
// tests that compile objects of their own; knows no program.

use std::{
    ffi::OsString,
    path::Path,
    process::{Command, Stdio},
};

/// Names under which distributions install clang, newest first.
const VERSIONS: std::ops::RangeInclusive<u32> = 12..=25;

/// `-mcpu=v3` is known to kernels from 5.1 on and saves the verifier half of its steps (32-bit
/// registers); `-g` makes the BTF that maps and CO-RE relocations are described by.
const FLAGS: &[&str] =
    &["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-std=gnu11", "-Wall", "-Wextra", "-Werror"];

/// The compiler: `$CLANG`, else the first of clang, clang-25, ... clang-12 that starts.
pub fn find() -> Option<OsString> {
    if let Some(named) = std::env::var_os("CLANG").filter(|c| !c.is_empty()) {
        return Some(named);
    }
    let names = std::iter::once("clang".to_owned())
        .chain(VERSIONS.rev().map(|version| format!("clang-{version}")));
    names.map(OsString::from).find(|name| {
        let mut try_it = Command::new(name);
        let tried = try_it.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    })
}

/// Compiles one file; `include` is where `cnibench.bpf.h` is.
///
/// # Errors
/// A sentence with the compiler's words.
pub fn compile(
    clang: &OsString,
    source: &Path,
    include: &Path,
    object: &Path,
) -> Result<(), String> {
    let mut command = Command::new(clang);
    command.args(FLAGS).arg("-I").arg(include).arg("-c").arg(source).arg("-o").arg(object);
    let said =
        command.output().map_err(|e| format!("cannot start {}: {e}", clang.to_string_lossy()))?;
    if said.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&said.stderr);
    if words.contains("'bpf/bpf_helpers.h' file not found") {
        return Err("the header bpf/bpf_helpers.h is missing: install libbpf-dev (Debian, Ubuntu) or libbpf-devel (Fedora), then build again".to_owned());
    }
    Err(format!("{} does not compile:\n{words}", source.display()))
}

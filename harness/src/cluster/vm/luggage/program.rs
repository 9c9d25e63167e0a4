//! What a file needs to be run: the interpreter of a script, the dynamic linker and the libraries of a
//! binary. Reads, and has the dynamic linker list; runs nothing of the file itself.

use anyhow::{Context as _, ensure};
use object::{
    Endianness, ReadCache,
    elf::{DT_NEEDED, ELFMAG, FileHeader64},
    read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _},
};
use std::{
    ffi::OsStr,
    fs::File,
    io::Read as _,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// Dynamic linkers, for a library that names none.
const LINKERS: &[&str] = &[
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
];
/// As much of a script's first line as the kernel reads (BINPRM_BUF_SIZE, include/uapi/linux/binfmts.h).
const FIRST_LINE: u64 = 256;

/// What a file is to who runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// It needs nothing else: data, or a static binary.
    Plain,
    /// `#!`, and what env(1) then looks up on PATH.
    Script { interpreter: PathBuf, program: Option<String> },
    /// A binary or a library that needs libraries.
    Linked { interpreter: PathBuf },
}

/// Looks into a file.
///
/// # Errors
/// It cannot be read, or is a damaged ELF file.
pub fn kind(path: &Path) -> anyhow::Result<Kind> {
    let mut file = File::open(path)?;
    let mut begin = Vec::new();
    (&mut file).take(FIRST_LINE).read_to_end(&mut begin)?;
    if let Some(line) = begin.strip_prefix(b"#!") {
        return Ok(script(line));
    }
    if !begin.starts_with(&ELFMAG) {
        return Ok(Kind::Plain);
    }
    let data = ReadCache::new(file);
    let data = &data;
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let (mut named, mut needs) = (None, false);
    for segment in header.program_headers(endian, data)? {
        if let Some(name) = segment.interpreter(endian, data)? {
            named = Some(PathBuf::from(OsStr::from_bytes(name)));
        }
        if let Some(dynamic) = segment.dynamic(endian, data)? {
            needs |= dynamic.iter().any(|entry| entry.tag(endian) == DT_NEEDED);
        }
    }
    let usual = || LINKERS.iter().map(PathBuf::from).find(|linker| linker.exists());
    match (named, needs) {
        (Some(interpreter), _) => Ok(Kind::Linked { interpreter }),
        (None, false) => Ok(Kind::Plain),
        (None, true) => {
            let interpreter = usual().context("it is a library, and there is no dynamic linker")?;
            Ok(Kind::Linked { interpreter })
        }
    }
}

/// `#!` with an interpreter and, as one word, what it is given.
fn script(line: &[u8]) -> Kind {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_whitespace();
    let Some(interpreter) = words.next().map(PathBuf::from) else { return Kind::Plain };
    let is_env = interpreter.file_name() == Some(OsStr::new("env"));
    let mut given = words.filter(|word| !word.starts_with('-') && !word.contains('='));
    let program = given.next().filter(|_| is_env).map(str::to_owned);
    Kind::Script { interpreter, program }
}

/// The libraries of a binary, each where the dynamic linker finds it.
///
/// # Errors
/// One is not found; then the dynamic linker's words.
pub fn libraries(interpreter: &Path, binary: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let what = || format!("{} --list {}", interpreter.display(), binary.display());
    let listed = Command::new(interpreter).arg("--list").arg(binary).output().with_context(what)?;
    let (said, text) =
        (String::from_utf8_lossy(&listed.stderr), String::from_utf8_lossy(&listed.stdout));
    // What the dynamic linker does not take for dynamic needs nothing of it.
    if said.contains("statically linked") || text.contains("statically linked") {
        return Ok(Vec::new());
    }
    ensure!(listed.status.success(), "{}: {}", what(), said.trim());
    parse(&text)
}

/// Lines like `libc.so.6 => /lib/libc.so.6 (0x...)`; the kernel's own library has no file, and a path
/// before the address alone is the dynamic linker.
fn parse(text: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        let (name, place) = line.split_once(" => ").unwrap_or(("", line));
        ensure!(place != "not found", "the library {name} is not found");
        // The address is behind the last space.
        let place = place.rsplit_once(" (0x").map_or(place, |(path, _)| path);
        if place.starts_with('/') {
            found.push(PathBuf::from(place));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd1)\n\
                    \tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f3)\n";
        assert_eq!(
            parse(text).unwrap(),
            ["/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
        let error = parse("\tlibx.so.1 => not found\n").unwrap_err().to_string();
        assert_eq!(error, "the library libx.so.1 is not found");
    }

    #[test]
    fn a_first_line_names_what_runs_it() {
        let of = |line: &str| script(line.as_bytes());
        let script = |interpreter: &str, program: Option<&str>| Kind::Script {
            interpreter: interpreter.into(),
            program: program.map(str::to_owned),
        };
        assert_eq!(of("/bin/sh -eu\nls"), script("/bin/sh", None));
        assert_eq!(of(" /usr/bin/env bash\n"), script("/usr/bin/env", Some("bash")));
        assert_eq!(of("/usr/bin/env -S A=b perl -w\n"), script("/usr/bin/env", Some("perl")));
        assert_eq!(of("\n"), Kind::Plain);
    }

    #[test]
    fn this_test_is_linked_like_the_product() {
        assert_eq!(kind(Path::new("/proc/self/exe")).unwrap(), Kind::Plain);
    }
}

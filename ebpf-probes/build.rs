//! Compiles every bpf/*.bpf.c into OUT_DIR/NAME.bpf.o with clang.

#[path = "build/clang.rs"]
mod clang;

use std::{env, fs, path::PathBuf, process::ExitCode};

const NO_CLANG: &str = "no clang here, which the eBPF programs are compiled with: install the package clang (apt-get install clang libbpf-dev), or name one in $CLANG";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("cnibench-probes: {text}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-env-changed=CLANG");
    let place = |key: &str| env::var_os(key).map(PathBuf::from).ok_or(format!("no {key}"));
    let (sources, out) = (place("CARGO_MANIFEST_DIR")?.join("bpf"), place("OUT_DIR")?);
    let clang = clang::find().ok_or(NO_CLANG)?;
    let all = fs::read_dir(&sources).map_err(|e| format!("{}: {e}", sources.display()))?;
    for source in all.flatten().map(|entry| entry.path()) {
        let Some(name) = source.file_name().and_then(|n| n.to_str()) else { continue };
        let Some(stem) = name.strip_suffix(".bpf.c") else { continue };
        clang::compile(&clang, &source, &sources, &out.join(format!("{stem}.bpf.o")))?;
    }
    Ok(())
}

//! Sysctls of the calling thread's network namespace (/proc/sys/net resolves by the caller).

use anyhow::Context as _;
use std::{fs, path::PathBuf};

/// The file of a key written with slashes, e.g. `ipv4/ip_forward`; device names may hold dots.
pub fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(key)
}

/// Writes a key, e.g. `ipv4/ip_forward`.
///
/// # Errors
/// When the key is missing or may not be written; a read-only /proc/sys is named as such.
pub fn write(key: &str, value: &str) -> anyhow::Result<()> {
    fs::write(path(key), value).with_context(|| {
        format!(
            "sysctl net/{key}={value}: is /proc/sys mounted read-only (an unprivileged container)?"
        )
    })
}

/// Writes a key that some kernels do not have; true when it was there.
///
/// # Errors
/// As [`write`], but for a missing key.
pub fn write_if_present(key: &str, value: &str) -> anyhow::Result<bool> {
    if !path(key).exists() {
        return Ok(false);
    }
    write(key, value).map(|()| true)
}

/// Reads a key, trimmed.
///
/// # Errors
/// When it cannot be read.
pub fn read(key: &str) -> anyhow::Result<String> {
    let text = fs::read_to_string(path(key)).with_context(|| format!("sysctl net/{key}"))?;
    Ok(text.trim().to_owned())
}

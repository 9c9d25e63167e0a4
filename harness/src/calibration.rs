//! Where the noise floor of this host is kept, and whether what is there is still this host's.
//!
//! Owns the file; how it is made is in `cnibench_reports::gate::calibrate`. Called by `calibrate`, which
//! writes it, by `ab` and `gate`, which read it, and by `doctor`.

use crate::store;
use anyhow::{Context as _, Result, anyhow};
use cnibench_model::{Calibration, Difference, Environment};
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

const FILE: &str = "calibration.json";

/// Where this host's calibration is kept: below `$XDG_STATE_HOME`, else of root /var/lib, of others
/// ~/.local/state.
///
/// # Errors
/// A user without a home.
pub fn default_path() -> Result<PathBuf> {
    let named = |key: &str| std::env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from);
    let folder = match named("XDG_STATE_HOME") {
        Some(state) => state,
        None if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib"),
        None => named("HOME").map(|home| home.join(".local/state")).ok_or_else(|| {
            anyhow!(
                "no place for a calibration (neither XDG_STATE_HOME nor HOME is set): name a file"
            )
        })?,
    };
    Ok(folder.join("cnibench").join(FILE))
}

/// Reads a calibration file; None when there is none.
///
/// # Errors
/// What is there cannot be read as one.
pub fn read(path: &Path) -> Result<Option<Calibration>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    let calibration = Calibration::from_json(&text);
    calibration.map(Some).with_context(|| path.display().to_string())
}

/// The calibration that was named, which must be there, or the stored one, if there is one.
///
/// # Errors
/// A named file that is not there; a file that cannot be read.
pub fn find(named: Option<&Path>) -> Result<Option<Calibration>> {
    match named {
        Some(path) => {
            let found =
                read(path)?.ok_or_else(|| anyhow!("no calibration at {}", path.display()))?;
            Ok(Some(found))
        }
        None => default_path().map_or(Ok(None), |path| read(&path)),
    }
}

/// Keeps a calibration, in the place of an older one, at once or not at all.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, calibration: &Calibration) -> Result<()> {
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    store::write_atomically(path, |out| {
        serde_json::to_writer_pretty(out, calibration).map_err(std::io::Error::from)
    })
}

/// In a sentence: whose calibration it is, and what to do where it is not this host's any more.
///
/// # Errors
/// The same where there is none, or where it is stale.
pub fn state(found: Option<&Calibration>, environment: &Environment) -> Result<String, String> {
    let Some(calibration) = found else {
        return Err(
            "none: `cnibench calibrate` measures what this host makes of nothing".to_owned()
        );
    };
    let made = calibration.made.strftime("%F");
    match calibration.matches(environment) {
        Ok(()) => Ok(format!(
            "of {made}, {} A/A runs, {} floors",
            calibration.runs,
            calibration.floors.len()
        )),
        Err(differences) => Err(format!(
            "of {made}, but stale: {}; `cnibench calibrate` makes a new one",
            listed(&differences)
        )),
    }
}

/// The first few differences.
fn listed(differences: &[Difference]) -> String {
    const SHOWN: usize = 3;
    let mut lines: Vec<String> = differences.iter().take(SHOWN).map(ToString::to_string).collect();
    if differences.len() > SHOWN {
        lines.push(format!("and {} more", differences.len() - SHOWN));
    }
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnibench_model::{CALIBRATION_VERSION, Clock, Fingerprint};

    fn of(environment: &Environment) -> Calibration {
        Calibration {
            schema_version: CALIBRATION_VERSION,
            made: "2026-02-03T10:20:30Z".parse().unwrap(),
            host: Fingerprint::of(environment),
            clock: Clock::Wall,
            runs: 20,
            rebuilds: 10,
            pairs: 3,
            floors: Vec::new(),
        }
    }

    #[test]
    fn it_is_kept_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/cnibench/calibration.json");
        assert!(read(&path).unwrap().is_none());
        assert!(find(Some(&path)).unwrap_err().to_string().starts_with("no calibration at "));
        let own = of(&Environment::default());
        write(&path, &own).unwrap();
        assert_eq!(find(Some(&path)).unwrap(), Some(own));
        fs::write(&path, "{").unwrap();
        let error = format!("{:#}", read(&path).unwrap_err());
        assert!(error.contains("calibration.json: not a calibration"), "{error}");
    }

    #[test]
    fn a_host_that_changed_is_told_by_what_changed() {
        let here = Environment { kernel_release: "6.18.5".to_owned(), ..Environment::default() };
        let own = of(&here);
        assert!(state(Some(&own), &here).unwrap().starts_with("of 2026-02-03, 20 A/A runs"));
        let stale = state(Some(&own), &Environment::default()).unwrap_err();
        assert!(stale.contains("stale: kernel_release: 6.18.5 and "), "{stale}");
        assert!(state(None, &here).unwrap_err().contains("cnibench calibrate"));
    }
}

//! Writing the report's files: whole or not at all, and errors that name file and cause.
//!
//! Called by `render` only.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Why a report could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file or directory could not be written.
    #[error("cannot write {}: {cause}; {}", path.display(), advice(cause))]
    Write {
        /// What was to be written.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// There was no record to report on.
    #[error("no record to report on: give at least one record.json or run directory")]
    NoRecord,
    /// Verdicts alone were asked for, and nothing was measured in pairs.
    #[error(
        "no record has two arms in pairs, so that there is no verdict: measure with cnibench ab, or compare two records with cnibench gate"
    )]
    NoVerdict,
    /// A figure or page could not be made.
    #[error("cannot make {what}: {cause}")]
    Make {
        /// Which file.
        what: String,
        /// Why.
        cause: String,
    },
}

fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space there or choose another --out, then render again with `cnibench report`"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "choose another --out or make it writable"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "a file stands where a directory is needed: choose another --out"
        }
        _ => "nothing that stood there was changed",
    }
}

/// Makes the directory and its parents.
pub(crate) fn directory(path: &Path) -> Result<(), ReportError> {
    fs::create_dir_all(path).map_err(|cause| ReportError::Write { path: path.to_owned(), cause })
}

/// Writes a file under a temporary name beside its place, then renames it.
///
/// # Errors
/// With the file's path; the temporary file is removed again, what stood there before stays.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = fs::File::create(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.flush()
        })
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|cause| {
        // The file may not exist; there is nothing more to do about one that cannot be removed.
        let _ = fs::remove_file(&temporary);
        ReportError::Write { path: path.to_owned(), cause }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_files_and_leaves_nothing_beside_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn errors_name_the_file_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let text = directory(&file.join("below")).unwrap_err().to_string();
        assert!(text.contains("file/below") && text.contains("another --out"), "{text}");
        let text = write(&dir.path().join("gone/a.txt"), b"x").unwrap_err().to_string();
        assert!(text.contains("gone/a.txt"), "{text}");
        let full = write(Path::new("/dev/full-of-nothing/x"), b"x").unwrap_err().to_string();
        assert!(full.contains("/dev/full-of-nothing/x"), "{full}");
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let cause = io::Error::from(io::ErrorKind::StorageFull);
        let e = ReportError::Write { path: "out/index.html".into(), cause };
        assert!(
            e.to_string().contains("out/index.html") && e.to_string().contains("free some space")
        );
    }
}

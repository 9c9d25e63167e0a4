//! The results folder: the journal as it grows, the record when the run is over.
//!
//! The journal is the truth: each line is on the disk before the next trial begins, and the record
//! is made by reading it back. Knows nothing of trials beyond that they are lines.

use anyhow::{Context, Result, bail};
use cnibench_model::{Header, JournalLine, Record, journal};
use jiff::Timestamp;
use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

/// Name of the record in a results folder.
pub const RECORD: &str = "record.json";
/// Name of the journal in a results folder.
pub const JOURNAL: &str = "journal.jsonl";
/// Name of the report's folder in a results folder.
pub const REPORT: &str = "report";

/// Where a run without `--out` puts its results: `cnibench-results/<suite>-<UTC time>`.
pub fn default_folder(suite: &str, now: Timestamp) -> PathBuf {
    Path::new("cnibench-results").join(format!("{suite}-{}", now.strftime("%Y%m%dT%H%M%SZ")))
}

/// Makes sure that a folder can take a new run, before anything is set up.
///
/// # Errors
/// When it holds a run already, or cannot be written.
pub fn prepare_folder(folder: &Path) -> Result<()> {
    for name in [RECORD, JOURNAL] {
        if folder.join(name).exists() {
            bail!(
                "{} already holds a run ({name}): name another --out, or remove it first",
                folder.display()
            );
        }
    }
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the results folder {}", folder.display()))?;
    let probe = folder.join(".writable");
    File::create(&probe)
        .and_then(|mut f| f.write_all(b"?"))
        .with_context(|| format!("cannot write into the results folder {}", folder.display()))?;
    fs::remove_file(&probe).with_context(|| format!("cannot remove {}", probe.display()))
}

/// The journal of a run that is going on.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Starts a journal with the plan.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn begin(folder: &Path, header: Header) -> Result<Self> {
        let path = folder.join(JOURNAL);
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot make the journal {}", path.display()))?;
        let mut journal = Self { file, path };
        journal.append(&JournalLine::Begin(Box::new(header)))?;
        Ok(journal)
    }

    /// Appends one line and waits until it is on the disk.
    ///
    /// # Errors
    /// When the disk is full or the file went away; what was written before is whole.
    pub fn append(&mut self, line: &JournalLine) -> Result<()> {
        let mut text = serde_json::to_vec(line).context("journal line")?;
        text.push(b'\n');
        self.file
            .write_all(&text)
            .and_then(|()| self.file.sync_data())
            .with_context(|| format!("cannot write the journal {}", self.path.display()))
    }

    /// Makes the record of what the journal holds and puts it beside it, at once or not at all.
    ///
    /// # Errors
    /// When the journal cannot be read back or the record cannot be written.
    pub fn finalise(mut self, folder: &Path) -> Result<Record> {
        self.append(&JournalLine::End { finished: Timestamp::now() })?;
        let record = read_journal(&self.path)?;
        write_atomically(&folder.join(RECORD), |out| {
            serde_json::to_writer(out, &record).map_err(std::io::Error::from)
        })?;
        Ok(record)
    }
}

/// Writes a file under another name, syncs it, and renames it into place.
///
/// # Errors
/// The file cannot be written; what was there before is as it was.
pub fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut std::io::BufWriter<File>) -> std::io::Result<()>,
) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut out = std::io::BufWriter::new(File::create(&temporary)?);
        fill(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        // The half-written file takes room on what may be a full disk; the error that counts is the first.
        let _ = fs::remove_file(&temporary);
        anyhow::Error::new(error).context(format!("cannot write {}", path.display()))
    })
}

fn read_journal(path: &Path) -> Result<Record> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    journal::replay(&text).with_context(|| format!("{}", path.display()))
}

/// Reads a record: a record file, a journal, or a results folder that has either. A finished record
/// wins over its journal.
///
/// # Errors
/// When nothing readable is there; the text names the file.
pub fn read(path: &Path) -> Result<Record> {
    if path.is_dir() {
        let (record, journal) = (path.join(RECORD), path.join(JOURNAL));
        return match (record.exists(), journal.exists()) {
            (true, _) => read(&record),
            (false, true) => read_journal(&journal),
            _ => bail!("{} holds neither {RECORD} nor {JOURNAL}", path.display()),
        };
    }
    if path.extension().is_some_and(|e| e == "jsonl") {
        return read_journal(path);
    }
    let text = fs::read_to_string(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => anyhow::anyhow!("no record at {}", path.display()),
        _ => anyhow::Error::new(e).context(format!("cannot read {}", path.display())),
    })?;
    Record::from_json(&text).with_context(|| format!("{}", path.display()))
}

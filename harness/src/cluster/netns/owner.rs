//! Who owns what: the id of a run, in the name of everything it makes, and the lock that says
//! whether the run still lives.
//!
//! The kernel drops the lock when the process is gone, however it went. A namespace whose run's
//! lock can be taken is a leftover (see [`super::clean`]).

use crate::cluster::ClusterError;
use anyhow::{Context as _, anyhow};
use rand::Rng as _;
use rustix::{
    fs::{FlockOperation, flock, fstat, stat},
    io::Errno,
};
use std::{
    fmt,
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
};

/// Where the locks are.
pub const LOCKS: &str = "/run/cnibench";
/// What every name begins with.
const PREFIX: &str = "cnb-";
/// Letters of an id: base32, lower case (RFC 4648).
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567";
const LENGTH: usize = 6;

/// The id of a run: six letters, random.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(String);

impl RunId {
    fn random() -> Self {
        let mut rng = rand::rng();
        let letter = |_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]);
        Self((0..LENGTH).map(letter).collect())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The run that a name belongs to, if it is one of ours.
    pub fn of_name(name: &str) -> Option<Self> {
        let (id, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
        Self::parse(id)
    }

    /// The run that a lock file belongs to, if it is one of ours.
    pub fn of_lock(name: &str) -> Option<Self> {
        Self::parse(name.strip_suffix(".lock")?)
    }

    fn parse(id: &str) -> Option<Self> {
        let ours = id.len() == LENGTH && id.bytes().all(|b| ALPHABET.contains(&b));
        ours.then(|| Self(id.to_owned()))
    }

    /// The name of a thing of cluster `cluster` of this run.
    pub fn name(&self, cluster: u32, thing: &str) -> String {
        format!("{PREFIX}{}-c{cluster}-{thing}", self.0)
    }

    /// Its lock file.
    pub fn lock(&self) -> PathBuf {
        Path::new(LOCKS).join(format!("{}.lock", self.0))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The right to make things under a run's id, for as long as it lives.
#[derive(Debug)]
pub struct Owner {
    id: RunId,
    _lock: File,
}

impl Owner {
    /// Takes a fresh id and its lock.
    ///
    /// # Errors
    /// When the lock cannot be made; without root the error says what to do.
    pub fn acquire() -> Result<Self, ClusterError> {
        let next = || format!("no lock in {LOCKS}: run as root, or enter a user namespace first");
        fs::create_dir_all(LOCKS).with_context(next)?;
        for _ in 0..32 {
            let id = RunId::random();
            if let Some(lock) = try_lock(&id, Missing::Create).with_context(next)? {
                return Ok(Self { id, _lock: lock });
            }
        }
        Err(ClusterError::Failed(anyhow!("every run id that was tried is taken: see {LOCKS}")))
    }

    /// The run's id.
    pub fn id(&self) -> &RunId {
        &self.id
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Still locked here: the file is this run's.
        let _ = fs::remove_file(self.id.lock());
    }
}

/// What to do when there is no lock file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Make one.
    Create,
    /// Report it as [`io::ErrorKind::NotFound`](std::io::ErrorKind::NotFound).
    Report,
}

/// Takes the lock of a run; None when someone else has it.
pub(super) fn try_lock(id: &RunId, missing: Missing) -> anyhow::Result<Option<File>> {
    let path = id.lock();
    let create = missing == Missing::Create;
    let file = OpenOptions::new().read(true).write(true).create(create).truncate(false).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("cannot lock {}", path.display())),
    }
    // A cleaner may have removed the file between open and lock: then the lock is on nothing.
    let same = stat(&path).is_ok_and(|there| {
        fstat(&file).is_ok_and(|here| (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino))
    });
    Ok(same.then_some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_are_ours() {
        let id = RunId::random();
        assert_eq!(RunId::of_name(&id.name(3, "n0p1")), Some(id.clone()));
        assert_eq!(RunId::of_lock(&format!("{id}.lock")), Some(id));
        for foreign in
            ["cnb-", "cnb-abc-c0", "cnb-ABCDEF-c0", "cnb-abcdef", "xcnb-abcdef-c0", "cnb-abcde1-n0"]
        {
            assert_eq!(RunId::of_name(foreign), None, "{foreign}");
        }
    }
}

//! Who owns what: the id of a run, in the name of everything it makes, and the lock that says
//! whether the run still lives.
//!
//! The kernel drops the lock when the process is gone, however it went. A namespace or a cluster
//! whose run's lock can be taken is a leftover, which its provider's clean-up removes.

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

/// Where root's locks are.
const LOCKS: &str = "/run/cnibench";
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

    /// Its lock file in a folder of locks.
    pub fn lock(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.lock", self.0))
    }

    /// A file beside the lock in which a provider notes what of the run outlives its process.
    pub fn note(&self, folder: &Path, provider: &str) -> PathBuf {
        folder.join(format!("{}.{provider}", self.0))
    }

    /// The run that a label names.
    pub fn of_label(value: &str) -> Option<Self> {
        Self::parse(value)
    }

    /// The run that such a file belongs to.
    pub fn of_note(name: &str, provider: &str) -> Option<Self> {
        Self::parse(name.strip_suffix(provider)?.strip_suffix('.')?)
    }

    /// Are there such files of any provider?
    pub fn has_notes(&self, folder: &Path) -> bool {
        let ours = |name: &str| {
            name.split_once('.').is_some_and(|(id, what)| id == self.0 && what != "lock")
        };
        fs::read_dir(folder)
            .is_ok_and(|all| all.flatten().any(|e| e.file_name().to_str().is_some_and(ours)))
    }

    /// What begins the name of everything of the run.
    pub fn prefix(&self) -> String {
        format!("{PREFIX}{}-", self.0)
    }
}

/// What the name of a namespace says of it: see [`RunId::name`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThingName {
    /// Whose it is.
    pub run: RunId,
    /// Number of the cluster in the run.
    pub cluster: u32,
    /// Number of the node; none: the wire between nodes.
    pub node: Option<u32>,
    /// Number of the pod on it; none: the node itself.
    pub pod: Option<u32>,
}

impl ThingName {
    /// Reads "cnb-abcdef-c0-n1p2", "...-n1" or "...-ul"; none for every other name.
    pub fn parse(name: &str) -> Option<Self> {
        let run = RunId::of_name(name)?;
        let (cluster, thing) = name.strip_prefix(&run.prefix())?.split_once('-')?;
        let cluster = cluster.strip_prefix('c')?.parse().ok()?;
        if thing == "ul" {
            return Some(Self { run, cluster, node: None, pod: None });
        }
        let numbers = thing.strip_prefix('n')?;
        let (node, pod) = match numbers.split_once('p') {
            Some((node, pod)) => (node, Some(pod.parse().ok()?)),
            None => (numbers, None),
        };
        Some(Self { run, cluster, node: Some(node.parse().ok()?), pod })
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The folder of this user's locks: root's, else one that the user's sessions share.
///
/// # Errors
/// A user without such a folder (no `XDG_RUNTIME_DIR`).
pub fn locks() -> anyhow::Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from(LOCKS));
    }
    let sessions = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    sessions.map(|dir| Path::new(&dir).join("cnibench")).ok_or_else(|| {
        anyhow!(
            "no place for a lock (XDG_RUNTIME_DIR is not set): run as root, or enter a user namespace first"
        )
    })
}

/// What tells this user's folder of locks from every other's, of another machine, container or boot:
/// noted on things in places that several of them share, such as a Kubernetes cluster.
///
/// # Errors
/// There is no such folder yet, which every run makes.
pub fn whereabouts() -> anyhow::Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let folder = locks()?;
    let at = stat(&folder).with_context(|| format!("no locks in {}", folder.display()))?;
    Ok(format!("{}:{:x}:{:x}", boot.trim(), at.st_dev, at.st_ino))
}

/// The right to make things under a run's id, for as long as it lives.
#[derive(Debug)]
pub struct Owner {
    id: RunId,
    folder: PathBuf,
    _lock: File,
}

impl Owner {
    /// Takes a fresh id and its lock.
    ///
    /// # Errors
    /// When the lock cannot be made; without root the error says what to do.
    pub fn acquire() -> Result<Self, ClusterError> {
        Self::acquire_in(&locks()?)
    }

    /// The same in another folder.
    ///
    /// # Errors
    /// When the lock cannot be made.
    pub fn acquire_in(folder: &Path) -> Result<Self, ClusterError> {
        let at = folder.display();
        let next = || format!("no lock in {at}: run as root, or enter a user namespace first");
        fs::create_dir_all(folder).with_context(next)?;
        for _ in 0..32 {
            let id = RunId::random();
            if let Some(lock) = try_lock(folder, &id, Missing::Create).with_context(next)? {
                return Ok(Self { id, folder: folder.to_owned(), _lock: lock });
            }
        }
        Err(ClusterError::Failed(anyhow!("every run id that was tried is taken: see {at}")))
    }

    /// With an id that was chosen elsewhere, on a machine that nobody else uses.
    ///
    /// # Errors
    /// When the lock cannot be made, or somebody has it.
    pub fn acquire_as(id: RunId) -> Result<Self, ClusterError> {
        let folder = locks()?;
        let at = folder.display();
        fs::create_dir_all(&folder).with_context(|| format!("no lock in {at}"))?;
        match try_lock(&folder, &id, Missing::Create)? {
            Some(lock) => Ok(Self { id, folder, _lock: lock }),
            None => Err(ClusterError::Failed(anyhow!("the run {id} lives already"))),
        }
    }

    /// The run's id.
    pub fn id(&self) -> &RunId {
        &self.id
    }

    /// Where its lock is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Still locked here: the file is this run's.
        let _ = fs::remove_file(self.id.lock(&self.folder));
    }
}

/// What a clean-up did.
#[derive(Debug, Default)]
pub struct CleanReport {
    /// Names of namespaces, locks, processes and clusters that are gone now.
    pub removed: Vec<String>,
    /// Runs that are alive, whose things were left alone.
    pub kept: Vec<RunId>,
    /// What could not be done.
    pub errors: Vec<anyhow::Error>,
}

impl CleanReport {
    /// Adds what another provider's clean-up did.
    pub fn merge(&mut self, other: Self) {
        self.removed.extend(other.removed);
        self.errors.extend(other.errors);
        for run in other.kept {
            if !self.kept.contains(&run) {
                self.kept.push(run);
            }
        }
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

/// True when there is no such file, at the root of an error.
pub(super) fn is_missing(e: &anyhow::Error) -> bool {
    e.root_cause()
        .downcast_ref::<std::io::Error>()
        .is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

/// Does the run's process live, as far as can be told?
pub fn is_alive(folder: &Path, id: &RunId) -> bool {
    match try_lock(folder, id, Missing::Report) {
        Ok(lock) => lock.is_none(),
        Err(e) => !is_missing(&e),
    }
}

/// Takes the lock of a run; None when someone else has it.
pub(super) fn try_lock(
    folder: &Path,
    id: &RunId,
    missing: Missing,
) -> anyhow::Result<Option<File>> {
    let path = id.lock(folder);
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
    fn a_lock_lives_as_long_as_its_run() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("locks");
        let owner = Owner::acquire_in(&folder).unwrap();
        let id = owner.id().clone();
        assert!(try_lock(&folder, &id, Missing::Report).unwrap().is_none());
        assert!(!id.has_notes(&folder));
        fs::write(id.note(&folder, "kind"), "").unwrap();
        assert!(id.has_notes(&folder));
        assert_eq!(RunId::of_note(&format!("{id}.kind"), "kind"), Some(id.clone()));
        assert_eq!(RunId::of_note(&format!("{id}.lock"), "kind"), None);
        assert!(is_alive(&folder, &id));
        drop(owner);
        assert!(!is_alive(&folder, &id));
        assert!(is_missing(&try_lock(&folder, &id, Missing::Report).unwrap_err()));
    }

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

    #[test]
    fn a_name_says_what_a_thing_is() {
        let id = RunId::random();
        for (thing, node, pod) in
            [("ul", None, None), ("n0", Some(0), None), ("n12p345", Some(12), Some(345))]
        {
            let parsed = ThingName::parse(&id.name(7, thing));
            assert_eq!(parsed, Some(ThingName { run: id.clone(), cluster: 7, node, pod }));
        }
        for thing in ["", "n", "np0", "n0p", "n0px", "ulx", "x0"] {
            assert_eq!(ThingName::parse(&id.name(7, thing)), None, "{thing}");
        }
    }
}

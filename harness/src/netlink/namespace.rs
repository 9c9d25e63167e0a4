//! Network namespaces: making, naming, entering and removing them.
//!
//! A namespace is bind-mounted under [`DIR`] as `ip netns` does (ip/ipnetns.c, netns_add), so
//! `ip netns exec NAME` works. Whoever wants to do something inside runs a closure on a thread of
//! its own there; threads that entered a namespace end with the closure and are never reused.

use anyhow::{Context as _, anyhow};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{UnmountFlags, mount_bind, unmount},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

/// Where named namespaces are, for `ip netns`.
pub const DIR: &str = "/run/netns";

/// A handle on a network namespace; clones are the same namespace.
#[derive(Debug, Clone)]
pub struct Netns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    path: PathBuf,
    fd: OwnedFd,
}

impl Netns {
    /// Makes a namespace of this name with `lo` down and nothing else in it, then runs `first`
    /// inside, on the thread that made it. Blocks. Undone when `first` fails.
    ///
    /// # Errors
    /// When it exists already, or this process may not make one (the error says what to do).
    pub fn create(
        name: &str,
        first: impl FnOnce() -> anyhow::Result<()> + Send,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(DIR).with_context(|| format!("cannot make {DIR}"))?;
        let path = Path::new(DIR).join(name);
        let made = thread::scope(|scope| {
            let made = scope.spawn(|| {
                detach()?;
                publish(&path)?;
                let opened = open(&path).and_then(|fd| first().map(|()| fd));
                opened.inspect_err(|_| {
                    remove_path(&path).unwrap_or_else(|e| tracing::warn!("{e:#}"));
                })
            });
            joined(made.join())
        });
        let fd = made.with_context(|| format!("network namespace {name}"))?;
        Ok(Self(Arc::new(Inner { name: name.to_owned(), path, fd })))
    }

    /// Opens an existing namespace by its path.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Self::open_as(path, name)
    }

    /// The same for a path that ends in no name, as that of a process does.
    ///
    /// # Errors
    /// When there is none.
    pub fn open_as(path: &Path, name: String) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Inner { name, path: path.to_owned(), fd: open(path)? })))
    }

    /// Its name under [`DIR`], or what it is called for people.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// An open descriptor of it, e.g. for `IFLA_NET_NS_FD`.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }

    /// Runs a closure on a fresh thread inside the namespace: sockets it opens and files under
    /// /proc/sys/net that it reads are the namespace's.
    ///
    /// # Errors
    /// The closure's; also when the namespace cannot be entered or the closure panics.
    pub async fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let ns = self.clone();
        thread::Builder::new()
            .name(format!("in {}", self.name()))
            .spawn(move || {
                // The receiver is gone only when nobody waits for the result any more.
                let _ = tell.send(ns.enter().and_then(|()| f()));
            })
            .context("cannot start a thread")?;
        told.await.unwrap_or_else(|_| Err(anyhow!("{}: a thread in it panicked", self.name())))
    }

    /// [`run`](Self::run) for callers that block.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_blocking<T: Send>(
        &self,
        f: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        thread::scope(|scope| joined(scope.spawn(|| self.enter().and_then(|()| f())).join()))
    }

    /// Moves the calling thread into the namespace, for good: only for threads that end there.
    fn enter(&self) -> anyhow::Result<()> {
        move_into_link_name_space(self.fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter network namespace {}", self.name()))
    }

    /// Takes the name away; the kernel frees the namespace when its last user is gone.
    ///
    /// # Errors
    /// When it is still there afterwards.
    pub fn remove(&self) -> anyhow::Result<()> {
        remove_path(self.path())
    }
}

/// Runs a closure in a fresh namespace without a name, which ends with it: for trying things out.
///
/// # Errors
/// The closure's, or when no namespace can be made.
pub fn scratch<T: Send>(f: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    thread::scope(|scope| joined(scope.spawn(|| detach().and_then(|()| f())).join()))
}

/// The number by which the kernel knows the namespace of a path (its inode), if there is one.
pub fn inode(path: &Path) -> Option<u64> {
    /// `NSFS_MAGIC` of linux/magic.h.
    const NSFS: i64 = 0x6e73_6673;
    let kind = rustix::fs::statfs(path).ok()?.f_type;
    (kind as i64 == NSFS).then(|| rustix::fs::stat(path).ok().map(|stat| stat.st_ino))?
}

/// Unmounts and unlinks a named namespace; one that is not there is no error.
///
/// # Errors
/// When it is still there afterwards.
pub fn remove_path(path: &Path) -> anyhow::Result<()> {
    // Lazily: a process that still stands in the namespace must not keep its name alive.
    match unmount(path, UnmountFlags::DETACH) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(e) => return Err(e).with_context(|| format!("cannot unmount {}", path.display())),
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn open(path: &Path) -> anyhow::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("cannot open {}", path.display()))
}

/// Gives the calling thread a new network namespace.
fn detach() -> anyhow::Result<()> {
    // SAFETY: only the network namespace is unshared, never the table of file descriptors.
    let result = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
    result.map_err(|e| match e {
        Errno::PERM => anyhow!("not allowed to make network namespaces: run as root, or without root where user namespaces are allowed"),
        Errno::NOSPC => anyhow!("no more network namespaces allowed: see /proc/sys/user/max_net_namespaces"),
        e => anyhow!(e).context("unshare(CLONE_NEWNET)"),
    })
}

/// Binds the calling thread's network namespace to a path.
fn publish(path: &Path) -> anyhow::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    mount_bind("/proc/thread-self/ns/net", path).map_err(|e| {
        // The empty file is ours: created just above.
        let _ = fs::remove_file(path);
        anyhow!(e).context(format!("cannot mount a namespace at {}", path.display()))
    })
}

fn joined<T>(result: thread::Result<anyhow::Result<T>>) -> anyhow::Result<T> {
    result.unwrap_or_else(|_| Err(anyhow!("a thread in a network namespace panicked")))
}

//! The place where plugins run on a node: the node's network namespace, and a mount namespace in
//! which the state that plugins keep on disk is the node's own.
//!
//! host-local keeps its leases in /var/lib/cni, tuning and dhcp keep theirs in /run/cni. Nodes of
//! one machine would share these, so each node has a thread whose mount namespace has a tmpfs on
//! both; everything in it ends with the thread, however the harness ends. The configuration of a
//! plugin is not rewritten for that. /run/netns and all other files are the machine's.

use super::{
    interrupt::{Interrupt, Token},
    sys,
};
use anyhow::{Context, anyhow};
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{
    fs,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};
use tokio::sync::oneshot;

/// Directories in which plugins keep state.
const STATE_DIRS: &[&str] = &["/var/lib/cni", STATE];
/// The one of them in which there is nothing else when the thread starts, wherever it runs.
pub const STATE: &str = "/run/cni";

type Job = Box<dyn FnOnce() + Send>;

/// A thread in the namespaces of one node.
#[derive(Debug)]
pub struct NodeThread {
    jobs: Option<mpsc::Sender<Job>>,
    interrupt: Interrupt,
    thread: Option<thread::JoinHandle<()>>,
}

impl NodeThread {
    /// Starts a thread in the network namespace at `netns`, with plugin state of its own; `more`:
    /// further directories that are to be its own and empty.
    ///
    /// # Errors
    /// What the kernel refused, and for which node.
    pub fn start(name: &str, netns: &Path, more: &[PathBuf]) -> anyhow::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, entered) = mpsc::sync_channel(1);
        let (path, more) = (netns.to_owned(), more.to_vec());
        let thread = thread::Builder::new()
            .name(format!("cni {name}"))
            .spawn(move || {
                let result = enter(&path, &more);
                let failed = result.is_err();
                if ready.send(result).is_err() || failed {
                    return;
                }
                queue.into_iter().for_each(|job| job());
            })
            .context("starting a thread for CNI plugins")?;
        let this = Self { jobs: Some(jobs), interrupt: Interrupt::default(), thread: Some(thread) };
        entered
            .recv()
            .map_err(|_| anyhow!("the thread ended at once"))
            .flatten()
            .with_context(|| format!("preparing {} for CNI plugins", netns.display()))?;
        Ok(this)
    }

    /// For a job that is to end when [`NodeThread::interrupt`] is called.
    pub fn token(&self) -> Token {
        self.interrupt.token()
    }

    /// Gives up the jobs that were submitted before; does not wait for their end.
    pub fn interrupt(&self) {
        self.interrupt.now();
    }

    /// Runs `work` on the node; jobs of one node run one after the other.
    ///
    /// # Errors
    /// Only when the thread is gone (a job before this one panicked).
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        self.submit(work).await.map_err(|_| gone())
    }

    /// [`NodeThread::run`] for callers that are not async.
    ///
    /// # Errors
    /// As there.
    pub fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        self.submit(work).blocking_recv().map_err(|_| gone())
    }

    /// Has `work` done on the node when its turn comes; nobody need wait for it.
    pub fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (done, result) = oneshot::channel();
        let job: Job = Box::new(move || {
            // The receiver is gone when the run was cancelled; the work was done all the same.
            let _ = done.send(work());
        });
        if let Some(jobs) = &self.jobs {
            // A thread that is gone drops the job, which the receiver sees.
            let _ = jobs.send(job);
        }
        result
    }
}

impl Drop for NodeThread {
    fn drop(&mut self) {
        self.interrupt();
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic of a job was reported to the one who asked for it.
            let _ = thread.join();
        }
    }
}

fn gone() -> anyhow::Error {
    anyhow!("the node's thread for CNI plugins is gone; a call before this one panicked")
}

fn enter(netns: &Path, more: &[PathBuf]) -> anyhow::Result<()> {
    let fd = openat(CWD, netns, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("opening {}", netns.display()))?;
    move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))
        .context("entering its network namespace")?;
    sys::own_mount_namespace().context("making a mount namespace (needs CAP_SYS_ADMIN)")?;
    // Slave, not private: namespaces that are named later must still appear in /run/netns.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .context("keeping mounts from the rest of the machine")?;
    let own = STATE_DIRS.iter().map(Path::new).chain(more.iter().map(PathBuf::as_path));
    for dir in own {
        if !dir.is_dir() {
            let parent = existing(dir);
            shadow(parent).with_context(|| format!("shadowing {}", parent.display()))?;
            fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        tmpfs(dir)?;
    }
    Ok(())
}

/// The innermost folder around `dir` that is there.
fn existing(dir: &Path) -> &Path {
    dir.ancestors().skip(1).find(|parent| parent.is_dir()).unwrap_or(Path::new("/"))
}

fn tmpfs(dir: &Path) -> anyhow::Result<()> {
    mount("cnibench", dir, "tmpfs", MountFlags::NODEV | MountFlags::NOSUID, None)
        .with_context(|| format!("mounting a tmpfs on {}", dir.display()))
}

/// Covers `dir` with a tmpfs that has every entry of `dir` in it, so that an entry can be added
/// that the machine itself does not get to see.
fn shadow(dir: &Path) -> anyhow::Result<()> {
    // The descriptor leads below the tmpfs once that covers the path (path_init in fs/namei.c
    // starts at the descriptor's own mount).
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let below = openat(CWD, dir, flags, Mode::empty())?;
    let covered = format!("/proc/self/fd/{}", below.as_raw_fd());
    tmpfs(dir)?;
    for entry in fs::read_dir(covered)? {
        let entry = entry?;
        let target = dir.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, &target)?;
            continue;
        }
        if kind.is_dir() {
            fs::create_dir(&target)?;
        } else {
            fs::File::create(&target)?;
        }
        match mount_bind_recursive(entry.path(), &target) {
            // Gone since the directory was read: other programs live in it.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e).with_context(|| format!("binding {}", target.display())),
        }
    }
    Ok(())
}

//! Without root: a user namespace in which this process is root over network namespaces of its own.
//!
//! Everything made in it ends with the process: names are kept in a /run that only it sees.

use anyhow::{Context as _, anyhow};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change},
    process::{getegid, geteuid},
    thread::{CapabilitySet, UnshareFlags, unshare_unsafe},
};
use std::{
    fs,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::Command,
};

/// What cannot be done in a user namespace, a sentence each.
pub const LIMITS: &[&str] = &[
    "files of the host that only root may read are left out of the record",
    "CNI plugins of a conflist that need the host's devices or cgroups fail",
    "namespaces are not seen by `ip netns` of the host: use `nsenter -t PID -U -m -n`",
];

/// The way on where user namespaces are forbidden.
const NEXT: &str = "run with sudo, or allow user namespaces (sysctl user.max_user_namespaces, \
    kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)";

/// True when this process already may make and configure network namespaces and mount them.
pub fn is_privileged() -> bool {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN;
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

/// Moves this process into new user, network and mount namespaces, where it is root. Call it
/// first thing, while there is one thread.
///
/// # Errors
/// When it is forbidden here, with what to do.
pub fn enter_user_namespace() -> anyhow::Result<()> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    new_namespaces().map_err(|e| match e {
        Errno::INVAL => anyhow!("a user namespace must be entered before threads are started"),
        e => refused(e),
    })?;
    let write = |file: &str, text: String| {
        fs::write(file, text)
            .with_context(|| format!("{file}: user namespaces are restricted here: {NEXT}"))
    };
    // Without CAP_SETGID of the parent, a gid may be mapped only after giving up setgroups
    // (user_namespaces(7)).
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .with_context(|| format!("cannot make mounts private: {NEXT}"))?;
    own_run().context("cannot make a /run of our own")
}

/// Could [`enter_user_namespace`] work? Tried in a child, which ends at once.
///
/// # Errors
/// Why not, with what to do.
pub fn try_user_namespace() -> anyhow::Result<()> {
    let mut child = Command::new("/proc/self/exe");
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe {
        child.pre_exec(|| match new_namespaces() {
            // It worked, and nothing is to be run: ECANCELED takes the place of an exec.
            Ok(()) => Err(Errno::CANCELED.into()),
            Err(e) => Err(e.into()),
        });
    }
    match child.spawn() {
        Err(e) if e.raw_os_error() == Some(Errno::CANCELED.raw_os_error()) => Ok(()),
        Err(e) => Err(Errno::from_io_error(&e).map_or_else(|| anyhow!(e).context(NEXT), refused)),
        // Not reached: the closure above always fails.
        Ok(mut child) => child.wait().map(drop).context("a child that should not run"),
    }
}

/// What the kernel's refusal means (create_user_ns, copy_net_ns: ENOSPC is a count, not a disk).
fn refused(e: Errno) -> anyhow::Error {
    match e {
        Errno::NOSPC => anyhow!(
            "user.max_user_namespaces is 0 or used up (or max_net_namespaces, max_mnt_namespaces): {NEXT}"
        ),
        e => anyhow!(e).context(format!("user namespaces are not allowed here: {NEXT}")),
    }
}

fn new_namespaces() -> Result<(), Errno> {
    let flags = UnshareFlags::NEWUSER | UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    // SAFETY: the table of file descriptors is not among what is unshared.
    unsafe { unshare_unsafe(flags) }
}

/// Covers /run with one that this process may write to; what was in it stays reachable, so that
/// an out directory or a socket under /run still works.
fn own_run() -> anyhow::Result<()> {
    let old = rustix::fs::open("/run", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let entries: Vec<_> = fs::read_dir("/run")?.flatten().collect();
    mount("tmpfs", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None)?;
    for entry in entries {
        let name = entry.file_name();
        if name == "netns" || name == "cnibench" {
            continue;
        }
        let from = format!("/proc/self/fd/{}/{}", old.as_raw_fd(), name.display());
        let to = entry.path();
        let kind = entry.file_type()?;
        let kept = if kind.is_symlink() {
            fs::read_link(&from).and_then(|target| std::os::unix::fs::symlink(target, &to))
        } else {
            let made = if kind.is_dir() { fs::create_dir(&to) } else { fs::write(&to, "") };
            made.and_then(|()| Ok(mount_bind_recursive(&from, &to)?))
        };
        // A part of /run that cannot be kept is not worth failing for.
        kept.unwrap_or_else(|e| tracing::debug!("/run/{}: {e}", name.display()));
    }
    Ok(())
}

//! The two system calls of this family that no crate wraps safely.

use rustix::{
    process::{Signal, set_parent_process_death_signal},
    thread::{UnshareFlags, unshare_unsafe},
};
use std::{io, os::unix::process::CommandExt, process::Command};

/// Has the kernel kill the child when the thread that started it is gone, so that a killed harness
/// leaves no plugin running.
pub fn die_with_parent(command: &mut Command) {
    let hook = || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(())
    };
    // SAFETY: the hook is one prctl system call; it allocates nothing and takes no lock, which is
    // what code between fork and exec must keep to.
    unsafe { command.pre_exec(hook) };
}

/// Gives the calling thread a mount namespace (and with it a working directory and root) of its own.
///
/// # Errors
/// What unshare(2) says; EPERM without CAP_SYS_ADMIN.
pub fn own_mount_namespace() -> io::Result<()> {
    // SAFETY: CLONE_NEWNS implies CLONE_FS; neither changes the file descriptor table, which is
    // what makes unshare unsafe for code that shares descriptors between threads.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
    Ok(())
}

//! TUN devices: packets of a network namespace handed to this process.

use anyhow::{Context as _, anyhow, bail};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

/// Makes a TUN device in the calling thread's network namespace and returns its queue. A read is
/// one packet, without a header before it. The device ends with the descriptor.
///
/// # Errors
/// When the kernel has none, or this process may not.
pub fn create(name: &str) -> anyhow::Result<OwnedFd> {
    let path = "/dev/net/tun";
    let open = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let fd = open.map_err(|e| match e {
        Errno::NOENT | Errno::NODEV => {
            anyhow!("no {path}: this kernel or container has no TUN (CONFIG_TUN)")
        }
        e => anyhow!(e).context(format!("cannot open {path}")),
    })?;
    // SAFETY: an all-zero ifreq is a valid value of that plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        bail!("{name:?} is no device name: 1 to 15 bytes");
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives until the call returns.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("cannot make TUN {name}"));
    }
    Ok(fd)
}

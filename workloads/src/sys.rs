//! The system calls that no kept crate wraps, each behind a safe function. The only `unsafe` of
//! this package; nothing here knows what a trial is.

use std::{
    ffi::CStr,
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::CommandExt,
    },
    process::Command,
    ptr,
    time::Duration,
};

/// Has the calling thread run whenever it can, until it waits by itself (SCHED_FIFO, sched(7)).
///
/// # Errors
/// Without CAP_SYS_NICE.
pub(crate) fn run_first() -> io::Result<()> {
    // SAFETY: a zeroed sched_param is a whole one; its only field is set below.
    let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
    param.sched_priority = 1;
    // SAFETY: 0 is the calling thread; the pointer is to a value that lives through the call.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Linux' `SO_MEMINFO` and its index of drops (include/uapi/linux/sock_diag.h), which libc lacks.
const SO_MEMINFO: libc::c_int = 55;
const SK_MEMINFO_DROPS: usize = 8;
const SK_MEMINFO_VARS: usize = 9;
/// `SO_ATTACH_REUSEPORT_CBPF` (include/uapi/asm-generic/socket.h).
const SO_ATTACH_REUSEPORT_CBPF: libc::c_int = 51;
const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;

fn set_int(fd: impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: `value` lives across the call and its size is given.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            name,
            ptr::from_ref(&value).cast(),
            mem::size_of::<i32>() as libc::socklen_t,
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option of at most `out.len()` bytes; returns how many the kernel wrote.
fn get_bytes(fd: impl AsFd, level: i32, name: i32, out: &mut [u8]) -> io::Result<usize> {
    let mut len = out.len() as libc::socklen_t;
    // SAFETY: `out` is writable for `len` bytes and the kernel writes no more than that.
    let rc = unsafe {
        libc::getsockopt(fd.as_fd().as_raw_fd(), level, name, out.as_mut_ptr().cast(), &raw mut len)
    };
    if rc == 0 { Ok(len as usize) } else { Err(io::Error::last_os_error()) }
}

fn get_int(fd: impl AsFd, level: i32, name: i32) -> io::Result<i32> {
    let mut bytes = [0; 4];
    get_bytes(fd, level, name, &mut bytes)?;
    Ok(i32::from_ne_bytes(bytes))
}

/// SO_SNDBUF without the limit of net.core.wmem_max; takes CAP_NET_ADMIN.
pub(crate) fn force_send_buffer(fd: impl AsFd, bytes: u64) -> io::Result<()> {
    set_int(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, i32::try_from(bytes).unwrap_or(i32::MAX))
}

/// SO_RCVBUF without the limit of net.core.rmem_max; takes CAP_NET_ADMIN.
pub(crate) fn force_receive_buffer(fd: impl AsFd, bytes: u64) -> io::Result<()> {
    set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, i32::try_from(bytes).unwrap_or(i32::MAX))
}

/// The MTU that the kernel knows of the path of a connected socket (ip(7), IP_MTU): a route may allow
/// less than its device.
pub(crate) fn path_mtu(fd: impl AsFd, v6: bool) -> io::Result<u32> {
    let (level, name) = match v6 {
        false => (libc::IPPROTO_IP, libc::IP_MTU),
        true => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    get_int(fd, level, name).map(|mtu| mtu as u32)
}

/// The raw bytes of `TCP_INFO`; kernels append fields, so the length tells which are there.
pub(crate) fn tcp_info(fd: impl AsFd) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 512];
    let len = get_bytes(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut bytes)?;
    bytes.truncate(len);
    Ok(bytes)
}

/// Datagrams that a full receive buffer made the socket drop so far.
pub(crate) fn receive_drops(fd: impl AsFd) -> io::Result<u32> {
    let mut bytes = [0; 4 * SK_MEMINFO_VARS];
    let len = get_bytes(fd, libc::SOL_SOCKET, SO_MEMINFO, &mut bytes)?;
    let at = 4 * SK_MEMINFO_DROPS;
    match bytes.get(at..at + 4) {
        Some(&[a, b, c, d]) if len >= at + 4 => Ok(u32::from_ne_bytes([a, b, c, d])),
        _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
    }
}

/// Has the kernel cut what one send hands over into datagrams of `size` bytes (udp(7), UDP_SEGMENT).
pub(crate) fn set_udp_segment(fd: impl AsFd, size: u16) -> io::Result<()> {
    set_int(fd, libc::IPPROTO_UDP, UDP_SEGMENT, i32::from(size))
}

/// The segment size in force; 0: none.
pub(crate) fn udp_segment(fd: impl AsFd) -> io::Result<i32> {
    get_int(fd, libc::IPPROTO_UDP, UDP_SEGMENT)
}

/// Lets one receive return several datagrams of one size (udp(7), UDP_GRO).
pub(crate) fn set_udp_gro(fd: impl AsFd) -> io::Result<()> {
    set_int(fd, libc::IPPROTO_UDP, UDP_GRO, 1)
}

/// Whether coalesced receives are on.
pub(crate) fn udp_gro(fd: impl AsFd) -> io::Result<bool> {
    get_int(fd, libc::IPPROTO_UDP, UDP_GRO).map(|v| v != 0)
}

/// One instruction of classic BPF: code, jump if true, jump if false, operand.
pub(crate) type Instruction = (u16, u8, u8, u32);

/// Attaches the classic BPF program that picks a listener of a SO_REUSEPORT group (socket(7)).
pub(crate) fn attach_reuseport_selector(fd: impl AsFd, program: &[Instruction]) -> io::Result<()> {
    let mut filter: Vec<libc::sock_filter> =
        program.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let prog = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: `prog` and the instructions it points to live across the call; the kernel copies them.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_ATTACH_REUSEPORT_CBPF,
            ptr::from_ref(&prog).cast(),
            mem::size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel kill the program that `command` starts when the thread that starts it ends, so that
/// none outlives an agent that was killed (prctl(2), PR_SET_PDEATHSIG).
pub(crate) fn die_with_parent(command: &mut Command) {
    let ask = || {
        // SAFETY: PR_SET_PDEATHSIG takes a signal's number and no pointer.
        let rc = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(ask) };
}

/// User and system time of this process so far.
pub(crate) fn process_times() -> io::Result<(Duration, Duration)> {
    // SAFETY: an all-zero rusage is a valid value of that plain C struct.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: `usage` is writable.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let time = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64)
    };
    Ok((time(usage.ru_utime), time(usage.ru_stime)))
}

/// One address of a network interface, or the interface itself where it has none.
pub(crate) struct InterfaceAddress {
    pub(crate) name: String,
    /// IFF_* (netdevice(7)).
    pub(crate) flags: u32,
    pub(crate) addr: Option<IpAddr>,
}

/// All addresses of all interfaces of the calling thread's namespace (getifaddrs(3)).
pub(crate) fn interface_addresses() -> io::Result<Vec<InterfaceAddress>> {
    let mut first: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: `first` is writable; on success it is a list that is freed below.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut all = Vec::new();
    let mut next = first;
    // SAFETY: `next` is null or an element of the list, which lives until freeifaddrs.
    while let Some(entry) = unsafe { next.as_ref() } {
        // SAFETY: the name is a string that ends with a zero and lives as long as the list.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy().into_owned();
        // SAFETY: the address is null or a sockaddr of the length that its family has.
        let addr = unsafe { address(entry.ifa_addr) };
        all.push(InterfaceAddress { name, flags: entry.ifa_flags, addr });
        next = entry.ifa_next;
    }
    // SAFETY: the list came from getifaddrs, is freed once, and nothing points into it any more.
    unsafe { libc::freeifaddrs(first) };
    Ok(all)
}

/// # Safety
/// `sockaddr` is null or points to a socket address of the size that its family has.
unsafe fn address(sockaddr: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the caller's promise; the family is at the same place in each of them.
    let family = i32::from(unsafe { sockaddr.as_ref() }?.sa_family);
    match family {
        libc::AF_INET => {
            // SAFETY: AF_INET addresses are sockaddr_in; read whatever its alignment.
            let v4 = unsafe { sockaddr.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: AF_INET6 addresses are sockaddr_in6; read whatever its alignment.
            let v6 = unsafe { sockaddr.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// The MTU of an interface of the namespace that the socket `fd` belongs to (netdevice(7)).
pub(crate) fn interface_mtu(fd: impl AsFd, name: &str) -> io::Result<u32> {
    // SAFETY: an all-zero ifreq is a valid value of that plain C struct.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: `request` is an ifreq with a name that ends with a zero; the kernel writes into it only.
    let rc =
        unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::SIOCGIFMTU as _, &raw mut request) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: SIOCGIFMTU has set this member of the union.
    Ok(unsafe { request.ifr_ifru.ifru_mtu } as u32)
}

/// Room for one control message that carries an int, aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 64]);

/// Buffers and headers for receiving many datagrams with one system call. Pointers in the headers
/// lead into the boxed slices beside them, which never move or grow; so it stays in its thread.
pub(crate) struct ReceiveBatch {
    buffers: Box<[u8]>,
    each: usize,
    controls: Box<[Control]>,
    _vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

impl ReceiveBatch {
    /// Room for `count` datagrams (or coalesced runs of them) of up to `each` bytes.
    pub(crate) fn new(count: usize, each: usize) -> Self {
        let mut buffers = vec![0u8; count * each].into_boxed_slice();
        let mut controls = vec![Control([0; 64]); count].into_boxed_slice();
        let mut vectors: Box<[libc::iovec]> = buffers
            .chunks_exact_mut(each)
            .map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: each })
            .collect();
        let headers = vectors
            .iter_mut()
            .zip(controls.iter_mut())
            .map(|(vector, control)| {
                // SAFETY: an all-zero mmsghdr is a valid value of that plain C struct.
                let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = ptr::from_mut(control).cast();
                header
            })
            .collect();
        Self { buffers, each, controls, _vectors: vectors, headers }
    }

    /// Waits for one message and takes as many more as are there; returns how many came.
    pub(crate) fn receive(&mut self, fd: impl AsFd) -> io::Result<usize> {
        for header in &mut self.headers {
            header.msg_hdr.msg_controllen = mem::size_of::<Control>() as _;
        }
        // SAFETY: every header points to one iovec, that to `each` writable bytes of `buffers`,
        // and to one `Control`; all of them are owned by `self`, which is borrowed mutably.
        let n = unsafe {
            libc::recvmmsg(
                fd.as_fd().as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as libc::c_uint,
                libc::MSG_WAITFORONE as _,
                ptr::null_mut(),
            )
        };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
    }

    /// Message `i` of the last receive and the size of the datagrams it is made of (all but the
    /// last are that long; without coalescing it is the message's own length).
    pub(crate) fn message(&self, i: usize) -> (&[u8], usize) {
        let len = (self.headers[i].msg_len as usize).min(self.each);
        let bytes = &self.buffers[i * self.each..][..len];
        (bytes, self.segment_size(i).unwrap_or(len))
    }

    /// The UDP_GRO control message of message `i`.
    #[allow(clippy::unnecessary_cast, reason = "msg_controllen is no usize with musl")]
    fn segment_size(&self, i: usize) -> Option<usize> {
        // One control message is all that can come: nothing but UDP_GRO is switched on. It is read
        // as bytes: cmsghdr { cmsg_len: size_t, cmsg_level: int, cmsg_type: int }, then the int.
        let word = mem::size_of::<usize>();
        if (self.headers[i].msg_hdr.msg_controllen as usize) < word + 12 {
            return None;
        }
        let bytes = &self.controls[i].0;
        let int = |at: usize| {
            bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes)
        };
        if int(word)? != libc::IPPROTO_UDP || int(word + 4)? != UDP_GRO {
            return None;
        }
        int(word + 8).and_then(|v| usize::try_from(v).ok()).filter(|&v| v > 0)
    }
}

/// Buffers and headers for sending many datagrams of one size with one system call.
pub(crate) struct SendBatch {
    buffers: Box<[u8]>,
    each: usize,
    _vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

impl SendBatch {
    /// `count` datagrams that all begin as copies of `datagram`.
    pub(crate) fn new(count: usize, datagram: &[u8]) -> Self {
        let each = datagram.len();
        let mut buffers = datagram.repeat(count).into_boxed_slice();
        let mut vectors: Box<[libc::iovec]> = buffers
            .chunks_exact_mut(each)
            .map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: each })
            .collect();
        let headers = vectors
            .iter_mut()
            .map(|vector| {
                // SAFETY: an all-zero mmsghdr is a valid value of that plain C struct.
                let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        Self { buffers, each, _vectors: vectors, headers }
    }

    /// The datagrams one behind the other, to be written before they are sent.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.buffers
    }

    /// Sends datagrams `from..to`; returns how many the kernel took.
    pub(crate) fn send(&mut self, fd: impl AsFd, from: usize, to: usize) -> io::Result<usize> {
        let headers = &mut self.headers[from..to];
        debug_assert!(self.each > 0);
        // SAFETY: every header points to one iovec and that to `each` bytes of `buffers`, all
        // owned by `self`; the kernel writes only the headers' lengths.
        let n = unsafe {
            libc::sendmmsg(
                fd.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as libc::c_uint,
                libc::MSG_NOSIGNAL as _,
            )
        };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
    }
}

//! The memory in which the kernel hands frames to a packet socket (PACKET_RX_RING, version 2).
//!
//! Owns the mapping and whose turn each place in it is; the socket and its options are `packet_socket`'s.
//! Frames are copied as they pass. One that is only referred to, as a socket's own queue does it, shares its
//! pages with the one that travels on; IPsec on the receiving node decrypts there (esp_input in
//! net/ipv4/esp4.c, once a tc program has unshared the packet's head), and whoever looks afterwards sees
//! clear text that never crossed. Described in the kernel's Documentation/networking/packet_mmap.rst.

use std::{
    cell::Cell,
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

/// Bytes of one place: every frame that is on a wire fits. Larger ones, which segmentation offload makes of
/// clear text, wait in the socket's queue ([`Turn::Queued`]).
const PLACE: usize = 16 << 10;
/// Places in a block, which the kernel allocates as a whole.
const PER_BLOCK: usize = 16;
/// Blocks.
const BLOCKS: usize = 128;
/// Bytes of all places.
const BYTES: usize = PLACE * PER_BLOCK * BLOCKS;

/// `TP_STATUS_KERNEL`, `TP_STATUS_USER` and `TP_STATUS_COPY` of linux/if_packet.h.
const KERNEL: u32 = 0;
const USER: u32 = 1;
const COPY: u32 = 2;

/// `struct tpacket_req`.
#[repr(C)]
struct Wanted {
    block_size: u32,
    block_nr: u32,
    frame_size: u32,
    frame_nr: u32,
}

/// What stands at the next place.
pub(super) enum Turn {
    /// Nothing yet.
    Empty,
    /// A frame of this length, more than the buffer's where a part of it is missing.
    Frame(usize),
    /// A frame that did not fit and waits in the socket's queue.
    Queued,
}

/// The places of one socket. Unmapped when dropped.
#[derive(Debug)]
pub(super) struct Ring {
    start: NonNull<u8>,
    next: Cell<usize>,
}

// SAFETY: the mapping belongs to this value alone, and the kernel does not care which thread reads it.
unsafe impl Send for Ring {}

impl Ring {
    /// Has the kernel put a socket's frames into memory from now on.
    ///
    /// # Errors
    /// The system calls'.
    pub(super) fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        set(socket, libc::PACKET_VERSION, &libc::tpacket_versions::TPACKET_V2)?;
        // Any length: what does not fit is queued as well.
        set(socket, libc::PACKET_COPY_THRESH, &1i32)?;
        let wanted = Wanted {
            block_size: (PLACE * PER_BLOCK) as u32,
            block_nr: BLOCKS as u32,
            frame_size: PLACE as u32,
            frame_nr: (PER_BLOCK * BLOCKS) as u32,
        };
        set(socket, libc::PACKET_RX_RING, &wanted)?;
        // SAFETY: a new mapping, which replaces none; the kernel checks length and descriptor.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { start, next: Cell::new(0) })
    }

    /// Takes what stands at the next place.
    pub(super) fn take(&self, buffer: &mut [u8]) -> Turn {
        // SAFETY: the place lies within the mapping, whose places are page-aligned and of PLACE bytes each.
        let place = unsafe { self.start.as_ptr().add(self.next.get() * PLACE) };
        // SAFETY: a place begins with struct tpacket2_hdr, whose first field is tp_status; the kernel writes
        // it while this reads it, as an atomic number.
        let status = unsafe { AtomicU32::from_ptr(place.cast()) };
        let now = status.load(Ordering::Acquire);
        if now & USER == 0 {
            return Turn::Empty;
        }
        // SAFETY: the header is the place's beginning, and the kernel has left the place to this process.
        let header = unsafe { place.cast::<libc::tpacket2_hdr>().read() };
        let turn = if now & COPY != 0 {
            Turn::Queued
        } else {
            let offset = usize::from(header.tp_mac).min(PLACE);
            let held = (header.tp_snaplen as usize).min(PLACE - offset).min(buffer.len());
            // SAFETY: offset and length were just held to the place; nobody else writes to it.
            let frame = unsafe { std::slice::from_raw_parts(place.add(offset), held) };
            buffer[..held].copy_from_slice(frame);
            if header.tp_snaplen < header.tp_len {
                // There was no room in the queue: cut, however large the buffer is.
                buffer[held..].fill(0);
                Turn::Frame(buffer.len() + 1)
            } else {
                Turn::Frame(header.tp_len as usize)
            }
        };
        status.store(KERNEL, Ordering::Release);
        self.next.set((self.next.get() + 1) % (PER_BLOCK * BLOCKS));
        turn
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no reference into it outlives a call.
        unsafe { libc::munmap(self.start.as_ptr().cast(), BYTES) };
    }
}

fn set<T>(socket: BorrowedFd<'_>, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as `value` has.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

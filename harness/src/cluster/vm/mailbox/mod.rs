//! How a guest whose clock counts instructions is asked without anything coming to it from outside.
//!
//! Owns the memory that both ends share and the two doors beside it. An interrupt comes at whatever
//! instruction the guest has reached when this machine gets round to it, and a guest that waits in idle has
//! its clock run on as fast as a CPU can: after a question over a virtio port no two boots were in the same
//! state. Here the guest puts its answer into shared memory (the BAR of an ivshmem-plain device), rings a
//! bell (a byte to one I/O port) and knocks at a gate (a byte to another). Behind the gate is a full pipe:
//! QEMU's debug console writes with `qemu_chr_fe_write_all`, which holds the virtual CPU inside that one
//! instruction until there is room. Meanwhile the next question is put into the memory. So a boot, with
//! everything that it is asked, is one sequence of instructions, the same every time.

pub mod guest;
pub(super) mod host;

/// Bytes of the shared memory; a power of two, as a BAR is.
const SIZE: u64 = 16 << 20;
/// I/O port of the bell; nothing of a q35 machine is there.
const BELL: u16 = 0x5e0;
/// I/O port of the gate.
const GATE: u16 = 0x5e4;
/// Where the memory has the number of the last question, from 1 (u64, little endian); its length follows.
const QUESTION: u64 = 0;
/// The same of the last answer; the greeting is number 0 and counts as 1 here, since memory begins as 0.
const ANSWER: u64 = 16;
/// Where the text of either is.
const TEXT: u64 = 4096;

/// QEMU's words for the device with the memory, as it is seen from the guest: vendor and device.
const IDENTITY: [&str; 2] = ["0x1af4", "0x1110"];

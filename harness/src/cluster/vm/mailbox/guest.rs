//! The guest's end of the mailbox.
//!
//! It maps the device's memory and writes to I/O ports, for which there is no safe way: this kernel has no
//! /dev/port. All of that is here.

use super::{ANSWER, BELL, GATE, IDENTITY, QUESTION, SIZE, TEXT};
use crate::cluster::vm::wire::{self, Answer, Ask};
use anyhow::{Context as _, bail};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    ptr::{self, NonNull},
};

/// Where Linux lists devices on PCI.
const DEVICES: &str = "/sys/bus/pci/devices";

/// The guest's end; there is one, and the process that has it keeps it until the machine goes off.
#[derive(Debug)]
pub struct Mailbox {
    memory: NonNull<u8>,
    answered: u64,
    heard: u64,
}

impl Mailbox {
    /// The machine's mailbox; none where it has none, which is one whose clock counts time.
    ///
    /// # Errors
    /// It is there and cannot be used.
    pub fn find() -> anyhow::Result<Option<Self>> {
        let Some(device) = device(Path::new(DEVICES)) else { return Ok(None) };
        fs::write(device.join("enable"), "1").context("enabling the mailbox")?;
        let memory = OpenOptions::new().read(true).write(true).open(device.join("resource2"));
        let memory = memory.context("opening the mailbox")?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; nothing else refers to it.
        let mapped = unsafe {
            mmap(ptr::null_mut(), SIZE as usize, protection, MapFlags::SHARED, &memory, 0)
        };
        let mapped = mapped.context("mapping the mailbox")?;
        let memory = NonNull::new(mapped.cast::<u8>()).context("the mailbox is nowhere")?;
        ports::allow()?;
        Ok(Some(Self { memory, answered: 0, heard: 0 }))
    }

    /// Puts an answer in and rings.
    ///
    /// # Errors
    /// It is too long.
    pub fn say(&mut self, answer: &Answer) -> anyhow::Result<()> {
        let mut text = Vec::new();
        wire::write(answer, &mut text)?;
        if text.len() as u64 > SIZE - TEXT {
            bail!("an answer of {} bytes: {} is the most", text.len(), SIZE - TEXT);
        }
        self.answered += 1;
        self.put(TEXT, &text);
        self.put(ANSWER + 8, &(text.len() as u64).to_le_bytes());
        self.put(ANSWER, &self.answered.to_le_bytes());
        ports::write(BELL);
        Ok(())
    }

    /// Waits at the gate for the next question.
    ///
    /// # Errors
    /// It is none.
    pub fn hear(&mut self) -> anyhow::Result<Ask> {
        self.heard += 1;
        // More than once only when the controller had not closed the gate again in time.
        loop {
            ports::write(GATE);
            if self.word(QUESTION) == self.heard {
                break;
            }
        }
        let length = self.word(QUESTION + 8).min(SIZE - TEXT);
        let mut text = vec![0; length as usize];
        // SAFETY: `length` bytes from TEXT on are inside the mapping, and `text` has as many; the
        // controller writes only while this thread is at the gate.
        unsafe {
            ptr::copy_nonoverlapping(
                self.memory.as_ptr().add(TEXT as usize),
                text.as_mut_ptr(),
                text.len(),
            );
        }
        wire::read(text.as_slice())?.context("an empty question")
    }

    fn word(&self, at: u64) -> u64 {
        // SAFETY: `at` is one of the fields at the beginning of the mapping, at a multiple of 8; volatile,
        // since the controller changes it.
        u64::from_le(unsafe { self.memory.as_ptr().add(at as usize).cast::<u64>().read_volatile() })
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        // SAFETY: callers stay inside the mapping: fields, and a text whose length was checked.
        unsafe {
            ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.memory.as_ptr().add(at as usize),
                bytes.len(),
            );
        }
    }
}

/// The device with the memory.
fn device(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    entries.into_iter().find(|device| {
        let is = |file: &str, value: &str| {
            fs::read_to_string(device.join(file)).is_ok_and(|text| text.trim() == value)
        };
        is("vendor", IDENTITY[0]) && is("device", IDENTITY[1])
    })
}

/// Writing to I/O ports.
#[cfg(target_arch = "x86_64")]
mod ports {
    use super::{BELL, GATE};
    use anyhow::Context as _;
    use std::{arch::asm, io};

    /// Asks the kernel to let this thread write to the doors, and to no other port.
    pub fn allow() -> anyhow::Result<()> {
        for port in [BELL, GATE] {
            // SAFETY: ioperm(2) changes only which ports this thread may use.
            if unsafe { libc::ioperm(port.into(), 1, 1) } != 0 {
                return Err(io::Error::last_os_error()).context("ioperm of the mailbox");
            }
        }
        Ok(())
    }

    /// Writes a byte to a door; at the gate this is where the machine stands still.
    pub fn write(port: u16) {
        // SAFETY: a door takes any byte and changes nothing of this process; the compiler is left to think
        // that it reads and writes memory, which the controller does. `allow` was called, or the kernel
        // ends this process.
        unsafe { asm!("out dx, al", in("dx") port, in("al") b'x', options(nostack)) };
    }
}

/// Machines with a mailbox are x86_64.
#[cfg(not(target_arch = "x86_64"))]
mod ports {
    pub fn allow() -> anyhow::Result<()> {
        anyhow::bail!("this architecture has no I/O ports")
    }

    pub fn write(_: u16) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_is_found_by_its_identity() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(device(folder.path()), None);
        for (name, identity) in [("0000:00:00.0", ["0x8086", "0x29c0"]), ("0000:00:02.0", IDENTITY)]
        {
            let device = folder.path().join(name);
            fs::create_dir(&device).unwrap();
            fs::write(device.join("vendor"), format!("{}\n", identity[0])).unwrap();
            fs::write(device.join("device"), format!("{}\n", identity[1])).unwrap();
        }
        assert_eq!(device(folder.path()), Some(folder.path().join("0000:00:02.0")));
    }
}

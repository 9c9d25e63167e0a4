//! The controller's end of the mailbox.

use super::{ANSWER, BELL, GATE, QUESTION, SIZE, TEXT};
use crate::cluster::vm::wire::{self, Answer, Ask};
use anyhow::{Context as _, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    io::Errno,
    pipe::{PipeFlags, fcntl_setpipe_size, pipe_with},
};
use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
    sync::Mutex,
    time::{Duration, Instant},
};

/// How long a guest that is at the gate may take to come through, once it is open. QEMU tries every 100 µs.
const THROUGH: Duration = Duration::from_secs(20);
/// What fills the pipe; no end is read by anybody.
const FILLING: [u8; 2048] = [b'.'; 2048];

/// Shared memory and gate of one machine.
#[derive(Debug)]
pub struct Mailbox {
    memory: File,
    gate: Mutex<Gate>,
}

/// A pipe of one page, full when the gate is closed.
#[derive(Debug)]
struct Gate {
    inside: OwnedFd,
    outside: OwnedFd,
    asked: u64,
}

impl Mailbox {
    /// An empty one, its gate closed.
    ///
    /// # Errors
    /// The system calls'.
    pub fn new() -> anyhow::Result<Self> {
        let memory = File::from(memfd_create("cnibench-mailbox", MemfdFlags::CLOEXEC)?);
        memory.set_len(SIZE)?;
        let (inside, outside) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // The least that a pipe can hold: a page, whatever is asked for less.
        fcntl_setpipe_size(&outside, FILLING.len())?;
        let gate = Gate { inside, outside, asked: 0 };
        gate.close()?;
        Ok(Self { memory, gate: Mutex::new(gate) })
    }

    /// QEMU's arguments for its devices; the bell rings on QEMU's standard output.
    pub fn devices(&self) -> Vec<String> {
        let own = |fd: i32| format!("/proc/{}/fd/{fd}", std::process::id());
        let memory = own(self.memory.as_raw_fd());
        let gate = self.gate.lock().map(|gate| gate.outside.as_raw_fd()).unwrap_or(-1);
        let door = |name: &str, path: &str, port: u16| {
            [
                "-chardev".to_owned(),
                format!("file,id={name},path={path},append=on"),
                "-device".to_owned(),
                format!("isa-debugcon,chardev={name},iobase={port:#x}"),
            ]
        };
        let mut all = vec![
            "-object".to_owned(),
            format!("memory-backend-file,id=box,share=on,size={SIZE},mem-path={memory}"),
            "-device".to_owned(),
            "ivshmem-plain,memdev=box".to_owned(),
        ];
        all.extend(door("bell", "/proc/self/fd/1", BELL));
        all.extend(door("gate", &own(gate), GATE));
        all
    }

    /// Puts a question in and lets the guest through.
    ///
    /// # Errors
    /// It is too long, or the guest is not there any more.
    pub fn ask(&self, ask: &Ask) -> anyhow::Result<()> {
        let mut gate = self.gate.lock().map_err(|_| anyhow::anyhow!("the gate is broken"))?;
        let mut text = Vec::new();
        wire::write(ask, &mut text)?;
        let length = text.len() as u64;
        ensure!(length <= SIZE - TEXT, "a question of {length} bytes: {} is the most", SIZE - TEXT);
        gate.asked += 1;
        self.memory.write_all_at(&text, TEXT)?;
        self.memory.write_all_at(&length.to_le_bytes(), QUESTION + 8)?;
        self.memory.write_all_at(&gate.asked.to_le_bytes(), QUESTION)?;
        gate.let_through()
    }

    /// What the guest put in before it rang for the `number`th time, from 0.
    ///
    /// # Errors
    /// It is no answer, or another one.
    pub fn answer(&self, number: u64) -> io::Result<Answer> {
        let word = |at: u64| {
            let mut bytes = [0; 8];
            self.memory.read_exact_at(&mut bytes, at)?;
            io::Result::Ok(u64::from_le_bytes(bytes))
        };
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let there = word(ANSWER)?;
        if there != number + 1 {
            return Err(wrong(format!("answer {there} where {} was due", number + 1)));
        }
        let length = word(ANSWER + 8)?;
        if length > SIZE - TEXT {
            return Err(wrong(format!("an answer of {length} bytes")));
        }
        let mut text = vec![0; length as usize];
        self.memory.read_exact_at(&mut text, TEXT)?;
        wire::read(text.as_slice())?.ok_or_else(|| wrong("an empty answer".to_owned()))
    }
}

impl Gate {
    /// Fills the pipe.
    fn close(&self) -> anyhow::Result<()> {
        let mut size = FILLING.len();
        while size > 0 {
            match rustix::io::write(&self.outside, &FILLING[..size]) {
                Ok(_) => {}
                Err(Errno::AGAIN) => size /= 2,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e).context("closing the gate of a guest"),
            }
        }
        Ok(())
    }

    /// Empties the pipe; the number of bytes that were in it.
    fn empty(&self) -> anyhow::Result<usize> {
        let (mut page, mut all) = ([0; 4096], 0);
        loop {
            match rustix::io::read(&self.inside, &mut page) {
                Ok(read) => all += read,
                Err(Errno::AGAIN) => return Ok(all),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e).context("opening the gate of a guest"),
            }
        }
    }

    /// Opens, waits until the guest's byte came through, and closes.
    fn let_through(&self) -> anyhow::Result<()> {
        self.empty()?;
        let until = Instant::now() + THROUGH;
        let a_moment = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        loop {
            let mut fds = [PollFd::new(&self.inside, PollFlags::IN)];
            match poll(&mut fds, Some(&a_moment)) {
                Ok(0) if Instant::now() > until => bail!("the guest did not come for its question"),
                Ok(1..) => break,
                Ok(0) | Err(Errno::INTR) => {}
                Err(e) => return Err(e).context("waiting at the gate of a guest"),
            }
        }
        self.empty()?;
        self.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{thread, time::Duration};

    #[test]
    fn a_closed_gate_takes_nothing_and_an_open_one_a_byte() {
        let mailbox = Mailbox::new().unwrap();
        let outside = mailbox.gate.lock().unwrap().outside.try_clone().unwrap();
        assert_eq!(rustix::io::write(&outside, b"x").unwrap_err(), Errno::AGAIN);
        // What QEMU does.
        let knocking = thread::spawn(move || {
            while rustix::io::write(&outside, b"x") != Ok(1) {
                thread::sleep(Duration::from_micros(100));
            }
            outside
        });
        mailbox.ask(&Ask::Prove).unwrap();
        let outside = knocking.join().unwrap();
        assert_eq!(rustix::io::write(&outside, b"x").unwrap_err(), Errno::AGAIN);
        let mut word = [0; 8];
        mailbox.memory.read_exact_at(&mut word, QUESTION).unwrap();
        assert_eq!(u64::from_le_bytes(word), 1);
    }

    #[test]
    fn answers_come_in_order_and_whole() {
        let mailbox = Mailbox::new().unwrap();
        assert!(mailbox.answer(0).unwrap_err().to_string().contains("answer 0 where 1"));
        let put = |number: u64, text: &[u8]| {
            mailbox.memory.write_all_at(text, TEXT).unwrap();
            let length = text.len() as u64;
            mailbox.memory.write_all_at(&length.to_le_bytes(), ANSWER + 8).unwrap();
            mailbox.memory.write_all_at(&number.to_le_bytes(), ANSWER).unwrap();
        };
        put(1, b"{\"answer\":\"done\"}\n");
        assert!(matches!(mailbox.answer(0).unwrap(), Answer::Done));
        assert!(mailbox.answer(1).is_err());
        put(2, b"{\"answer\":");
        assert!(mailbox.answer(1).is_err());
    }
}

//! One QEMU: its command line, its life and its death.
//!
//! The guest's console for people (kernel messages) is QEMU's standard error and is kept in memory; the
//! console for the controller is a virtio port, which is its standard input and output, or where the clock
//! counts instructions a [`mailbox`](super::mailbox). So nothing of a machine is in a file. It dies with
//! the thread that started it: also when this process is killed.

use super::{
    initramfs::Initramfs,
    kernel::Kernel,
    mailbox::host::Mailbox,
    wire::{self, Answer, Ask},
};
use crate::exec::local;
use anyhow::{Context as _, anyhow, bail};
use cnibench_model::Clock;
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use std::{
    ffi::OsString,
    io::{self, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The program, found on PATH.
pub const QEMU: &str = "qemu-system-x86_64";
/// The name of the port that carries questions and answers.
pub const PORT: &str = "cnibench";
/// The CPU that is emulated: a model with AES and AVX2, on which a kernel takes the code for ciphers that it
/// takes on machines of the last ten years, and no flag of it is the host's. Left out are the fast string
/// moves: with them a kernel copies byte by byte, and a copy would be an instruction for every byte.
pub const CPU: &str = "Haswell-noTSX,-erms,-fsrm,-vmx,-spec-ctrl";
/// How much of the guest's messages is kept.
const KEPT: usize = 64 << 10;
/// Lines of them that an error shows.
const SHOWN: usize = 12;

/// What kind of machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Emulated by counting instructions, or as fast as it goes.
    pub clock: Clock,
    /// Hardware acceleration that was seen to boot, or emulation.
    pub acceleration: Acceleration,
    /// CPUs; one where instructions are counted.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// What is random in a guest that counts instructions comes of this.
    pub seed: u64,
    /// More for the kernel's command line.
    pub kernel_args: String,
}

/// How guest instructions are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceleration {
    /// By the CPU.
    Kvm,
    /// By QEMU.
    Emulation,
}

/// What a machine tells.
#[derive(Debug)]
pub enum Event {
    /// The guest said something.
    Said(Box<Answer>),
    /// The machine is off, or cannot be understood any more; the text says why, with the guest's last
    /// messages.
    Gone(String),
}

/// A running machine. Dropped, it is off.
pub struct Machine {
    asks: mpsc::Sender<Ask>,
    child: Arc<Mutex<Option<Child>>>,
    log: Arc<Mutex<Vec<u8>>>,
}

impl Machine {
    /// Starts one.
    ///
    /// # Errors
    /// QEMU is not there or does not start.
    pub fn start(
        kernel: &Kernel,
        initramfs: &Initramfs,
        shape: &Shape,
    ) -> anyhow::Result<(Self, UnboundedReceiver<Event>)> {
        let mailbox = match shape.clock {
            Clock::Instructions => Some(Arc::new(Mailbox::new()?)),
            Clock::Wall => None,
        };
        let arguments = arguments(kernel, &initramfs.path(), shape, mailbox.as_deref());
        tracing::debug!(?arguments, "{QEMU}");
        let (events, from_guest) = unbounded_channel();
        let (asks, to_guest) = mpsc::channel::<Ask>();
        let child = Arc::new(Mutex::new(None));
        let log = Arc::new(Mutex::new(Vec::new()));
        let (started, has_started) = mpsc::channel();
        let (kept, messages) = (Arc::clone(&child), Arc::clone(&log));
        // The machine dies with the thread that started it, which therefore stays.
        thread::Builder::new().name("vm".to_owned()).spawn(move || {
            let machine = match spawn(&arguments) {
                Ok(machine) => machine,
                Err(e) => {
                    let _ = started.send(Err(e));
                    return;
                }
            };
            watch(machine, mailbox, &kept, &messages, to_guest, &events, &started);
        })?;
        has_started.recv().context("the thread of the machine ended")??;
        Ok((Self { asks, child, log }, from_guest))
    }

    /// Sends a question. To a machine that is off nothing is sent.
    pub fn send(&self, ask: Ask) {
        let _ = self.asks.send(ask);
    }

    /// Stops the machine where it is, or lets it go on. One whose clock counts instructions takes no
    /// notice; while it waits for a question it would only count how it waits, as fast as a CPU can.
    pub fn hold(&self, hold: bool) {
        let signal = if hold { Signal::STOP } else { Signal::CONT };
        if let Ok(child) = self.child.lock()
            && let Some(id) = child.as_ref().and_then(|c| Pid::from_raw(c.id().cast_signed()))
        {
            // One that is off cannot be held; it is a zombie until it is waited for, so the id is its own.
            let _ = kill_process(id, signal);
        }
    }

    /// The guest's messages so far.
    pub fn log(&self) -> String {
        text(&self.log)
    }

    /// Switches it off at once.
    pub fn kill(&self) {
        if let Ok(mut child) = self.child.lock()
            && let Some(child) = child.as_mut()
        {
            let _ = child.kill();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Through this binary, which asks to die with its parent before it becomes QEMU: see [`become_machine`].
fn spawn(arguments: &[OsString]) -> anyhow::Result<Child> {
    let mut command = Command::new(local::program());
    command.arg0("cnibench").arg("vm-machine").arg("--").args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A signal to the terminal's process group is the controller's to handle.
    command.process_group(0).spawn().context("cannot start a machine")
}

/// What `cnibench vm-machine` does: becomes QEMU, and ends when its parent does.
///
/// # Errors
/// QEMU cannot be started.
pub fn become_machine(arguments: &[OsString]) -> anyhow::Result<()> {
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != parent {
        bail!("the controller is gone");
    }
    let error = Command::new(QEMU).args(arguments).exec();
    Err(anyhow!(error).context(format!(
        "cannot start {QEMU}: install QEMU (on Debian and Ubuntu the package qemu-system-x86)"
    )))
}

fn watch(
    mut machine: Child,
    mailbox: Option<Arc<Mailbox>>,
    kept: &Mutex<Option<Child>>,
    log: &Arc<Mutex<Vec<u8>>>,
    to_guest: mpsc::Receiver<Ask>,
    events: &UnboundedSender<Event>,
    started: &mpsc::Sender<anyhow::Result<()>>,
) {
    let pipes = (machine.stdin.take(), machine.stdout.take(), machine.stderr.take());
    if let Ok(mut kept) = kept.lock() {
        *kept = Some(machine);
    }
    let (Some(input), Some(output), Some(messages)) = pipes else {
        let _ = started.send(Err(anyhow!("a machine without pipes")));
        return;
    };
    let _ = started.send(Ok(()));
    let logged = Arc::clone(log);
    let reader = thread::spawn(move || keep(messages, &logged));
    let (asked, mut rung) = (mailbox.clone(), 0);
    thread::spawn(move || {
        let mut input = input;
        for ask in to_guest {
            let put = match &asked {
                Some(mailbox) => mailbox.ask(&ask),
                None => wire::write(&ask, &mut input).map_err(Into::into),
            };
            // Of a machine that is off the other end tells; of any other, whoever waits for its answer.
            if let Err(e) = put {
                tracing::debug!("{e:#}");
                return;
            }
        }
    });
    let mut output = BufReader::new(output);
    let why = loop {
        let read = match &mailbox {
            Some(mailbox) => heard(mailbox, &mut output, &mut rung),
            None => wire::read(&mut output),
        };
        match read {
            Ok(Some(answer)) => {
                let _ = events.send(Event::Said(Box::new(answer)));
            }
            Ok(None) => break None,
            Err(e) => break Some(e.to_string()),
        }
    };
    // Taken out: once it was waited for, its id may be another's.
    let status = kept.lock().ok().and_then(|mut kept| kept.take()).and_then(|mut child| {
        // What cannot be understood any more is of no use.
        if why.is_some() {
            let _ = child.kill();
        }
        child.wait().ok()
    });
    let _ = reader.join();
    let _ = events.send(Event::Gone(epitaph(why, status, &text(log))));
}

/// Waits for the bell of a mailbox; the answer that it rings for, or none at the machine's end.
fn heard(
    mailbox: &Mailbox,
    bell: &mut impl io::Read,
    rung: &mut u64,
) -> io::Result<Option<Answer>> {
    let mut byte = [0];
    if bell.read(&mut byte)? == 0 {
        return Ok(None);
    }
    *rung += 1;
    mailbox.answer(*rung - 1).map(Some)
}

fn epitaph(why: Option<String>, status: Option<ExitStatus>, log: &str) -> String {
    let mut said = match (why, status) {
        (Some(why), _) => format!("the guest's console broke: {why}"),
        (None, Some(status)) if status.success() => "the guest switched itself off".to_owned(),
        (None, Some(status)) => format!("QEMU ended ({status})"),
        (None, None) => "QEMU ended".to_owned(),
    };
    let lines: Vec<&str> = log.lines().map(str::trim_end).filter(|l| !l.is_empty()).collect();
    if lines.is_empty() {
        said.push_str("; it said nothing");
    } else {
        said.push_str("; its last messages:\n");
        // After a panic come registers; what led to it is before.
        let panic = lines.iter().position(|l| l.contains("Kernel panic"));
        let end = panic.map_or(lines.len(), |at| at + 1);
        said.push_str(
            &lines[end.saturating_sub(SHOWN)..end]
                .iter()
                .map(|l| format!("    {l}\n"))
                .collect::<String>(),
        );
        said.truncate(said.trim_end().len());
    }
    said
}

fn keep(mut messages: impl std::io::Read, log: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = messages.read(&mut buffer) {
        if let Ok(mut log) = log.lock() {
            log.extend_from_slice(&buffer[..read]);
            let over = log.len().saturating_sub(KEPT);
            log.drain(..over);
        }
    }
}

fn text(log: &Mutex<Vec<u8>>) -> String {
    log.lock().map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
}

/// Everything that could differ between two boots is pinned; where instructions are counted that is
/// what makes the count repeat.
fn arguments(
    kernel: &Kernel,
    initramfs: &Path,
    shape: &Shape,
    mailbox: Option<&Mailbox>,
) -> Vec<OsString> {
    // The kernel: no address layout of its own, neither its own nor that of programs; no watchdogs, whose
    // time is another one here; on a panic the end.
    let mut append = String::from(
        "console=ttyS0 loglevel=4 rdinit=/init panic=-1 nokaslr norandmaps nowatchdog no_timer_check \
         net.ifnames=0 rcupdate.rcu_cpu_stall_suppress=1 random.trust_cpu=on audit=0 apparmor=0 randomize_kstack_offset=off",
    );
    let mut all: Vec<OsString> = Vec::new();
    let mut push = |words: &[&str]| all.extend(words.iter().map(OsString::from));
    push(&["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    match shape.acceleration {
        Acceleration::Kvm => {
            push(&["-M", "q35,hpet=off,vmport=off", "-accel", "kvm", "-cpu", "host"])
        }
        Acceleration::Emulation => {
            // What these guard against does not exist in an emulated CPU, and costs.
            append.push_str(" mitigations=off");
            push(&["-M", "q35,hpet=off,vmport=off", "-cpu", CPU]);
            let accel = match shape.clock {
                Clock::Instructions => "tcg,thread=single",
                Clock::Wall => "tcg,thread=multi",
            };
            push(&["-accel", accel]);
        }
    }
    if shape.clock == Clock::Instructions {
        append.push_str(" clocksource=tsc tsc=reliable");
        push(&["-icount", "shift=0,sleep=off", "-rtc", "base=2024-01-01T00:00:00,clock=vm"]);
        push(&["-seed", &shape.seed.to_string()]);
    }
    push(&["-smp", &shape.cpus.to_string(), "-m", &format!("{}M", shape.memory_mib)]);
    append.push_str(&format!(" {}", shape.kernel_args));
    push(&["-append", append.trim_end()]);
    push(&["-serial", "chardev:log", "-chardev", "file,id=log,path=/proc/self/fd/2,append=on"]);
    match mailbox {
        Some(mailbox) => mailbox.devices().iter().for_each(|word| push(&[word])),
        None => {
            push(&["-chardev", "stdio,id=port,signal=off"]);
            push(&["-device", "virtio-serial-pci"]);
            push(&["-device", &format!("virtserialport,chardev=port,name={PORT}")]);
        }
    }
    all.push("-kernel".into());
    all.push(kernel.image.clone().into());
    all.push("-initrd".into());
    all.push(initramfs.into());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_shows_the_last_messages() {
        let log = (0..30).map(|i| format!("line {i}\r\n\r\n")).collect::<String>();
        let said = epitaph(Some("not JSON".to_owned()), None, &log);
        assert!(said.contains("console broke: not JSON"), "{said}");
        assert!(said.contains("line 18") && said.ends_with("line 29"), "{said}");
        assert!(!said.contains("line 17"), "{said}");
        let panicked = log.replace("line 20", "Kernel panic - not syncing");
        let said = epitaph(None, None, &panicked);
        assert!(said.contains("line 9\n") && said.ends_with("not syncing"), "{said}");
        assert!(epitaph(None, None, "").ends_with("it said nothing"));
    }
}

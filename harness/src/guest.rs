//! What the binary does as the first process of a guest: mounts, modules, and a controller that the
//! real one asks over the console.
//!
//! The first process only waits: for the controller, with whose end the machine goes off, and for
//! orphans. The controller brings up a cluster of namespaces here as it would on any machine.

use crate::{
    cluster::{
        ClusterError, Provider as _,
        netns::NetnsProvider,
        owner::{Owner, RunId},
        vm::{
            initramfs::{FOLDER, MODULE_LIST, MODULES},
            luggage::GUEST_PATH,
            machine::PORT,
            mailbox::guest::Mailbox,
            wire::{self, Answer, Ask, ModuleState, Refusal, VERSION},
        },
    },
    netlink::{Netns, namespace::DIR},
    runner::{Arm, Asked, Unprobed, probed_trial},
};
use anyhow::{Context as _, anyhow, bail};
use cnibench_model::{Clock, Placement};
use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::{WaitOptions, wait},
    system::RebootCommand,
};
use std::{
    ffi::{CString, OsStr},
    fs::{self, File, OpenOptions},
    io::BufReader,
    os::unix::{ffi::OsStrExt as _, fs::symlink, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// The run that everything in a guest belongs to. The same in every guest: names are part of what a
/// kernel computes with.
const RUN: &str = "aaaaaa";
/// How long the port may take to appear.
const PORT_APPEARS: Duration = Duration::from_secs(20);

/// Was this process started by the kernel of a guest?
pub fn is_first_process() -> bool {
    std::process::id() == 1 && std::env::args_os().next().is_some_and(|name| name == "/init")
}

/// What the first process does; with it the machine ends.
pub fn first_process() -> ExitCode {
    if let Err(e) = live() {
        eprintln!("cnibench: {e:#}");
    }
    // A machine that cannot be switched off restarts, which QEMU takes for the end, too.
    let _ = rustix::system::reboot(RebootCommand::PowerOff);
    let _ = rustix::system::reboot(RebootCommand::Restart);
    ExitCode::FAILURE
}

fn live() -> anyhow::Result<()> {
    prepare()?;
    let unloaded = load_modules(Path::new("/"))?;
    let told = serde_json::to_string(&unloaded)?;
    let mut controller = Command::new("/init");
    controller.arg0("cnibench").args(["guest-controller", &told]).env("PATH", GUEST_PATH);
    // Where the run itself is, so that names of files mean what they mean there.
    let folder = fs::read(Path::new("/").join(FOLDER)).context("the name of the run's folder")?;
    controller.current_dir(OsStr::from_bytes(&folder));
    let controller = controller.spawn().context("cannot start the controller")?;
    let id = controller.id();
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get().unsigned_abs() == id => {
                return match status.exit_status() {
                    Some(0) => Ok(()),
                    _ => Err(anyhow!("the controller in the guest ended: {status:?}")),
                };
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(anyhow!(e).context("waiting for processes")),
        }
    }
}

/// The file systems that programs expect.
fn prepare() -> anyhow::Result<()> {
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let shared = MountFlags::NOSUID | MountFlags::NODEV;
    for (kind, at, flags) in [
        ("proc", "/proc", quiet),
        ("sysfs", "/sys", quiet),
        ("devtmpfs", "/dev", MountFlags::NOSUID),
        ("tmpfs", "/run", shared),
    ] {
        mount(kind, at, kind, flags, None).with_context(|| format!("cannot mount {at}"))?;
    }
    // Namespaces that are named later show in the mount namespaces of nodes, as where systemd began.
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)
        .context("cannot share mounts")?;
    symlink("/proc/self/fd", "/dev/fd").context("/dev/fd")?;
    // What a kernel may lack.
    for (kind, at) in
        [("bpf", "/sys/fs/bpf"), ("tracefs", "/sys/kernel/tracing"), ("cgroup2", "/sys/fs/cgroup")]
    {
        if let Err(e) = mount(kind, at, kind, quiet, None) {
            eprintln!("cnibench: cannot mount {at}: {e}");
        }
    }
    Ok(())
}

/// Loads the modules of the initramfs in order. Gives those that the kernel does not take.
fn load_modules(root: &Path) -> anyhow::Result<Vec<ModuleState>> {
    let list = fs::read_to_string(root.join(MODULE_LIST)).context("no list of modules")?;
    let mut refused = Vec::new();
    for name in list.lines() {
        if let Err(e) = load(&root.join(MODULES).join(name)) {
            refused.push(ModuleState { name: name.to_owned(), error: format!("{e:#}") });
        }
    }
    Ok(refused)
}

fn load(path: &Path) -> anyhow::Result<()> {
    /// MODULE_INIT_COMPRESSED_FILE of linux/module.h: the kernel unpacks it.
    const COMPRESSED: i32 = 4;
    let packed = path.extension().is_some_and(|e| e != "ko");
    let file = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = if packed { COMPRESSED } else { 0 };
    match rustix::system::finit_module(file, &CString::default(), flags) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// What the controller in the guest does, until the console closes or it is told to go.
///
/// # Errors
/// There is no console, or it broke.
pub fn controller(unloaded: &str) -> anyhow::Result<()> {
    let modules = serde_json::from_str(unloaded).context("the list of modules")?;
    let mut console = Console::open()?;
    if console.clock() == Clock::Instructions {
        PINNED.iter().try_for_each(|(path, value)| {
            let path = Path::new("/proc/sys").join(path);
            fs::write(&path, value).with_context(|| format!("setting {}", path.display()))
        })?;
    }
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let hello = Answer::Hello { version: VERSION, kernel: kernel.trim().to_owned(), modules };
    console.say(&hello)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let end = serve(&runtime, &mut console);
    // Nothing here outlives the machine.
    runtime.shutdown_timeout(Duration::from_secs(1));
    end
}

/// What the controller outside speaks through.
enum Console {
    /// Of a machine whose clock counts time.
    Port(BufReader<File>),
    /// Of one whose clock counts instructions.
    Mailbox(Mailbox),
}

impl Console {
    fn open() -> anyhow::Result<Self> {
        if let Some(mailbox) = Mailbox::find()? {
            return Ok(Self::Mailbox(mailbox));
        }
        let port = OpenOptions::new().read(true).write(true).open(find_port()?);
        Ok(Self::Port(BufReader::new(port.context("the console")?)))
    }

    /// The next question; none when the other end is closed.
    fn hear(&mut self) -> anyhow::Result<Option<Ask>> {
        match self {
            Self::Port(port) => Ok(wire::read(port)?),
            Self::Mailbox(mailbox) => mailbox.hear().map(Some),
        }
    }

    fn say(&mut self, answer: &Answer) -> anyhow::Result<()> {
        match self {
            Self::Port(port) => Ok(wire::write(answer, port.get_mut())?),
            Self::Mailbox(mailbox) => mailbox.say(answer),
        }
    }

    fn clock(&self) -> Clock {
        match self {
            Self::Port(_) => Clock::Wall,
            Self::Mailbox(_) => Clock::Instructions,
        }
    }
}

/// The device of the port, which udev would have given a name.
fn find_port() -> anyhow::Result<PathBuf> {
    let until = Instant::now() + PORT_APPEARS;
    loop {
        let ports = fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten();
        for port in ports {
            let name = fs::read_to_string(port.path().join("name")).unwrap_or_default();
            if name.trim() == PORT {
                return Ok(Path::new("/dev").join(port.file_name()));
            }
        }
        if Instant::now() > until {
            bail!("no virtio port named {PORT}: the kernel needs virtio_pci and virtio_console");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// What a guest that counts instructions sets before anything is made.
const PINNED: &[(&str, &str)] = &[
    // Flows of counted trials go before everything else, and nothing is to stop them now and then.
    ("kernel/sched_rt_runtime_us", "-1"),
    // A neighbour is taken for reachable for a random time around this (net/core/neighbour.c,
    // neigh_rand_reach_time), and once it is not, each packet to it takes a longer way. Devices begin with
    // what is the default when they are made.
    ("net/ipv4/neigh/default/base_reachable_time_ms", "86400000"),
    ("net/ipv6/neigh/default/base_reachable_time_ms", "86400000"),
];

/// When a cluster is brought up, in guest time. Hash tables, ports and secrets are drawn from a generator that
/// a kernel reseeds, with what it gathered from the moments of interrupts, at intervals that grow with its
/// age (drivers/char/random.c, crng_reseed_interval): at 141 s, then every minute. In between the same draws
/// give the same numbers, also where a cni differs that the guest was told of only now; so both sides of a
/// comparison have the same collisions.
const UP_AT: Duration = Duration::from_secs(145);

/// Answers until the other end closes, or says that this is the end.
fn serve(runtime: &Runtime, console: &mut Console) -> anyhow::Result<()> {
    let mut desk = Desk { arm: None, clock: console.clock(), settled: false };
    while let Some(ask) = console.hear().context("the console broke")? {
        let off = matches!(ask, Ask::Off);
        let answer = runtime.block_on(desk.answer(ask));
        console.say(&answer).context("the console broke")?;
        if off {
            break;
        }
    }
    Ok(())
}

/// Runs a command on a node of the cluster.
fn look(node: u32, command: &[String]) -> anyhow::Result<String> {
    let run = RunId::of_label(RUN).with_context(|| format!("{RUN} is no run"))?;
    let netns = Netns::open(&Path::new(DIR).join(run.name(0, &format!("n{node}"))))?;
    let shown = command.join(" ");
    let (program, arguments) = command.split_first().context("no command")?;
    let output = netns
        .run_blocking(|| Ok(Command::new(program).args(arguments).output()?))
        .with_context(|| format!("{shown} on node {node}"))?;
    if !output.status.success() {
        bail!(
            "{shown} on node {node}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Trials begin at multiples of this, in guest time. What was begun before them is over then, and where the
/// timer ticks next is the same for all of them. A guest that idles counts on and costs nothing.
const BEAT: Duration = Duration::from_secs(1);
/// Rest before the first trial, in guest time: a kernel that has just booted has work of its own to do.
const REST: Duration = Duration::from_secs(10);

/// How long the guest has been up, by its clock.
fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// Waits for the next multiple of [`BEAT`] that leaves time to settle.
fn settle(settled: &mut bool) {
    let least = if std::mem::replace(settled, true) { BEAT / 2 } else { REST };
    let now = uptime();
    let beat = BEAT.as_nanos();
    let next = (now + least).as_nanos().div_ceil(beat) * beat;
    thread::sleep(Duration::from_nanos((next - now.as_nanos()) as u64));
}

/// Answers questions, one after the other.
struct Desk {
    arm: Option<Arm>,
    clock: Clock,
    /// Has it rested since it booted?
    settled: bool,
}

impl Desk {
    async fn answer(&mut self, ask: Ask) -> Answer {
        let done = |result: Result<(), Refusal>| match result {
            Ok(()) => Answer::Done,
            Err(why) => Answer::Refused { why },
        };
        match ask {
            Ask::Check { cni, topology } => {
                let provider = self.provider();
                done(match provider {
                    Ok(provider) => provider.check(&cni, &topology).await.map_err(Refusal::from),
                    Err(e) => Err(e.into()),
                })
            }
            Ask::Up { index, cni, topology } => {
                if self.clock == Clock::Instructions {
                    thread::sleep(UP_AT.saturating_sub(uptime()));
                }
                let up = match self.provider() {
                    Ok(provider) => provider.up(index, &cni, &topology).await,
                    Err(e) => Err(e),
                };
                match up {
                    Ok(cluster) => {
                        let mut arm = Arm::of(cluster);
                        arm.attach_counters().await;
                        let cluster = arm.cluster();
                        let ends = Placement::ALL.iter().map(|p| (*p, cluster.ends(*p)));
                        let uncounted = arm
                            .uncounted()
                            .map(|why| format!("drops and retransmits are not counted: {why:#}"));
                        let answer = Answer::Up {
                            info: Box::new(cluster.info().clone()),
                            notes: cluster.notes().into_iter().chain(uncounted).collect(),
                            ends: ends.collect(),
                        };
                        self.arm = Some(match self.clock {
                            Clock::Wall => arm,
                            Clock::Instructions => arm.counting(),
                        });
                        answer
                    }
                    Err(e) => Answer::Refused { why: e.into() },
                }
            }
            Ask::Surround { wanted } => match self.arm() {
                Ok(arm) => match arm.reach(&wanted).await {
                    Ok(proofs) => Answer::Proofs { proofs },
                    Err(e) => Answer::Refused { why: e.into() },
                },
                Err(why) => Answer::Refused { why },
            },
            Ask::Prove => match self.arm() {
                Ok(arm) => match arm.prove().await {
                    Ok(proofs) => Answer::Proofs { proofs },
                    Err(e) => Answer::Refused { why: e.into() },
                },
                Err(why) => Answer::Refused { why },
            },
            Ask::ProveKeys => match self.arm() {
                Ok(arm) => Answer::Proofs { proofs: arm.prove_keys().await.into_iter().collect() },
                Err(why) => Answer::Refused { why },
            },
            Ask::Inspect => done(match self.arm() {
                Ok(arm) => arm.check().await.map_err(Refusal::from),
                Err(why) => Err(why),
            }),
            Ask::Measure { case, slot } => {
                if self.clock == Clock::Instructions {
                    settle(&mut self.settled);
                }
                match self.arm() {
                    Ok(arm) => {
                        let asked = Asked { slot, host: false, pair: None };
                        match arm.trials(&case, &[asked]).await.pop() {
                            Some(Ok(trial)) => Answer::Measured { trial: Box::new(trial) },
                            Some(Err(e)) => Answer::Refused { why: e.into() },
                            None => {
                                let text = "the trial was not measured".to_owned();
                                Answer::Refused { why: Refusal::Failed { text } }
                            }
                        }
                    }
                    Err(why) => Answer::Refused { why },
                }
            }
            Ask::Rotate { case, slot, times } => match self.arm() {
                Ok(arm) => match arm.rotated(&case, slot, times).await {
                    Ok(trial) => Answer::Rotated { trial: Box::new(trial) },
                    Err(e) => Answer::Refused { why: e.into() },
                },
                Err(why) => Answer::Refused { why },
            },
            Ask::Probe { case, slot } => match self.arm() {
                Ok(arm) => match probed_trial(arm, &case, slot).await {
                    Ok(trial) => Answer::Probed { trial: Box::new(trial) },
                    Err(Unprobed::Never(text)) => {
                        Answer::Refused { why: Refusal::NotOffered { text } }
                    }
                    Err(Unprobed::ThisTime(text)) => {
                        Answer::Refused { why: Refusal::Failed { text } }
                    }
                },
                Err(why) => Answer::Refused { why },
            },
            Ask::Look { node, command } => match look(node, &command) {
                Ok(output) => Answer::Seen { output },
                Err(e) => Answer::Refused { why: e.into() },
            },
            Ask::Down => {
                let troubles = match self.arm.take() {
                    Some(arm) => arm.down().await,
                    None => Vec::new(),
                };
                Answer::Troubles { troubles: troubles.iter().map(|e| format!("{e:#}")).collect() }
            }
            Ask::Cnis => match self.provider() {
                Ok(provider) => {
                    let offers = provider.cnis().await;
                    Answer::Offers { offers: offers.into_iter().map(Into::into).collect() }
                }
                Err(e) => Answer::Refused { why: e.into() },
            },
            // Whoever reads the questions ends with this one.
            Ask::Off => Answer::Done,
        }
    }

    fn provider(&self) -> Result<NetnsProvider, ClusterError> {
        let run = RunId::of_label(RUN).ok_or_else(|| anyhow!("{RUN} is no run"))?;
        NetnsProvider::new(Owner::acquire_as(run)?)
    }

    fn arm(&mut self) -> Result<&mut Arm, Refusal> {
        let none = || Refusal::Failed { text: "no cluster is up in this guest".to_owned() };
        self.arm.as_mut().ok_or_else(none)
    }
}

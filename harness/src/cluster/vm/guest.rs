//! What the binary does as the first process of a guest: mounts, modules, and a controller that the
//! real one asks over the console.
//!
//! The first process only waits: for the controller, with whose end the machine goes off, and for
//! orphans. The controller brings up a cluster of namespaces here as it would on any machine.

use super::{
    initramfs::{MODULE_LIST, MODULES},
    machine::PORT,
    wire::{Answer, Ask, CHUNK, CONTROL, Frame, Kind, ModuleState, Refusal, VERSION},
};
use crate::{
    cluster::{
        Cluster, ClusterError, Provider,
        netns::NetnsProvider,
        owner::{Owner, RunId},
    },
    exec::Link,
};
use anyhow::{Context as _, anyhow, bail};
use cnibench_model::Placement;
use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{MountFlags, mount},
    process::{WaitOptions, wait},
    system::RebootCommand,
};
use std::{
    collections::HashMap,
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{self, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot,
    },
};

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
    let controller = Command::new("/init").arg0("cnibench").args(["guest-controller", &told]).spawn();
    let controller = controller.context("cannot start the controller")?;
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
        ("tmpfs", "/tmp", shared),
    ] {
        mount(kind, at, kind, flags, None).with_context(|| format!("cannot mount {at}"))?;
    }
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
    let port = OpenOptions::new().read(true).write(true).open(find_port()?).context("the console")?;
    let writer = Arc::new(Writer::start(port.try_clone()?));
    let frames = read_frames(port);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    writer.answer(&Answer::Hello { version: VERSION, kernel: kernel.trim().to_owned(), modules });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let end = runtime.block_on(serve(frames, &writer));
    // Nothing here outlives the machine.
    runtime.shutdown_timeout(Duration::from_secs(1));
    writer.finish();
    end
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

/// Frames go out one after the other, from a thread of their own.
struct Writer {
    frames: Mutex<Option<mpsc::Sender<Frame>>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Writer {
    fn start(mut port: File) -> Self {
        let (frames, to_write) = mpsc::channel::<Frame>();
        let thread = thread::spawn(move || {
            for frame in to_write {
                if frame.write(&mut port).is_err() {
                    return;
                }
            }
        });
        Self { frames: Mutex::new(Some(frames)), thread: Mutex::new(Some(thread)) }
    }

    fn send(&self, frame: Frame) {
        if let Ok(frames) = self.frames.lock()
            && let Some(frames) = frames.as_ref()
        {
            let _ = frames.send(frame);
        }
    }

    fn answer(&self, answer: &Answer) {
        match Frame::control(answer) {
            Ok(frame) => self.send(frame),
            Err(e) => eprintln!("cnibench: an answer that cannot be sent: {e}"),
        }
    }

    /// Waits until everything is written.
    fn finish(&self) {
        drop(self.frames.lock().ok().and_then(|mut frames| frames.take()));
        if let Some(thread) = self.thread.lock().ok().and_then(|mut thread| thread.take()) {
            let _ = thread.join();
        }
    }
}

fn read_frames(port: File) -> UnboundedReceiver<io::Result<Frame>> {
    let (frames, read) = unbounded_channel();
    thread::spawn(move || {
        let mut port = BufReader::new(port);
        loop {
            let frame = match Frame::read(&mut port) {
                Ok(Some(frame)) => Ok(frame),
                // Nobody is at the other end any more.
                Ok(None) => return,
                Err(e) => Err(e),
            };
            let broken = frame.is_err();
            if frames.send(frame).is_err() || broken {
                return;
            }
        }
    });
    read
}

/// A process that this guest runs for the controller.
struct Inside {
    input: UnboundedSender<Vec<u8>>,
    kill: Option<oneshot::Sender<()>>,
}

type Processes = Arc<Mutex<HashMap<u32, Inside>>>;

async fn serve(
    mut frames: UnboundedReceiver<io::Result<Frame>>,
    writer: &Arc<Writer>,
) -> anyhow::Result<()> {
    let processes = Processes::default();
    let (asks, mut asked) = unbounded_channel::<Ask>();
    let (off, mut is_off) = oneshot::channel::<()>();
    let (answers, started) = (Arc::clone(writer), Arc::clone(&processes));
    tokio::spawn(async move {
        let mut desk = Desk { cluster: None, writer: answers, processes: started };
        while let Some(ask) = asked.recv().await {
            if matches!(ask, Ask::Off) {
                desk.writer.answer(&Answer::Done);
                break;
            }
            let answer = desk.answer(ask).await;
            desk.writer.answer(&answer);
        }
        let _ = off.send(());
    });
    loop {
        let frame = tokio::select! {
            frame = frames.recv() => frame,
            _ = &mut is_off => return Ok(()),
        };
        let Some(frame) = frame else { return Ok(()) };
        let frame = frame.context("the console broke")?;
        if frame.channel == CONTROL {
            let ask: Ask = serde_json::from_slice(&frame.payload).context("a question")?;
            let _ = asks.send(ask);
            continue;
        }
        let Ok(mut processes) = processes.lock() else { continue };
        let Some(process) = processes.get_mut(&frame.channel) else { continue };
        match frame.kind {
            Kind::Input => drop(process.input.send(frame.payload)),
            Kind::Kill => {
                if let Some(kill) = process.kill.take() {
                    let _ = kill.send(());
                }
            }
            Kind::Control | Kind::Output | Kind::Errors | Kind::Ended => {}
        }
    }
}

/// Answers questions, one after the other.
struct Desk {
    cluster: Option<Box<dyn Cluster>>,
    writer: Arc<Writer>,
    processes: Processes,
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
                let up = match self.provider() {
                    Ok(provider) => provider.up(index, &cni, &topology).await,
                    Err(e) => Err(e),
                };
                match up {
                    Ok(cluster) => {
                        let ends = Placement::ALL.iter().map(|p| (*p, cluster.ends(*p)));
                        let answer = Answer::Up {
                            info: Box::new(cluster.info().clone()),
                            notes: cluster.notes(),
                            ends: ends.collect(),
                        };
                        self.cluster = Some(cluster);
                        answer
                    }
                    Err(e) => Answer::Refused { why: e.into() },
                }
            }
            Ask::Surround { wanted } => match self.cluster() {
                Ok(cluster) => match cluster.surround(&wanted).await {
                    Ok(proofs) => Answer::Proofs { proofs },
                    Err(e) => Answer::Refused { why: e.into() },
                },
                Err(why) => Answer::Refused { why },
            },
            Ask::Prove => match self.cluster() {
                Ok(cluster) => Answer::Proofs { proofs: cluster.prove().await },
                Err(why) => Answer::Refused { why },
            },
            Ask::Inspect => done(match self.cluster() {
                Ok(cluster) => cluster.check().await.map_err(Refusal::from),
                Err(why) => Err(why),
            }),
            Ask::Enter { place, channel } => {
                let link = match self.cluster() {
                    Ok(cluster) => cluster.enter(&place).await.map_err(Refusal::from),
                    Err(why) => Err(why),
                };
                done(link.map(|link| self.start(link, channel)))
            }
            Ask::Down => {
                let troubles = match self.cluster.take() {
                    Some(mut cluster) => cluster.down().await,
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

    fn cluster(&mut self) -> Result<&mut Box<dyn Cluster>, Refusal> {
        let none = || Refusal::Failed { text: "no cluster is up in this guest".to_owned() };
        self.cluster.as_mut().ok_or_else(none)
    }

    /// Connects a process with its channel.
    fn start(&self, link: Link, channel: u32) {
        let Link { mut input, output, errors, mut process } = link;
        let (typed, mut to_type) = unbounded_channel::<Vec<u8>>();
        let (kill, mut is_killed) = oneshot::channel();
        if let Ok(mut processes) = self.processes.lock() {
            processes.insert(channel, Inside { input: typed, kill: Some(kill) });
        }
        tokio::spawn(async move {
            while let Some(bytes) = to_type.recv().await {
                // The empty frame is the end of its input, which closes with this task.
                if bytes.is_empty() || input.write_all(&bytes).await.is_err() {
                    return;
                }
                let _ = input.flush().await;
            }
        });
        let (writer, processes) = (Arc::clone(&self.writer), Arc::clone(&self.processes));
        tokio::spawn(async move {
            let out = tokio::spawn(pump(output, Arc::clone(&writer), channel, Kind::Output));
            let err = tokio::spawn(pump(errors, Arc::clone(&writer), channel, Kind::Errors));
            let ended = tokio::select! {
                how = process.wait() => Some(how),
                _ = &mut is_killed => None,
            };
            let how = match ended {
                Some(how) => how,
                None => {
                    process.kill().await;
                    process.wait().await
                }
            };
            // All that it said comes before its end.
            let _ = (out.await, err.await);
            if let Ok(mut processes) = processes.lock() {
                processes.remove(&channel);
            }
            writer.send(Frame { channel, kind: Kind::Ended, payload: how.into_bytes() });
        });
    }
}

async fn pump(
    mut from: Box<dyn AsyncRead + Send + Sync + Unpin>,
    writer: Arc<Writer>,
    channel: u32,
    kind: Kind,
) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        writer.send(Frame { channel, kind, payload: buffer[..read].to_vec() });
    }
}

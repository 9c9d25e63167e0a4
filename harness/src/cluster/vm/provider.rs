//! The provider `vm`: every cluster in a QEMU guest of its own, with a kernel that the user names.

use super::{
    ahead::{Ahead, Begun, Errand, Line},
    cluster::{PATIENCE, VmCluster},
    console::{Console, Hello},
    initramfs::Initramfs,
    kernel::{Kernel, kernels_folder},
    machine::{Acceleration, CPU, Machine, QEMU, Shape},
    options::VmOptions,
    wire::{Answer, Ask},
};
use crate::{
    cluster::{Cluster, ClusterError, CniOffer, Provider, Topology, owner::Owner},
    cni::{PROFILES, Profile},
    exec::local,
    plan::Plan,
};
use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use cnibench_model::{Clock, CniSpec, ProviderKind, Surroundings};
use std::{
    collections::HashMap,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{OnceCell, Semaphore};

/// How long a guest may take to boot.
const BOOT: Duration = Duration::from_secs(90);
/// How long one may take with hardware acceleration before it is taken for one that cannot.
const KVM_BOOT: Duration = Duration::from_secs(15);
/// Memory of a guest in MiB.
const MEMORY_MIB: u32 = 1024;
/// What the cluster itself is made of: veth pairs, a bridge between nodes, policies and services.
const BASE: &[&str] = &["veth", "bridge"];

/// Brings up clusters in guests.
#[derive(Clone)]
pub struct VmProvider {
    kernel: Kernel,
    options: VmOptions,
    /// Found by the first boot.
    acceleration: Arc<OnceCell<Acceleration>>,
    /// Guests of each cni so far.
    boots: Arc<Mutex<HashMap<CniSpec, u64>>>,
    /// Guests to come.
    line: Arc<Mutex<Line>>,
    /// As many guests run at a time as this machine has CPUs.
    places: Arc<Semaphore>,
    _owner: Arc<Owner>,
}

impl VmProvider {
    /// A provider for one run.
    ///
    /// # Errors
    /// There is no QEMU or no kernel; then how to get one.
    pub fn new(owner: Arc<Owner>, options: VmOptions) -> anyhow::Result<Self> {
        qemu().context("--provider vm")?;
        let kernel = kernel(&options)?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            kernel,
            options,
            acceleration: Arc::default(),
            boots: Arc::default(),
            line: Arc::default(),
            places: Arc::new(Semaphore::new(cpus)),
            _owner: owner,
        })
    }

    /// What the guests' clock counts.
    pub fn clock(&self) -> Clock {
        self.options.clock.unwrap_or(Clock::Wall)
    }

    /// What instructions of a guest depend on, by name.
    pub fn versions(&self) -> Vec<(&'static str, String)> {
        let said = Command::new(QEMU).arg("--version").stdin(Stdio::null()).output();
        let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let qemu = said.unwrap_or_default();
        let qemu = qemu.lines().next().unwrap_or("unknown").to_owned();
        let mut all = vec![("qemu", qemu), ("guest_kernel", self.kernel.name.clone())];
        if self.clock() == Clock::Instructions {
            all.push(("guest_cpu", CPU.to_owned()));
        }
        all
    }

    /// What guests boot.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The seed of the next guest of a cni: each making of it has another.
    fn seed(&self, cni: &CniSpec) -> u64 {
        let first = self.options.vm_seed.unwrap_or(1);
        let mut boots = self.boots.lock().unwrap_or_else(PoisonError::into_inner);
        let made = boots.entry(cni.clone()).or_insert(0);
        *made += 1;
        first + *made - 1
    }

    fn shape(&self, acceleration: Acceleration, seed: u64) -> Shape {
        let clock = self.clock();
        Shape {
            clock,
            acceleration,
            seed,
            // Two CPUs take turns in a way that nothing pins.
            cpus: if clock == Clock::Instructions { 1 } else { 2 },
            kernel_args: self.options.kernel_args.clone().unwrap_or_default(),
            memory_mib: self.options.vm_memory.unwrap_or(MEMORY_MIB),
        }
    }

    /// Boots a guest that has these modules.
    async fn boot(&self, initramfs: &Initramfs, seed: u64) -> anyhow::Result<(Console, Hello)> {
        let acceleration = *self
            .acceleration
            .get_or_init(|| async {
                let may = self.clock() == Clock::Wall && rw("/dev/kvm");
                match may && self.boots(initramfs, Acceleration::Kvm).await {
                    true => Acceleration::Kvm,
                    false => Acceleration::Emulation,
                }
            })
            .await;
        let shape = self.shape(acceleration, seed);
        let (machine, events) = Machine::start(&self.kernel, initramfs, &shape)?;
        let hold = shape.clock == Clock::Instructions;
        Console::open(machine, events, BOOT, hold).await
    }

    /// Does a guest boot so? A device that opens is no proof.
    async fn boots(&self, initramfs: &Initramfs, acceleration: Acceleration) -> bool {
        let shape = self.shape(acceleration, 0);
        let Ok((machine, events)) = Machine::start(&self.kernel, initramfs, &shape) else {
            return false;
        };
        match Console::open(machine, events, KVM_BOOT, false).await {
            Ok((console, _)) => {
                console.kill();
                console.off().await;
                true
            }
            Err(e) => {
                tracing::info!("no guest boots with /dev/kvm: {e:#}");
                false
            }
        }
    }

    /// The guest's files for a cni.
    async fn initramfs(&self, profile: &'static Profile) -> anyhow::Result<Initramfs> {
        let kernel = self.kernel.clone();
        let build = move || {
            let (modules, _) = kernel.resolve(&wanted(profile))?;
            Initramfs::build(&local::program(), &modules)
        };
        tokio::task::spawn_blocking(build).await.context("building an initramfs panicked")?
    }
}

#[async_trait]
impl Provider for VmProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Vm
    }

    async fn cnis(&self) -> Vec<CniOffer> {
        offers(Ok(&self.kernel))
    }

    async fn check(&self, cni: &CniSpec, topology: &Topology) -> Result<(), ClusterError> {
        let (profile, _) = Profile::resolve(cni, topology)?;
        carried(&self.kernel, profile)
            .map_err(|reason| ClusterError::Unsupported { cni: cni.clone(), reason })
    }

    async fn up(
        &self,
        index: u32,
        cni: &CniSpec,
        topology: &Topology,
    ) -> Result<Box<dyn Cluster>, ClusterError> {
        tracing::debug!(index, %cni, "a guest is to come up");
        let cluster = match self.begun(cni, topology) {
            Some(begun) => begun.await.context("bringing a guest up panicked")??,
            None => self.raise(cni, topology, Vec::new()).await?,
        };
        Ok(Box::new(cluster))
    }

    async fn sweep(&self) -> Vec<anyhow::Error> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Vec::new()
    }
}

impl VmProvider {
    /// Tells what is planned, in the order in which guests come up: where instructions are counted they do
    /// it ahead of their turn, side by side.
    pub fn plan_for(&self, plan: &Plan) {
        if self.clock() == Clock::Instructions {
            *self.line.lock().unwrap_or_else(PoisonError::into_inner) = Line::of(plan);
        }
    }

    /// The guest of this cni, if it was foreseen, and those after it are begun too.
    fn begun(&self, cni: &CniSpec, topology: &Topology) -> Option<Begun> {
        let begin = |errand: Errand| {
            let (own, topology) = (self.clone(), topology.clone());
            tokio::spawn(async move { own.raise(&errand.cni, &topology, errand.asks).await })
        };
        self.line.lock().unwrap_or_else(PoisonError::into_inner).take(cni, begin)
    }

    /// Boots a guest, brings its cluster up, and has it begin with what it will be asked.
    async fn raise(
        &self,
        cni: &CniSpec,
        topology: &Topology,
        asks: Vec<Ask>,
    ) -> Result<VmCluster, ClusterError> {
        self.check(cni, topology).await?;
        let place = self.places.acquire().await.context("no place for a guest")?;
        let begun = std::time::Instant::now();
        let initramfs = self.initramfs(Profile::of(cni)?).await?;
        let (console, hello) = self.boot(&initramfs, self.seed(cni)).await?;
        let ask = Ask::Up { index: 0, cni: cni.first(), topology: topology.clone() };
        tracing::debug!(kernel = hello.kernel, %cni, after = ?begun.elapsed(), "the guest has booted");
        match console.ask(ask, PATIENCE).await? {
            Answer::Up { info, notes, ends } => {
                drop(place);
                tracing::debug!(%cni, after = ?begun.elapsed(), "the cluster in the guest is up");
                let mut info = *info;
                info.spec = cni.clone();
                info.details.insert(0, self.detail(&hello));
                let (console, clock) = (Arc::new(console), self.clock());
                let begin =
                    |asks| Ahead::begin(Arc::clone(&console), asks, Arc::clone(&self.places));
                let ahead = (!asks.is_empty()).then(|| begin(asks).into());
                let (state, down) = (Surroundings::default(), false);
                Ok(VmCluster { info, notes, ends, console, clock, ahead, state, down })
            }
            Answer::Refused { why } => Err(why.into()),
            other => Err(anyhow!("an answer out of turn: {other:?}").into()),
        }
    }

    /// What a reader should know of the machine.
    fn detail(&self, hello: &Hello) -> String {
        let how = match (self.acceleration.get(), self.clock()) {
            (_, Clock::Instructions) => "emulated, its clock counts instructions, one CPU",
            (Some(Acceleration::Kvm), Clock::Wall) => "accelerated by KVM, two CPUs",
            (_, Clock::Wall) => "emulated, two CPUs: its times are no machine's",
        };
        let mut text = format!("in a QEMU guest with kernel {} ({how})", hello.kernel);
        for module in &hello.unloaded {
            text.push_str(&format!("; {} did not load: {}", module.name, module.error));
        }
        text
    }
}

/// Modules that a guest with this cni loads.
fn wanted(profile: &Profile) -> Vec<&'static str> {
    BASE.iter().chain(profile.modules).copied().collect()
}

/// Has the kernel what the cni needs?
fn carried(kernel: &Kernel, profile: &Profile) -> Result<(), String> {
    match kernel.resolve(&wanted(profile)) {
        Ok((_, absent)) if absent.is_empty() => Ok(()),
        // Everything that it has is built in, which only its boot can tell.
        Ok(_) if kernel.modules.is_none() => Ok(()),
        Ok((_, absent)) => Err(format!(
            "the kernel {} has no module {}: name another with --kernel",
            kernel.name,
            absent.join(", ")
        )),
        Err(e) => Err(format!("{e:#}")),
    }
}

/// Every cni and whether a kernel can carry it, or why nothing is known.
pub fn offers(kernel: Result<&Kernel, &str>) -> Vec<CniOffer> {
    let offer = |profile: &&'static Profile| CniOffer {
        name: profile.name.to_owned(),
        description: profile.description.to_owned(),
        params: profile.params.iter().map(|p| (p.name.to_owned(), p.help.to_owned())).collect(),
        automatic: profile.automatic,
        missing: match kernel {
            Ok(kernel) => carried(kernel, profile).err(),
            Err(why) => Some(why.to_owned()),
        },
    };
    PROFILES.iter().map(offer).collect()
}

/// The kernel that was named, else the newest that was fetched.
///
/// # Errors
/// There is none; then how to get one.
pub fn kernel(options: &VmOptions) -> anyhow::Result<Kernel> {
    if let Some(image) = &options.kernel {
        return Kernel::open(image, options.modules.as_deref());
    }
    let folder = kernels_folder();
    let found = folder.as_deref().map(Kernel::all_in).unwrap_or_default().pop();
    found.ok_or_else(|| {
        let shown = folder.map_or_else(|| "~/.cache".into(), |f| f.display().to_string());
        anyhow!(
            "no kernel for guests in {shown}: fetch one with scripts/fetch-kernel, or name one with --kernel FILE --modules DIR"
        )
    })
}

/// Where QEMU is.
///
/// # Errors
/// It is not on PATH; then what to install.
pub fn qemu() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(QEMU)).find(|f| f.is_file());
    found.with_context(|| {
        format!(
            "no {QEMU} on PATH: install QEMU (on Debian and Ubuntu the package qemu-system-x86)"
        )
    })
}

fn rw(path: &str) -> bool {
    std::fs::OpenOptions::new().read(true).write(true).open(path).is_ok()
}

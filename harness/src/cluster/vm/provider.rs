//! The provider `vm`: every cluster in a QEMU guest of its own, with a kernel that the user names.

use super::{
    ahead::{Ahead, Begun, Errand, Line},
    choice::{self, Kernels},
    cluster::{PATIENCE, VmCluster},
    console::{Console, Hello},
    initramfs::Initramfs,
    kernel::Kernel,
    luggage::Luggage,
    machine::{Acceleration, CPU, Machine, QEMU, Shape},
    options::VmOptions,
    wire::{Answer, Ask},
};
use crate::{
    cluster::{Cluster, ClusterError, CniOffer, Provider, Topology, netns::sysctls, owner::Owner},
    cni::{Cni, Needs, PROFILES, Profile},
    exec::local,
    plan::Plan,
};
use anyhow::{Context as _, anyhow, bail, ensure};
use async_trait::async_trait;
use cnibench_model::{Clock, CniInfo, CniSpec, ProviderKind, Surroundings};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{OnceCell, Semaphore};

/// How long a guest may take to boot.
const BOOT: Duration = Duration::from_secs(90);
/// How long one may take with hardware acceleration before it is taken for one that cannot.
const KVM_BOOT: Duration = Duration::from_secs(15);
/// Hardware acceleration.
const KVM: &str = "/dev/kvm";
/// Memory of a guest in MiB.
const MEMORY_MIB: u32 = 1024;
/// What the controller is reached by; built into many kernels.
const CONSOLE: &[&str] = &["virtio_pci", "virtio_console"];
/// What the cluster itself is made of: veth pairs, a bridge between nodes, policies and services.
const BASE: &[&str] = &["veth", "bridge"];

/// Brings up clusters in guests.
#[derive(Clone)]
pub struct VmProvider {
    kernels: Kernels,
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
        let kernels = Kernels::chosen(&options)?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            kernels,
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
        let qemu = qemu_version().unwrap_or_else(|_| "unknown".to_owned());
        let mut all = vec![("qemu", qemu), ("guest_kernel", self.kernels.names().join(", "))];
        if self.clock() == Clock::Instructions {
            all.push(("guest_cpu", CPU.to_owned()));
        }
        all
    }

    /// What guests boot.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
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
    async fn boot(
        &self,
        kernel: &Kernel,
        initramfs: &Initramfs,
        seed: u64,
    ) -> anyhow::Result<(Console, Hello)> {
        let acceleration = *self
            .acceleration
            .get_or_init(|| async {
                let may = self.clock() == Clock::Wall && rw(KVM);
                match may && self.boots(kernel, initramfs, Acceleration::Kvm).await {
                    true => Acceleration::Kvm,
                    false => Acceleration::Emulation,
                }
            })
            .await;
        let shape = self.shape(acceleration, seed);
        let (machine, events) = Machine::start(kernel, initramfs, &shape)?;
        let hold = shape.clock == Clock::Instructions;
        Console::open(machine, events, BOOT, hold).await
    }

    /// Does a guest boot so? A device that opens is no proof.
    async fn boots(
        &self,
        kernel: &Kernel,
        initramfs: &Initramfs,
        acceleration: Acceleration,
    ) -> bool {
        let outcome = tried(kernel, initramfs, &self.shape(acceleration, 0)).await;
        if let Err(e) = &outcome {
            tracing::info!("no guest boots with {KVM}: {e:#}");
        }
        outcome.is_ok()
    }

    /// The guest's files for a cni.
    async fn initramfs(
        kernel: &Kernel,
        profile: &'static Profile,
        needs: Needs,
    ) -> anyhow::Result<Initramfs> {
        let kernel = kernel.clone();
        let build = move || {
            let (modules, _) = kernel.resolve(&[CONSOLE, &wanted(profile, &needs)].concat())?;
            let folder = std::env::current_dir().context("the folder that this runs in")?;
            let luggage = Luggage::gather(&needs, &folder)?;
            Initramfs::build(&local::program(), &modules, &luggage)
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
        offers(Ok(self.kernels.first()))
    }

    async fn check(&self, cni: &CniSpec, topology: &Topology) -> Result<(), ClusterError> {
        let (profile, built) = Profile::resolve(&bare(cni), topology)?;
        sysctls::of(cni)?;
        let unsupported = |reason| ClusterError::Unsupported { cni: cni.clone(), reason };
        let needs = needs(built.as_ref()).map_err(unsupported)?;
        carried(&self.kernels.of(cni)?, profile, &needs).map_err(unsupported)?;
        let folder = std::env::current_dir().context("the folder that this runs in")?;
        let gathered = tokio::task::spawn_blocking(move || Luggage::gather(&needs, &folder).err());
        match gathered.await.context("gathering a guest's files panicked")? {
            None => Ok(()),
            Some(e) => Err(unsupported(format!("{e:#}"))),
        }
    }

    async fn up(
        &self,
        index: u32,
        cni: &CniSpec,
        topology: &Topology,
    ) -> Result<Box<dyn Cluster>, ClusterError> {
        Ok(Box::new(self.guest(index, cni, topology).await?))
    }

    async fn sweep(&self) -> Vec<anyhow::Error> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Vec::new()
    }
}

impl VmProvider {
    /// [`up`](Provider::up), as what it is.
    ///
    /// # Errors
    /// As there.
    pub async fn guest(
        &self,
        index: u32,
        cni: &CniSpec,
        topology: &Topology,
    ) -> Result<VmCluster, ClusterError> {
        tracing::debug!(index, %cni, "a guest is to come up");
        match self.begun(cni, topology) {
            Some(begun) => begun.await.context("bringing a guest up panicked")?,
            None => self.raise(cni, topology, Vec::new()).await,
        }
    }

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
        let (profile, built) = Profile::resolve(&bare(cni), topology)?;
        let mut needs = needs(built.as_ref()).map_err(|e| anyhow!(e))?;
        needs.programs.extend(self.options.carry.iter().cloned());
        let kernel = self.kernels.of(cni)?;
        let initramfs = Self::initramfs(&kernel, profile, needs).await?;
        let (console, hello) = self.boot(&kernel, &initramfs, self.seed(cni)).await?;
        let ask =
            Ask::Up { index: 0, cni: choice::without(&cni.first()), topology: topology.clone() };
        tracing::debug!(kernel = hello.kernel, %cni, after = ?begun.elapsed(), "the guest has booted");
        match console.ask(ask, PATIENCE).await? {
            Answer::Up { info, notes, ends } => {
                drop(place);
                tracing::debug!(%cni, after = ?begun.elapsed(), "the cluster in the guest is up");
                let mut info = CniInfo { spec: cni.clone(), ..*info };
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

/// The cni as its profile knows it.
fn bare(cni: &CniSpec) -> CniSpec {
    sysctls::without(&choice::without(cni))
}

/// What a cni uses beside the kernel.
fn needs(cni: &dyn Cni) -> Result<Needs, String> {
    Ok(cni.needs()?.with_what_is_known())
}

/// Modules that a guest with this cni loads.
fn wanted<'a>(profile: &Profile, needs: &'a Needs) -> Vec<&'a str> {
    let more = needs.modules.iter().map(String::as_str);
    BASE.iter().chain(profile.modules).copied().chain(more).collect()
}

/// Has the kernel what the cni needs?
fn carried(kernel: &Kernel, profile: &Profile, needs: &Needs) -> Result<(), String> {
    match kernel.resolve(&wanted(profile, needs)) {
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
        params: profile
            .params
            .iter()
            .map(|p| (p.name, p.help))
            .chain([(sysctls::NAME, sysctls::HELP), (choice::PARAM, choice::HELP)])
            .map(|(name, help)| (name.to_owned(), help.to_owned()))
            .collect(),
        automatic: profile.automatic,
        missing: match kernel {
            Ok(kernel) => carried(kernel, profile, &Needs::default()).err(),
            Err(why) => Some(why.to_owned()),
        },
    };
    PROFILES.iter().map(offer).collect()
}

/// Boots a kernel with hardware acceleration and switches it off again.
///
/// # Errors
/// Why it did not boot.
pub async fn kvm(kernel: &Kernel) -> anyhow::Result<()> {
    if !rw(KVM) {
        bail!("{KVM} cannot be opened");
    }
    let (kernel, none) = (kernel.clone(), Needs::default());
    let build = move || {
        let (modules, _) = kernel.resolve(&[CONSOLE, BASE].concat())?;
        let initramfs = Initramfs::build(
            &local::program(),
            &modules,
            &Luggage::gather(&none, Path::new("/"))?,
        )?;
        anyhow::Ok((kernel, initramfs))
    };
    let built = tokio::task::spawn_blocking(build).await;
    let (kernel, initramfs) = built.context("building an initramfs panicked")??;
    let shape = Shape {
        clock: Clock::Wall,
        acceleration: Acceleration::Kvm,
        seed: 0,
        cpus: 2,
        memory_mib: MEMORY_MIB,
        kernel_args: String::new(),
    };
    tried(&kernel, &initramfs, &shape).await
}

/// Boots a guest for nothing but to see whether it does.
async fn tried(kernel: &Kernel, initramfs: &Initramfs, shape: &Shape) -> anyhow::Result<()> {
    let (machine, events) = Machine::start(kernel, initramfs, shape)?;
    let (console, _) = Console::open(machine, events, KVM_BOOT, false).await?;
    console.kill();
    console.off().await;
    Ok(())
}

/// What QEMU says of itself.
///
/// # Errors
/// It is not there, or does not start.
pub fn qemu_version() -> anyhow::Result<String> {
    let program = qemu()?;
    let output = Command::new(&program).arg("--version").output();
    let output = output.with_context(|| format!("cannot start {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default().trim();
    ensure!(!line.is_empty(), "{} --version says nothing", program.display());
    Ok(line.to_owned())
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

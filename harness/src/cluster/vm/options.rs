//! What the command line says of guests.

use cnibench_model::Clock;
use std::path::PathBuf;

/// Options of the provider vm.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Guests (provider vm)")]
pub struct VmOptions {
    /// The kernel that guests boot (vmlinuz, or the version of one that scripts/fetch-kernel fetched); by
    /// default the newest of those. Given several times, every cni is measured in each.
    #[arg(long, value_name = "FILE|VERSION")]
    pub kernel: Vec<PathBuf>,
    /// The folder with that kernel's modules (with modules.dep in it), as many times as --kernel; by
    /// default `modules` beside the kernel, then /lib/modules.
    #[arg(long, value_name = "DIR", requires = "kernel")]
    pub modules: Vec<PathBuf>,
    /// What the guest's clock counts: time, or the instructions that it executes. Those repeat from run to
    /// run and from machine to machine, and cost an emulated CPU.
    #[arg(long, value_name = "CLOCK", value_parser = clock)]
    pub clock: Option<Clock>,
    /// More for the command line of that kernel.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub kernel_args: Option<String>,
    /// Seed of all that is random in a guest that counts instructions (default 1): the same seed, the same
    /// boot. Of an ab the second making of the clusters has the next one.
    #[arg(long, value_name = "N")]
    pub vm_seed: Option<u64>,
    /// Memory of a guest in MiB (default 1024).
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(128..=65536))]
    pub vm_memory: Option<u32>,
    /// Programs that guests carry beside what the cni needs, for [`super::VmCluster::look`].
    #[arg(skip)]
    pub carry: Vec<PathBuf>,
}

impl VmOptions {
    /// The option that was given, if any: for providers that have none of them.
    pub fn given(&self) -> Option<&'static str> {
        let Self { kernel, modules, clock, kernel_args, vm_seed, vm_memory, carry: _ } = self;
        [
            (!kernel.is_empty(), "--kernel"),
            (!modules.is_empty(), "--modules"),
            (clock.is_some(), "--clock"),
            (kernel_args.is_some(), "--kernel-args"),
            (vm_seed.is_some(), "--vm-seed"),
            (vm_memory.is_some(), "--vm-memory"),
        ]
        .into_iter()
        .find_map(|(given, name)| given.then_some(name))
    }
}

fn clock(text: &str) -> Result<Clock, String> {
    match text {
        "wall" => Ok(Clock::Wall),
        "instructions" => Ok(Clock::Instructions),
        other => Err(format!("{other:?} is no clock: wall or instructions")),
    }
}

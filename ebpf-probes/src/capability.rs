//! Which kinds of eBPF programs this kernel takes from this process, found by loading and attaching
//! one that does nothing. A list of features says less: some kernels name what they then refuse.
//!
//! The tc kinds are attached to a device of the calling thread's network namespace: call them in one
//! that ends with the try.

use crate::object::{ObjectError, Source, chain};
use aya::{
    Btf, Ebpf,
    programs::{
        LinkOrder, Program, ProgramError, SchedClassifier, TcAttachType,
        tc::{self, NlOptions, TcAttachOptions},
    },
};
use std::{fmt, path::Path};

/// A kind of program and the way that it is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// tc on a tcx link (from Linux 6.6 on).
    Tcx,
    /// tc as a filter of the clsact qdisc.
    Clsact,
    /// A tracepoint with typed arguments (BTF).
    TpBtf,
    /// A tracepoint with raw arguments.
    RawTracepoint,
    /// A tracepoint by way of perf and tracefs.
    Tracepoint,
    /// The entry of a kernel function by a trampoline.
    Fentry,
    /// Its end.
    Fexit,
    /// The entry of a kernel function by a breakpoint or ftrace.
    Kprobe,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Tcx,
        Self::Clsact,
        Self::TpBtf,
        Self::RawTracepoint,
        Self::Tracepoint,
        Self::Fentry,
        Self::Fexit,
        Self::Kprobe,
    ];

    /// Its name, as in section names of objects.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::TpBtf => "tp_btf",
            Self::RawTracepoint => "raw_tracepoint",
            Self::Tracepoint => "tracepoint",
            Self::Fentry => "fentry",
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Tcx | Self::Clsact => "try_classifier",
            Self::TpBtf => "try_tp_btf",
            Self::RawTracepoint => "try_raw_tracepoint",
            Self::Tracepoint => "try_tracepoint",
            Self::Fentry => "try_fentry",
            Self::Fexit => "try_fexit",
            Self::Kprobe => "try_kprobe",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a kind cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Lack {
    /// The kernel describes none of its types (CONFIG_DEBUG_INFO_BTF).
    #[error(
        "the kernel has no BTF (/sys/kernel/btf/vmlinux, CONFIG_DEBUG_INFO_BTF): use a kernel with it"
    )]
    Btf,
    /// It is not loaded.
    #[error(transparent)]
    Load(#[from] ObjectError),
    /// It is loaded, but cannot be attached.
    #[error("{kind}: loads, but cannot be attached: {reason}")]
    Attach {
        /// Which kind.
        kind: Kind,
        /// The kernel's reason.
        reason: String,
    },
}

/// The function and the tracepoint that are tried.
const FUNCTION: &str = "dev_get_stats";
const TRACEPOINT: &str = "softirq_entry";

/// Loads and attaches a program of a kind, and takes it away again. Blocks.
///
/// `device` is a device of the calling thread's network namespace; only the tc kinds look at it.
///
/// # Errors
/// The kernel's reason.
pub fn try_kind(kind: Kind, device: &str) -> Result<(), Lack> {
    let typed = matches!(kind, Kind::TpBtf | Kind::Fentry | Kind::Fexit);
    if typed && !has_btf() {
        return Err(Lack::Btf);
    }
    let source = crate::built_in!("capability");
    let mut ebpf = source.open()?;
    let name = kind.program();
    load(kind, &source, &mut ebpf)?;
    let program =
        ebpf.program_mut(name).ok_or_else(|| source.broken(format!("it has no program {name}")))?;
    let attached = match program {
        Program::SchedClassifier(p) if kind == Kind::Tcx => p
            .attach_with_options(
                device,
                TcAttachType::Ingress,
                TcAttachOptions::TcxOrder(LinkOrder::default()),
            )
            .map(drop),
        Program::SchedClassifier(p) => clsact(p, device),
        Program::BtfTracePoint(p) => p.attach().map(drop),
        Program::RawTracePoint(p) => p.attach(TRACEPOINT).map(drop),
        Program::TracePoint(p) => p.attach("irq", TRACEPOINT).map(drop),
        Program::FEntry(p) => p.attach().map(drop),
        Program::FExit(p) => p.attach().map(drop),
        Program::KProbe(p) => p.attach(FUNCTION, 0).map(drop),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    attached.map_err(|e| Lack::Attach { kind, reason: chain(&e) })
}

fn load(kind: Kind, source: &Source, ebpf: &mut Ebpf) -> Result<(), Lack> {
    let name = kind.program();
    let btf = || Btf::from_sys_fs().map_err(|_| Lack::Btf);
    let program =
        ebpf.program_mut(name).ok_or_else(|| source.broken(format!("it has no program {name}")))?;
    let loaded = match program {
        Program::SchedClassifier(p) => p.load(),
        Program::BtfTracePoint(p) => p.load(TRACEPOINT, &btf()?),
        Program::RawTracePoint(p) => p.load(),
        Program::TracePoint(p) => p.load(),
        Program::FEntry(p) => p.load(FUNCTION, &btf()?),
        Program::FExit(p) => p.load(FUNCTION, &btf()?),
        Program::KProbe(p) => p.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    loaded.map_err(|e| Lack::Load(source.refused(name, e)))
}

fn clsact(program: &mut SchedClassifier, device: &str) -> Result<(), ProgramError> {
    tc::qdisc_add_clsact(device)?;
    let options = TcAttachOptions::Netlink(NlOptions::default());
    program.attach_with_options(device, TcAttachType::Ingress, options).map(drop)
}

/// True where the kernel describes its types.
pub fn has_btf() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

//! Programs on the kernel's tracepoints with typed arguments (tp_btf): loading, attaching, and how often
//! the kernel passed one over. Which programs an object has is said by [`crate::stages`] and
//! [`crate::losses`], which call this.

use crate::{
    capability::{Lack, has_btf},
    object::{ObjectError, Source},
};
use aya::{Btf, Ebpf, programs::BtfTracePoint};
use cnibench_model::probe::ProbeProgram;
use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
};

/// A program of an object. Of several that are for one tracepoint the first that the kernel takes is
/// used.
pub(crate) struct Program {
    /// Its name in the object.
    pub name: &'static str,
    /// The tracepoint.
    pub tracepoint: &'static str,
    /// True: nothing works without it.
    pub needed: bool,
}

/// Loads and attaches programs; each with what became of it. Blocks.
///
/// # Errors
/// A needed one is refused, or the kernel has no BTF.
pub(crate) fn attach(
    source: &Source,
    ebpf: &mut Ebpf,
    wanted: &[Program],
) -> Result<Vec<ProbeProgram>, Lack> {
    if !has_btf() {
        return Err(Lack::Btf);
    }
    let btf = Btf::from_sys_fs().map_err(|_| Lack::Btf)?;
    let mut programs: Vec<ProbeProgram> = Vec::new();
    for program in wanted {
        let name = format!("tp_btf/{}", program.tracepoint);
        let known = programs.iter().position(|p| p.name == name);
        if let Some(known) = known {
            if programs[known].attached {
                continue;
            }
            programs.remove(known);
        }
        let reason = match start(source, ebpf, program, &btf) {
            Ok(()) => None,
            Err(error) if program.needed => return Err(error.into()),
            Err(error) => Some(error.to_string()),
        };
        programs.push(ProbeProgram { name, attached: reason.is_none(), reason });
    }
    Ok(programs)
}

fn start(
    source: &Source,
    ebpf: &mut Ebpf,
    program: &Program,
    btf: &Btf,
) -> Result<(), ObjectError> {
    let name = program.name;
    let found =
        ebpf.program_mut(name).ok_or_else(|| source.broken(format!("it has no program {name}")))?;
    let traced: &mut BtfTracePoint =
        found.try_into().map_err(|_| source.broken(format!("{name} is no tp_btf program")))?;
    traced.load(program.tracepoint, btf).map_err(|e| source.refused(name, e))?;
    traced.attach().map_err(|e| source.refused(name, e))?;
    Ok(())
}

/// How often programs were passed over since they were loaded: the kernel does not run a tracing
/// program inside itself (on a CPU where an interrupt meets the same tracepoint), and counts those
/// times for each (`recursion_misses`, bpf_prog_show_fdinfo).
pub(crate) fn misses(ebpf: &Ebpf, programs: &[Program]) -> u64 {
    let missed = |program: &Program| {
        let fd = ebpf.program(program.name)?.fd().ok()?.as_fd().as_raw_fd();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
        let line = info.lines().find_map(|l| l.strip_prefix("recursion_misses:"))?;
        line.trim().parse::<u64>().ok()
    };
    programs.iter().filter_map(missed).sum()
}

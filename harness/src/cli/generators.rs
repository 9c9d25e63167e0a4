//! Cases whose traffic another generator makes: fitted to what it has, and whether it is there.
//!
//! What a generator can do is the workloads' to say ([`cnibench_workloads::peers`]). Called by `run`.

use anyhow::{Result, bail};
use cnibench_model::{Case, Generator, Workload};
use cnibench_workloads::peers;
use std::{collections::HashSet, env, path::Path};

/// Every case as its generator can carry it. Two that become one are kept once.
pub(super) fn fitted(mut cases: Vec<Case>) -> Vec<Case> {
    cases.iter_mut().for_each(peers::fit);
    let mut seen = HashSet::new();
    cases.retain(|case| seen.insert(case.id.clone()));
    cases
}

/// Fails with what is missing and how to get it. Only of this machine can that be told beforehand: in a
/// pod the trial itself finds out.
pub(super) fn check_installed(cases: &[Case]) -> Result<()> {
    let offered = cases.iter().filter(|c| peers::refuses(c.workload, &c.params).is_none());
    let missing = offered.filter_map(|c| missing(c.params.generator, &[c.workload])).next();
    missing.map_or(Ok(()), |missing| bail!("{missing}"))
}

/// What of a generator is not on the PATH for these workloads, and how to get it; none: all is.
pub(super) fn missing(generator: Generator, workloads: &[Workload]) -> Option<String> {
    let needs = workloads.iter().flat_map(|w| peers::needs(generator, *w));
    let (program, get) = needs.into_iter().find(|(program, _)| !is_on_path(program))?;
    Some(format!("generator {generator}: no {program} on the PATH ({get})"))
}

fn is_on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| is_program(&folder.join(program)))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

//! Takes away what dead runs left, and nothing else.

use crate::{
    cluster::owner::{CleanReport, Missing, RunId, is_missing, locks, try_lock},
    netlink::namespace,
};
use anyhow::{Context as _, anyhow};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

/// Removes the namespaces, processes and locks of runs that are dead.
pub async fn clean_leftovers() -> CleanReport {
    tokio::task::spawn_blocking(clean).await.unwrap_or_else(|e| CleanReport {
        errors: vec![anyhow!(e).context("cleaning up panicked")],
        ..CleanReport::default()
    })
}

fn clean() -> CleanReport {
    let mut report = CleanReport::default();
    let mut runs: BTreeMap<RunId, Vec<String>> = BTreeMap::new();
    for name in names_in(namespace::DIR, &mut report) {
        if let Some(run) = RunId::of_name(&name) {
            runs.entry(run).or_default().push(name);
        }
    }
    let folder = match locks() {
        Ok(folder) => folder,
        // Without root nothing outlives its process.
        Err(_) => return report,
    };
    for name in names_in(&folder, &mut report) {
        if let Some(run) = RunId::of_lock(&name) {
            runs.entry(run).or_default();
        }
    }
    for (run, names) in runs {
        match try_lock(&folder, &run, Missing::Report) {
            Ok(None) => report.kept.push(run),
            // Held until the run's things are gone, so that two cleaners do not meet.
            Ok(Some(_held)) => {
                remove_run(&names, &mut report);
                // Another provider still has things of the run to remove.
                if run.has_notes(&folder) {
                    continue;
                }
                match fs::remove_file(run.lock(&folder)) {
                    Ok(()) => report.removed.push(format!("{run}.lock")),
                    Err(e) => report.errors.push(anyhow!(e).context(format!("{run}.lock"))),
                }
            }
            Err(e) if is_missing(&e) => remove_run(&names, &mut report),
            Err(e) => report.errors.push(e),
        }
    }
    report
}

fn names_in(directory: impl AsRef<Path>, report: &mut CleanReport) -> Vec<String> {
    let directory = directory.as_ref();
    match fs::read_dir(directory) {
        Ok(entries) => entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => {
            report.errors.push(anyhow!(e).context(format!("cannot read {}", directory.display())));
            Vec::new()
        }
    }
}

fn remove_run(names: &[String], report: &mut CleanReport) {
    let paths: Vec<_> = names.iter().map(|n| Path::new(namespace::DIR).join(n)).collect();
    let inodes = paths.iter().filter_map(|p| namespace::inode(p)).collect();
    match end_processes(&inodes) {
        Ok(ended) => report.removed.extend(ended.iter().map(|pid| format!("process {pid}"))),
        Err(e) => report.errors.push(e),
    }
    for (path, name) in paths.iter().zip(names) {
        match namespace::remove_path(path) {
            Ok(()) => report.removed.push(name.clone()),
            Err(e) => report.errors.push(e),
        }
    }
}

/// Kills every process that stands in one of these namespaces (by inode) and waits until they are
/// gone. Returns their ids. This process' own namespace is never taken for one of them.
pub(super) fn end_processes(namespaces: &HashSet<u64>) -> anyhow::Result<Vec<i32>> {
    let mut ended = Vec::new();
    // Belt and braces: whatever the names claim, the host's processes are never meant.
    let mut namespaces = namespaces.clone();
    for own in ["/proc/self/ns/net", "/proc/1/ns/net"] {
        namespace::inode(Path::new(own)).map(|inode| namespaces.remove(&inode));
    }
    let namespaces = &namespaces;
    if namespaces.is_empty() {
        return Ok(ended);
    }
    let own = rustix::process::getpid();
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let standing: Vec<Pid> =
            pids()?.into_iter().filter(|pid| *pid != own && stands_in(*pid, namespaces)).collect();
        if standing.is_empty() {
            return Ok(ended);
        }
        for pid in &standing {
            // The descriptor pins the process: the number cannot pass to another one between
            // looking again and killing.
            let Ok(handle) = pidfd_open(*pid, PidfdFlags::empty()) else { continue };
            if stands_in(*pid, namespaces) && pidfd_send_signal(&handle, Signal::KILL).is_ok() {
                let id = pid.as_raw_nonzero().get();
                if !ended.contains(&id) {
                    ended.push(id);
                }
            }
        }
        if Instant::now() > until {
            let ids: Vec<String> =
                standing.iter().map(|p| p.as_raw_nonzero().to_string()).collect();
            return Err(anyhow!("processes that do not end: {}", ids.join(", ")));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn pids() -> anyhow::Result<Vec<Pid>> {
    let entries = fs::read_dir("/proc").context("cannot read /proc")?;
    let numbers = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    Ok(numbers.filter_map(Pid::from_raw).collect())
}

/// False also for zombies and for processes that may not be looked at: neither can be ours.
fn stands_in(pid: Pid, namespaces: &HashSet<u64>) -> bool {
    let path = format!("/proc/{}/ns/net", pid.as_raw_nonzero());
    namespace::inode(Path::new(&path)).is_some_and(|inode| namespaces.contains(&inode))
}

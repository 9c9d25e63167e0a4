//! Has this machine room for two clusters at once?
//!
//! Owns the estimate only; what was asked for with `--parallel-clusters` is not judged. Called by the
//! provider where two arms are measured in pairs.

use super::provider::docker_is_local;

/// What a cluster may need. Two nodes of Kubernetes with Flannel, at rest, were seen to take 0.9 GB;
/// the same again is for other CNIs and for what runs while one is installed.
const CLUSTER: u64 = 1_800_000_000;

/// Clusters that can be up at a time, 1 or 2. Of a Docker that is not on this machine nothing is known.
pub fn clusters() -> usize {
    let available = std::fs::read_to_string("/proc/meminfo").ok().and_then(|t| available(&t));
    match available {
        Some(bytes) if docker_is_local() && bytes >= 2 * CLUSTER => 2,
        _ => 1,
    }
}

/// Bytes that can be used without swapping (`MemAvailable`, fs/proc/meminfo.c).
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_or_not_known() {
        let text = "MemTotal:       24640516 kB\nMemAvailable:   22020096 kB\n";
        assert_eq!(available(text), Some(22_020_096 * 1024));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        assert_eq!(available("MemAvailable: many kB\n"), None);
    }
}

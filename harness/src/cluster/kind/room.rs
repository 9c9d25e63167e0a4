//! Has this machine room for two clusters at once?
//!
//! Owns the estimate only; what was asked for with `--parallel-clusters` is not judged. Called by the
//! provider where two arms are measured in pairs.

use super::provider::docker_is_local;

/// What a node may need. Two nodes of Kubernetes with Flannel, at rest, were seen to take 0.9 GB; the
/// same again is for other CNIs and for what runs while one is installed.
const NODE: u64 = 900_000_000;

/// Is there room for two clusters of so many nodes?
///
/// # Errors
/// Why not, as far as is known: of a Docker that is not on this machine nothing is.
pub fn for_two(nodes: u32) -> Result<(), String> {
    if !docker_is_local() {
        return Err("how much memory the machine of this Docker has is not known".to_owned());
    }
    let available = std::fs::read_to_string("/proc/meminfo").ok().and_then(|t| available(&t));
    enough(nodes, available)
}

fn enough(nodes: u32, available: Option<u64>) -> Result<(), String> {
    let needed = 2 * u64::from(nodes) * NODE;
    match available {
        None => Err("/proc/meminfo does not say how much memory is available".to_owned()),
        Some(bytes) if bytes < needed => Err(format!(
            "two clusters of {nodes} nodes may need {:.1} GB of memory, and {:.1} GB are available",
            needed as f64 / 1e9,
            bytes as f64 / 1e9
        )),
        Some(_) => Ok(()),
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
    fn more_nodes_need_more_and_too_little_is_said_in_numbers() {
        assert_eq!(enough(2, Some(4_000_000_000)), Ok(()));
        let text = enough(3, Some(4_000_000_000)).unwrap_err();
        assert!(text.contains("of 3 nodes may need 5.4 GB") && text.contains("4.0 GB"), "{text}");
        assert!(enough(2, None).is_err());
    }

    #[test]
    fn available_memory_is_read_or_not_known() {
        let text = "MemTotal:       24640516 kB\nMemAvailable:   22020096 kB\n";
        assert_eq!(available(text), Some(22_020_096 * 1024));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        assert_eq!(available("MemAvailable: many kB\n"), None);
    }
}

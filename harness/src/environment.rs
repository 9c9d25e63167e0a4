//! Reads the machine: kernel, CPU, limits, settings, neighbours. Reads only; what cannot be read is absent.

use crate::netlink::namespace;
use cnibench_model::Environment;
use std::{collections::BTreeMap, fs, path::Path};

/// Sysctls that move a network benchmark. Those under `net.` are read in a fresh network namespace,
/// since that is what nodes and pods start from: the caller's own say nothing of them.
const SYSCTLS: &[&str] = &[
    "net.core.default_qdisc",
    "net.core.netdev_budget",
    "net.core.netdev_max_backlog",
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.core.rps_sock_flow_entries",
    "net.core.bpf_jit_enable",
    "net.core.busy_poll",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_timestamps",
    "net.ipv4.tcp_sack",
    "net.ipv4.tcp_ecn",
    "net.ipv4.tcp_mtu_probing",
    "net.ipv4.ip_local_port_range",
    "net.netfilter.nf_conntrack_max",
    "kernel.numa_balancing",
    "kernel.sched_autogroup_enabled",
    "kernel.randomize_va_space",
    "vm.swappiness",
];

fn text(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty())
}

/// The machine as it is now. `features` and tool versions are added by who knows them.
pub fn capture() -> Environment {
    let uname = rustix::system::uname();
    let lossy = |s: &std::ffi::CStr| s.to_string_lossy().into_owned();
    let cpuinfo = text("/proc/cpuinfo").unwrap_or_default();
    let stat = text("/proc/stat").unwrap_or_default();
    let (memory_limit_bytes, cpu_limit) = cgroup_limits();
    Environment {
        hostname: lossy(uname.nodename()),
        os: os_name(&text("/etc/os-release").unwrap_or_default()),
        kernel_release: lossy(uname.release()),
        kernel_version: lossy(uname.version()),
        arch: lossy(uname.machine()),
        cpu_model: field(&cpuinfo, "model name").unwrap_or_default(),
        cpus: std::thread::available_parallelism().map_or(0, |n| n.get() as u32),
        cpus_online: text("/sys/devices/system/cpu/online").map_or(0, |l| cpu_list_len(&l)),
        hypervisor: hypervisor(&cpuinfo),
        governor: text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        turbo: turbo(),
        smt: text("/sys/devices/system/cpu/smt/active").map(|t| t == "1"),
        mitigations: directory("/sys/devices/system/cpu/vulnerabilities"),
        kernel_cmdline: redact(&text("/proc/cmdline").unwrap_or_default()),
        clocksource: text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        memory_bytes: text("/proc/meminfo").map_or(0, |t| memory_total(&t)),
        memory_limit_bytes,
        cpu_limit,
        euid: rustix::process::geteuid().as_raw(),
        user_namespace: is_in_user_namespace(),
        load_1m: text("/proc/loadavg")
            .and_then(|t| t.split(' ').next()?.parse().ok())
            .unwrap_or_default(),
        steal_since_boot: steal_share(&stat),
        sysctls: sysctls(),
        versions: BTreeMap::from([("cnibench".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
        features: BTreeMap::new(),
    }
}

/// Sysctls of [`SYSCTLS`] that exist.
fn sysctls() -> BTreeMap<String, String> {
    let read = |net: bool| {
        let wanted = SYSCTLS.iter().filter(|name| name.starts_with("net.") == net);
        wanted
            .filter_map(|name| {
                let path = Path::new("/proc/sys").join(name.replace('.', "/"));
                Some(((*name).to_owned(), text(path)?.replace('\t', " ")))
            })
            .collect::<BTreeMap<_, _>>()
    };
    let mut all = read(false);
    // Where no namespace can be made they are absent, not the caller's.
    all.extend(namespace::scratch(|| Ok(read(true))).unwrap_or_default());
    all
}

/// `PRETTY_NAME` of os-release.
fn os_name(release: &str) -> String {
    release
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".to_owned(), |v| v.trim_matches('"').to_owned())
}

/// The first value of a field of /proc/cpuinfo.
fn field(cpuinfo: &str, name: &str) -> Option<String> {
    cpuinfo.lines().find_map(|l| {
        let (key, value) = l.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn hypervisor(cpuinfo: &str) -> Option<String> {
    let flagged = field(cpuinfo, "flags")?.split(' ').any(|f| f == "hypervisor");
    let named = text("/sys/class/dmi/id/sys_vendor").or_else(|| text("/sys/hypervisor/type"));
    flagged.then(|| named.unwrap_or_else(|| "an unnamed hypervisor".to_owned()))
}

/// Intel's `no_turbo` or the generic `boost` switch.
fn turbo() -> Option<bool> {
    text("/sys/devices/system/cpu/intel_pstate/no_turbo")
        .map(|t| t == "0")
        .or_else(|| text("/sys/devices/system/cpu/cpufreq/boost").map(|t| t == "1"))
}

/// Every file of a directory, name to content.
fn directory(path: &str) -> BTreeMap<String, String> {
    fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some((e.file_name().into_string().ok()?, text(e.path())?)))
        .collect()
}

/// Number of CPUs in a list such as `0-3,8`.
fn cpu_list_len(list: &str) -> u32 {
    list.split(',')
        .filter_map(|part| {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let (low, high): (u32, u32) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
            Some(high.saturating_sub(low) + 1)
        })
        .sum()
}

/// The command line without values that could be secrets: a report is made to be shared.
fn redact(cmdline: &str) -> String {
    cmdline
        .split_whitespace()
        .map(|word| match word.split_once('=') {
            Some((key, _)) if is_secret(key) => format!("{key}=(left out)"),
            _ => word.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(" ")
}

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["pass", "secret", "token", "key", "uuid", "auth", "cred"].iter().any(|w| key.contains(w))
}

fn memory_total(meminfo: &str) -> u64 {
    field(meminfo, "MemTotal")
        .and_then(|v| v.split(' ').next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

/// True where this process is root at most of a user namespace of its own.
pub fn is_in_user_namespace() -> bool {
    text("/proc/self/uid_map").is_some_and(|m| !is_whole_uid_range(&m))
}

fn is_whole_uid_range(uid_map: &str) -> bool {
    let numbers: Vec<&str> = uid_map.split_whitespace().collect();
    numbers == ["0", "0", "4294967295"]
}

/// Stolen share of all CPU time in the first line of /proc/stat.
fn steal_share(stat: &str) -> f64 {
    let ticks: Vec<f64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|t| t.parse().ok())
        .collect();
    let total: f64 = ticks.iter().sum();
    if total > 0.0 { ticks.get(7).copied().unwrap_or(0.0) / total } else { 0.0 }
}

/// The tightest memory (bytes) and CPU (CPUs) limits of the cgroup, version 2 or 1.
fn cgroup_limits() -> (Option<u64>, Option<f64>) {
    let own = text("/proc/self/cgroup").unwrap_or_default();
    let path_of = |controller: &str| {
        own.lines().find_map(|l| {
            let mut parts = l.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            controllers.split(',').any(|c| c == controller).then(|| path.to_owned())
        })
    };
    // A limit may stand on any ancestor; the tightest one rules.
    let ancestors = |root: &str, path: &str| {
        let full = Path::new(root).join(path.trim_start_matches('/'));
        full.ancestors().take_while(|p| p.starts_with(root)).map(Path::to_owned).collect::<Vec<_>>()
    };
    let unlimited = 1 << 60;
    if let Some(path) = path_of("") {
        let dirs = ancestors("/sys/fs/cgroup", &path);
        let memory = dirs.iter().filter_map(|d| text(d.join("memory.max"))?.parse().ok()).min();
        let cpu =
            dirs.iter().filter_map(|d| cpu_max(&text(d.join("cpu.max"))?)).min_by(f64::total_cmp);
        if memory.is_some() || cpu.is_some() {
            return (memory, cpu);
        }
    }
    let memory = path_of("memory").and_then(|path| {
        ancestors("/sys/fs/cgroup/memory", &path)
            .iter()
            .filter_map(|d| text(d.join("memory.limit_in_bytes"))?.parse().ok())
            .filter(|limit| *limit < unlimited)
            .min()
    });
    let cpu = path_of("cpu").and_then(|path| {
        ancestors("/sys/fs/cgroup/cpu", &path)
            .iter()
            .filter_map(|d| {
                let quota = text(d.join("cpu.cfs_quota_us"))?;
                cpu_max(&format!("{quota} {}", text(d.join("cpu.cfs_period_us"))?))
            })
            .min_by(f64::total_cmp)
    });
    (memory, cpu)
}

/// CPUs from `quota period` in µs; `max` or -1 is no limit.
fn cpu_max(line: &str) -> Option<f64> {
    let (quota, period) = line.split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_recorded_files() {
        assert_eq!(os_name("ID=debian\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        assert_eq!(os_name(""), "Linux");
        assert_eq!(field("a\t: b\nmodel name\t: X 3000\n", "model name").unwrap(), "X 3000");
        assert_eq!(cpu_list_len("0-3,8,10-11"), 7);
        assert_eq!(memory_total("MemTotal:       1024 kB\n"), 1_048_576);
        assert_eq!(cpu_max("150000 100000"), Some(1.5));
        assert_eq!(cpu_max("max 100000"), None);
        assert_eq!(cpu_max("-1 100000"), None);
        assert!((steal_share("cpu 10 0 10 70 0 0 0 10 0 0\n") - 0.1).abs() < 1e-12);
        assert_eq!(steal_share(""), 0.0);
        assert!(is_whole_uid_range("         0          0 4294967295"));
        assert!(!is_whole_uid_range("0 1000 1"));
    }

    #[test]
    fn the_command_line_keeps_no_secrets() {
        assert_eq!(
            redact("ro root=/dev/vda api_token=abc KEY=1 quiet"),
            "ro root=/dev/vda api_token=(left out) KEY=(left out) quiet"
        );
    }

    #[test]
    fn this_machine_has_a_kernel_and_cpus() {
        let env = capture();
        assert!(!env.kernel_release.is_empty() && env.cpus > 0 && env.memory_bytes > 0);
    }
}

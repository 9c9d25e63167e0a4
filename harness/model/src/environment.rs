//! The machine a record was made on: everything that can move a number and is not in the suite.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Host, kernel, limits and settings at the start of a run. Absent means "could not be read".
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Environment {
    /// Host name.
    pub hostname: String,
    /// Operating system, e.g. "Debian GNU/Linux 12 (bookworm)".
    pub os: String,
    /// Kernel release (uname -r).
    pub kernel_release: String,
    /// Kernel version (uname -v).
    pub kernel_version: String,
    /// Architecture, e.g. "x86_64".
    pub arch: String,
    /// CPU model name.
    pub cpu_model: String,
    /// CPUs this process may run on.
    pub cpus: u32,
    /// CPUs online in the machine.
    pub cpus_online: u32,
    /// Hypervisor, when the CPU says that there is one.
    pub hypervisor: Option<String>,
    /// Frequency governor of CPU 0.
    pub governor: Option<String>,
    /// True when the CPU's turbo or boost is on.
    pub turbo: Option<bool>,
    /// True when SMT siblings are online.
    pub smt: Option<bool>,
    /// CPU vulnerabilities and the mitigation in force (/sys/devices/system/cpu/vulnerabilities).
    pub mitigations: BTreeMap<String, String>,
    /// The kernel command line, without values that look like secrets.
    pub kernel_cmdline: String,
    /// Clock source of the monotonic clock.
    pub clocksource: Option<String>,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Memory limit of this process' cgroup in bytes, if it has one.
    pub memory_limit_bytes: Option<u64>,
    /// CPU limit of this process' cgroup in CPUs, if it has one.
    pub cpu_limit: Option<f64>,
    /// Effective user id.
    pub euid: u32,
    /// True when the run lived in an unprivileged user namespace.
    pub user_namespace: bool,
    /// 1-minute load average at the start.
    pub load_1m: f64,
    /// Share of CPU time stolen by the hypervisor since boot.
    pub steal_since_boot: f64,
    /// Sysctls that matter to a network benchmark (name to value).
    pub sysctls: BTreeMap<String, String>,
    /// Versions of cnibench and of the tools that took part (name to version).
    pub versions: BTreeMap<String, String>,
    /// What the kernel can do, found by trying (feature to "yes" or the reason why not).
    pub features: BTreeMap<String, String>,
}

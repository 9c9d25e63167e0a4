//! The provider vm: QEMU, acceleration, and what each kernel that is there can carry.

use super::Check;
use crate::cluster::vm::{self, kernel::Kernel};

const AREA: &str = "provider vm";
const CNIS: &str = "provider vm: kernels";

/// What guests are made of. A guest is booted where there is hardware to do it with.
pub(super) async fn checks() -> Vec<Check> {
    let qemu = vm::qemu_version().map_err(|e| format!("{e:#}"));
    let found = qemu.is_ok();
    let mut checks = vec![Check::new(AREA, "QEMU", qemu)];
    let kernels = vm::fetched();
    checks.push(Check::new(AREA, "acceleration", acceleration(found, kernels.last()).await));
    if kernels.is_empty() {
        checks.push(Check::new(CNIS, "kernel", Err(vm::no_kernel().to_string())));
    }
    checks.extend(kernels.iter().map(|kernel| Check::new(CNIS, &kernel.name, carries(kernel))));
    checks
}

/// Does a guest boot with KVM? Only a boot can tell.
async fn acceleration(qemu: bool, kernel: Option<&Kernel>) -> Result<String, String> {
    let emulated = "without it guests are emulated: for instructions nothing else is needed, times are no machine's";
    let Some(kernel) = kernel.filter(|_| qemu) else {
        return Err("KVM was not tried: it takes QEMU and a kernel".to_owned());
    };
    match vm::kvm(kernel).await {
        Ok(()) => Ok(format!("KVM: {} booted", kernel.name)),
        Err(e) => Err(format!("no KVM: {e:#}; {emulated}")),
    }
}

/// By its files: cnis, and what probes can use.
fn carries(kernel: &Kernel) -> Result<String, String> {
    let (mut able, mut unable) = (Vec::new(), Vec::new());
    for offer in vm::offers(Ok(kernel)) {
        match offer.missing {
            None => able.push(offer.name),
            Some(why) => unable.push(format!("{} ({})", offer.name, short(&why, kernel))),
        }
    }
    let config = kernel.config();
    let probes = match &config {
        None => "probes: unknown, no config beside it".to_owned(),
        Some(config) => format!("probes: {}", list(&config.probes(), "none")),
    };
    let mut text = format!("{}; {probes}", list(&able, "nothing"));
    if !unable.is_empty() {
        text.push_str(&format!("; not {}", unable.join(", ")));
    }
    if able.is_empty() { Err(text) } else { Ok(text) }
}

/// Without what is said of every cni of this kernel.
fn short(why: &str, kernel: &Kernel) -> String {
    let why = why.trim_start_matches(&format!("the kernel {} has ", kernel.name));
    why.trim_end_matches(": name another with --kernel").to_owned()
}

fn list(names: &[impl AsRef<str>], none: &str) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    if names.is_empty() { none.to_owned() } else { names.join(", ") }
}

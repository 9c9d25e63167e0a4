//! The machine, its kernel, and the provider netns.

use super::Check;
use crate::{
    calibration,
    cluster::{
        Provider,
        netns::{self, NetnsProvider, Owner},
    },
};
use anyhow::Result;
use cnibench_model::Environment;

const MACHINE: &str = "machine";
const FEATURES: &str = "kernel features (each tried in a scratch namespace)";
pub(super) const CNIS: &str = "provider netns: cnis";

/// `privilege`: whether it took a user namespace, or why there is none.
pub(super) async fn checks(privilege: Result<bool, String>) -> Result<Vec<Check>> {
    let environment = crate::environment::capture();
    let kernel = format!("{} {}", environment.os, environment.kernel_release);
    let cpus = match environment.cpus {
        1 => Err("1: client and server share it, so streams measure the CPU more than the path"
            .to_owned()),
        n => Ok(format!("{n}, {}", environment.cpu_model)),
    };
    let limits = || format!("user namespace: {}", netns::user_namespace::LIMITS.join("; "));
    let rights = match &privilege {
        Ok(false) => Ok("root".to_owned()),
        Ok(true) => Err(limits()),
        Err(reason) => Err(reason.clone()),
    };
    let mut checks = vec![
        Check::new(MACHINE, "kernel", Ok(kernel)),
        Check::new(MACHINE, "cpus", cpus),
        Check::new(MACHINE, "privilege", rights),
        Check::new(MACHINE, "calibration", calibrated(&environment)),
    ];
    let offers = if privilege.is_ok() {
        for capability in netns::capabilities::capabilities().await {
            let result = if capability.ok { Ok(capability.detail) } else { Err(capability.detail) };
            checks.push(Check::new(FEATURES, capability.name, result));
        }
        NetnsProvider::new(Owner::acquire()?)?.cnis().await
    } else {
        netns::untried("not tried: see privilege")
    };
    checks.extend(offers.into_iter().map(|offer| {
        Check::new(CNIS, &offer.name, offer.missing.map_or(Ok(offer.description), Err))
    }));
    Ok(checks)
}

/// Is there a noise floor of this host?
fn calibrated(environment: &Environment) -> Result<String, String> {
    let found = calibration::find(None).map_err(|e| format!("{e:#}"))?;
    calibration::state(found.as_ref(), environment)
}

//! Which kernels a run has, and which of them a cni is measured in.
//!
//! Several kernels are a dimension: every cni then names its own in the parameter `kernel`, so that it is
//! part of what a series is known by. Owns that parameter, which cnis themselves never see.

use super::{
    kernel::{Kernel, kernels_folder},
    options::VmOptions,
};
use crate::cluster::ClusterError;
use anyhow::{anyhow, ensure};
use cnibench_model::{CniSpec, nearest::did_you_mean};
use std::path::Path;

/// The parameter.
pub const PARAM: &str = CniSpec::KERNEL;
/// What it means.
pub const HELP: &str = "version of the kernel in which it is measured, of those that were fetched or named (default: the newest fetched)";

/// The kernels of a run, in the order in which they were named; never none.
#[derive(Debug, Clone)]
pub struct Kernels(Vec<Kernel>);

impl Kernels {
    /// Those that were named, else the newest that was fetched.
    ///
    /// # Errors
    /// There is none; then how to get one. Or one that was named is not there, or two are called alike.
    pub fn chosen(options: &VmOptions) -> anyhow::Result<Self> {
        let VmOptions { kernel, modules, .. } = options;
        ensure!(
            modules.is_empty() || modules.len() == kernel.len(),
            "--modules is given {} times and --kernel {}: give each kernel its own, or none",
            modules.len(),
            kernel.len()
        );
        let mut all: Vec<Kernel> = Vec::new();
        for (number, image) in kernel.iter().enumerate() {
            let found = open(image, modules.get(number).map(AsRef::as_ref))?;
            ensure!(
                all.iter().all(|k| k.name != found.name),
                "--kernel: two are called {}: one is enough",
                found.name
            );
            all.push(found);
        }
        if all.is_empty() {
            all.extend(fetched().pop());
        }
        ensure!(!all.is_empty(), none());
        Ok(Self(all))
    }

    /// The one of a cni that names none.
    pub fn first(&self) -> &Kernel {
        &self.0[0]
    }

    /// What they are called, in full.
    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(|kernel| kernel.name.as_str()).collect()
    }

    /// The one that a cni is measured in.
    ///
    /// # Errors
    /// `Usage`: it names one that is not there.
    pub fn of(&self, cni: &CniSpec) -> Result<Kernel, ClusterError> {
        let Some(wanted) = cni.params.get(PARAM) else { return Ok(self.first().clone()) };
        let (named, fetched) = (self.0.clone(), fetched());
        let found = newest(named.iter(), wanted).or_else(|| newest(fetched.iter(), wanted));
        found.cloned().ok_or_else(|| {
            let names: Vec<&str> =
                named.iter().chain(&fetched).map(|kernel| kernel.name.as_str()).collect();
            ClusterError::Usage(format!(
                "cni {cni}: no kernel {wanted}{}: there are {}; fetch others with scripts/fetch-kernel",
                did_you_mean(wanted, names.iter().copied()),
                names.join(", ")
            ))
        })
    }

    /// These cnis, each in every kernel where there are several; one that names its kernel stays.
    pub fn spread(&self, cnis: Vec<CniSpec>) -> Vec<CniSpec> {
        if self.0.len() == 1 {
            return cnis;
        }
        let names = self.short_names();
        let in_each = |cni: CniSpec| -> Vec<CniSpec> {
            if cni.params.contains_key(PARAM) {
                return vec![cni];
            }
            let with = |kernel: &String| {
                let mut cni = cni.clone();
                cni.params.insert(PARAM.to_owned(), kernel.clone());
                cni
            };
            names.iter().map(with).collect()
        };
        cnis.into_iter().flat_map(in_each).collect()
    }
}

impl Kernels {
    /// Versions without what a distribution adds, where that tells them apart.
    fn short_names(&self) -> Vec<String> {
        let short = |kernel: &Kernel| {
            let plain = kernel.name.split(['+', '-']).next().unwrap_or_default();
            let is_plain = |other: &&Kernel| newest(std::iter::once(*other), plain).is_some();
            match self.0.iter().filter(is_plain).count() {
                1 => plain.to_owned(),
                _ => kernel.name.clone(),
            }
        };
        self.0.iter().map(short).collect()
    }
}

/// The cni as its profile knows it.
pub fn without(cni: &CniSpec) -> CniSpec {
    let mut cni = cni.clone();
    cni.params.remove(PARAM);
    cni
}

/// An image's file, or the version of one that was fetched.
fn open(image: &Path, modules: Option<&Path>) -> anyhow::Result<Kernel> {
    let wanted = image.to_str().filter(|text| !text.contains('/') && !image.exists());
    if let Some(found) = wanted.and_then(|wanted| newest(fetched().iter(), wanted).cloned()) {
        return Ok(found);
    }
    Kernel::open(image, modules)
}

/// The last whose version is this or begins so.
fn newest<'a>(kernels: impl Iterator<Item = &'a Kernel>, wanted: &str) -> Option<&'a Kernel> {
    let begins = |kernel: &&Kernel| {
        let rest = kernel.name.strip_prefix(wanted);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
    };
    kernels.filter(begins).last()
}

/// The kernels that were fetched, the newest last.
pub fn fetched() -> Vec<Kernel> {
    kernels_folder().as_deref().map(Kernel::all_in).unwrap_or_default()
}

/// What to say where there is none.
pub fn none() -> anyhow::Error {
    let folder = kernels_folder();
    let shown = folder.map_or_else(|| "~/.cache".into(), |f| f.display().to_string());
    anyhow!(
        "no kernel for guests in {shown}: fetch one with scripts/fetch-kernel, or name one with --kernel FILE --modules DIR"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(name: &str) -> Kernel {
        Kernel { image: "vmlinuz".into(), modules: None, name: name.to_owned() }
    }

    fn spec(text: &str) -> CniSpec {
        text.parse().unwrap()
    }

    #[test]
    fn several_kernels_are_part_of_a_cnis_name() {
        let two = Kernels(vec![kernel("6.1.0-50-cloud"), kernel("6.12.9-cloud")]);
        let cnis = two.spread(vec![spec("host"), spec("a:kernel=6.1,mtu=1400")]);
        let names: Vec<String> = cnis.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["host:kernel=6.1.0", "host:kernel=6.12.9", "a:kernel=6.1,mtu=1400"]);
        assert_eq!(two.of(&cnis[1]).unwrap().name, "6.12.9-cloud");
        // 6.1 is not the beginning of 6.12.
        assert_eq!(two.of(&cnis[2]).unwrap().name, "6.1.0-50-cloud");
        assert_eq!(without(&cnis[2]).to_string(), "a:mtu=1400");
        let alike = Kernels(vec![kernel("6.1.0-49"), kernel("6.1.0-50")]);
        assert_eq!(alike.spread(vec![spec("host")])[1].to_string(), "host:kernel=6.1.0-50");
        let one = Kernels(vec![kernel("6.12.9")]);
        assert_eq!(one.spread(vec![spec("host")]), [spec("host")]);
    }

    #[test]
    fn a_kernel_that_is_not_there_is_told_with_those_that_are() {
        let two = Kernels(vec![kernel("6.1.0"), kernel("6.12.9")]);
        let said = two.of(&spec("host:kernel=5.10")).unwrap_err().to_string();
        assert!(said.contains("no kernel 5.10") && said.contains("6.1.0, 6.12.9"), "{said}");
    }

    #[test]
    fn kernels_and_modules_come_in_pairs() {
        let options = |kernel: &[&str], modules: &[&str]| VmOptions {
            kernel: kernel.iter().map(Into::into).collect(),
            modules: modules.iter().map(Into::into).collect(),
            ..VmOptions::default()
        };
        let said = Kernels::chosen(&options(&["/a", "/b"], &["/m"])).unwrap_err().to_string();
        assert!(said.contains("--modules is given 1 times and --kernel 2"), "{said}");
    }
}

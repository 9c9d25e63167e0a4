//! What a cni uses of the machine beside the kernel and this binary: programs, files, kernel modules.
//!
//! Owns the list and nothing of how it gets anywhere. A provider whose nodes have none of it (a guest)
//! asks [`super::Cni::needs`] and carries it there.

use std::path::{Path, PathBuf};

/// What has to be there, at the same paths as on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Programs with all that they are linked with: paths, or names that are looked up on PATH.
    pub programs: Vec<PathBuf>,
    /// Files, and folders with all that is in them.
    pub files: Vec<PathBuf>,
    /// Kernel modules beside the profile's own.
    pub modules: Vec<String>,
}

impl Needs {
    /// Only files.
    pub fn files(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { files: files.into_iter().collect(), ..Self::default() }
    }

    /// This and that.
    pub fn add(&mut self, other: Self) {
        let Self { programs, files, modules } = other;
        self.programs.extend(programs);
        self.files.extend(files);
        self.modules.extend(modules);
    }

    /// What programs of these names open and ask of the kernel that no list in them tells, with it.
    #[must_use]
    pub fn with_what_is_known(mut self) -> Self {
        let tables = self.programs.iter().filter_map(|p| p.file_name()?.to_str());
        if tables.into_iter().any(|name| IPTABLES.contains(&name)) {
            self.files.extend(extensions());
            self.modules.extend(IPTABLES_MODULES.iter().map(|&name| name.to_owned()));
        }
        self
    }
}

/// Names of iptables, all of them the same binary.
const IPTABLES: &[&str] = &[
    "iptables",
    "ip6tables",
    "iptables-save",
    "ip6tables-save",
    "iptables-restore",
    "ip6tables-restore",
    "iptables-nft",
    "ip6tables-nft",
];

/// What CNIs say in rules of iptables (iptables-nft): the table, matches, and targets.
const IPTABLES_MODULES: &[&str] = &[
    "nf_tables",
    "nft_compat",
    "nft_chain_nat",
    "nft_ct",
    "nft_masq",
    "nft_nat",
    "xt_addrtype",
    "xt_comment",
    "xt_conntrack",
    "xt_mark",
    "xt_MASQUERADE",
    "xt_multiport",
    "xt_nat",
    "xt_tcpudp",
];

/// Where iptables finds its extensions (XTABLES_LIBDIR, set when it is built).
fn extensions() -> Option<PathBuf> {
    let below = ["/usr/lib", "/usr/lib64"].map(Path::new);
    let direct = below.iter().map(|dir| dir.join("xtables"));
    let by_architecture = below.iter().flat_map(|dir| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().join("xtables")).collect::<Vec<_>>()
    });
    direct.chain(by_architecture).find(|dir| dir.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_runs_iptables_needs_its_modules() {
        let plain = Needs { programs: vec!["/usr/sbin/ip".into()], ..Needs::default() };
        assert_eq!(plain.clone().with_what_is_known(), plain);
        let tables = Needs { programs: vec!["/sbin/iptables".into()], ..Needs::default() };
        let tables = tables.with_what_is_known();
        assert!(tables.modules.contains(&"xt_MASQUERADE".to_owned()), "{tables:?}");
    }
}

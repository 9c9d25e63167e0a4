//! A kernel that a guest can boot: its image, its modules, and in which order those are loaded.
//!
//! Owns the finding of kernels and the reading of `modules.dep` and `modules.builtin`. Boots nothing.

use anyhow::{Context as _, anyhow, bail};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A kernel image and its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The image (`vmlinuz`).
    pub image: PathBuf,
    /// The folder with `modules.dep`; none: everything is built in.
    pub modules: Option<PathBuf>,
    /// What people call it: its version where that can be told, else the file's name.
    pub name: String,
}

/// A module that must be loaded: the file, and whether its absence is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Where it is on this machine.
    pub file: PathBuf,
    /// The name of the file without its folder.
    pub name: String,
}

impl Kernel {
    /// The kernel of an image; the modules are in `modules`, or in the folder `modules` beside it, or in
    /// /lib/modules under its version.
    ///
    /// # Errors
    /// The image or the named folder is not there, or the folder has no `modules.dep`.
    pub fn open(image: &Path, modules: Option<&Path>) -> anyhow::Result<Self> {
        fs::File::open(image)
            .with_context(|| format!("cannot read the kernel {}", image.display()))?;
        let file = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let version = file.strip_prefix("vmlinuz-").map(str::to_owned);
        let beside = image.parent().map(|folder| folder.join("modules"));
        let installed = version.as_ref().map(|v| Path::new("/lib/modules").join(v));
        let found = match modules {
            Some(named) => Some(named.to_owned()),
            None => [beside, installed].into_iter().flatten().find(|f| f.is_dir()),
        };
        if let Some(folder) = &found
            && !folder.join("modules.dep").is_file()
        {
            bail!(
                "{}: no modules.dep in it: name the folder of one kernel's modules, and run depmod on it if it has none",
                folder.display()
            );
        }
        let parent = || Some(image.parent()?.file_name()?.to_string_lossy().into_owned());
        let in_cache =
            file == "vmlinuz" && image.parent().is_some_and(|p| p.join("modules").exists());
        let name = version.or_else(|| parent().filter(|_| in_cache)).unwrap_or(file);
        Ok(Self { image: image.to_owned(), modules: found, name })
    }

    /// Every kernel in a folder of kernels, each a folder with `vmlinuz` and `modules`, newest version
    /// last.
    pub fn all_in(folder: &Path) -> Vec<Self> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let open = |entry: fs::DirEntry| Self::open(&entry.path().join("vmlinuz"), None).ok();
        let mut all: Vec<Self> = entries.filter_map(open).collect();
        all.sort_by_key(|kernel| version_key(&kernel.name));
        all
    }

    /// The modules of these names with everything they need, in the order in which they are loaded;
    /// those that are built in are left out. The second list names those that this kernel does not have.
    ///
    /// # Errors
    /// `modules.dep` cannot be read.
    pub fn resolve(&self, wanted: &[&str]) -> anyhow::Result<(Vec<Module>, Vec<String>)> {
        let Some(folder) = &self.modules else { return Ok((Vec::new(), Vec::new())) };
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let table =
            Table::parse(&read("modules.dep")?, &read("modules.builtin").unwrap_or_default());
        let mut order = Order { table: &table, files: Vec::new(), seen: BTreeSet::new() };
        let mut absent = Vec::new();
        for name in wanted {
            match table.file_of(name) {
                Found::Module(file) => order.take(file)?,
                Found::BuiltIn => {}
                Found::Nowhere => absent.push((*name).to_owned()),
            }
        }
        let module = |file: &str| Module {
            file: folder.join(file),
            name: file.rsplit('/').next().unwrap_or(file).to_owned(),
        };
        Ok((order.files.iter().map(|file| module(file)).collect(), absent))
    }
}

/// Where [`scripts/fetch-kernel`] puts kernels: `CNIBENCH_KERNELS`, else the user's cache.
pub fn kernels_folder() -> Option<PathBuf> {
    let set =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("CNIBENCH_KERNELS").or_else(|| {
        let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
        Some(cache.join("cnibench/kernels"))
    })
}

/// Numbers compare as numbers: 6.12 is after 6.9.
fn version_key(name: &str) -> Vec<(u64, String)> {
    name.split(['.', '-', '+']).map(|part| (part.parse().unwrap_or(0), part.to_owned())).collect()
}

/// What `modules.dep` says: for each file those that it needs.
struct Table {
    needs: BTreeMap<String, Vec<String>>,
    by_name: BTreeMap<String, String>,
    built_in: BTreeSet<String>,
}

enum Found<'a> {
    Module(&'a str),
    BuiltIn,
    Nowhere,
}

impl Table {
    fn parse(dep: &str, builtin: &str) -> Self {
        let needs: BTreeMap<String, Vec<String>> = dep
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(file, needs)| {
                (file.to_owned(), needs.split_whitespace().map(str::to_owned).collect())
            })
            .collect();
        let by_name = needs.keys().map(|file| (module_name(file), file.clone())).collect();
        Self { needs, by_name, built_in: builtin.lines().map(module_name).collect() }
    }

    fn file_of(&self, name: &str) -> Found<'_> {
        let name = name.replace('-', "_");
        match self.by_name.get(&name) {
            Some(file) => Found::Module(file),
            None if self.built_in.contains(&name) => Found::BuiltIn,
            None => Found::Nowhere,
        }
    }
}

/// "kernel/drivers/net/veth.ko.xz" is veth; the kernel takes '-' for '_'.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split_once(".ko").map_or(name, |(stem, _)| stem).replace('-', "_")
}

/// Depth first: what is needed comes before what needs it.
struct Order<'a> {
    table: &'a Table,
    files: Vec<&'a str>,
    seen: BTreeSet<&'a str>,
}

impl<'a> Order<'a> {
    fn take(&mut self, file: &'a str) -> anyhow::Result<()> {
        // Also what ends a circle, which depmod never writes.
        if !self.seen.insert(file) {
            return Ok(());
        }
        let (file, needs) = self
            .table
            .needs
            .get_key_value(file)
            .ok_or_else(|| anyhow!("modules.dep names {file} and has no line for it"))?;
        for need in needs {
            self.take(need)?;
        }
        self.files.push(file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/drivers/net/vxlan/vxlan.ko.xz: kernel/net/ipv6/ip6_udp_tunnel.ko.xz kernel/net/ipv4/udp_tunnel.ko.xz
kernel/net/ipv6/ip6_udp_tunnel.ko.xz: kernel/net/ipv4/udp_tunnel.ko.xz
kernel/net/ipv4/udp_tunnel.ko.xz:
kernel/net/netfilter/nft_masq.ko: kernel/net/netfilter/nf-nat.ko
kernel/net/netfilter/nf-nat.ko:
";

    fn kernel() -> (tempfile::TempDir, Kernel) {
        let dir = tempfile::tempdir().unwrap();
        let modules = dir.path().join("modules");
        fs::create_dir(&modules).unwrap();
        fs::write(modules.join("modules.dep"), DEP).unwrap();
        fs::write(modules.join("modules.builtin"), "kernel/net/core/pkt-gen.ko\n").unwrap();
        let image = dir.path().join("vmlinuz");
        fs::write(&image, "").unwrap();
        let kernel = Kernel::open(&image, None).unwrap();
        (dir, kernel)
    }

    #[test]
    fn what_a_module_needs_comes_before_it_and_once() {
        let (_dir, kernel) = kernel();
        let wanted = ["vxlan", "nft_masq", "udp_tunnel", "pkt_gen", "wireguard", "nf_nat"];
        let (modules, absent) = kernel.resolve(&wanted).unwrap();
        let names: Vec<&str> = modules.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(
            names,
            ["udp_tunnel.ko.xz", "ip6_udp_tunnel.ko.xz", "vxlan.ko.xz", "nf-nat.ko", "nft_masq.ko"]
        );
        assert_eq!(absent, ["wireguard"]);
    }

    #[test]
    fn a_kernel_is_called_by_its_version() {
        let (dir, kernel) = kernel();
        assert_eq!(kernel.name, dir.path().file_name().unwrap().to_str().unwrap());
        let image = dir.path().join("vmlinuz-6.12.1-cloud");
        fs::write(&image, "").unwrap();
        assert_eq!(Kernel::open(&image, None).unwrap().name, "6.12.1-cloud");
        let mut names = ["6.12.9", "6.9.1", "6.12.10+deb12"];
        names.sort_by_key(|name| version_key(name));
        assert_eq!(names, ["6.9.1", "6.12.9", "6.12.10+deb12"]);
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let (dir, _kernel) = kernel();
        let missing = Kernel::open(&dir.path().join("bzImage"), None).unwrap_err();
        assert!(format!("{missing:#}").contains("cannot read the kernel"), "{missing:#}");
        let empty = Kernel::open(&dir.path().join("vmlinuz"), Some(dir.path())).unwrap_err();
        assert!(format!("{empty:#}").contains("no modules.dep"), "{empty:#}");
    }
}

//! What a guest boots with: this binary as its first process, the modules, and what the cni carries.
//!
//! Owns what goes into the archive and where; the archive's bytes are `cpio`'s, and what the guest does
//! with them is `guest`'s. It is kept in memory, so that a run that is killed leaves no file.

use super::{cpio::Archive, kernel::Module, luggage::Luggage};
use crate::cluster::static_binary::StaticBinary;
use anyhow::Context as _;
use rustix::fs::{MemfdFlags, memfd_create};
use std::{
    fs::File,
    io::{BufWriter, Write as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

/// Where the guest finds the list of modules, one file name a line, in the order to load them.
pub const MODULE_LIST: &str = "modules/list";
/// The folder with the modules.
pub const MODULES: &str = "modules";
/// The file that names the folder in which the controller runs, as here.
pub const FOLDER: &str = "modules/folder";
/// Folders that every guest has, each behind the one that it is in.
const FOLDERS: &[&str] = &[
    "dev",
    "proc",
    "sys",
    "run",
    "tmp",
    "etc",
    "opt",
    "usr",
    "usr/local",
    "var",
    "var/lib",
    "var/lib/cni",
    MODULES,
];

/// Where programs expect /run, too.
const VAR_RUN: &str = "var/run";

/// An initramfs in memory.
#[derive(Debug)]
pub struct Initramfs(File);

impl Initramfs {
    /// Puts one together of a static cnibench, these modules, and what is carried.
    ///
    /// # Errors
    /// The binary is not static, or a file cannot be read.
    pub fn build(program: &Path, modules: &[Module], luggage: &Luggage) -> anyhow::Result<Self> {
        let memory = File::from(memfd_create("cnibench-initramfs", MemfdFlags::CLOEXEC)?);
        let mut archive = Archive::new(BufWriter::new(memory));
        let mut binary = StaticBinary::open(program)
            .with_context(|| format!("{} cannot be a guest's first process", program.display()))?;
        let size = binary.size();
        archive.file("init", 0o755, size, binary.bytes()?)?;
        for folder in FOLDERS {
            archive.folder(folder)?;
        }
        archive.link(VAR_RUN, "/run")?;
        let mut list = String::new();
        for module in modules {
            let what = || format!("the module {}", module.file.display());
            let file = File::open(&module.file).with_context(what)?;
            let size = file.metadata().with_context(what)?.len();
            archive.file(&format!("{MODULES}/{}", module.name), 0o644, size, file)?;
            list.push_str(&module.name);
            list.push('\n');
        }
        archive.file(MODULE_LIST, 0o644, list.len() as u64, list.as_bytes())?;
        let folder = luggage.folder().as_os_str().as_encoded_bytes();
        archive.file(FOLDER, 0o644, folder.len() as u64, folder)?;
        luggage.pack(&mut archive, &[FOLDERS, &[VAR_RUN]].concat())?;
        let mut buffered = archive.finish()?;
        buffered.flush()?;
        let memory = buffered.into_inner().map_err(|e| e.into_error())?;
        Ok(Self(memory))
    }

    /// Where another process of this user can read it, as long as this value lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::Needs;
    use std::fs;

    #[test]
    fn it_holds_the_binary_and_the_modules_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let module = |name: &str| {
            let file = dir.path().join(name);
            fs::write(&file, format!("module {name}")).unwrap();
            Module { file, name: name.to_owned() }
        };
        let modules = [module("b.ko"), module("a.ko.xz")];
        // This test is linked like the product.
        let text = dir.path().join("text");
        fs::write(&text, "carried along").unwrap();
        let luggage = Luggage::gather(&Needs::files([text]), dir.path()).unwrap();
        let build = || {
            let program = Path::new("/proc/self/exe");
            Initramfs::build(program, &modules, &luggage).unwrap()
        };
        let built = build();
        let bytes = fs::read(built.path()).unwrap();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[116..120], b"\x7fELF");
        let has = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
        assert!(has("modules/list\0") && has("b.ko\na.ko.xz\n") && has("module a.ko.xz"));
        assert!(has("carried along"));
        let again = build();
        assert!(fs::read(again.path()).unwrap() == bytes);
    }
}

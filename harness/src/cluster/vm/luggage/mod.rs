//! What a guest carries beside cnibench and modules: programs with all that they are linked with, files
//! and folders, every one at the path that it has on this machine.
//!
//! Owns the finding; `initramfs` packs it, `program` reads what a program needs. Symbolic links on the
//! way are carried as links, so that a path means in the guest what it means here.

mod program;

use super::cpio::Archive;
use crate::cni::Needs;
use anyhow::{Context as _, bail, ensure};
use program::Kind;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::Write,
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
};

/// Where programs are looked up in a guest.
pub const GUEST_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where a program is linked to that is on this machine's PATH and not on the guest's.
const OWN_BIN: &str = "/usr/local/bin";
/// The dynamic linker's table of libraries.
const LD_CACHE: &str = "/etc/ld.so.cache";
/// What a guest has of its own: file systems are mounted there, or it boots from it.
const TAKEN: &[&str] = &["/dev", "/proc", "/run", "/sys", "/init", "/modules"];
/// As many links as the kernel follows (MAXSYMLINKS, include/linux/namei.h).
const MOST_LINKS: u32 = 40;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Folder,
    Link(PathBuf),
    File { mode: u32, size: u64 },
}

/// What is carried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Luggage {
    /// By absolute path.
    items: BTreeMap<PathBuf, Item>,
    /// Where paths without a beginning are meant from.
    folder: PathBuf,
}

impl Luggage {
    /// Gathers what is needed. `folder` is the one that paths without a beginning are meant from. Starts
    /// dynamic linkers, which only list.
    ///
    /// # Errors
    /// What is not there, or what cannot be carried, and why.
    pub fn gather(needs: &Needs, folder: &Path) -> anyhow::Result<Self> {
        let mut this = Self::default();
        // One that the guest cannot have is in nobody's way as long as nothing is to be found in it.
        this.folder = match this.walk(folder) {
            Ok(_) => folder.to_owned(),
            Err(_) => PathBuf::from("/"),
        };
        for file in &needs.files {
            this.add(&folder.join(file)).with_context(|| not_carried(file))?;
        }
        for program in &needs.programs {
            this.add_program(program, folder).with_context(|| not_carried(program))?;
        }
        Ok(this)
    }

    /// The folder in which the guest's controller runs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes it behind what an archive has already; those `present` are there.
    ///
    /// # Errors
    /// Those of reading and writing, or a file that has changed meanwhile.
    pub fn pack(&self, archive: &mut Archive<impl Write>, present: &[&str]) -> anyhow::Result<()> {
        for (path, item) in &self.items {
            let name = path.to_str().with_context(|| format!("{}: not UTF-8", path.display()))?;
            let name = name.trim_start_matches('/');
            if present.contains(&name) {
                continue;
            }
            match item {
                Item::Folder => archive.folder(name)?,
                Item::Link(target) => {
                    let target = target.to_str();
                    archive.link(name, target.with_context(|| format!("{name}: not UTF-8"))?)?;
                }
                Item::File { mode, size } => {
                    let what = || format!("cannot read {}", path.display());
                    let file = File::open(path).with_context(what)?;
                    archive.file(name, *mode, *size, file)?;
                }
            }
        }
        Ok(())
    }

    /// A file with all that is needed to run it, or a folder with all that is in it.
    fn add(&mut self, path: &Path) -> anyhow::Result<()> {
        let real = self.walk(path)?;
        let what = || format!("cannot read {}", real.display());
        let metadata = fs::symlink_metadata(&real).with_context(what)?;
        if metadata.is_dir() {
            let mut inside =
                fs::read_dir(&real).with_context(what)?.collect::<Result<Vec<_>, _>>()?;
            inside.sort_by_key(fs::DirEntry::path);
            return inside.iter().try_for_each(|entry| self.add(&entry.path()));
        }
        ensure!(metadata.is_file(), "{} is neither a file nor a folder", real.display());
        let item =
            Item::File { mode: metadata.permissions().mode() & 0o7777, size: metadata.len() };
        if self.items.insert(real.clone(), item).is_some() {
            return Ok(());
        }
        match program::kind(&real).with_context(what)? {
            Kind::Plain => Ok(()),
            Kind::Script { interpreter, program } => {
                self.add(&interpreter).with_context(|| needed_by(&interpreter, &real))?;
                program.iter().try_for_each(|name| {
                    self.add_program(Path::new(name), Path::new("/"))
                        .with_context(|| needed_by(Path::new(name), &real))
                })
            }
            Kind::Linked { interpreter } => {
                if Path::new(LD_CACHE).exists() {
                    self.add(Path::new(LD_CACHE))?;
                }
                self.add(&interpreter).with_context(|| needed_by(&interpreter, &real))?;
                for library in program::libraries(&interpreter, &real)? {
                    self.add(&library).with_context(|| needed_by(&library, &real))?;
                }
                Ok(())
            }
        }
    }

    /// A program that is named by its path, or by a name that is on PATH.
    fn add_program(&mut self, name: &Path, folder: &Path) -> anyhow::Result<()> {
        if name.components().count() != 1 || name.is_absolute() {
            return self.add(&folder.join(name));
        }
        let here = std::env::var_os("PATH").unwrap_or_default();
        let runs = |path: &PathBuf| {
            path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        };
        let found = std::env::split_paths(&here)
            .chain(std::env::split_paths(GUEST_PATH))
            .map(|dir| dir.join(name))
            .find(runs)
            .with_context(|| format!("no {} on PATH: install it", name.display()))?;
        self.add(&found)?;
        let there = found.parent();
        if !std::env::split_paths(GUEST_PATH).any(|dir| there == Some(&dir)) {
            self.folders(Path::new(OWN_BIN));
            self.items.insert(Path::new(OWN_BIN).join(name), Item::Link(found));
        }
        Ok(())
    }

    /// These folders, which need not be here.
    fn folders(&mut self, path: &Path) {
        let mut all: Vec<&Path> = path.ancestors().filter(|p| p.parent().is_some()).collect();
        all.reverse();
        for folder in all {
            self.items.entry(folder.to_owned()).or_insert(Item::Folder);
        }
    }

    /// Goes to a path as the kernel does, with every folder and link on the way. Gives where it is.
    fn walk(&mut self, path: &Path) -> anyhow::Result<PathBuf> {
        ensure!(path.is_absolute(), "{} is no absolute path", path.display());
        let mut at = PathBuf::from("/");
        let mut ahead = parts(path);
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            if part == ".." {
                at.pop();
                continue;
            }
            at.push(&part);
            if TAKEN.iter().any(|taken| at == Path::new(taken)) && !ahead.is_empty() {
                bail!("{}: {} is the guest's own", path.display(), at.display());
            }
            let metadata = fs::symlink_metadata(&at).with_context(|| at.display().to_string())?;
            if metadata.is_dir() {
                self.items.entry(at.clone()).or_insert(Item::Folder);
            } else if metadata.is_symlink() {
                links += 1;
                ensure!(links <= MOST_LINKS, "{}: too many links", path.display());
                let target = fs::read_link(&at).with_context(|| at.display().to_string())?;
                self.items.insert(at.clone(), Item::Link(target.clone()));
                at.pop();
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                ahead.extend(parts(&target));
            } else {
                ensure!(ahead.is_empty(), "{} is no folder", at.display());
            }
        }
        Ok(at)
    }
}

/// The parts of a path, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn not_carried(path: &Path) -> String {
    format!("{} cannot be carried into a guest", path.display())
}

fn needed_by(what: &Path, by: &Path) -> String {
    format!("{}, which {} needs", what.display(), by.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn of(files: &[&Path]) -> anyhow::Result<Luggage> {
        let needs = Needs::files(files.iter().map(|f| (*f).to_owned()));
        Luggage::gather(&needs, Path::new("/"))
    }

    #[test]
    fn links_on_the_way_are_carried_as_links() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap();
        fs::create_dir_all(at.join("real/sub")).unwrap();
        fs::write(at.join("real/sub/file"), "12345").unwrap();
        symlink("real", at.join("link")).unwrap();
        symlink("../sub/file", at.join("real/sub/again")).unwrap();
        let found = of(&[&at.join("link/sub")]).unwrap();
        assert_eq!(found.items[&at.join("link")], Item::Link("real".into()));
        assert_eq!(found.items[&at.join("real/sub/again")], Item::Link("../sub/file".into()));
        assert!(matches!(found.items[&at.join("real/sub/file")], Item::File { size: 5, .. }));
        let mut archive = Archive::new(Vec::new());
        found.pack(&mut archive, &[]).unwrap();
        let bytes = archive.finish().unwrap();
        let has = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
        assert!(has("real/sub/file\0") && has("12345") && has("link\0"));
    }

    #[test]
    fn a_script_takes_its_interpreter_and_that_its_libraries() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        fs::write(&script, "#!/usr/bin/env sh\necho\n").unwrap();
        let found = of(&[&script]).unwrap();
        let shell = Path::new("/bin/sh").canonicalize().unwrap();
        let env = Path::new("/usr/bin/env").canonicalize().unwrap();
        for program in [shell, env] {
            assert!(found.items.contains_key(&program), "{} is missing", program.display());
            if let Kind::Linked { interpreter } = program::kind(&program).unwrap() {
                assert!(found.items.contains_key(&interpreter.canonicalize().unwrap()));
                let libraries = program::libraries(&interpreter, &program).unwrap();
                assert!(!libraries.is_empty());
                for library in libraries {
                    assert!(found.items.contains_key(&library.canonicalize().unwrap()));
                }
            }
        }
    }

    #[test]
    fn a_program_from_elsewhere_is_on_the_guests_path() {
        // Cargo runs tests with a PATH of its own; what is no name is found by its folder.
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tool"), "text").unwrap();
        let needs = Needs { programs: vec!["./tool".into()], ..Needs::default() };
        let found = Luggage::gather(&needs, dir.path()).unwrap();
        assert!(found.items.keys().any(|path| path.ends_with("tool")));
        let needs = Needs { programs: vec!["no-such-tool".into()], ..Needs::default() };
        let said = format!("{:#}", Luggage::gather(&needs, dir.path()).unwrap_err());
        assert!(said.contains("no no-such-tool on PATH"), "{said}");
    }

    #[test]
    fn what_is_the_guests_own_is_refused() {
        let said = format!("{:#}", of(&[Path::new("/proc/version")]).unwrap_err());
        assert!(said.contains("/proc is the guest's own"), "{said}");
        let said = format!("{:#}", of(&[Path::new("/no/such")]).unwrap_err());
        assert!(said.contains("cannot be carried") && said.contains("/no"), "{said}");
        let said = format!("{:#}", of(&[Path::new("/dev/null")]).unwrap_err());
        assert!(said.contains("/dev is the guest's own"), "{said}");
    }
}

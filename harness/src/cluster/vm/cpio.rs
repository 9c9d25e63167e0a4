//! A cpio archive in the format of the kernel's initramfs ("newc").
//!
//! Owns the bytes of the archive and nothing of what goes into it (`initramfs`). Reproducible: the same
//! entries give the same bytes. Format: Documentation/driver-api/early-userspace/buffer-format.rst.

use anyhow::{Context as _, ensure};
use std::io::{self, Read, Write};

const REGULAR: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

/// An archive that is being written.
pub struct Archive<W> {
    out: W,
    inode: u32,
    written: u64,
}

impl<W: Write> Archive<W> {
    /// An empty one.
    pub fn new(out: W) -> Self {
        Self { out, inode: 0, written: 0 }
    }

    /// A folder; its parent comes before it.
    ///
    /// # Errors
    /// Those of writing.
    pub fn folder(&mut self, name: &str) -> anyhow::Result<()> {
        self.header(name, FOLDER | 0o755, 0)?;
        self.pad()
    }

    /// A file of `size` bytes; its folder comes before it. `mode`: its permissions.
    ///
    /// # Errors
    /// Those of reading and writing; a file that has fewer bytes than it had, or 4 GiB.
    pub fn file(
        &mut self,
        name: &str,
        mode: u32,
        size: u64,
        content: impl Read,
    ) -> anyhow::Result<()> {
        let length = u32::try_from(size).ok().with_context(|| format!("{name}: 4 GiB or more"))?;
        self.header(name, REGULAR | mode, length)?;
        let copied = io::copy(&mut content.take(size), &mut self.out)?;
        ensure!(copied == size, "{name}: {copied} bytes where {size} were said");
        self.written += copied;
        self.pad()
    }

    /// A symbolic link; its folder comes before it.
    ///
    /// # Errors
    /// Those of writing.
    pub fn link(&mut self, name: &str, target: &str) -> anyhow::Result<()> {
        self.header(name, LINK | 0o777, u32::try_from(target.len())?)?;
        self.out.write_all(target.as_bytes())?;
        self.written += target.len() as u64;
        self.pad()
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// Those of writing.
    pub fn finish(mut self) -> anyhow::Result<W> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, 0, 0)?;
        self.pad()?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn header(&mut self, name: &str, mode: u32, size: u32) -> anyhow::Result<()> {
        ensure!(
            !name.is_empty() && !name.starts_with('/') && !name.contains('\0'),
            "{name:?} is no path in an initramfs"
        );
        self.inode += 1;
        self.entry(name, self.inode, mode, size)
    }

    fn entry(&mut self, name: &str, inode: u32, mode: u32, size: u32) -> anyhow::Result<()> {
        let name_size = u32::try_from(name.len() + 1)?;
        // Magic, inode, mode, uid, gid, links, time, size, the device's and the node's numbers, the size
        // of the name, no checksum.
        let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut header = String::from("070701");
        fields.iter().for_each(|field| header.push_str(&format!("{field:08x}")));
        header.push_str(name);
        header.push('\0');
        self.out.write_all(header.as_bytes())?;
        self.written += header.len() as u64;
        self.pad()
    }

    /// Everything begins at a multiple of four bytes.
    fn pad(&mut self) -> anyhow::Result<()> {
        let missing = self.written.next_multiple_of(4) - self.written;
        self.out.write_all(&[0; 3][..missing as usize])?;
        self.written += missing;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let mut archive = Archive::new(Vec::new());
        archive.folder("d").unwrap();
        archive.file("d/f", 0o755, 5, &b"12345"[..]).unwrap();
        archive.link("l", "d/f").unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let entry = |inode: u32, mode: &str, size: u32, name: u32| {
            format!(
                "070701{inode:08x}{mode}{:08x}{:08x}{:08x}{:08x}{size:08x}{:032x}{name:08x}{:08x}",
                0, 0, 1, 0, 0, 0
            )
        };
        let folder = entry(1, "000041ed", 0, 2) + "d\0";
        let file = entry(2, "000081ed", 5, 4) + "d/f\0" + "\0\0" + "12345\0\0\0";
        let link = entry(3, "0000a1ff", 3, 2) + "l\0" + "d/f\0";
        let end = entry(0, "00000000", 0, 11) + "TRAILER!!!\0" + "\0\0\0";
        assert_eq!(text, folder + file.as_str() + &link + &end);
        assert_eq!(text.len() % 4, 0);
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        let mut archive = Archive::new(Vec::new());
        assert!(archive.folder("/d").is_err());
        assert!(archive.folder("").is_err());
        let short = archive.file("f", 0o644, 6, &b"12345"[..]).unwrap_err();
        assert!(format!("{short}").contains("5 bytes where 6"), "{short}");
        assert!(archive.file("g", 0o644, 1 << 32, io::empty()).is_err());
    }
}

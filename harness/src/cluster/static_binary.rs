//! What of a static binary has to travel: into an image, or into a pod through exec.
//!
//! Reads ELF files as far as that takes. What is done with the bytes is the callers' business
//! (`kind::image`, `kube::delivery`).

use anyhow::{bail, ensure};
use std::{
    fs::File,
    io::{self, Read, Seek as _, SeekFrom},
    path::Path,
};

/// A static ELF binary (gABI 4.1, 64 bits, little endian) without what is never mapped: sections for
/// debuggers and linkers are most of a development binary.
pub struct StaticBinary {
    file: File,
    /// Its header, with the section table taken out.
    header: [u8; 64],
    /// Bytes up to the end of the last segment.
    mapped: u64,
    architecture: &'static str,
}

impl StaticBinary {
    /// Opens one.
    ///
    /// # Errors
    /// It cannot be read, is not such a binary, or is linked dynamically: then how to build a static
    /// one.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        const PT_INTERP: u32 = 3;
        let mut file = File::open(path)?;
        let mut header = [0; 64];
        file.read_exact(&mut header)?;
        ensure!(header[..6] == *b"\x7fELF\x02\x01", "not a 64-bit little-endian ELF file");
        let architecture = match u16_at(&header, 18) {
            62 => "amd64",
            183 => "arm64",
            machine => bail!("ELF machine {machine}: expected x86-64 (62) or AArch64 (183)"),
        };
        let (table, size) = (u64_at(&header, 32), u16_at(&header, 54));
        ensure!(size == 56, "its program headers have {size} bytes, not 56");
        let mut mapped = 64;
        file.seek(SeekFrom::Start(table))?;
        for _ in 0..u16_at(&header, 56) {
            let mut segment = [0; 56];
            file.read_exact(&mut segment)?;
            ensure!(
                u32::from_le_bytes([segment[0], segment[1], segment[2], segment[3]]) != PT_INTERP,
                "it is linked dynamically, and the image has no libraries: build a static one, RUSTFLAGS=\"-C target-feature=+crt-static\" cargo build --release --target {}-unknown-linux-gnu",
                std::env::consts::ARCH
            );
            let end = u64_at(&segment, 8).saturating_add(u64_at(&segment, 32));
            mapped = mapped.max(end);
        }
        let length = file.metadata()?.len();
        ensure!(mapped <= length, "it is cut off: {length} bytes, its segments need {mapped}");
        // e_shoff, e_shnum and e_shstrndx: there is no section table any more.
        header[40..48].fill(0);
        header[60..64].fill(0);
        Ok(Self { file, header, mapped, architecture })
    }

    /// How many bytes travel.
    pub fn size(&self) -> u64 {
        self.mapped
    }

    /// As in OCI images and in `kubernetes.io/arch`: amd64 or arm64.
    pub fn architecture(&self) -> &'static str {
        self.architecture
    }

    /// The bytes, [`size`](Self::size) of them, from the beginning.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn bytes(&mut self) -> io::Result<impl Read + '_> {
        let begin = self.header.len() as u64;
        self.file.seek(SeekFrom::Start(begin))?;
        Ok(self.header.as_slice().chain((&mut self.file).take(self.mapped - begin)))
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// This test itself, which is linked like the product.
    const SELF: &str = "/proc/self/exe";

    #[test]
    fn what_travels_is_as_long_as_said_and_the_same_every_time() {
        let mut binary = StaticBinary::open(Path::new(SELF)).unwrap();
        let mut read = || {
            let mut bytes = Vec::new();
            binary.bytes().unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        };
        let (first, second) = (read(), read());
        assert!(first == second);
        assert_eq!(first.len() as u64, binary.size());
        let whole = fs::read(SELF).unwrap();
        assert!(first.len() <= whole.len());
        assert!(first[64..] == whole[64..first.len()]);
    }

    #[test]
    fn what_is_no_binary_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let error = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            format!("{:#}", StaticBinary::open(&file).err().unwrap())
        };
        assert!(error(&[b'#'; 100]).contains("not a 64-bit"));
        assert!(error(b"\x7fELF").contains("failed to fill whole buffer"));
        let whole = fs::read(SELF).unwrap();
        assert!(error(&whole[..64 << 10]).contains("it is cut off"));
    }
}

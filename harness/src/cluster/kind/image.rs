//! The workload image: one layer with the running binary, as an archive that `kind load` takes.
//!
//! Owns its layout (OCI image layout 1.1 with a docker manifest beside it, so that `docker load` takes
//! it, too). The same binary gives the same bytes. No registry, no Docker, no build.

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io::{self, Read, Seek as _, SeekFrom, Write},
    path::Path,
};

/// The image's name without its tag.
pub const REPOSITORY: &str = "cnibench.local/agent";
/// The binary's path in it.
pub const BINARY: &str = "/cnibench";
/// Hexadecimal digits of the layer's digest in the tag.
const TAG: usize = 12;

/// Writes the image of a static binary to `to` and gives its name with the tag.
///
/// # Errors
/// When the binary is linked dynamically (the image has no libraries), or reading or writing fails.
pub fn write(binary: &Path, to: &Path) -> anyhow::Result<String> {
    let image = || format!("the workload image of {}", binary.display());
    let mut file = File::open(binary).with_context(image)?;
    let elf = Elf::read(&mut file).with_context(image)?;
    let mut hash = Hash::default();
    io::copy(&mut layer(&elf, &mut file)?, &mut hash).with_context(image)?;
    let written = || format!("cannot write {}", to.display());
    let mut out = io::BufWriter::new(File::create(to).with_context(written)?);
    let name = archive(&elf, &mut file, &hash.done(), &mut out).with_context(written)?;
    out.flush().with_context(written)?;
    Ok(name)
}

fn archive(
    elf: &Elf,
    binary: &mut File,
    layer_blob: &Blob,
    out: &mut impl Write,
) -> anyhow::Result<String> {
    const EPOCH: &str = "1970-01-01T00:00:00Z";
    let tag = &layer_blob.digest[..TAG];
    let name = format!("{REPOSITORY}:{tag}");
    let (config, config_blob) = document(&json!({
        "created": EPOCH,
        "architecture": elf.architecture,
        "os": "linux",
        "config": { "Entrypoint": [BINARY] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", layer_blob.digest)] },
        "history": [{ "created": EPOCH, "created_by": "cnibench" }],
    }))?;
    let (manifest, manifest_blob) = document(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config_blob.descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [layer_blob.descriptor("application/vnd.oci.image.layer.v1.tar")],
    }))?;
    let mut entry = manifest_blob.descriptor("application/vnd.oci.image.manifest.v1+json");
    // containerd takes the whole name from its own annotation, other tools the tag from the standard's.
    entry["annotations"] =
        json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag });
    entry["platform"] = json!({ "architecture": elf.architecture, "os": "linux" });
    let (index, _) = document(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    }))?;
    let (docker, _) = document(&json!([{
        "Config": config_blob.path(),
        "RepoTags": [name],
        "Layers": [layer_blob.path()],
    }]))?;
    let mut tar = tar::Builder::new(out);
    let mut add = |path: &str, bytes: &[u8]| {
        tar.append_data(&mut header(bytes.len() as u64, 0o644), path, bytes)
    };
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add("index.json", &index)?;
    add("manifest.json", &docker)?;
    add(&manifest_blob.path(), &manifest)?;
    add(&config_blob.path(), &config)?;
    tar.append_data(&mut header(layer_blob.size, 0o644), layer_blob.path(), layer(elf, binary)?)?;
    tar.finish()?;
    Ok(name)
}

/// The layer: a tar archive of one file, read as it is made.
fn layer<'a>(elf: &'a Elf, binary: &'a mut File) -> anyhow::Result<impl Read + 'a> {
    let mut header = header(elf.mapped, 0o755);
    header.set_path(BINARY.trim_start_matches('/'))?;
    header.set_cksum();
    let head = io::Cursor::new(*header.as_bytes());
    let rest = elf.mapped - elf.header.len() as u64;
    binary.seek(SeekFrom::Start(elf.header.len() as u64))?;
    // Whole blocks of 512 bytes, two empty ones at the end.
    let padding = elf.mapped.next_multiple_of(512) - elf.mapped + 1024;
    Ok(head
        .chain(elf.header.as_slice())
        .chain(binary.take(rest))
        .chain(io::repeat(0).take(padding)))
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    header
}

/// Content of an image by its digest.
struct Blob {
    /// SHA-256, hexadecimal.
    digest: String,
    /// Bytes.
    size: u64,
}

impl Blob {
    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn descriptor(&self, media_type: &str) -> Value {
        let digest = format!("sha256:{}", self.digest);
        json!({ "mediaType": media_type, "digest": digest, "size": self.size })
    }
}

fn document(value: &Value) -> anyhow::Result<(Vec<u8>, Blob)> {
    let bytes = serde_json::to_vec(value)?;
    let mut hash = Hash::default();
    hash.write_all(&bytes)?;
    Ok((bytes, hash.done()))
}

/// Counts and hashes what is written to it.
#[derive(Default)]
struct Hash {
    sha: Sha256,
    size: u64,
}

impl Hash {
    fn done(self) -> Blob {
        let digest = self.sha.finalize().iter().map(|b| format!("{b:02x}")).collect();
        Blob { digest, size: self.size }
    }
}

impl Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sha.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is needed of an ELF file (gABI 4.1, 64 bits, little endian): what of it is mapped.
struct Elf {
    /// Its header, with the section table taken out.
    header: [u8; 64],
    /// Bytes up to the end of the last segment. What follows, sections for debuggers and linkers, is
    /// most of a development binary and left out.
    mapped: u64,
    /// As in OCI images.
    architecture: &'static str,
}

impl Elf {
    fn read(file: &mut File) -> anyhow::Result<Self> {
        const PT_INTERP: u32 = 3;
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
        Ok(Self { header, mapped, architecture })
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
    use crate::cluster::kind::fake::install;
    use std::{collections::BTreeMap, fs, path::PathBuf};

    /// This test itself, which is linked like the product.
    const SELF: &str = "/proc/self/exe";

    fn entries(archive: &[u8]) -> BTreeMap<PathBuf, Vec<u8>> {
        tar::Archive::new(archive)
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                assert_eq!(
                    (entry.header().mtime().unwrap(), entry.header().uid().unwrap()),
                    (0, 0)
                );
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                (entry.path().unwrap().into_owned(), bytes)
            })
            .collect()
    }

    fn blob<'a>(files: &'a BTreeMap<PathBuf, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let bytes = &files[Path::new(&format!("blobs/sha256/{digest}"))];
        let sum: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(sum, digest);
        assert_eq!(descriptor["size"], json!(bytes.len()));
        bytes
    }

    #[test]
    fn the_archive_holds_what_it_says_and_is_the_same_every_time() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.tar"), dir.path().join("b.tar"));
        let name = write(Path::new(SELF), &a).unwrap();
        assert_eq!(write(Path::new(SELF), &b).unwrap(), name);
        let bytes = fs::read(&a).unwrap();
        assert!(bytes == fs::read(&b).unwrap(), "two archives of one binary differ");
        let files = entries(&bytes);
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let index = json(&files[Path::new("index.json")]);
        let entry = &index["manifests"][0];
        assert_eq!(entry["annotations"]["io.containerd.image.name"], json!(name));
        let manifest = json(blob(&files, entry));
        let config = json(blob(&files, &manifest["config"]));
        let layer = blob(&files, &manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        let docker = json(&files[Path::new("manifest.json")]);
        assert_eq!(docker[0]["RepoTags"][0], json!(name));
        let digest = manifest["layers"][0]["digest"].as_str().unwrap();
        assert_eq!(name, format!("cnibench.local/agent:{}", &digest[7..19]));
        // What came out is a program that still runs.
        let content = entries(layer);
        let program = dir.path().join("program");
        install(&content[Path::new("cnibench")], &program);
        assert!(content[Path::new("cnibench")].len() as u64 <= fs::metadata(SELF).unwrap().len());
        let listed = std::process::Command::new(&program).args(["--list", SELF]).output().unwrap();
        assert!(listed.status.success(), "{listed:?}");
    }

    #[test]
    fn a_dynamic_binary_is_refused_with_the_way_to_a_static_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = write(Path::new("/bin/sh"), &dir.path().join("x.tar")).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("/bin/sh") && text.contains("+crt-static"), "{text}");
    }

    #[test]
    fn what_is_no_binary_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let error = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            format!("{:#}", write(&file, &dir.path().join("x.tar")).unwrap_err())
        };
        assert!(error(&[b'#'; 100]).contains("not a 64-bit"));
        assert!(error(b"\x7fELF").contains("failed to fill whole buffer"));
        let whole = fs::read(SELF).unwrap();
        assert!(error(&whole[..64 << 10]).contains("it is cut off"));
    }
}

//! The workload image: one layer with the running binary, as an archive that `kind load` takes.
//!
//! Owns its layout (OCI image layout 1.1 with a docker manifest beside it, so that `docker load` takes
//! it, too). The same binary gives the same bytes. No registry, no Docker, no build.

use crate::cluster::static_binary::StaticBinary;
use anyhow::Context as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io::{self, Read, Write},
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
    let mut binary = StaticBinary::open(binary).with_context(image)?;
    let mut hash = Hash::default();
    io::copy(&mut layer(&mut binary)?, &mut hash).with_context(image)?;
    let written = || format!("cannot write {}", to.display());
    let mut out = io::BufWriter::new(File::create(to).with_context(written)?);
    let name = archive(&mut binary, &hash.done(), &mut out).with_context(written)?;
    out.flush().with_context(written)?;
    Ok(name)
}

fn archive(
    binary: &mut StaticBinary,
    layer_blob: &Blob,
    out: &mut impl Write,
) -> anyhow::Result<String> {
    const EPOCH: &str = "1970-01-01T00:00:00Z";
    let tag = &layer_blob.digest[..TAG];
    let name = format!("{REPOSITORY}:{tag}");
    let (config, config_blob) = document(&json!({
        "created": EPOCH,
        "architecture": binary.architecture(),
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
    entry["platform"] = json!({ "architecture": binary.architecture(), "os": "linux" });
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
    tar.append_data(&mut header(layer_blob.size, 0o644), layer_blob.path(), layer(binary)?)?;
    tar.finish()?;
    Ok(name)
}

/// The layer: a tar archive of one file, read as it is made.
fn layer(binary: &mut StaticBinary) -> anyhow::Result<impl Read + '_> {
    let size = binary.size();
    let mut header = header(size, 0o755);
    header.set_path(BINARY.trim_start_matches('/'))?;
    header.set_cksum();
    let head = io::Cursor::new(*header.as_bytes());
    // Whole blocks of 512 bytes, two empty ones at the end.
    let padding = size.next_multiple_of(512) - size + 1024;
    Ok(head.chain(binary.bytes()?).chain(io::repeat(0).take(padding)))
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
}

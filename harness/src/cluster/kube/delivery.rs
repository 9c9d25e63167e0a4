//! The binary travels into pods of foreign images through exec.

use crate::{cluster::static_binary::StaticBinary, exec::pod::Container};
use anyhow::Context as _;
use futures::{StreamExt, TryStreamExt, stream};
use std::{io::Read as _, path::Path, time::Duration};

/// How long one transfer may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Transfers at a time: each goes through the API server.
const AT_ONCE: usize = 4;

/// Puts this binary into each container.
///
/// # Errors
/// The container that could not take it, and why.
pub async fn carry(containers: Vec<Container>) -> anyhow::Result<()> {
    let binary = tokio::task::spawn_blocking(this_binary).await?.context("this binary")?;
    let path = super::objects::CARRIED;
    // Renamed when it is whole, so that a broken transfer is never run.
    let script = format!("cat > {path}.part && chmod 755 {path}.part && mv {path}.part {path}");
    let (binary, script) = (&binary, &script);
    let all = stream::iter(containers).map(|container| async move {
        let command = ["sh", "-c", script.as_str()];
        container.output(&command, Some(binary), PATIENCE).await.map(drop).with_context(|| {
            format!("carrying the binary into {container} (its image needs sh, cat, chmod, mv and sleep)")
        })
    });
    all.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
}

fn this_binary() -> anyhow::Result<Vec<u8>> {
    let mut binary = StaticBinary::open(Path::new("/proc/self/exe"))?;
    let mut bytes = Vec::with_capacity(binary.size() as usize);
    binary.bytes()?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

//! The keys of a node's userspace WireGuard, as others may hold them.
//!
//! What encrypts is the session with each peer. A change drops the sessions of all nodes and shakes hands
//! for new ones: gotatun holds no second session ready for that and cannot change its private key while it
//! runs (`tunnel`), so that nothing gets through in between. A kernel's WireGuard and IPsec do better.

use super::{PUBLIC_KEY, child::WireguardChild, protocol::Key, protocol::Order};
use crate::cni::{Facts, Keys, Peer};
use async_trait::async_trait;
use std::sync::Arc;
use tokio::sync::Mutex;

pub(super) struct TunnelKeys {
    pub(super) public_key: Key,
    pub(super) child: Arc<Mutex<WireguardChild>>,
}

#[async_trait]
impl Keys for TunnelKeys {
    fn describe(&self) -> &'static str {
        "the sessions of the WireGuard device; changed by dropping them and a new handshake"
    }

    async fn remove(&self) -> anyhow::Result<()> {
        self.child.lock().await.order(Order::Remove).await
    }

    async fn restore(&self) -> anyhow::Result<()> {
        self.child.lock().await.order(Order::Restore).await
    }

    async fn renew(&self) -> anyhow::Result<Facts> {
        Ok(Facts::from([(PUBLIC_KEY.to_owned(), self.public_key.to_string())]))
    }

    async fn switch(&self, _: &[Peer]) -> anyhow::Result<()> {
        self.child.lock().await.order(Order::Restore).await
    }

    async fn retire(&self) -> anyhow::Result<()> {
        self.child.lock().await.order(Order::Greet).await
    }
}

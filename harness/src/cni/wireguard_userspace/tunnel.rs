//! The tunnels of a WireGuard process once they run: watched for faults, and their peers changed by order.
//!
//! Each has a task that owns its device, so that it can be waited for and told at the same time. Owns no
//! standard input or output (`process`). The private key stays: gotatun 0.10 cannot change it on a running
//! device (Connection::set_up in its device/mod.rs makes new sockets while the old ones are still held, and
//! ends the channel of the TUN device).

use super::{
    process::{self, Tunnel},
    protocol::{Order, PeerConfig},
};
use anyhow::{Context as _, anyhow};
use gotatun::x25519::PublicKey;
use std::time::Duration;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// How long a handshake may take; one that was lost is repeated after 5 s.
const HANDSHAKE: Duration = Duration::from_secs(12);

/// What a tunnel's task is told, and whom it answers.
type Told = (Order, oneshot::Sender<anyhow::Result<usize>>);

/// All tunnels of a node.
#[derive(Default)]
pub(super) struct Tunnels(Vec<mpsc::Sender<Told>>);

impl Tunnels {
    /// Takes a tunnel that runs, with its peers. `fault` is told its name when it stops.
    pub(super) fn add(
        &mut self,
        mut tunnel: Tunnel,
        peers: Vec<PeerConfig>,
        name: String,
        fault: mpsc::Sender<String>,
    ) {
        let (task, mut told) = mpsc::channel::<Told>(1);
        self.0.push(task);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = tunnel.wait() => break,
                    Some((order, answer)) = told.recv() => {
                        // Whoever asked is gone only when the process is ending.
                        let _ = answer.send(obey(&tunnel, order, &peers).await);
                    }
                }
            }
            // The first fault is told; the process ends with it.
            let _ = fault.try_send(name);
        });
    }

    /// Does as ordered; gives how many peers there are.
    pub(super) async fn obey(&self, order: Order) -> anyhow::Result<usize> {
        let mut peers = 0;
        for task in &self.0 {
            let (answer, answered) = oneshot::channel();
            let gone = || anyhow!("the tunnel stopped");
            task.send((order, answer)).await.map_err(|_| gone())?;
            peers += answered.await.map_err(|_| gone())??;
        }
        Ok(peers)
    }
}

async fn obey(tunnel: &Tunnel, order: Order, peers: &[PeerConfig]) -> anyhow::Result<usize> {
    if order == Order::Greet {
        for peer in peers {
            let key = PublicKey::from(peer.public_key.0);
            let shaken = tunnel.force_handshake(&key);
            timeout(HANDSHAKE, shaken).await.context("a handshake")?.context("a handshake")?;
        }
        return Ok(peers.len());
    }
    for peer in tunnel.peers().await {
        tunnel.remove_peer(&peer.peer.public_key).await.context("removing a peer")?;
    }
    if order == Order::Remove {
        return Ok(0);
    }
    for peer in peers {
        let peer = process::peer(peer.clone())?;
        tunnel.add_peer(peer).await.context("adding a peer")?;
    }
    Ok(peers.len())
}

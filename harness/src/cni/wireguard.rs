//! The kernel's WireGuard between nodes: a node's devices, their peers, and its key.
//!
//! Owns what flannel-wireguard and ebpf-wireguard share; addresses, routes and programs are theirs. The
//! private key is drawn here and never told; peers learn the public one as a fact.

use super::{Facts, Keys, NodeCtx, Peer};
use crate::netlink::{
    Batch, Rtnl,
    wireguard::{self, Device, Wireguard},
};
use anyhow::{Context as _, anyhow, bail, ensure};
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use gotatun::x25519::{PublicKey, StaticSecret};
use ipnet::IpNet;
use rand::RngCore as _;
use rtnetlink::LinkWireguard;
use std::{net::IpAddr, sync::Arc};
use tokio::sync::Mutex;

/// The fact under which a node publishes its public key (Flannel's wireguard_network.go; Cilium's
/// annotation has another name).
const PUBLIC_KEY: &str = "PublicKey";

/// Outer UDP, and what the protocol puts around a packet: type, receiver, counter, tag.
const FIXED: u32 = 8 + 16 + 16;

/// Bytes that a tunnel takes of the underlay's MTU between nodes of this family. What is encrypted is
/// filled up to 16 bytes, but never beyond the device's MTU (calculate_skb_padding in
/// drivers/net/wireguard/send.c).
pub fn overhead(v4: bool) -> u32 {
    FIXED + if v4 { 20 } else { 40 }
}

/// One device.
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// Its name.
    pub device: String,
    /// UDP port that it listens on, the same on all nodes.
    pub port: u16,
    /// Mark of the packets that it sends; 0: none.
    pub mark: u32,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Seconds between keepalives; 0: only as the protocol needs them.
    pub keepalive_s: u16,
    /// Do peers listen at their IPv4 address?
    pub over_v4: bool,
    /// Which addresses of a peer are behind it.
    pub behind: fn(&Peer) -> Vec<IpNet>,
}

/// The devices of one node, which have one key.
pub struct Tunnels {
    node: Arc<NodeCtx>,
    all: Vec<Tunnel>,
    held: Mutex<Held>,
}

struct Held {
    private: StaticSecret,
    /// Drawn, and not used yet.
    next: Option<StaticSecret>,
    peers: Vec<Peer>,
    /// Public keys of `peers`.
    keys: Vec<wireguard::PublicKey>,
    removed: bool,
}

impl Tunnels {
    /// Makes the devices, with a key and without peers, down.
    ///
    /// # Errors
    /// What the kernel refused.
    pub async fn make(node: Arc<NodeCtx>, all: Vec<Tunnel>) -> anyhow::Result<Self> {
        let private = draw();
        let (secret, tunnels) = (private.to_bytes(), all.clone());
        let make = move || {
            let (mut rtnl, mut wireguard) = (Rtnl::open()?, Wireguard::open()?);
            for tunnel in &tunnels {
                let name = &tunnel.device;
                let mut batch = Batch::new();
                batch.add_link(LinkWireguard::new(name).mtu(tunnel.mtu).build());
                rtnl.apply(&batch)?;
                let made = rtnl.link(name)?.mtu;
                if made != tunnel.mtu {
                    bail!("{name}: asked for MTU {}, the kernel made it {made}", tunnel.mtu);
                }
                let wanted = Device {
                    private_key: Some(secret),
                    port: Some(tunnel.port),
                    mark: Some(tunnel.mark),
                    ..Device::default()
                };
                wireguard.set(name, &wanted)?;
            }
            Ok(())
        };
        node.netns.run(make).await?;
        let held =
            Held { private, next: None, peers: Vec::new(), keys: Vec::new(), removed: false };
        Ok(Self { node, all, held: Mutex::new(held) })
    }

    /// What peers must know. Asked between steps only: while one runs, it is the key from before.
    pub fn facts(&self) -> Facts {
        match self.held.try_lock() {
            Ok(held) => facts(&held.private),
            Err(_) => Facts::new(),
        }
    }

    /// Adds all peers. Waits for the link between nodes: hands that are shaken in vain are offered again
    /// after 5 s only.
    ///
    /// # Errors
    /// What the kernel refused, or a peer without a key or an address.
    pub async fn join(&self, peers: &[Peer]) -> anyhow::Result<()> {
        let mut held = self.held.lock().await;
        let device = self.node.device.clone();
        self.node.netns.run(move || Rtnl::open()?.wait_running(&[&device])).await?;
        self.program(peers, |_| Device::default()).await?;
        held.keys = peers.iter().map(key_of).collect::<anyhow::Result<_>>()?;
        held.peers = peers.to_vec();
        Ok(())
    }

    /// Has the kernel every device with its key and peers as they were programmed?
    ///
    /// # Errors
    /// The first that is missing or another.
    pub async fn check(&self) -> anyhow::Result<()> {
        let held = self.held.lock().await;
        ensure!(!held.removed, "its WireGuard peers were taken away");
        let tunnels = self.all.clone();
        let read = move || {
            let mut wireguard = Wireguard::open()?;
            tunnels.iter().map(|t| wireguard.get(&t.device)).collect::<anyhow::Result<Vec<_>>>()
        };
        let found = self.node.netns.run(read).await?;
        let public = *PublicKey::from(&held.private).as_bytes();
        for (tunnel, found) in self.all.iter().zip(found) {
            let name = &tunnel.device;
            ensure!(
                (found.public_key, found.port, found.mark)
                    == (Some(public), tunnel.port, tunnel.mark),
                "{name}: its key, port or mark is another"
            );
            for peer in &held.peers {
                let Some(wanted) = tunnel.peer(peer)? else { continue };
                let same = found.peers.iter().find(|p| p.public_key == wanted.public_key);
                let same = same.with_context(|| format!("{name}: node {} is gone", peer.index))?;
                // The kernel lists them in an order of its own.
                let all = wanted.allowed_ips.iter().all(|ip| same.allowed_ips.contains(ip));
                ensure!(
                    all && same.allowed_ips.len() == wanted.allowed_ips.len()
                        && same.endpoint == Some(wanted.endpoint),
                    "{name}: the endpoint or the allowed IPs of node {} are others",
                    peer.index
                );
            }
        }
        Ok(())
    }

    /// Sets every device to its peers on top of something else.
    async fn program(
        &self,
        peers: &[Peer],
        base: impl Fn(&Tunnel) -> Device,
    ) -> anyhow::Result<()> {
        let of = |tunnel: &Tunnel| {
            let peers = peers.iter().map(|peer| tunnel.peer(peer));
            let peers = peers.filter_map(Result::transpose).collect::<anyhow::Result<_>>()?;
            anyhow::Ok((tunnel.device.clone(), Device { peers, ..base(tunnel) }))
        };
        let wanted = self.all.iter().map(of).collect::<anyhow::Result<Vec<_>>>()?;
        self.set(wanted).await
    }

    async fn set(&self, wanted: Vec<(String, Device)>) -> anyhow::Result<()> {
        let set = move || {
            let mut wireguard = Wireguard::open()?;
            wanted.iter().try_for_each(|(name, device)| wireguard.set(name, device))
        };
        self.node.netns.run(set).await
    }
}

impl Tunnel {
    /// None for a peer with nothing behind it.
    fn peer(&self, peer: &Peer) -> anyhow::Result<Option<wireguard::Peer>> {
        let allowed_ips = (self.behind)(peer);
        if allowed_ips.is_empty() {
            return Ok(None);
        }
        let addr: Option<IpAddr> = peer.addrs.iter().copied().find(|a| a.is_ipv4() == self.over_v4);
        let addr = addr.with_context(|| format!("node {} has no address", peer.index))?;
        Ok(Some(wireguard::Peer {
            public_key: key_of(peer)?,
            endpoint: (addr, self.port).into(),
            allowed_ips,
            keepalive_s: self.keepalive_s,
        }))
    }
}

fn draw() -> StaticSecret {
    let mut secret = [0; 32];
    rand::rng().fill_bytes(&mut secret);
    StaticSecret::from(secret)
}

fn facts(private: &StaticSecret) -> Facts {
    let public = PublicKey::from(private);
    Facts::from([(PUBLIC_KEY.to_owned(), STANDARD.encode(public.as_bytes()))])
}

fn key_of(peer: &Peer) -> anyhow::Result<wireguard::PublicKey> {
    let text = peer.facts.get(PUBLIC_KEY);
    let text = text.with_context(|| format!("node {} published no public key", peer.index))?;
    let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| anyhow!("node {}: {text:?} is no WireGuard public key", peer.index))
}

#[async_trait]
impl Keys for Tunnels {
    fn describe(&self) -> &'static str {
        "WireGuard: each node draws a new private key and takes its peers' new public ones, as when the \
         agents are restarted without their key files; until both ends of a tunnel have done so, hands \
         are shaken in vain"
    }

    async fn remove(&self) -> anyhow::Result<()> {
        let mut held = self.held.lock().await;
        let removed = held.keys.clone();
        let of = |tunnel: &Tunnel| {
            let device = Device { removed: removed.clone(), ..Device::default() };
            (tunnel.device.clone(), device)
        };
        self.set(self.all.iter().map(of).collect()).await?;
        held.removed = true;
        Ok(())
    }

    async fn restore(&self) -> anyhow::Result<()> {
        let mut held = self.held.lock().await;
        if held.removed {
            self.program(&held.peers, |_| Device::default()).await?;
            held.removed = false;
        }
        Ok(())
    }

    async fn renew(&self) -> anyhow::Result<Facts> {
        let mut held = self.held.lock().await;
        ensure!(!held.removed, "node {}: its peers were taken away", self.node.index);
        Ok(facts(held.next.get_or_insert_with(draw)))
    }

    async fn switch(&self, peers: &[Peer]) -> anyhow::Result<()> {
        let mut held = self.held.lock().await;
        let Some(next) = held.next.take() else { return Ok(()) };
        let keys = peers.iter().map(key_of).collect::<anyhow::Result<Vec<_>>>()?;
        let gone: Vec<_> = held.keys.iter().copied().filter(|k| !keys.contains(k)).collect();
        let secret = next.to_bytes();
        self.program(peers, |_| Device {
            private_key: Some(secret),
            removed: gone.clone(),
            ..Device::default()
        })
        .await?;
        (held.private, held.peers, held.keys) = (next, peers.to_vec(), keys);
        Ok(())
    }

    async fn retire(&self) -> anyhow::Result<()> {
        // With the old private key its sessions went.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnel() -> Tunnel {
        Tunnel {
            device: "wg".to_owned(),
            port: 51820,
            mark: 0,
            mtu: 1420,
            keepalive_s: 0,
            over_v4: true,
            behind: |peer| peer.pod_cidrs.clone(),
        }
    }

    fn peer(facts: Facts) -> Peer {
        Peer {
            index: 1,
            addrs: vec!["10.66.0.2".parse().unwrap()],
            pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
            facts,
        }
    }

    #[test]
    fn a_peer_is_known_by_what_it_published() {
        let secret = StaticSecret::from([9; 32]);
        let published = facts(&secret);
        assert!(!published.values().any(|v| *v == STANDARD.encode([9; 32])));
        let found = tunnel().peer(&peer(published)).unwrap().unwrap();
        assert_eq!(found.public_key, *PublicKey::from(&secret).as_bytes());
        assert_eq!(found.endpoint, "10.66.0.2:51820".parse().unwrap());
        assert_eq!(found.allowed_ips, ["10.244.1.0/24".parse().unwrap()]);
    }

    #[test]
    fn a_peer_without_a_key_or_an_address_is_named() {
        let error = |peer: &Peer, tunnel: &Tunnel| tunnel.peer(peer).unwrap_err().to_string();
        assert_eq!(error(&peer(Facts::new()), &tunnel()), "node 1 published no public key");
        let wrong = Facts::from([(PUBLIC_KEY.to_owned(), "AAAA".to_owned())]);
        assert!(error(&peer(wrong), &tunnel()).contains("is no WireGuard public key"));
        let v6 = Tunnel { over_v4: false, ..tunnel() };
        assert_eq!(error(&peer(facts(&draw())), &v6), "node 1 has no address");
        let nothing = Tunnel { behind: |_| Vec::new(), ..tunnel() };
        assert!(nothing.peer(&peer(Facts::new())).unwrap().is_none());
    }

    #[test]
    fn the_largest_packet_fits_with_all_that_is_added() {
        // The message of a data packet (message_data_len): header of 16, tag of 16.
        assert_eq!((overhead(true), overhead(false)), (60, 80));
    }
}

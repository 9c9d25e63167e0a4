//! What a node's agent and its WireGuard process say to each other: JSON lines on standard input
//! and output. The private key is made in the process and never leaves it.

use base64::{Engine, engine::general_purpose::STANDARD};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

/// The first line: where to be, and what to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The network namespace to enter before anything is opened.
    pub netns: PathBuf,
    /// TUN devices to make, each with a UDP port of its own.
    pub tunnels: Vec<Tunnel>,
    /// Threads that encrypt and decrypt.
    pub workers: u32,
}

/// A WireGuard device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Its name.
    pub device: String,
    /// UDP port it listens on.
    pub port: u16,
    /// Its MTU in bytes.
    pub mtu: u16,
}

/// The answer to [`Start`]: the devices exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The public key of all tunnels of this node.
    pub public_key: Key,
}

/// The second line: the peers of every tunnel, in the order of [`Start::tunnels`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Peers by tunnel.
    pub peers: Vec<Vec<PeerConfig>>,
}

/// A peer of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerConfig {
    /// Its public key.
    pub public_key: Key,
    /// Where it listens.
    pub endpoint: SocketAddr,
    /// Addresses behind it.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds between keepalives; none: only as the protocol needs them.
    pub keepalive_s: Option<u16>,
}

/// The answer to [`Join`], and to most orders: the sockets are bound, handshakes are answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Peers over all tunnels.
    pub peers: usize,
}

/// Every later line: what becomes of the peers. Answered by [`Joined`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Forget all peers and their sessions.
    Remove,
    /// Take the peers of [`Join`] anew, without sessions.
    Restore,
    /// Shake hands with every peer, now; answered when all did.
    Greet,
}

/// A public key; as text the base64 that `wg` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(pub [u8; 32]);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl FromStr for Key {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let bytes = STANDARD.decode(s).ok().and_then(|b| b.try_into().ok());
        bytes
            .map(Self)
            .ok_or_else(|| format!("{s:?} is not a WireGuard public key (32 bytes in base64)"))
    }
}

impl Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_wg_shows_them() {
        // RFC 7748, 6.1: Alice's public key, and what `wg pubkey` prints for her private one.
        let text = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        let key: Key = text.parse().unwrap();
        assert_eq!(key.0[..4], [0x85, 0x20, 0xf0, 0x09]);
        assert_eq!(key.to_string(), text);
        assert!("AAAA".parse::<Key>().unwrap_err().contains("not a WireGuard public key"));
    }
}

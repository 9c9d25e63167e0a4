//! The kernel's WireGuard devices: their keys and peers, over generic netlink (family `wireguard`).
//!
//! Owns what is said and how the answer is read (include/uapi/linux/wireguard.h; the messages are of
//! netlink-packet-wireguard). The device itself is a link like any other and is made by [`super::rtnl`].

use super::socket::{Netlink, Request};
use anyhow::{Context as _, anyhow};
use ipnet::IpNet;
use netlink_packet_core::{Emitable as _, NLM_F_DUMP, NlasIterator, Parseable as _};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute,
    WireguardCmd, WireguardMessage, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};
use std::net::{IpAddr, SocketAddr};

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID` and `CTRL_ATTR_FAMILY_NAME` of
/// linux/genetlink.h.
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// Length of `struct genlmsghdr`.
const HEADER: usize = 4;
/// `WG_GENL_VERSION`.
const VERSION: u8 = 1;

/// A public key.
pub type PublicKey = [u8; 32];

/// What a device is set to; what is None stays as it is.
#[derive(Clone, Default)]
pub struct Device {
    /// The private key. Never shown.
    pub private_key: Option<[u8; 32]>,
    /// UDP port that it listens on.
    pub port: Option<u16>,
    /// Mark of the packets that it sends; 0: none.
    pub mark: Option<u32>,
    /// Peers that are added or, where they are there, changed.
    pub peers: Vec<Peer>,
    /// Peers that are removed.
    pub removed: Vec<PublicKey>,
}

/// A peer as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its public key.
    pub public_key: PublicKey,
    /// Where it listens.
    pub endpoint: SocketAddr,
    /// Addresses behind it, in place of those it had.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds between keepalives; 0: only as the protocol needs them.
    pub keepalive_s: u16,
}

/// A device as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Its public key, where it has a private one.
    pub public_key: Option<PublicKey>,
    /// UDP port that it listens on.
    pub port: u16,
    /// Mark of the packets that it sends; 0: none.
    pub mark: u32,
    /// Its peers.
    pub peers: Vec<FoundPeer>,
}

/// A peer as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundPeer {
    /// Its public key.
    pub public_key: PublicKey,
    /// Where it listens.
    pub endpoint: Option<SocketAddr>,
    /// Addresses behind it.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds of the calendar when hands were last shaken; 0: never.
    pub last_handshake_s: i64,
    /// Bytes received from it, headers of the protocol included.
    pub rx_bytes: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
}

/// A socket that speaks to WireGuard in the network namespace it was opened in.
pub struct Wireguard {
    netlink: Netlink,
    family: u16,
}

impl Wireguard {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// There is no generic netlink, or no WireGuard in this kernel.
    pub fn open() -> anyhow::Result<Self> {
        let mut netlink = Netlink::open(netlink_sys::protocols::NETLINK_GENERIC)
            .context("cannot open a generic netlink socket")?;
        let mut body = header(GET_FAMILY, 1);
        attribute(&mut body, FAMILY_NAME, b"wireguard\0");
        let what = "the netlink family of wireguard (CONFIG_WIREGUARD)".to_owned();
        let answers = netlink.ask(&Request { kind: CONTROLLER, flags: 0, body, what })?;
        let family = answers.iter().find_map(|(_, body)| family_of(body));
        let family = family.context("the kernel named no netlink family of wireguard")?;
        Ok(Self { netlink, family })
    }

    /// Changes a device.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn set(&mut self, device: &str, wanted: &Device) -> anyhow::Result<()> {
        let request = Request {
            kind: self.family,
            flags: 0,
            body: message(&set(device, wanted)),
            what: format!("set the keys and peers of {device}"),
        };
        match self.netlink.apply(&[request])?.pop() {
            None => Ok(()),
            Some(refused) => Err(refused.into()),
        }
    }

    /// Reads a device.
    ///
    /// # Errors
    /// The kernel's reason, or an answer that cannot be read.
    pub fn get(&mut self, device: &str) -> anyhow::Result<Found> {
        let get = WireguardMessage {
            cmd: WireguardCmd::GetDevice,
            attributes: vec![WireguardAttribute::IfName(device.to_owned())],
        };
        let what = format!("the keys and peers of {device}");
        let request = Request { kind: self.family, flags: NLM_F_DUMP, body: message(&get), what };
        let mut found = Found::default();
        // A device with many peers comes in several parts.
        for (_, body) in self.netlink.ask(&request)? {
            let attributes = body.get(HEADER..).context("an answer without a header")?;
            for attribute in NlasIterator::new(attributes) {
                let attribute = attribute.map_err(|e| anyhow!("{device}: {e}"))?;
                let attribute = WireguardAttribute::parse(&attribute);
                take(&mut found, attribute.map_err(|e| anyhow!("{device}: {e}"))?);
            }
        }
        Ok(found)
    }
}

fn header(command: u8, version: u8) -> Vec<u8> {
    vec![command, version, 0, 0]
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend(((4 + value.len()) as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn family_of(body: &[u8]) -> Option<u16> {
    let attributes = NlasIterator::new(body.get(HEADER..)?).flatten();
    attributes
        .filter(|a| a.kind() == FAMILY_ID)
        .find_map(|a| Some(u16::from_ne_bytes(a.value().try_into().ok()?)))
}

/// The bytes behind `struct nlmsghdr`.
fn message(message: &WireguardMessage) -> Vec<u8> {
    let mut body = header(message.cmd.into(), VERSION);
    let start = body.len();
    body.resize(start + message.buffer_len(), 0);
    message.emit(&mut body[start..]);
    body
}

fn set(device: &str, wanted: &Device) -> WireguardMessage {
    use WireguardAttribute as A;
    let mut attributes = vec![A::IfName(device.to_owned())];
    attributes.extend(wanted.private_key.map(A::PrivateKey));
    attributes.extend(wanted.port.map(A::ListenPort));
    attributes.extend(wanted.mark.map(A::Fwmark));
    let removed = wanted.removed.iter().map(|key| {
        WireguardPeer(vec![
            WireguardPeerAttribute::PublicKey(*key),
            WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe),
        ])
    });
    let peers: Vec<_> = removed.chain(wanted.peers.iter().map(peer)).collect();
    if !peers.is_empty() {
        attributes.push(A::Peers(peers));
    }
    WireguardMessage { cmd: WireguardCmd::SetDevice, attributes }
}

fn peer(peer: &Peer) -> WireguardPeer {
    use WireguardPeerAttribute as A;
    let allowed = peer.allowed_ips.iter().map(|net| {
        let family = match net {
            IpNet::V4(_) => WireguardAddressFamily::Ipv4,
            IpNet::V6(_) => WireguardAddressFamily::Ipv6,
        };
        WireguardAllowedIp(vec![
            WireguardAllowedIpAttr::Family(family),
            WireguardAllowedIpAttr::IpAddr(net.network()),
            WireguardAllowedIpAttr::Cidr(net.prefix_len()),
        ])
    });
    WireguardPeer(vec![
        A::PublicKey(peer.public_key),
        A::Flags(WireguardPeerFlags::ReplaceAllowedIps),
        A::Endpoint(peer.endpoint),
        A::PersistentKeepalive(peer.keepalive_s),
        A::AllowedIps(allowed.collect()),
    ])
}

fn take(found: &mut Found, attribute: WireguardAttribute) {
    match attribute {
        WireguardAttribute::PublicKey(key) => found.public_key = Some(key),
        WireguardAttribute::ListenPort(port) => found.port = port,
        WireguardAttribute::Fwmark(mark) => found.mark = mark,
        WireguardAttribute::Peers(peers) => found.peers.extend(peers.iter().filter_map(read)),
        _ => {}
    }
}

fn read(peer: &WireguardPeer) -> Option<FoundPeer> {
    use WireguardPeerAttribute as A;
    let key = peer.iter().find_map(|a| if let A::PublicKey(key) = a { Some(*key) } else { None });
    let mut found = FoundPeer {
        public_key: key?,
        endpoint: None,
        allowed_ips: Vec::new(),
        last_handshake_s: 0,
        rx_bytes: 0,
        tx_bytes: 0,
    };
    for attribute in peer.iter() {
        match attribute {
            A::Endpoint(endpoint) => found.endpoint = Some(*endpoint),
            A::LastHandshake(time) => found.last_handshake_s = time.seconds,
            A::RxBytes(bytes) => found.rx_bytes = *bytes,
            A::TxBytes(bytes) => found.tx_bytes = *bytes,
            A::AllowedIps(all) => found.allowed_ips.extend(all.iter().filter_map(allowed)),
            _ => {}
        }
    }
    Some(found)
}

fn allowed(ip: &WireguardAllowedIp) -> Option<IpNet> {
    let mut address: Option<IpAddr> = None;
    let mut bits = None;
    for attribute in ip.iter() {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(ip) => address = Some(*ip),
            WireguardAllowedIpAttr::Cidr(length) => bits = Some(*length),
            _ => {}
        }
    }
    IpNet::new(address?, bits?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_said_as_the_kernel_reads_it() {
        let wanted = Device {
            private_key: Some([7; 32]),
            port: Some(51820),
            mark: None,
            peers: vec![Peer {
                public_key: [1; 32],
                endpoint: "10.66.0.2:51820".parse().unwrap(),
                allowed_ips: vec!["10.244.1.0/24".parse().unwrap()],
                keepalive_s: 0,
            }],
            removed: vec![[2; 32]],
        };
        let bytes = message(&set("wg0", &wanted));
        // WG_CMD_SET_DEVICE, version 1; then WGDEVICE_A_IFNAME "wg0\0".
        assert_eq!(bytes[..12], [1, 1, 0, 0, 8, 0, 2, 0, b'w', b'g', b'0', 0]);
        // WGDEVICE_A_PRIVATE_KEY, WGDEVICE_A_LISTEN_PORT in the machine's order.
        assert_eq!(bytes[12..16], [36, 0, 3, 0]);
        assert_eq!(bytes[48..56], [6, 0, 6, 0, 0x6c, 0xca, 0, 0]);
        // WGDEVICE_A_PEERS, nested; in it the peer to remove: key and WGPEER_F_REMOVE_ME.
        assert_eq!(bytes[58..60], [8, 0x80]);
        assert_eq!(bytes[60..68], [48, 0, 0, 0x80, 36, 0, 1, 0]);
        assert_eq!(bytes[100..108], [8, 0, 3, 0, 1, 0, 0, 0]);
        // The one to add: key, WGPEER_F_REPLACE_ALLOWEDIPS, struct sockaddr_in.
        assert_eq!(bytes[112..116], [36, 0, 1, 0]);
        assert_eq!(bytes[148..156], [8, 0, 3, 0, 2, 0, 0, 0]);
        assert_eq!(bytes[156..168], [20, 0, 4, 0, 2, 0, 0xca, 0x6c, 10, 66, 0, 2]);
        let all_ips = [10, 244, 1, 0];
        assert!(bytes.windows(4).any(|w| w == all_ips), "{bytes:?}");
    }

    #[test]
    fn what_is_set_is_what_is_read() {
        let wanted = Peer {
            public_key: [9; 32],
            endpoint: "[fd66::2]:51821".parse().unwrap(),
            allowed_ips: vec!["fd00:10:244:1::/64".parse().unwrap()],
            keepalive_s: 0,
        };
        let found = read(&peer(&wanted)).unwrap();
        assert_eq!(found.endpoint, Some(wanted.endpoint));
        assert_eq!(found.allowed_ips, wanted.allowed_ips);
        assert_eq!((found.public_key, found.last_handshake_s), ([9; 32], 0));
        assert_eq!(read(&WireguardPeer(Vec::new())), None);
    }

    #[test]
    fn the_number_of_a_family_is_found_among_its_attributes() {
        let mut body = header(1, 2);
        attribute(&mut body, FAMILY_NAME, b"wireguard\0");
        attribute(&mut body, FAMILY_ID, &30u16.to_ne_bytes());
        assert_eq!(family_of(&body), Some(30));
        assert_eq!(family_of(&body[..20]), None);
        assert_eq!(family_of(&[]), None);
    }
}

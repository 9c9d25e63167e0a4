//! Keys and values of the datapath's maps as bytes: the layout of `bpf/datapath.bpf.h`.
//!
//! Numbers are in the machine's byte order, addresses and ports in the network's. Pure.

use std::net::{IpAddr, Ipv4Addr};

/// A hardware address.
pub type Mac = [u8; 6];

/// Bytes of a value of `endpoints4` and `endpoints6` (`struct endpoint`).
pub const ENDPOINT: usize = 24;
/// Bytes of a value of `routes4` and `routes6` (`struct route`).
pub const ROUTE: usize = 40;
/// Bytes of a value of `gateways4` and `gateways6` (`struct gateway`).
pub const GATEWAY: usize = 8;
/// Bytes of a key of `policies4` and `policies6` behind its prefix length, without the source.
const POLICY_HEAD: usize = 8;
/// The same with an IPv4 source.
pub const POLICY4: usize = POLICY_HEAD + 4;
/// The same with an IPv6 source.
pub const POLICY6: usize = POLICY_HEAD + 16;

/// `ENDPOINT_HAS_POLICY`.
const HAS_POLICY: u32 = 1;
/// `ROUTE_TUNNEL`.
const TUNNEL: u32 = 1;
/// `ROUTE_HOP_IPV6`.
const HOP_IPV6: u32 = 2;
/// `ROUTE_DEVICE`.
const DEVICE: u32 = 4;
/// `ROUTE_MARK`.
const MARK: u32 = 8;

/// A pod of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The node's end of its veth pair.
    pub ifindex: u32,
    /// What policies know it by.
    pub id: u32,
    /// Its own hardware address.
    pub mac: Mac,
    /// What it takes for its gateway's.
    pub gateway_mac: Mac,
    /// Is what is sent to it held to its allow list?
    pub has_policy: bool,
}

impl Endpoint {
    /// The value in the map.
    pub fn encode(&self) -> [u8; ENDPOINT] {
        let mut out = Fields::default();
        out.number(self.ifindex).number(self.id).bytes(&self.mac).bytes(&self.gateway_mac);
        out.number(if self.has_policy { HAS_POLICY } else { 0 });
        out.done()
    }
}

/// The way to a range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// By way of a neighbour on the underlay.
    Native {
        /// The underlay's device.
        ifindex: u32,
        /// The neighbour.
        next_hop: IpAddr,
    },
    /// Through a tunnel.
    Tunnel {
        /// The tunnel's device, in collect-metadata mode.
        ifindex: u32,
        /// Its network identifier.
        vni: u32,
        /// The far end on the underlay.
        remote: IpAddr,
        /// Hardware address of the device at the far end.
        inner_destination: Mac,
        /// Hardware address of the device at this end.
        inner_source: Mac,
    },
    /// Into a device without a link layer that knows where its packets go (WireGuard).
    Device {
        /// The device.
        ifindex: u32,
    },
    /// To the stack, whose policies encrypt what has this mark.
    Marked {
        /// The mark.
        mark: u32,
    },
    /// Another node, by way of itself; what it encrypted gets a mark.
    Node {
        /// The underlay's device.
        ifindex: u32,
        /// Its address.
        addr: IpAddr,
        /// The mark.
        decrypt_mark: u32,
    },
}

impl Route {
    /// The value in the map.
    pub fn encode(&self) -> [u8; ROUTE] {
        let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let (ifindex, kind, vni, hop, inner) = match *self {
            Self::Native { ifindex, next_hop } => (ifindex, 0, 0, next_hop, [[0; 6]; 2]),
            Self::Tunnel { ifindex, vni, remote, inner_destination, inner_source } => {
                (ifindex, TUNNEL, vni, remote, [inner_destination, inner_source])
            }
            Self::Device { ifindex } => (ifindex, DEVICE, 0, nowhere, [[0; 6]; 2]),
            Self::Marked { mark } => (0, MARK, mark, nowhere, [[0; 6]; 2]),
            Self::Node { ifindex, addr, decrypt_mark } => {
                (ifindex, 0, decrypt_mark, addr, [[0; 6]; 2])
            }
        };
        let flags = kind | if hop.is_ipv6() { HOP_IPV6 } else { 0 };
        let mut wide = [0; 16];
        match hop {
            IpAddr::V4(v4) => wide[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => wide = v6.octets(),
        }
        let mut out = Fields::default();
        out.number(ifindex).number(flags).number(vni).bytes(&wide);
        out.bytes(&inner[0]).bytes(&inner[1]);
        out.done()
    }
}

/// The value in the map of a gateway's hardware address.
pub fn gateway(mac: Mac) -> [u8; GATEWAY] {
    let mut out = Fields::default();
    out.bytes(&mac);
    out.done()
}

/// An IP protocol with ports that an allow list can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Which packets of an admitted source are admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// All, of every protocol.
    Any,
    /// Those to one port.
    One(Protocol, u16),
}

/// The key of an entry of an allow list behind its prefix length, and that length in bits. N is
/// [`POLICY4`] or [`POLICY6`], by the family of `source`.
pub fn policy<const N: usize>(
    endpoint: u32,
    ports: Ports,
    source: &[u8],
    bits: u8,
) -> (u32, [u8; N]) {
    let (protocol, port) = match ports {
        Ports::Any => (0, 0),
        Ports::One(Protocol::Tcp, port) => (6, port),
        Ports::One(Protocol::Udp, port) => (17, port),
    };
    let mut out = Fields::default();
    out.number(endpoint).bytes(&[protocol, 0]).bytes(&port.to_be_bytes()).bytes(source);
    (POLICY_HEAD as u32 * 8 + u32::from(bits), out.done())
}

/// The fields of a C struct without gaps, one after the other.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn number(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.0.extend(value);
        self
    }

    /// Padded to the struct's size.
    fn done<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        let length = self.0.len().min(N);
        out[..length].copy_from_slice(&self.0[..length]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_laid_out_as_the_program_reads_it() {
        let endpoint = Endpoint {
            ifindex: 7,
            id: 9,
            mac: [1, 2, 3, 4, 5, 6],
            gateway_mac: [0xa, 0xb, 0xc, 0xd, 0xe, 0xf],
            has_policy: true,
        };
        let bytes = endpoint.encode();
        assert_eq!(bytes[0..4], 7u32.to_ne_bytes());
        assert_eq!(bytes[4..8], 9u32.to_ne_bytes());
        assert_eq!(bytes[8..20], [1, 2, 3, 4, 5, 6, 0xa, 0xb, 0xc, 0xd, 0xe, 0xf]);
        assert_eq!(bytes[20..24], 1u32.to_ne_bytes());
        let open = Endpoint { has_policy: false, ..endpoint };
        assert_eq!(open.encode()[20..24], [0; 4]);
    }

    #[test]
    fn a_route_says_its_family_and_its_tunnel() {
        let native = Route::Native { ifindex: 3, next_hop: "10.66.0.2".parse().unwrap() };
        let bytes = native.encode();
        assert_eq!(bytes[0..4], 3u32.to_ne_bytes());
        assert_eq!(bytes[4..8], 0u32.to_ne_bytes());
        assert_eq!(bytes[12..16], [10, 66, 0, 2]);
        assert_eq!(bytes[16..40], [0; 24]);
        let tunnel = Route::Tunnel {
            ifindex: 4,
            vni: 1,
            remote: "fd66::2".parse().unwrap(),
            inner_destination: [1; 6],
            inner_source: [2; 6],
        };
        let bytes = tunnel.encode();
        assert_eq!(bytes[4..8], 3u32.to_ne_bytes());
        assert_eq!(bytes[8..12], 1u32.to_ne_bytes());
        assert_eq!((bytes[12], bytes[13], bytes[27]), (0xfd, 0x66, 2));
        assert_eq!(bytes[28..40], [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]);
        let bytes = Route::Device { ifindex: 6 }.encode();
        assert_eq!(
            (bytes[0..4].to_vec(), bytes[4..8].to_vec()),
            (vec![6, 0, 0, 0], vec![4, 0, 0, 0])
        );
        let bytes = Route::Marked { mark: 0x2_3e00 }.encode();
        assert_eq!((bytes[4], &bytes[8..12]), (8, &0x2_3e00u32.to_ne_bytes()[..]));
        let addr = "10.66.0.2".parse().unwrap();
        let bytes = Route::Node { ifindex: 3, addr, decrypt_mark: 0x2_0d00 }.encode();
        assert_eq!((bytes[4], &bytes[8..12]), (0, &0x2_0d00u32.to_ne_bytes()[..]));
        assert_eq!(bytes[12..16], [10, 66, 0, 2]);
    }

    #[test]
    fn an_allow_list_entry_always_compares_endpoint_protocol_and_port() {
        let (bits, key) = policy::<POLICY4>(5, Ports::One(Protocol::Udp, 53), &[10, 244, 0, 0], 24);
        assert_eq!(bits, 64 + 24);
        assert_eq!(key[0..4], 5u32.to_ne_bytes());
        assert_eq!(key[4..], [17, 0, 0, 53, 10, 244, 0, 0]);
        let (bits, key) = policy::<POLICY6>(5, Ports::Any, &[0xfd; 16], 128);
        assert_eq!((bits, &key[4..8]), (192, &[0; 4][..]));
    }
}

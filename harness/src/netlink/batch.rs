//! Changes to links, addresses, routes and neighbours, gathered to be sent together.
//!
//! Owns how each change is said to the kernel (NETLINK_ROUTE); [`super::rtnl`] sends it.

use super::socket::Request;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkSerializable as _};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{LinkAttribute, LinkMessage},
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{
        RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
    },
};
use rtnetlink::LinkUnspec;
use std::net::IpAddr;

/// A hardware address.
pub type Mac = [u8; 6];

/// Requests that are sent together. Order is kept.
#[derive(Debug, Default)]
pub struct Batch(Vec<Request>);

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// The requests.
    pub fn requests(&self) -> &[Request] {
        &self.0
    }

    /// Adds a change that has no method of its own.
    pub fn push(&mut self, what: String, flags: u16, message: RouteNetlinkMessage) -> &mut Self {
        let mut body = vec![0; message.buffer_len()];
        message.serialize(&mut body);
        self.0.push(Request { kind: message.message_type(), flags, body, what });
        self
    }

    /// Makes a link; it must not exist.
    pub fn add_link(&mut self, message: LinkMessage) -> &mut Self {
        let what = format!("add link {}", name_of(&message));
        self.push(what, NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(message))
    }

    /// Changes an existing link.
    pub fn set_link(&mut self, message: LinkMessage) -> &mut Self {
        let what = format!("set link {} ({})", name_of(&message), message.header.index);
        self.push(what, 0, RouteNetlinkMessage::SetLink(message))
    }

    /// Changes the port settings of a bridge's member (`IFLA_INFO_SLAVE_DATA` needs NEWLINK).
    pub fn set_port(&mut self, message: LinkMessage) -> &mut Self {
        let what = format!("set bridge port {}", message.header.index);
        self.push(what, 0, RouteNetlinkMessage::NewLink(message))
    }

    /// Sets a link up.
    pub fn up(&mut self, index: u32) -> &mut Self {
        self.set_link(LinkUnspec::new_with_index(index).up().build())
    }

    /// Removes a link.
    pub fn del_link(&mut self, index: u32) -> &mut Self {
        let message = LinkUnspec::new_with_index(index).build();
        self.push(format!("delete link {index}"), 0, RouteNetlinkMessage::DelLink(message))
    }

    /// Adds an address; IPv6 ones without duplicate detection, so that they are usable at once.
    pub fn add_addr(&mut self, index: u32, addr: IpNet) -> &mut Self {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = addr.prefix_len();
        message.attributes.push(AddressAttribute::Address(addr.addr()));
        message.attributes.push(AddressAttribute::Local(addr.addr()));
        message.header.family = match addr {
            IpNet::V4(v4) => {
                if v4.prefix_len() < 31 {
                    message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
                }
                AddressFamily::Inet
            }
            IpNet::V6(_) => {
                message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
                AddressFamily::Inet6
            }
        };
        let what = format!("add address {addr} to link {index}");
        self.push(what, NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewAddress(message))
    }

    /// Sets a unicast route by way of a gateway; `onlink` as iproute2's word.
    pub fn route_via(&mut self, to: IpNet, via: IpAddr, index: u32, onlink: bool) -> &mut Self {
        let mut message = route(to, index);
        message.attributes.push(RouteAttribute::Gateway(via.into()));
        if onlink {
            message.header.flags |= RouteFlags::Onlink;
        }
        let what = format!("route {to} via {via} on link {index}");
        self.push(what, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewRoute(message))
    }

    /// The same, always onlink, with the address that the node's own packets take it from.
    pub fn route_via_from(
        &mut self,
        to: IpNet,
        via: IpAddr,
        index: u32,
        from: IpAddr,
    ) -> &mut Self {
        let mut message = route(to, index);
        message.attributes.push(RouteAttribute::Gateway(via.into()));
        message.attributes.push(RouteAttribute::PrefSource(from.into()));
        message.header.flags |= RouteFlags::Onlink;
        let what = format!("route {to} via {via} on link {index} from {from}");
        self.push(what, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewRoute(message))
    }

    /// Sets a unicast route straight into a device (`scope link` for IPv4).
    pub fn route_dev(&mut self, to: IpNet, index: u32) -> &mut Self {
        let mut message = route(to, index);
        if to.addr().is_ipv4() {
            message.header.scope = RouteScope::Link;
        }
        let what = format!("route {to} on link {index}");
        self.push(what, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewRoute(message))
    }

    /// Removes a route.
    pub fn del_route(&mut self, to: IpNet, index: u32) -> &mut Self {
        let mut message = route(to, index);
        message.header.protocol = RouteProtocol::Unspec;
        message.header.scope = RouteScope::NoWhere;
        self.push(format!("delete route {to}"), 0, RouteNetlinkMessage::DelRoute(message))
    }

    /// A permanent neighbour: `ip neigh replace IP lladdr MAC dev INDEX nud permanent`.
    pub fn neighbour(&mut self, index: u32, ip: IpAddr, mac: Mac) -> &mut Self {
        let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let mut message = permanent(family, index, ip, mac);
        message.header.kind = RouteType::Unicast;
        let what = format!("neighbour {ip} on link {index}");
        self.push(what, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewNeighbour(message))
    }

    /// A forwarding entry of a tunnel device: `bridge fdb replace MAC dev INDEX dst IP self permanent`.
    pub fn fdb(&mut self, index: u32, mac: Mac, dst: IpAddr) -> &mut Self {
        let mut message = permanent(AddressFamily::Bridge, index, dst, mac);
        message.header.flags = NeighbourFlags::Own;
        let what = format!("fdb entry to {dst} on link {index}");
        self.push(what, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewNeighbour(message))
    }
}

fn permanent(family: AddressFamily, index: u32, ip: IpAddr, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(ip.into()),
        NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
    ];
    message
}

fn route(to: IpNet, index: u32) -> RouteMessage {
    let family = if to.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.destination_prefix_length = to.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    if to.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(to.network().into()));
    }
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

fn name_of(message: &LinkMessage) -> &str {
    let name = message.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    });
    name.unwrap_or("without a name")
}

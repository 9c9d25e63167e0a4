//! Sends batches of changes and reads links, addresses, routes and neighbours (NETLINK_ROUTE).

use super::{
    batch::{Batch, Mac},
    socket::{Netlink, Refused, Request},
};
use anyhow::{Context as _, anyhow, bail};
use netlink_packet_core::{NLM_F_DUMP, NetlinkSerializable as _, ParseableParametrized as _};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::AddressMessage,
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State},
    neighbour::NeighbourMessage,
    nsid::{NsidAttribute, NsidMessage},
    route::RouteMessage,
};
use rtnetlink::LinkUnspec;
use serde::{Deserialize, Serialize};
use std::{
    os::fd::{AsRawFd as _, BorrowedFd},
    thread,
    time::{Duration, Instant},
};

/// A link, reduced to what the harness looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Hardware address; zero where there is none.
    pub mac: Mac,
    /// Kind as `ip -d link` names it ("veth", "vxlan"); empty for plain devices.
    pub kind: String,
    /// Index of the bridge it belongs to.
    pub controller: Option<u32>,
    /// Index of a veth's other end, or of the device that it stands on, in the namespace of that one.
    pub peer: Option<u32>,
    /// The number by which this namespace knows the one of [`peer`](Self::peer) (see
    /// [`Rtnl::namespace_id`]); None: it is this one, or there is none.
    pub peer_netns: Option<i32>,
    /// True when it is up and has a carrier.
    pub running: bool,
    /// Counters since it was made.
    pub counters: Counters,
}

/// Counters of a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets dropped when received, for want of room or by the device.
    pub rx_dropped: u64,
    /// Packets dropped when sent.
    pub tx_dropped: u64,
}

/// A NETLINK_ROUTE socket of one network namespace.
pub struct Rtnl(Netlink);

impl Rtnl {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The system call's.
    pub fn open() -> anyhow::Result<Self> {
        let socket = Netlink::open(netlink_sys::protocols::NETLINK_ROUTE);
        Ok(Self(socket.context("cannot open a route netlink socket")?))
    }

    /// Carries out a batch.
    ///
    /// # Errors
    /// The first refusal, with the number of further ones; changes before and after it hold.
    pub fn apply(&mut self, batch: &Batch) -> anyhow::Result<()> {
        let mut refused = self.0.apply(batch.requests())?.into_iter();
        match (refused.next(), refused.len()) {
            (None, _) => Ok(()),
            (Some(first), 0) => Err(first.into()),
            (Some(first), more) => Err(anyhow!(first).context(format!("and {more} more refusals"))),
        }
    }

    /// Carries out a batch and returns every refusal.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn try_apply(&mut self, batch: &Batch) -> anyhow::Result<Vec<Refused>> {
        self.0.apply(batch.requests())
    }

    /// All links.
    ///
    /// # Errors
    /// The kernel's.
    pub fn links(&mut self) -> anyhow::Result<Vec<Link>> {
        let dump = RouteNetlinkMessage::GetLink(LinkMessage::default());
        Ok(self.dump("links", dump)?.iter().filter_map(link_of).collect())
    }

    /// The link of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn link(&mut self, name: &str) -> anyhow::Result<Link> {
        let get = RouteNetlinkMessage::GetLink(LinkUnspec::new_with_name(name).build());
        let answers = self.0.ask(&request(format!("link {name}"), 0, &get))?;
        let links = answers.into_iter().filter_map(parsed);
        links.filter_map(|m| link_of(&m)).next().ok_or_else(|| anyhow!("no link {name}"))
    }

    /// The number by which this namespace knows another one, as in [`Link::peer_netns`]; None: no
    /// link of it leads there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn namespace_id(&mut self, other: BorrowedFd<'_>) -> anyhow::Result<Option<i32>> {
        let fd = u32::try_from(other.as_raw_fd()).context("a negative file descriptor")?;
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(fd));
        let get = RouteNetlinkMessage::GetNsId(message);
        let answers = self.0.ask(&request("the number of a namespace".to_owned(), 0, &get))?;
        let ids = answers.into_iter().filter_map(parsed).filter_map(|message| match message {
            RouteNetlinkMessage::NewNsId(m) => Some(m.attributes),
            _ => None,
        });
        let id = ids.flatten().find_map(|attribute| match attribute {
            NsidAttribute::Id(id) => Some(id),
            _ => None,
        });
        // NETNSA_NSID_NOT_ASSIGNED is -1.
        Ok(id.filter(|id| *id >= 0))
    }

    /// Waits until these links are up with a carrier, as the kernel's link watch has told all others
    /// by then (linkwatch_do_dev): a bridge drops what it gets for a port before, and a lost ARP
    /// request is repeated after a second only. Blocks.
    ///
    /// # Errors
    /// When one is not there, or not running after 5 s.
    pub fn wait_running(&mut self, names: &[&str]) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let links = self.links()?;
            let ready = |name: &&&str| links.iter().any(|l| l.name == **name && l.running);
            match names.iter().find(|name| !ready(name)) {
                None => return Ok(()),
                Some(name) if Instant::now() >= until => {
                    bail!("link {name} did not come up within 5 s")
                }
                Some(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// All addresses.
    ///
    /// # Errors
    /// The kernel's.
    pub fn addresses(&mut self) -> anyhow::Result<Vec<AddressMessage>> {
        let dump = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let all = self.dump("addresses", dump)?.into_iter();
        Ok(all
            .filter_map(|m| match m {
                RouteNetlinkMessage::NewAddress(a) => Some(a),
                _ => None,
            })
            .collect())
    }

    /// All routes of a family.
    ///
    /// # Errors
    /// The kernel's.
    pub fn routes(&mut self, family: AddressFamily) -> anyhow::Result<Vec<RouteMessage>> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let all = self.dump("routes", RouteNetlinkMessage::GetRoute(message))?.into_iter();
        Ok(all
            .filter_map(|m| match m {
                RouteNetlinkMessage::NewRoute(r) => Some(r),
                _ => None,
            })
            .collect())
    }

    /// All neighbours of a family; `AddressFamily::Bridge` gives forwarding entries.
    ///
    /// # Errors
    /// The kernel's.
    pub fn neighbours(&mut self, family: AddressFamily) -> anyhow::Result<Vec<NeighbourMessage>> {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        let all = self.dump("neighbours", RouteNetlinkMessage::GetNeighbour(message))?.into_iter();
        Ok(all
            .filter_map(|m| match m {
                RouteNetlinkMessage::NewNeighbour(n) => Some(n),
                _ => None,
            })
            .collect())
    }

    fn dump(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> anyhow::Result<Vec<RouteNetlinkMessage>> {
        let answers = self.0.ask(&request(format!("list {what}"), NLM_F_DUMP, &message))?;
        Ok(answers.into_iter().filter_map(parsed).collect())
    }
}

fn request(what: String, flags: u16, message: &RouteNetlinkMessage) -> Request {
    let mut body = vec![0; message.buffer_len()];
    message.serialize(&mut body);
    Request { kind: message.message_type(), flags, body, what }
}

/// None for what this version of the crate cannot read; such an object is none of ours.
fn parsed((kind, body): (u16, Vec<u8>)) -> Option<RouteNetlinkMessage> {
    RouteNetlinkMessage::parse_with_param(&body, kind)
        .inspect_err(|e| tracing::debug!("unreadable netlink message {kind}: {e}"))
        .ok()
}

fn link_of(message: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        mac: [0; 6],
        kind: String::new(),
        controller: None,
        peer: None,
        peer_netns: None,
        running: message.header.flags.contains(LinkFlags::Up | LinkFlags::Running),
        counters: Counters::default(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => {
                link.mac = bytes.as_slice().try_into().unwrap_or_default();
            }
            LinkAttribute::Link(index) => link.peer = Some(*index),
            LinkAttribute::LinkNetNsId(id) => link.peer_netns = Some(*id),
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            LinkAttribute::OperState(State::LowerLayerDown | State::Down) => link.running = false,
            LinkAttribute::Stats64(stats) => {
                link.counters = Counters {
                    rx_packets: stats.rx_packets,
                    tx_packets: stats.tx_packets,
                    rx_bytes: stats.rx_bytes,
                    tx_bytes: stats.tx_bytes,
                    rx_dropped: stats.rx_dropped,
                    tx_dropped: stats.tx_dropped,
                };
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    Some(link)
}

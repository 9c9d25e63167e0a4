//! The few nf_tables messages that masquerading and services need, as one atomic batch.
//!
//! Attribute numbers: include/uapi/linux/netfilter/nf_tables.h and nfnetlink.h. Expressions are
//! those that the `nft` command makes of the same rule (`nft --debug=netlink`), so that
//! `nft list ruleset` shows what a CNI's own rules would show.

use super::socket::{Netlink, Refused, Request};
use anyhow::Context as _;
use ipnet::IpNet;
use netlink_packet_core::NLM_F_CREATE;
use std::net::IpAddr;

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const DEL_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_SET_ELEM: u16 = 12;
const NEW_OBJECT: u16 = 18;
const GET_OBJECT: u16 = 19;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// `NLM_F_APPEND`: new rules go to the end of their chain.
const APPEND: u16 = 0x800;
/// `NLM_F_ACK`.
const ACK: u16 = 4;
/// `NFT_OBJECT_COUNTER`.
const COUNTER: u32 = 1;
/// `NFT_REG_1`, and the verdict register.
const REG_1: u32 = 1;
const REG_VERDICT: u32 = 0;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const FULLY_RANDOM: u32 = 1 << 4;

/// Address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `table ip`.
    V4,
    /// `table ip6`.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
    fn protocol(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

/// Where a base chain hangs, with the priority that `nft` names for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// `type nat hook prerouting priority dstnat`.
    NatPrerouting,
    /// `type nat hook output priority dstnat`.
    NatOutput,
    /// `type nat hook postrouting priority srcnat`.
    NatPostrouting,
    /// `type filter hook forward priority filter`.
    FilterForward,
}

impl Hook {
    /// Chain type, hook number and priority.
    fn parts(self) -> (&'static str, u32, i32) {
        match self {
            Self::NatPrerouting => ("nat", 0, -100),
            Self::NatOutput => ("nat", 3, -100),
            Self::NatPostrouting => ("nat", 4, 100),
            Self::FilterForward => ("filter", 2, 0),
        }
    }
}

/// What a rule does with a packet at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Let it pass.
    Accept,
    /// Do away with it, without a word.
    Drop,
    /// Leave this chain.
    Return,
    /// Go on in another chain and come back.
    Jump(String),
    /// Go on in another chain for good.
    Goto(String),
}

/// Which address of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `saddr`.
    Source,
    /// `daddr`.
    Destination,
}

/// A part of a rule, as it would be written in `nft`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// `ip saddr 10.0.0.0/8`.
    In(Field, IpNet),
    /// `ip saddr != 10.0.0.0/8`.
    NotIn(Field, IpNet),
    /// `ip daddr 10.244.1.2`.
    To(IpAddr),
    /// `ct state established,related`.
    Established,
    /// `meta mark 0x4000`.
    Mark(u32),
    /// `ip daddr vmap @name`.
    Vmap(Field, String),
    /// `counter name "denied"`: counts what comes as far as this.
    Count(String),
    /// The end of the rule.
    Verdict(Verdict),
    /// `masquerade fully-random`.
    Masquerade,
    /// `dnat to 10.244.1.2`.
    Dnat(IpAddr),
}

/// One table that is made as a whole.
pub struct Table {
    name: String,
    family: Family,
    sets: u32,
    requests: Vec<Request>,
}

impl Table {
    /// Begins a table.
    pub fn new(family: Family, name: &str) -> Self {
        let mut table = Self { name: name.to_owned(), family, sets: 0, requests: Vec::new() };
        let what = format!("nf_tables: table {name}");
        table.push(NEW_TABLE, NLM_F_CREATE, attr(1, &text(name)), what);
        table
    }

    /// The same in place of what may be there under this name.
    pub fn replacing(family: Family, name: &str) -> Self {
        let mut table = Self::new(family, name);
        // Made first, since a table that is not there cannot be removed.
        table.push(DEL_TABLE, 0, attr(1, &text(name)), format!("nf_tables: remove table {name}"));
        let what = format!("nf_tables: table {name}");
        table.push(NEW_TABLE, NLM_F_CREATE, attr(1, &text(name)), what);
        table
    }

    /// What [`commit`](Self::commit) makes of a table that is there: nothing is left of it.
    pub fn removing(family: Family, name: &str) -> Self {
        let mut table = Self::new(family, name);
        table.push(DEL_TABLE, 0, attr(1, &text(name)), format!("nf_tables: remove table {name}"));
        table
    }

    /// Adds a chain that others jump to.
    pub fn chain(&mut self, name: &str) -> &mut Self {
        let body = [attr(1, &text(&self.name)), attr(3, &text(name))].concat();
        self.push(NEW_CHAIN, NLM_F_CREATE, body, format!("nf_tables: chain {name}"));
        self
    }

    /// Adds a counter that rules name.
    pub fn counter(&mut self, name: &str) -> &mut Self {
        let body = [
            attr(1, &text(&self.name)),
            attr(2, &text(name)),
            be32(3, COUNTER),
            attr(4 | NESTED, &[]),
        ];
        let what = format!("nf_tables: counter {name}");
        self.push(NEW_OBJECT, NLM_F_CREATE, body.concat(), what);
        self
    }

    /// Adds a chain at a hook.
    pub fn base_chain(&mut self, name: &str, hook: Hook) -> &mut Self {
        let (kind, number, priority) = hook.parts();
        let place = [be32(1, number), be32(2, priority as u32)].concat();
        let body = [
            attr(1, &text(&self.name)),
            attr(3, &text(name)),
            attr(4 | NESTED, &place),
            attr(7, &text(kind)),
        ];
        let what = format!("nf_tables: chain {name} (type {kind})");
        self.push(NEW_CHAIN, NLM_F_CREATE, body.concat(), what);
        self
    }

    /// Appends a rule to a chain.
    pub fn rule(&mut self, chain: &str, parts: &[Part]) -> &mut Self {
        let expressions: Vec<u8> = parts.iter().flat_map(|p| self.expressions(p)).collect();
        let body =
            [attr(1, &text(&self.name)), attr(2, &text(chain)), attr(4 | NESTED, &expressions)];
        let what = format!("nf_tables: rule {parts:?} of chain {chain}");
        self.push(NEW_RULE, NLM_F_CREATE | APPEND, body.concat(), what);
        self
    }

    /// Adds a map from addresses to verdicts (`map name { type ipv4_addr : verdict }`).
    pub fn verdict_map(&mut self, name: &str, elements: &[(IpAddr, Verdict)]) -> &mut Self {
        /// `NFT_SET_MAP`, `NFT_DATA_VERDICT`.
        const MAP: u32 = 8;
        const DATA_VERDICT: u32 = 0xffff_ff00;
        self.sets += 1;
        // Types are nft's own numbers (TYPE_IPADDR, TYPE_IP6ADDR in nftables' datatype.h).
        let (kind, length) = match self.family {
            Family::V4 => (7, 4),
            Family::V6 => (8, 16),
        };
        let body = [
            attr(1, &text(&self.name)),
            attr(2, &text(name)),
            be32(3, MAP),
            be32(4, kind),
            be32(5, length),
            be32(6, DATA_VERDICT),
            be32(7, 0),
            be32(10, self.sets),
        ];
        self.push(NEW_SET, NLM_F_CREATE, body.concat(), format!("nf_tables: map {name}"));
        let entries = elements.iter().flat_map(|(ip, verdict)| {
            let key = attr(1 | NESTED, &attr(1, &bytes_of(*ip)));
            attr(1 | NESTED, &[key, attr(2 | NESTED, &verdict_of(verdict))].concat())
        });
        let entries: Vec<u8> = entries.collect();
        let body = [attr(1, &text(&self.name)), attr(2, &text(name)), attr(3 | NESTED, &entries)];
        let what = format!("nf_tables: elements of map {name}");
        self.push(NEW_SET_ELEM, NLM_F_CREATE, body.concat(), what);
        self
    }

    /// Makes the table in the calling thread's network namespace: all of it or nothing.
    ///
    /// # Errors
    /// What the kernel refused, or that it has no nf_tables.
    pub fn commit(&self) -> anyhow::Result<()> {
        let mut netlink = Netlink::open(netlink_sys::protocols::NETLINK_NETFILTER)
            .context("this kernel has no netfilter netlink (CONFIG_NETFILTER_NETLINK)")?;
        let edge = |kind: u16| Request {
            kind,
            flags: 0,
            // struct nfgenmsg { AF_UNSPEC, NFNETLINK_V0, res_id = the subsystem }
            body: [&[0, 0][..], &SUBSYSTEM.to_be_bytes()].concat(),
            what: "nf_tables: batch".to_owned(),
        };
        let mut requests = vec![edge(BATCH_BEGIN)];
        requests.extend(self.requests.iter().cloned());
        if let Some(last) = requests.last_mut() {
            last.flags |= ACK;
        }
        requests.push(edge(BATCH_END));
        netlink.transact(&requests)
    }

    fn push(&mut self, message: u16, flags: u16, attributes: Vec<u8>, what: String) {
        let body = [vec![self.family.protocol(), 0, 0, 0], attributes].concat();
        self.requests.push(Request { kind: SUBSYSTEM << 8 | message, flags, body, what });
    }

    fn expressions(&self, part: &Part) -> Vec<u8> {
        match part {
            Part::In(field, net) => self.compare(*field, *net, 0),
            Part::NotIn(field, net) => self.compare(*field, *net, 1),
            Part::To(ip) => self.compare(Field::Destination, IpNet::from(*ip), 0),
            Part::Established => {
                // NFT_CT_STATE is 0; bits of enum ip_conntrack_info: NF_CT_STATE_BIT is 1 << (state + 1).
                let (established, related) = (1u32 << 1, 1u32 << 2);
                [
                    expression("ct", &[be32(1, REG_1), be32(2, 0)]),
                    mask(&(established | related).to_ne_bytes()),
                    compare(1, &0u32.to_ne_bytes()),
                ]
                .concat()
            }
            Part::Mark(mark) => [
                // NFT_META_MARK is 3; marks are compared in host order.
                expression("meta", &[be32(2, 3), be32(1, REG_1)]),
                compare(0, &mark.to_ne_bytes()),
            ]
            .concat(),
            Part::Vmap(field, set) => [
                self.load(*field, self.address_length()),
                expression("lookup", &[attr(1, &text(set)), be32(2, REG_1), be32(3, REG_VERDICT)]),
            ]
            .concat(),
            Part::Count(name) => expression("objref", &[be32(1, COUNTER), attr(2, &text(name))]),
            Part::Verdict(verdict) => {
                let data = attr(2 | NESTED, &verdict_of(verdict));
                expression("immediate", &[be32(1, REG_VERDICT), data])
            }
            Part::Masquerade => expression("masq", &[be32(1, FULLY_RANDOM)]),
            Part::Dnat(ip) => {
                let data = attr(2 | NESTED, &attr(1, &bytes_of(*ip)));
                // NFT_NAT_DNAT is 1.
                let nat = [
                    be32(1, 1),
                    be32(2, u32::from(self.family.protocol())),
                    be32(3, REG_1),
                    be32(4, REG_1),
                ];
                [expression("immediate", &[be32(1, REG_1), data]), expression("nat", &nat)].concat()
            }
        }
    }

    fn address_length(&self) -> usize {
        match self.family {
            Family::V4 => 4,
            Family::V6 => 16,
        }
    }

    /// Loads the first bytes of an address into register 1.
    fn load(&self, field: Field, length: usize) -> Vec<u8> {
        let offset = match (self.family, field) {
            (Family::V4, Field::Source) => 12,
            (Family::V4, Field::Destination) => 16,
            (Family::V6, Field::Source) => 8,
            (Family::V6, Field::Destination) => 24,
        };
        // NFT_PAYLOAD_NETWORK_HEADER is 1.
        let parts = [be32(1, REG_1), be32(2, 1), be32(3, offset), be32(4, length as u32)];
        expression("payload", &parts)
    }

    /// Compares with a prefix: whole bytes directly, as nft does, else through a mask.
    fn compare(&self, field: Field, net: IpNet, operation: u32) -> Vec<u8> {
        let network = bytes_of(net.network());
        let bits = usize::from(net.prefix_len());
        if bits % 8 == 0 && bits > 0 {
            let bytes = bits / 8;
            return [self.load(field, bytes), compare(operation, &network[..bytes])].concat();
        }
        let masked = mask(&bytes_of(net.netmask()));
        [self.load(field, self.address_length()), masked, compare(operation, &network)].concat()
    }
}

/// Register 1 and these bits.
fn mask(bits: &[u8]) -> Vec<u8> {
    expression(
        "bitwise",
        &[
            be32(1, REG_1),
            be32(2, REG_1),
            be32(3, bits.len() as u32),
            attr(4 | NESTED, &attr(1, bits)),
            attr(5 | NESTED, &attr(1, &vec![0; bits.len()])),
        ],
    )
}

/// Packets that a counter of a table in the calling thread's network namespace has counted; None when
/// there is no such table.
///
/// # Errors
/// What the kernel refused, or an answer without a number.
pub fn counted(family: Family, table: &str, counter: &str) -> anyhow::Result<Option<u64>> {
    /// `ENOENT`.
    const MISSING: i32 = 2;
    let mut netlink = Netlink::open(netlink_sys::protocols::NETLINK_NETFILTER)
        .context("this kernel has no netfilter netlink (CONFIG_NETFILTER_NETLINK)")?;
    let attributes = [attr(1, &text(table)), attr(2, &text(counter)), be32(3, COUNTER)].concat();
    let body = [vec![family.protocol(), 0, 0, 0], attributes].concat();
    let what = format!("nf_tables: counter {counter} of table {table}");
    let asked = netlink.ask(&Request { kind: SUBSYSTEM << 8 | GET_OBJECT, flags: 0, body, what });
    let answers = match asked {
        Err(e) if e.downcast_ref::<Refused>().is_some_and(|r| r.errno() == Some(MISSING)) => {
            return Ok(None);
        }
        other => other?,
    };
    // Behind struct nfgenmsg: NFTA_OBJ_DATA, in it NFTA_COUNTER_PACKETS.
    let packets = answers.iter().find_map(|(_, body)| {
        let value = find(find(body.get(4..)?, 4)?, 2)?;
        Some(u64::from_be_bytes(value.get(..8)?.try_into().ok()?))
    });
    packets.map(Some).with_context(|| format!("counter {counter} of table {table} has no number"))
}

/// The value of an attribute among others.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (length, rest) = attributes.split_first_chunk::<2>()?;
        let kind = u16::from_ne_bytes(*rest.first_chunk()?) & !NESTED;
        let length = usize::from(u16::from_ne_bytes(*length));
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// One attribute: `struct nlattr`, value, padding.
fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 7);
    out.extend(((value.len() + 4) as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn be32(kind: u16, value: u32) -> Vec<u8> {
    attr(kind, &value.to_be_bytes())
}

fn text(value: &str) -> Vec<u8> {
    [value.as_bytes(), &[0]].concat()
}

fn bytes_of(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
    let body = [attr(1, &text(name)), attr(2 | NESTED, &data.concat())].concat();
    attr(1 | NESTED, &body)
}

fn compare(operation: u32, value: &[u8]) -> Vec<u8> {
    let data = attr(3 | NESTED, &attr(1, value));
    expression("cmp", &[be32(1, REG_1), be32(2, operation), data])
}

/// `NFTA_DATA_VERDICT` with its code and chain.
fn verdict_of(verdict: &Verdict) -> Vec<u8> {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5i32, None),
    };
    let mut body = be32(1, code as u32);
    if let Some(chain) = chain {
        body.extend(attr(2, &text(chain)));
    }
    attr(2 | NESTED, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_but_say_their_true_length() {
        assert_eq!(attr(7, b"nat\0"), [8, 0, 7, 0, b'n', b'a', b't', 0]);
        assert_eq!(attr(1, &[9]), [5, 0, 1, 0, 9, 0, 0, 0]);
    }

    #[test]
    fn attributes_are_found_among_others_and_rubbish_is_none() {
        let all = [attr(1, b"table\0"), attr(4 | NESTED, &attr(2, &7u64.to_be_bytes()))].concat();
        let inner = find(&all, 4).unwrap();
        assert_eq!(find(inner, 2).unwrap(), 7u64.to_be_bytes());
        assert_eq!(find(&all, 9), None);
        for length in 0..12 {
            assert_eq!(find(&vec![0; length], 9), None);
            assert_eq!(find(&vec![0xff; length], 9), None);
        }
    }

    #[test]
    fn whole_bytes_are_compared_without_a_mask() {
        let table = Table::new(Family::V4, "t");
        let has_mask = |net: &str| {
            let bytes = table.compare(Field::Source, net.parse().unwrap(), 0);
            bytes.windows(7).any(|w| w == b"bitwise")
        };
        assert!(!has_mask("10.244.0.0/16"));
        assert!(has_mask("10.96.0.0/12"));
    }
}

//! IPsec in the kernel: states (what the RFCs call security associations) and policies, over
//! NETLINK_XFRM.
//!
//! Owns how they are said and read (include/uapi/linux/xfrm.h; the messages are of netlink-packet-xfrm).
//! Only what CNIs use: ESP in tunnel mode with AES-GCM (RFC 4303, RFC 4106).

use super::socket::{Netlink, Refused, Request};
use anyhow::{Context as _, anyhow};
use ipnet::IpNet;
use netlink_packet_core::{Emitable as _, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Parseable as _};
use netlink_packet_xfrm::{
    Address, AlgAead, IPPROTO_ESP, Id, ReplayEsn, Selector, UserPolicyId, UserPolicyInfo, UserSaId,
    UserSaInfo, UserTemplate, XFRM_MODE_TUNNEL, XFRM_POLICY_ALLOW, XFRM_POLICY_BLOCK,
    XFRM_POLICY_FWD, XFRM_POLICY_IN, XFRM_POLICY_OUT, XFRM_STATE_AF_UNSPEC, XFRM_STATE_ESN,
    XfrmAttrs, XfrmMessage, policy, state,
};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// `NETLINK_XFRM` of linux/netlink.h.
const PROTOCOL: isize = 6;
/// What the kernel calls the cipher; the salt stands behind the key (RFC 4106, section 8.1).
const CIPHER: &[u8] = b"rfc4106(gcm(aes))";
/// Bits of the integrity check value.
const ICV_BITS: u32 = 128;

/// An AES-128 key and the salt behind it. Not shown in any text.
#[derive(Clone, PartialEq, Eq)]
pub struct Keymat(pub [u8; 20]);

impl fmt::Debug for Keymat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keymat(..)")
    }
}

/// A mark and the bits of it that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The mark.
    pub value: u32,
    /// The bits.
    pub mask: u32,
}

/// How sequence numbers are kept and looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// 32 bits wide; packets later than the window (at most 32) are dropped, with 0 none.
    Short(u8),
    /// 64 bits wide (RFC 4304), and the window in packets.
    Extended(u32),
}

/// A state: how packets from one node to another are encrypted, or decrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The node that encrypts.
    pub from: IpAddr,
    /// The node that decrypts.
    pub to: IpAddr,
    /// Its number in packets.
    pub spi: u32,
    /// What policies ask for it by.
    pub reqid: u32,
    /// The key.
    pub keymat: Keymat,
    /// Sequence numbers.
    pub replay: Replay,
    /// May the packet inside be of the other family (`XFRM_STATE_AF_UNSPEC`)?
    pub any_family: bool,
    /// Only packets with this mark.
    pub mark: Option<Mark>,
    /// The mark that packets have afterwards.
    pub output_mark: Option<Mark>,
}

/// Which packets a policy is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To this node.
    In,
    /// From this node, forwarded or its own.
    Out,
    /// Passing through it.
    Forward,
}

/// What a policy wants to have been done, or does, to packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// They go through a tunnel, or came out of one.
    Tunnel {
        /// The near end; unspecified: any.
        from: IpAddr,
        /// The far end; unspecified: any.
        to: IpAddr,
        /// Of the states that will do; 0: any.
        reqid: u32,
        /// Of the state that will do; 0: any.
        spi: u32,
        /// Packets that did not are let through, too.
        optional: bool,
    },
    /// They are dropped.
    Block,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Which packets.
    pub direction: Direction,
    /// Their sources.
    pub from: IpNet,
    /// Their destinations.
    pub to: IpNet,
    /// Only packets with this mark.
    pub mark: Option<Mark>,
    /// The lowest number is asked first.
    pub priority: u32,
    /// What it wants.
    pub action: Action,
}

/// A state as the kernel has it, without its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundState {
    /// The node that encrypts.
    pub from: IpAddr,
    /// The node that decrypts.
    pub to: IpAddr,
    /// Its number in packets.
    pub spi: u32,
    /// What policies ask for it by.
    pub reqid: u32,
    /// `XFRM_MODE_*`.
    pub mode: u8,
    /// Sequence numbers.
    pub replay: Replay,
    /// The cipher's name; None: it only waits for a key.
    pub cipher: Option<String>,
    /// Packets that it worked on.
    pub packets: u64,
    /// Only packets with this mark.
    pub mark: Option<Mark>,
}

impl FoundState {
    /// Does it work in tunnel mode?
    pub fn is_tunnel(&self) -> bool {
        self.mode == XFRM_MODE_TUNNEL
    }
}

/// A policy as the kernel has it, without what it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundPolicy {
    /// Which packets.
    pub direction: Direction,
    /// Their sources.
    pub from: IpNet,
    /// Their destinations.
    pub to: IpNet,
    /// Only packets with this mark.
    pub mark: Option<Mark>,
    /// The lowest number is asked first.
    pub priority: u32,
}

impl Policy {
    /// What [`Xfrm::policies`] tells of it.
    pub fn as_found(&self) -> FoundPolicy {
        let Self { direction, from, to, mark, priority, .. } = *self;
        FoundPolicy { direction, from: from.trunc(), to: to.trunc(), mark, priority }
    }
}

/// A socket that speaks of IPsec in the network namespace it was opened in.
pub struct Xfrm(Netlink);

impl Xfrm {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel has no xfrm netlink.
    pub fn open() -> anyhow::Result<Self> {
        let netlink = Netlink::open(PROTOCOL);
        Ok(Self(netlink.context("cannot open an xfrm netlink socket (CONFIG_XFRM_USER)")?))
    }

    /// Adds a state; it must not be there.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn add_state(&mut self, state: &State) -> anyhow::Result<()> {
        let what = format!("add {state}");
        let message = XfrmMessage::AddSa(encode_state(state));
        self.one(request(what, NLM_F_CREATE | NLM_F_EXCL, &message))?.map_or(Ok(()), refused)
    }

    /// Removes a state; one that is not there is no error.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn remove_state(&mut self, state: &State) -> anyhow::Result<()> {
        let mut id = UserSaId { spi: state.spi, proto: IPPROTO_ESP, ..UserSaId::default() };
        id.destination(&state.to);
        let mut nlas = vec![XfrmAttrs::SrcAddr(Address::from_ip(&state.from))];
        nlas.extend(state.mark.map(mark));
        let message = XfrmMessage::DeleteSa(state::DelGetMessage { user_sa_id: id, nlas });
        self.gone(request(format!("remove {state}"), 0, &message))
    }

    /// Adds a policy, or puts it in the place of one of the same direction, addresses and mark.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn set_policy(&mut self, policy: &Policy) -> anyhow::Result<()> {
        let message = XfrmMessage::UpdatePolicy(encode_policy(policy));
        self.one(request(format!("set {policy}"), 0, &message))?.map_or(Ok(()), refused)
    }

    /// Removes a policy; one that is not there is no error.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn remove_policy(&mut self, policy: &Policy) -> anyhow::Result<()> {
        let (selector, direction) = (selector(policy), policy.direction.code());
        let id = UserPolicyId { selector, direction, ..UserPolicyId::default() };
        let nlas = policy.mark.map(mark).into_iter().collect();
        let message = XfrmMessage::DeletePolicy(policy::DelGetMessage { user_policy_id: id, nlas });
        self.gone(request(format!("remove {policy}"), 0, &message))
    }

    /// All states.
    ///
    /// # Errors
    /// The kernel's reason, or an answer that cannot be read.
    pub fn states(&mut self) -> anyhow::Result<Vec<FoundState>> {
        let dump = XfrmMessage::GetDumpSa(state::GetDumpMessage { nlas: Vec::new() });
        let answers = self.0.ask(&request("list IPsec states".to_owned(), NLM_F_DUMP, &dump))?;
        let found = answers.iter().map(|(_, body)| {
            let message = state::ModifyMessage::parse(body.as_slice());
            message.map(|m| found(&m)).map_err(|e| anyhow!("an IPsec state: {e}"))
        });
        found.collect()
    }

    /// All policies that nodes have (sockets may have some of their own), without what they want.
    ///
    /// # Errors
    /// The kernel's reason, or an answer that cannot be read.
    pub fn policies(&mut self) -> anyhow::Result<Vec<FoundPolicy>> {
        let dump = XfrmMessage::GetPolicy(policy::DelGetMessage::default());
        let answers = self.0.ask(&request("list IPsec policies".to_owned(), NLM_F_DUMP, &dump))?;
        let mut found = Vec::new();
        for (_, body) in answers {
            let message = policy::ModifyMessage::parse(body.as_slice());
            let message = message.map_err(|e| anyhow!("an IPsec policy: {e}"))?;
            found.extend(found_policy(&message));
        }
        Ok(found)
    }

    fn one(&mut self, request: Request) -> anyhow::Result<Option<Refused>> {
        Ok(self.0.apply(&[request])?.pop())
    }

    fn gone(&mut self, request: Request) -> anyhow::Result<()> {
        match self.one(request)? {
            Some(no) if !matches!(no.errno(), Some(libc::ESRCH | libc::ENOENT)) => refused(no),
            _ => Ok(()),
        }
    }
}

fn refused(refused: Refused) -> anyhow::Result<()> {
    Err(refused.into())
}

impl Direction {
    fn code(self) -> u8 {
        match self {
            Self::In => XFRM_POLICY_IN,
            Self::Out => XFRM_POLICY_OUT,
            Self::Forward => XFRM_POLICY_FWD,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IPsec state {:#x} from {} to {}", self.spi, self.from, self.to)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { direction, from, to, .. } = self;
        write!(f, "IPsec policy {direction:?} from {from} to {to}")
    }
}

fn request(what: String, flags: u16, message: &XfrmMessage) -> Request {
    let mut body = vec![0; message.buffer_len()];
    message.emit(&mut body);
    Request { kind: message.message_type(), flags, body, what }
}

fn family(ip: IpAddr) -> u16 {
    if ip.is_ipv4() { libc::AF_INET as u16 } else { libc::AF_INET6 as u16 }
}

fn mark(mark: Mark) -> XfrmAttrs {
    XfrmAttrs::Mark(netlink_packet_xfrm::Mark { value: mark.value, mask: mark.mask })
}

fn encode_state(state: &State) -> state::ModifyMessage {
    let mut info = UserSaInfo {
        id: Id { daddr: Address::from_ip(&state.to), spi: state.spi, proto: IPPROTO_ESP },
        saddr: Address::from_ip(&state.from),
        reqid: state.reqid,
        family: family(state.to),
        mode: XFRM_MODE_TUNNEL,
        ..UserSaInfo::default()
    };
    if state.any_family {
        info.flags |= XFRM_STATE_AF_UNSPEC;
    } else {
        info.selector.family = info.family;
    }
    let mut name = [0; 64];
    name[..CIPHER.len()].copy_from_slice(CIPHER);
    let mut nlas = vec![XfrmAttrs::EncryptionAlgAead(AlgAead {
        alg_name: name,
        alg_key_len: 8 * state.keymat.0.len() as u32,
        alg_icv_len: ICV_BITS,
        alg_key: state.keymat.0.to_vec(),
    })];
    match state.replay {
        Replay::Short(window) => info.replay_window = window,
        Replay::Extended(replay_window) => {
            info.flags |= XFRM_STATE_ESN;
            let words = replay_window.div_ceil(u32::BITS);
            nlas.push(XfrmAttrs::ReplayStateEsn(ReplayEsn {
                bmp_len: words,
                replay_window,
                bmp: vec![0; words as usize],
                ..ReplayEsn::default()
            }));
        }
    }
    nlas.extend(state.mark.map(mark));
    if let Some(mark) = state.output_mark {
        nlas.extend([XfrmAttrs::MarkVal(mark.value), XfrmAttrs::MarkMask(mark.mask)]);
    }
    state::ModifyMessage { user_sa_info: info, nlas }
}

fn selector(policy: &Policy) -> Selector {
    let mut selector = Selector::default();
    selector.source_prefix(&policy.from.network(), policy.from.prefix_len());
    selector.destination_prefix(&policy.to.network(), policy.to.prefix_len());
    selector
}

fn encode_policy(policy: &Policy) -> policy::ModifyMessage {
    let mut info = UserPolicyInfo {
        selector: selector(policy),
        priority: policy.priority,
        direction: policy.direction.code(),
        action: XFRM_POLICY_ALLOW,
        ..UserPolicyInfo::default()
    };
    let mut nlas = Vec::new();
    match policy.action {
        Action::Block => info.action = XFRM_POLICY_BLOCK,
        Action::Tunnel { from, to, reqid, spi, optional } => {
            let mut template = UserTemplate::default();
            template.source(&from);
            template.destination(&to);
            template.protocol(IPPROTO_ESP);
            template.mode(XFRM_MODE_TUNNEL);
            template.spi(spi);
            template.reqid(reqid);
            template.optional(optional);
            nlas.push(XfrmAttrs::Template(vec![template]));
        }
    }
    nlas.extend(policy.mark.map(mark));
    policy::ModifyMessage { user_policy_info: info, nlas }
}

fn found(message: &state::ModifyMessage) -> FoundState {
    let info = &message.user_sa_info;
    let v4 = info.family == libc::AF_INET as u16;
    let ip = |address: &Address| -> IpAddr {
        if v4 { address.to_ipv4().into() } else { address.to_ipv6().into() }
    };
    let mut found = FoundState {
        from: ip(&info.saddr),
        to: ip(&info.id.daddr),
        spi: info.id.spi,
        reqid: info.reqid,
        mode: info.mode,
        replay: Replay::Short(info.replay_window),
        cipher: None,
        packets: info.lifetime_cur.packets,
        mark: None,
    };
    for attribute in &message.nlas {
        match attribute {
            XfrmAttrs::EncryptionAlgAead(cipher) => {
                let name = cipher.alg_name.split(|byte| *byte == 0).next().unwrap_or_default();
                found.cipher = Some(String::from_utf8_lossy(name).into_owned());
            }
            XfrmAttrs::ReplayStateEsn(esn) if info.flags & XFRM_STATE_ESN != 0 => {
                found.replay = Replay::Extended(esn.replay_window);
            }
            XfrmAttrs::Mark(m) => found.mark = Some(Mark { value: m.value, mask: m.mask }),
            _ => {}
        }
    }
    found
}

/// None for the policy of a socket.
fn found_policy(message: &policy::ModifyMessage) -> Option<FoundPolicy> {
    let info = &message.user_policy_info;
    let all = [Direction::In, Direction::Out, Direction::Forward];
    let direction = all.into_iter().find(|d| d.code() == info.direction)?;
    let v4 = info.selector.family == libc::AF_INET as u16;
    let net = |address: &Address, bits| {
        let ip: IpAddr = if v4 { address.to_ipv4().into() } else { address.to_ipv6().into() };
        IpNet::new(ip, bits).ok()
    };
    let mark = message.nlas.iter().find_map(|attribute| match attribute {
        XfrmAttrs::Mark(m) => Some(Mark { value: m.value, mask: m.mask }),
        _ => None,
    });
    Some(FoundPolicy {
        direction,
        from: net(&info.selector.saddr, info.selector.prefixlen_s)?,
        to: net(&info.selector.daddr, info.selector.prefixlen_d)?,
        mark,
        priority: info.priority,
    })
}

/// Everything of a family.
pub fn anything(v4: bool) -> IpNet {
    match v4 {
        true => ipnet::Ipv4Net::default().into(),
        false => ipnet::Ipv6Net::default().into(),
    }
}

/// No address of a family: any will do.
pub fn nowhere(v4: bool) -> IpAddr {
    if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            from: "10.66.0.1".parse().unwrap(),
            to: "10.66.0.2".parse().unwrap(),
            spi: 0xc000_0001,
            reqid: 11,
            keymat: Keymat([7; 20]),
            replay: Replay::Short(32),
            any_family: true,
            mark: None,
            output_mark: None,
        }
    }

    fn bytes(state: &State) -> Vec<u8> {
        request(String::new(), 0, &XfrmMessage::AddSa(encode_state(state))).body
    }

    /// The value of an attribute behind `struct xfrm_usersa_info`.
    fn attribute(bytes: &[u8], wanted: u16) -> Option<Vec<u8>> {
        let mut rest = &bytes[224..];
        while let Some(head) = rest.first_chunk::<4>() {
            let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
            if u16::from_ne_bytes([head[2], head[3]]) == wanted {
                return Some(rest[4..length].to_vec());
            }
            rest = &rest[length.next_multiple_of(4)..];
        }
        None
    }

    #[test]
    fn a_state_is_laid_out_as_the_kernel_reads_it() {
        let bytes = bytes(&state());
        // struct xfrm_usersa_info: id.daddr, id.spi, id.proto; saddr; lft without limits.
        assert_eq!(bytes[56..60], [10, 66, 0, 2]);
        assert_eq!(bytes[72..77], [0xc0, 0, 0, 1, 50]);
        assert_eq!(bytes[80..84], [10, 66, 0, 1]);
        assert_eq!(bytes[96..128], [0xff; 32]);
        // reqid, family, tunnel mode, window, XFRM_STATE_AF_UNSPEC.
        assert_eq!(bytes[208..217], [11, 0, 0, 0, 2, 0, 1, 32, 32]);
        // XFRMA_ALG_AEAD: name, bits of key and salt, bits of the check value, both.
        let cipher = attribute(&bytes, 18).unwrap();
        assert_eq!(&cipher[..18], b"rfc4106(gcm(aes))\0");
        assert_eq!(cipher[64..72], [160, 0, 0, 0, 128, 0, 0, 0]);
        assert_eq!(cipher[72..], [7; 20]);
        assert_eq!(attribute(&bytes, 23), None);
    }

    #[test]
    fn extended_numbers_bring_their_own_window() {
        let mark = Mark { value: 0xe00, mask: 0xff00 };
        let state = State {
            replay: Replay::Extended(1024),
            any_family: false,
            mark: Some(mark),
            output_mark: Some(mark),
            ..state()
        };
        let bytes = bytes(&state);
        // The window of struct xfrm_usersa_info is none, XFRM_STATE_ESN is set, the selector has a family.
        assert_eq!(bytes[215..217], [0, 128]);
        assert_eq!(bytes[40..42], [2, 0]);
        let esn = attribute(&bytes, 23).unwrap();
        assert_eq!((esn.len(), esn[0], esn[20..24].to_vec()), (24 + 128, 32, vec![0, 4, 0, 0]));
        assert_eq!(attribute(&bytes, 21).unwrap(), [0, 0xe, 0, 0, 0, 0xff, 0, 0]);
        assert_eq!(attribute(&bytes, 29).unwrap(), [0, 0xe, 0, 0]);
        assert_eq!(attribute(&bytes, 30).unwrap(), [0, 0xff, 0, 0]);
        let read = state::ModifyMessage::parse(bytes.as_slice()).unwrap();
        let found = found(&read);
        assert_eq!((found.replay, found.mark), (Replay::Extended(1024), Some(mark)));
        assert_eq!((found.spi, found.from), (state.spi, state.from));
    }

    #[test]
    fn a_policy_has_its_template() {
        let policy = Policy {
            direction: Direction::Out,
            from: "10.244.0.0/24".parse().unwrap(),
            to: "10.244.1.0/24".parse().unwrap(),
            mark: None,
            priority: 0,
            action: Action::Tunnel {
                from: "10.66.0.1".parse().unwrap(),
                to: "10.66.0.2".parse().unwrap(),
                reqid: 11,
                spi: 0,
                optional: false,
            },
        };
        let message = XfrmMessage::UpdatePolicy(encode_policy(&policy));
        let bytes = request(String::new(), 0, &message).body;
        // struct xfrm_userpolicy_info: destination and source with their lengths, direction out, allow.
        assert_eq!((&bytes[..4], &bytes[16..20]), (&[10, 244, 1, 0][..], &[10, 244, 0, 0][..]));
        assert_eq!(bytes[40..44], [2, 0, 24, 24]);
        assert_eq!(bytes[160..162], [1, 0]);
        // XFRMA_TMPL: far end, ESP, near end, reqid, tunnel mode.
        let template = &bytes[168..];
        assert_eq!(template[..8], [68, 0, 5, 0, 10, 66, 0, 2]);
        assert_eq!((template[24], &template[32..36]), (50, &[10, 66, 0, 1][..]));
        assert_eq!(template[48..53], [11, 0, 0, 0, 1]);
        let read = policy::ModifyMessage::parse(bytes.as_slice()).unwrap();
        assert_eq!(found_policy(&read), Some(policy.as_found()));
        let block = Policy { action: Action::Block, ..policy };
        let message = XfrmMessage::UpdatePolicy(encode_policy(&block));
        let bytes = request(String::new(), 0, &message).body;
        assert_eq!((bytes.len(), bytes[161]), (168, 1));
    }

    #[test]
    fn keys_are_in_no_text() {
        assert_eq!(format!("{:?}", state().keymat), "Keymat(..)");
        let text = format!("{}{:?}", state(), state());
        assert!(text.contains("Keymat(..)") && !text.contains("7, 7"), "{text}");
    }
}

//! IPsec between nodes as the CNIs program it: the states and policies of a node, and their keys.
//!
//! Owns what flannel-ipsec and ebpf-ipsec share; the way of packets to the policies is theirs. Tunnel
//! mode, ESP with rfc4106(gcm(aes)): 16 bytes of key, 4 of salt, a check value of 128 bits. Followed:
//!
//! - [`Way::Flannel`]: flannel-io/flannel v0.28, pkg/backend/ipsec. Policies from pod range to pod range
//!   with reqid 11, out, in and forward, priority 0 (handle_xfrm.go: AddXFRMPolicy). The states are
//!   charon's, negotiated in tunnel mode with aes128gcm16, which does not offer extended sequence
//!   numbers (handle_charon.go: LoadConnection; ipsec.go: defaultESPProposal). strongSwan 5.9,
//!   src/libcharon/plugins/kernel_netlink/kernel_netlink_ipsec.c (add_sa): the flag AF_UNSPEC, a
//!   replay window of 32 packets (`charon.replay_window`) where packets come in and none where they go
//!   out. Here nobody negotiates: keys and numbers come from a secret of the cluster, and states have no
//!   lifetime (there an hour).
//! - [`Way::Cilium`]: cilium/cilium v1.20, pkg/datapath/linux/ipsec/ipsec_linux.go (ipSecNewState:
//!   extended sequence numbers, a window of 1024; generateEncryptMark, generateDecryptMark,
//!   ipSecReplaceStateIn, ipSecReplaceStateOut: marks with the node's number and, outwards, the key's;
//!   ipSecReplacePolicyOut, ...In, ...Fwd, IPsecDefaultDropPolicy) and pkg/datapath/linux/ipsec.go
//!   (enableIPSecIPv4Do: from anywhere to a peer's pods). A key for each pair and direction out of one
//!   for all (computeNodeIPsecKey). The tunnel's ends are the nodes' addresses, which Cilium takes only
//!   where pods have subnets of their own (enableIPSecIPv4DoSubnetEncryption), else its own device's.

use super::{Facts, Keys, NodeCtx, Peer};
use crate::netlink::{
    Netns,
    xfrm::{
        Action, Direction, FoundState, Keymat, Mark, Policy, Replay, State, Xfrm, anything, nowhere,
    },
};
use anyhow::{Context as _, bail, ensure};
use async_trait::async_trait;
use ipnet::IpNet;
use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use std::{fmt, net::IpAddr, sync::Arc};
use tokio::sync::Mutex;

/// `defaultReqID` of Flannel's ipsec_network.go.
const FLANNEL_REQID: u32 = 11;
/// `charon.replay_window`.
const FLANNEL_WINDOW: u8 = 32;
/// Where charon's numbers of states begin (`charon.spi_min`), and what varies.
const FLANNEL_SPI: (u32, u32) = (0xc000_0000, 0x0fff_ffff);
/// `DefaultReqID` of Cilium's ipsec_linux.go.
const CILIUM_REQID: u32 = 1;
/// `ReplayWindow` there.
const CILIUM_WINDOW: u32 = 1024;
/// Keys are numbered from 1 to this (linux_defaults.go: IPsecMaxKeyVersion); the first here is 3, as in
/// Cilium's guide.
const CILIUM_MOST: u32 = 15;
const CILIUM_FIRST: u32 = 3;
/// mark.go: MagicMarkEncrypt, MagicMarkDecrypt.
const ENCRYPT: u32 = 0x0e00;
const DECRYPT: u32 = 0x0d00;
/// linux_defaults.go: IPsecMarkBitMask, IPsecMarkMaskOut, IPsecMarkMaskIn, OutputMarkMask.
const MASK_BITS: u32 = 0x0f00;
const MASK_OUT: u32 = 0xffff_ff00;
const MASK_IN: u32 = 0xffff_0f00;
const MASK_AFTER: u32 = 0xffff_ff00;
/// linux_defaults.go: IPsecFwdPriority; ipsec_linux.go: defaultDropPriority.
const FORWARD_PRIORITY: u32 = 0x0b9f;
const DROP_PRIORITY: u32 = 100;

/// Bytes that a packet grows by without its padding: ESP header, IV, trailer, check value (RFC 4303,
/// RFC 4106).
const FIXED: u32 = 8 + 8 + 2 + 16;

/// The largest packet of a pod that fits an underlay in tunnel mode, between nodes of this family: what
/// is encrypted is filled up to 4 bytes (esp_output_head; xfrm_state_mtu says the same).
pub fn most(underlay_mtu: u32, v4: bool) -> u32 {
    let outer = if v4 { 20 } else { 40 };
    let inner = underlay_mtu.saturating_sub(outer + FIXED - 2);
    (inner & !3).saturating_sub(2)
}

/// Which CNI is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Flannel, with strongSwan.
    Flannel,
    /// Cilium.
    Cilium,
}

/// What all keys of a cluster come from. Never shown.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// A new one.
    pub fn random() -> Self {
        Self(rand::rng().random())
    }

    /// The key for packets from one node to another, and a number that belongs to it.
    fn derive(&self, generation: u32, from: IpAddr, to: IpAddr) -> (Keymat, u32) {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(generation.to_be_bytes());
        hash.update(format!("{from} {to}"));
        let digest: [u8; 32] = hash.finalize().into();
        let (mut keymat, mut number) = ([0; 20], [0; 4]);
        keymat.copy_from_slice(&digest[..20]);
        number.copy_from_slice(&digest[20..24]);
        (Keymat(keymat), u32::from_be_bytes(number))
    }
}

/// A peer in one address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// Which node it is.
    pub peer: u32,
    /// This node's address.
    pub own: IpAddr,
    /// The peer's.
    pub remote: IpAddr,
    /// This node's pods.
    pub own_pods: IpNet,
    /// The peer's.
    pub remote_pods: IpNet,
}

impl Pair {
    /// The pairs of a node with its peers.
    ///
    /// # Errors
    /// One of the two has no address of a family that the peer has pods in.
    pub fn all(node: &NodeCtx, peers: &[Peer]) -> anyhow::Result<Vec<Self>> {
        let mut all = Vec::new();
        for peer in peers {
            for remote_pods in &peer.pod_cidrs {
                let like = remote_pods.addr();
                let own_pods = node.pod_cidrs.iter().find(|c| c.addr().is_ipv4() == like.is_ipv4());
                let remote = peer.addr_like(like);
                all.push(Self {
                    peer: peer.index,
                    own: node.addr_like(like).context("the node has no address of this family")?,
                    remote: remote
                        .with_context(|| format!("node {} has no address", peer.index))?,
                    own_pods: *own_pods.context("the node has no pods of this family")?,
                    remote_pods: *remote_pods,
                });
            }
        }
        Ok(all)
    }

    /// The mark that has a packet encrypted for the peer ([`Way::Cilium`]).
    pub fn encrypt_mark(&self, generation: u32) -> u32 {
        ENCRYPT | Way::Cilium.spi(generation, 0) << 12 | number(self.peer) << 16
    }
}

/// The number by which marks name a node; 0 would be none.
fn number(node: u32) -> u32 {
    (node + 1) & 0xffff
}

/// The mark that has a packet of a peer decrypted ([`Way::Cilium`]).
pub fn decrypt_mark(peer: u32) -> u32 {
    DECRYPT | number(peer) << 16
}

/// The mark that decrypted packets have ([`Way::Cilium`]).
pub const DECRYPTED: u32 = DECRYPT;

impl Way {
    fn spi(self, generation: u32, number: u32) -> u32 {
        match self {
            Self::Flannel => FLANNEL_SPI.0 | number & FLANNEL_SPI.1,
            Self::Cilium => (generation + CILIUM_FIRST - 1) % CILIUM_MOST + 1,
        }
    }

    /// The state for packets to the peer.
    fn outwards(self, pair: &Pair, secret: &Secret, generation: u32) -> State {
        let state = self.state(pair.own, pair.remote, secret, generation);
        let value = pair.encrypt_mark(generation);
        match self {
            Self::Flannel => State { replay: Replay::Short(0), ..state },
            Self::Cilium => State {
                mark: Some(Mark { value, mask: MASK_OUT }),
                output_mark: Some(Mark { value: ENCRYPT, mask: MASK_AFTER }),
                ..state
            },
        }
    }

    /// The state for packets of the peer.
    fn inwards(self, pair: &Pair, secret: &Secret, generation: u32) -> State {
        let state = self.state(pair.remote, pair.own, secret, generation);
        match self {
            Self::Flannel => state,
            Self::Cilium => State {
                mark: Some(Mark { value: decrypt_mark(pair.peer), mask: MASK_IN }),
                output_mark: Some(Mark { value: DECRYPTED, mask: MASK_AFTER }),
                ..state
            },
        }
    }

    fn state(self, from: IpAddr, to: IpAddr, secret: &Secret, generation: u32) -> State {
        let (keymat, number) = secret.derive(generation, from, to);
        let (reqid, replay, any_family) = match self {
            Self::Flannel => (FLANNEL_REQID, Replay::Short(FLANNEL_WINDOW), true),
            Self::Cilium => (CILIUM_REQID, Replay::Extended(CILIUM_WINDOW), false),
        };
        let spi = self.spi(generation, number);
        State { from, to, spi, reqid, keymat, replay, any_family, mark: None, output_mark: None }
    }

    /// The policy for packets to the peer.
    fn policy_out(self, pair: &Pair, generation: u32) -> Policy {
        let Pair { own: from, remote: to, .. } = *pair;
        let tunnel = |reqid, spi| Action::Tunnel { from, to, reqid, spi, optional: false };
        let (from, mark, action) = match self {
            Self::Flannel => (pair.own_pods, None, tunnel(FLANNEL_REQID, 0)),
            Self::Cilium => {
                let mark = Mark { value: pair.encrypt_mark(generation), mask: MASK_OUT };
                let action = tunnel(CILIUM_REQID, self.spi(generation, 0));
                (anything(pair.own.is_ipv4()), Some(mark), action)
            }
        };
        let (direction, to) = (Direction::Out, pair.remote_pods);
        Policy { direction, from, to, mark, priority: 0, action }
    }

    /// The policies that stay as they are when keys change.
    fn policies(self, pair: &Pair) -> Vec<Policy> {
        let v4 = pair.own.is_ipv4();
        match self {
            Self::Flannel => [Direction::In, Direction::Forward]
                .map(|direction| Policy {
                    direction,
                    from: pair.remote_pods,
                    to: pair.own_pods,
                    mark: None,
                    priority: 0,
                    action: Action::Tunnel {
                        from: pair.remote,
                        to: pair.own,
                        reqid: FLANNEL_REQID,
                        spi: 0,
                        optional: false,
                    },
                })
                .into(),
            Self::Cilium => {
                let any = anything(v4);
                let of = |direction, priority, mark, action| Policy {
                    direction,
                    from: any,
                    to: any,
                    mark,
                    priority,
                    action,
                };
                let (from, to) = (nowhere(v4), nowhere(v4));
                let optional = Action::Tunnel { from, to, reqid: 0, spi: 0, optional: true };
                let unencrypted = Mark { value: ENCRYPT, mask: MASK_BITS };
                vec![
                    of(Direction::In, 0, None, optional.clone()),
                    of(Direction::Forward, FORWARD_PRIORITY, None, optional),
                    of(Direction::Out, DROP_PRIORITY, Some(unencrypted), Action::Block),
                ]
            }
        }
    }
}

/// What else there is to do on a node when packets to its peers take another key: it is given the pairs
/// and the key's generation.
pub type OnSend = Box<dyn Fn(&[Pair], u32) -> anyhow::Result<()> + Send + Sync>;

/// The states and policies of one node.
pub struct Associations {
    node: Arc<NodeCtx>,
    way: Way,
    secret: Secret,
    on_send: Option<OnSend>,
    held: Mutex<Held>,
}

/// What a node has.
#[derive(Default)]
struct Held {
    pairs: Vec<Pair>,
    /// Keys are numbered by how often they were changed: the one that is sent with.
    sends: u32,
    /// Those that are accepted.
    accepts: Vec<u32>,
    /// Were they taken away?
    removed: bool,
}

impl Associations {
    /// None yet, on a node.
    pub fn new(node: Arc<NodeCtx>, way: Way, secret: Secret) -> Self {
        Self { node, way, secret, on_send: None, held: Mutex::default() }
    }

    /// The same with something else to do when packets take another key.
    pub fn with_on_send(self, on_send: OnSend) -> Self {
        Self { on_send: Some(on_send), ..self }
    }

    /// Programs states and policies for all peers.
    ///
    /// # Errors
    /// What the kernel refused, and why.
    pub async fn join(&self, peers: &[Peer]) -> anyhow::Result<()> {
        let mut held = self.held.lock().await;
        let pairs = Pair::all(&self.node, peers)?;
        self.tell(&pairs, 0)?;
        *held = Held { pairs, sends: 0, accepts: vec![0], removed: false };
        let (states, policies) = (self.states(&held), self.policies(&held));
        self.run(move |xfrm| {
            add(xfrm, &states)?;
            policies.iter().try_for_each(|policy| xfrm.set_policy(policy))
        })
        .await
    }

    /// Has the kernel every state and policy as they were programmed?
    ///
    /// # Errors
    /// The first that is missing or another.
    pub async fn check(&self) -> anyhow::Result<()> {
        let held = self.held.lock().await;
        ensure!(!held.removed, "its IPsec states were taken away");
        let (states, policies) = (self.states(&held), self.policies(&held));
        let (have, have_policies) = self.run(|xfrm| Ok((xfrm.states()?, xfrm.policies()?))).await?;
        for state in &states {
            let same = |f: &&FoundState| (f.from, f.to, f.spi) == (state.from, state.to, state.spi);
            let found = have.iter().find(same);
            let found = found.with_context(|| format!("{state}: is gone"))?;
            ensure!(
                (found.reqid, found.replay, found.mark) == (state.reqid, state.replay, state.mark)
                    && found.is_tunnel()
                    && found.cipher.as_deref() == Some("rfc4106(gcm(aes))"),
                "{state}: is now {found:?}"
            );
        }
        let gone = policies.iter().find(|policy| !have_policies.contains(&policy.as_found()));
        gone.map_or(Ok(()), |policy| bail!("{policy}: is gone"))
    }

    /// Every state that the node should have now.
    fn states(&self, held: &Held) -> Vec<State> {
        let inwards = held.accepts.iter().flat_map(|generation| {
            held.pairs.iter().map(|pair| self.way.inwards(pair, &self.secret, *generation))
        });
        let outwards =
            held.pairs.iter().map(|pair| self.way.outwards(pair, &self.secret, held.sends));
        inwards.chain(outwards).collect()
    }

    fn policies(&self, held: &Held) -> Vec<Policy> {
        let of = |pair: &Pair| {
            let mut all = self.way.policies(pair);
            all.push(self.way.policy_out(pair, held.sends));
            all
        };
        held.pairs.iter().flat_map(of).collect()
    }

    fn tell(&self, pairs: &[Pair], generation: u32) -> anyhow::Result<()> {
        self.on_send.as_ref().map_or(Ok(()), |tell| tell(pairs, generation))
    }

    async fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Xfrm) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let netns: &Netns = &self.node.netns;
        netns.run(move || f(&mut Xfrm::open()?)).await
    }
}

fn add(xfrm: &mut Xfrm, states: &[State]) -> anyhow::Result<()> {
    states.iter().try_for_each(|state| xfrm.add_state(state))
}

fn remove(xfrm: &mut Xfrm, states: &[State]) -> anyhow::Result<()> {
    states.iter().try_for_each(|state| xfrm.remove_state(state))
}

#[async_trait]
impl Keys for Associations {
    fn describe(&self) -> &'static str {
        match self.way {
            Way::Flannel => {
                "IPsec states: new ones are accepted, then sent with, then the old ones go, as when \
                 strongSwan rekeys"
            }
            Way::Cilium => {
                "IPsec states and the number of the key: new ones are accepted, then the policy and \
                 the mark take them, then the old ones go, as when Cilium's secret changes"
            }
        }
    }

    async fn remove(&self) -> anyhow::Result<()> {
        let mut held = self.held.lock().await;
        let states = self.states(&held);
        // Policies stay: what they want to be encrypted and cannot be is dropped.
        self.run(move |xfrm| remove(xfrm, &states)).await?;
        held.removed = true;
        Ok(())
    }

    async fn restore(&self) -> anyhow::Result<()> {
        let mut held = self.held.lock().await;
        if held.removed {
            let states = self.states(&held);
            self.run(move |xfrm| add(xfrm, &states)).await?;
            held.removed = false;
        }
        Ok(())
    }

    async fn renew(&self) -> anyhow::Result<Facts> {
        let mut held = self.held.lock().await;
        ensure!(!held.removed, "node {}: its keys were taken away", self.node.index);
        let next = held.sends + 1;
        if !held.accepts.contains(&next) {
            let of = |pair: &Pair| self.way.inwards(pair, &self.secret, next);
            let states: Vec<State> = held.pairs.iter().map(of).collect();
            self.run(move |xfrm| add(xfrm, &states)).await?;
            held.accepts.push(next);
        }
        // All nodes know the secret, and count alike.
        Ok(Facts::new())
    }

    async fn switch(&self, _peers: &[Peer]) -> anyhow::Result<()> {
        let mut held = self.held.lock().await;
        let (old, next) = (held.sends, held.sends + 1);
        if !held.accepts.contains(&next) {
            return Ok(());
        }
        let states = |generation| -> Vec<State> {
            let of = |pair: &Pair| self.way.outwards(pair, &self.secret, generation);
            held.pairs.iter().map(of).collect()
        };
        let (new, gone) = (states(next), states(old));
        let policies: Vec<Policy> =
            held.pairs.iter().map(|pair| self.way.policy_out(pair, next)).collect();
        let way = self.way;
        self.run(move |xfrm| {
            add(xfrm, &new)?;
            match way {
                // Both would do; the kernel takes the new one when it is the only one.
                Way::Flannel => remove(xfrm, &gone),
                Way::Cilium => policies.iter().try_for_each(|policy| xfrm.set_policy(policy)),
            }
        })
        .await?;
        self.tell(&held.pairs, next)?;
        held.sends = next;
        Ok(())
    }

    async fn retire(&self) -> anyhow::Result<()> {
        let mut held = self.held.lock().await;
        let now = held.sends;
        let old: Vec<u32> = held.accepts.iter().copied().filter(|g| *g != now).collect();
        let (mut states, mut policies) = (Vec::new(), Vec::new());
        for (pair, generation) in held.pairs.iter().flat_map(|p| old.iter().map(move |g| (p, *g))) {
            states.push(self.way.inwards(pair, &self.secret, generation));
            if self.way == Way::Cilium {
                states.push(self.way.outwards(pair, &self.secret, generation));
                policies.push(self.way.policy_out(pair, generation));
            }
        }
        self.run(move |xfrm| {
            policies.iter().try_for_each(|policy| xfrm.remove_policy(policy))?;
            remove(xfrm, &states)
        })
        .await?;
        held.accepts = vec![now];
        Ok(())
    }
}

/// Which driver the kernel takes for the cipher, as /proc/crypto tells: it is what instructions are spent
/// in, and differs between CPUs. None where it is not told.
pub fn driver() -> Option<String> {
    chosen(&std::fs::read_to_string("/proc/crypto").ok()?)
}

fn chosen(list: &str) -> Option<String> {
    let field = |entry: &str, name: &str| -> Option<String> {
        let of = |line: &str| -> Option<String> {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        };
        entry.lines().find_map(of)
    };
    let ours = list.split("\n\n").filter(|e| {
        field(e, "name").is_some_and(|name| name == "seqiv(rfc4106(gcm(aes)))")
            && field(e, "internal").is_none_or(|internal| internal == "no")
    });
    let rated = ours
        .filter_map(|e| Some((field(e, "priority")?.parse::<u32>().ok()?, field(e, "driver")?)));
    rated.max().map(|(_, driver)| driver)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(own: &str, remote: &str, peer: u32) -> Pair {
        let pods = |n: u32| format!("10.244.{n}.0/24").parse().unwrap();
        Pair {
            peer,
            own: own.parse().unwrap(),
            remote: remote.parse().unwrap(),
            own_pods: pods(1 - peer),
            remote_pods: pods(peer),
        }
    }

    fn both() -> (Pair, Pair) {
        (pair("10.66.0.1", "10.66.0.2", 1), pair("10.66.0.2", "10.66.0.1", 0))
    }

    #[test]
    fn what_one_node_encrypts_the_other_decrypts() {
        let (secret, (a, b)) = (Secret([5; 32]), both());
        for way in [Way::Flannel, Way::Cilium] {
            for generation in [0, 1, 40] {
                let (out, into) =
                    (way.outwards(&a, &secret, generation), way.inwards(&b, &secret, generation));
                assert_eq!((out.from, out.to, out.spi), (into.from, into.to, into.spi));
                assert_eq!(out.keymat, into.keymat);
                // No key serves two directions, or twice: with GCM that gives the key away.
                assert!(out.keymat != way.outwards(&b, &secret, generation).keymat);
                assert!(out.keymat != way.outwards(&a, &secret, generation + 1).keymat);
                assert!(out.keymat != way.outwards(&a, &Secret([6; 32]), generation).keymat);
                assert_ne!(out.spi, way.outwards(&a, &secret, generation + 1).spi);
            }
        }
    }

    #[test]
    fn states_are_as_each_cni_makes_them() {
        let (secret, (a, _)) = (Secret([5; 32]), both());
        let (into, out) =
            (Way::Flannel.inwards(&a, &secret, 0), Way::Flannel.outwards(&a, &secret, 0));
        assert_eq!((into.replay, out.replay), (Replay::Short(32), Replay::Short(0)));
        assert_eq!(
            (into.reqid, into.any_family, into.mark, into.output_mark),
            (11, true, None, None)
        );
        assert!((0xc000_0000..=0xcfff_ffff).contains(&into.spi));
        let out = Way::Cilium.outwards(&a, &secret, 0);
        assert_eq!((out.replay, out.reqid, out.spi), (Replay::Extended(1024), 1, 3));
        assert_eq!(out.mark, Some(Mark { value: 0x0002_3e00, mask: 0xffff_ff00 }));
        assert_eq!(out.output_mark, Some(Mark { value: 0xe00, mask: 0xffff_ff00 }));
        let into = Way::Cilium.inwards(&a, &secret, 0);
        assert_eq!(into.mark, Some(Mark { value: 0x0002_0d00, mask: 0xffff_0f00 }));
        assert_eq!(into.output_mark, Some(Mark { value: 0xd00, mask: 0xffff_ff00 }));
        assert_eq!(Way::Cilium.outwards(&a, &secret, 12).spi, 15);
        assert_eq!(Way::Cilium.outwards(&a, &secret, 13).spi, 1);
    }

    #[test]
    fn policies_are_as_each_cni_makes_them() {
        let (a, _) = both();
        let out = Way::Flannel.policy_out(&a, 0);
        assert_eq!((out.from, out.to, out.priority), (a.own_pods, a.remote_pods, 0));
        let others = Way::Flannel.policies(&a);
        assert!(others.iter().all(|p| (p.from, p.to) == (a.remote_pods, a.own_pods)));
        // What is to be encrypted and has no state is dropped, never sent as it is.
        let drop = Way::Cilium.policies(&a).pop().unwrap();
        assert_eq!((drop.action, drop.priority), (Action::Block, 100));
        let mark = drop.mark.unwrap();
        assert_eq!(a.encrypt_mark(0) & mark.mask, mark.value);
        assert_ne!(Way::Cilium.policy_out(&a, 0).mark, Way::Cilium.policy_out(&a, 1).mark);
    }

    #[test]
    fn the_largest_packet_leaves_room_for_all_that_is_added() {
        // xfrm_state_mtu of Linux 6.12: ((1500 - 36 - 16) & ~3) - 2, and with IPv6 outside 56.
        assert_eq!(most(1500, true), 1446);
        assert_eq!(most(1500, false), 1426);
        for underlay in 600..700 {
            let inner = most(underlay, true);
            let packet = |inner: u32| 20 + 8 + 8 + (inner + 2).next_multiple_of(4) + 16;
            assert!(packet(inner) <= underlay && packet(inner + 1) > underlay, "{underlay}");
        }
        assert_eq!(most(10, true), 0);
    }

    #[test]
    fn the_driver_of_the_highest_priority_is_the_one_that_is_taken() {
        let list = "name         : seqiv(rfc4106(gcm(aes)))\ndriver       : seqiv(slow)\ninternal     : no\npriority     : 100\n\nname         : seqiv(rfc4106(gcm(aes)))\ndriver       : seqiv(rfc4106-gcm-aesni)\ninternal     : no\npriority     : 400\n\nname         : rfc4106(gcm(aes))\ndriver       : other\ninternal     : no\npriority     : 900\n";
        assert_eq!(chosen(list).as_deref(), Some("seqiv(rfc4106-gcm-aesni)"));
        assert_eq!(chosen(""), None);
    }

    #[test]
    fn secrets_are_in_no_text() {
        assert_eq!(format!("{:?}", Secret([7; 32])), "Secret(..)");
    }
}

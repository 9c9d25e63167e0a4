//! The packet path of the profiles `ebpf` and `ebpf-*` on one node: loads the object, attaches its
//! programs, and keeps its maps.
//!
//! Knows which maps and programs an object must have (described in this package's
//! README.md), not which addresses and devices there are: the cni says those. Everything lives as
//! descriptors of this process and ends with it; nothing is pinned.

mod counters;
pub mod layout;

pub use counters::{Counters, Outcome};
pub use layout::{Endpoint, Mac, Ports, Protocol, Route};

use crate::object::{ObjectError, Source, chain};
use aya::{
    Ebpf,
    maps::{HashMap, LpmTrie, MapData, MapError, PerCpuArray, lpm_trie::Key},
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        tc::{self, NlOptions, TcAttachOptions, TcError},
    },
};
use layout::{ENDPOINT, GATEWAY, POLICY4, POLICY6, ROUTE};
use std::net::IpAddr;

/// A place in the packet path, and the program that stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Ingress of the node's end of a pod's veth pair.
    FromPod,
    /// Ingress of the node's device towards other nodes.
    FromUnderlay,
    /// Ingress of the tunnel's device.
    FromVxlan,
    /// As `FromPod`, where what goes to other nodes is encrypted.
    FromPodEncrypted,
    /// As `FromUnderlay`, where IPsec is between nodes.
    FromUnderlayIpsec,
    /// Ingress of a WireGuard device.
    FromWireguard,
}

impl Hook {
    /// The program's name in the object.
    pub fn program(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::FromUnderlay => "from_underlay",
            Self::FromVxlan => "from_vxlan",
            Self::FromPodEncrypted => "from_pod_encrypted",
            Self::FromUnderlayIpsec => "from_underlay_ipsec",
            Self::FromWireguard => "from_wireguard",
        }
    }
}

/// How programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By tcx where the kernel has it, else by clsact.
    Best,
    /// By a tcx link, which ends with this process.
    Tcx,
    /// By a filter of a clsact qdisc, which ends with the device.
    Clsact,
}

/// Why the datapath cannot be put in place or changed.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The object or one of its programs.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A program cannot be attached.
    #[error("{program} cannot be attached to {device} ({way}): {reason}")]
    Attach {
        /// Which program.
        program: &'static str,
        /// The device.
        device: String,
        /// tcx or clsact.
        way: &'static str,
        /// The kernel's reason.
        reason: String,
    },
    /// An entry of a map.
    #[error("map {map}: {reason}")]
    Map {
        /// Which map.
        map: &'static str,
        /// The kernel's reason.
        reason: String,
    },
}

/// Entries of both families of one kind of map.
struct Pair<F, S> {
    v4: F,
    v6: S,
}

type Hash<const K: usize, const V: usize> = HashMap<MapData, [u8; K], [u8; V]>;
type Trie<const K: usize, V> = LpmTrie<MapData, [u8; K], V>;

/// One node's datapath. Dropped, its tcx links and programs are gone.
pub struct Datapath {
    // Before the maps: programs are dropped first.
    ebpf: Ebpf,
    source: Source,
    way: Way,
    endpoints: Pair<Hash<4, ENDPOINT>, Hash<16, ENDPOINT>>,
    routes: Pair<Trie<4, [u8; ROUTE]>, Trie<16, [u8; ROUTE]>>,
    gateways: Pair<Hash<4, GATEWAY>, Hash<16, GATEWAY>>,
    /// Objects may do without.
    policies: Option<Pair<Trie<POLICY4, u32>, Trie<POLICY6, u32>>>,
    /// Objects may do without.
    counters: Option<PerCpuArray<MapData, u64>>,
}

/// The object that is part of this package.
pub fn built_in() -> Source {
    crate::built_in!("datapath")
}

impl Datapath {
    /// Opens an object and has the kernel verify the programs of these hooks. Attaches nothing.
    /// Blocks.
    ///
    /// # Errors
    /// What is missing or has another shape, or the verifier's words.
    pub fn load(source: Source, hooks: &[Hook], way: Way) -> Result<Self, ObjectError> {
        let mut ebpf = source.open()?;
        for hook in hooks {
            source.load_classifier(&mut ebpf, hook.program())?;
        }
        let mut maps = Maps { ebpf: &mut ebpf, source: &source };
        let endpoints = Pair { v4: maps.need("endpoints4")?, v6: maps.need("endpoints6")? };
        let routes = Pair { v4: maps.need("routes4")?, v6: maps.need("routes6")? };
        let gateways = Pair { v4: maps.need("gateways4")?, v6: maps.need("gateways6")? };
        let policies = match (maps.take("policies4")?, maps.take("policies6")?) {
            (Some(v4), Some(v6)) => Some(Pair { v4, v6 }),
            (None, None) => None,
            _ => return Err(source.broken("it has only one of the maps policies4 and policies6")),
        };
        let counters: Option<PerCpuArray<MapData, u64>> = maps.take("counters")?;
        if let Some(counters) = &counters
            && counters.len() < Outcome::ALL.len() as u32
        {
            let (has, wants) = (counters.len(), Outcome::ALL.len());
            return Err(source.broken(format!("map counters has {has} entries instead of {wants}")));
        }
        Ok(Self { ebpf, source, way, endpoints, routes, gateways, policies, counters })
    }

    /// Attaches a program that was loaded to a device of the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn attach(&mut self, hook: Hook, device: &str) -> Result<(), DatapathError> {
        let name = hook.program();
        let program = self.ebpf.program_mut(name);
        let program = program.and_then(|p| <&mut SchedClassifier>::try_from(p).ok());
        let program =
            program.ok_or_else(|| self.source.broken(format!("it has no program {name}")))?;
        let failed = |way, e: &ProgramError| DatapathError::Attach {
            program: name,
            device: device.to_owned(),
            way,
            reason: chain(e),
        };
        if self.way != Way::Clsact {
            let order = TcAttachOptions::TcxOrder(LinkOrder::default());
            match program.attach_with_options(device, TcAttachType::Ingress, order) {
                Ok(_) => return Ok(()),
                // A kernel before 6.6 knows no such link (bpf_prog_get_type of link_create).
                Err(e) if self.way == Way::Best && is_invalid(&e) => self.way = Way::Clsact,
                Err(e) => return Err(failed("tcx", &e)),
            }
        }
        clsact(program, device).map_err(|e| failed("clsact", &e))
    }

    /// How programs were attached; [`Way::Best`] before the first.
    pub fn way(&self) -> Way {
        self.way
    }

    /// Adds or changes a pod of this node.
    ///
    /// # Errors
    /// The map is full, or the kernel's reason.
    pub fn set_endpoint(&mut self, ip: IpAddr, endpoint: &Endpoint) -> Result<(), DatapathError> {
        let value = endpoint.encode();
        match ip {
            IpAddr::V4(ip) => named("endpoints4", self.endpoints.v4.insert(ip.octets(), value, 0)),
            IpAddr::V6(ip) => named("endpoints6", self.endpoints.v6.insert(ip.octets(), value, 0)),
        }
    }

    /// Removes a pod of this node.
    ///
    /// # Errors
    /// It is not there.
    pub fn remove_endpoint(&mut self, ip: IpAddr) -> Result<(), DatapathError> {
        match ip {
            IpAddr::V4(ip) => named("endpoints4", self.endpoints.v4.remove(&ip.octets())),
            IpAddr::V6(ip) => named("endpoints6", self.endpoints.v6.remove(&ip.octets())),
        }
    }

    /// Sets the way to the addresses of a prefix.
    ///
    /// # Errors
    /// The map is full, or the kernel's reason.
    pub fn set_route(&mut self, to: IpAddr, bits: u8, route: &Route) -> Result<(), DatapathError> {
        let (bits, value) = (u32::from(bits), route.encode());
        match to {
            IpAddr::V4(ip) => {
                named("routes4", self.routes.v4.insert(&Key::new(bits, ip.octets()), value, 0))
            }
            IpAddr::V6(ip) => {
                named("routes6", self.routes.v6.insert(&Key::new(bits, ip.octets()), value, 0))
            }
        }
    }

    /// Has the program answer ARP requests or neighbour solicitations of pods for this address.
    ///
    /// # Errors
    /// The map is full, or the kernel's reason.
    pub fn set_gateway(&mut self, ip: IpAddr, mac: Mac) -> Result<(), DatapathError> {
        let value = layout::gateway(mac);
        match ip {
            IpAddr::V4(ip) => named("gateways4", self.gateways.v4.insert(ip.octets(), value, 0)),
            IpAddr::V6(ip) => named("gateways6", self.gateways.v6.insert(ip.octets(), value, 0)),
        }
    }

    /// Has it maps for allow lists?
    pub fn has_policies(&self) -> bool {
        self.policies.is_some()
    }

    /// Admits a source to an endpoint that has a policy.
    ///
    /// # Errors
    /// The map is full, the object has none, or the kernel's reason.
    pub fn allow(
        &mut self,
        endpoint: u32,
        source: IpAddr,
        bits: u8,
        ports: Ports,
    ) -> Result<(), DatapathError> {
        let policies = policies(&mut self.policies)?;
        match source {
            IpAddr::V4(ip) => {
                let (bits, key) = layout::policy(endpoint, ports, &ip.octets(), bits);
                named("policies4", policies.v4.insert(&Key::new(bits, key), 1, 0))
            }
            IpAddr::V6(ip) => {
                let (bits, key) = layout::policy(endpoint, ports, &ip.octets(), bits);
                named("policies6", policies.v6.insert(&Key::new(bits, key), 1, 0))
            }
        }
    }

    /// Empties an endpoint's allow list.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn forget(&mut self, endpoint: u32) -> Result<(), DatapathError> {
        let policies = policies(&mut self.policies)?;
        let ours = endpoint.to_ne_bytes();
        // All before the first is removed: the kernel's order begins anew at one that is gone.
        let of4: Result<Vec<_>, _> =
            policies.v4.keys().filter(|k| of(k, |key| key.data()[..4] == ours)).collect();
        let of6: Result<Vec<_>, _> =
            policies.v6.keys().filter(|k| of(k, |key| key.data()[..4] == ours)).collect();
        let of4 = of4.map_err(|e| map_error("policies4", &e))?;
        let of6 = of6.map_err(|e| map_error("policies6", &e))?;
        for key in of4 {
            named("policies4", policies.v4.remove(&key))?;
        }
        for key in of6 {
            named("policies6", policies.v6.remove(&key))?;
        }
        Ok(())
    }

    /// What was counted so far; None when the object counts nothing.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn counters(&self) -> Result<Option<Counters>, DatapathError> {
        let Some(map) = &self.counters else { return Ok(None) };
        let mut sums = [0; Outcome::ALL.len()];
        for (index, sum) in (0..).zip(&mut sums) {
            let each = map.get(&index, 0);
            let each = each.map_err(|e| map_error("counters", &e))?;
            *sum = each.iter().sum();
        }
        Ok(Some(Counters::new(sums)))
    }
}

/// Is it a key that holds, or an error, which is none to pass by?
fn of<T>(key: &Result<T, MapError>, holds: impl Fn(&T) -> bool) -> bool {
    key.as_ref().map_or(true, holds)
}

fn policies<T>(found: &mut Option<T>) -> Result<&mut T, DatapathError> {
    let reason = "this object has no such map: it enforces no policies".to_owned();
    found.as_mut().ok_or(DatapathError::Map { map: "policies4", reason })
}

fn named(map: &'static str, done: Result<(), MapError>) -> Result<(), DatapathError> {
    done.map_err(|e| map_error(map, &e))
}

fn map_error(map: &'static str, e: &MapError) -> DatapathError {
    DatapathError::Map { map, reason: chain(e) }
}

fn is_invalid(error: &ProgramError) -> bool {
    /// `EINVAL`.
    const INVALID: i32 = 22;
    matches!(error, ProgramError::SyscallError(e) if e.io_error.raw_os_error() == Some(INVALID))
}

fn clsact(program: &mut SchedClassifier, device: &str) -> Result<(), ProgramError> {
    /// `EEXIST`: the device has a clsact qdisc already.
    const EXISTS: i32 = 17;
    match tc::qdisc_add_clsact(device) {
        Err(TcError::NetlinkError(e)) if e.raw_os_error() == Some(EXISTS) => {}
        other => other?,
    }
    let options = TcAttachOptions::Netlink(NlOptions::default());
    let link = program.attach_with_options(device, TcAttachType::Ingress, options)?;
    // Dropped, it would look for the device's number in whatever namespace the dropping thread is
    // in, and take a filter of another's away. It ends with the device.
    std::mem::forget(program.take_link(link)?);
    Ok(())
}

/// Takes maps out of an object, each checked for its kind and the sizes of its key and value.
struct Maps<'a> {
    ebpf: &'a mut Ebpf,
    source: &'a Source,
}

impl Maps<'_> {
    fn take<T>(&mut self, name: &str) -> Result<Option<T>, ObjectError>
    where
        T: TryFrom<aya::maps::Map, Error = MapError>,
    {
        let Some(map) = self.ebpf.take_map(name) else { return Ok(None) };
        match T::try_from(map) {
            Ok(map) => Ok(Some(map)),
            Err(e) => Err(self.source.broken(format!("map {name}: {}", chain(&e)))),
        }
    }

    fn need<T>(&mut self, name: &str) -> Result<T, ObjectError>
    where
        T: TryFrom<aya::maps::Map, Error = MapError>,
    {
        self.take(name)?.ok_or_else(|| self.source.broken(format!("it has no map {name}")))
    }
}

//! Who has which address: nodes, pod ranges, pods, the service. As Kubernetes hands them out.

use crate::cluster::{ClusterError, IpFamily, Topology};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ports of a Linux bridge (BR_MAX_PORTS, net/bridge/br_private.h), less one to spare.
pub const MAX_NODES: u32 = 1023;
/// Pods in a /24: without its network, gateway and broadcast address.
pub const MAX_PODS: u32 = 253;
/// Nodes whose /24s fit into the /16 that Kubernetes tools take by default.
const NODES_IN_DEFAULT: u32 = 256;

/// The addresses of a cluster of a checked size.
#[derive(Debug, Clone)]
pub struct Plan {
    family: IpFamily,
    wide: bool,
}

impl Plan {
    /// Checks the shape.
    ///
    /// # Errors
    /// `Usage`, naming the limit.
    pub fn new(topology: &Topology) -> Result<Self, ClusterError> {
        let usage = |text: String| Err(ClusterError::Usage(text));
        let Topology { nodes, pods_per_node, family, underlay_mtu } = *topology;
        if !(1..=MAX_NODES).contains(&nodes) {
            return usage(format!(
                "{nodes} nodes: the netns provider takes 1 to {MAX_NODES}, the ports of one bridge"
            ));
        }
        if pods_per_node > MAX_PODS {
            return usage(format!(
                "{pods_per_node} pods per node: a node's /24 has room for {MAX_PODS}"
            ));
        }
        let least = if family == IpFamily::V4 { 576 } else { 1280 };
        // ETH_MAX_MTU (include/uapi/linux/if_ether.h).
        if !(least..=65535).contains(&underlay_mtu) {
            return usage(format!(
                "underlay MTU {underlay_mtu}: a veth of this address family takes {least} to 65535"
            ));
        }
        Ok(Self { family, wide: nodes > NODES_IN_DEFAULT })
    }

    fn both(&self, v4: Ipv4Net, v6: Ipv6Net) -> Vec<IpNet> {
        match self.family {
            IpFamily::V4 => vec![v4.into()],
            IpFamily::V6 => vec![v6.into()],
            IpFamily::Dual => vec![v4.into(), v6.into()],
        }
    }

    /// All pod addresses: 10.244.0.0/16, with more than 256 nodes 10.128.0.0/14; fd00:10:244::/48.
    pub fn cluster_cidrs(&self) -> Vec<IpNet> {
        let v4 = if self.wide { net4([10, 128, 0, 0], 14) } else { net4([10, 244, 0, 0], 16) };
        self.both(v4, net6(0xfd00_0010_0244 << 80, 48))
    }

    /// The pod addresses of a node: a /24 and a /64.
    pub fn pod_cidrs(&self, node: u32) -> Vec<IpNet> {
        let start = if self.wide { [10, 128, 0, 0] } else { [10, 244, 0, 0] };
        let v4 = u32::from_be_bytes(start) + (node << 8);
        let v6 = (0xfd00_0010_0244 << 80) | u128::from(node) << 64;
        self.both(net4(v4.to_be_bytes(), 24), net6(v6, 64))
    }

    /// The addresses of a pod, with the prefix length of its node's range. The first is the one
    /// behind the gateway, as host-local counts.
    pub fn pod_addrs(&self, node: u32, pod: u32) -> Vec<IpNet> {
        self.pod_cidrs(node).into_iter().map(|cidr| nth(cidr, pod + 2)).collect()
    }

    /// The gateways of a node's pods.
    pub fn gateways(&self, node: u32) -> Vec<IpAddr> {
        self.pod_cidrs(node).into_iter().map(|cidr| nth(cidr, 1).addr()).collect()
    }

    /// The addresses of a node on the underlay: of 10.66.0.0/16 and fd66::/64.
    pub fn node_addrs(&self, node: u32) -> Vec<IpNet> {
        let nets = self.both(net4([10, 66, 0, 0], 16), net6(0xfd66 << 112, 64));
        nets.into_iter().map(|net| nth(net, node + 1)).collect()
    }

    /// The service's addresses, of 10.96.0.0/12 and fd00:10:96::/112.
    pub fn service_addrs(&self) -> Vec<IpAddr> {
        let nets = self.both(net4([10, 96, 0, 0], 12), net6(0xfd00_0010_0096 << 80, 112));
        nets.into_iter().map(|net| nth(net, 10).addr()).collect()
    }
}

fn net4(octets: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::from(octets), prefix)
}

fn net6(bits: u128, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::from(bits), prefix)
}

/// The `n`th address of a network.
fn nth(net: IpNet, n: u32) -> IpNet {
    match net {
        IpNet::V4(v4) => {
            let address = Ipv4Addr::from(u32::from(v4.network()) + n);
            Ipv4Net::new_assert(address, v4.prefix_len()).into()
        }
        IpNet::V6(v6) => {
            let address = Ipv6Addr::from(u128::from(v6.network()) + u128::from(n));
            Ipv6Net::new_assert(address, v6.prefix_len()).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn plan(nodes: u32, family: IpFamily) -> Plan {
        Plan::new(&Topology { nodes, family, ..Topology::default() }).unwrap()
    }

    fn text<T: ToString>(all: Vec<T>) -> String {
        all.iter().map(T::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn addresses_are_those_of_a_kubernetes() {
        let plan = plan(2, IpFamily::Dual);
        assert_eq!(text(plan.cluster_cidrs()), "10.244.0.0/16 fd00:10:244::/48");
        assert_eq!(text(plan.pod_cidrs(1)), "10.244.1.0/24 fd00:10:244:1::/64");
        assert_eq!(text(plan.pod_addrs(1, 0)), "10.244.1.2/24 fd00:10:244:1::2/64");
        assert_eq!(text(plan.gateways(1)), "10.244.1.1 fd00:10:244:1::1");
        assert_eq!(text(plan.node_addrs(0)), "10.66.0.1/16 fd66::1/64");
        assert_eq!(text(plan.service_addrs()), "10.96.0.10 fd00:10:96::a");
    }

    #[test]
    fn no_two_ranges_meet_however_many_nodes() {
        for nodes in [256, 257, MAX_NODES] {
            let plan = plan(nodes, IpFamily::Dual);
            let ranges: Vec<IpNet> = (0..nodes).flat_map(|n| plan.pod_cidrs(n)).collect();
            assert_eq!(ranges.iter().collect::<HashSet<_>>().len(), 2 * nodes as usize);
            for range in ranges {
                assert!(plan.cluster_cidrs().iter().any(|c| c.contains(&range)), "{range}");
            }
            let nodes: HashSet<IpNet> = (0..nodes).flat_map(|n| plan.node_addrs(n)).collect();
            for node in &nodes {
                assert!(plan.cluster_cidrs().iter().all(|c| !c.contains(&node.addr())));
            }
        }
    }

    #[test]
    fn limits_are_named() {
        let wrong = |topology: Topology| Plan::new(&topology).unwrap_err().to_string();
        let base = Topology::default();
        assert!(wrong(Topology { nodes: 0, ..base.clone() }).contains("1 to 1023"));
        assert!(wrong(Topology { nodes: 1024, ..base.clone() }).contains("1 to 1023"));
        assert!(wrong(Topology { pods_per_node: 254, ..base.clone() }).contains("253"));
        assert!(wrong(Topology { underlay_mtu: 70000, ..base.clone() }).contains("65535"));
        let v6 = Topology { family: IpFamily::V6, underlay_mtu: 1279, ..base };
        assert!(wrong(v6).contains("1280"));
    }
}

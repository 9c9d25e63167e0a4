//! Which namespaces lie between two of this machine, and what each of them is to the packets: found by
//! following devices whose other end is in another namespace (IFLA_LINK_NETNSID).
//!
//! A cluster of cnibench says by its names what is a node and what a pod; of others it is told by where
//! they are on the way.

use super::{
    netns::{Stands, Station},
    spaces::{Space, World},
};
use crate::netlink::{Rtnl, rtnl::Link};
use anyhow::{Context as _, bail};
use netlink_packet_route::{
    AddressFamily,
    route::{RouteAttribute, RouteHeader},
};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// Both ends and the nodes between them.
#[derive(Debug, Clone)]
pub struct Way {
    /// The client's end.
    pub client: Station,
    /// The server's.
    pub server: Station,
    /// Nodes between them.
    pub nodes: Vec<Station>,
}

/// What a namespace is on a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Pod,
    Node,
    /// It joins nodes; packets are followed through it, but its devices are no points of the way.
    Wire,
}

/// What was seen in a namespace.
#[derive(Debug, Clone, Default)]
struct Look {
    /// Devices and the namespaces that they lead to.
    doors: Vec<(String, u64)>,
    /// The device of a default route.
    default: Option<String>,
    /// It has a bridge or a tunnel device.
    switches: bool,
}

impl Look {
    fn neighbours(&self) -> Vec<u64> {
        self.doors.iter().map(|(_, to)| *to).collect()
    }
}

/// The way between two namespaces. Blocks.
///
/// # Errors
/// A namespace cannot be looked into, or no devices join them.
pub fn between(world: &World, client: &Space, server: &Space) -> anyhow::Result<Way> {
    if client.inode == server.inode {
        bail!(
            "{} and {} are one network namespace: no packet between them crosses a device",
            client.label,
            server.label
        );
    }
    // An end that was named by a path may have neither a name nor a process of its own.
    let find =
        |inode: u64| [client, server].into_iter().find(|s| s.inode == inode).or(world.get(inode));
    let mut looks: HashMap<u64, Look> = HashMap::new();
    let path = meet(client.inode, server.inode, |inode| {
        if let Some(look) = looks.get(&inode) {
            return Ok(look.neighbours());
        }
        let space = find(inode).context("a namespace that ended meanwhile")?;
        let looked = look(world, space)?;
        let neighbours = looked.neighbours();
        looks.insert(inode, looked);
        Ok(neighbours)
    })?;
    let Some(path) = path else {
        bail!(
            "no devices join {} and {}: both ends must be on this machine, joined by veth, netkit or the like over namespaces that have a name or a process",
            client.label,
            server.label
        )
    };
    let spaces: Vec<&Space> = path.iter().filter_map(|inode| find(*inode)).collect();
    let named: Vec<Option<Part>> = spaces.iter().map(|space| part_by_name(space)).collect();
    let like_node = |at: usize, next: usize| {
        looks
            .get(&path[at])
            .is_some_and(|look| look.switches || look.doors.iter().any(|(_, to)| *to != path[next]))
    };
    let last = path.len() - 1;
    let ends = [like_node(0, 1), like_node(last, last - 1)];
    let parts = parts(&named, ends);
    let mut stations = Vec::new();
    for (at, space) in spaces.iter().enumerate() {
        let stands = match parts[at] {
            Part::Wire => continue,
            Part::Pod => Stands::Pod,
            Part::Node => {
                let look = looks.get(&path[at]).cloned().unwrap_or_default();
                Stands::Node { underlay: underlay(&look, &outwards(&path, &parts, at)) }
            }
        };
        let what = match at {
            0 => "client",
            n if n == last => "server",
            1 if last == 2 => "node of both",
            n if n * 2 < last => "client's node",
            _ => "server's node",
        };
        stations.push(Station { netns: space.open()?, what, stands });
    }
    let (Some(server), true) = (stations.pop(), !stations.is_empty()) else {
        bail!("a way without ends");
    };
    let client = stations.remove(0);
    Ok(Way { client, server, nodes: stations })
}

fn part_by_name(space: &Space) -> Option<Part> {
    let thing = space.thing.as_ref()?;
    Some(match (thing.node, thing.pod) {
        (None, _) => Part::Wire,
        (Some(_), None) => Part::Node,
        (Some(_), Some(_)) => Part::Pod,
    })
}

/// What each namespace of a way is, from the client's to the server's: as its name says, or an end is
/// a pod if it does not look like a node, what is next to a pod is a node, and the rest joins nodes.
fn parts(named: &[Option<Part>], like_node: [bool; 2]) -> Vec<Part> {
    let last = named.len() - 1;
    // Two that are joined at once, and have nothing else, are like two machines with a cable.
    let cable = last == 1 && like_node == [false; 2];
    let end = |at: usize, like_node: bool| {
        let guess = if like_node || cable { Part::Node } else { Part::Pod };
        named[at].unwrap_or(guess)
    };
    let mut parts = vec![Part::Wire; named.len()];
    parts[0] = end(0, like_node[0]);
    parts[last] = end(last, like_node[1]);
    for at in 1..last {
        let beside_pod =
            (at == 1 && parts[0] == Part::Pod) || (at + 1 == last && parts[last] == Part::Pod);
        parts[at] = named[at].unwrap_or(if beside_pod { Part::Node } else { Part::Wire });
    }
    parts
}

/// The neighbours of a node on the way that are no pods.
fn outwards(path: &[u64], parts: &[Part], at: usize) -> HashSet<u64> {
    let beside = [at.checked_sub(1), (at + 1 < path.len()).then_some(at + 1)];
    let others = beside.into_iter().flatten().filter(|n| parts[*n] != Part::Pod);
    others.map(|n| path[n]).collect()
}

/// A node's device towards other nodes: one that leads outwards, of several that of the default route;
/// else that one, if the node is on no way to another.
fn underlay(look: &Look, outwards: &HashSet<u64>) -> Option<String> {
    let mut leads = look.doors.iter().filter(|(_, to)| outwards.contains(to)).map(|(name, _)| name);
    let by_default = look.default.as_ref();
    let preferred = leads.clone().find(|name| Some(*name) == by_default);
    preferred.or_else(|| leads.next()).or(by_default).cloned()
}

/// The shortest way between two ends, both included, asking for the neighbours of as few as possible.
fn meet(
    from: u64,
    to: u64,
    mut neighbours: impl FnMut(u64) -> anyhow::Result<Vec<u64>>,
) -> anyhow::Result<Option<Vec<u64>>> {
    // Of each side: who was found, by whom; and who was not asked yet.
    let mut found = [BTreeMap::from([(from, from)]), BTreeMap::from([(to, to)])];
    let mut waiting = [VecDeque::from([from]), VecDeque::from([to])];
    loop {
        for side in [0, 1] {
            let layer: Vec<u64> = waiting[side].drain(..).collect();
            for one in layer {
                // Ends are looked into always; others may be closed to this process.
                let beside = match neighbours(one) {
                    Ok(beside) => beside,
                    Err(e) if one == from || one == to => return Err(e),
                    Err(e) => {
                        tracing::debug!("not looked into: {e:#}");
                        continue;
                    }
                };
                for next in beside {
                    if found[side].contains_key(&next) {
                        continue;
                    }
                    found[side].insert(next, one);
                    waiting[side].push_back(next);
                }
            }
            let both = found[0].keys().find(|one| found[1].contains_key(*one));
            if let Some(both) = both {
                let mut path = trail(&found[0], *both);
                path.reverse();
                path.extend(trail(&found[1], *both).into_iter().skip(1));
                return complete(path, &mut neighbours).map(Some);
            }
        }
        if waiting.iter().all(VecDeque::is_empty) {
            return Ok(None);
        }
    }
}

/// From one back to where the side began.
fn trail(found: &BTreeMap<u64, u64>, from: u64) -> Vec<u64> {
    let mut path = vec![from];
    let mut at = from;
    while let Some(before) = found.get(&at).filter(|before| **before != at) {
        path.push(*before);
        at = *before;
    }
    path
}

/// Has all on the way looked into, also where both sides met before that.
fn complete(
    path: Vec<u64>,
    neighbours: &mut impl FnMut(u64) -> anyhow::Result<Vec<u64>>,
) -> anyhow::Result<Vec<u64>> {
    for one in &path {
        neighbours(*one)?;
    }
    Ok(path)
}

/// Looks into a namespace.
fn look(world: &World, space: &Space) -> anyhow::Result<Look> {
    let inside = || {
        let mut rtnl = Rtnl::open()?;
        let links = rtnl.links()?;
        let default = default_device(&mut rtnl, &links)?;
        let mut wanted: HashSet<i32> = links.iter().filter_map(|l| l.peer_netns).collect();
        let mut known: HashMap<i32, u64> = HashMap::new();
        for other in &world.spaces {
            if wanted.is_empty() {
                break;
            }
            // One that ended meanwhile leads nowhere.
            let Ok(netns) = other.open() else { continue };
            if let Some(id) = rtnl.namespace_id(netns.fd())?.filter(|id| wanted.remove(id)) {
                known.insert(id, other.inode);
            }
        }
        let door = |link: &Link| Some((link.name.clone(), *known.get(&link.peer_netns?)?));
        let doors = links.iter().filter_map(door).collect();
        let switches = links
            .iter()
            .any(|l| ["bridge", "vxlan", "geneve", "wireguard", "tun"].contains(&l.kind.as_str()));
        Ok(Look { doors, default, switches })
    };
    let netns = space.open()?;
    netns.run_blocking(inside).with_context(|| format!("looking into {}", space.label))
}

/// The device of the first default route of the main table, IPv4 before IPv6.
fn default_device(rtnl: &mut Rtnl, links: &[Link]) -> anyhow::Result<Option<String>> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for route in rtnl.routes(family)? {
            let header = &route.header;
            if header.destination_prefix_length != 0 || header.table != RouteHeader::RT_TABLE_MAIN {
                continue;
            }
            let device = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => links.iter().find(|l| l.index == *index),
                _ => None,
            });
            if let Some(device) = device {
                return Ok(Some(device.name.clone()));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Part::{Node, Pod, Wire};

    /// Neighbours in both directions; counts who is asked.
    fn graph(edges: &[(u64, u64)]) -> impl FnMut(u64) -> anyhow::Result<Vec<u64>> {
        let edges = edges.to_vec();
        move |one| {
            let beside = edges
                .iter()
                .filter_map(|(a, b)| if *a == one { Some(*b) } else { (*b == one).then_some(*a) });
            Ok(beside.collect())
        }
    }

    #[test]
    fn the_shortest_way_is_found_without_asking_everybody() {
        // Pods 10.. on node 1, pods 20.. on node 2, both on wire 9 with nodes 3 to 8.
        let mut edges = vec![(10, 1), (11, 1), (20, 2), (21, 2)];
        edges.extend((1..=8).map(|node| (node, 9)));
        let mut asked = HashSet::new();
        let mut neighbours = graph(&edges);
        let path = meet(10, 20, |one| {
            asked.insert(one);
            neighbours(one)
        });
        assert_eq!(path.unwrap(), Some(vec![10, 1, 9, 2, 20]));
        assert!((3..=8).all(|node| !asked.contains(&node)), "{asked:?}");
        assert!([10, 1, 9, 2, 20].iter().all(|one| asked.contains(one)), "{asked:?}");
        let way = |from, to| meet(from, to, graph(&edges)).unwrap();
        assert_eq!(way(10, 11), Some(vec![10, 1, 11]));
        assert_eq!(way(1, 20), Some(vec![1, 9, 2, 20]));
        assert_eq!(way(10, 1), Some(vec![10, 1]));
        assert_eq!(way(10, 77), None);
    }

    #[test]
    fn a_closed_namespace_is_passed_by_unless_it_is_an_end() {
        let closed = |closed: u64| {
            let mut open = graph(&[(1, 2), (2, 3), (1, 4), (4, 5), (5, 3)]);
            move |one| if one == closed { bail!("closed") } else { open(one) }
        };
        assert!(meet(1, 3, closed(1)).is_err());
        assert_eq!(meet(1, 3, closed(4)).unwrap(), Some(vec![1, 2, 3]));
    }

    #[test]
    fn what_is_next_to_a_pod_is_a_node_and_what_joins_nodes_a_wire() {
        let guessed = |n: usize, like_node| parts(&vec![None; n], like_node);
        assert_eq!(guessed(5, [false; 2]), [Pod, Node, Wire, Node, Pod]);
        assert_eq!(guessed(4, [false; 2]), [Pod, Node, Node, Pod]);
        assert_eq!(guessed(3, [false; 2]), [Pod, Node, Pod]);
        assert_eq!(guessed(3, [true; 2]), [Node, Wire, Node]);
        assert_eq!(guessed(4, [true, false]), [Node, Wire, Node, Pod]);
        assert_eq!(guessed(2, [false; 2]), [Node, Node]);
        assert_eq!(guessed(2, [false, true]), [Pod, Node]);
        // Nodes of a cni without pods look like pods; their names say more.
        assert_eq!(parts(&[Some(Node), Some(Wire), Some(Node)], [false; 2]), [Node, Wire, Node]);
    }

    #[test]
    fn a_nodes_underlay_leads_to_the_other() {
        let look = |default: Option<&str>| Look {
            doors: vec![("eth0".to_owned(), 9), ("eth1".to_owned(), 9), ("veth1".to_owned(), 10)],
            default: default.map(str::to_owned),
            switches: true,
        };
        let outwards = outwards(&[10, 1, 9, 2, 20], &[Pod, Node, Wire, Node, Pod], 1);
        assert_eq!(outwards, [9].into());
        assert_eq!(underlay(&look(None), &outwards), Some("eth0".to_owned()));
        assert_eq!(underlay(&look(Some("eth1")), &outwards), Some("eth1".to_owned()));
        assert_eq!(underlay(&look(Some("wlan0")), &outwards), Some("eth0".to_owned()));
        assert_eq!(underlay(&look(Some("wlan0")), &HashSet::new()), Some("wlan0".to_owned()));
        assert_eq!(underlay(&look(None), &HashSet::new()), None);
    }
}

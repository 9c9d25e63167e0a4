//! What user space and `bpf/stages_maps.bpf.h` agree on: the roles of devices, which event may follow which
//! and the stage that lies between them, and the shapes of the maps.
//!
//! The table of steps is here alone; the programs know none. It is where a new kind of path is added.

use aya::Pod;
use cnibench_model::Stage;
use serde::{Deserialize, Serialize};

/// What a device is on the way of the observed packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A pod's own device.
    Pod = 1,
    /// The node's end of a pod's device.
    Port = 2,
    /// A bridge of the node.
    Bridge = 3,
    /// A device that wraps packets: VXLAN, WireGuard, a TUN.
    Tunnel = 4,
    /// The node's device towards the other nodes.
    Underlay = 5,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Pod, Self::Port, Self::Bridge, Self::Tunnel, Self::Underlay];

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Port => "port",
            Self::Bridge => "bridge",
            Self::Tunnel => "tunnel",
            Self::Underlay => "underlay",
        }
    }
}

/// What was seen of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// net_dev_queue: given to the device's queue.
    Queue = 1,
    /// net_dev_start_xmit: given to its driver.
    Xmit = 2,
    /// netif_rx: put into the backlog of the CPU.
    Rx = 3,
    /// netif_receive_skb: taken out of it by the softirq.
    Receive = 4,
}

/// A point of a packet's path as the maps number it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Point {
    /// Something happened at a device.
    At(Event, Role),
    /// The data is in the receiving socket.
    Socket,
}

/// Points in the table; `POINTS` of the C side.
pub(super) const POINTS: u32 = 64;

impl Point {
    pub(super) fn number(self) -> u32 {
        match self {
            Self::At(event, role) => (event as u32) * 8 + role as u32,
            Self::Socket => POINTS - 1,
        }
    }
}

/// Stages that the programs time, in the order of `enum stage` in C.
pub(super) const TIMED: [Stage; 11] = [
    Stage::SocketToQdisc,
    Stage::PodDevice,
    Stage::Backlog,
    Stage::NodeForward,
    Stage::Encapsulation,
    Stage::Underlay,
    Stage::Decapsulation,
    Stage::ToPod,
    Stage::ToSocket,
    Stage::WakeUp,
    Stage::Application,
];

/// Every legal step with the stage that its time belongs to. What is not here ends a packet's track.
///
/// The first transmission of a packet is [`Stage::PodDevice`] whatever its device: a node's own
/// traffic leaves by the bridge or the underlay.
pub fn steps() -> Vec<(Point, Point, Stage)> {
    use Event::{Queue, Receive, Rx, Xmit};
    use Role::{Bridge, Pod, Port, Tunnel, Underlay};
    let at = Point::At;
    let mut steps = vec![
        // Out of the pod, into the node.
        (at(Queue, Pod), at(Xmit, Pod), Stage::PodDevice),
        (at(Xmit, Pod), at(Rx, Port), Stage::PodDevice),
        (at(Xmit, Pod), at(Receive, Port), Stage::Backlog),
        (at(Rx, Port), at(Receive, Port), Stage::Backlog),
        // Through the node: a bridge passes it up to routing, tc sends it on at once.
        (at(Receive, Port), at(Receive, Bridge), Stage::NodeForward),
        // Into the tunnel and out of it onto the wire; a tunnel may hand over to another.
        (at(Queue, Tunnel), at(Xmit, Tunnel), Stage::Encapsulation),
        (at(Xmit, Tunnel), at(Queue, Underlay), Stage::Encapsulation),
        (at(Xmit, Tunnel), at(Queue, Tunnel), Stage::Encapsulation),
        // Over the wire: a veth goes through the backlog, a network card does not.
        (at(Queue, Underlay), at(Xmit, Underlay), Stage::Underlay),
        (at(Xmit, Underlay), at(Rx, Underlay), Stage::Underlay),
        (at(Xmit, Underlay), at(Receive, Underlay), Stage::Underlay),
        (at(Rx, Underlay), at(Receive, Underlay), Stage::Underlay),
        (at(Receive, Underlay), at(Rx, Tunnel), Stage::Decapsulation),
        (at(Receive, Underlay), at(Receive, Tunnel), Stage::Decapsulation),
        (at(Rx, Tunnel), at(Receive, Tunnel), Stage::Decapsulation),
        // Down into the pod.
        (at(Queue, Bridge), at(Xmit, Bridge), Stage::ToPod),
        (at(Xmit, Bridge), at(Queue, Port), Stage::ToPod),
        (at(Queue, Port), at(Xmit, Port), Stage::ToPod),
        // A veth pair of the node's own, before a tunnel takes the packet.
        (at(Xmit, Port), at(Rx, Port), Stage::NodeForward),
        (at(Xmit, Port), at(Receive, Port), Stage::NodeForward),
        (at(Xmit, Port), at(Rx, Pod), Stage::ToPod),
        (at(Xmit, Port), at(Receive, Pod), Stage::ToPod),
        (at(Rx, Pod), at(Receive, Pod), Stage::Backlog),
        (at(Receive, Pod), Point::Socket, Stage::ToSocket),
    ];
    for next in [Port, Bridge, Tunnel, Underlay] {
        for from in [Port, Bridge] {
            steps.push((at(Receive, from), at(Queue, next), Stage::NodeForward));
        }
    }
    for from in [Underlay, Tunnel] {
        for next in [Port, Bridge] {
            steps.push((at(Receive, from), at(Queue, next), Stage::ToPod));
        }
    }
    // The receiver is the node, or bpf_redirect_peer has put the packet into the pod without an event.
    for from in [Port, Bridge, Tunnel, Underlay] {
        steps.push((at(Receive, from), Point::Socket, Stage::ToSocket));
    }
    steps
}

/// A struct of the C side, which is copied as it is.
macro_rules! shared {
    ($($(#[$doc:meta])* struct $name:ident { $($field:ident: $of:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default)]
        #[repr(C)]
        pub(super) struct $name {
            $(pub(super) $field: $of,)*
        }

        // SAFETY: plain numbers; that there is no padding is checked below.
        unsafe impl Pod for $name {}

        const _: () = assert!(size_of::<$name>() == $(size_of::<$of>() +)* 0);
    )*};
}

shared! {
    /// `struct config`.
    struct Config {
        send_calls: [u64; 3],
        after_ns: u64,
        for_ns: u64,
        counting: u32,
        unused: u32,
    }

    /// `struct window`.
    struct Window {
        from_ns: u64,
        to_ns: u64,
    }

    /// `struct device`.
    struct DeviceKey {
        netns: u32,
        ifindex: u32,
    }

    /// `struct sums`.
    struct Sums {
        count: u64,
        sum_ns: u64,
    }

    /// `struct drop`.
    struct DropKey {
        reason: u32,
        place: u32,
    }

    /// `struct track`.
    struct Track {
        last_ns: u64,
        state: [u8; 8],
    }
}

/// `enum count`: what is counted beside stages, in the map's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    SkbReused,
    IllegalEdge,
    TooOld,
    MapFull,
    Retransmits,
    Followed,
    Dropped,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    /// The stages of a path, neighbours joined.
    fn stages(path: &[Point]) -> Option<Vec<Stage>> {
        let table: HashMap<_, _> = steps().into_iter().map(|(a, b, s)| ((a, b), s)).collect();
        let mut found = Vec::new();
        for pair in path.windows(2) {
            let stage = *table.get(&(pair[0], pair[1]))?;
            if found.last() != Some(&stage) {
                found.push(stage);
            }
        }
        Some(found)
    }

    #[test]
    fn the_paths_of_the_profiles_are_legal_and_their_stages_in_order() {
        use Event::{Queue, Receive, Rx, Xmit};
        use Role::{Bridge, Pod, Port, Tunnel, Underlay};
        let at = Point::At;
        let out = [at(Queue, Pod), at(Xmit, Pod), at(Rx, Port), at(Receive, Port)];
        let wire =
            [at(Queue, Underlay), at(Xmit, Underlay), at(Rx, Underlay), at(Receive, Underlay)];
        let down = [
            at(Queue, Bridge),
            at(Xmit, Bridge),
            at(Queue, Port),
            at(Xmit, Port),
            at(Rx, Pod),
            at(Receive, Pod),
            Point::Socket,
        ];
        let tunnel = [at(Queue, Tunnel), at(Xmit, Tunnel)];
        let vxlan: Vec<Point> = [
            &out[..],
            &[at(Receive, Bridge)],
            &tunnel,
            &wire,
            &[at(Rx, Tunnel), at(Receive, Tunnel)],
            &down,
        ]
        .concat();
        assert_eq!(
            stages(&vxlan),
            Some(vec![
                Stage::PodDevice,
                Stage::Backlog,
                Stage::NodeForward,
                Stage::Encapsulation,
                Stage::Underlay,
                Stage::Decapsulation,
                Stage::ToPod,
                Stage::Backlog,
                Stage::ToSocket
            ])
        );
        let ebpf: Vec<Point> = [&out[..], &wire, &[Point::Socket]].concat();
        assert_eq!(
            stages(&ebpf),
            Some(vec![
                Stage::PodDevice,
                Stage::Backlog,
                Stage::NodeForward,
                Stage::Underlay,
                Stage::ToSocket
            ])
        );
        // From the wire straight into the encapsulation: nobody does that.
        assert_eq!(stages(&[at(Receive, Underlay), at(Queue, Tunnel)]), None);
        assert_eq!(stages(&[at(Receive, Pod), at(Queue, Port)]), None);
    }

    #[test]
    fn a_step_has_one_stage_and_a_point_one_number() {
        let all = steps();
        let pairs: HashSet<(u32, u32)> =
            all.iter().map(|(a, b, _)| (a.number(), b.number())).collect();
        assert_eq!(pairs.len(), all.len());
        assert!(pairs.iter().all(|(a, b)| *a < POINTS && *b < POINTS));
        assert!(all.iter().all(|(_, _, s)| TIMED.contains(s)));
    }
}

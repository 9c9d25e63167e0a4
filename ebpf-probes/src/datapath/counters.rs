//! What became of packets, as the program counts it: one number per outcome, summed over CPUs.

use std::{fmt, iter::zip};

/// What the program did with a packet. The order is that of `enum outcome` in `bpf/datapath.bpf.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// From a pod straight into another of the node.
    ToLocalPod,
    /// From a pod to the next hop on the underlay.
    ToNextHop,
    /// From a pod into the tunnel.
    ToTunnel,
    /// From the underlay straight into a pod.
    FromUnderlay,
    /// From the tunnel straight into a pod.
    FromTunnel,
    /// Left to the node's own stack.
    Passed,
    /// Dropped by policy.
    Denied,
    /// ARP requests that the program answered.
    ArpAnswered,
    /// Neighbour solicitations that the program answered.
    NdAnswered,
    /// Dropped since headers were cut short.
    Broken,
}

impl Outcome {
    /// All of them, in their order in the map.
    pub const ALL: [Self; 10] = [
        Self::ToLocalPod,
        Self::ToNextHop,
        Self::ToTunnel,
        Self::FromUnderlay,
        Self::FromTunnel,
        Self::Passed,
        Self::Denied,
        Self::ArpAnswered,
        Self::NdAnswered,
        Self::Broken,
    ];

    /// For people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::ToLocalPod => "from a pod to a pod of the node",
            Self::ToNextHop => "from a pod to the next hop",
            Self::ToTunnel => "from a pod into the tunnel",
            Self::FromUnderlay => "from the underlay to a pod",
            Self::FromTunnel => "from the tunnel to a pod",
            Self::Passed => "passed to the stack",
            Self::Denied => "dropped by policy",
            Self::ArpAnswered => "ARP answered",
            Self::NdAnswered => "ND answered",
            Self::Broken => "dropped as broken",
        }
    }
}

/// All counters of a node at one moment; a GSO packet counts once, as devices count it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters([u64; Outcome::ALL.len()]);

impl Counters {
    /// Sums what each CPU counted, in the order of [`Outcome::ALL`].
    pub fn new(sums: [u64; Outcome::ALL.len()]) -> Self {
        Self(sums)
    }

    /// One of them.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize]
    }

    /// What was added since an earlier moment.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut rise = *self;
        for (now, then) in zip(&mut rise.0, earlier.0) {
            *now = now.saturating_sub(then);
        }
        rise
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = zip(Outcome::ALL, self.0).filter(|(_, n)| *n > 0);
        let texts: Vec<String> =
            counted.map(|(outcome, n)| format!("{} {n}", outcome.describe())).collect();
        if texts.is_empty() { f.write_str("nothing") } else { f.write_str(&texts.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_in_the_order_of_the_map() {
        for (i, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, i);
        }
        let program = include_str!("../../bpf/datapath.bpf.h");
        let listed = program.split_once("enum outcome {").and_then(|(_, t)| t.split_once("};"));
        let names: Vec<String> = listed
            .map(|(body, _)| body)
            .unwrap_or_default()
            .lines()
            .filter_map(|l| l.trim().split_once(','))
            .map(|(name, _)| name.replace('_', "").to_lowercase())
            .collect();
        let mut ours: Vec<String> =
            Outcome::ALL.iter().map(|o| format!("{o:?}").to_lowercase()).collect();
        ours.push("outcomes".to_owned());
        assert_eq!(names, ours);
    }

    #[test]
    fn a_rise_is_what_was_added() {
        let then = Counters::new([1; 10]);
        let mut now = [1; 10];
        now[Outcome::Passed as usize] = 5;
        let rise = Counters::new(now).since(&then);
        assert_eq!(rise.of(Outcome::Passed), 4);
        assert_eq!(rise.to_string(), "passed to the stack 4");
        assert_eq!(Counters::default().to_string(), "nothing");
    }
}

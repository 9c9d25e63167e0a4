//! What a run deploys in a cluster for one cni: which pods on which nodes, and what they may take.
//!
//! Pure. Made by the providers kind and kubeconfig from what was asked for; [`Pods`](super::pods::Pods)
//! makes the objects.

use super::{
    demand::Demand,
    nodes::{NodeFacts, Wanted},
    objects::{Image, Role, roles},
    options::{Options, PodCpus},
};
use crate::cni::kubernetes::KubeProfile;
use cnibench_model::Placement;
use std::{collections::HashMap, time::Duration};

/// What pods may take beyond the planned time before they end by themselves.
const MARGIN: Duration = Duration::from_secs(30 * 60);

/// In what providers differ.
#[derive(Debug, Clone)]
pub struct Ground {
    /// The run's id.
    pub run: String,
    /// Tells clusters of one run apart.
    pub index: u32,
    /// Where the binary comes from.
    pub image: Image,
    /// CPUs of a pod where the user says nothing; none: no limit.
    pub cpus: Option<u32>,
    /// True when there may be privileged observers, and CAP_NET_ADMIN for workload pods.
    pub privileged: bool,
    /// How long the run is planned to take.
    pub planned: Duration,
}

/// What is to be deployed.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// The run's id.
    pub run: String,
    /// Namespace of the user's, which stays; none: one of our own is made.
    pub namespace: Option<String>,
    /// The name of our own.
    pub own_namespace: String,
    /// Where the binary comes from.
    pub image: Image,
    /// CPUs of each pod, requested and at most.
    pub cpus: Option<u32>,
    /// What nodes must have.
    pub nodes: Wanted,
    /// The nodes that are used: the first two carry the ends, and the proofs.
    pub seats: Seats,
    /// Placements that trials will use.
    pub placements: Vec<Placement>,
    /// True when the cni is the baseline itself: host-network pods alone.
    pub host_network: bool,
    /// True when host-network pods are wanted as a baseline beside the cni's.
    pub host: bool,
    /// True when host-network pods are wanted as the control in clear of the encryption proof.
    pub control: bool,
    /// True when privileged observers may be made.
    pub observers: bool,
    /// True when workload pods may have CAP_NET_ADMIN.
    pub net_admin: bool,
    /// When pods end by themselves.
    pub deadline: Duration,
}

/// The nodes that a run uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seats {
    /// Two, which the scheduler chooses: this user may not list nodes.
    Scheduler,
    /// These two.
    Two([NodeFacts; 2]),
    /// Those of the node-pair matrix, each with its number in the plan.
    Matrix(Vec<(u32, NodeFacts)>),
}

impl Seats {
    /// Of the nodes that were listed, if they may be; `matrix`: the numbers that the plan uses.
    ///
    /// # Errors
    /// A sentence: the matrix needs nodes that are not known.
    pub fn of(listed: Option<&[NodeFacts]>, matrix: Option<&[u32]>) -> Result<Self, String> {
        match (listed, matrix) {
            (None, None) => Ok(Self::Scheduler),
            (Some([a, b, ..]), None) => Ok(Self::Two([a.clone(), b.clone()])),
            (Some(few), None) => Err(format!("{} nodes, at least 2 are needed", few.len())),
            (None, Some(_)) => {
                Err("the node-pair matrix needs the right to list nodes (`cnibench rbac --matrix`)"
                    .to_owned())
            }
            (Some(listed), Some(numbers)) => {
                let node = |n: &u32| {
                    let node = listed.get(*n as usize);
                    let node = node.ok_or_else(|| format!("the plan names no node {n}"))?;
                    Ok((*n, node.clone()))
                };
                numbers.iter().map(node).collect::<Result<_, String>>().map(Self::Matrix)
            }
        }
    }

    /// How many.
    pub fn count(&self) -> usize {
        match self {
            Self::Scheduler | Self::Two(_) => 2,
            Self::Matrix(nodes) => nodes.len(),
        }
    }

    /// The node of a seat, where it is named.
    pub fn node(&self, seat: usize) -> Option<&NodeFacts> {
        match self {
            Self::Scheduler => None,
            Self::Two(nodes) => nodes.get(seat),
            Self::Matrix(nodes) => nodes.get(seat).map(|(_, node)| node),
        }
    }

    /// The seats of the plan's nodes by their numbers there.
    pub fn by_number(&self) -> HashMap<u32, usize> {
        match self {
            Self::Scheduler | Self::Two(_) => HashMap::from([(0, 0), (1, 1)]),
            Self::Matrix(nodes) => {
                nodes.iter().enumerate().map(|(seat, (number, _))| (*number, seat)).collect()
            }
        }
    }
}

impl Deployment {
    /// For one cni.
    pub fn new(
        ground: Ground,
        options: &Options,
        demand: &Demand,
        profile: &KubeProfile,
        seats: Seats,
    ) -> Self {
        let Ground { run, index, image, cpus, privileged, planned } = ground;
        Self {
            namespace: options.namespace.clone(),
            own_namespace: format!("cnibench-{run}-{index}"),
            run,
            image,
            cpus: match options.pod_cpus {
                None => cpus,
                Some(PodCpus::Exactly(n)) => Some(n),
                Some(PodCpus::Unlimited) => None,
            },
            nodes: options.nodes(profile.host_network),
            seats,
            placements: demand.placements.clone(),
            host_network: profile.host_network,
            host: demand.host,
            control: privileged && profile.encrypted,
            observers: privileged,
            net_admin: privileged,
            deadline: planned * 2 + MARGIN,
        }
    }

    /// The pods, each with the number of its seat.
    pub fn pods(&self) -> Vec<(usize, Role)> {
        let more = 2..self.seats.count();
        if self.host_network {
            let mut all: Vec<_> = (0..self.seats.count()).map(|n| (n, Role::Host(0))).collect();
            if self.placements.contains(&Placement::SameNode) {
                all.push((0, Role::Host(1)));
            }
            if self.observers {
                all.extend([(0, Role::Observer), (1, Role::Observer)]);
            }
            return all;
        }
        let mut all = roles(&self.placements, self.host, self.observers, self.control);
        all.extend(more.clone().map(|node| (node, Role::Pod(0))));
        if self.host {
            all.extend(more.map(|node| (node, Role::Host(0))));
        }
        all
    }

    /// Without host-network pods: is there nothing to measure?
    pub fn needs_host_network(&self) -> bool {
        self.host_network || self.observers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::kubernetes::KubeCni;
    use cnibench_model::CniSpec;

    fn nodes(count: usize) -> Vec<NodeFacts> {
        let node = |i| NodeFacts { name: format!("n{i}"), hostname: format!("h{i}") };
        (0..count).map(node).collect()
    }

    fn of(cni: &str, demand: &Demand, privileged: bool, seats: Seats) -> Deployment {
        let ground = Ground {
            run: "abcdef".to_owned(),
            index: 3,
            image: Image::Any("busybox".to_owned()),
            cpus: Some(1),
            privileged,
            planned: Duration::from_secs(60),
        };
        let cni = KubeCni::resolve(&CniSpec::named(cni)).unwrap();
        Deployment::new(ground, &Options::default(), demand, &cni.profile, seats)
    }

    #[test]
    fn seats_follow_the_plan_and_the_list() {
        let listed = nodes(5);
        let seats = Seats::of(Some(&listed), Some(&[4, 1, 2])).unwrap();
        assert_eq!((seats.count(), seats.node(0).unwrap().name.as_str()), (3, "n4"));
        assert_eq!(seats.by_number(), HashMap::from([(4, 0), (1, 1), (2, 2)]));
        assert_eq!(Seats::of(None, None), Ok(Seats::Scheduler));
        assert_eq!(Seats::of(Some(&listed), None).unwrap().count(), 2);
        assert!(Seats::of(Some(&listed), Some(&[5])).unwrap_err().contains("no node 5"));
        assert!(Seats::of(None, Some(&[0])).unwrap_err().contains("rbac --matrix"));
        assert!(Seats::of(Some(&listed[..1]), None).is_err());
    }

    #[test]
    fn host_network_pods_are_made_only_where_they_are_asked_for() {
        let placements = vec![Placement::CrossNode, Placement::SameNode];
        let plain = Demand { placements, cni: true, ..Demand::default() };
        let is_host = |(_, role): &(usize, Role)| matches!(role, Role::Host(_));
        let hosts = |d: Deployment| d.pods().iter().filter(|p| is_host(p)).count();
        assert_eq!(hosts(of("cilium", &plain, false, Seats::Scheduler)), 0);
        assert_eq!(hosts(of("cilium", &plain, true, Seats::Scheduler)), 0);
        // The control in clear.
        assert_eq!(hosts(of("cilium-wireguard", &plain, true, Seats::Scheduler)), 2);
        let with_host = Demand { host: true, ..plain.clone() };
        assert_eq!(hosts(of("cilium", &with_host, false, Seats::Scheduler)), 3);
        let placed = Demand { placements: vec![Placement::HostPod], ..plain };
        assert_eq!(hosts(of("cilium", &placed, false, Seats::Scheduler)), 1);
        let matrix = Seats::of(Some(&nodes(4)), Some(&[0, 1, 2, 3])).unwrap();
        let matrix = of("cilium", &with_host, false, matrix);
        assert_eq!(matrix.own_namespace, "cnibench-abcdef-3");
        assert_eq!(matrix.pods().iter().filter(|p| is_host(p)).count(), 5);
        assert_eq!(matrix.pods().iter().filter(|(n, r)| *n == 3 && !is_host(&(*n, *r))).count(), 1);
    }
}

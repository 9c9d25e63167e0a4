//! A cluster of network namespaces with agents and observers in it, and what is looked for in proofs.

use crate::support::{down, provider, space, topology, up};
use cnibench::{
    cluster::{Cluster, Ends, IpFamily, Place},
    cni::{Wrapping, wireguard_userspace::child::set_program},
    exec::{Agent, Observer, local::start_program},
    netlink::Netns,
    proof::agents::{Cast, Claims, Stage, Watched, Way},
};
use cnibench_model::{Placement, Proof, ProofKind, ProofOutcome};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

pub const BINARY: &str = env!("CARGO_BIN_EXE_cnibench");

/// A cluster of two nodes with two pods each, and agents in them.
pub struct Rig {
    cluster: Box<dyn Cluster>,
    run: String,
    family: IpFamily,
}

impl Rig {
    pub async fn up(spec: &str) -> Self {
        Self::up_in(spec, IpFamily::V4).await
    }

    pub async fn up_in(spec: &str, family: IpFamily) -> Self {
        set_program(PathBuf::from(BINARY));
        let provider = provider();
        let run = provider.run_id().as_str().to_owned();
        let cluster = up(&provider, spec, &topology(2, 2, family)).await;
        Self { cluster, run, family }
    }

    /// The address of a node or pod.
    pub fn addr(&self, thing: &str) -> IpAddr {
        let digit = |at: usize| thing[at..=at].parse::<u8>().unwrap();
        let node = digit(1);
        let text = match (thing.len(), self.family) {
            (2, IpFamily::V6) => format!("fd66::{}", node + 1),
            (2, _) => format!("10.66.0.{}", node + 1),
            (_, IpFamily::V6) => format!("fd00:10:244:{node}::{}", digit(3) + 2),
            _ => format!("10.244.{node}.{}", digit(3) + 2),
        };
        text.parse().unwrap()
    }

    pub fn space(&self, thing: &str) -> Netns {
        space(&self.run, thing)
    }

    pub fn place(&self, thing: &str) -> Place {
        Place { label: thing.to_owned(), id: self.space(thing).path().display().to_string() }
    }

    pub async fn agent(&self, cast: &mut Cast, thing: &str) {
        let place = self.place(thing);
        let link = start_program(Path::new(BINARY), "agent", Path::new(&place.id)).unwrap();
        let agent = Agent::start(thing, link).await.unwrap();
        cast.0.insert(place.id, agent);
    }

    pub fn ends(&self, client: &str, server: &str) -> Ends {
        let addr = self.addr(server);
        Ends {
            client: self.place(client),
            server: self.place(server),
            server_addr: addr,
            bind_addr: addr,
            port: None,
        }
    }

    pub fn way(&self, placement: Placement, client: &str, server: &str) -> Way {
        let node = |thing: &str| thing[..2].to_owned();
        let (client_node, server_node) = (node(client), node(server));
        Way { placement, ends: self.ends(client, server), client_node, server_node }
    }

    pub async fn observers(&self) -> BTreeMap<String, Watched> {
        let mut nodes = BTreeMap::new();
        for node in ["n0", "n1"] {
            let netns = self.space(node);
            let link = start_program(Path::new(BINARY), "node-observer", netns.path()).unwrap();
            let observer = Observer::start(node, link).await.unwrap();
            nodes.insert(node.to_owned(), Watched { addr: self.addr(node), observer });
        }
        nodes
    }

    pub async fn stage(&self, spec: &str, claims: Claims) -> Stage {
        let mut cast = Cast::default();
        for thing in ["n0p0", "n0p1", "n1p0", "n0", "n1"] {
            self.agent(&mut cast, thing).await;
        }
        Stage {
            spec: spec.parse().unwrap(),
            ways: vec![
                self.way(Placement::SameNode, "n0p0", "n0p1"),
                self.way(Placement::CrossNode, "n0p0", "n1p0"),
                self.way(Placement::HostPod, "n0", "n1p0"),
            ],
            control: vec![self.way(Placement::HostHost, "n0", "n1")],
            cast,
            nodes: self.observers().await,
            claims,
            patience: Duration::from_secs(10),
        }
    }

    pub async fn down(self, stage: Stage) {
        for (_, agent) in stage.cast.0 {
            agent.stop().await;
        }
        for (_, node) in stage.nodes {
            node.observer.stop().await;
        }
        down(self.cluster).await;
    }
}

pub fn find(proofs: &[Proof], kind: ProofKind) -> &Proof {
    proofs.iter().find(|p| p.kind == kind).unwrap_or_else(|| panic!("{kind:?}: {proofs:#?}"))
}

pub fn outcomes(proofs: &[Proof]) -> Vec<(ProofKind, ProofOutcome)> {
    proofs.iter().map(|p| (p.kind, p.outcome)).collect()
}

pub fn vxlan() -> Claims {
    Claims {
        carries: vec!["flannel.1".to_owned()],
        silent: vec!["flannel-wg".to_owned()],
        mtu: Some(1450),
        ..Claims::default()
    }
}

pub fn encrypted(wrapping: Wrapping, carries: &str) -> Claims {
    Claims {
        encrypted: true,
        wrapping: Some(wrapping),
        carries: vec![carries.to_owned()],
        ..Claims::default()
    }
}

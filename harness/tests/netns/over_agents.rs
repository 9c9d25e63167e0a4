//! The proofs over agents and observers, which are child processes here: real packets, and each
//! proof fails when what it claims is not so.

use crate::support::{down, provider, says, space, topology, up};
use async_trait::async_trait;
use cnibench::{
    cluster::{Cluster, Ends, IpFamily, Place},
    cni::{Wrapping, wireguard_userspace::child::set_program},
    exec::{Agent, Observer, local::start_program},
    netlink::{Batch, Netns, Rtnl},
    observe::protocol::Which,
    proof::{
        agents::{
            self, Cast, Claims, Stage, Status, Watched, Way,
            policy::{self, Switch},
        },
        sniffer::Watch,
    },
};
use cnibench_model::{Placement, Proof, ProofKind, ProofOutcome};
use cnibench_workloads::protocol::Volley;
use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const BINARY: &str = env!("CARGO_BIN_EXE_cnibench");

/// A cluster of two nodes with two pods each, and agents in them.
struct Rig {
    cluster: Box<dyn Cluster>,
    run: String,
    family: IpFamily,
}

impl Rig {
    async fn up(spec: &str) -> Self {
        Self::up_in(spec, IpFamily::V4).await
    }

    async fn up_in(spec: &str, family: IpFamily) -> Self {
        set_program(PathBuf::from(BINARY));
        let provider = provider();
        let run = provider.run_id().as_str().to_owned();
        let cluster = up(&provider, spec, &topology(2, 2, family)).await;
        Self { cluster, run, family }
    }

    /// The address of a node or pod.
    fn addr(&self, thing: &str) -> IpAddr {
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

    fn space(&self, thing: &str) -> Netns {
        space(&self.run, thing)
    }

    fn place(&self, thing: &str) -> Place {
        Place { label: thing.to_owned(), id: self.space(thing).path().display().to_string() }
    }

    async fn agent(&self, cast: &mut Cast, thing: &str) {
        let place = self.place(thing);
        let link = start_program(Path::new(BINARY), "agent", Path::new(&place.id)).unwrap();
        let agent = Agent::start(thing, link).await.unwrap();
        cast.0.insert(place.id, agent);
    }

    fn ends(&self, client: &str, server: &str) -> Ends {
        let addr = self.addr(server);
        Ends {
            client: self.place(client),
            server: self.place(server),
            server_addr: addr,
            bind_addr: addr,
            port: None,
        }
    }

    fn way(&self, placement: Placement, client: &str, server: &str) -> Way {
        let node = |thing: &str| thing[..2].to_owned();
        let (client_node, server_node) = (node(client), node(server));
        Way { placement, ends: self.ends(client, server), client_node, server_node }
    }

    async fn observers(&self) -> BTreeMap<String, Watched> {
        let mut nodes = BTreeMap::new();
        for node in ["n0", "n1"] {
            let netns = self.space(node);
            let link = start_program(Path::new(BINARY), "node-observer", netns.path()).unwrap();
            let observer = Observer::start(node, link).await.unwrap();
            nodes.insert(node.to_owned(), Watched { addr: self.addr(node), observer });
        }
        nodes
    }

    async fn stage(&self, spec: &str, claims: Claims) -> Stage {
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

    async fn down(self, stage: Stage) {
        for (_, agent) in stage.cast.0 {
            agent.stop().await;
        }
        for (_, node) in stage.nodes {
            node.observer.stop().await;
        }
        down(self.cluster).await;
    }
}

fn find(proofs: &[Proof], kind: ProofKind) -> &Proof {
    proofs.iter().find(|p| p.kind == kind).unwrap_or_else(|| panic!("{kind:?}: {proofs:#?}"))
}

fn outcomes(proofs: &[Proof]) -> Vec<(ProofKind, ProofOutcome)> {
    proofs.iter().map(|p| (p.kind, p.outcome)).collect()
}

fn vxlan() -> Claims {
    Claims {
        carries: vec!["flannel.1".to_owned()],
        silent: vec!["flannel-wg".to_owned()],
        mtu: Some(1450),
        ..Claims::default()
    }
}

fn encrypted(wrapping: Wrapping, carries: &str) -> Claims {
    Claims {
        encrypted: true,
        wrapping: Some(wrapping),
        carries: vec![carries.to_owned()],
        ..Claims::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datapath_that_is_as_claimed_passes() {
    let rig = Rig::up("flannel-vxlan").await;
    let mut stage = rig.stage("flannel-vxlan", vxlan()).await;
    let proofs = agents::all(&mut stage).await;
    use ProofKind::{Connectivity, Mtu, Path};
    use ProofOutcome::Passed;
    let expected = [(Connectivity, Passed), (Path, Passed), (Mtu, Passed)];
    assert_eq!(outcomes(&proofs), expected, "{proofs:#?}");
    assert!(find(&proofs, Mtu).summary.contains("1450"), "{proofs:#?}");
    rig.down(stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_to_encrypt_what_crosses_in_clear_fails() {
    let rig = Rig::up("flannel-vxlan").await;
    let claims = encrypted(Wrapping::Udp([8472].into()), "flannel.1");
    let mut stage = rig.stage("flannel-vxlan", claims).await;
    let proofs = agents::all(&mut stage).await;
    let encryption = find(&proofs, ProofKind::Encryption);
    assert_eq!(encryption.outcome, ProofOutcome::Failed, "{encryption:#?}");
    assert!(encryption.summary.starts_with("payload in clear: "), "{encryption:#?}");
    // Both nodes' observers saw it: one the payload, the other what was sent back.
    for node in ["n0", "n1"] {
        let example = |e: &&String| {
            e.starts_with(&format!("entering eth0 of {node}: first frame with the canary"))
        };
        assert!(encryption.evidence.iter().any(|e| example(&e)), "{encryption:#?}");
    }
    rig.down(stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_tunnel_passes_and_a_wrong_claim_of_it_does_not() {
    let spec = "flannel-wireguard-userspace";
    let rig = Rig::up(spec).await;
    let device = "flannel-wg";
    let claims = encrypted(Wrapping::Udp([51820].into()), device);
    let mut stage = rig.stage(spec, claims).await;
    stage.claims.status = vec![Status {
        node: "n0".to_owned(),
        command: "wg show".to_owned(),
        output: Ok("interface: flannel-wg\n  listening port: 51820\n".to_owned()),
        expected: Some("flannel-wg".to_owned()),
    }];
    let proofs = agents::all(&mut stage).await;
    let encryption = find(&proofs, ProofKind::Encryption);
    assert_eq!(encryption.outcome, ProofOutcome::Passed, "{encryption:#?}");
    assert!(encryption.evidence.iter().any(|e| e.starts_with("wg show on n0: interface")));
    assert_eq!(find(&proofs, ProofKind::Path).outcome, ProofOutcome::Passed, "{proofs:#?}");

    // The tunnel of another port did not carry it.
    stage.claims.wrapping = Some(Wrapping::Udp([51871].into()));
    let proofs = agents::all(&mut stage).await;
    let encryption = find(&proofs, ProofKind::Encryption);
    assert!(encryption.summary.contains("they took another way"), "{encryption:#?}");

    // What the cni says of itself counts too.
    stage.claims.wrapping = Some(Wrapping::Udp([51820].into()));
    stage.claims.status[0].expected = Some("peer".to_owned());
    let proofs = agents::all(&mut stage).await;
    let encryption = find(&proofs, ProofKind::Encryption);
    assert_eq!(encryption.outcome, ProofOutcome::Failed, "{encryption:#?}");
    assert!(encryption.summary.contains("does not say \"peer\""), "{encryption:#?}");

    // Without a control a blind sniffer would prove anything.
    stage.claims.status.clear();
    stage.control.clear();
    let proofs = agents::all(&mut stage).await;
    let encryption = find(&proofs, ProofKind::Encryption);
    assert_eq!(encryption.outcome, ProofOutcome::Failed, "{encryption:#?}");
    rig.down(stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_is_proved_over_ipv6() {
    let spec = "flannel-wireguard-userspace";
    let rig = Rig::up_in(spec, IpFamily::V6).await;
    // Flannel's port for tunnels over IPv6 is another one.
    let claims = encrypted(Wrapping::Udp([51821].into()), "flannel-wg-v6");
    let mut stage = rig.stage(spec, claims).await;
    let proofs = agents::all(&mut stage).await;
    let failed: Vec<_> = proofs.iter().filter(|p| p.outcome != ProofOutcome::Passed).collect();
    assert!(failed.is_empty() && proofs.len() == 4, "{proofs:#?}");
    assert!(find(&proofs, ProofKind::Mtu).evidence[0].contains("cross-node (IPv6)"), "{proofs:#?}");
    rig.down(stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_sees_one_device_and_the_nodes_time() {
    let rig = Rig::up("flannel-vxlan").await;
    let mut stage = rig.stage("flannel-vxlan", Claims::default()).await;
    let secret = b"a canary of this test alone".to_vec();
    let mut seen = Vec::new();
    for device in ["eth0", "veth00000000"] {
        let [client, server] =
            stage.cast.several([&rig.place("n0p0").id, &rig.place("n0p1").id]).unwrap();
        let observer = &mut stage.nodes.get_mut("n0").unwrap().observer;
        assert!(observer.sees_kthreads() && !observer.kernel().is_empty());
        let watch = Watch {
            secret: secret.clone(),
            control: b"nothing has this".to_vec(),
            nodes: [].into(),
            wrapping: Wrapping::Esp,
        };
        let named = Which::Named(device.to_owned());
        // A watch that is asked for again begins afresh.
        observer.sniff(named.clone(), watch.clone()).await.unwrap();
        assert_eq!(observer.sniff(named, watch).await.unwrap(), device);
        observer.open_cpu().await.unwrap();
        let port = server.echo(rig.addr("n0p1"), 0).await.unwrap();
        let volley = Volley {
            server: (rig.addr("n0p1"), port).into(),
            datagrams: 20,
            datagram_bytes: 200,
            connects: 1,
            stream_bytes: 64,
            canary: secret.clone(),
            patience_ms: 1_000,
        };
        let tally = client.volley(&volley).await.unwrap();
        assert_eq!((tally.answered, tally.connected), (20, 1), "{tally:?}");
        let counts = server.echoed().await.unwrap();
        assert_eq!((counts[0].datagrams, counts[0].connections), (20, 1));
        let cpu = observer.close_cpu().await.unwrap();
        assert!(cpu.window_s > 0.02 && !cpu.busy.is_empty(), "{cpu:?}");
        assert_eq!(cpu.machine, observer.machine());
        seen.push(observer.sightings().await.unwrap());
    }
    // Traffic between pods of one node stays off the underlay; the pod's own port sees what leaves it.
    assert_eq!(seen[0].secret, 0, "{seen:#?}");
    assert!(seen[1].secret >= 21, "{seen:#?}");
    let missing = stage.nodes.get_mut("n0").unwrap();
    let error = missing.observer.sniff(
        Which::WithAddress(rig.addr("n1")),
        Watch { secret, control: vec![1], nodes: [].into(), wrapping: Wrapping::Esp },
    );
    let error = error.await.unwrap_err().to_string();
    assert!(error.contains("10.66.0.2") && error.contains("hostNetwork"), "{error}");
    rig.down(stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_looked_at_is_not_taken_or_fails_where_it_is_claimed() {
    let rig = Rig::up("flannel-vxlan").await;
    let claims = encrypted(Wrapping::Udp([8472].into()), "flannel.1");
    let mut stage = rig.stage("flannel-vxlan", claims).await;
    for (_, node) in std::mem::take(&mut stage.nodes) {
        node.observer.stop().await;
    }
    let proofs = agents::all(&mut stage).await;
    let path = find(&proofs, ProofKind::Path);
    assert_eq!(path.outcome, ProofOutcome::NotTaken, "{path:#?}");
    let encryption = find(&proofs, ProofKind::Encryption);
    assert_eq!(encryption.outcome, ProofOutcome::Failed, "{encryption:#?}");
    for proof in [path, encryption] {
        assert!(proof.summary.contains("needs the node agents (--privileged)"), "{proof:#?}");
    }
    rig.down(stage).await;
}

fn change(netns: &Netns, f: impl FnOnce(&mut Rtnl, &mut Batch) -> anyhow::Result<()> + Send) {
    let apply = || {
        let (mut rtnl, mut batch) = (Rtnl::open()?, Batch::new());
        f(&mut rtnl, &mut batch)?;
        rtnl.apply(&batch)
    };
    netns.run_blocking(apply).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_that_go_another_way_fail_path_and_mtu() {
    let rig = Rig::up("flannel-vxlan").await;
    let mut stage = rig.stage("flannel-vxlan", vxlan()).await;
    for (node, other, via) in
        [("n0", "10.244.1.0/24", "10.66.0.2"), ("n1", "10.244.0.0/24", "10.66.0.1")]
    {
        change(&rig.space(node), |rtnl, batch| {
            batch.route_via(other.parse()?, via.parse()?, rtnl.link("eth0")?.index, false);
            Ok(())
        });
    }
    let proofs = agents::all(&mut stage).await;
    let path = find(&proofs, ProofKind::Path);
    assert_eq!(path.outcome, ProofOutcome::Failed, "{path:#?}");
    assert!(path.summary.contains("flannel.1 on n0"), "{path:#?}");

    // The tunnel smaller than the pods believe, and pods that believe in more than was promised.
    stage.claims.mtu = Some(1400);
    let proofs = agents::all(&mut stage).await;
    let mtu = find(&proofs, ProofKind::Mtu);
    assert!(mtu.summary.contains("1400 was claimed"), "{mtu:#?}");
    stage.claims.mtu = Some(1450);
    change(&rig.space("n0"), |rtnl, batch| {
        let index = rtnl.link("eth0")?.index;
        batch.set_link(rtnetlink::LinkUnspec::new_with_index(index).mtu(1300).build());
        Ok(())
    });
    let proofs = agents::all(&mut stage).await;
    let mtu = find(&proofs, ProofKind::Mtu);
    assert_eq!(mtu.outcome, ProofOutcome::Failed, "{mtu:#?}");
    rig.down(stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_wire_fails_connectivity_and_nothing_else_is_tried() {
    let rig = Rig::up("flannel-vxlan").await;
    let mut stage = rig.stage("flannel-vxlan", vxlan()).await;
    stage.patience = Duration::from_secs(1);
    change(&rig.space("ul"), |rtnl, batch| {
        batch.del_link(rtnl.link("n1")?.index);
        Ok(())
    });
    let proofs = agents::all(&mut stage).await;
    assert_eq!(outcomes(&proofs), [(ProofKind::Connectivity, ProofOutcome::Failed)]);
    let evidence = &proofs[0].evidence;
    assert!(evidence[0].contains("answered at try"), "same-node works: {evidence:#?}");
    assert!(evidence[1].contains("TCP and UDP not answered"), "{evidence:#?}");
    rig.down(stage).await;
}

/// A firewall's rules on the server's node stand for a policy. Established flows go on, as they do
/// where connection tracking is asked first.
struct Firewall {
    node: Netns,
    /// Match of what is dropped.
    rule: String,
    /// From the acceptance of a change to when it is made.
    delay: Duration,
}

impl Firewall {
    fn new(rig: &Rig, rule: &str) -> Self {
        let node = rig.space("n1");
        Self { node, rule: rule.to_owned(), delay: Duration::ZERO }
    }

    async fn later(&self, commands: Vec<String>) {
        let (node, delay) = (self.node.clone(), self.delay);
        let work = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            for command in commands {
                says(&node, &command.split(' ').collect::<Vec<_>>());
            }
        });
        if delay.is_zero() {
            work.await.unwrap();
        }
    }
}

#[async_trait]
impl Switch for Firewall {
    fn describe(&self) -> String {
        format!("a firewall that drops {}", self.rule)
    }

    async fn apply(&mut self) -> anyhow::Result<()> {
        self.later(vec![
            "nft add table inet proof".to_owned(),
            "nft add chain inet proof f { type filter hook forward priority 0 ; }".to_owned(),
            "nft add rule inet proof f ct state established accept".to_owned(),
            format!("nft add rule inet proof f {} drop", self.rule),
        ])
        .await;
        Ok(())
    }

    async fn remove(&mut self) -> anyhow::Result<()> {
        // Made first, so that one that is not there can be deleted.
        let commands = ["nft add table inet proof", "nft delete table inet proof"];
        self.later(commands.map(str::to_owned).into()).await;
        Ok(())
    }
}

/// A cluster whose cni takes policies and does nothing about them.
struct Nothing;

#[async_trait]
impl Switch for Nothing {
    fn describe(&self) -> String {
        "nothing".to_owned()
    }

    async fn apply(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    async fn remove(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Takes the policy proof: n0p1 is admitted to n1p0, n0p0 is not.
async fn policy(
    rig: &Rig,
    stage: &mut Stage,
    enforces: bool,
    switch: &mut dyn Switch,
) -> policy::Findings {
    let spec = stage.spec.clone();
    policy::prove(policy::Scene {
        spec: &spec,
        enforces,
        cast: &mut stage.cast,
        allowed: &rig.ends("n0p1", "n1p0"),
        denied: &rig.ends("n0p0", "n1p0"),
        switch,
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_enforced_is_timed_and_counted() {
    let rig = Rig::up("flannel-vxlan").await;
    let mut stage = rig.stage("flannel-vxlan", Claims::default()).await;
    let mut firewall = Firewall::new(&rig, "ip saddr 10.244.0.2 ip daddr 10.244.1.2");
    firewall.delay = Duration::from_millis(400);
    let found = policy(&rig, &mut stage, true, &mut firewall).await;
    assert_eq!(found.proof.outcome, ProofOutcome::Passed, "{found:#?}");
    // What was accepted took the firewall 400 ms and more to do.
    let made = Duration::from_millis(390)..Duration::from_secs(4);
    for after in [found.enforced_after, found.restored_after] {
        assert!(after.is_some_and(|after| made.contains(&after)), "{found:#?}");
    }
    let counted = found.counted.unwrap();
    assert_eq!((counted.denied_datagrams, counted.denied_connects), (50, 5));
    assert_eq!(counted.allowed, ["10.244.0.3".parse().unwrap()].into());
    assert_eq!(counted.denied, ["10.244.0.2".parse().unwrap()].into());
    rig.down(stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_ignored_is_a_finding_or_a_failure() {
    let rig = Rig::up("flannel-vxlan").await;
    let mut stage = rig.stage("flannel-vxlan", Claims::default()).await;
    let begun = Instant::now();
    let found = policy(&rig, &mut stage, false, &mut Nothing).await;
    assert!(begun.elapsed() >= policy::DEADLINE);
    assert_eq!(found.proof.outcome, ProofOutcome::NotEnforced, "{found:#?}");
    assert!(found.proof.summary.contains("50 of 50 datagrams"), "{found:#?}");
    assert_eq!((found.enforced_after, found.counted), (None, None));
    let found = policy(&rig, &mut stage, true, &mut Nothing).await;
    assert_eq!(found.proof.outcome, ProofOutcome::Failed, "{:#?}", found.proof);
    assert!(found.proof.summary.contains("claims to enforce"), "{:#?}", found.proof);
    rig.down(stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_leaks_or_stops_too_much_fails() {
    let rig = Rig::up("flannel-vxlan").await;
    let mut stage = rig.stage("flannel-vxlan", Claims::default()).await;
    let mut only_udp =
        Firewall::new(&rig, "meta l4proto udp ip saddr 10.244.0.2 ip daddr 10.244.1.2");
    let found = policy(&rig, &mut stage, true, &mut only_udp).await;
    assert_eq!(found.proof.outcome, ProofOutcome::Failed, "{found:#?}");
    assert!(found.proof.summary.contains("leaks: 0 of 50 datagrams and 5 of 5"), "{found:#?}");
    let mut everybody = Firewall::new(&rig, "ip daddr 10.244.1.2");
    let found = policy(&rig, &mut stage, true, &mut everybody).await;
    assert_eq!(found.proof.outcome, ProofOutcome::Failed, "{found:#?}");
    assert!(found.proof.summary.contains("of the allowed client 0 of 50"), "{found:#?}");
    // Neither left its policy behind.
    let left = says(&rig.space("n1"), &["nft", "list", "tables"]);
    assert!(!left.contains("proof"), "{left}");
    rig.down(stage).await;
}

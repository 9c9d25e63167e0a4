//! The proofs over agents and observers, which are child processes here: real packets, and each
//! proof fails when what it claims is not so.

mod policies;
mod rig;

use cnibench::{
    cluster::IpFamily,
    cni::Wrapping,
    netlink::{Batch, Netns, Rtnl},
    observe::protocol::Which,
    proof::{
        agents::{self, Claims, Status},
        sniffer::Watch,
    },
};
use cnibench_model::{ProofKind, ProofOutcome};
use cnibench_workloads::protocol::Volley;
use rig::{Rig, encrypted, find, outcomes, vxlan};
use std::time::Duration;

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
            flows: Vec::new(),
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
        Watch {
            secret,
            control: vec![1],
            nodes: [].into(),
            wrapping: Wrapping::Esp,
            flows: Vec::new(),
        },
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

//! Proofs fail when the datapath is not what the cni claims.

use crate::support::{down, provider, space, topology, up};
use cnibench::{
    cluster::IpFamily,
    netlink::{Batch, Netns, Rtnl},
};
use cnibench_model::{Proof, ProofKind, ProofOutcome};
use netlink_packet_route::link::MacVlanMode;
use rtnetlink::{LinkMacVlan, LinkUnspec};

fn find(proofs: &[Proof], kind: ProofKind) -> &Proof {
    proofs.iter().find(|p| p.kind == kind).unwrap()
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
async fn routes_that_bypass_the_tunnel_fail_the_path_proof() {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let cluster = up(&provider, "flannel-vxlan", &topology(2, 2, IpFamily::V4)).await;
    for (node, other, via) in
        [("n0", "10.244.1.0/24", "10.66.0.2"), ("n1", "10.244.0.0/24", "10.66.0.1")]
    {
        change(&space(&run, node), |rtnl, batch| {
            batch.route_via(other.parse()?, via.parse()?, rtnl.link("eth0")?.index, false);
            Ok(())
        });
    }
    let proofs = cluster.prove().await;
    assert_eq!(find(&proofs, ProofKind::Connectivity).outcome, ProofOutcome::Passed);
    let path = find(&proofs, ProofKind::Path);
    assert_eq!(path.outcome, ProofOutcome::Failed, "{path:#?}");
    assert!(path.summary.contains("flannel.1"), "{}", path.summary);
    down(cluster).await;
}

/// Traffic of a node that no claim covers, here a second link between the nodes' namespaces.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_carries_unclaimed_fails_the_path_proof() {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let cluster = up(&provider, "flannel-host-gw", &topology(2, 2, IpFamily::V4)).await;
    let passed = cluster.prove().await;
    let path = find(&passed, ProofKind::Path);
    assert_eq!(path.outcome, ProofOutcome::Passed, "{path:#?}");
    assert!(path.summary.ends_with("on no other device of the nodes"), "{path:#?}");
    let ports =
        path.evidence.iter().filter(|e| e.starts_with("same-node") && e.contains("pod's port"));
    assert_eq!(ports.count(), 2, "{path:#?}");
    // A MACVLAN on eth0 that takes the route: eth0 and cni0 carry as claimed, and so does this.
    for (node, other, own, via) in [
        ("n0", "10.244.1.0/24", "10.67.0.1/24", "10.67.0.2"),
        ("n1", "10.244.0.0/24", "10.67.0.2/24", "10.67.0.1"),
    ] {
        let node = space(&run, node);
        change(&node, |rtnl, batch| {
            let eth0 = rtnl.link("eth0")?.index;
            batch.add_link(LinkMacVlan::new("extra", eth0, MacVlanMode::Bridge).up().build());
            Ok(())
        });
        change(&node, |rtnl, batch| {
            let extra = rtnl.link("extra")?.index;
            batch.add_addr(extra, own.parse()?);
            Ok(())
        });
        change(&node, |rtnl, batch| {
            batch.route_via(other.parse()?, via.parse()?, rtnl.link("extra")?.index, false);
            Ok(())
        });
    }
    let proofs = cluster.prove().await;
    assert_eq!(find(&proofs, ProofKind::Connectivity).outcome, ProofOutcome::Passed);
    let path = find(&proofs, ProofKind::Path);
    assert_eq!(path.outcome, ProofOutcome::Failed, "{path:#?}");
    let named = |e: &String| {
        e.starts_with("failed: ") && e.contains("extra on the") && e.contains("nothing claims it")
    };
    assert!(path.evidence.iter().any(named), "{path:#?}");
    down(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mtu_that_does_not_fit_fails_the_mtu_proof() {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let cluster = up(&provider, "flannel-vxlan", &topology(2, 2, IpFamily::V4)).await;
    let set = |mtu: u32| {
        for (node, pod) in [("n0", "n0p0"), ("n1", "n1p0")] {
            change(&space(&run, pod), |rtnl, batch| {
                let index = rtnl.link("eth0")?.index;
                batch.set_link(LinkUnspec::new_with_index(index).mtu(mtu).build());
                Ok(())
            });
            change(&space(&run, node), |rtnl, batch| {
                let index = rtnl.link("veth00000000")?.index;
                batch.set_link(LinkUnspec::new_with_index(index).mtu(mtu).build());
                Ok(())
            });
        }
    };
    // Smaller than claimed: the promised size is refused.
    set(1400);
    let proofs = cluster.prove().await;
    let mtu = find(&proofs, ProofKind::Mtu);
    assert_eq!(mtu.outcome, ProofOutcome::Failed, "{mtu:#?}");
    set(1450);
    // The tunnel smaller than the pods believe: large packets are lost on the way.
    change(&space(&run, "n0"), |rtnl, batch| {
        let index = rtnl.link("flannel.1")?.index;
        batch.set_link(LinkUnspec::new_with_index(index).mtu(1400).build());
        Ok(())
    });
    let proofs = cluster.prove().await;
    let mtu = find(&proofs, ProofKind::Mtu);
    assert_eq!(mtu.outcome, ProofOutcome::Failed, "{mtu:#?}");
    down(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn larger_packets_than_promised_fail_the_mtu_proof() {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let cluster = up(&provider, "flannel-host-gw:mtu=1400", &topology(2, 1, IpFamily::V4)).await;
    for (space_name, link) in [
        ("n0p0", "eth0"),
        ("n0", "veth00000000"),
        ("n0", "cni0"),
        ("n1", "cni0"),
        ("n1", "veth00000000"),
        ("n1p0", "eth0"),
    ] {
        change(&space(&run, space_name), |rtnl, batch| {
            let index = rtnl.link(link)?.index;
            batch.set_link(LinkUnspec::new_with_index(index).mtu(1500).build());
            Ok(())
        });
    }
    let proofs = cluster.prove().await;
    let mtu = find(&proofs, ProofKind::Mtu);
    assert_eq!(mtu.outcome, ProofOutcome::Failed, "{mtu:#?}");
    down(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_wire_fails_connectivity() {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let cluster = up(&provider, "flannel-host-gw", &topology(2, 1, IpFamily::V4)).await;
    change(&space(&run, "ul"), |rtnl, batch| {
        batch.del_link(rtnl.link("n1")?.index);
        Ok(())
    });
    let proofs = cluster.prove().await;
    let connectivity = find(&proofs, ProofKind::Connectivity);
    assert_eq!(connectivity.outcome, ProofOutcome::Failed, "{connectivity:#?}");
    assert_eq!(proofs.len(), 1, "nothing else can be proved then");
    down(cluster).await;
}

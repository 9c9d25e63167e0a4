//! Every profile carries real traffic in every address family, and is made of what it should be.

use crate::support::{down, host_links, provider, says, space, topology, traces, up};
use cnibench::{
    cluster::{ClusterError, IpFamily, Provider as _, Topology},
    netlink::Rtnl,
};
use cnibench_model::{Placement, ProofKind, ProofOutcome};

/// Up, all placements, all proofs, down, nothing left.
async fn carries(spec: &str, family: IpFamily) {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let cluster = up(&provider, spec, &topology(2, 2, family)).await;
    for placement in Placement::ALL {
        match cluster.ends(*placement) {
            Ok(ends) => assert_eq!(ends.bind_addr.is_ipv4(), family != IpFamily::V6, "{placement}"),
            Err(reason) => {
                let profile = spec.split(':').next().unwrap_or_default();
                let refused = match profile {
                    "flannel-ipsec" => Placement::HostPod,
                    _ => Placement::PodService,
                };
                let refuses = profile == "host" || profile.starts_with("ebpf");
                assert!(refuses || profile == "flannel-ipsec", "{spec}: {reason}");
                assert_eq!(*placement, refused, "{spec}: {reason}");
            }
        }
    }
    let details = cluster.info().details.join("; ");
    let clsact = details.contains("programs attached by filters of clsact qdiscs");
    assert_eq!(clsact, spec.contains("attach=clsact"), "{spec}: {details}");
    let proofs = cluster.prove().await;
    for proof in &proofs {
        assert_eq!(proof.outcome, ProofOutcome::Passed, "{spec} {family:?}: {proof:#?}");
        assert!(!proof.evidence.is_empty());
    }
    for kind in [ProofKind::Connectivity, ProofKind::Path, ProofKind::Mtu] {
        assert!(proofs.iter().any(|p| p.kind == kind), "{spec}: no {kind:?}");
    }
    assert!(!traces(&run).is_empty());
    down(cluster).await;
    assert_eq!(traces(&run), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn host() {
    for family in [IpFamily::V4, IpFamily::V6, IpFamily::Dual] {
        carries("host", family).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flannel_host_gw() {
    for family in [IpFamily::V4, IpFamily::V6, IpFamily::Dual] {
        carries("flannel-host-gw", family).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flannel_vxlan() {
    for family in [IpFamily::V4, IpFamily::V6, IpFamily::Dual] {
        carries("flannel-vxlan", family).await;
    }
    carries("flannel-vxlan:mtu=1300,vni=42,port=4789,learning=true", IpFamily::V4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ebpf() {
    for family in [IpFamily::V4, IpFamily::V6, IpFamily::Dual] {
        carries("ebpf", family).await;
    }
    carries("ebpf:mtu=1400,attach=clsact", IpFamily::Dual).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ebpf_vxlan() {
    for family in [IpFamily::V4, IpFamily::V6, IpFamily::Dual] {
        carries("ebpf-vxlan", family).await;
    }
    carries("ebpf-vxlan:mtu=1300,vni=42,port=4789,attach=clsact", IpFamily::V4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vxlan_is_made_as_flanneld_makes_it() {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let before = host_links();
    let cluster = up(&provider, "flannel-vxlan", &topology(3, 1, IpFamily::V4)).await;
    let node = space(&run, "n0");
    let link = says(&node, &["ip", "-d", "link", "show", "flannel.1"]);
    for part in
        ["mtu 1450", "vxlan id 1 ", "local 10.66.0.1 dev eth0", "dstport 8472", "nolearning"]
    {
        assert!(link.contains(part), "{part} is not in {link}");
    }
    let addr = says(&node, &["ip", "-4", "addr", "show", "flannel.1"]);
    assert!(addr.contains("inet 10.244.0.0/32"), "{addr}");
    let routes = says(&node, &["ip", "route"]);
    for part in [
        "10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink",
        "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
        "10.244.0.0/24 dev cni0",
        "10.66.0.0/16 dev eth0",
    ] {
        assert!(routes.contains(part), "{part} is not in {routes}");
    }
    let fdb = says(&node, &["bridge", "fdb", "show", "dev", "flannel.1"]);
    assert_eq!(fdb.lines().filter(|l| l.ends_with("self permanent")).count(), 2, "{fdb}");
    assert!(fdb.contains("dst 10.66.0.2") && fdb.contains("dst 10.66.0.3"), "{fdb}");
    let neighbours = says(&node, &["ip", "neigh", "show", "dev", "flannel.1"]);
    assert_eq!(neighbours.lines().filter(|l| l.contains("PERMANENT")).count(), 2, "{neighbours}");
    // The peer's VTEP address is the one its device really has.
    let theirs = space(&run, "n1").run_blocking(|| Rtnl::open()?.link("flannel.1")).unwrap().mac;
    let theirs = theirs.map(|b| format!("{b:02x}")).join(":");
    assert!(neighbours.contains(&format!("10.244.1.0 lladdr {theirs} PERMANENT")), "{neighbours}");

    let bridge = says(&node, &["ip", "addr", "show", "cni0"]);
    assert!(bridge.contains("mtu 1450") && bridge.contains("inet 10.244.0.1/24"), "{bridge}");
    let port = says(&node, &["ip", "-d", "link", "show", "veth00000000"]);
    for part in ["mtu 1450", "master cni0", "hairpin on", "state forwarding"] {
        assert!(port.contains(part), "{part} is not in {port}");
    }
    let pod = space(&run, "n0p0");
    let inside = says(&pod, &["ip", "addr"]);
    assert!(inside.contains("inet 10.244.0.2/24") && inside.contains("mtu 1450"), "{inside}");
    let routes = says(&pod, &["ip", "route"]);
    assert!(routes.contains("default via 10.244.0.1 dev eth0"), "{routes}");
    assert!(routes.contains("10.244.0.0/16 via 10.244.0.1 dev eth0"), "{routes}");
    assert_eq!(says(&node, &["sysctl", "-n", "net.ipv4.ip_forward"]).trim(), "1");

    assert_eq!(host_links(), before, "something was made in the host's own namespace");
    assert!(cluster.info().setup_ms > 0.0 && cluster.info().mtu == 1450);
    down(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn six_is_made_like_four() {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let cluster = up(&provider, "flannel-vxlan", &topology(2, 1, IpFamily::Dual)).await;
    let node = space(&run, "n0");
    let link = says(&node, &["ip", "-d", "link", "show", "flannel-v6.1"]);
    assert!(link.contains("mtu 1430") && link.contains("local fd66::1 dev eth0"), "{link}");
    let routes = says(&node, &["ip", "-6", "route"]);
    let expected = "fd00:10:244:1::/64 via fd00:10:244:1:: dev flannel-v6.1";
    assert!(routes.contains(expected) && routes.contains("onlink"), "{routes}");
    let inside = says(&space(&run, "n0p0"), &["ip", "-6", "addr", "show", "eth0"]);
    assert!(
        inside.contains("inet6 fd00:10:244::2/64") && !inside.contains("tentative"),
        "{inside}"
    );
    down(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn host_gw_has_routes_and_no_tunnel() {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let jumbo = Topology { underlay_mtu: 9000, ..topology(2, 1, IpFamily::V4) };
    let cluster = up(&provider, "flannel-host-gw", &jumbo).await;
    let node = space(&run, "n1");
    let routes = says(&node, &["ip", "route"]);
    assert!(routes.contains("10.244.0.0/24 via 10.66.0.1 dev eth0"), "{routes}");
    let links = node.run_blocking(|| Rtnl::open()?.links()).unwrap();
    assert!(links.iter().all(|l| l.kind != "vxlan"), "{links:?}");
    let pod = space(&run, "n1p0").run_blocking(|| Rtnl::open()?.link("eth0")).unwrap();
    assert_eq!((pod.mtu, cluster.info().mtu), (9000, 9000));
    let proofs = cluster.prove().await;
    assert!(proofs.iter().all(|p| p.outcome == ProofOutcome::Passed), "{proofs:#?}");
    down(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_nodes() {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let cluster = up(&provider, "flannel-vxlan", &topology(30, 1, IpFamily::V4)).await;
    // From the first to the last, not only between the two that placements use.
    let far = space(&run, "n29p0");
    let last = cnibench::proof::Echo::start(&far, "10.244.29.2".parse().unwrap()).await.unwrap();
    drop(far);
    let port = last.port;
    let connect = move || {
        Ok(std::net::TcpStream::connect_timeout(
            &([10, 244, 29, 2], port).into(),
            std::time::Duration::from_secs(10),
        )?)
    };
    space(&run, "n0p0").run(connect).await.unwrap();
    let proofs = cluster.prove().await;
    assert!(proofs.iter().all(|p| p.outcome == ProofOutcome::Passed), "{proofs:#?}");
    down(cluster).await;
    assert_eq!(traces(&run), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn small_clusters_say_what_they_cannot_offer() {
    let provider = provider();
    let cluster = up(&provider, "flannel-host-gw", &topology(1, 1, IpFamily::V4)).await;
    let reason = |p| cluster.ends(p).unwrap_err();
    assert_eq!(reason(Placement::SameNode), "needs at least 2 pods per node; this cluster has 1");
    for placement in
        [Placement::CrossNode, Placement::HostHost, Placement::HostPod, Placement::PodService]
    {
        assert_eq!(reason(placement), "needs at least 2 nodes; this cluster has 1");
    }
    down(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_refused_before_anything_is_made() {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let shape = topology(2, 1, IpFamily::V4);
    for (spec, says) in [
        ("flannel-vxlam", "did you mean \"flannel-vxlan\"?"),
        ("flannel-vxlan:mtuu=1400", "did you mean \"mtu\"?"),
        ("flannel-vxlan:mtu=1500", "is not a number from 576 to 1450"),
        ("flannel-vxlan:vni=0", "is not a number from 1"),
        ("host:mtu=1400", "takes no parameters"),
    ] {
        match provider.up(0, &spec.parse().unwrap(), &shape).await {
            Err(ClusterError::Usage(text)) => assert!(text.contains(says), "{spec}: {text}"),
            Err(e) => panic!("{spec}: not a usage error: {e}"),
            Ok(_) => panic!("{spec} came up"),
        }
    }
    match provider.up(0, &"flannel-ipsec".parse().unwrap(), &topology(2, 1, IpFamily::V6)).await {
        Err(ClusterError::Unsupported { reason, .. }) => assert!(reason.contains("IPv4 only")),
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("it came up"),
    }
    assert_eq!(traces(&run), [""; 0]);
}

/// What needs of the kernel more than the others: carried where a try shows that it is there, else
/// refused with what the try said.
#[tokio::test(flavor = "multi_thread")]
async fn encryption_by_the_kernel_is_carried_or_refused_after_a_try() {
    use cnibench::cluster::netns::capabilities::{ESP, WIREGUARD};
    for (spec, feature, families) in [
        ("flannel-wireguard", WIREGUARD, &[IpFamily::V4, IpFamily::Dual][..]),
        ("ebpf-wireguard", WIREGUARD, &[IpFamily::V6, IpFamily::Dual]),
        ("flannel-ipsec", ESP, &[IpFamily::V4]),
        ("ebpf-ipsec", ESP, &[IpFamily::V6, IpFamily::Dual]),
    ] {
        match feature.tried() {
            Ok(()) => {
                for family in families {
                    carries(spec, *family).await;
                }
            }
            Err(tried) => {
                let provider = provider();
                let run = provider.run_id().as_str().to_owned();
                let shape = topology(2, 1, IpFamily::V4);
                match provider.up(0, &spec.parse().unwrap(), &shape).await {
                    Err(ClusterError::Unsupported { reason, .. }) => {
                        assert!(reason.contains(&tried), "{reason}\nshould say: {tried}");
                        assert!(reason.contains("--provider vm"), "{reason}");
                    }
                    Err(e) => panic!("{spec}: {e}"),
                    Ok(_) => panic!("{spec} came up"),
                }
                assert_eq!(traces(&run), [""; 0]);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_name_every_profile_and_what_is_missing() {
    let offers = provider().cnis().await;
    let missing = |name: &str| offers.iter().find(|o| o.name == name).unwrap().missing.clone();
    assert_eq!(missing("host"), None);
    assert_eq!(missing("flannel-vxlan"), None);
    assert!(missing("flannel-wireguard").unwrap().contains("flannel-wireguard-userspace"));
    let tried = cnibench::cluster::netns::capabilities::capabilities().await;
    assert!(tried.iter().any(|c| c.name == "veth" && c.ok), "{tried:#?}");
    assert!(tried.iter().all(|c| !c.detail.is_empty()));
}

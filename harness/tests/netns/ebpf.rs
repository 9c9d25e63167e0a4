//! The eBPF datapath with known traffic: what its programs counted is what was sent and what devices
//! counted, the program answers for the gateway, policies hold, and a killed owner leaves nothing.

use crate::{
    running::{Running, agents_of, run_command, run_id, signal, traces_of, wait_for},
    support::{down, provider, says, space, topology, up},
};
use cnibench::{
    cluster::{Cluster, IpFamily, Place},
    exec::local::set_program,
    netlink::{Link, Netns, Rtnl, namespace::scratch},
    proof::Echo,
};
use cnibench_model::{Placement, ProofKind, ProofOutcome, Surroundings};
use cnibench_probes::{
    capability::{Kind, try_kind},
    datapath::{Counters, Outcome},
};
use rustix::process::Signal;
use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

/// Requests that are sent, each answered.
const EXCHANGES: u64 = 300;
/// Packets that neighbour discovery and the like may add.
const BACKGROUND: u64 = 20;

/// The client's and the server's namespace and the server's address of a family.
fn ends(cluster: &dyn Cluster, placement: Placement, v4: bool) -> (Netns, Netns, IpAddr) {
    let ends = cluster.ends(placement).unwrap();
    let open = |place: &Place| Netns::open(Path::new(&place.id)).unwrap();
    let (client, server) = (open(&ends.client), open(&ends.server));
    let own = move || {
        let all = Rtnl::open()?.addresses()?;
        Ok(all.into_iter().flat_map(|m| m.attributes).find_map(|a| match a {
            netlink_packet_route::address::AddressAttribute::Address(ip) => {
                let global = match ip {
                    IpAddr::V4(ip) => !ip.is_loopback(),
                    IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
                };
                (global && ip.is_ipv4() == v4).then_some(ip)
            }
            _ => None,
        }))
    };
    let addr = server.run_blocking(own).unwrap().unwrap();
    (client, server, addr)
}

/// Sends datagrams and gets each back, one at a time; with a time to live if one is named.
fn exchange(from: &Netns, to: SocketAddr, count: u64, ttl: Option<u32>) -> anyhow::Result<u64> {
    from.run_blocking(|| {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        if let Some(ttl) = ttl {
            socket.set_ttl(ttl)?;
        }
        let mut answered = 0;
        for i in 0..count {
            socket.send_to(&i.to_be_bytes(), to)?;
            answered += u64::from(socket.recv_from(&mut [0; 64]).is_ok());
        }
        Ok(answered)
    })
}

fn counted(cluster: &dyn Cluster, node: u32) -> Counters {
    cluster.counted().unwrap().into_iter().find(|(n, _)| *n == node).unwrap().1
}

fn link(netns: &Netns, name: &str) -> Link {
    netns.run_blocking(|| Rtnl::open()?.link(name)).unwrap()
}

/// As many as were sent, or a few more that nobody asked for.
fn about(found: u64, sent: u64) -> bool {
    (sent..=sent + BACKGROUND).contains(&found)
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_count_what_was_sent_and_what_devices_count() {
    for (spec, to, from, device) in [
        ("ebpf", Outcome::ToNextHop, Outcome::FromUnderlay, "eth0"),
        ("ebpf-vxlan", Outcome::ToTunnel, Outcome::FromTunnel, "cnb-vxlan"),
    ] {
        let provider = provider();
        let run = provider.run_id().as_str().to_owned();
        let cluster = up(&provider, spec, &topology(2, 2, IpFamily::Dual)).await;
        for v4 in [true, false] {
            // On one node: both directions pass the program once, and none the stack.
            let (client, server, addr) = ends(&*cluster, Placement::SameNode, v4);
            let echo = Echo::start(&server, addr).await.unwrap();
            let target = SocketAddr::new(addr, echo.port);
            exchange(&client, target, 1, None).unwrap();
            let before = counted(&*cluster, 0);
            assert_eq!(exchange(&client, target, EXCHANGES, None).unwrap(), EXCHANGES);
            let rise = counted(&*cluster, 0).since(&before);
            assert_eq!(rise.of(Outcome::ToLocalPod), 2 * EXCHANGES, "{spec} {v4}: {rise}");
            assert!(rise.of(Outcome::Passed) <= BACKGROUND, "{spec} {v4}: {rise}");
            assert_eq!(rise.of(to) + rise.of(from), 0, "{spec} {v4}: {rise}");

            // Across nodes, against the device's own counters.
            let (client, server, addr) = ends(&*cluster, Placement::CrossNode, v4);
            let echo = Echo::start(&server, addr).await.unwrap();
            let target = SocketAddr::new(addr, echo.port);
            exchange(&client, target, 1, None).unwrap();
            let node = space(&run, "n0");
            let (before, then) = (counted(&*cluster, 0), link(&node, device).counters);
            assert_eq!(exchange(&client, target, EXCHANGES, None).unwrap(), EXCHANGES);
            let rise = counted(&*cluster, 0).since(&before);
            let now = link(&node, device).counters;
            assert_eq!(rise.of(to), EXCHANGES, "{spec} {v4}: {rise}");
            assert_eq!(rise.of(from), EXCHANGES, "{spec} {v4}: {rise}");
            assert!(rise.of(Outcome::Passed) <= BACKGROUND, "{spec} {v4}: {rise}");
            let (tx, rx) = (now.tx_packets - then.tx_packets, now.rx_packets - then.rx_packets);
            assert!(about(tx, EXCHANGES) && about(rx, EXCHANGES), "{spec} {v4}: {tx} {rx}");
            assert_eq!(rise.of(Outcome::Broken) + rise.of(Outcome::Denied), 0, "{rise}");
        }
        down(cluster).await;
    }
}

#[test]
fn capabilities_are_found_by_a_real_load() {
    drop(provider());
    let tried = |kind, device: &'static str| {
        scratch(move || Ok(try_kind(kind, device)?)).map_err(|e| format!("{e:#}"))
    };
    for kind in [Kind::Tcx, Kind::Clsact, Kind::TpBtf, Kind::RawTracepoint] {
        assert_eq!(tried(kind, "lo"), Ok(()), "{kind}");
    }
    let refused = tried(Kind::Tcx, "nowhere").unwrap_err();
    assert!(refused.starts_with("tcx: loads, but cannot be attached: "), "{refused}");
    // The rest depends on the kernel; each says why it cannot be had.
    for kind in Kind::ALL {
        if let Err(reason) = tried(kind, "lo") {
            assert!(reason.len() > 20, "{kind}: {reason}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_answers_for_the_gateway() {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let cluster = up(&provider, "ebpf", &topology(2, 1, IpFamily::Dual)).await;
    let pod = space(&run, "n0p0");
    let before = counted(&*cluster, 0);
    // Forgets what it knew, so that it asks again.
    says(&pod, &["ip", "neigh", "flush", "all"]);
    for v4 in [true, false] {
        let (client, server, addr) = ends(&*cluster, Placement::CrossNode, v4);
        let echo = Echo::start(&server, addr).await.unwrap();
        let target = SocketAddr::new(addr, echo.port);
        assert_eq!(exchange(&client, target, 1, None).unwrap(), 1);
    }
    let rise = counted(&*cluster, 0).since(&before);
    assert!(rise.of(Outcome::ArpAnswered) >= 1, "{rise}");
    assert!(rise.of(Outcome::NdAnswered) >= 1, "{rise}");
    let neighbours = says(&pod, &["ip", "neigh"]);
    for gateway in ["10.244.0.1", "fd00:10:244::1"] {
        let line = format!("{gateway} dev eth0 lladdr 02:cb:00:00:00:01");
        assert!(neighbours.contains(&line), "{neighbours}");
    }
    // The node itself could not have: it has no such address, and no bridge.
    let node = space(&run, "n0");
    assert!(!says(&node, &["ip", "addr"]).contains("10.244.0.1/"));
    let links = node.run_blocking(|| Rtnl::open()?.links()).unwrap();
    assert!(links.iter().all(|l| l.kind != "bridge"), "{links:?}");
    down(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_two_routers_away() {
    let provider = provider();
    let cluster = up(&provider, "ebpf", &topology(2, 2, IpFamily::V4)).await;
    for (placement, hops) in [(Placement::SameNode, 1), (Placement::CrossNode, 2)] {
        let (client, server, addr) = ends(&*cluster, placement, true);
        let echo = Echo::start(&server, addr).await.unwrap();
        let target = SocketAddr::new(addr, echo.port);
        assert_eq!(exchange(&client, target, 3, Some(hops)).unwrap(), 0, "{placement}");
        assert_eq!(exchange(&client, target, 3, Some(hops + 1)).unwrap(), 3, "{placement}");
    }
    down(cluster).await;
}

/// Large sends stay large on the way: no program or device on it cuts them into packets.
#[tokio::test(flavor = "multi_thread")]
async fn offload_is_kept() {
    const BYTES: usize = 32 << 20;
    for (spec, family) in [
        ("ebpf", IpFamily::V4),
        ("ebpf", IpFamily::V6),
        ("ebpf-vxlan", IpFamily::V4),
        ("ebpf-vxlan", IpFamily::V6),
    ] {
        let provider = provider();
        let run = provider.run_id().as_str().to_owned();
        let cluster = up(&provider, spec, &topology(2, 1, family)).await;
        let (client, server, addr) = ends(&*cluster, Placement::CrossNode, family == IpFamily::V4);
        let node = space(&run, "n1");
        let before = link(&node, "eth0").counters;
        let listener = server.run_blocking(|| Ok(TcpListener::bind((addr, 0))?)).unwrap();
        let to = listener.local_addr().unwrap();
        let receiving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut buffer, mut total) = (vec![0; 1 << 18], 0);
            loop {
                match stream.read(&mut buffer).unwrap() {
                    0 => return total,
                    n => total += n,
                }
            }
        });
        let send = move || {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
            let block = vec![7; 1 << 18];
            for _ in 0..BYTES / block.len() {
                stream.write_all(&block)?;
            }
            Ok(())
        };
        client.run_blocking(send).unwrap();
        assert_eq!(receiving.join().unwrap(), BYTES);
        let after = link(&node, "eth0").counters;
        let packets = after.rx_packets - before.rx_packets;
        let each = BYTES as u64 / packets.max(1);
        assert!(each > 4000, "{spec} {family:?}: {each} bytes in each of {packets} packets");
        down(cluster).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_proved_and_go_away_again() {
    set_program(PathBuf::from(crate::running::binary()));
    for (spec, family) in [
        ("ebpf", IpFamily::V4),
        ("ebpf", IpFamily::V6),
        ("ebpf-vxlan", IpFamily::V4),
        ("flannel-host-gw", IpFamily::V4),
        ("flannel-vxlan", IpFamily::V6),
    ] {
        let provider = provider();
        let mut cluster = up(&provider, spec, &topology(2, 2, family)).await;
        let wanted = Surroundings { policies: Some(100), ..Surroundings::default() };
        let proofs = cluster.surround(&wanted).await.unwrap();
        assert_eq!(proofs.len(), 1, "{proofs:#?}");
        assert_eq!(proofs[0].kind, ProofKind::Policy);
        assert_eq!(proofs[0].outcome, ProofOutcome::Passed, "{spec} {family:?}: {proofs:#?}");
        assert!(proofs[0].summary.starts_with("100 policies: none of "), "{proofs:#?}");
        let count = proofs[0].evidence.iter().find_map(|line| {
            let rest = line.strip_prefix("the datapath counted ")?;
            rest.split(' ').next()?.parse::<u64>().ok()
        });
        // 50 datagrams and 5 connections, and the tries of the probe.
        assert!(count.is_some_and(|n| n >= 55), "{spec} {family:?}: {proofs:#?}");
        assert!(cluster.surround(&wanted).await.unwrap().is_empty());

        // They stay in force behind the proof: the neighbour is kept out, the client is not.
        let v4 = family == IpFamily::V4;
        let (client, server, addr) = ends(&*cluster, Placement::CrossNode, v4);
        let (_, other, _) = ends(&*cluster, Placement::SameNode, v4);
        let echo = Echo::start(&server, addr).await.unwrap();
        let target = SocketAddr::new(addr, echo.port);
        let before = cluster.counted().unwrap();
        assert_eq!(exchange(&client, target, 20, None).unwrap(), 20, "{spec} {family:?}");
        assert_eq!(exchange(&other, target, 5, None).unwrap(), 0, "{spec} {family:?}");
        if !before.is_empty() {
            let rise = counted(&*cluster, 1).since(&before[1].1);
            assert_eq!(rise.of(Outcome::Denied), 5, "{rise}");
        }
        assert!(cluster.surround(&Surroundings::default()).await.unwrap().is_empty());
        assert_eq!(exchange(&other, target, 5, None).unwrap(), 5, "{spec} {family:?}");
        // One that needs more than this provider has is refused, not ignored.
        let services = Surroundings { services: Some(10), ..Surroundings::default() };
        let refused = cluster.surround(&services).await.unwrap_err().to_string();
        assert!(refused.starts_with("services: needs a Kubernetes cluster"), "{refused}");
        down(cluster).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_policies_fit() {
    set_program(PathBuf::from(crate::running::binary()));
    for spec in ["ebpf", "flannel-host-gw"] {
        let provider = provider();
        let mut cluster = up(&provider, spec, &topology(2, 2, IpFamily::V4)).await;
        for count in [1000, 1] {
            let wanted = Surroundings { policies: Some(count), ..Surroundings::default() };
            let proofs = cluster.surround(&wanted).await.unwrap();
            assert_eq!(proofs[0].outcome, ProofOutcome::Passed, "{spec}: {proofs:#?}");
        }
        down(cluster).await;
    }
}

/// Ids of programs and links that a process holds (Documentation/filesystems/proc.rst, fdinfo).
fn held(pid: u32) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let (mut programs, mut links) = (BTreeSet::new(), BTreeSet::new());
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let number = |key: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(key))?;
            line.trim().parse::<u32>().ok()
        };
        if let Some(link) = number("link_id:") {
            links.insert(link);
        }
        if let Some(program) = number("prog_id:") {
            programs.insert(program);
        }
    }
    (programs, links)
}

#[test]
fn a_killed_owner_leaves_no_program_attached() {
    drop(provider());
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let mut command = run_command(&out);
    command.args(["--cni", "ebpf,ebpf-vxlan", "--workload", "tcp_rr", "--trials", "200"]);
    let running = Running::until_trials(command, &out, 2);
    let (programs, links) = held(running.pid());
    // Per node one at the device and one at each of two pods, with a tunnel one more.
    assert!(programs.len() >= 8 && links.len() >= 12, "{programs:?} {links:?}");
    let pinned = "/sys/fs/bpf";
    let before = std::fs::read_dir(pinned).map_or(0, Iterator::count);
    let id = run_id(&out);
    signal(running.pid(), Signal::KILL);
    running.wait();
    wait_for("agents end with their controller", || agents_of(&id).is_empty());
    let alive = || -> BTreeSet<u32> {
        let all = aya::programs::loaded_programs().flatten().map(|info| info.id());
        all.filter(|id| programs.contains(id)).collect()
    };
    wait_for("programs end with their owner", || alive().is_empty());
    let linked = || -> BTreeSet<u32> {
        let all = aya::programs::loaded_links().flatten().map(|info| info.id());
        all.filter(|id| links.contains(id)).collect()
    };
    wait_for("links end with their owner", || linked().is_empty());
    assert_eq!(std::fs::read_dir(pinned).map_or(0, Iterator::count), before);
    // Other runs' leftovers are not looked at here.
    std::process::Command::new(crate::running::binary()).arg("clean").output().unwrap();
    assert_eq!(traces_of(&id), Default::default());
}

//! `flannel-wireguard-userspace`, and the encryption proof with it, without it and around it.

use super::{
    rig::{Attached, Rig, addr_of, apply, carry, links},
    support::{down, provider, space, topology, traces, up},
};
use cnibench::{
    cluster::{Cluster, IpFamily},
    cni::{Wrapping, wireguard_userspace::child::set_program},
    netlink::Netns,
    proof::encryption::{Claimed, Line, prove},
};
use cnibench_model::{Proof, ProofKind, ProofOutcome};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const WIREGUARD: &str = "flannel-wireguard-userspace";

fn use_our_binary() {
    set_program(PathBuf::from(env!("CARGO_BIN_EXE_cnibench")));
}

/// The claim that pods of nodes 0 and 1 are wrapped, controlled by what nodes send in clear.
fn claimed(rig: &Rig, attached: &Attached, spec: &str, wrapping: Wrapping) -> Claimed {
    let nodes: BTreeSet<_> =
        rig.nodes.iter().flat_map(|n| n.ctx.addrs.iter().map(|a| a.addr())).collect();
    let mut pods = Vec::new();
    let mut control = Vec::new();
    // As a cluster that is ready.
    for (a, b) in [(0, 1), (1, 0)] {
        for addr in &attached.pods[b][0].addrs {
            carry(&rig.nodes[a].pods[0].netns, &rig.nodes[b].pods[0].netns, *addr);
        }
    }
    for (a, b) in [(0, 1), (1, 0)] {
        for addr in &attached.pods[b][0].addrs {
            pods.push(Line {
                label: format!("pod of node {a} to pod of node {b}"),
                from: rig.nodes[a].pods[0].netns.clone(),
                to: rig.nodes[b].pods[0].netns.clone(),
                addr: *addr,
            });
        }
        control.push(Line {
            label: format!("node {a} to node {b}"),
            from: rig.nodes[a].ctx.netns.clone(),
            to: rig.nodes[b].ctx.netns.clone(),
            addr: rig.nodes[b].ctx.addrs[0].addr(),
        });
    }
    let cni = spec.parse().unwrap();
    Claimed { cni, underlay: rig.underlay.clone(), pods, control, nodes, wrapping }
}

fn taken(claimed: Claimed) -> Proof {
    let proof = prove(&claimed);
    assert_eq!(proof.kind, ProofKind::Encryption);
    proof
}

fn failed(claimed: Claimed, text: &str) {
    let proof = taken(claimed);
    assert_eq!(proof.outcome, ProofOutcome::Failed, "{proof:#?}");
    assert!(proof.summary.contains(text), "{proof:#?}\nshould say: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_between_nodes_is_carried_and_proved_encrypted() {
    use_our_binary();
    let rig = Rig::new(3, 1, IpFamily::Dual);
    let cni = rig.cni(WIREGUARD);
    assert_eq!(cni.pod_mtu(), 1420);
    let mut attached = rig.attach(cni.as_ref()).await.unwrap();
    for (a, b) in [(0, 2), (2, 1)] {
        for v4 in [true, false] {
            let target = addr_of(&attached.pods[b][0], v4);
            let ends = [a, b].map(|i: usize| rig.nodes[i].pods[0].netns.clone());
            carry(&ends[0], &ends[1], target);
        }
    }
    let wrapping = cni.wrapping().unwrap();
    assert_eq!(wrapping, Wrapping::Udp([51820, 51821].into()));
    let proof = taken(claimed(&rig, &attached, WIREGUARD, wrapping));
    assert_eq!(proof.outcome, ProofOutcome::Passed, "{proof:#?}");
    for agent in &mut attached.agents {
        agent.check().await.unwrap();
    }
    failed(claimed(&rig, &attached, WIREGUARD, Wrapping::Esp), "they took another way");
    let mut blind = claimed(&rig, &attached, WIREGUARD, Wrapping::Esp);
    blind.underlay = rig.nodes[2].pods[0].netns.clone();
    failed(blind, "sniffer blind");

    assert_eq!(rig.detach(&mut attached).await, Vec::<String>::new());
    for node in &rig.nodes {
        let left = links(&node.ctx.netns);
        assert!(!left.iter().any(|l| l.starts_with("flannel-wg")), "the TUN outlived: {left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_around_the_tunnel_is_caught() {
    use_our_binary();
    let rig = Rig::new(2, 1, IpFamily::V4);
    let cni = rig.cni(WIREGUARD);
    let mut attached = rig.attach(cni.as_ref()).await.unwrap();
    let wrapping = cni.wrapping().unwrap();
    let before = taken(claimed(&rig, &attached, WIREGUARD, wrapping.clone()));
    assert_eq!(before.outcome, ProofOutcome::Passed, "{before:#?}");
    // One direction is enough to be caught, as it is enough to leak.
    let (range, via) = (rig.nodes[1].ctx.pod_cidrs[0], rig.nodes[1].ctx.addrs[0].addr());
    apply(&rig.nodes[0].ctx.netns, |rtnl, batch| {
        let eth0 = rtnl.link("eth0").unwrap().index;
        batch.route_via(range, via, eth0, false);
    });
    let after = taken(claimed(&rig, &attached, WIREGUARD, wrapping));
    assert_eq!(after.outcome, ProofOutcome::Failed, "{after:#?}");
    assert!(after.summary.starts_with("payload in clear: "), "{after:#?}");
    let example = after.evidence.iter().any(|e| e.contains("first frame with the canary: "));
    assert!(example, "{after:#?}");
    assert_eq!(rig.detach(&mut attached).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_without_encryption_is_caught() {
    let rig = Rig::new(2, 1, IpFamily::V4);
    let mut attached = rig.attach(rig.cni("flannel-vxlan").as_ref()).await.unwrap();
    let vxlan = Wrapping::Udp([8472].into());
    failed(claimed(&rig, &attached, "flannel-vxlan", vxlan), "payload in clear: ");
    assert_eq!(rig.detach(&mut attached).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_is_named_and_its_key_is_nowhere_to_be_read() {
    use_our_binary();
    let rig = Rig::new(2, 1, IpFamily::V4);
    let mut attached = rig.attach(rig.cni(WIREGUARD).as_ref()).await.unwrap();
    let node = &rig.nodes[0].ctx;
    let pids: Vec<u32> = processes_in(&node.netns);
    let [pid] = pids[..] else { panic!("one process per node, found {pids:?}") };
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let command = String::from_utf8_lossy(&command);
    let expected = format!("\0wireguard-node\0--node\0{}\0", node.name);
    assert!(command.ends_with(&expected), "{command:?} does not end with {expected:?}");

    kill(pid);
    let end = Instant::now() + Duration::from_secs(30);
    let error = loop {
        match attached.agents[0].check().await {
            Err(e) => break format!("{e:#}"),
            Ok(()) => assert!(Instant::now() < end, "its death was not noticed"),
        }
    };
    assert!(error.contains("WireGuard of node 0 ended") && error.contains("signal: 9"), "{error}");
    attached.agents[1].check().await.unwrap();
    let errors = rig.detach(&mut attached).await;
    assert_eq!(errors, [""; 0], "what was reported once is not reported again");
}

#[test]
fn the_process_ends_with_its_input_and_says_what_it_does_not_understand() {
    let run = |input: &str| {
        let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_cnibench"))
            .arg("wireguard-node")
            .write_stdin(input.to_owned())
            .timeout(Duration::from_secs(60))
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run(""), (true, String::new()));
    assert!(run("{\"x\": 1}\n").1.contains("an order that is not understood"));
    let rig = Rig::new(1, 0, IpFamily::V4);
    let start = |device: &str| {
        format!(
            "{{\"netns\":{:?},\"tunnels\":[{{\"device\":\"{device}\",\"port\":51820,\"mtu\":1420}}],\"workers\":1}}\n",
            rig.nodes[0].ctx.netns.path()
        )
    };
    assert_eq!(run(&start("wg0")), (true, String::new()));
    assert_eq!(links(&rig.nodes[0].ctx.netns), ["eth0", "lo"]);
    let taken = run(&start("eth0"));
    assert!(!taken.0 && taken.1.contains("TUN device eth0"), "{taken:?}");
}

/// Processes of this user that stand in a namespace.
fn processes_in(netns: &Netns) -> Vec<u32> {
    let wanted = cnibench::netlink::namespace::inode(netns.path()).unwrap();
    let of =
        |pid: u32| cnibench::netlink::namespace::inode(Path::new(&format!("/proc/{pid}/ns/net")));
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid| of(*pid) == Some(wanted)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_proves_itself_encrypted_and_names_a_process_that_died() {
    use_our_binary();
    for family in [IpFamily::V4, IpFamily::V6, IpFamily::Dual] {
        let provider = provider();
        let run = provider.run_id().as_str().to_owned();
        let mut cluster = up(&provider, WIREGUARD, &topology(2, 2, family)).await;
        assert!(cluster.info().encrypted);
        let proofs = cluster.prove().await;
        for proof in &proofs {
            assert_eq!(proof.outcome, ProofOutcome::Passed, "{family:?}: {proof:#?}");
        }
        assert!(proofs.iter().any(|p| p.kind == ProofKind::Encryption), "{proofs:#?}");
        cluster.check().await.unwrap();
        if family == IpFamily::Dual {
            let pids = processes_in(&space(&run, "n1"));
            let [pid] = pids[..] else { panic!("one process per node, found {pids:?}") };
            kill(pid);
            let error = format!("{:#}", died(&mut *cluster).await);
            assert!(error.starts_with("node 1: ") && error.contains("signal: 9"), "{error}");
            assert!(!error.contains("cnb-"), "{error}");
        }
        down(cluster).await;
        assert_eq!(traces(&run), [""; 0]);
    }
}

async fn died(cluster: &mut dyn Cluster) -> anyhow::Error {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match cluster.check().await {
            Err(e) => return e,
            Ok(()) => assert!(Instant::now() < end, "its death was not noticed"),
        }
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

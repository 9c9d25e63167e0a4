//! `ebpf:object=FILE`: a developer's own object carries the cluster; a broken one is refused with
//! what is wrong with it, in the verifier's words where it is the verifier that refuses.

#[path = "../../../ebpf-probes/build/clang.rs"]
mod clang;

use crate::{
    running::{run_command, stderr},
    support::{down, provider, topology, traces, up},
};
use cnibench::{
    cluster::{ClusterError, IpFamily, Provider as _, StateError},
    exec::local::set_program,
    proof::Echo,
};
use cnibench_model::{Placement, ProofOutcome};
use cnibench_probes::datapath::Outcome;
use std::{
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    time::Duration,
};

/// The folder of the built-in programs' sources.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ebpf-probes/bpf")
}

/// The built-in program in one piece.
fn original() -> String {
    let read = |name: &str| fs::read_to_string(sources().join(name)).unwrap();
    let mut text = read("datapath.bpf.c");
    for header in ["datapath.bpf.h", "datapath_answers.bpf.h"] {
        let include = format!("#include \"{header}\"\n");
        assert!(text.contains(&include), "{header} is no longer included");
        text = text.replacen(&include, &read(header), 1).replace(&include, "");
    }
    text
}

/// The built-in program with one piece of it replaced, compiled.
fn variant(folder: &Path, name: &str, piece: &str, by: &str) -> PathBuf {
    let original = original();
    assert!(original.contains(piece), "{piece} is no longer in the program");
    let (source, object) = (folder.join(format!("{name}.c")), folder.join(format!("{name}.o")));
    fs::write(&source, original.replace(piece, by)).unwrap();
    let compiler = clang::find().unwrap();
    clang::compile(&compiler, &source, &sources(), &object).unwrap();
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn a_developers_object_carries_the_cluster() {
    let folder = tempfile::tempdir().unwrap();
    // It counts each packet to a local pod twice: nobody else's program does.
    let object = variant(
        folder.path(),
        "twice",
        "\tcount(outcome);\n",
        "\tcount(outcome);\n\tcount(outcome);\n",
    );
    for profile in ["ebpf", "ebpf-vxlan"] {
        let provider = provider();
        let spec = format!("{profile}:object={}", object.display());
        let cluster = up(&provider, &spec, &topology(2, 2, IpFamily::V4)).await;
        let proofs = cluster.prove().await;
        assert!(proofs.iter().all(|p| p.outcome == ProofOutcome::Passed), "{proofs:#?}");
        let details = cluster.info().details.join("\n");
        assert!(details.contains("twice.o (sha256 "), "{details}");
        let ends = cluster.ends(Placement::SameNode).unwrap();
        let open = |id: &str| cnibench::netlink::Netns::open(Path::new(id)).unwrap();
        let (client, server) = (open(&ends.client.id), open(&ends.server.id));
        let echo = Echo::start(&server, ends.bind_addr).await.unwrap();
        let before = cluster.counted().unwrap()[0].1;
        let to = (ends.server_addr, echo.port);
        let exchange = move || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            for _ in 0..10 {
                socket.send_to(b"there and back", to)?;
                socket.recv_from(&mut [0; 64])?;
            }
            Ok(())
        };
        client.run_blocking(exchange).unwrap();
        let rise = cluster.counted().unwrap()[0].1.since(&before);
        assert_eq!(rise.of(Outcome::ToLocalPod), 40, "{rise}");
        down(cluster).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_without_what_is_optional_will_do() {
    let folder = tempfile::tempdir().unwrap();
    let renamed = original()
        .replace("MAP(counters,", "MAP(own_counters,")
        .replace("&counters,", "&own_counters,")
        .replace("policies4", "own_policies4")
        .replace("policies6", "own_policies6");
    let (source, object) = (folder.path().join("bare.c"), folder.path().join("bare.o"));
    fs::write(&source, renamed).unwrap();
    clang::compile(&clang::find().unwrap(), &source, &sources(), &object).unwrap();
    let provider = provider();
    let spec = format!("ebpf:object={}", object.display());
    let mut cluster = up(&provider, &spec, &topology(2, 2, IpFamily::Dual)).await;
    assert!(cluster.counted().unwrap().is_empty());
    let wanted = cnibench_model::Surroundings { policies: Some(1), ..Default::default() };
    let refused = cluster.surround(&wanted).await;
    let Err(StateError::NotOffered(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("bare.o has no maps policies4 and policies6"), "{text}");
    down(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_the_object_ignores_fails_its_proof() {
    set_program(PathBuf::from(crate::running::binary()));
    let folder = tempfile::tempdir().unwrap();
    let asks = "\t\tif (!admitted4(skb, ip, pod->id))\n";
    let object = variant(folder.path(), "leaky", asks, &asks.replace(")\n", " && 0)\n"));
    let provider = provider();
    let spec = format!("ebpf:object={}", object.display());
    let mut cluster = up(&provider, &spec, &topology(2, 2, IpFamily::V4)).await;
    let wanted = cnibench_model::Surroundings { policies: Some(1), ..Default::default() };
    let proofs = cluster.surround(&wanted).await.unwrap();
    assert_eq!(proofs[0].outcome, ProofOutcome::Failed, "{proofs:#?}");
    assert!(proofs[0].summary.contains("claims to enforce policies"), "{proofs:#?}");
    down(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_objects_say_what_is_wrong_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.o");
    fs::write(&text, "this is no object").unwrap();
    let empty = folder.path().join("empty.o");
    fs::write(&empty, "").unwrap();
    let cut = folder.path().join("cut.o");
    let whole = variant(folder.path(), "whole", "int from_pod(", "int from_pod(");
    let bytes = fs::read(&whole).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let piece = "\tif (skb->protocol == bpf_htons(ETH_P_ARP))\n";
    let wild =
        format!("\tif (*(__u32 *)((void *)(long)skb->data + 70))\n\t\treturn TC_ACT_OK;\n{piece}");
    for (object, says) in [
        (folder.path().join("missing.o"), vec!["No such file"]),
        (text, vec!["not an eBPF object"]),
        (empty, vec!["not an eBPF object"]),
        (cut, vec!["cut.o: "]),
        (
            variant(folder.path(), "other", "int from_pod(", "int from_elsewhere("),
            vec!["it has no program from_pod"],
        ),
        (
            variant(folder.path(), "mapless", "gateways4", "entrances4"),
            vec!["it has no map gateways4"],
        ),
        (
            variant(
                folder.path(),
                "wide",
                "\tstruct in6 address;\n",
                "\tstruct in6 address;\n\t__u64 more;\n",
            ),
            vec!["map routes6: ", "size"],
        ),
        (
            variant(
                folder.path(),
                "kind",
                "MAP(gateways4, BPF_MAP_TYPE_HASH",
                "MAP(gateways4, BPF_MAP_TYPE_LRU_HASH",
            ),
            vec![],
        ),
        (
            variant(folder.path(), "wild", piece, &wild),
            vec![
                "program from_pod: the kernel does not load it",
                "the verifier's last words",
                "invalid access to packet",
            ],
        ),
    ] {
        let provider = provider();
        let run = provider.run_id().as_str().to_owned();
        let spec = format!("ebpf:object={}", object.display()).parse().unwrap();
        let shape = topology(2, 1, IpFamily::V4);
        if says.is_empty() {
            // A map of a like kind does as well.
            provider.check(&spec, &shape).await.unwrap();
            continue;
        }
        match provider.up(0, &spec, &shape).await {
            Err(ClusterError::Unsupported { reason, .. }) => {
                for part in says {
                    assert!(reason.contains(part), "{}: {part}: {reason}", object.display());
                }
                assert!(reason.contains(&object.display().to_string()), "{reason}");
            }
            Err(e) => panic!("{}: {e}", object.display()),
            Ok(_) => panic!("{} came up", object.display()),
        }
        assert_eq!(traces(&run), [""; 0]);
    }
}

#[test]
fn a_run_with_a_broken_object_ends_with_the_verifiers_words() {
    drop(provider());
    let folder = tempfile::tempdir().unwrap();
    let piece = "\tif (skb->protocol == bpf_htons(ETH_P_ARP))\n";
    let wild =
        format!("\tif (*(__u32 *)((void *)(long)skb->data + 70))\n\t\treturn TC_ACT_OK;\n{piece}");
    let object = variant(folder.path(), "wild", piece, &wild);
    let mut command = run_command(&folder.path().join("results"));
    command.args(["--cni", &format!("ebpf:object={}", object.display()), "--workload", "tcp_rr"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("invalid access to packet") && !said.contains("panicked"), "{said}");
}

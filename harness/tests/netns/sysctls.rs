//! Arms that differ by a sysctl: set in the cluster's namespaces, and never on the host.

use super::support::{down, provider, space, topology, up};
use cnibench::cluster::{ClusterError, IpFamily, Provider as _};

async fn refused(cni: &str) -> String {
    let error = provider().check(&cni.parse().unwrap(), &topology(2, 2, IpFamily::V4)).await;
    match error.unwrap_err() {
        ClusterError::Failed(e) => panic!("{cni}: {e:#}"),
        e => e.to_string(),
    }
}

fn of_host(key: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/{key}")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sysctl_is_set_in_every_node_and_pod_and_nowhere_else() {
    let before = of_host("net/ipv4/tcp_sack");
    let other = if before.trim() == "1" { "0" } else { "1" };
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let spec = format!(
        "flannel-vxlan:mtu=1400,sysctl.net.ipv4.tcp_sack={other},sysctl.net/ipv4/conf/flannel.1/log_martians=1"
    );
    let cluster = up(&provider, &spec, &topology(2, 1, IpFamily::V4)).await;
    assert_eq!(cluster.info().mtu, 1400);
    for thing in ["n0", "n1", "n0p0", "n1p0"] {
        let read = |key: &'static str| {
            space(&run, thing).run_blocking(|| cnibench::netlink::sysctl::read(key)).unwrap()
        };
        assert_eq!(read("ipv4/tcp_sack"), other, "{thing}");
        if !thing.contains('p') {
            assert_eq!(read("ipv4/conf/flannel.1/log_martians"), "1");
        }
    }
    let details = &cluster.info().details;
    let line = format!("sysctl net.ipv4.tcp_sack = {other} in 4 namespaces (nodes and pods)");
    assert!(details.contains(&line), "{details:?}");
    assert_eq!(of_host("net/ipv4/tcp_sack"), before);
    down(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_the_whole_machines_is_refused_and_not_touched() {
    let keys = ["net/core/netdev_budget", "net/core/rmem_max", "vm/swappiness"];
    let before = keys.map(of_host);
    for (cni, says) in [
        ("host:sysctl.vm.swappiness=1", "only keys below net"),
        ("host:sysctl.net.core.netdev_budget=77", "whole machine"),
        ("host:sysctl.net.core.rmem_max=77777", "whole machine"),
        ("host:sysctl.net.ipv4.no_such_key=1", "this kernel has no such key"),
        ("host:sysctl.net.ipv4.tcp_sack=maybe", "the kernel does not take it"),
        ("host:sysctl.tcp_sack=1", "is no key"),
        ("host:sysctl.net.ipv4.tcp_sack=1,mtu=9", "takes no parameters"),
    ] {
        let text = refused(cni).await;
        assert!(text.contains(says), "{cni}: {text}");
    }
    assert_eq!(keys.map(of_host), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_no_node_has_is_an_error() {
    let provider = provider();
    let spec = "host:sysctl.net.ipv4.conf.nowhere0.log_martians=1".parse().unwrap();
    let Err(error) = provider.up(0, &spec, &topology(2, 1, IpFamily::V4)).await else {
        panic!("it came up")
    };
    assert!(error.to_string().contains("no node or pod of this cluster has it"), "{error}");
}

//! The nf_tables rules are, to `nft`, those that Flannel and kube-proxy would have made.

use crate::support::{down, provider, says, space, topology, up};
use cnibench::cluster::IpFamily;

#[tokio::test(flavor = "multi_thread")]
async fn nft_reads_our_rules_as_flannels_and_kube_proxys() {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let cluster = up(&provider, "flannel-host-gw", &topology(2, 1, IpFamily::Dual)).await;
    let rules = says(&space(&run, "n0"), &["nft", "list", "ruleset"]);
    for line in [
        "table ip flannel-ipv4 {",
        "type nat hook postrouting priority srcnat; policy accept;",
        "meta mark 0x00004000 return",
        "ip saddr 10.244.0.0/24 ip daddr 10.244.0.0/16 return",
        "ip saddr 10.244.0.0/16 ip daddr 10.244.0.0/24 return",
        "ip saddr != 10.244.0.0/24 ip daddr 10.244.0.0/16 return",
        "ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random",
        "ip saddr != 10.244.0.0/16 ip daddr 10.244.0.0/16 masquerade fully-random",
        "type filter hook forward priority filter; policy accept;",
        "ip saddr 10.244.0.0/16 accept",
        "table ip6 flannel-ipv6 {",
        "ip6 saddr fd00:10:244::/64 ip6 daddr fd00:10:244::/48 return",
        "ip6 daddr != ff00::/8 masquerade fully-random",
        "table ip kube-proxy {",
        "elements = { 10.96.0.10 : goto service-cnibench }",
        "ip daddr vmap @service-ips",
        "dnat to 10.244.1.2",
        "type nat hook prerouting priority dstnat; policy accept;",
        "type nat hook output priority -100; policy accept;",
        "table ip6 kube-proxy {",
        "dnat to fd00:10:244:1::2",
    ] {
        assert!(rules.contains(line), "{line:?} is not in\n{rules}");
    }
    down(cluster).await;
}

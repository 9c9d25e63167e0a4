//! One service, as kube-proxy programs it on every node, for the placement `pod-service`.
//!
//! Followed: kubernetes/kubernetes, pkg/proxy/nftables/proxier.go (its base chains and the chains
//! of a service). One difference: kube-proxy's map is keyed by address, protocol and port, this
//! one by address alone, since the generator lets the kernel choose ports. Only the first packet
//! of a connection meets these chains; what every packet pays is connection tracking.

use crate::netlink::nftables::{Family, Field, Hook, Part, Table, Verdict};
use anyhow::Context as _;
use std::net::IpAddr;

/// The table that sends each of `services` to the backend of its family; one family.
pub(super) fn table(services: &[IpAddr], backends: &[IpAddr]) -> anyhow::Result<Table> {
    let service = services.first().context("a service needs an address")?;
    let family = Family::of(*service);
    let backend = backends.iter().find(|b| Family::of(**b) == family);
    let backend = backend.context("a service needs a backend of its family")?;
    let goto = |chain: &str| Verdict::Goto(chain.to_owned());
    let mut table = Table::new(family, "kube-proxy");
    table.chain("services").chain("service-cnibench").chain("endpoint-cnibench");
    table.verdict_map("service-ips", &[(*service, goto("service-cnibench"))]);
    table.rule("services", &[Part::Vmap(Field::Destination, "service-ips".to_owned())]);
    table.rule("service-cnibench", &[Part::Verdict(goto("endpoint-cnibench"))]);
    table.rule("endpoint-cnibench", &[Part::Dnat(*backend)]);
    for (chain, hook) in [("nat-prerouting", Hook::NatPrerouting), ("nat-output", Hook::NatOutput)]
    {
        table.base_chain(chain, hook);
        table.rule(chain, &[Part::Verdict(Verdict::Jump("services".to_owned()))]);
    }
    Ok(table)
}

//! Policies for cnis whose pods hang on a bridge, with nf_tables: what runs beside Flannel, which
//! enforces none itself.
//!
//! Followed: cloudnativelabs/kube-router, pkg/controllers/netpol/pod.go (syncPodFirewallChains): a
//! chain per pod that lets connections go on that are there already, then tries a chain per policy,
//! one after the other, each with a set of the addresses that it admits. So established connections
//! pay for connection tracking, new ones for each policy before the one that admits them. Two
//! differences: a policy's chain ends with its own verdict instead of a mark that is tested at the
//! end, and what none admits is counted and dropped without an answer (kube-router: logged and rejected).

use super::{NodeCtx, PodCtx, Policy};
use crate::netlink::nftables::{self, Family, Field, Hook, Part, Table, Verdict};

/// What a proof says of it.
pub const DESCRIPTION: &str =
    "nf_tables as kube-router has it: connection tracking, a chain with a set per policy";

/// The counter of what is dropped.
const DENIED: &str = "denied";

/// The table's name; one per pod that has policies.
fn name(pod: &PodCtx) -> String {
    format!("policies-{}", pod.index)
}

/// Replaces the policies of a pod.
///
/// # Errors
/// What the kernel refused.
pub async fn set(node: &NodeCtx, pod: &PodCtx, policies: &[Policy]) -> anyhow::Result<()> {
    let tables: Vec<Table> =
        pod.addrs.iter().map(|addr| table(pod, Family::of(addr.addr()), policies)).collect();
    let commit = move || tables.iter().try_for_each(Table::commit);
    node.netns.run(commit).await
}

/// Packets to a pod that none of its policies admitted, since they were set; none when it has none.
///
/// # Errors
/// What the kernel refused.
pub async fn denied(node: &NodeCtx, pod: &PodCtx) -> anyhow::Result<Option<u64>> {
    let (name, addrs) = (name(pod), pod.addrs.clone());
    let read = move || {
        let mut sum = None;
        for addr in addrs {
            if let Some(packets) = nftables::counted(Family::of(addr.addr()), &name, DENIED)? {
                sum = Some(sum.unwrap_or(0) + packets);
            }
        }
        Ok(sum)
    };
    node.netns.run(read).await
}

/// The table of one family.
fn table(pod: &PodCtx, family: Family, policies: &[Policy]) -> Table {
    let name = name(pod);
    if policies.is_empty() {
        return Table::removing(family, &name);
    }
    let accept = Part::Verdict(Verdict::Accept);
    let jump = |chain: &str| Part::Verdict(Verdict::Jump(chain.to_owned()));
    let mut table = Table::replacing(family, &name);
    table.counter(DENIED).chain("pod");
    table.rule("pod", &[Part::Established, accept]);
    for (number, policy) in policies.iter().enumerate() {
        let chain = format!("policy-{number}");
        let admits = policy.admits.iter().filter(|a| Family::of(**a) == family);
        let admits: Vec<_> = admits.map(|a| (*a, Verdict::Accept)).collect();
        table.chain(&chain);
        if !admits.is_empty() {
            let set = format!("admits-{number}");
            table.verdict_map(&set, &admits);
            table.rule(&chain, &[Part::Vmap(Field::Source, set)]);
        }
        table.rule("pod", &[jump(&chain)]);
    }
    table.rule("pod", &[Part::Count(DENIED.to_owned()), Part::Verdict(Verdict::Drop)]);
    table.base_chain("forward", Hook::FilterForward);
    for addr in pod.addrs.iter().filter(|a| Family::of(a.addr()) == family) {
        table.rule("forward", &[Part::To(addr.addr()), jump("pod")]);
    }
    table
}

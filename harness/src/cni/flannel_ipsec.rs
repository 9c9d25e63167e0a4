//! `flannel-ipsec`: pods' packets go through ESP tunnels between nodes, without any device for it.
//!
//! Followed: flannel-io/flannel v0.28, pkg/backend/ipsec/ipsec_network.go (MTU less 77: ipsecOverhead;
//! AddIPSECPolicies) and handle_xfrm.go. [`super::ipsec`] says what the states and policies are. Only
//! IPv4, as that backend.
//!
//! Where it differs: flanneld sets no route, packets take the node's default one up to the policy. These
//! nodes have none; a link route for the cluster's range stands for it. It leads nowhere by itself, so
//! that nothing leaves in clear where a policy is missing.

use super::{
    Claim, Cni, Keys, NodeAgent, NodeCtx, Param, Peer, PodCtx, PodNet, Policy, Profile, Wrapping,
    bridge, flannel,
    ipsec::{self, Associations, Secret, Way},
    params::LEAK,
    policies,
};
use crate::{
    cluster::{ClusterError, IpFamily, netns::capabilities},
    netlink::{Batch, Rtnl},
};
use async_trait::async_trait;
use cnibench_model::Placement;
use std::{net::IpAddr, sync::Arc};

/// What Flannel takes off the MTU (ipsec_network.go: ipsecOverhead); rfc4106 needs 54 to 57.
const OVERHEAD: u32 = 77;

/// The profile.
pub const PROFILE: Profile = Profile {
    name: "flannel-ipsec",
    family: "flannel",
    description: "Flannel's ipsec backend: ESP tunnels (AES-GCM) between nodes, pods on a bridge",
    params: &[
        Param {
            name: "mtu",
            help: "MTU of the pods in bytes (default: the underlay's less 77; 1446 of 1500 fit)",
        },
        LEAK,
    ],
    encrypted: true,
    automatic: true,
    modules: &[
        "esp4",
        "xfrm_user",
        "seqiv",
        "gcm",
        "ghash_generic",
        "ctr",
        "aesni_intel",
        "nft_ct",
        "nft_masq",
        "nft_nat",
        "nft_chain_nat",
    ],
    check: |_| {
        capabilities::require(&[capabilities::BRIDGE, capabilities::MASQUERADE, capabilities::ESP])
            .map_err(|e| format!("{e}; --provider vm brings a kernel that has it"))
    },
    build: |settings, topology| {
        if topology.family != IpFamily::V4 {
            return Err(ClusterError::Unsupported {
                cni: settings.spec().clone(),
                reason: "Flannel's ipsec backend carries IPv4 only".to_owned(),
            });
        }
        let most = ipsec::most(topology.underlay_mtu, true);
        Ok(Arc::new(Ipsec {
            mtu: settings.mtu_within(topology, OVERHEAD, most)?,
            leak: settings.flag(LEAK.name, false)?,
            secret: Secret::random(),
        }))
    },
};

#[derive(Debug, Clone)]
struct Ipsec {
    mtu: u32,
    leak: bool,
    secret: Secret,
}

#[async_trait]
impl Cni for Ipsec {
    fn pod_mtu(&self) -> u32 {
        self.mtu
    }

    fn refuses(&self, placement: Placement) -> Option<String> {
        (placement == Placement::HostPod).then(|| {
            "Flannel's ipsec backend has policies from pods to pods only: a node's own packets to \
             pods of other nodes have no way"
                .to_owned()
        })
    }

    fn path(&self, placement: Placement, _to: IpAddr) -> Vec<Claim> {
        flannel::bridge_claims(placement)
    }

    fn wrapping(&self) -> Option<Wrapping> {
        Some(Wrapping::Esp)
    }

    fn details(&self) -> Vec<String> {
        let mut lines = flannel::bridge_details(self.mtu, IpFamily::V4);
        lines.push(
            "per peer: IPsec policies from pod range to pod range (out, in, forward; reqid 11, \
             priority 0), two ESP states in tunnel mode, rfc4106(gcm(aes)) with 128 bits of key and of \
             check value, 32 bits of sequence number, replay window 32"
                .to_owned(),
        );
        lines.push("keys derived from a secret drawn for this cluster".to_owned());
        if self.leak {
            lines.push("no policies: pods' packets go in clear (leak)".to_owned());
        }
        lines
    }

    fn policies(&self) -> Result<&'static str, String> {
        Ok(policies::DESCRIPTION)
    }

    async fn start(&self, node: Arc<NodeCtx>) -> anyhow::Result<Box<dyn NodeAgent>> {
        flannel::prepare(&node).await?;
        bridge::make_bridge(&node, self.mtu).await?;
        let associations =
            Arc::new(Associations::new(node.clone(), Way::Flannel, self.secret.clone()));
        Ok(Box::new(Agent { node, mtu: self.mtu, leak: self.leak, associations }))
    }
}

struct Agent {
    node: Arc<NodeCtx>,
    mtu: u32,
    leak: bool,
    associations: Arc<Associations>,
}

#[async_trait]
impl NodeAgent for Agent {
    async fn join(&mut self, peers: &[Peer]) -> anyhow::Result<()> {
        if self.leak {
            return flannel::leak(&self.node, peers).await;
        }
        let (device, clusters) = (self.node.device.clone(), self.node.cluster_cidrs.clone());
        let route = move || {
            let mut rtnl = Rtnl::open()?;
            let index = rtnl.link(&device)?.index;
            let mut batch = Batch::new();
            for cluster in clusters {
                batch.route_dev(cluster, index);
            }
            rtnl.apply(&batch)
        };
        self.associations.join(peers).await?;
        self.node.netns.run(route).await
    }

    async fn add_pod(&mut self, pod: &PodCtx) -> anyhow::Result<PodNet> {
        bridge::add_pod(&self.node, pod, self.mtu).await
    }

    fn notes(&self) -> Vec<String> {
        ipsec::driver().map(|driver| format!("the kernel's cipher: {driver}")).into_iter().collect()
    }

    async fn check(&mut self) -> anyhow::Result<()> {
        if self.leak { Ok(()) } else { self.associations.check().await }
    }

    async fn set_policies(&mut self, pod: &PodCtx, wanted: &[Policy]) -> anyhow::Result<()> {
        policies::set(&self.node, pod, wanted).await
    }

    async fn denied(&self, pod: &PodCtx) -> anyhow::Result<Option<u64>> {
        policies::denied(&self.node, pod).await
    }

    fn keys(&self) -> Option<Arc<dyn Keys>> {
        Some(self.associations.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::Topology, cni::Settings};

    fn built(spec: &str, family: IpFamily) -> Result<Arc<dyn Cni>, String> {
        let topology = Topology { family, underlay_mtu: 1500, ..Topology::default() };
        (PROFILE.build)(&Settings::new(&spec.parse().unwrap()), &topology)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn the_mtu_is_flannels_and_may_be_all_that_fits() {
        let mtu = |spec| built(spec, IpFamily::V4).map(|cni| cni.pod_mtu());
        assert_eq!(mtu("flannel-ipsec"), Ok(1423));
        assert_eq!(mtu("flannel-ipsec:mtu=1446"), Ok(1446));
        assert!(mtu("flannel-ipsec:mtu=1447").unwrap_err().contains("to 1446"));
    }

    #[test]
    fn what_the_backend_does_not_carry_is_refused() {
        let refused = built("flannel-ipsec", IpFamily::Dual).err().unwrap();
        assert!(refused.contains("IPv4 only"), "{refused}");
        let cni = built("flannel-ipsec", IpFamily::V4).unwrap();
        assert!(cni.refuses(Placement::HostPod).unwrap().contains("have no way"));
        assert!(cni.refuses(Placement::CrossNode).is_none());
    }
}

//! A case: one point of workloads x placements x parameters, for one cni and one provider.

use crate::{
    nearest::did_you_mean,
    spec::CniSpec,
    surroundings::Surroundings,
    workload::{Workload, WorkloadParams},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

macro_rules! named_enum {
    ($(#[$meta:meta])* $type:ident, $what:literal { $( $(#[doc = $doc:expr])+ $variant:ident = $name:literal, )+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum $type { $( $(#[doc = $doc])+ #[serde(rename = $name)] $variant, )+ }
        impl $type {
            /// Every value, in display order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// The stable name.
            pub fn name(self) -> &'static str { match self { $(Self::$variant => $name),+ } }
            /// What it is, in one line.
            pub fn describe(self) -> &'static str { match self { $(Self::$variant => concat!($($doc),+).trim_ascii()),+ } }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.name()) }
        }
        impl FromStr for $type {
            type Err = String;
            fn from_str(s: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|v| v.name() == s).ok_or_else(|| {
                    format!(concat!("unknown ", $what, " {:?}{}"), s, did_you_mean(s, Self::ALL.iter().map(|v| v.name())))
                })
            }
        }
    };
}
pub(crate) use named_enum;

named_enum! {
    /// What brings up a cluster.
    ProviderKind, "provider" {
        /// Network namespaces on this machine; no Kubernetes.
        Netns = "netns",
        /// The same namespaces inside a QEMU guest with a kernel of your choice.
        Vm = "vm",
        /// Kubernetes in Docker, with the real CNI installed.
        Kind = "kind",
        /// Hosts reached by ssh.
        BareMetal = "bare-metal",
        /// An existing Kubernetes cluster.
        Kubeconfig = "kubeconfig",
    }
}

named_enum! {
    /// Where client and server stand.
    Placement, "placement" {
        /// Two pods of one node.
        SameNode = "same-node",
        /// Two pods of different nodes.
        CrossNode = "cross-node",
        /// Node to node, outside any pod.
        HostHost = "host-host",
        /// A node to a pod of another node.
        HostPod = "host-pod",
        /// A pod to a pod of another node through a service address.
        PodService = "pod-service",
    }
}

impl Placement {
    /// True where the server is in a pod's network, so that a NetworkPolicy can select it.
    pub fn ends_in_a_pod(self) -> bool {
        self != Self::HostHost
    }
}

/// The stable key of a series: `provider/cni/workload/placement[/key=value,...]`, where only
/// parameters that differ from the workload's defaults, and surroundings that are asked for, are
/// written.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct CaseId(pub String);

impl fmt::Display for CaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A case id without provider and cni: what is compared across cnis. `workload/placement[/key=value,...]`.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct SeriesKey(pub String);

impl fmt::Display for SeriesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One point of the plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Case {
    /// The stable key; always what [`Case::id_of`] makes of the other fields.
    pub id: CaseId,
    /// What brings the cluster up.
    pub provider: ProviderKind,
    /// The datapath.
    pub cni: CniSpec,
    /// The traffic.
    pub workload: Workload,
    /// Where it runs.
    pub placement: Placement,
    /// Its shape.
    pub params: WorkloadParams,
    /// The cluster around it.
    #[serde(default, skip_serializing_if = "Surroundings::is_default")]
    pub surroundings: Surroundings,
    /// Planned trials.
    pub trials: u32,
    /// Measured seconds of each trial, warm-up not included.
    pub duration_s: f64,
    /// Seconds cut off before the measured window.
    pub warmup_s: f64,
}

impl Case {
    /// The id of a case with these fields.
    pub fn id_of(
        provider: ProviderKind,
        cni: &CniSpec,
        workload: Workload,
        placement: Placement,
        params: &WorkloadParams,
        surroundings: &Surroundings,
    ) -> CaseId {
        CaseId(format!(
            "{provider}/{cni}/{}",
            series_key(workload, placement, params, surroundings)
        ))
    }

    /// What this case shares with the same case of another cni.
    pub fn series(&self) -> SeriesKey {
        SeriesKey(series_key(self.workload, self.placement, &self.params, &self.surroundings))
    }
}

fn series_key(
    workload: Workload,
    placement: Placement,
    params: &WorkloadParams,
    surroundings: &Surroundings,
) -> String {
    let named = params.differing(workload).into_iter().chain(surroundings.named());
    let tail: Vec<String> = named.map(|(k, v)| format!("{k}={v}")).collect();
    let slash = if tail.is_empty() { "" } else { "/" };
    format!("{workload}/{placement}{slash}{}", tail.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_from_the_defaults_is_in_the_id() {
        let cni = "flannel-vxlan:mtu=1400".parse().unwrap();
        let mut params = Workload::TcpStream.defaults();
        let mut around = Surroundings::default();
        let id = |p: &WorkloadParams, s: &Surroundings| {
            let (workload, placement) = (Workload::TcpStream, Placement::CrossNode);
            Case::id_of(ProviderKind::Netns, &cni, workload, placement, p, s).0
        };
        assert_eq!(id(&params, &around), "netns/flannel-vxlan:mtu=1400/tcp_stream/cross-node");
        params.streams = 4;
        params.size = 1 << 20;
        let whole = "netns/flannel-vxlan:mtu=1400/tcp_stream/cross-node/size=1048576,streams=4";
        assert_eq!(id(&params, &around), whole);
        around.policies = Some(0);
        around.hubble = Some(true);
        assert_eq!(id(&params, &around), format!("{whole},hubble=on,policies=0"));
    }

    #[test]
    fn unknown_names_offer_the_nearest() {
        assert_eq!(
            "cross-nod".parse::<Placement>(),
            Err("unknown placement \"cross-nod\"; did you mean \"cross-node\"?".to_owned())
        );
    }
}

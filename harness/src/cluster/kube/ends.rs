//! Where trials run among the pods of a run: the ends of each placement, held to the nodes that the
//! scheduler really chose.

use super::{
    objects::{Role, SERVICE_PORT},
    pods::{PodFacts, Pods},
};
use crate::cluster::{Ends, Place};
use cnibench_model::Placement;

impl Pods {
    /// The ends of a placement between two nodes of the run; `host`: between host-network pods.
    ///
    /// # Errors
    /// A sentence for the skipped cell.
    pub fn ends(
        &self,
        placement: Placement,
        host: bool,
        (a, b): (usize, usize),
    ) -> Result<Ends, String> {
        let (client, server) = match placement {
            Placement::PodService if host => {
                return Err("a service leads to pods, and the baseline has none".to_owned());
            }
            Placement::SameNode if host => (self.pod(a, Role::Host(0)), self.pod(a, Role::Host(1))),
            Placement::SameNode => (self.pod(a, Role::Pod(0)), self.pod(a, Role::Pod(1))),
            Placement::HostHost => (self.pod(a, Role::Host(0)), self.pod(b, Role::Host(0))),
            _ if host => (self.pod(a, Role::Host(0)), self.pod(b, Role::Host(0))),
            Placement::CrossNode | Placement::PodService => {
                (self.pod(a, Role::Pod(0)), self.pod(b, Role::Pod(0)))
            }
            Placement::HostPod => (self.pod(a, Role::Host(0)), self.pod(b, Role::Pod(0))),
        };
        let (client, server) = (client?, server?);
        seated(placement, client, server)?;
        let (server_addr, port) = match placement {
            Placement::PodService => (self.service.clone()?, Some(SERVICE_PORT)),
            _ => (server.ip, None),
        };
        Ok(Ends {
            client: place(client),
            server: place(server),
            server_addr,
            bind_addr: server.ip,
            port,
        })
    }
}

/// Are the pods on the nodes that the placement asks for? What was asked of the scheduler is not what
/// is measured.
fn seated(placement: Placement, client: &PodFacts, server: &PodFacts) -> Result<(), String> {
    let name = |pod: &PodFacts| pod.role.name(pod.node);
    let (a, b) = (&client.node_name, &server.node_name);
    if a.is_empty() || b.is_empty() {
        return Err(format!("{placement}: the nodes of its pods are not known"));
    }
    let together = a == b;
    if placement == Placement::SameNode && !together {
        return Err(format!(
            "{placement}: {} was put on {a} and {} on {b}, not on one node",
            name(client),
            name(server)
        ));
    }
    if placement != Placement::SameNode && together {
        return Err(format!(
            "{placement}: {} and {} were both put on {a}, not on two nodes",
            name(client),
            name(server)
        ));
    }
    Ok(())
}

fn place(pod: &PodFacts) -> Place {
    Place { label: pod.role.describe(&pod.node_name), id: pod.role.name(pod.node) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(role: Role, node: usize, on: &str) -> PodFacts {
        let ip = [10, 0, 0, node as u8].into();
        PodFacts { role, node, node_name: on.to_owned(), ip, host_ip: ip }
    }

    #[test]
    fn a_placement_is_held_to_the_nodes_of_its_pods() {
        let (a, other) = (pod(Role::Pod(0), 0, "n0"), pod(Role::Pod(1), 0, "n0"));
        let b = pod(Role::Pod(0), 1, "n1");
        assert_eq!(seated(Placement::SameNode, &a, &other), Ok(()));
        assert_eq!(seated(Placement::CrossNode, &a, &b), Ok(()));
        let moved = pod(Role::Pod(1), 0, "n2");
        let text = seated(Placement::SameNode, &a, &moved).unwrap_err();
        assert!(text.contains("pod-0-0 was put on n0 and pod-0-1 on n2"), "{text}");
        let moved = pod(Role::Pod(0), 1, "n0");
        for placement in [Placement::CrossNode, Placement::PodService, Placement::HostPod] {
            let text = seated(placement, &a, &moved).unwrap_err();
            assert!(text.contains("both put on n0"), "{text}");
        }
        let nowhere = pod(Role::Pod(0), 1, "");
        assert!(seated(Placement::CrossNode, &a, &nowhere).is_err());
    }
}

//! The keys that a cni encrypts with, as others may hold them: taken away, put back, changed for new ones
//! while traffic flows.
//!
//! Owns the trait that an encrypting agent implements and the order of steps over all nodes. What a key
//! is (a WireGuard peer, a pair of IPsec states) is the agent's; what is to be seen meanwhile is the
//! caller's: proofs and scenarios of disturbance.

use super::{Facts, Peer};
use async_trait::async_trait;
use futures::future::try_join_all;
use std::sync::Arc;

/// The keys of one node's agent ([`NodeAgent::keys`](super::NodeAgent::keys)). All steps may be asked
/// while traffic flows; asked twice, a step does nothing the second time.
#[async_trait]
pub trait Keys: Send + Sync {
    /// What a key is here and how it is changed, in a few words, for readers.
    fn describe(&self) -> &'static str;

    /// Takes away what this node encrypts and decrypts with, for all peers, as if it had been lost. When
    /// this returns, nothing that is sent to pods of other nodes leaves this node, least of all in clear.
    ///
    /// # Errors
    /// What could not be removed, and the kernel's reason.
    async fn remove(&self) -> anyhow::Result<()>;

    /// Puts back what [`remove`](Self::remove) took, with the same keys.
    ///
    /// # Errors
    /// What could not be made, and the kernel's reason.
    async fn restore(&self) -> anyhow::Result<()>;

    /// The first step of a change: makes new keys beside those in use, and accepts what comes with them
    /// where the protocol allows two at a time. Gives what peers must know, in place of
    /// [`NodeAgent::facts`](super::NodeAgent::facts). No secret is in it.
    ///
    /// # Errors
    /// What could not be made, and the kernel's reason.
    async fn renew(&self) -> anyhow::Result<Facts>;

    /// The second step, when all nodes have done the first: sends with the new keys. `peers` has their
    /// new facts.
    ///
    /// # Errors
    /// What could not be programmed, and the kernel's reason.
    async fn switch(&self, peers: &[Peer]) -> anyhow::Result<()>;

    /// The last step, when all nodes have done the second: the old keys are no longer accepted.
    ///
    /// # Errors
    /// What could not be removed, and the kernel's reason.
    async fn retire(&self) -> anyhow::Result<()>;
}

/// One node's keys, and what its peers know of it.
#[derive(Clone)]
pub struct Holder {
    /// The node as its peers see it.
    pub node: Peer,
    /// Its agent's keys.
    pub keys: Arc<dyn Keys>,
}

/// Takes the keys away on all of these nodes.
///
/// # Errors
/// The first that failed.
pub async fn remove(all: &[Holder]) -> anyhow::Result<()> {
    try_join_all(all.iter().map(|holder| holder.keys.remove())).await.map(drop)
}

/// Puts the keys back on all of these nodes.
///
/// # Errors
/// The first that failed.
pub async fn restore(all: &[Holder]) -> anyhow::Result<()> {
    try_join_all(all.iter().map(|holder| holder.keys.restore())).await.map(drop)
}

/// Changes the keys of a whole cluster: every step on all nodes before the next one.
///
/// # Errors
/// The first step that failed; some nodes may have the new keys then, and others the old.
pub async fn rotate(all: &mut [Holder]) -> anyhow::Result<()> {
    let facts = try_join_all(all.iter().map(|holder| holder.keys.renew())).await?;
    for (holder, facts) in all.iter_mut().zip(facts) {
        holder.node.facts = facts;
    }
    let nodes: Vec<Peer> = all.iter().map(|holder| holder.node.clone()).collect();
    let switched = all.iter().map(|holder| {
        let own = holder.node.index;
        let peers: Vec<Peer> = nodes.iter().filter(|p| p.index != own).cloned().collect();
        async move { holder.keys.switch(&peers).await }
    });
    try_join_all(switched).await?;
    try_join_all(all.iter().map(|holder| holder.keys.retire())).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;
    use std::sync::Mutex;

    /// Writes down what it was asked.
    struct Told {
        index: u32,
        log: Arc<Mutex<Vec<String>>>,
        refuses: &'static str,
    }

    impl Told {
        fn note(&self, step: &str) -> anyhow::Result<()> {
            self.log.lock().unwrap().push(format!("{step} {}", self.index));
            ensure!(step != self.refuses, "no {step}");
            Ok(())
        }
    }

    #[async_trait]
    impl Keys for Told {
        fn describe(&self) -> &'static str {
            "notes"
        }

        async fn remove(&self) -> anyhow::Result<()> {
            self.note("remove")
        }

        async fn restore(&self) -> anyhow::Result<()> {
            self.note("restore")
        }

        async fn renew(&self) -> anyhow::Result<Facts> {
            self.note("renew")?;
            Ok(Facts::from([("key".to_owned(), format!("new {}", self.index))]))
        }

        async fn switch(&self, peers: &[Peer]) -> anyhow::Result<()> {
            for peer in peers {
                ensure!(peer.index != self.index && peer.facts["key"].starts_with("new"));
            }
            self.note(&format!("switch to {}", peers.len()))
        }

        async fn retire(&self) -> anyhow::Result<()> {
            self.note("retire")
        }
    }

    fn holders(refuses: &'static str) -> (Vec<Holder>, Arc<Mutex<Vec<String>>>) {
        let log = Arc::new(Mutex::new(Vec::new()));
        let holder = |index| Holder {
            node: Peer {
                index,
                addrs: Vec::new(),
                pod_cidrs: Vec::new(),
                facts: Facts::from([("key".to_owned(), "old".to_owned())]),
            },
            keys: Arc::new(Told { index, log: Arc::clone(&log), refuses }),
        };
        ((0..2).map(holder).collect(), log)
    }

    #[tokio::test]
    async fn a_step_begins_when_all_nodes_have_ended_the_one_before() {
        let (mut all, log) = holders("");
        rotate(&mut all).await.unwrap();
        let expected =
            ["renew 0", "renew 1", "switch to 1 0", "switch to 1 1", "retire 0", "retire 1"];
        assert_eq!(*log.lock().unwrap(), expected);
        assert_eq!(all[1].node.facts["key"], "new 1");
    }

    #[tokio::test]
    async fn old_keys_stay_when_a_node_cannot_switch() {
        let (mut all, log) = holders("renew");
        assert!(rotate(&mut all).await.unwrap_err().to_string().contains("no renew"));
        assert!(log.lock().unwrap().iter().all(|line| line.starts_with("renew")));
    }
}

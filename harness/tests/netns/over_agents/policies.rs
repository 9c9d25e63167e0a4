//! Proofs of policies, made by a firewall that is right, late, leaky, or not there at all.

use super::rig::Rig;
use crate::support::says;
use async_trait::async_trait;
use cnibench::{
    netlink::Netns,
    proof::agents::{
        Claims, Stage,
        policy::{self, Switch},
    },
};
use cnibench_model::ProofOutcome;
use std::time::{Duration, Instant};

/// A firewall's rules on the server's node stand for a policy. Established flows go on, as they do
/// where connection tracking is asked first.
struct Firewall {
    node: Netns,
    /// Match of what is dropped.
    rule: String,
    /// From the acceptance of a change to when it is made.
    delay: Duration,
}

impl Firewall {
    fn new(rig: &Rig, rule: &str) -> Self {
        let node = rig.space("n1");
        Self { node, rule: rule.to_owned(), delay: Duration::ZERO }
    }

    async fn later(&self, commands: Vec<String>) {
        let (node, delay) = (self.node.clone(), self.delay);
        let work = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            for command in commands {
                says(&node, &command.split(' ').collect::<Vec<_>>());
            }
        });
        if delay.is_zero() {
            work.await.unwrap();
        }
    }
}

#[async_trait]
impl Switch for Firewall {
    fn describe(&self) -> String {
        format!("a firewall that drops {}", self.rule)
    }

    async fn apply(&mut self) -> anyhow::Result<()> {
        self.later(vec![
            "nft add table inet proof".to_owned(),
            "nft add chain inet proof f { type filter hook forward priority 0 ; }".to_owned(),
            "nft add rule inet proof f ct state established accept".to_owned(),
            format!("nft add rule inet proof f {} drop", self.rule),
        ])
        .await;
        Ok(())
    }

    async fn remove(&mut self) -> anyhow::Result<()> {
        // Made first, so that one that is not there can be deleted.
        let commands = ["nft add table inet proof", "nft delete table inet proof"];
        self.later(commands.map(str::to_owned).into()).await;
        Ok(())
    }
}

/// A cluster whose cni takes policies and does nothing about them.
struct Nothing;

#[async_trait]
impl Switch for Nothing {
    fn describe(&self) -> String {
        "nothing".to_owned()
    }

    async fn apply(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    async fn remove(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Takes the policy proof: n0p1 is admitted to n1p0, n0p0 is not.
async fn policy(
    rig: &Rig,
    stage: &mut Stage,
    enforces: bool,
    switch: &mut dyn Switch,
) -> policy::Findings {
    let spec = stage.spec.clone();
    policy::prove(policy::Scene {
        spec: &spec,
        enforces,
        cast: &mut stage.cast,
        allowed: &rig.ends("n0p1", "n1p0"),
        denied: &rig.ends("n0p0", "n1p0"),
        switch,
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_enforced_is_timed_and_counted() {
    let rig = Rig::up("flannel-vxlan").await;
    let mut stage = rig.stage("flannel-vxlan", Claims::default()).await;
    let mut firewall = Firewall::new(&rig, "ip saddr 10.244.0.2 ip daddr 10.244.1.2");
    firewall.delay = Duration::from_millis(400);
    let found = policy(&rig, &mut stage, true, &mut firewall).await;
    assert_eq!(found.proof.outcome, ProofOutcome::Passed, "{found:#?}");
    // What was accepted took the firewall 400 ms and more to do.
    let made = Duration::from_millis(390)..Duration::from_secs(4);
    for after in [found.enforced_after, found.restored_after] {
        assert!(after.is_some_and(|after| made.contains(&after)), "{found:#?}");
    }
    let counted = found.counted.unwrap();
    assert_eq!((counted.denied_datagrams, counted.denied_connects), (50, 5));
    assert_eq!(counted.allowed, ["10.244.0.3".parse().unwrap()].into());
    assert_eq!(counted.denied, ["10.244.0.2".parse().unwrap()].into());
    rig.down(stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_ignored_is_a_finding_or_a_failure() {
    let rig = Rig::up("flannel-vxlan").await;
    let mut stage = rig.stage("flannel-vxlan", Claims::default()).await;
    let begun = Instant::now();
    let found = policy(&rig, &mut stage, false, &mut Nothing).await;
    assert!(begun.elapsed() >= policy::DEADLINE);
    assert_eq!(found.proof.outcome, ProofOutcome::NotEnforced, "{found:#?}");
    assert!(found.proof.summary.contains("50 of 50 datagrams"), "{found:#?}");
    assert_eq!((found.enforced_after, found.counted), (None, None));
    let found = policy(&rig, &mut stage, true, &mut Nothing).await;
    assert_eq!(found.proof.outcome, ProofOutcome::Failed, "{:#?}", found.proof);
    assert!(found.proof.summary.contains("claims to enforce"), "{:#?}", found.proof);
    rig.down(stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_leaks_or_stops_too_much_fails() {
    let rig = Rig::up("flannel-vxlan").await;
    let mut stage = rig.stage("flannel-vxlan", Claims::default()).await;
    let mut only_udp =
        Firewall::new(&rig, "meta l4proto udp ip saddr 10.244.0.2 ip daddr 10.244.1.2");
    let found = policy(&rig, &mut stage, true, &mut only_udp).await;
    assert_eq!(found.proof.outcome, ProofOutcome::Failed, "{found:#?}");
    assert!(found.proof.summary.contains("leaks: 0 of 50 datagrams and 5 of 5"), "{found:#?}");
    let mut everybody = Firewall::new(&rig, "ip daddr 10.244.1.2");
    let found = policy(&rig, &mut stage, true, &mut everybody).await;
    assert_eq!(found.proof.outcome, ProofOutcome::Failed, "{found:#?}");
    assert!(found.proof.summary.contains("of the allowed client 0 of 50"), "{found:#?}");
    // Neither left its policy behind.
    let left = says(&rig.space("n1"), &["nft", "list", "tables"]);
    assert!(!left.contains("proof"), "{left}");
    rig.down(stage).await;
}

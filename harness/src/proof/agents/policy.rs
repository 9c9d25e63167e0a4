//! Policy over agents: a policy that admits one client stops the other, to the last packet, and lets
//! it through again when it is gone.
//!
//! Owns what is sent and counted and when it began to fail. The policy itself is the cluster's to
//! apply and remove ([`Switch`]). Every try of the probe is a new flow: established ones may live on
//! (connection tracking), and say nothing of the policy.

use super::{Cast, flows::Counted, volley};
use crate::{
    cluster::Ends,
    exec::{Agent, AgentError, ProbeEvent},
};
use anyhow::{Context as _, bail, ensure};
use async_trait::async_trait;
use cnibench_model::{CniSpec, Proof, ProofKind, ProofOutcome};
use cnibench_workloads::protocol::{EchoCount, Tally, Volley};
use jiff::Timestamp;
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::time::Instant;

/// How long a change may take to be in force.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// How long a state must hold to count.
const HOLDS: Duration = Duration::from_secs(1);
/// From one try of the probe to the next, in milliseconds.
const INTERVAL_MS: u32 = 5;
/// Datagrams and connections that are counted at both ends.
const DATAGRAMS: u32 = 50;
const CONNECTS: u32 = 5;
/// Counts are taken again when the allowed client's own datagrams were lost.
const ATTEMPTS: u32 = 3;

/// Applies and removes the policy.
#[async_trait]
pub trait Switch: Send {
    /// What it is, for people: "NetworkPolicy proof: to pod server, from pods with role=allowed only".
    fn describe(&self) -> String;

    /// Applies it: it selects the server and admits the allowed client, not the denied one. Returns
    /// when it was accepted, not when it is in force.
    ///
    /// # Errors
    /// Why it was not accepted.
    async fn apply(&mut self) -> anyhow::Result<()>;

    /// Removes it. Returns when that was accepted. One that is not there is no error.
    ///
    /// # Errors
    /// Why it is still there.
    async fn remove(&mut self) -> anyhow::Result<()>;
}

/// Who is there.
pub struct Scene<'a> {
    /// The cni as asked for.
    pub spec: &'a CniSpec,
    /// True when it claims to enforce policies.
    pub enforces: bool,
    /// The agents of all three pods.
    pub cast: &'a mut Cast,
    /// From the client that the policy admits to the server.
    pub allowed: &'a Ends,
    /// From the client that it does not admit to the same server.
    pub denied: &'a Ends,
    /// The policy.
    pub switch: &'a mut dyn Switch,
}

/// What came of it.
#[derive(Debug)]
pub struct Findings {
    /// The proof.
    pub proof: Proof,
    /// From the policy's acceptance to the first try that was stopped.
    pub enforced_after: Option<Duration>,
    /// From its removal's acceptance to the first try that got through.
    pub restored_after: Option<Duration>,
    /// What was sent while it was in force, for the flow log to be held to.
    pub counted: Option<Counted>,
}

/// Takes the proof. The policy is removed again, however it ends.
pub async fn prove(scene: Scene<'_>) -> Findings {
    let Scene { spec, enforces, cast, allowed, denied, switch } = scene;
    let mut found = Found { evidence: vec![switch.describe()], ..Found::default() };
    let ids = [&*allowed.client.id, &*denied.client.id, &*allowed.server.id];
    let ended = match cast.several(ids) {
        Ok([allowed_agent, denied_agent, server]) => {
            let mut run = Run {
                allowed: Client { name: "allowed", agent: allowed_agent, ends: allowed },
                denied: Client { name: "denied", agent: denied_agent, ends: denied },
                server,
                found: &mut found,
            };
            run.all(switch).await
        }
        Err(e) => Err(e),
    };
    let left = switch.remove().await;
    let in_force = found.enforced_after.is_some();
    let (outcome, summary) = judge(ended, left, enforces, in_force);
    let Found { evidence, enforced_after, restored_after, counted } = found;
    let proof = Proof { kind: ProofKind::Policy, cni: spec.clone(), outcome, summary, evidence };
    Findings { proof, enforced_after, restored_after, counted }
}

/// What came of it: a proof fails only where evidence stands against what the cni claims, or where a
/// policy that is in force was left behind, under which everything after it would be measured.
fn judge(
    ended: anyhow::Result<End>,
    left: anyhow::Result<()>,
    claims: bool,
    in_force: bool,
) -> (ProofOutcome, String) {
    if let Err(e) = left
        && (claims || in_force)
    {
        return (ProofOutcome::Failed, format!("the policy was left behind: {e:#}"));
    }
    match ended {
        Ok(End::Enforced(summary)) => (ProofOutcome::Passed, summary),
        Ok(End::Ignored(summary)) if claims => {
            (ProofOutcome::Failed, format!("{summary}, though the cni claims to enforce policies"))
        }
        Ok(End::Contradicted(summary)) if claims => (ProofOutcome::Failed, summary),
        Ok(End::Ignored(summary) | End::Contradicted(summary)) => {
            (ProofOutcome::NotEnforced, summary)
        }
        Err(e) => (ProofOutcome::NotTaken, format!("could not be taken: {e:#}")),
    }
}

#[derive(Default)]
struct Found {
    evidence: Vec<String>,
    enforced_after: Option<Duration>,
    restored_after: Option<Duration>,
    counted: Option<Counted>,
}

/// How a proof that could be taken ended, with its sentence.
enum End {
    Enforced(String),
    /// What it forbids passes.
    Ignored(String),
    /// It does something, and not what it says.
    Contradicted(String),
}

struct Client<'a> {
    name: &'static str,
    agent: &'a mut Agent,
    ends: &'a Ends,
}

struct Run<'a> {
    allowed: Client<'a>,
    denied: Client<'a>,
    server: &'a mut Agent,
    found: &'a mut Found,
}

impl Run<'_> {
    async fn all(&mut self, switch: &mut dyn Switch) -> anyhow::Result<End> {
        // A run before may have left it.
        switch.remove().await.context("removing what may be left of the policy")?;
        let [allowed, denied] = self.sources().await?;
        let delay = self.denied.agent.round_trip().await?;
        self.note(format!(
            "times are this machine's, from the acceptance of a change to when the first try that \
             shows it was sent (a try each {INTERVAL_MS} ms, each a new UDP flow); a line from the \
             agent takes {} to get here",
            ms(delay / 2)
        ));
        let blocked = self.turn(Turn::Apply, switch).await?;
        let counted = self.count(&allowed, &denied, blocked.is_some()).await?;
        let arrived = counted.arrived(&denied);
        let Some(blocked) = blocked else {
            return Ok(End::Ignored(format!(
                "not enforced: {} s after the policy was accepted {} of {} datagrams and {} of {} \
                 connections of the client that it does not admit arrived",
                DEADLINE.as_secs(),
                arrived.0,
                counted.denied.sent,
                arrived.1,
                counted.denied.connects
            )));
        };
        self.found.enforced_after = Some(blocked);
        if arrived != (0, 0) {
            return Ok(End::Contradicted(format!(
                "the policy leaks: {} of {} datagrams and {} of {} connections of the denied client arrived",
                arrived.0, counted.denied.sent, arrived.1, counted.denied.connects
            )));
        }
        let whole = counted.arrived(&allowed);
        let sent = (u64::from(counted.allowed.sent), u64::from(counted.allowed.connects));
        if whole != sent {
            return Ok(End::Contradicted(format!(
                "of the allowed client {} of {} datagrams and {} of {} connections arrived",
                whole.0, sent.0, whole.1, sent.1
            )));
        }
        let Some(restored) = self.turn(Turn::Remove, switch).await? else {
            return Ok(End::Contradicted(format!(
                "{} s after the policy was removed the denied client is still not answered",
                DEADLINE.as_secs()
            )));
        };
        self.found.restored_after = Some(restored);
        let summary = format!(
            "none of {} datagrams and {} connections of the denied client arrived, all {} and {} of \
             the allowed client; in force {} after it was accepted, gone {} after it was removed",
            counted.denied.sent,
            counted.denied.connects,
            counted.allowed.sent,
            counted.allowed.connects,
            ms(blocked),
            ms(restored)
        );
        self.found.counted = Some(Counted {
            server: counted.server,
            allowed,
            denied,
            denied_datagrams: counted.denied.sent,
            denied_connects: counted.denied.connects,
            allowed_connects: counted.allowed.connects,
            since: counted.since,
        });
        Ok(End::Enforced(summary))
    }

    fn note(&mut self, line: String) {
        self.found.evidence.push(line);
    }

    /// Before any policy both clients pass: the addresses that the server sees of each.
    async fn sources(&mut self) -> anyhow::Result<[BTreeSet<IpAddr>; 2]> {
        let mut seen = [BTreeSet::new(), BTreeSet::new()];
        for (client, seen) in [&mut self.allowed, &mut self.denied].into_iter().zip(&mut seen) {
            let to = super::serve(self.server, client.ends).await?;
            let tally = client
                .agent
                .volley(&Volley { datagrams: 5, connects: 1, patience_ms: 1_000, ..volley(to) })
                .await;
            let counts = self.server.echoed().await?;
            let (name, tally) = (client.name, tally?);
            ensure!(
                tally.answered > 0 && tally.connected > 0,
                "the {name} client is not answered even without the policy ({})",
                tally.trouble.as_deref().unwrap_or("no reason known")
            );
            *seen = counts.iter().filter(|c| c.datagrams > 0).map(|c| c.from).collect();
            self.found.evidence.push(format!(
                "without the policy: {name} client answered, the server sees it as {}",
                list(seen)
            ));
        }
        let [allowed, denied] = &seen;
        ensure!(
            allowed.is_disjoint(denied),
            "the server sees both clients as {}: what arrives cannot be told apart",
            list(allowed)
        );
        Ok(seen)
    }

    /// Makes a change while the denied client probes: how long after its acceptance it showed; none
    /// when it did not.
    async fn turn(
        &mut self,
        turn: Turn,
        switch: &mut dyn Switch,
    ) -> anyhow::Result<Option<Duration>> {
        let Client { agent, ends, .. } = &mut self.denied;
        let to = super::serve(self.server, ends).await?;
        agent.probe(to, false, INTERVAL_MS, 120.0).await?;
        let changed = change(agent, turn, switch).await;
        // Both ended whatever came of it, so that their agents can go on.
        let ended = agent.end_probe().await;
        self.server.echoed().await?;
        let changed = changed?;
        let (tries, answered) = ended?;
        let what = turn.name();
        let took = ms(changed.accepted);
        self.note(match changed.showed {
            Some(after) => format!(
                "policy {what} (accepted {took} after it was sent): showed {} later, {answered} of \
                 {tries} tries were answered in all",
                ms(after)
            ),
            None => format!(
                "policy {what} (accepted {took} after it was sent): no change within {} s, \
                 {answered} of {tries} tries were answered",
                DEADLINE.as_secs()
            ),
        });
        Ok(changed.showed)
    }

    /// Counts what each client sends and what of it arrives; when the policy is in force, again where
    /// the allowed client's did not arrive whole.
    async fn count(
        &mut self,
        allowed: &BTreeSet<IpAddr>,
        denied: &BTreeSet<IpAddr>,
        in_force: bool,
    ) -> anyhow::Result<Counts> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let counts = self.once().await?;
            let (whole, part) = (counts.arrived(allowed), counts.arrived(denied));
            for (name, tally, arrived) in
                [("allowed", &counts.allowed, whole), ("denied", &counts.denied, part)]
            {
                self.note(format!(
                    "{name} client: {} of {} datagrams and {} of {} connections arrived, {} and {} \
                     were answered",
                    arrived.0,
                    tally.sent,
                    arrived.1,
                    tally.connects,
                    tally.answered,
                    tally.connected
                ));
            }
            ensure!(counts.denied.sent > 0, "the denied client's own kernel sends nothing");
            let sent = (u64::from(counts.allowed.sent), u64::from(counts.allowed.connects));
            if !in_force || part != (0, 0) || whole == sent || attempt == ATTEMPTS {
                return Ok(counts);
            }
        }
    }

    async fn once(&mut self) -> anyhow::Result<Counts> {
        let since = Timestamp::now();
        let of = |to, patience_ms| Volley {
            datagrams: DATAGRAMS,
            connects: CONNECTS,
            patience_ms,
            ..volley(to)
        };
        // One server for both, on a port that nothing was sent to before: the flow log is asked by it.
        let server = super::serve(self.server, self.allowed.ends).await?;
        let to_denied = SocketAddr::new(self.denied.ends.server_addr, server.port());
        let allowed = self.allowed.agent.volley(&of(server, 800)).await;
        let denied = self.denied.agent.volley(&of(to_denied, 400)).await;
        let counts = self.server.echoed().await?;
        Ok(Counts { server, allowed: allowed?, denied: denied?, counts, since })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Apply,
    Remove,
}

impl Turn {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "applied",
            Self::Remove => "removed",
        }
    }
}

/// What a change did.
struct Changed {
    /// From asking for it to its acceptance.
    accepted: Duration,
    /// From its acceptance to when it showed.
    showed: Option<Duration>,
}

async fn change(agent: &mut Agent, turn: Turn, switch: &mut dyn Switch) -> anyhow::Result<Changed> {
    let before = turn == Turn::Apply;
    match agent.probed(DEADLINE).await? {
        ProbeEvent::Turned { reachable, .. } if reachable == before => {}
        ProbeEvent::Turned { .. } if before => bail!("the denied client is not answered by UDP"),
        ProbeEvent::Turned { .. } => {
            bail!("the denied client is answered again with the policy on")
        }
        ProbeEvent::Ended { .. } => bail!("the probe ended by itself"),
    }
    let asked = Instant::now();
    match turn {
        Turn::Apply => switch.apply().await.context("applying the policy")?,
        Turn::Remove => switch.remove().await.context("removing the policy")?,
    }
    let accepted = Instant::now();
    let took = accepted - asked;
    let end = accepted + DEADLINE;
    let mut showed = None;
    loop {
        // It counts once it has held: a machine that stalls for a moment looks blocked, too.
        let wait = match showed {
            Some(_) => HOLDS,
            None => end.saturating_duration_since(Instant::now()),
        };
        match agent.probed(wait).await {
            Ok(ProbeEvent::Turned { reachable, at }) => {
                showed = (reachable != before).then(|| at.saturating_duration_since(accepted));
            }
            Ok(ProbeEvent::Ended { .. }) => bail!("the probe ended by itself"),
            Err(AgentError::Silent { .. }) => return Ok(Changed { accepted: took, showed }),
            Err(e) => return Err(e.into()),
        }
    }
}

/// What was sent at once, and what arrived.
struct Counts {
    server: SocketAddr,
    allowed: Tally,
    denied: Tally,
    counts: Vec<EchoCount>,
    since: Timestamp,
}

impl Counts {
    /// Datagrams and connections from any of these addresses.
    fn arrived(&self, from: &BTreeSet<IpAddr>) -> (u64, u64) {
        let counts = self.counts.iter().filter(|c| from.contains(&c.from));
        counts.fold((0, 0), |sum, c| (sum.0 + c.datagrams, sum.1 + c.connections))
    }
}

fn list(addrs: &BTreeSet<IpAddr>) -> String {
    addrs.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

fn ms(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fails_only_against_a_claim() {
        let of =
            |end: fn(String) -> End, claims| judge(Ok(end("x".into())), Ok(()), claims, true).0;
        assert_eq!(of(End::Enforced, false), ProofOutcome::Passed);
        for end in [End::Ignored as fn(String) -> End, End::Contradicted] {
            assert_eq!(of(end, true), ProofOutcome::Failed);
            assert_eq!(of(end, false), ProofOutcome::NotEnforced);
        }
        for claims in [true, false] {
            let (outcome, text) = judge(Err(anyhow::anyhow!("no agent")), Ok(()), claims, false);
            assert_eq!(outcome, ProofOutcome::NotTaken);
            assert!(text.contains("could not be taken: no agent"), "{text}");
        }
    }

    #[test]
    fn a_policy_in_force_that_stays_is_a_fault() {
        let left = |claims, in_force| {
            let ended = Ok(End::Ignored("x".into()));
            judge(ended, Err(anyhow::anyhow!("no")), claims, in_force)
        };
        assert_eq!(left(true, false).0, ProofOutcome::Failed);
        assert_eq!(left(false, true).0, ProofOutcome::Failed);
        assert!(left(false, true).1.contains("left behind"));
        assert_eq!(left(false, false).0, ProofOutcome::NotEnforced);
    }
}

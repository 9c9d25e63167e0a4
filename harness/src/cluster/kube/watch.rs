//! When a path between pods came to work or ceased to, seen from the pods themselves.
//!
//! Owns the probe and the echo that answers it. What was changed is `surround`'s business.

use super::{
    objects::{Role, SERVICE_PORT},
    pods::Pods,
};
use crate::exec::{Agent, AgentError, ProbeEvent};
use anyhow::{anyhow, bail};
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// How long a state must hold to count.
const HOLDS: Duration = Duration::from_secs(1);
/// Between two tries of a probe, in milliseconds.
pub(super) const INTERVAL_MS: u32 = 2;

/// The agents of a probe of a service, started before the service is there.
pub(super) struct Ready {
    server: Agent,
    client: Agent,
}

impl Ready {
    /// Starts them in the pods: the server's echo answers already.
    pub(super) async fn service(pods: &Pods, client: &str) -> anyhow::Result<Self> {
        // Behind a service the port is fixed; beside it another watch may run.
        Self::start(pods, client, SERVICE_PORT).await.map(|(ready, _)| ready)
    }

    async fn start(pods: &Pods, client: &str, port: u16) -> anyhow::Result<(Self, SocketAddr)> {
        let to = pods.pod(1, Role::Pod(0)).map_err(|e| anyhow!(e))?;
        let name = to.role.name(to.node);
        let mut server = Agent::start(&name, pods.start(&name, "agent").await?).await?;
        let client = Agent::start(client, pods.start(client, "agent").await?).await?;
        let port = server.echo(to.ip, port).await?;
        Ok((Self { server, client }, SocketAddr::new(to.ip, port)))
    }

    /// Begins to probe the address of the service.
    pub(super) async fn watch(self, service: IpAddr) -> anyhow::Result<Watch> {
        self.probe(SocketAddr::new(service, SERVICE_PORT)).await
    }

    async fn probe(mut self, target: SocketAddr) -> anyhow::Result<Watch> {
        self.client.probe(target, false, INTERVAL_MS, 3_600.0).await?;
        Ok(Watch { server: self.server, client: self.client, now: None })
    }
}

/// A probe from one pod to the server's, and the echo that answers it.
pub(super) struct Watch {
    server: Agent,
    client: Agent,
    now: Option<(bool, Instant)>,
}

impl Watch {
    pub(super) async fn start(pods: &Pods, client: &str) -> anyhow::Result<Self> {
        let (ready, target) = Ready::start(pods, client, 0).await?;
        ready.probe(target).await
    }

    /// When the path came to be in this state, waiting for it if need be; none: not within `patience`.
    pub(super) async fn turns(
        &mut self,
        reachable: bool,
        patience: Duration,
    ) -> anyhow::Result<Option<Instant>> {
        let begun = Instant::now();
        loop {
            // A state counts once it has held: a machine that stalls for a moment looks blocked, too.
            let holds = self.now.filter(|(state, _)| *state == reachable);
            let left = match holds {
                Some(_) => HOLDS,
                None => patience.saturating_sub(begun.elapsed()),
            };
            if left.is_zero() {
                return Ok(None);
            }
            match self.client.probed(left).await {
                Ok(ProbeEvent::Turned { reachable, at }) => {
                    self.now = Some((reachable, at.into_std()));
                }
                Ok(ProbeEvent::Ended { .. }) => bail!("the probe ended"),
                Err(AgentError::Silent { .. }) => return Ok(holds.map(|(_, at)| at)),
                Err(e) => return Err(e.into()),
            }
        }
    }

    pub(super) async fn end(mut self) {
        // Both end with their input; what they counted is of no interest here.
        let _ = self.client.end_probe().await;
        self.client.stop().await;
        let _ = self.server.echoed().await;
        self.server.stop().await;
    }
}

//! What is observed: two ends that were named, or those of a cluster of a run that is alive, with the
//! way between them. `cnibench observe` calls this.
//!
//! Two ends that were named must be joined at once. A cluster may still be on its way up: it is waited
//! for, for a bounded time, until the run's agents stand in both ends, or nothing of it changes.

use super::{
    netns::{Sight, look},
    spaces::{End, Found, Space, World, choose, has_agent, lives},
    way,
};
use anyhow::Context as _;
use cnibench_probes::stages::Scene;
use std::time::{Duration, Instant};

/// How long a cluster that is not up yet is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(50);
/// After which a way that stays the same is taken for whole where no agents stand in its ends: the
/// run's may stand elsewhere. Between two steps of a cni's set-up are milliseconds.
const SETTLED: Duration = Duration::from_secs(2);

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// Two ends.
    Ends {
        /// Whose packets are requests.
        client: &'a End,
        /// The other.
        server: &'a End,
    },
    /// The usual ends of a cluster of namespaces.
    Cluster {
        /// Whose; none: of the only one that is there.
        run: Option<&'a str>,
        /// Its number in the run; likewise.
        number: Option<u32>,
    },
}

/// Two ends and what lies between them.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Whose packets are requests.
    pub client: Space,
    /// The other end.
    pub server: Space,
    /// What the probes are told of it.
    pub scene: Scene,
    /// Its devices, for people.
    pub sights: Vec<Sight>,
}

/// Finds what was asked for. `describe` tells a cluster from others where several are there; `say` is
/// told that one is waited for.
///
/// # Errors
/// There is no such thing, or no devices join its ends (of a cluster: not in time).
pub async fn find(
    wanted: Wanted<'_>,
    describe: impl Fn(&Found) -> String,
    say: impl Fn(&str),
) -> anyhow::Result<Target> {
    match wanted {
        Wanted::Ends { client, server } => {
            let world = read().await?;
            let client = world.find(client).context("--client")?;
            let server = world.find(server).context("--server")?;
            between(&world, client, server).await
        }
        Wanted::Cluster { run, number } => {
            wait(run.map(str::to_owned), number, describe, say).await
        }
    }
}

async fn wait(
    mut run: Option<String>,
    mut number: Option<u32>,
    describe: impl Fn(&Found) -> String,
    say: impl Fn(&str),
) -> anyhow::Result<Target> {
    let begun = Instant::now();
    let mut told = false;
    // What was seen last, and since when it has been the same.
    let mut last: Option<(Target, Instant)> = None;
    loop {
        let world = read().await?;
        let seen = match one_of(&world, run.as_deref(), number, &describe) {
            Ok(cluster) => {
                // From here on it is this one, whatever else comes up meanwhile.
                (run, number) = (Some(cluster.run.to_string()), Some(cluster.cluster));
                between_ends(&world, &cluster).await.map_err(Missing::Yet)
            }
            Err(missing) => Err(missing),
        };
        let waited = begun.elapsed();
        match seen {
            Ok((target, Use::Agents)) => return Ok(target),
            Ok((target, Use::Unknown)) => {
                let same = last.take().filter(|(before, _)| *before == target);
                let since = same.map_or_else(Instant::now, |(_, since)| since);
                // At the end of patience it can be observed, too, as far as it has come.
                if since.elapsed() >= SETTLED || waited >= PATIENCE {
                    return Ok(target);
                }
                last = Some((target, since));
            }
            Err(Missing::Yet(reason)) if waited >= PATIENCE => {
                let text = format!("not up after {} s of waiting", PATIENCE.as_secs());
                return Err(reason.context(text));
            }
            Err(Missing::Yet(_)) => last = None,
            Err(Missing::ForGood(reason)) if told => {
                return Err(reason.context("the run ended before its cluster was up"));
            }
            Err(Missing::ForGood(reason)) => return Err(reason),
        }
        if !std::mem::replace(&mut told, true) {
            say(&format!(
                "the cluster of run {} is not up yet, or not in use: waiting for at most {} s",
                run.as_deref().unwrap_or_default(),
                PATIENCE.as_secs()
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Why there is nothing to observe.
enum Missing {
    /// A run that is alive has not come so far.
    Yet(anyhow::Error),
    /// Waiting does not help.
    ForGood(anyhow::Error),
}

/// The one cluster that is meant.
fn one_of(
    world: &World,
    run: Option<&str>,
    number: Option<u32>,
    describe: impl Fn(&Found) -> String,
) -> Result<Found, Missing> {
    let clusters = world.clusters();
    let is_there = |run: &str| {
        clusters.iter().any(|f| f.run.as_str() == run && number.is_none_or(|n| f.cluster == n))
    };
    let may_come = run.is_some_and(|run| !is_there(run) && lives(run));
    choose(clusters, run, number, describe)
        .map_err(|reason| if may_come { Missing::Yet(reason) } else { Missing::ForGood(reason) })
}

/// Is a way known to be whole?
enum Use {
    /// The run's agents stand in both ends, which they do once the cluster is up.
    Agents,
    Unknown,
}

/// The usual ends of a cluster, as far as it has come.
async fn between_ends(world: &World, cluster: &Found) -> anyhow::Result<(Target, Use)> {
    let (client, server) = cluster.ends()?;
    // Looked for before the devices are: these are then no older than the agents.
    let ends = [client.inode, server.inode];
    let agents = tokio::task::spawn_blocking(move || ends.into_iter().all(has_agent)).await?;
    let target = between(world, client, server).await?;
    Ok((target, if agents { Use::Agents } else { Use::Unknown }))
}

async fn between(world: &World, client: Space, server: Space) -> anyhow::Result<Target> {
    let way = tokio::task::block_in_place(|| way::between(world, &client, &server))?;
    let (scene, sights) = look(way.client, way.server, way.nodes).await?;
    Ok(Target { client, server, scene, sights })
}

async fn read() -> anyhow::Result<World> {
    Ok(tokio::task::spawn_blocking(World::read).await?)
}

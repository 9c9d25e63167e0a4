//! The encryption proof of a single trial: what its own flows send does not cross the link between the
//! nodes in clear.
//!
//! Owns what is looked at around a trial, and how that is judged. Called by the runner, which has the
//! traffic made. No sniffer is open in the measured window. Three looks:
//!
//! - **in the warm-up** a sniffer sees the trial's own flows, whose payload is a random canary; its
//!   socket is closed before the window opens. Not where instructions are counted: flows there run
//!   until they wait, so that nobody would get the CPU to close it in time;
//! - **over warm-up and window** the link's own byte counters have to cover the payload that was moved;
//! - **in the encore**, the same traffic for a moment right after the trial, a sniffer sees every frame,
//!   and the claimed wrapping has to cover what arrived.
//!
//! Flows whose messages are too short for a canary are told by their headers, which no tunnel leaves in
//! clear. That a sniffer sees what is in clear is proved once for a cluster (`encryption`).

use super::{
    judgement::{canary, describe},
    sniffer::{Bounds, Sightings, Sniffer, Watch},
};
use crate::{
    cni::Wrapping,
    netlink::{Netns, Rtnl},
};
use anyhow::Context as _;
use cnibench_model::{CniSpec, Proof, ProofKind, ProofOutcome};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Instant};

/// Wrapped frames of the warm-up that are enough: the sooner the sniffer is gone, the more of the warm-up
/// is as the window will be.
const FRAMES: u64 = 256;
/// The share of the warm-up after which the sniffer goes, whatever it saw.
const SHARE: f64 = 0.6;

/// Where the traffic of a trial can be looked at, and what is claimed of it.
#[derive(Debug, Clone)]
pub struct Lookout {
    /// The cni that claims it.
    pub cni: CniSpec,
    /// The namespace with the link between the nodes, every frame of which enters a device there.
    pub underlay: Netns,
    /// Addresses of the nodes.
    pub nodes: BTreeSet<IpAddr>,
    /// What pods' packets are wrapped in.
    pub wrapping: Wrapping,
    /// Addresses of the ends, as packets between them have them on the link.
    pub ends: (IpAddr, IpAddr),
}

/// A trial that is looked at.
pub struct Looking {
    lookout: Lookout,
    canary: Vec<u8>,
    bounds: Arc<Bounds>,
    /// None where the warm-up is not looked at.
    sniffer: Option<Sniffer>,
    before: u64,
}

/// What was seen of a trial, before its encore.
#[derive(Debug, Clone)]
pub struct Glimpse {
    /// None where it was not looked at.
    warm_up: Option<Sightings>,
    /// Bytes of the link's counters over warm-up and window.
    outer: u64,
}

/// What was seen of the encore.
#[derive(Debug, Clone)]
pub struct Encore {
    /// All frames of it.
    pub seen: Sightings,
    /// Bytes of payload that arrived meanwhile, at both ends together.
    pub payload: u64,
}

impl Lookout {
    /// Begins to look, right before the trial; `warm_up`: at the warm-up, too.
    ///
    /// # Errors
    /// Why frames cannot be captured, or counters read.
    pub async fn open(&self, warm_up: bool) -> anyhow::Result<Looking> {
        let lookout = self.clone();
        let open = move || {
            let (canary, bounds) = (canary(), Bounds::frames(FRAMES));
            let before = lookout.outer()?;
            let watch = lookout.watch(&canary);
            let sniff = || Sniffer::bounded(&lookout.underlay, watch, bounds.clone());
            let sniffer = warm_up.then(sniff).transpose()?;
            anyhow::Ok(Looking { lookout, canary, bounds, sniffer, before })
        };
        tokio::task::spawn_blocking(open).await?.context("the sniffer")
    }

    /// Looks at everything that is sent while the encore is made. `make` gives the bytes that arrived.
    ///
    /// # Errors
    /// Why frames cannot be captured, or why there was no encore.
    pub async fn encore(
        &self,
        canary: &[u8],
        make: impl Future<Output = anyhow::Result<u64>>,
    ) -> anyhow::Result<Encore> {
        let (underlay, watch) = (self.underlay.clone(), self.watch(canary));
        let start = move || Sniffer::start(&underlay, watch);
        let sniffer = tokio::task::spawn_blocking(start).await?.context("the sniffer")?;
        let payload = make.await;
        let seen =
            tokio::task::spawn_blocking(|| sniffer.finish()).await?.context("the sniffer")?;
        Ok(Encore { seen, payload: payload? })
    }

    fn watch(&self, secret: &[u8]) -> Watch {
        Watch {
            secret: secret.to_vec(),
            // Nobody sends it: the control is the cluster's proof.
            control: canary(),
            nodes: self.nodes.clone(),
            wrapping: self.wrapping.clone(),
            flows: vec![self.ends],
        }
    }

    /// Bytes that entered the link from the nodes so far.
    fn outer(&self) -> anyhow::Result<u64> {
        let links = self.underlay.run_blocking(|| Rtnl::open()?.links());
        let links = links.context("counters of the link between nodes")?;
        Ok(links.iter().filter(|l| l.controller.is_some()).map(|l| l.counters.rx_bytes).sum())
    }
}

impl Looking {
    /// What the flows are to send.
    pub fn canary(&self) -> Vec<u8> {
        self.canary.clone()
    }

    /// The moment before the client is told to begin: from here the sniffer stays for a share of the
    /// warm-up only. The warm-up itself begins later.
    pub fn begins(&self, warmup_s: f64) {
        let share = std::time::Duration::try_from_secs_f64(warmup_s * SHARE).unwrap_or_default();
        self.bounds.end_at(Instant::now() + share);
    }

    /// What was seen, once the trial is over.
    ///
    /// # Errors
    /// Why frames or counters could not be read.
    pub async fn close(self) -> anyhow::Result<Glimpse> {
        let close = move || {
            let outer = self.lookout.outer()?.saturating_sub(self.before);
            let warm_up = self.sniffer.map(Sniffer::finish).transpose()?;
            Ok(Glimpse { warm_up, outer })
        };
        tokio::task::spawn_blocking(close).await?
    }
}

/// The proof of a trial that moved `payload` bytes in its window, at both ends together.
pub fn judge(
    lookout: &Lookout,
    seen: anyhow::Result<(Glimpse, Encore)>,
    payload: u64,
    fits: bool,
) -> Proof {
    let proof = |outcome, summary, evidence| Proof {
        kind: ProofKind::Encryption,
        cni: lookout.cni.clone(),
        outcome,
        summary,
        evidence,
    };
    let (glimpse, encore) = match seen {
        Ok(seen) => seen,
        Err(e) => {
            return proof(ProofOutcome::Failed, format!("could not be taken: {e:#}"), Vec::new());
        }
    };
    let what = describe(&lookout.wrapping);
    let evidence = evidence(&glimpse, &encore, payload, &what, fits);
    match fault(&glimpse, &encore, payload, &what) {
        Some(fault) => proof(ProofOutcome::Failed, fault, evidence),
        None => {
            let by = if fits { "payload or headers" } else { "headers" };
            let warm_up = glimpse.warm_up.as_ref();
            let warm_up = warm_up.map_or_else(String::new, |seen| {
                format!("{} frames of the warm-up and ", seen.frames)
            });
            let summary = format!(
                "none of {warm_up}{} frames after the window shows {by} of the trial's flows; {} bytes of {what} cover the {} bytes of the encore, {} bytes on the link the {payload} of the window",
                encore.seen.frames, encore.seen.wrapped_bytes, encore.payload, glimpse.outer,
            );
            proof(ProofOutcome::Passed, summary, evidence)
        }
    }
}

/// The first reason why the claim does not stand for this trial.
fn fault(glimpse: &Glimpse, encore: &Encore, payload: u64, what: &str) -> Option<String> {
    let warm_up = glimpse.warm_up.iter().map(|seen| ("in the warm-up", seen));
    let mut looks = warm_up.chain([("after the window", &encore.seen)]);
    if let Some((when, seen)) = looks.find(|(_, seen)| seen.in_clear() > 0) {
        return Some(format!(
            "payload in clear: {} of {} frames show what the trial's own flows sent ({when})",
            seen.in_clear(),
            seen.frames
        ));
    }
    let seen = &encore.seen;
    if seen.wrapped_frames == 0 {
        return Some(format!(
            "no frame of {what} crossed between the nodes while the trial's traffic was made again: it took another way"
        ));
    }
    // What was lost is not known to be wrapped or not; the next look is as good.
    if seen.lost + seen.cut == 0 && seen.fragments == 0 && seen.wrapped_bytes < encore.payload {
        return Some(format!(
            "{} bytes arrived after the window, but only {} bytes of {what} crossed between the nodes: they took another way",
            encore.payload, seen.wrapped_bytes
        ));
    }
    (glimpse.outer < payload).then(|| {
        format!(
            "{payload} bytes arrived in the window, but only {} bytes crossed the link between the nodes: they took another way",
            glimpse.outer
        )
    })
}

fn evidence(
    glimpse: &Glimpse,
    encore: &Encore,
    payload: u64,
    what: &str,
    fits: bool,
) -> Vec<String> {
    let look = |when: &str, seen: &Sightings| {
        let canary = if fits {
            format!("{} with the canary, ", seen.secret)
        } else {
            "messages too short for a canary, ".to_owned()
        };
        let lost = match seen.lost + seen.cut + seen.fragments {
            0 => String::new(),
            _ => format!(
                "; lost {}, read in part {}, fragments {}",
                seen.lost, seen.cut, seen.fragments
            ),
        };
        format!(
            "{when}: {} frames, {canary}{} with the flow's headers; {what} between nodes: {} frames, {} bytes{lost}",
            seen.frames, seen.headers, seen.wrapped_frames, seen.wrapped_bytes
        )
    };
    let warm_up = glimpse.warm_up.as_ref();
    let mut lines = vec![
        warm_up.map_or_else(|| "warm-up: not looked at".to_owned(), |seen| look("warm-up", seen)),
        format!(
            "warm-up and window: {} bytes on the link, {payload} bytes of payload arrived in the window",
            glimpse.outer
        ),
        look("encore", &encore.seen),
        format!("encore: {} bytes of payload arrived", encore.payload),
    ];
    for (when, seen) in
        warm_up.map(|seen| ("warm-up", seen)).into_iter().chain([("encore", &encore.seen)])
    {
        lines.extend(
            seen.secret_example.iter().map(|e| format!("{when}: first frame in clear: {e}")),
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> (Glimpse, Encore) {
        let warm_up = Sightings { frames: 20, wrapped_frames: 20, ..Sightings::default() };
        let frames =
            Sightings { frames: 9, wrapped_frames: 8, wrapped_bytes: 700, ..Sightings::default() };
        (Glimpse { warm_up: Some(warm_up), outer: 90_000 }, Encore { seen: frames, payload: 700 })
    }

    fn why(change: impl FnOnce(&mut Glimpse, &mut Encore)) -> Option<String> {
        let (mut glimpse, mut encore) = seen();
        change(&mut glimpse, &mut encore);
        fault(&glimpse, &encore, 90_000, "ESP")
    }

    #[test]
    fn exactly_enough_passes_and_every_hole_fails() {
        assert_eq!(why(|_, _| {}), None);
        let clear = why(|g, e| {
            g.warm_up.as_mut().unwrap().headers = 3;
            e.seen.wrapped_frames = 0;
        });
        assert!(clear.unwrap().contains("3 of 20 frames show"), "clear text comes first");
        assert!(why(|_, e| e.seen.secret = 1).unwrap().ends_with("(after the window)"));
        assert!(why(|_, e| e.seen.wrapped_frames = 0).unwrap().starts_with("no frame of ESP"));
        assert!(why(|_, e| e.seen.wrapped_bytes = 699).unwrap().contains("only 699 bytes of ESP"));
        assert!(why(|g, _| g.outer = 89_999).unwrap().contains("only 89999 bytes crossed"));
    }

    #[test]
    fn a_short_look_at_the_warm_up_is_no_fault_and_lost_frames_are_not_counted_against_it() {
        assert_eq!(why(|g, _| g.warm_up = Some(Sightings::default())), None);
        assert_eq!(why(|g, _| g.warm_up = None), None);
        assert_eq!(
            why(|_, e| {
                e.seen.lost = 1;
                e.seen.wrapped_bytes = 10;
            }),
            None
        );
    }
}

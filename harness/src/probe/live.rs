//! Stages while they happen: probes that stay attached, and what they counted between two looks.
//!
//! Owns the difference of two reads. How it is shown is `cnibench observe`'s.

use anyhow::Context as _;
use cnibench_model::{
    Stage,
    probe::{Direction, DiscardCount, DiscardKind, DropCount, ProbeProgram, StageStats},
};
use cnibench_probes::stages::{Scene, Seen, Stages};
use jiff::Timestamp;
use serde::Serialize;
use std::time::Instant;

/// What was seen between two looks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Interval {
    /// When it ended.
    pub at: Timestamp,
    /// How long it was.
    pub seconds: f64,
    /// Stages that were passed, by direction and in the order of the path.
    pub stages: Vec<Passed>,
    /// Packets dropped.
    pub drops: Vec<DropCount>,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// Events in no stage.
    pub discards: Vec<DiscardCount>,
    /// Events that the kernel did not hand over.
    pub lost_events: u64,
}

/// A stage in one direction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Passed {
    /// Which stage.
    pub stage: Stage,
    /// Which way.
    pub direction: Direction,
    /// How often it was passed.
    pub count: u64,
    /// The same for each second.
    pub per_second: f64,
    /// Mean time in microseconds.
    pub mean_us: f64,
    /// Median, to 1.6 %; none where all were between two reads (distributions are read after counts,
    /// so they are some milliseconds later at both ends of the interval).
    pub p50_us: Option<f64>,
    /// 99th percentile, likewise.
    pub p99_us: Option<f64>,
    /// The longest, likewise.
    pub max_us: Option<f64>,
}

/// Probes that stay attached. Dropped, they are gone.
pub struct Live {
    stages: Stages,
    before: Seen,
    since: Instant,
}

impl Live {
    /// Attaches them and begins to count. Blocks.
    ///
    /// # Errors
    /// What this kernel or this process lacks.
    pub fn attach(scene: &Scene) -> anyhow::Result<Self> {
        let mut stages = Stages::attach(scene)?;
        stages.count(true)?;
        let since = Instant::now();
        let before = stages.read()?;
        Ok(Self { stages, before, since })
    }

    /// Every program with what became of it.
    pub fn programs(&self) -> &[ProbeProgram] {
        self.stages.programs()
    }

    /// What was seen since the last look. Blocks, for some tens of milliseconds.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn look(&mut self) -> anyhow::Result<Interval> {
        let (at, now) = (Timestamp::now(), Instant::now());
        let seen = self.stages.read()?;
        let seconds = now.duration_since(self.since).as_secs_f64();
        let interval = between(&self.before, &seen, at, seconds)?;
        (self.before, self.since) = (seen, now);
        Ok(interval)
    }
}

impl Interval {
    /// True where no packet of either end was followed anywhere.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }
}

/// What `after` has more than `before`.
fn between(before: &Seen, after: &Seen, at: Timestamp, seconds: f64) -> anyhow::Result<Interval> {
    let mut stages = Vec::new();
    for now in &after.stages {
        let same = |s: &&StageStats| (s.stage, s.direction) == (now.stage, now.direction);
        stages.extend(passed(before.stages.iter().find(same), now, seconds)?);
    }
    let dropped = |d: &DropCount| {
        let same = |b: &&DropCount| (&b.reason, &b.netns_role) == (&d.reason, &d.netns_role);
        before.drops.iter().find(same).map_or(0, |b| b.count)
    };
    let discarded =
        |why: DiscardKind| before.discards.iter().find(|b| b.why == why).map_or(0, |b| b.count);
    let drops = after
        .drops
        .iter()
        .map(|d| DropCount { count: d.count.saturating_sub(dropped(d)), ..d.clone() });
    let discards = after
        .discards
        .iter()
        .map(|d| DiscardCount { count: d.count.saturating_sub(discarded(d.why)), ..*d });
    Ok(Interval {
        at,
        seconds,
        stages,
        drops: drops.filter(|d| d.count > 0).collect(),
        retransmits: after.retransmits.saturating_sub(before.retransmits),
        discards: discards.filter(|d| d.count > 0).collect(),
        lost_events: after.lost_events.saturating_sub(before.lost_events),
    })
}

fn passed(
    before: Option<&StageStats>,
    now: &StageStats,
    seconds: f64,
) -> anyhow::Result<Option<Passed>> {
    let mut histogram = now.histogram.decode()?;
    let (mut count, mut sum_ns) = (now.count, now.sum_ns);
    if let Some(before) = before {
        count = count.saturating_sub(before.count);
        sum_ns = sum_ns.saturating_sub(before.sum_ns);
        histogram
            .subtract(&before.histogram.decode()?)
            .map_err(|e| anyhow::anyhow!("{e:?}"))
            .with_context(|| format!("counts of {} became smaller", now.stage))?;
    }
    if count == 0 {
        return Ok(None);
    }
    let us = |ns: u64| ns as f64 / 1e3;
    let of_all = |ns: u64| (!histogram.is_empty()).then(|| us(ns));
    Ok(Some(Passed {
        stage: now.stage,
        direction: now.direction,
        count,
        per_second: count as f64 / seconds,
        mean_us: us(sum_ns) / count as f64,
        p50_us: of_all(histogram.value_at_quantile(0.5)),
        p99_us: of_all(histogram.value_at_quantile(0.99)),
        max_us: of_all(histogram.max()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnibench_model::{StoredHistogram, histogram};
    use cnibench_probes::stages::Packets;

    fn stats(stage: Stage, values: &[(u64, u64)]) -> StageStats {
        let mut h = histogram::empty();
        values.iter().for_each(|(ns, n)| h.record_n(*ns, *n).unwrap());
        StageStats {
            stage,
            direction: Direction::Request,
            count: values.iter().map(|(_, n)| n).sum(),
            sum_ns: values.iter().map(|(ns, n)| ns * n).sum(),
            histogram: StoredHistogram::encode(&h).unwrap(),
        }
    }

    fn seen(stages: Vec<StageStats>) -> Seen {
        Seen {
            stages,
            drops: Vec::new(),
            retransmits: 0,
            discards: Vec::new(),
            opened: None,
            packets: Packets::default(),
            lost_events: 0,
        }
    }

    fn drop(reason: &str, netns_role: &str, count: u64) -> DropCount {
        DropCount { reason: reason.to_owned(), netns_role: netns_role.to_owned(), count }
    }

    fn at() -> Timestamp {
        "2026-02-03T10:20:31Z".parse().unwrap()
    }

    #[test]
    fn only_what_came_between_two_looks_is_in_the_interval() {
        // 90 passages of 1 us and one of 900 us before; then 10 of 5 us. The old ones must not show.
        let old = [(1_000, 90), (900_000, 1)];
        let before = seen(vec![stats(Stage::Backlog, &old), stats(Stage::ToPod, &[(700, 3)])]);
        let new = [(1_000, 90), (900_000, 1), (5_000, 10)];
        let after = seen(vec![
            stats(Stage::Backlog, &new),
            stats(Stage::Underlay, &[(2_000, 4)]),
            stats(Stage::ToPod, &[(700, 3)]),
        ]);
        let interval = between(&before, &after, at(), 0.5).unwrap();
        let names: Vec<Stage> = interval.stages.iter().map(|s| s.stage).collect();
        assert_eq!(names, [Stage::Backlog, Stage::Underlay]);
        let backlog = &interval.stages[0];
        assert_eq!((backlog.count, backlog.per_second, backlog.mean_us), (10, 20.0, 5.0));
        for us in [backlog.p50_us, backlog.p99_us, backlog.max_us] {
            assert!((us.unwrap() - 5.0).abs() < 0.01, "{backlog:?}");
        }
        assert_eq!(interval.stages[1].per_second, 8.0);
        assert!(between(&after, &after, at(), 0.5).unwrap().is_empty());
    }

    #[test]
    fn drops_are_told_apart_by_reason_and_by_place() {
        let mut before = seen(Vec::new());
        before.drops = vec![drop("NO_SOCKET", "client", 3), drop("NO_SOCKET", "server", 5)];
        before.discards = vec![DiscardCount { why: DiscardKind::TooOld, count: 2 }];
        before.lost_events = 7;
        let mut after = before.clone();
        after.drops = vec![
            drop("NO_SOCKET", "client", 3),
            drop("NO_SOCKET", "server", 9),
            drop("TTL", "server", 1),
        ];
        after.discards[0].count = 6;
        after.discards.push(DiscardCount { why: DiscardKind::MapFull, count: 1 });
        (after.retransmits, after.lost_events) = (4, 9);
        let interval = between(&before, &after, at(), 1.0).unwrap();
        assert_eq!(interval.drops, [drop("NO_SOCKET", "server", 4), drop("TTL", "server", 1)]);
        let discards: Vec<_> = interval.discards.iter().map(|d| (d.why, d.count)).collect();
        assert_eq!(discards, [(DiscardKind::TooOld, 4), (DiscardKind::MapFull, 1)]);
        assert_eq!((interval.retransmits, interval.lost_events), (4, 2));
    }

    #[test]
    fn a_line_for_programs_has_the_names_of_the_record() {
        let interval =
            between(&seen(Vec::new()), &seen(vec![stats(Stage::WakeUp, &[(3_000, 2)])]), at(), 1.0);
        let value = serde_json::to_value(interval.unwrap()).unwrap();
        assert_eq!(value["stages"][0]["stage"], "wake-up");
        assert_eq!(value["stages"][0]["direction"], "request");
        assert_eq!(value["seconds"], 1.0);
    }
}

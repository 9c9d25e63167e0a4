//! What is lost: packets that the kernel drops in the observed network namespaces, by reason, and TCP
//! segments that are sent again. Attached once, beside whatever is measured: the programs run only when
//! something is lost.
//!
//! Owns the programs of `bpf/losses.bpf.c`. A trial is armed before it begins and read after it, for the
//! window that it says it had. Programs end with [`Losses`], or with the process.

use crate::{
    built_in,
    capability::{Lack, has_btf},
    object::{ObjectError, Source, chain},
    reasons::Reasons,
    tracing::{self, Program},
};
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, Map, MapData, MapError},
};
use jiff::{SignedDuration, Timestamp};
use std::{collections::BTreeMap, time::Duration};

const PROGRAMS: [Program; 3] = [
    Program { name: "on_drop", tracepoint: "kfree_skb", needed: false },
    // Before Linux 6.11 the tracepoint has one argument less.
    Program { name: "on_drop_5_17", tracepoint: "kfree_skb", needed: true },
    Program { name: "on_retransmit", tracepoint: "tcp_retransmit_skb", needed: true },
];

/// Slices of an armed stretch of time. An edge of a window is off by half a slice at most.
const SLICES: u32 = 1_000;
/// The shortest slice: a timer's tick is longer.
const SHORTEST: Duration = Duration::from_millis(1);

/// `RETRANSMIT`.
const RETRANSMIT: u32 = u32::MAX;

/// `struct config`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
struct Config {
    from_ns: u64,
    slice_ns: u64,
}

/// `struct loss`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Loss {
    reason: u32,
    netns: u32,
    slice: u32,
}

// SAFETY: plain numbers of one size, so without padding.
unsafe impl Pod for Config {}
// SAFETY: as above.
unsafe impl Pod for Loss {}

/// What was lost in a window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lost {
    /// Packets dropped, by network namespace (its inode) and the kernel's name of the reason.
    pub drops: BTreeMap<(u32, String), u64>,
    /// TCP segments sent again, by network namespace.
    pub retransmits: BTreeMap<u32, u64>,
    /// Losses since the counters were armed that are in neither: the map of them was full.
    pub uncounted: u64,
}

/// Attached counters. Dropped, they are gone.
pub struct Losses {
    ebpf: Ebpf,
    source: Source,
    reasons: Reasons,
    config: Config,
}

impl Losses {
    /// Loads and attaches the counters; they observe nothing yet. Blocks, up to some hundredths of a
    /// second.
    ///
    /// # Errors
    /// What this kernel or this process lacks, with the kernel's reason.
    pub fn attach() -> Result<Self, Lack> {
        if !has_btf() {
            return Err(Lack::Btf);
        }
        let source = built_in!("losses");
        let mut ebpf = source.open()?;
        tracing::attach(&source, &mut ebpf, &PROGRAMS)?;
        Ok(Self { ebpf, source, reasons: Reasons::read(), config: Config::default() })
    }

    /// Observes a network namespace, by its inode, from now on. Again is the same as once.
    ///
    /// # Errors
    /// There are too many (4,096), or the map cannot be written.
    pub fn observe(&mut self, netns: u32) -> Result<(), ObjectError> {
        let source = self.source.clone();
        let mut add = || {
            let mut map: HashMap<&mut MapData, u32, u32> =
                HashMap::try_from(self.map_mut("observed")?)?;
            map.insert(netns, 1, 0)
        };
        add().map_err(|e| source.broken(chain(&e)))
    }

    /// Forgets what was counted and counts from now on, in slices for a stretch of this length.
    ///
    /// # Errors
    /// A map cannot be written.
    pub fn arm(&mut self, length: Duration) -> Result<(), ObjectError> {
        let source = self.source.clone();
        self.rearm(length).map_err(|e| source.broken(chain(&e)))
    }

    fn rearm(&mut self, length: Duration) -> Result<(), MapError> {
        self.set(Config::default())?;
        let mut map: HashMap<&mut MapData, Loss, u64> = HashMap::try_from(self.map_mut("losses")?)?;
        let old: Vec<Loss> = map.keys().collect::<Result<_, _>>()?;
        for loss in old {
            map.remove(&loss)?;
        }
        let mut uncounted: Array<&mut MapData, u64> = Array::try_from(self.map_mut("uncounted")?)?;
        uncounted.set(0, 0, 0)?;
        let slice = (length / SLICES).max(SHORTEST);
        let slice_ns = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
        self.set(Config { from_ns: now_ns(), slice_ns })
    }

    fn set(&mut self, config: Config) -> Result<(), MapError> {
        let mut map: Array<&mut MapData, Config> = Array::try_from(self.map_mut("config")?)?;
        map.set(0, config, 0)?;
        self.config = config;
        Ok(())
    }

    /// What was lost in a window, which must have opened after [`arm`](Self::arm).
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn read(&self, opened: Timestamp, length: Duration) -> Result<Lost, ObjectError> {
        // The kernel's monotonic clock, which the programs read, against the wall's.
        let since = Timestamp::now().duration_since(opened);
        let from = i128::from(now_ns()) - since.as_nanos();
        self.lost(from, length).map_err(|e| self.source.broken(chain(&e)))
    }

    fn lost(&self, from: i128, length: Duration) -> Result<Lost, MapError> {
        let map: HashMap<_, Loss, u64> = HashMap::try_from(self.map("losses")?)?;
        let mut lost = Lost::default();
        for entry in map.iter() {
            let (loss, count) = entry?;
            if !is_within(&self.config, loss.slice, from, length) {
                continue;
            }
            if loss.reason == RETRANSMIT {
                *lost.retransmits.entry(loss.netns).or_default() += count;
            } else {
                let reason = self.reasons.name(loss.reason);
                *lost.drops.entry((loss.netns, reason)).or_default() += count;
            }
        }
        let uncounted: Array<_, u64> = Array::try_from(self.map("uncounted")?)?;
        lost.uncounted = uncounted.get(&0, 0)?;
        Ok(lost)
    }

    fn map(&self, name: &'static str) -> Result<&Map, MapError> {
        self.ebpf.map(name).ok_or_else(|| MapError::InvalidName { name: name.to_owned() })
    }

    fn map_mut(&mut self, name: &'static str) -> Result<&mut Map, MapError> {
        self.ebpf.map_mut(name).ok_or_else(|| MapError::InvalidName { name: name.to_owned() })
    }
}

/// Lies the middle of a slice in a window that begins at `from` of the monotonic clock?
fn is_within(config: &Config, slice: u32, from: i128, length: Duration) -> bool {
    let slice_ns = i128::from(config.slice_ns);
    let middle = i128::from(config.from_ns) + i128::from(slice) * slice_ns + slice_ns / 2;
    let length = SignedDuration::try_from(length).map_or(i128::MAX, |l| l.as_nanos());
    (from..from.saturating_add(length)).contains(&middle)
}

fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Since the machine's start: neither is negative.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_in_the_window_that_has_its_middle() {
        let config = Config { from_ns: 1_000, slice_ns: 100 };
        let within = |slice| is_within(&config, slice, 1_140, Duration::from_nanos(200));
        // Middles at 1,050, 1,150, 1,250, 1,350.
        let found: Vec<u32> = (0..4).filter(|slice| within(*slice)).collect();
        assert_eq!(found, [1, 2]);
        assert!(!is_within(&config, 0, 2_000, Duration::MAX));
        assert!(is_within(&config, u32::MAX, 2_000, Duration::MAX));
    }
}

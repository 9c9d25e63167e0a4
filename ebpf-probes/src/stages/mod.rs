//! The latency probes: the stages of a round trip, timed in the kernel.
//!
//! Owns the programs of `bpf/stages*.bpf.*`: told which namespaces and devices are observed, loads and
//! attaches them, and reads what they counted. Programs and maps end with [`Stages`], or with the
//! process: nothing is pinned. Which trials are probed is the runner's; what the figures mean is the
//! reports'.

mod histogram;
pub mod layout;

use crate::{
    built_in,
    capability::{Lack, has_btf},
    object::{ObjectError, Source, chain},
    reasons::Reasons,
    tracing::{self, Program},
};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray},
};
use cnibench_model::probe::{
    Direction, DiscardCount, DiscardKind, DropCount, ProbeProgram, StageStats,
};
use jiff::{SignedDuration, Timestamp};
use layout::{Config, Count, DeviceKey, DropKey, POINTS, Role, Sums, TIMED, Track, Window};
use serde::{Deserialize, Serialize};
use std::{collections::HashSet, time::Duration};

/// What is observed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// Inode of the client's network namespace.
    pub client: u32,
    /// Of the server's; another one than the client's.
    pub server: u32,
    /// Other namespaces of which drops are counted, with what they are for people.
    pub others: Vec<(u32, String)>,
    /// Every device that packets may meet between both ends.
    pub devices: Vec<Device>,
}

/// A device on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Inode of its network namespace: indices repeat from one to the next.
    pub netns: u32,
    /// Its index there.
    pub ifindex: u32,
    /// What it is.
    pub role: Role,
}

/// What the programs counted since counting was switched on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Stages that were passed at least once, in order.
    pub stages: Vec<StageStats>,
    /// Drops in the observed namespaces.
    pub drops: Vec<DropCount>,
    /// TCP segments sent again by either end.
    pub retransmits: u64,
    /// Events in no stage; kinds that did not occur are not named.
    pub discards: Vec<DiscardCount>,
    /// Times that a program was not run since it was running already on that CPU; since counting was
    /// switched on ([`Stages::count_window`]: since then, so with what comes before the window), of all
    /// packets and threads of the machine.
    pub lost_events: u64,
    /// When the window of [`Stages::count_window`] opened; none: it did not, or there is none.
    pub opened: Option<Timestamp>,
    /// What became of the packets that were followed.
    pub packets: Packets,
}

/// Packets that were followed while counting was on. Each of them is one that [`cnibench_model::Stage::ToSocket`]
/// counts, one of the discards, or one of these.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packets {
    /// All, from their first device on.
    pub followed: u64,
    /// Dropped on the way, wherever.
    pub dropped: u64,
    /// Neither at a socket nor dropped when this was read: under way, or ended where no event says so
    /// (merged into another packet). The map of them has an upper limit.
    pub under_way: u64,
}

const fn program(name: &'static str, tracepoint: &'static str, needed: bool) -> Program {
    Program { name, tracepoint, needed }
}

/// The programs of the object; needed are those that stages cannot be timed without.
const PROGRAMS: [Program; 11] = [
    program("on_sys_enter", "sys_enter", true),
    program("on_queue", "net_dev_queue", true),
    program("on_xmit", "net_dev_start_xmit", true),
    program("on_rx", "netif_rx", true),
    program("on_receive", "netif_receive_skb", true),
    program("on_ready", "sk_data_ready", true),
    program("on_switch", "sched_switch", true),
    program("on_tcp", "tcp_probe", false),
    program("on_drop", "kfree_skb", false),
    // Before Linux 6.11 the tracepoint has one argument less.
    program("on_drop_5_17", "kfree_skb", false),
    program("on_retransmit", "tcp_retransmit_skb", false),
];

/// Places in the map beyond client and server begin here.
const FIRST_OTHER: u32 = 3;

/// Attached probes. Dropped, they are gone.
pub struct Stages {
    ebpf: Ebpf,
    source: Source,
    scene: Scene,
    programs: Vec<ProbeProgram>,
    /// Times that programs had been passed over when counting was switched on.
    missed_before: u64,
}

impl Stages {
    /// Loads and attaches the probes; counts nothing yet. Blocks, up to some tenths of a second.
    ///
    /// # Errors
    /// What this kernel or this process lacks, with the kernel's reason.
    pub fn attach(scene: &Scene) -> Result<Self, Lack> {
        if !has_btf() {
            return Err(Lack::Btf);
        }
        let source = built_in!("stages");
        let mut ebpf = source.open()?;
        describe(&mut ebpf, scene).map_err(|e| source.broken(e))?;
        let programs = tracing::attach(&source, &mut ebpf, &PROGRAMS)?;
        let mut stages = Self { ebpf, source, scene: scene.clone(), programs, missed_before: 0 };
        stages.count(false)?;
        Ok(stages)
    }

    /// Every program with what became of it.
    pub fn programs(&self) -> &[ProbeProgram] {
        &self.programs
    }

    /// Switches counting on or off; packets are followed either way.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn count(&mut self, on: bool) -> Result<(), ObjectError> {
        self.set(u32::from(on), Duration::ZERO, Duration::ZERO)
    }

    /// Counts in a window that the kernel opens by itself, `after` the first send of the client's
    /// thread that asks (of the generator's, by its name), and that lasts `length`. What
    /// lies across its edges is cut there. Once for each attachment.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn count_window(&mut self, after: Duration, length: Duration) -> Result<(), ObjectError> {
        self.set(2, after, length)
    }

    fn set(&mut self, counting: u32, after: Duration, length: Duration) -> Result<(), ObjectError> {
        let ns = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let config = Config {
            send_calls: send_calls(),
            after_ns: ns(after),
            for_ns: ns(length),
            counting,
            unused: 0,
        };
        if counting != 0 {
            self.missed_before = tracing::misses(&self.ebpf, &PROGRAMS);
        }
        let source = self.source.clone();
        let mut set = || {
            let mut map: Array<_, Config> =
                Array::try_from(self.ebpf.map_mut("config").ok_or(absent("config"))?)?;
            map.set(0, config, 0)
        };
        set().map_err(|e| source.broken(chain(&e)))
    }

    /// What was counted until now.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn read(&self) -> Result<Seen, ObjectError> {
        self.read_maps().map_err(|e| self.source.broken(chain(&e)))
    }

    fn read_maps(&self) -> Result<Seen, MapError> {
        // First: after counting has ended packets go on, and one whose end nothing saw goes when its
        // address is used again.
        let under_way = self.under_way()?;
        let counts: PerCpuArray<_, u64> = PerCpuArray::try_from(self.map("counts")?)?;
        let count =
            |which: Count| Ok::<u64, MapError>(counts.get(&(which as u32), 0)?.iter().sum());
        let mut discards = Vec::new();
        for (why, which) in [
            (DiscardKind::SkbReused, Count::SkbReused),
            (DiscardKind::IllegalEdge, Count::IllegalEdge),
            (DiscardKind::TooOld, Count::TooOld),
            (DiscardKind::MapFull, Count::MapFull),
        ] {
            let count = count(which)?;
            if count > 0 {
                discards.push(DiscardCount { why, count });
            }
        }
        Ok(Seen {
            stages: self.stages()?,
            drops: self.drops()?,
            retransmits: count(Count::Retransmits)?,
            discards,
            lost_events: self.lost_events(),
            opened: self.opened()?,
            packets: Packets {
                followed: count(Count::Followed)?,
                dropped: count(Count::Dropped)?,
                under_way,
            },
        })
    }

    /// The kernel's monotonic clock, which the programs read, against the wall's.
    fn opened(&self) -> Result<Option<Timestamp>, MapError> {
        let window: Array<_, Window> = Array::try_from(self.map("window")?)?;
        let from_ns = window.get(&0, 0)?.from_ns;
        if from_ns == 0 {
            return Ok(None);
        }
        let (wall, now) =
            (Timestamp::now(), rustix::time::clock_gettime(rustix::time::ClockId::Monotonic));
        let now_ns = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
        let since = SignedDuration::from_nanos_i128(now_ns - i128::from(from_ns));
        Ok(wall.checked_sub(since).ok())
    }

    fn map(&self, name: &'static str) -> Result<&aya::maps::Map, MapError> {
        self.ebpf.map(name).ok_or(absent(name))
    }

    fn stages(&self) -> Result<Vec<StageStats>, MapError> {
        let sums: PerCpuArray<_, Sums> = PerCpuArray::try_from(self.map("sums")?)?;
        let counts: PerCpuArray<_, u64> = PerCpuArray::try_from(self.map("histograms")?)?;
        // All sums before the first histogram, which takes a thousand times as long to read: while it
        // is counted, they are of the same moment.
        let mut passed = Vec::new();
        for (d, direction) in [Direction::Request, Direction::Response].into_iter().enumerate() {
            for (s, stage) in TIMED.into_iter().enumerate() {
                let series = d * TIMED.len() + s;
                let all = sums.get(&(series as u32), 0)?;
                let count: u64 = all.iter().map(|c| c.count).sum();
                let sum_ns: u64 = all.iter().map(|c| c.sum_ns).sum();
                if count > 0 {
                    passed.push((series, stage, direction, count, sum_ns));
                }
            }
        }
        let mut stages = Vec::new();
        for (series, stage, direction, count, sum_ns) in passed {
            let mut buckets = vec![0; histogram::BUCKETS];
            for (bucket, total) in buckets.iter_mut().enumerate() {
                let slot = (series * histogram::BUCKETS + bucket) as u32;
                *total = counts.get(&slot, 0)?.iter().sum();
            }
            let histogram = histogram::stored(&buckets)
                .map_err(|e| MapError::IoError(std::io::Error::other(e.to_string())))?;
            stages.push(StageStats { stage, direction, count, sum_ns, histogram });
        }
        Ok(stages)
    }

    fn under_way(&self) -> Result<u64, MapError> {
        let tracks: HashMap<_, u64, Track> = HashMap::try_from(self.map("tracks")?)?;
        // Packets come and go meanwhile: a reader that stood at one that went begins anew.
        let seen: HashSet<u64> = tracks.keys().collect::<Result<_, _>>()?;
        Ok(seen.len() as u64)
    }

    fn drops(&self) -> Result<Vec<DropCount>, MapError> {
        let map: HashMap<_, DropKey, u64> = HashMap::try_from(self.map("drops")?)?;
        let found: Vec<(DropKey, u64)> = map.iter().collect::<Result<_, _>>()?;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let reasons = Reasons::read();
        let mut drops: Vec<DropCount> = found
            .into_iter()
            .map(|(key, count)| DropCount {
                reason: reasons.name(key.reason),
                netns_role: self.place(key.place),
                count,
            })
            .collect();
        drops.sort_by(|a, b| b.count.cmp(&a.count).then(a.reason.cmp(&b.reason)));
        Ok(drops)
    }

    fn place(&self, place: u32) -> String {
        match place {
            1 => "client".to_owned(),
            2 => "server".to_owned(),
            n => {
                let index = n.checked_sub(FIRST_OTHER).map(|i| i as usize);
                let other = index.and_then(|i| self.scene.others.get(i));
                other.map_or_else(|| "elsewhere".to_owned(), |(_, what)| what.clone())
            }
        }
    }

    fn lost_events(&self) -> u64 {
        tracing::misses(&self.ebpf, &PROGRAMS).saturating_sub(self.missed_before)
    }
}

/// Fills the maps that say what is observed.
fn describe(ebpf: &mut Ebpf, scene: &Scene) -> Result<(), String> {
    let said = |e: MapError| chain(&e);
    {
        let mut places: HashMap<&mut MapData, u32, u32> =
            HashMap::try_from(ebpf.map_mut("places").ok_or("no map places")?).map_err(said)?;
        let others = scene.others.iter().map(|(netns, _)| *netns).zip(FIRST_OTHER..);
        // Client and server last: a node that is one of them is that.
        for (netns, place) in others.chain([(scene.client, 1), (scene.server, 2)]) {
            places.insert(netns, place, 0).map_err(said)?;
        }
    }
    {
        let mut roles: HashMap<&mut MapData, DeviceKey, u32> =
            HashMap::try_from(ebpf.map_mut("roles").ok_or("no map roles")?).map_err(said)?;
        for device in &scene.devices {
            let key = DeviceKey { netns: device.netns, ifindex: device.ifindex };
            roles.insert(key, device.role as u32, 0).map_err(said)?;
        }
    }
    let mut edges: Array<&mut MapData, u8> =
        Array::try_from(ebpf.map_mut("edges").ok_or("no map edges")?).map_err(said)?;
    for (from, to, stage) in layout::steps() {
        let number = TIMED.iter().position(|s| *s == stage).ok_or("a stage that is not timed")?;
        let slot = from.number() * POINTS + to.number();
        edges.set(slot, number as u8 + 1, 0).map_err(said)?;
    }
    Ok(())
}

/// System calls that send through a socket. Not write(2): a thread that writes to a file is in no send
/// call, and a packet that an interrupt sends meanwhile is not its own.
fn send_calls() -> [u64; 3] {
    [libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_sendmmsg].map(|n| n as u64)
}

fn absent(name: &str) -> MapError {
    MapError::InvalidName { name: name.to_owned() }
}

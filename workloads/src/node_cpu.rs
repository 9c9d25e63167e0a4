//! CPU time of the whole node and of this process over a window, from /proc.
//!
//! What the numbers are: /proc/stat counts in USER_HZ ticks (10 ms), so each kind of a short window
//! is exact to about 10 ms and no better. Kernels without CONFIG_IRQ_TIME_ACCOUNTING charge a whole
//! tick to whatever the timer interrupt found running, which is right on average only.
//!
//! Kernel threads: their time is part of `system` in /proc/stat and is taken out of it, so that the
//! parts add up to the busy time. ksoftirqd is left out: what it runs is softirq, which /proc/stat
//! counts as such (kernel/sched/cputime.c, account_system_time and irqtime_account_process_tick)
//! although the thread's own stime has it too. Softirqs that ran on the back of another kernel
//! thread can be counted in both; the part taken out of `system` is limited to what is there.
//! Inside a PID namespace kernel threads cannot be seen, and their time stays in `system`.

use crate::{clock, sys};
use cnibench_model::{CpuTime, NodeCpu};
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, Error, ErrorKind},
};

/// PF_KTHREAD of include/linux/sched.h, as /proc/PID/stat shows it in its ninth field.
const PF_KTHREAD: u64 = 0x0020_0000;

/// One `cpu` line of /proc/stat in ticks (proc_stat(5)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ticks {
    user: u64,
    nice: u64,
    system: u64,
    idle: u64,
    iowait: u64,
    irq: u64,
    softirq: u64,
    steal: u64,
}

impl Ticks {
    fn parse<'a>(fields: impl Iterator<Item = &'a str>) -> Option<Self> {
        let v: Vec<u64> = fields.map_while(|f| f.parse().ok()).collect();
        // guest and guest_nice follow, but they are already part of user and nice.
        let &[user, nice, system, idle, iowait, irq, softirq, steal, ..] = v.as_slice() else {
            return None;
        };
        Some(Self { user, nice, system, idle, iowait, irq, softirq, steal })
    }

    /// What passed since `before`. iowait and idle may go back a little on some kernels.
    fn since(self, before: Self) -> Self {
        let d = u64::saturating_sub;
        Self {
            user: d(self.user, before.user),
            nice: d(self.nice, before.nice),
            system: d(self.system, before.system),
            idle: d(self.idle, before.idle),
            iowait: d(self.iowait, before.iowait),
            irq: d(self.irq, before.irq),
            softirq: d(self.softirq, before.softirq),
            steal: d(self.steal, before.steal),
        }
    }

    fn busy(self) -> u64 {
        self.user + self.nice + self.system + self.irq + self.softirq
    }
}

/// The `cpu` lines of /proc/stat: the sum and each CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Stat {
    all: Ticks,
    cpus: BTreeMap<u32, Ticks>,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        let mut lines =
            text.lines().take_while(|l| l.starts_with("cpu")).map(str::split_ascii_whitespace);
        let mut first = lines.next()?;
        if first.next() != Some("cpu") {
            return None;
        }
        let all = Ticks::parse(first)?;
        let mut cpus = BTreeMap::new();
        for mut line in lines {
            let cpu = line.next()?.strip_prefix("cpu")?.parse().ok()?;
            cpus.insert(cpu, Ticks::parse(line)?);
        }
        Some(Self { all, cpus })
    }

    fn read() -> io::Result<Self> {
        Self::parse(&fs::read_to_string("/proc/stat")?)
            .ok_or_else(|| Error::new(ErrorKind::InvalidData, "/proc/stat has no cpu lines"))
    }
}

/// Time in ticks of a kernel thread other than ksoftirqd, from its /proc/PID/stat; none for others.
fn kthread_ticks(stat: &str) -> Option<u64> {
    // The name stands in brackets and may hold anything, brackets and blanks too.
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    // Counted from the state (field 3): flags are field 9, utime 14, stime 15.
    let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<u64>().ok());
    if field(9)? & PF_KTHREAD == 0 || name.starts_with("ksoftirqd/") {
        return None;
    }
    Some(field(14)? + field(15)?)
}

fn kthread(pid: u32) -> Option<u64> {
    kthread_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Ticks of all kernel threads, by process id.
fn kthreads() -> HashMap<u32, u64> {
    let Ok(entries) = fs::read_dir("/proc") else { return HashMap::new() };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, kthread(pid)?)))
        .collect()
}

/// A machine's boot id: the same for every container and namespace on it, another after a reboot.
///
/// # Errors
/// When it cannot be read.
pub fn machine() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Measures a window in three steps: [`CpuWindow::prepare`] early, [`CpuWindow::open`] and
/// [`CpuWindow::close`] at its ends.
#[derive(Debug)]
pub struct CpuWindow {
    machine: String,
    kthreads: HashMap<u32, u64>,
    /// How long reading the kernel threads takes.
    effort: u64,
    opened: u64,
    stat: Stat,
    process: (f64, f64),
}

/// Measures one window of `for_s` seconds that begins in `after_s`: when it opened by the wall clock, and
/// the node's time in it.
///
/// # Errors
/// When /proc cannot be read.
pub fn measure(after_s: f64, for_s: f64) -> io::Result<(Timestamp, NodeCpu)> {
    let open = clock::now() + clock::nanos(after_s);
    let mut window = CpuWindow::prepare()?;
    clock::sleep_until(open.saturating_sub(window.lead()));
    window.open(open)?;
    let opened = window.opened;
    clock::sleep_until(opened + clock::nanos(for_s));
    let (_, node) = window.close()?;
    // Both clocks are read next to each other: the wall clock may be set in between.
    let at = clock::wall(opened)
        .ok_or_else(|| Error::new(ErrorKind::InvalidData, "the wall clock cannot be read"))?;
    Ok((at, node))
}

fn process() -> io::Result<(f64, f64)> {
    let (user, system) = sys::process_times()?;
    Ok((user.as_secs_f64(), system.as_secs_f64()))
}

impl CpuWindow {
    /// Finds the kernel threads and how long reading them takes.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn prepare() -> io::Result<Self> {
        let mut kthreads = kthreads();
        let began = clock::now();
        kthreads.retain(|&pid, _| kthread(pid).is_some());
        let effort = clock::now() - began;
        Ok(Self {
            machine: machine()?,
            kthreads,
            effort,
            opened: 0,
            stat: Stat::default(),
            process: (0.0, 0.0),
        })
    }

    /// False inside a PID namespace, where kernel threads cannot be told from other system time.
    pub fn sees_kthreads(&self) -> bool {
        !self.kthreads.is_empty()
    }

    /// How much earlier than the window [`CpuWindow::open`] should be called, in nanoseconds.
    pub fn lead(&self) -> u64 {
        self.effort + self.effort / 2 + 100_000
    }

    /// Takes the first readings; the cheap ones exactly `at` the window's beginning, in nanoseconds of
    /// [`clock::now`].
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn open(&mut self, at: u64) -> io::Result<()> {
        for (&pid, ticks) in &mut self.kthreads {
            if let Some(now) = kthread(pid) {
                *ticks = now;
            }
        }
        while clock::now() < at {
            clock::sleep_until(at);
        }
        self.opened = clock::now();
        self.stat = Stat::read()?;
        self.process = process()?;
        Ok(())
    }

    /// Takes the second readings: the process' and the node's time since [`CpuWindow::open`].
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn close(self) -> io::Result<(CpuTime, NodeCpu)> {
        let closed = clock::now();
        let stat = Stat::read()?;
        let (user, system) = process()?;
        // Threads that are new since the beginning count whole.
        let spent: u64 = kthreads()
            .into_iter()
            .map(|(pid, ticks)| ticks.saturating_sub(self.kthreads.get(&pid).copied().unwrap_or(0)))
            .sum();
        let process = CpuTime {
            user_s: user - self.process.0,
            system_s: system - self.process.1,
            ..CpuTime::default()
        };
        let busy = stat
            .cpus
            .iter()
            .filter_map(|(&cpu, &now)| {
                let passed = now.since(*self.stat.cpus.get(&cpu)?);
                // Of the time that the hypervisor gave: a CPU that never idles is full even when
                // it was stolen from.
                let given = passed.busy() + passed.idle + passed.iowait;
                Some((cpu, if given == 0 { 0.0 } else { passed.busy() as f64 / given as f64 }))
            })
            .collect();
        let node = NodeCpu {
            machine: self.machine,
            window_s: clock::seconds(closed - self.opened),
            time: cpu_time(stat.all.since(self.stat.all), spent),
            busy,
        };
        Ok((process, node))
    }
}

/// Ticks of a window as seconds by kind; their sum is the busy time of /proc/stat.
fn cpu_time(passed: Ticks, kthread: u64) -> CpuTime {
    let hz = rustix::param::clock_ticks_per_second() as f64;
    let kthread = kthread.min(passed.system);
    CpuTime {
        user_s: (passed.user + passed.nice) as f64 / hz,
        system_s: (passed.system - kthread) as f64 / hz,
        softirq_s: passed.softirq as f64 / hz,
        irq_s: passed.irq as f64 / hz,
        kthread_s: kthread as f64 / hz,
        steal_s: passed.steal as f64 / hz,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  100 5 30 1000 7 1 40 3 50 0\ncpu0 60 5 10 500 7 1 30 3 50 0\n\
        cpu1 40 0 20 500 0 0 10 0 0 0\nintr 12345 0 0\nctxt 5\n";

    #[test]
    fn stat_is_read_line_by_line() {
        let s = Stat::parse(STAT).unwrap();
        assert_eq!(s.cpus.len(), 2);
        assert_eq!((s.all.user, s.all.nice, s.all.steal), (100, 5, 3));
        assert_eq!(s.all.busy(), 176);
        for broken in ["", "cpu", "cpu 1 2 3\n", "cpu0 1 2 3 4 5 6 7 8\n", "intr 5\n"] {
            assert!(Stat::parse(broken).is_none(), "{broken:?}");
        }
    }

    #[test]
    fn the_parts_add_up_to_the_busy_time() {
        let passed = Stat::parse(STAT).unwrap().all;
        let hz = rustix::param::clock_ticks_per_second() as f64;
        for kthread in [0, 12, 30, 5_000] {
            let t = cpu_time(passed, kthread);
            assert!((t.busy_s() - passed.busy() as f64 / hz).abs() < 1e-9);
            assert!(t.system_s >= 0.0);
        }
    }

    #[test]
    fn only_kernel_threads_but_ksoftirqd_count() {
        let line = |name: &str, flags: u64| {
            format!("17 ({name}) S 2 0 0 0 -1 {flags} 0 0 0 0 11 22 0 0 20 0 1 0 5 0 0")
        };
        assert_eq!(kthread_ticks(&line("kworker/0:1-events", 0x0420_8060)), Some(33));
        assert_eq!(kthread_ticks(&line("a ) b (", PF_KTHREAD)), Some(33));
        assert_eq!(kthread_ticks(&line("ksoftirqd/0", PF_KTHREAD)), None);
        assert_eq!(kthread_ticks(&line("bash", 0x0040_0000)), None);
        for broken in ["", "17 (x", "17 (x) S 2", "17 (x) S 2 0 0 0 -1 2097152 0"] {
            assert_eq!(kthread_ticks(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn a_window_begins_and_ends_when_it_was_asked_to() {
        let asked = Timestamp::now();
        let (opened, node) = measure(0.1, 0.2).unwrap();
        let after = opened.duration_since(asked).as_secs_f64();
        // A full machine may let it wait.
        assert!((0.09..2.0).contains(&after), "{after}");
        assert!(node.window_s >= 0.2 && node.window_s < 2.0, "{node:?}");
    }

    #[test]
    fn a_window_sees_the_time_this_process_burns() {
        let mut w = CpuWindow::prepare().unwrap();
        assert!(w.lead() > 0);
        w.open(clock::now() + 1_000_000).unwrap();
        let until = clock::now() + clock::SECOND / 5;
        while clock::now() < until {
            std::hint::spin_loop();
        }
        let (process, node) = w.close().unwrap();
        // Another test may hold the CPU for part of it.
        assert!(process.busy_s() > 0.02, "{process:?}");
        assert!(node.time.busy_s() > 0.02 && node.window_s >= 0.2, "{node:?}");
        assert!(!node.busy.is_empty() && node.busy.values().all(|b| (0.0..=1.0).contains(b)));
        assert_eq!(node.machine.len(), 36);
    }
}

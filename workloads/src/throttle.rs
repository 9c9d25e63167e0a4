//! Whether a CPU limit (a pod's, a container's) kept this process from running: the CFS bandwidth
//! counters of its control group and of those above it that can be seen.
//!
//! Knows both hierarchies of control groups (Documentation/admin-guide/cgroup-v1/cgroups.rst and
//! cgroup-v2.rst). A place without limits or without control groups is never throttled. Called by
//! the supervisor of a trial around the measured window.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Warning of an end that its limit held up. Without figures, so that equal ones can be counted.
pub(crate) const THROTTLED: &str = "the pod's CPU limit throttled it in the window: values show the limit, not the path; \
     raise or remove the limit";

/// The counters of the control groups that this process is in.
#[derive(Debug)]
pub(crate) struct Throttle {
    files: Vec<PathBuf>,
    before: Vec<Option<Stalls>>,
}

/// What cpu.stat says of the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stalls {
    /// Periods (100 ms as a rule) in which the group used up its quota.
    periods: u64,
    /// Time that its threads were kept from running; µs in v2, ns in v1: only compared to itself.
    time: u64,
}

impl Throttle {
    /// Finds the counters.
    pub(crate) fn prepare() -> Self {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        let files = stat_files(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        Self { files, before: Vec::new() }
    }

    /// Reads them at the window's beginning.
    pub(crate) fn open(&mut self) {
        self.before = self.files.iter().map(|f| stalls(f)).collect();
    }

    /// Reads them again at its end: true when a limit was hit in between.
    pub(crate) fn close(&self) -> bool {
        self.files.iter().zip(&self.before).any(|(file, before)| match (before, stalls(file)) {
            (Some(before), Some(after)) => {
                after.periods > before.periods || after.time > before.time
            }
            _ => false,
        })
    }
}

fn stalls(file: &Path) -> Option<Stalls> {
    parse(&fs::read_to_string(file).ok()?)
}

/// None where the group has no such counters (the root group of v2, a kernel without
/// CONFIG_CFS_BANDWIDTH).
fn parse(stat: &str) -> Option<Stalls> {
    let of = |keys: &[&str]| {
        stat.lines().find_map(|line| {
            let (key, value) = line.split_once(' ')?;
            keys.contains(&key).then(|| value.trim().parse().ok())?
        })
    };
    Some(Stalls {
        periods: of(&["nr_throttled"])?,
        time: of(&["throttled_usec", "throttled_time"])?,
    })
}

/// The cpu.stat files of this process' group and of those above it, as far up as a mount shows them.
/// `cgroup` is /proc/self/cgroup (cgroups(7)), `mountinfo` /proc/self/mountinfo (proc(5)).
fn stat_files(cgroup: &str, mountinfo: &str) -> Vec<PathBuf> {
    // hierarchy:controllers:path. Where v1 has the cpu controller, v2 has none.
    let v1 = cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let has_cpu = fields.next()?.split(',').any(|c| c == "cpu");
        fields.next().filter(|_| has_cpu)
    });
    let group = v1.or_else(|| cgroup.lines().find_map(|line| line.strip_prefix("0::")));
    let Some(group) = group else { return Vec::new() };
    mountinfo
        .lines()
        .filter_map(|line| Mount::parse(line, v1.is_some()))
        .find_map(|mount| mount.groups(Path::new(group)))
        .unwrap_or_default()
}

/// A mount of the hierarchy that has the cpu controller.
struct Mount {
    /// The group that it shows at its top.
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// None for a line of another file system or of another hierarchy of v1.
    fn parse(line: &str, v1: bool) -> Option<Self> {
        // id parent major:minor root point options [optional ...] - type source super-options
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (kind, _, options) = (right.next()?, right.next()?, right.next()?);
        let fits = match v1 {
            true => kind == "cgroup" && options.split(',').any(|o| o == "cpu"),
            false => kind == "cgroup2",
        };
        fits.then(|| Self { root: unescape(root).into(), point: unescape(point).into() })
    }

    /// Files from the group itself up to the mount's top; none when the group is not under it.
    fn groups(&self, group: &Path) -> Option<Vec<PathBuf>> {
        let below = group.strip_prefix(&self.root).ok()?;
        // A group beside the namespace's root shows as /../x: its files are not here.
        if below.components().any(|c| c == std::path::Component::ParentDir) {
            return None;
        }
        Some(below.ancestors().map(|dir| self.point.join(dir).join("cpu.stat")).collect())
    }
}

/// Blanks, tabs, line ends and backslashes stand as octal numbers in mountinfo (mangle_path in
/// fs/seq_file.c).
fn unescape(field: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.iter().fold(field.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "24 30 0:22 / /proc rw - proc proc rw\n\
        35 30 0:30 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate\n";
    const V1: &str = "41 39 0:35 /docker/0af/kubepods/pod1/c2 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
        42 39 0:36 /docker/0af/kubepods/pod1/c2 /sys/fs/cgroup/cpu,cpuacct ro,relatime master:18 - cgroup cgroup rw,cpu,cpuacct\n\
        43 39 0:37 / /sys/fs/cgroup/cpuset ro - cgroup cgroup rw,cpuset\n\
        44 39 0:38 / /sys/fs/cgroup/unified ro - cgroup2 cgroup2 rw\n";

    fn files(cgroup: &str, mountinfo: &str) -> Vec<String> {
        let files = stat_files(cgroup, mountinfo);
        files.iter().map(|f| f.display().to_string()).collect()
    }

    #[test]
    fn a_container_finds_its_group_in_both_hierarchies() {
        assert_eq!(files("0::/\n", V2), ["/sys/fs/cgroup/cpu.stat"]);
        let v1 = "5:memory:/docker/0af/kubepods/pod1/c2\n\
            4:cpuset:/docker/0af/kubepods/pod1/c2\n\
            3:cpu,cpuacct:/docker/0af/kubepods/pod1/c2\n0::/\n";
        assert_eq!(files(v1, V1), ["/sys/fs/cgroup/cpu,cpuacct/cpu.stat"]);
    }

    #[test]
    fn groups_above_may_be_limited_too() {
        assert_eq!(
            files("0::/system.slice/a.service\n", V2),
            [
                "/sys/fs/cgroup/system.slice/a.service/cpu.stat",
                "/sys/fs/cgroup/system.slice/cpu.stat",
                "/sys/fs/cgroup/cpu.stat"
            ]
        );
    }

    #[test]
    fn what_cannot_be_seen_has_no_files() {
        for (cgroup, mounts) in [
            ("", V2),
            ("0::/\n", ""),
            ("0::/../other\n", V2),
            ("3:cpu,cpuacct:/docker/elsewhere\n", V1),
            ("nonsense\n", "nonsense\n"),
        ] {
            assert_eq!(files(cgroup, mounts), Vec::<String>::new(), "{cgroup:?}");
        }
    }

    #[test]
    fn counters_of_both_versions_are_read_and_others_are_none() {
        let v2 = "usage_usec 91\nuser_usec 1\nsystem_usec 2\nnr_periods 9\nnr_throttled 4\n\
            throttled_usec 1234\nnr_bursts 0\n";
        assert_eq!(parse(v2), Some(Stalls { periods: 4, time: 1234 }));
        let v1 = "nr_periods 9\nnr_throttled 4\nthrottled_time 1234\n";
        assert_eq!(parse(v1), parse(v2));
        for other in ["usage_usec 91\nuser_usec 1\n", "", "nr_throttled x\nthrottled_time 1\n"] {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn only_a_limit_hit_in_the_window_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cpu.stat");
        let write = |throttled: u32, us: u32| {
            fs::write(&file, format!("nr_throttled {throttled}\nthrottled_usec {us}\n")).unwrap();
        };
        write(5, 700);
        let missing = dir.path().join("none");
        let mut throttle = Throttle { files: vec![missing, file.clone()], before: Vec::new() };
        throttle.open();
        assert!(!throttle.close(), "it was throttled before only");
        write(6, 700);
        assert!(throttle.close());
        write(5, 701);
        assert!(throttle.close());
        fs::remove_file(&file).unwrap();
        assert!(!throttle.close());
    }
}

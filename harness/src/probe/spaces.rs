//! The network namespaces of this machine: which there are, which one a word on the command line
//! names, and which of them are clusters of cnibench. Looks into none of them.

use crate::{
    cluster::owner::{RunId, ThingName, is_alive, locks},
    netlink::{Netns, namespace},
};
use anyhow::{Context as _, anyhow, bail};
use cnibench_model::nearest::did_you_mean;
use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

/// A namespace as a person names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// That of a process.
    Pid(u32),
    /// A name that `ip netns` knows.
    Name(String),
    /// A path to it.
    Path(PathBuf),
}

impl FromStr for End {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.parse() {
            Ok(pid) => Self::Pid(pid),
            Err(_) if text.contains('/') => Self::Path(text.into()),
            Err(_) => Self::Name(text.to_owned()),
        })
    }
}

/// A namespace of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// By which the kernel tells it from others.
    pub inode: u64,
    /// A path to it, which lasts as long as its name or its process.
    pub path: PathBuf,
    /// For people: its name, or a process in it.
    pub label: String,
    /// What it is in a cluster of namespaces of cnibench.
    pub thing: Option<ThingName>,
}

impl Space {
    /// Opens it.
    ///
    /// # Errors
    /// When it is gone, or not to be opened by this process.
    pub fn open(&self) -> anyhow::Result<Netns> {
        Netns::open_as(&self.path, self.label.clone())
    }

    /// False when it has ended, or its name means another one now.
    pub fn is_there(&self) -> bool {
        namespace::inode(&self.path) == Some(self.inode)
    }

    fn of(path: PathBuf, label: String) -> Option<Self> {
        let inode = namespace::inode(&path)?;
        let thing = path.strip_prefix(namespace::DIR).ok().and_then(Path::to_str);
        let thing = thing.and_then(ThingName::parse);
        Some(Self { inode, path, label, thing })
    }
}

/// Every namespace that has a name or a process.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Those with a name before those of processes; each once.
    pub spaces: Vec<Space>,
}

/// A cluster of namespaces that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Whose it is.
    pub run: RunId,
    /// Its number in the run.
    pub cluster: u32,
    /// Its nodes and pods; without the wire.
    things: BTreeMap<(u32, Option<u32>), Space>,
}

impl World {
    /// Reads names and processes. Blocks.
    pub fn read() -> Self {
        let mut seen = HashSet::new();
        let mut spaces = Vec::new();
        let mut names = names();
        names.sort();
        let named = names.into_iter().map(|name| (Path::new(namespace::DIR).join(&name), name));
        let of_processes = numbers().into_iter().map(|pid| (of_process(pid), process(pid)));
        for (path, label) in named.chain(of_processes) {
            spaces.extend(Space::of(path, label).filter(|space| seen.insert(space.inode)));
        }
        Self { spaces }
    }

    /// The namespace of an inode.
    pub fn get(&self, inode: u64) -> Option<&Space> {
        self.spaces.iter().find(|space| space.inode == inode)
    }

    /// What a person named.
    ///
    /// # Errors
    /// There is no such namespace; with what may have been meant.
    pub fn find(&self, end: &End) -> anyhow::Result<Space> {
        let at = |path: PathBuf, label: String| {
            let found = Space::of(path, label)?;
            Some(self.get(found.inode).cloned().unwrap_or(found))
        };
        match end {
            End::Pid(pid) => at(of_process(*pid), process(*pid)).with_context(|| {
                format!(
                    "no process {pid} whose network namespace can be looked at (a namespace with a number for a name is named by its path, {}/{pid})",
                    namespace::DIR
                )
            }),
            End::Path(path) => at(path.clone(), path.display().to_string())
                .with_context(|| format!("{} is no network namespace", path.display())),
            End::Name(name) => {
                at(Path::new(namespace::DIR).join(name), name.clone()).ok_or_else(|| {
                    let names = names();
                    if names.is_empty() {
                        return anyhow!(
                            "no network namespace {name:?}: none has a name here; name a process by its id"
                        );
                    }
                    let meant = did_you_mean(name, names.iter().map(String::as_str));
                    anyhow!("no network namespace {name:?}{meant}")
                })
            }
        }
    }

    /// Clusters of runs that are alive, in the order of their names.
    pub fn clusters(&self) -> Vec<Found> {
        let mut found = self.all_clusters();
        found.retain(|cluster| lives(cluster.run.as_str()));
        found
    }

    fn all_clusters(&self) -> Vec<Found> {
        let mut found: BTreeMap<(RunId, u32), BTreeMap<_, _>> = BTreeMap::new();
        for space in &self.spaces {
            let Some(thing) = &space.thing else { continue };
            let things = found.entry((thing.run.clone(), thing.cluster)).or_default();
            if let Some(node) = thing.node {
                things.insert((node, thing.pod), space.clone());
            }
        }
        let made = |((run, cluster), things)| Found { run, cluster, things };
        found.into_iter().map(made).filter(|f| !f.things.is_empty()).collect()
    }
}

impl Found {
    /// Between which two ends of it its traffic usually is.
    ///
    /// # Errors
    /// It has no two ends.
    pub fn ends(&self) -> anyhow::Result<(Space, Space)> {
        let pairs = [
            // Pods on two nodes, nodes of a cni without pods of its own, pods on one node.
            ((0, Some(0)), (1, Some(0))),
            ((0, None), (1, None)),
            ((0, Some(0)), (0, Some(1))),
        ];
        let there = |(client, server)| {
            Some((self.things.get(&client)?.clone(), self.things.get(&server)?.clone()))
        };
        pairs.into_iter().find_map(there).with_context(|| {
            format!("{self} has no two ends: name them with --client and --server")
        })
    }

    /// Its first node.
    pub fn first_node(&self) -> Option<&Space> {
        self.things.iter().find(|((_, pod), _)| pod.is_none()).map(|(_, space)| space)
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes = self.things.keys().filter(|(_, pod)| pod.is_none()).count();
        let pods = self.things.len() - nodes;
        let counted = crate::tell::counted;
        let (nodes, pods) = (counted(nodes, "node"), counted(pods, "pod"));
        write!(f, "--run {} --cluster {} ({nodes}, {pods})", self.run, self.cluster)
    }
}

/// The one cluster that is meant.
///
/// # Errors
/// None, or several, are there; with `describe`d ones to choose from.
pub fn choose(
    clusters: Vec<Found>,
    run: Option<&str>,
    cluster: Option<u32>,
    describe: impl Fn(&Found) -> String,
) -> anyhow::Result<Found> {
    if clusters.is_empty() {
        bail!(
            "no cluster of namespaces is running: start one (cnibench run), or name two namespaces or processes with --client and --server"
        );
    }
    let listed = |of: &[Found]| {
        of.iter().map(|f| format!("\n  {}", describe(f))).collect::<Vec<_>>().concat()
    };
    let meant = |f: &Found| {
        run.is_none_or(|run| f.run.as_str() == run) && cluster.is_none_or(|c| f.cluster == c)
    };
    let mut fitting: Vec<Found> = clusters.iter().filter(|f| meant(f)).cloned().collect();
    match (fitting.len(), fitting.pop()) {
        (1, Some(one)) => Ok(one),
        (0, _) | (_, None) => bail!("no such cluster; running:{}", listed(&clusters)),
        (_, Some(last)) => {
            fitting.push(last);
            bail!("several clusters are running, say which:{}", listed(&fitting))
        }
    }
}

/// Is this the id of a run whose process lives?
pub fn lives(run: &str) -> bool {
    let run = RunId::of_label(run);
    run.zip(locks().ok()).is_some_and(|(run, folder)| is_alive(&folder, &run))
}

/// Does an agent of a run stand in the namespace of this inode? Blocks.
pub fn has_agent(inode: u64) -> bool {
    let stands = |pid: &u32| namespace::inode(&of_process(*pid)) == Some(inode);
    let is_agent = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"agent")
    };
    numbers().into_iter().filter(stands).any(is_agent)
}

fn names() -> Vec<String> {
    let entries = fs::read_dir(namespace::DIR).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

fn numbers() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

fn of_process(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

fn process(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("process {pid} ({})", name.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(names: &[&str]) -> World {
        let space = |(inode, name): (u64, &&str)| Space {
            inode,
            path: Path::new(namespace::DIR).join(name),
            label: (*name).to_owned(),
            thing: ThingName::parse(name),
        };
        World { spaces: (1..).zip(names).map(space).collect() }
    }

    #[test]
    fn a_number_is_a_process_and_a_slash_a_path() {
        let end = |text: &str| text.parse::<End>().unwrap();
        assert_eq!(end("17"), End::Pid(17));
        assert_eq!(end("/run/netns/17"), End::Path("/run/netns/17".into()));
        assert_eq!(end("blue"), End::Name("blue".to_owned()));
        assert_eq!(end("99999999999"), End::Name("99999999999".to_owned()));
    }

    #[test]
    fn this_process_stands_in_a_namespace() {
        let own = World::read().find(&End::Pid(std::process::id())).unwrap();
        assert_eq!(Some(own.inode), namespace::inode(Path::new("/proc/self/ns/net")));
        assert!(own.is_there());
        for (end, says) in [
            (End::Pid(u32::MAX), "no process 4294967295"),
            (End::Path("/proc/self/stat".into()), "/proc/self/stat is no network namespace"),
            (
                End::Name("no-such-namespace".to_owned()),
                "no network namespace \"no-such-namespace\"",
            ),
        ] {
            let error = World::default().find(&end).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn clusters_are_known_by_names_and_have_usual_ends() {
        let found = world(&[
            "blue",
            "cnb-aaaaaa-c1-n0",
            "cnb-aaaaaa-c1-n0p0",
            "cnb-aaaaaa-c1-n0p1",
            "cnb-aaaaaa-c1-n1",
            "cnb-aaaaaa-c1-n1p0",
            "cnb-aaaaaa-c1-ul",
            "cnb-bbbbbb-c0-n0",
            "cnb-bbbbbb-c0-n1",
            "cnb-cccccc-c0-n0",
            "cnb-cccccc-c0-n0p0",
            "cnb-cccccc-c0-n0p1",
            "cnb-dddddd-c0-ul",
        ])
        .all_clusters();
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "--run aaaaaa --cluster 1 (2 nodes, 3 pods)",
                "--run bbbbbb --cluster 0 (2 nodes, 0 pods)",
                "--run cccccc --cluster 0 (1 node, 2 pods)"
            ]
        );
        let ends = |f: &Found| {
            let (client, server) = f.ends().unwrap();
            (client.label[14..].to_owned(), server.label[14..].to_owned())
        };
        let ends: Vec<_> = found.iter().map(ends).collect();
        let expected = [("n0p0", "n1p0"), ("n0", "n1"), ("n0p0", "n0p1")];
        assert_eq!(ends, expected.map(|(client, server)| (client.to_owned(), server.to_owned())));
    }

    #[test]
    fn one_cluster_is_chosen_and_of_several_a_list_is_shown() {
        let found =
            world(&["cnb-aaaaaa-c0-n0", "cnb-aaaaaa-c1-n0", "cnb-bbbbbb-c1-n0"]).all_clusters();
        let pick = |run, cluster| choose(found.clone(), run, cluster, ToString::to_string);
        assert_eq!(pick(Some("bbbbbb"), None).unwrap(), found[2]);
        assert_eq!(pick(Some("aaaaaa"), Some(1)).unwrap(), found[1]);
        assert_eq!(pick(None, Some(0)).unwrap(), found[0]);
        let error = pick(Some("aaaaaa"), None).unwrap_err().to_string();
        assert!(error.starts_with("several clusters are running, say which:"), "{error}");
        assert!(error.contains("--run aaaaaa --cluster 1") && !error.contains("bbbbbb"), "{error}");
        let error = pick(Some("zzzzzz"), None).unwrap_err().to_string();
        assert!(error.contains("no such cluster") && error.contains("bbbbbb"), "{error}");
        let error = choose(Vec::new(), None, None, ToString::to_string).unwrap_err().to_string();
        assert!(error.contains("--client and --server"), "{error}");
    }
}

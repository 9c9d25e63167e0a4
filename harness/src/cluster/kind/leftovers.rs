//! Which clusters a run has, noted beside its lock, and removing those of runs that are dead.
//!
//! A cluster is removed only where its run's note says that it is ours to remove: another machine's
//! run or another user's may share this Docker, and its lock cannot be seen from here.

use super::{
    daemon::Daemon,
    removal::{Made, Removal},
    tools::Tools,
};
use crate::cluster::owner::{CleanReport, Missing, Owner, RunId, is_missing, locks, try_lock};
use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The provider's name in file names.
const KIND: &str = "kind";
/// Asking a daemon whether it is there, where a run waits for the answer.
const ASK: Duration = Duration::from_secs(3);
/// Asking kind what there is, and a daemon where somebody asked to clean.
const LIST: Duration = Duration::from_secs(30);

/// A cluster of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// Its kubeconfig.
    pub kubeconfig: PathBuf,
    /// True when it was made to outlive its run.
    pub keep: bool,
}

/// What is noted of a run: its clusters and how they can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    #[serde(flatten)]
    daemon: Daemon,
    kind: PathBuf,
    docker: PathBuf,
    clusters: BTreeMap<String, Noted>,
}

/// The clusters of this run, as its note has them.
#[derive(Debug)]
pub struct Registry {
    path: PathBuf,
    note: Mutex<Note>,
}

impl Registry {
    /// Of a run that has no cluster yet.
    pub fn new(owner: &Owner, tools: &Tools) -> Self {
        let Tools { docker, kind, .. } = tools.clone();
        let note = Note { daemon: Daemon::here(), kind, docker, clusters: BTreeMap::new() };
        Self { path: owner.id().note(owner.folder(), KIND), note: Mutex::new(note) }
    }

    /// The daemon that the run's clusters are on.
    pub fn daemon(&self) -> Daemon {
        self.lock().daemon.clone()
    }

    /// Notes a cluster, before it is made.
    ///
    /// # Errors
    /// When the note cannot be written: then no cluster may be made.
    pub fn add(&self, cluster: &str, noted: Noted) -> anyhow::Result<()> {
        let mut note = self.lock();
        note.clusters.insert(cluster.to_owned(), noted);
        note.write(&self.path)
    }

    /// Strikes a cluster out, after it is gone.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub fn remove(&self, cluster: &str) -> anyhow::Result<()> {
        let mut note = self.lock();
        note.clusters.remove(cluster);
        note.write(&self.path)
    }

    fn lock(&self) -> MutexGuard<'_, Note> {
        // A note is whole at every moment: a thread that died in between changes nothing.
        self.note.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Note {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is broken", path.display()))
    }

    /// Writes it, or removes the file when there is nothing left to note.
    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let what = || format!("cannot write {}", path.display());
        if self.clusters.is_empty() {
            return match fs::remove_file(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).with_context(what),
                _ => Ok(()),
            };
        }
        // Hidden, so that it is nobody's note until it is whole.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let new = path.with_file_name(format!(".{name}"));
        fs::write(&new, serde_json::to_vec(self)?).with_context(what)?;
        fs::rename(&new, path).with_context(what)
    }
}

/// What a clean-up does with clusters that were to outlive their run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Leaves them: nobody asked.
    Respect,
    /// Removes them: somebody asked to clean.
    Override,
}

/// Removes the clusters of this user's dead runs.
pub async fn clean_leftovers(keep: Keep) -> CleanReport {
    match locks() {
        Ok(folder) => clean(&folder, keep).await,
        Err(_) => CleanReport::default(),
    }
}

async fn clean(folder: &Path, keep: Keep) -> CleanReport {
    let mut report = CleanReport::default();
    let mut asked = Asked::default();
    let Ok(entries) = fs::read_dir(folder) else { return report };
    let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut runs: Vec<RunId> = names.filter_map(|n| RunId::of_note(&n, KIND)).collect();
    runs.sort();
    for run in runs {
        // Held until the run's clusters are gone, so that two cleaners do not meet.
        let held = match try_lock(folder, &run, Missing::Report) {
            Ok(None) => {
                report.kept.push(run);
                continue;
            }
            Ok(Some(held)) => Some(held),
            // A run that ended in order took its lock away and left what it was to keep.
            Err(e) if is_missing(&e) => None,
            Err(e) => {
                report.errors.push(e);
                continue;
            }
        };
        let path = run.note(folder, KIND);
        match remove_clusters(&path, keep, &mut asked, &mut report).await {
            Ok(()) if held.is_some() => match fs::remove_file(run.lock(folder)) {
                Ok(()) => report.removed.push(format!("{run}.lock")),
                Err(e) => report.errors.push(anyhow!(e).context(format!("{run}.lock"))),
            },
            Ok(()) => {}
            Err(e) => report.errors.push(e),
        }
    }
    report
}

/// What daemons said, each asked once: one that is gone is waited for until the time is up.
#[derive(Default)]
struct Asked(Vec<(Daemon, PathBuf, Result<(), String>)>);

impl Asked {
    async fn answers(&mut self, note: &Note, keep: Keep) -> Result<(), String> {
        let known = |(daemon, docker, _): &&(Daemon, PathBuf, _)| {
            *daemon == note.daemon && *docker == note.docker
        };
        if let Some((_, _, said)) = self.0.iter().find(known) {
            return said.clone();
        }
        let patience = if keep == Keep::Override { LIST } else { ASK };
        let tools = Tools { docker: note.docker.clone(), ..Tools::default() };
        let question = tools.docker(patience).args(["version", "--format", "{{.Server.Version}}"]);
        let said = note.daemon.asked_by(question).run().await;
        let said = said.map(drop).map_err(|e| format!("{:#}", anyhow!(e)));
        self.0.push((note.daemon.clone(), note.docker.clone(), said.clone()));
        said
    }
}

/// Removes what a note says of a dead run. The lock may go unless this fails.
async fn remove_clusters(
    path: &Path,
    keep: Keep,
    asked: &mut Asked,
    report: &mut CleanReport,
) -> anyhow::Result<()> {
    let mut note = Note::read(path)?;
    let mut failed = None;
    for (cluster, noted) in note.clusters.clone() {
        if noted.keep && keep == Keep::Respect {
            continue;
        }
        let (kind, docker) = (note.kind.clone(), note.docker.clone());
        let tools = Tools { kind, docker, ..Tools::default() };
        // A daemon that does not answer has not said that the cluster is gone, whatever kind makes of it.
        if let Err(e) = asked.answers(&note, keep).await {
            let what = format!(
                "cluster {cluster} is left: its daemon ({}) does not answer; it is noted in {} until it does (if it never will, removing that file forgets the cluster)",
                note.daemon.describe(),
                path.display()
            );
            if let Some(before) = failed.replace(anyhow!(e).context(what)) {
                report.errors.push(before);
            }
            continue;
        }
        let removal = Removal {
            tools,
            daemon: note.daemon.clone(),
            name: cluster.clone(),
            kubeconfig: noted.kubeconfig,
        };
        match removal.run(Made::Perhaps).await {
            Ok(()) => {
                note.clusters.remove(&cluster);
                note.write(path)?;
                report.removed.push(cluster);
            }
            // The others go all the same; the last error keeps the lock.
            Err(e) => {
                if let Some(before) = failed.replace(e) {
                    report.errors.push(before);
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Clusters with names of ours of which no note here knows: made before a reboot, by another user, or
/// by a machine that shares this Docker. They are nobody's to remove unasked.
///
/// # Errors
/// What kind said: it is not there, or Docker does not answer.
pub async fn orphans(tools: &Tools) -> anyhow::Result<Vec<String>> {
    let folder = locks();
    let noted = |cluster: &str| {
        let run = RunId::of_name(cluster);
        match (&folder, run) {
            (Ok(folder), Some(run)) => {
                Note::read(&run.note(folder, KIND)).is_ok_and(|n| n.clusters.contains_key(cluster))
            }
            _ => false,
        }
    };
    let said = tools.kind(LIST).args(["get", "clusters"]).run().await?;
    let ours = said.lines().map(str::trim).filter(|n| RunId::of_name(n).is_some());
    Ok(ours.filter(|n| !noted(n)).map(str::to_owned).collect())
}

/// Removes clusters by name.
pub async fn remove(tools: &Tools, clusters: &[String]) -> CleanReport {
    let mut report = CleanReport::default();
    // Of nobody: the user's own is never touched. kind makes a lock beside it, so that it has to be in
    // a folder that this user may write.
    let folder = match tempfile::Builder::new().prefix("cnibench-").tempdir() {
        Ok(folder) => folder,
        Err(e) => {
            report.errors.push(anyhow!(e).context("no folder for the kubeconfig of a cluster"));
            return report;
        }
    };
    for cluster in clusters {
        let removal = Removal {
            tools: tools.clone(),
            daemon: Daemon::default(),
            name: cluster.clone(),
            kubeconfig: folder.path().join("kubeconfig"),
        };
        match removal.run(Made::Perhaps).await {
            Ok(()) => report.removed.push(cluster.clone()),
            Err(e) => report.errors.push(e),
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::kind::fake::Fakes;

    fn noted(keep: bool) -> Noted {
        Noted { kubeconfig: "/nowhere/kubeconfig".into(), keep }
    }

    /// A folder of locks in which a run died with two clusters, one of them to be kept.
    fn dead_run(fakes: &Fakes) -> RunId {
        let owner = Owner::acquire_in(fakes.folder()).unwrap();
        let registry = Registry::new(&owner, &fakes.tools());
        let id = owner.id().clone();
        registry.add(&format!("cnb-{id}-c0"), noted(false)).unwrap();
        registry.add(&format!("cnb-{id}-keep1"), noted(true)).unwrap();
        drop(owner);
        // Killed: the lock's file is there and nobody has it.
        fs::write(id.lock(fakes.folder()), "").unwrap();
        id
    }

    #[tokio::test]
    async fn a_living_run_is_left_alone() {
        let fakes = Fakes::new();
        fakes.program("kind", "");
        let owner = Owner::acquire_in(fakes.folder()).unwrap();
        let registry = Registry::new(&owner, &fakes.tools());
        registry.add("cnb-abcdef-c0", noted(false)).unwrap();
        let report = clean(fakes.folder(), Keep::Override).await;
        assert_eq!(report.kept, [owner.id().clone()]);
        assert!(report.removed.is_empty() && fakes.calls("kind").is_empty());
        registry.remove("cnb-abcdef-c0").unwrap();
        assert!(!owner.id().has_notes(fakes.folder()), "a run without clusters has no note");
    }

    #[tokio::test]
    async fn clusters_of_dead_runs_go_and_kept_ones_only_when_asked() {
        let fakes = Fakes::new();
        fakes.program("kind", "");
        fakes.program("docker", "");
        let id = dead_run(&fakes);
        let report = clean(fakes.folder(), Keep::Respect).await;
        assert!(report.errors.is_empty(), "{report:?}");
        assert_eq!(report.removed, [format!("cnb-{id}-c0"), format!("{id}.lock")]);
        let report = clean(fakes.folder(), Keep::Respect).await;
        assert!(report.removed.is_empty(), "{report:?}");
        let report = clean(fakes.folder(), Keep::Override).await;
        assert_eq!(report.removed, [format!("cnb-{id}-keep1")]);
        assert!(!id.has_notes(fakes.folder()));
        let call = |name: &str| {
            format!("delete cluster --name cnb-{id}-{name} --kubeconfig /nowhere/kubeconfig")
        };
        assert_eq!(fakes.calls("kind"), [call("c0"), call("keep1")]);
    }

    #[tokio::test]
    async fn what_cannot_be_removed_is_still_known_the_next_time() {
        let fakes = Fakes::new();
        fakes.program("docker", "");
        fakes.program("kind", "echo the daemon is gone >&2; exit 1");
        let id = dead_run(&fakes);
        let report = clean(fakes.folder(), Keep::Override).await;
        let text = format!("{:#}", report.errors[0]);
        assert!(text.contains(&format!("cluster cnb-{id}-c0 is left")), "{text}");
        assert!(text.contains("the daemon is gone"), "{text}");
        fakes.program("kind", "");
        let report = clean(fakes.folder(), Keep::Override).await;
        assert!(report.errors.is_empty(), "{report:?}");
        assert_eq!(report.removed.len(), 3);
    }

    #[tokio::test]
    async fn a_cluster_is_asked_of_its_own_daemon_and_known_until_that_one_answers() {
        let fakes = Fakes::new();
        let id = dead_run(&fakes);
        let path = id.note(fakes.folder(), KIND);
        let mut note = Note::read(&path).unwrap();
        let elsewhere = r#"{"docker_host": null, "context": "lab", "config": "/c"}"#;
        note.daemon = serde_json::from_str(elsewhere).unwrap();
        note.write(&path).unwrap();
        // A kind that finds no cluster there deletes nothing and is content.
        fakes.program("kind", "echo $DOCKER_CONTEXT >>\"$FAKES/asked\"");
        fakes.program("docker", "echo cannot connect >&2; exit 1");
        let before = fakes.calls("docker").len();
        let report = clean(fakes.folder(), Keep::Override).await;
        assert_eq!((report.errors.len(), report.removed.len()), (2, 0), "{report:?}");
        assert_eq!(fakes.calls("docker").len() - before, 1, "asked once for both clusters");
        let text = format!("{:#}", report.errors[0]);
        assert!(text.contains("(docker context lab) does not answer"), "{text}");
        assert!(text.contains(&path.display().to_string()), "{text}");
        assert_eq!(Note::read(&path).unwrap(), note);
        assert!(fakes.calls("kind").is_empty());
        // Answers only where it is.
        fakes.program("docker", "[ \"$DOCKER_CONTEXT$DOCKER_CONFIG\" = lab/c ]");
        let report = clean(fakes.folder(), Keep::Override).await;
        assert!(report.errors.is_empty() && !path.exists(), "{report:?}");
        assert_eq!(fs::read_to_string(fakes.path("asked")).unwrap(), "lab\nlab\n");
    }

    #[tokio::test]
    async fn clusters_that_nobody_here_knows_are_only_named() {
        let fakes = Fakes::new();
        fakes.program("kind", "echo kind; echo cnb-abcdef-c0; echo cnb-x-c0");
        assert_eq!(orphans(&fakes.tools()).await.unwrap(), ["cnb-abcdef-c0"]);
        // As kind does: a lock beside the kubeconfig, which no user may make in /dev.
        fakes.program("kind", "case $6 in /dev/*|'') exit 1;; esac; touch \"$6.lock\"");
        fakes.program("docker", "");
        let report = remove(&fakes.tools(), &["cnb-abcdef-c0".to_owned()]).await;
        assert_eq!(report.removed, ["cnb-abcdef-c0"]);
        let call = &fakes.calls("kind")[1];
        let begin = "delete cluster --name cnb-abcdef-c0 --kubeconfig ";
        let kubeconfig = call.strip_prefix(begin).unwrap();
        assert!(!Path::new(kubeconfig).parent().unwrap().exists(), "{kubeconfig}");
        fakes.program("kind", "echo no daemon >&2; exit 1");
        let text = format!("{:#}", orphans(&fakes.tools()).await.unwrap_err());
        assert!(text.contains("no daemon"), "{text}");
    }
}

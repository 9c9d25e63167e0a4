//! One cluster of kind from its making to its end, with images and CNI plugins brought into its nodes.
//!
//! Owns the cluster's name, its kubeconfig (never the user's) and that it goes away however the run
//! ends. What is installed in it is `install`'s.

use super::{
    command::{CommandError, Invocation},
    config::Config,
    leftovers::{Noted, Registry},
    removal::{Made, Removal},
    tools::Tools,
};
use crate::cluster::owner::Owner;
use anyhow::{Context as _, anyhow};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Pulling a node image of 1 GB over a slow line, then kubeadm.
const CREATE: Duration = Duration::from_secs(900);
/// Loading an archive of images into the nodes.
const LOAD: Duration = Duration::from_secs(600);
/// What to do about a cluster that could not be removed.
const CLEAN: &str = "`cnibench clean` can try again";
/// A question to docker or kind.
const ASK: Duration = Duration::from_secs(30);

/// What all clusters of a run share.
#[derive(Debug, Clone)]
pub struct Maker {
    /// The programs.
    pub tools: Tools,
    /// Where clusters are noted.
    pub registry: Arc<Registry>,
    /// The run, alive for as long as one of its clusters is.
    pub owner: Arc<Owner>,
    /// The folder of their kubeconfigs.
    pub folder: PathBuf,
    /// The image of the nodes; None: the one that kind was made for.
    pub node_image: Option<String>,
    /// True when clusters outlive the run.
    pub keep: bool,
}

/// A cluster that was made. Dropped without [`KindCluster::delete`], it is deleted all the same, unless
/// it was whole and to be kept.
#[derive(Debug)]
pub struct KindCluster {
    /// Its name for kind.
    pub name: String,
    /// The file that leads to it.
    pub kubeconfig: PathBuf,
    maker: Maker,
    made: Made,
    whole: bool,
    gone: bool,
}

impl Maker {
    /// The name of cluster `index` of the run.
    pub fn name(&self, index: u32) -> String {
        format!("{}{}{index}", self.owner.id().prefix(), if self.keep { "keep" } else { "c" })
    }

    /// Makes a cluster.
    ///
    /// # Errors
    /// What kind said. Nothing of it is left.
    pub async fn create(&self, index: u32, config: &Config) -> anyhow::Result<KindCluster> {
        let name = self.name(index);
        let kubeconfig = self.folder.join(format!("{name}.kubeconfig"));
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make {}", self.folder.display()))?;
        let noted = Noted { kubeconfig: kubeconfig.clone(), keep: self.keep };
        self.registry.add(&name, noted)?;
        // From here on it goes away with this value, also when nobody waits for it any more.
        let mut cluster = KindCluster {
            name,
            kubeconfig,
            maker: self.clone(),
            made: Made::Perhaps,
            whole: false,
            gone: false,
        };
        let mut command = cluster.kind(CREATE, &["create", "cluster"]).args(["--config", "-"]);
        command = command.args(["--wait", "0s"]).stdin(config.yaml.clone());
        if let Some(image) = &self.node_image {
            command = command.args(["--image", image]);
        }
        if let Err(e) = command.run().await {
            let mut error = refused(&e, self.node_image.as_deref());
            if let Err(more) = cluster.delete().await {
                error = error.context(format!("and it could not be removed: {more:#}"));
            }
            return Err(error);
        }
        cluster.made = Made::Wholly;
        Ok(cluster)
    }
}

/// What kind's refusal means, with the next step where there is one.
fn refused(error: &CommandError, image: Option<&str>) -> anyhow::Error {
    let image = image.unwrap_or("kind's node image");
    let next = if error.says("failed to pull image") {
        format!(
            "{image} is not here and cannot be pulled: name another (--node-image) or its archive (node_image_archive in --sources)"
        )
    } else if error.says("too many open files") {
        "raise fs.inotify.max_user_instances (`cnibench doctor`)".to_owned()
    } else if error.says("could not find a log line that matches") {
        "the nodes do not start: `cnibench doctor` looks at this machine, `kind export logs` at them".to_owned()
    } else {
        "no cluster was made".to_owned()
    };
    anyhow!("{error}").context(next)
}

impl KindCluster {
    /// A command of kind for this cluster, which leaves the user's kubeconfig alone.
    fn kind(&self, limit: Duration, words: &[&str]) -> Invocation {
        let command = self.maker.tools.kind(limit).args(words).args(["--name", &self.name]);
        command.arg("--kubeconfig").arg(&self.kubeconfig)
    }

    /// From here on it is worth keeping, if it was to be kept.
    pub fn is_whole(&mut self) {
        self.whole = true;
    }

    /// True when it outlives its run.
    pub fn stays(&self) -> bool {
        self.maker.keep && self.whole
    }

    /// The nodes' containers.
    ///
    /// # Errors
    /// What kind said.
    pub async fn nodes(&self) -> anyhow::Result<Vec<String>> {
        let command = self.maker.tools.kind(ASK).args(["get", "nodes", "--name", &self.name]);
        let said = command.run().await?;
        Ok(said.lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect())
    }

    /// Loads an archive of images into every node.
    ///
    /// # Errors
    /// What kind said.
    pub async fn load(&self, archive: &Path) -> anyhow::Result<()> {
        let command = self.maker.tools.kind(LOAD).args(["load", "image-archive"]).arg(archive);
        let loaded = command.args(["--name", &self.name]).run().await;
        loaded.map(drop).with_context(|| {
            format!(
                "the images of {} were not loaded into cluster {}",
                archive.display(),
                self.name
            )
        })
    }

    /// Runs a command in a node and gives what it printed.
    ///
    /// # Errors
    /// What docker or the command said.
    pub async fn in_node(&self, node: &str, command: &[&str]) -> Result<String, CommandError> {
        self.maker.tools.docker(ASK).args(["exec", node]).args(command).run().await
    }

    /// Copies a file into a node, with its mode.
    ///
    /// # Errors
    /// What docker said.
    pub async fn copy(&self, file: &Path, node: &str, to: &str) -> Result<(), CommandError> {
        let command = self.maker.tools.docker(ASK).args(["cp", "--follow-link"]).arg(file);
        command.arg(format!("{node}:{to}")).run().await.map(drop)
    }

    /// Ends it as its run does: kept when it was to be kept, else deleted.
    ///
    /// # Errors
    /// What kind said; then `cnibench clean` can try again.
    pub async fn end(&mut self) -> anyhow::Result<()> {
        if self.stays() {
            return Ok(());
        }
        self.delete().await
    }

    /// Deletes it. Idempotent.
    ///
    /// # Errors
    /// What kind said; then `cnibench clean` can try again.
    pub async fn delete(&mut self) -> anyhow::Result<()> {
        if self.gone {
            return Ok(());
        }
        self.removal().run(self.made).await.context(CLEAN)?;
        self.struck_out()
    }

    fn removal(&self) -> Removal {
        Removal {
            tools: self.maker.tools.clone(),
            daemon: self.maker.registry.daemon(),
            name: self.name.clone(),
            kubeconfig: self.kubeconfig.clone(),
        }
    }

    fn struck_out(&mut self) -> anyhow::Result<()> {
        self.gone = true;
        self.maker.registry.remove(&self.name)
    }
}

impl Drop for KindCluster {
    fn drop(&mut self) {
        if self.gone || self.stays() {
            return;
        }
        let done = self.removal().run_blocking(self.made);
        if let Err(e) = done.and_then(|()| self.struck_out()) {
            crate::tell::tell(&format!("{CLEAN}: {e:#}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::kind::fake::Fakes,
        cni::kubernetes::{Facts, KeySeed},
    };

    fn config() -> Config {
        let facts = Facts {
            pod_cidr: String::new(),
            service_cidr: String::new(),
            control_plane: String::new(),
            seed: KeySeed::random(),
        };
        Config { yaml: "kind: Cluster\n".to_owned(), facts }
    }

    fn maker(fakes: &Fakes, owner: &Arc<Owner>) -> Maker {
        Maker {
            tools: fakes.tools(),
            registry: Arc::new(Registry::new(owner, &fakes.tools())),
            owner: Arc::clone(owner),
            folder: fakes.folder().join("out"),
            node_image: Some("node:1".to_owned()),
            keep: false,
        }
    }

    /// A kind that keeps its clusters as files.
    const KIND: &str = "case $1 in
        create) cat >\"$FAKES/config\"; while [ $1 != --name ]; do shift; done; touch \"$FAKES/cluster-$2\";;
        delete) while [ $1 != --name ]; do shift; done; rm -f \"$FAKES/cluster-$2\";;
        get) echo $4-control-plane; echo $4-worker;;
    esac";

    fn clusters(fakes: &Fakes) -> usize {
        let names = fs::read_dir(fakes.folder()).unwrap().flatten();
        names.filter(|e| e.file_name().to_string_lossy().starts_with("cluster-")).count()
    }

    #[tokio::test]
    async fn a_cluster_is_made_used_and_deleted() {
        let fakes = Fakes::new();
        fakes.program("kind", KIND);
        fakes.program("docker", "echo said");
        let owner = Arc::new(Owner::acquire_in(fakes.folder()).unwrap());
        let maker = maker(&fakes, &owner);
        let mut cluster = maker.create(2, &config()).await.unwrap();
        let name = format!("cnb-{}-c2", owner.id());
        let kubeconfig = fakes.folder().join(format!("out/{name}.kubeconfig"));
        assert_eq!((&cluster.name, &cluster.kubeconfig), (&name, &kubeconfig));
        assert!(owner.id().has_notes(fakes.folder()));
        assert_eq!(
            cluster.nodes().await.unwrap(),
            [format!("{name}-control-plane"), format!("{name}-worker")]
        );
        cluster.load(Path::new("/x/a.tar")).await.unwrap();
        assert_eq!(cluster.in_node("n", &["ls", "/"]).await.unwrap(), "said\n");
        cluster.copy(Path::new("/bin/bridge"), "n", "/opt/cni/bin/bridge").await.unwrap();
        cluster.end().await.unwrap();
        cluster.delete().await.unwrap();
        drop(cluster);
        assert_eq!(clusters(&fakes), 0);
        assert!(!owner.id().has_notes(fakes.folder()));
        let at = kubeconfig.display();
        assert_eq!(
            fakes.calls("kind"),
            [
                format!(
                    "create cluster --name {name} --kubeconfig {at} --config - --wait 0s --image node:1"
                ),
                format!("get nodes --name {name}"),
                format!("load image-archive /x/a.tar --name {name}"),
                format!("delete cluster --name {name} --kubeconfig {at}"),
            ]
        );
        assert_eq!(
            fakes.calls("docker"),
            ["exec n ls /", "cp --follow-link /bin/bridge n:/opt/cni/bin/bridge"]
        );
        assert_eq!(fs::read_to_string(fakes.folder().join("config")).unwrap(), "kind: Cluster\n");
    }

    #[tokio::test]
    async fn a_cluster_that_cannot_be_made_leaves_nothing_and_says_why() {
        let fakes = Fakes::new();
        fakes.program("docker", "");
        let owner = Arc::new(Owner::acquire_in(fakes.folder()).unwrap());
        let maker = maker(&fakes, &owner);
        for (said, expected) in [
            (
                "ERROR: failed to create cluster: failed to pull image \"node:1\"",
                "node_image_archive",
            ),
            ("too many open files", "fs.inotify.max_user_instances"),
            ("ERROR: something else", "no cluster was made"),
        ] {
            let script =
                format!("[ $1 = delete ] || {{ cat >/dev/null; echo '{said}' >&2; exit 1; }}");
            fakes.program("kind", &script);
            let text = format!("{:#}", maker.create(0, &config()).await.unwrap_err());
            assert!(text.contains(expected) && text.contains(said), "{text}");
            assert!(fakes.calls("kind").last().unwrap().starts_with("delete cluster"));
            assert!(!owner.id().has_notes(fakes.folder()));
        }
    }

    #[tokio::test]
    async fn a_cluster_half_made_goes_with_those_who_waited_for_it() {
        let fakes = Fakes::new();
        fakes.program(
            "kind",
            "case $1 in create) touch \"$FAKES/cluster-x\" \"$FAKES/made\"; sleep 1000;; delete) rm -f \"$FAKES/cluster-x\";; esac",
        );
        let owner = Arc::new(Owner::acquire_in(fakes.folder()).unwrap());
        fakes.program("docker", "");
        let maker = maker(&fakes, &owner);
        let config = config();
        let making = maker.create(0, &config);
        tokio::select! {
            made = making => panic!("it hangs: {made:?}"),
            () = async { while !fakes.path("made").exists() { tokio::time::sleep(Duration::from_millis(5)).await } } => {}
        }
        assert_eq!(clusters(&fakes), 0);
        assert!(!owner.id().has_notes(fakes.folder()));
    }

    #[tokio::test]
    async fn a_kept_cluster_stays_when_it_is_whole_and_only_then() {
        let fakes = Fakes::new();
        fakes.program("kind", KIND);
        let owner = Arc::new(Owner::acquire_in(fakes.folder()).unwrap());
        let maker = Maker { keep: true, ..maker(&fakes, &owner) };
        drop(maker.create(0, &config()).await.unwrap());
        assert_eq!(clusters(&fakes), 0);
        let mut cluster = maker.create(1, &config()).await.unwrap();
        assert!(cluster.name.ends_with("-keep1"), "{}", cluster.name);
        cluster.is_whole();
        cluster.end().await.unwrap();
        drop(cluster);
        assert_eq!(clusters(&fakes), 1);
        assert!(owner.id().has_notes(fakes.folder()));
    }

    #[tokio::test]
    async fn what_cannot_be_deleted_is_still_noted() {
        let fakes = Fakes::new();
        fakes.program("kind", KIND);
        let owner = Arc::new(Owner::acquire_in(fakes.folder()).unwrap());
        let mut cluster = maker(&fakes, &owner).create(0, &config()).await.unwrap();
        fakes.program("kind", "echo no daemon >&2; exit 1");
        let text = format!("{:#}", cluster.end().await.unwrap_err());
        assert!(
            text.contains("`cnibench clean` can try again: ") && text.contains("no daemon"),
            "{text}"
        );
        drop(cluster);
        assert!(owner.id().has_notes(fakes.folder()));
    }
}

//! What a run is going to do in its clusters, as far as it decides which pods and rights it needs.
//!
//! Pure. Made by the command line from the suite and the cnis; asked by the providers.

use super::provider::INSTALLED;
use cnibench_model::{CniSpec, Placement};
use cnibench_scenarios::Suite;

/// The name of the baseline.
const HOST: &str = "host";

/// What a run is going to do. By default nothing at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    /// Placements that trials will use, each once.
    pub placements: Vec<Placement>,
    /// Is the baseline measured?
    pub host: bool,
    /// Is a cni measured, not the baseline alone?
    pub cni: bool,
    /// Is a cni of the cluster named, whose pods must then be there?
    pub named_cni: bool,
    /// Are there services beside the measured one?
    pub more_services: bool,
    /// Is a state of the flow observer asked for?
    pub hubble: bool,
}

impl Demand {
    /// Of a suite with these cnis; none: those that are automatic, the baseline among them.
    pub fn of(suite: &Suite, cnis: &[CniSpec]) -> Self {
        let mut placements: Vec<Placement> =
            suite.scenarios.iter().flat_map(|s| s.placements.clone()).collect();
        placements.sort();
        placements.dedup();
        let automatic = cnis.is_empty();
        let is_host = |cni: &CniSpec| cni.name == HOST;
        Self {
            placements,
            host: automatic || cnis.iter().any(is_host),
            cni: automatic || !cnis.iter().all(is_host),
            named_cni: cnis.iter().any(|cni| !is_host(cni) && cni.name != INSTALLED),
            more_services: suite.scenarios.iter().any(|s| s.sweep.services.iter().any(|n| *n > 0)),
            hubble: suite.scenarios.iter().any(|s| !s.sweep.hubble.is_empty()),
        }
    }

    /// True when nothing is to be measured.
    pub fn is_nothing(&self) -> bool {
        self.placements.is_empty()
    }

    /// Are services made?
    pub fn services(&self) -> bool {
        self.more_services || self.placements.contains(&Placement::PodService)
    }

    /// Is something asked of the cni's own pods?
    pub fn cni_pods(&self, privileged: bool) -> bool {
        privileged || self.hubble
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, cnis: &[&str]) -> Demand {
        let text =
            format!("name = \"m\"\n[[scenario]]\nworkloads = \"tcp_rr\"\ntrials = 1\n{text}\n");
        let cnis: Vec<_> = cnis.iter().map(|c| CniSpec::named(c)).collect();
        Demand::of(&Suite::parse("m.toml", &text).unwrap(), &cnis)
    }

    #[test]
    fn only_what_is_asked_for_is_demanded() {
        let cross = "placements = \"cross-node\"";
        let cni = of(cross, &[INSTALLED]);
        assert!(cni.cni && !cni.host && !cni.named_cni && !cni.services() && !cni.cni_pods(false));
        let host = of(cross, &["host"]);
        assert!(host.host && !host.cni && !host.named_cni);
        let automatic = of(cross, &[]);
        assert!(automatic.host && automatic.cni && !automatic.named_cni);
        assert!(of(cross, &["host", "cilium"]).named_cni);
        assert!(of("placements = \"pod-service\"", &[]).services());
        assert!(of(&format!("{cross}\nservices = [0, 10]"), &[]).services());
        assert!(!of(&format!("{cross}\nservices = 0"), &[]).services());
        assert!(of(&format!("{cross}\nhubble = [false, true]"), &[]).cni_pods(false));
    }
}

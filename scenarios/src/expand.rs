//! From a suite to cases: the product of its lists, in a stable order, without duplicates.

use crate::suite::{Scenario, Suite, Sweep};
use cnibench_model::{
    Case, CniSpec, Generator, Placement, ProviderKind, Surroundings, Workload, WorkloadParams,
};
use std::collections::HashSet;

/// What the command line changes in a suite.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    /// Only these workloads; one that the suite lacks is added with its defaults. Empty: the suite's.
    pub workloads: Vec<Workload>,
    /// These placements in every scenario. Empty: the suite's.
    pub placements: Vec<Placement>,
    /// Trials of every case.
    pub trials: Option<u32>,
    /// Measured seconds of every trial.
    pub duration_s: Option<f64>,
    /// Warm-up seconds of every trial.
    pub warmup_s: Option<f64>,
    /// What makes the traffic of every trial.
    pub generator: Option<Generator>,
}

impl Overrides {
    /// The suite as changed.
    pub fn apply(&self, suite: &Suite) -> Suite {
        let mut suite = suite.clone();
        if !self.workloads.is_empty() {
            let model = suite.scenarios.first().cloned();
            suite
                .scenarios
                .iter_mut()
                .for_each(|s| s.workloads.retain(|w| self.workloads.contains(w)));
            suite.scenarios.retain(|s| !s.workloads.is_empty());
            let added: Vec<Workload> = self
                .workloads
                .iter()
                .copied()
                .filter(|w| !suite.scenarios.iter().any(|s| s.workloads.contains(w)))
                .collect();
            if let (false, Some(model)) = (added.is_empty(), model) {
                suite.scenarios.push(Scenario {
                    workloads: added,
                    sweep: Sweep::default(),
                    ..model
                });
            }
        }
        for scenario in &mut suite.scenarios {
            if !self.placements.is_empty() {
                scenario.placements.clone_from(&self.placements);
            }
            scenario.trials = self.trials.unwrap_or(scenario.trials);
            scenario.duration_s = self.duration_s.unwrap_or(scenario.duration_s);
            scenario.warmup_s = self.warmup_s.unwrap_or(scenario.warmup_s);
            if let Some(generator) = self.generator {
                scenario.sweep.generator = vec![generator];
            }
        }
        suite
    }
}

/// Every case of a suite for these cnis: by scenario, workload, placement, parameters, surroundings,
/// then cni, so that the cnis of one series stand together. A case that occurs twice is kept once.
///
/// Whether the provider can bring a cluster into the surroundings is the provider's to say.
pub fn expand(suite: &Suite, provider: ProviderKind, cnis: &[CniSpec]) -> Vec<Case> {
    let mut seen = HashSet::new();
    let mut cases = Vec::new();
    for scenario in &suite.scenarios {
        for &workload in &scenario.workloads {
            for &placement in &scenario.placements {
                let points = sweep(workload, &scenario.sweep);
                let around = surroundings(placement, &scenario.sweep);
                let points = points.iter().flat_map(|p| around.iter().map(move |s| (p, s)));
                for (params, around) in points {
                    for cni in cnis {
                        let id = Case::id_of(provider, cni, workload, placement, params, around);
                        if seen.insert(id.clone()) {
                            cases.push(Case {
                                id,
                                provider,
                                cni: cni.clone(),
                                workload,
                                placement,
                                params: params.clone(),
                                surroundings: *around,
                                trials: scenario.trials,
                                duration_s: scenario.duration_s,
                                warmup_s: scenario.warmup_s,
                            });
                        }
                    }
                }
            }
        }
    }
    cases
}

/// The cases among those of [`expand`] whose ladder of offered rates is climbed after their trials.
pub fn ladders(suite: &Suite, provider: ProviderKind, cnis: &[CniSpec]) -> Vec<Case> {
    let mut suite = suite.clone();
    suite.scenarios.retain(|s| s.ladder);
    expand(&suite, provider, cnis)
}

/// The cases among those of [`expand`] that have timelines of changes of keys after their trials, with how
/// many changes each.
pub fn rotations(suite: &Suite, provider: ProviderKind, cnis: &[CniSpec]) -> Vec<(Case, u32)> {
    let of = |scenario: &crate::suite::Scenario| {
        let one = Suite { scenarios: vec![scenario.clone()], ..suite.clone() };
        let cases = expand(&one, provider, cnis).into_iter();
        cases.map(|case| (case, scenario.rotations)).collect::<Vec<_>>()
    };
    suite.scenarios.iter().filter(|s| s.rotations > 0).flat_map(of).collect()
}

/// The cases among those of [`expand`] whose payload sizes are searched after their trials.
pub fn cliffs(suite: &Suite, provider: ProviderKind, cnis: &[CniSpec]) -> Vec<Case> {
    let mut suite = suite.clone();
    suite.scenarios.retain(|s| s.cliffs);
    expand(&suite, provider, cnis)
}

/// The product of a scenario's parameter lists for one workload. Parameters that the workload does
/// not read keep their default, so that they do not make two cases of one.
fn sweep(workload: Workload, sweep: &Sweep) -> Vec<WorkloadParams> {
    let mut points = vec![workload.defaults()];
    let mut by = |apply: &dyn Fn(&WorkloadParams) -> Vec<WorkloadParams>| {
        let next: Vec<WorkloadParams> = points.iter().flat_map(apply).collect();
        if !next.is_empty() {
            points = next;
        }
    };
    macro_rules! dimension {
        ($field:ident) => {
            by(&|p| {
                let one = |v: &_| WorkloadParams { $field: Clone::clone(v), ..p.clone() };
                sweep.$field.iter().map(one).collect()
            });
        };
    }
    dimension!(streams);
    dimension!(size);
    dimension!(rate);
    dimension!(pinning);
    dimension!(send_buffer);
    dimension!(receive_buffer);
    dimension!(generator);
    if workload.is_transactional() {
        dimension!(response_size);
    } else {
        dimension!(direction);
    }
    if workload.is_tcp() {
        dimension!(congestion_control);
        dimension!(nodelay);
    }
    if workload == Workload::TcpStream {
        dimension!(mss);
    }
    if workload == Workload::UdpStream {
        dimension!(gso);
    }
    points
}

/// The product of what a scenario asks of the cluster around its pods. A server outside any pod is
/// selected by no NetworkPolicy, so that policies do not make cases of its placements.
fn surroundings(placement: Placement, sweep: &Sweep) -> Vec<Surroundings> {
    fn each<T: Copy>(list: &[T]) -> Vec<Option<T>> {
        match list {
            [] => vec![None],
            list => list.iter().copied().map(Some).collect(),
        }
    }
    let policies = match placement.ends_in_a_pod() {
        true => each(&sweep.policies),
        false => vec![None],
    };
    let mut points = Vec::new();
    for &policies in &policies {
        for services in each(&sweep.services) {
            for hubble in each(&sweep.hubble) {
                points.push(Surroundings { policies, services, hubble });
            }
        }
    }
    points
}

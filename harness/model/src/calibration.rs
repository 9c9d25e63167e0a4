//! The noise floor of a host: how large a change of nothing comes out, per metric and case.
//!
//! Owns what a calibration file holds and whether it is this host's. How the numbers are made of A/A runs
//! is in `cnibench_reports::gate::calibrate`; the gate reads them.

use crate::{
    case::{ProviderKind, SeriesKey},
    environment::Environment,
    fingerprint::{Difference, Fingerprint},
    metric::{Clock, Metric},
    spec::CniSpec,
};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of the calibration file's schema.
pub const CALIBRATION_VERSION: u32 = 1;

/// A host's floors, from runs in which both arms were the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Calibration {
    /// [`CALIBRATION_VERSION`] of the writer.
    pub schema_version: u32,
    /// When the last of its runs ended.
    #[schemars(with = "String")]
    pub made: Timestamp,
    /// The host.
    pub host: Fingerprint,
    /// What time values count.
    pub clock: Clock,
    /// A/A runs it was made of.
    pub runs: u32,
    /// Rebuilds and pairs of each of these runs: a run of fewer has more noise than the floors say.
    pub rebuilds: u32,
    /// Pairs of every case in each rebuild.
    pub pairs: u32,
    /// One for each case and metric that every run measured.
    pub floors: Vec<CalibratedFloor>,
}

/// The noise of one metric of one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CalibratedFloor {
    /// What brought the clusters up.
    pub provider: ProviderKind,
    /// What was compared with itself.
    pub cni: CniSpec,
    /// The case.
    pub series: SeriesKey,
    /// The metric.
    pub metric: Metric,
    /// A change smaller than this is what this host makes of nothing: a share of the baseline (0.03 is
    /// 3 %), or of a metric that is a share itself the difference.
    pub floor: f64,
    /// The largest change that any of the runs showed, in the same terms.
    pub largest: f64,
    /// Runs that measured it.
    pub runs: u32,
    /// Standard deviation of one rebuild's own estimate around none, of logarithms of the ratio (or of
    /// differences): noise within a rebuild and between rebuilds together.
    pub rebuild_deviation: f64,
    /// Rebuilds, over all runs, that this deviation was made of.
    pub rebuilds: u32,
}

/// Why a file is not a calibration that this build can read.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// Not JSON, or JSON of another shape.
    #[error("not a calibration of cnibench: {0}")]
    Shape(#[from] serde_json::Error),
    /// Written by a newer cnibench.
    #[error(
        "calibration has schema version {found}, this cnibench reads up to {CALIBRATION_VERSION}: use a newer cnibench, or calibrate again"
    )]
    Newer {
        /// The version found.
        found: u32,
    },
}

impl Calibration {
    /// Reads a calibration file.
    ///
    /// # Errors
    /// See [`CalibrationError`].
    pub fn from_json(text: &str) -> Result<Self, CalibrationError> {
        #[derive(Deserialize)]
        struct Version {
            schema_version: u32,
        }
        let Version { schema_version } = serde_json::from_str(text)?;
        if schema_version > CALIBRATION_VERSION {
            return Err(CalibrationError::Newer { found: schema_version });
        }
        Ok(serde_json::from_str(text)?)
    }

    /// Is this the calibration of the machine with this environment, as it is set now?
    ///
    /// # Errors
    /// The fields that differ: "baseline" is the calibration's value, "candidate" the environment's.
    pub fn matches(&self, environment: &Environment) -> Result<(), Vec<Difference>> {
        match self.host.differences(&Fingerprint::of(environment)) {
            none if none.is_empty() => Ok(()),
            differences => Err(differences),
        }
    }

    /// The floor of a metric and case: of the cnis that are compared where they were calibrated, else the
    /// largest of all cnis that were.
    pub fn floor(
        &self,
        provider: ProviderKind,
        series: &SeriesKey,
        metric: Metric,
        cnis: [&CniSpec; 2],
    ) -> Option<&CalibratedFloor> {
        let fits = |f: &&CalibratedFloor| {
            f.provider == provider && f.series == *series && f.metric == metric
        };
        let all = || self.floors.iter().filter(fits);
        let own = all().filter(|f| cnis.iter().any(|c| c.first() == f.cni.first()));
        let largest = |a: &&CalibratedFloor, b: &&CalibratedFloor| a.floor.total_cmp(&b.floor);
        own.max_by(largest).or_else(|| all().max_by(largest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floor(cni: &str, floor: f64) -> CalibratedFloor {
        CalibratedFloor {
            provider: ProviderKind::Netns,
            cni: cni.parse().unwrap(),
            series: SeriesKey("tcp_rr/cross-node".to_owned()),
            metric: Metric::LatencyP50,
            floor,
            largest: floor,
            runs: 20,
            rebuild_deviation: 0.01,
            rebuilds: 60,
        }
    }

    fn calibration() -> Calibration {
        Calibration {
            schema_version: CALIBRATION_VERSION,
            made: "2026-02-03T10:20:30Z".parse().unwrap(),
            host: Fingerprint::of(&Environment::default()),
            clock: Clock::Wall,
            runs: 20,
            rebuilds: 3,
            pairs: 10,
            floors: vec![floor("ebpf", 0.02), floor("flannel-vxlan", 0.05)],
        }
    }

    #[test]
    fn the_floor_is_that_of_the_cnis_compared_or_the_largest() {
        let all = calibration();
        let series = all.floors[0].series.clone();
        let of = |a: &str, b: &str| {
            let cnis: [CniSpec; 2] = [a, b].map(|c| c.parse().unwrap());
            let found =
                all.floor(ProviderKind::Netns, &series, Metric::LatencyP50, [&cnis[0], &cnis[1]]);
            found.unwrap().floor
        };
        assert_eq!(of("ebpf", "ebpf#2"), 0.02);
        assert_eq!(of("ebpf", "flannel-vxlan"), 0.05);
        assert_eq!(of("host", "bridge"), 0.05);
        let cni = CniSpec::named("ebpf");
        let none = all.floor(ProviderKind::Kind, &series, Metric::LatencyP50, [&cni, &cni]);
        assert!(none.is_none());
    }

    #[test]
    fn another_machine_is_named_by_its_fields() {
        let all = calibration();
        assert_eq!(all.matches(&Environment::default()), Ok(()));
        let other = Environment { kernel_release: "6.18".to_owned(), ..Environment::default() };
        let differing = all.matches(&other).unwrap_err();
        assert_eq!(differing.len(), 1);
        assert_eq!(differing[0].field, "kernel_release");
    }

    #[test]
    fn it_comes_back_from_its_file_and_a_newer_one_is_refused() {
        let text = serde_json::to_string(&calibration()).unwrap();
        assert_eq!(Calibration::from_json(&text).unwrap(), calibration());
        let newer = text.replace("\"schema_version\":1", "\"schema_version\":9");
        let error = Calibration::from_json(&newer).unwrap_err().to_string();
        assert!(error.contains("schema version 9"), "{error}");
        assert!(Calibration::from_json("{}").is_err());
    }
}

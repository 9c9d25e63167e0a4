//! The words of cnibench as types: metric, unit, case, sample, environment, record.
//!
//! Owns what is stored and what crosses from one package to another. A leaf: it does no I/O and
//! knows no provider, no CNI and no chart. Every other package depends on it.

pub mod calibration;
pub mod case;
pub mod comparison;
pub mod environment;
pub mod fingerprint;
pub mod footprint;
pub mod generator;
pub mod histogram;
pub mod interval;
pub mod journal;
pub mod ladder;
pub mod metric;
pub mod nearest;
pub mod pairing;
pub mod probe;
pub mod proof;
pub mod record;
pub mod size;
pub mod spec;
pub mod surroundings;
pub mod topology;
pub mod trial;
pub mod verdict;
pub mod workload;

pub use calibration::{CALIBRATION_VERSION, CalibratedFloor, Calibration, CalibrationError};
pub use case::{Case, CaseId, Placement, ProviderKind, SeriesKey};
pub use comparison::{
    COMPARISON_VERSION, ComparedCandidate, ComparedChange, ComparedEffect, ComparedRow,
    ComparedRun, ComparedValue, Comparison, Unmatched,
};
pub use environment::Environment;
pub use fingerprint::{Difference, Fingerprint};
pub use footprint::{Footprint, LEAST_WINDOW_S, Phase};
pub use generator::{Generator, MadeBy};
pub use histogram::StoredHistogram;
pub use interval::{Interval, Rotation, RotationTrial};
pub use journal::{JournalError, JournalLine};
pub use ladder::RungTrial;
pub use metric::{Clock, Direction, Metric, Unit};
pub use pairing::{PairArm, PairOrder, PairSlot, Pairing};
pub use probe::{ProbeResult, ProbedTrial, Stage, StageStats};
pub use proof::{Proof, ProofKind, ProofOutcome};
pub use record::{
    Cell, CellStatus, CniInfo, Header, Record, RecordError, SCHEMA_VERSION, SkippedCni,
};
pub use size::SizeTrial;
pub use spec::{CniSpec, SpecError};
pub use surroundings::Surroundings;
pub use topology::{AddressFamily, Topology};
pub use trial::{
    CpuTime, DatagramStats, EndpointResult, FlowResult, NodeCpu, NodePair, Sample, Trial,
};
pub use verdict::{
    CalibrationUse, EffectBasis, Estimate, Floor, FloorSource, GATE_VERSION, Gate, GateDesign,
    GateOutcome, Judgement, LeftOut, LookAt, Role, Verdict,
};
pub use workload::{FlowDirection, Pinning, Rate, Workload, WorkloadParams};

//! What a run of pairs is judged by, while it goes on and at its end, and where the verdict is written.
//!
//! Owns the options and the files; verdicts and their words are those of `cnibench_reports::gate`.

use super::measure::MakeReferee;
use crate::{calibration, runner::Referee, store};
use anyhow::{Context as _, Result};
use cnibench_model::{Calibration, Gate, Record, Trial};
use cnibench_reports::gate::{
    self, GateError, Policy, Strictness,
    policy::share,
    sequential::{Clear, Next, Watch},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The verdict in a results folder.
pub const GATE: &str = "gate.json";

/// What the gate is told, and where it writes.
#[derive(Debug, Clone, clap::Args)]
pub struct JudgeOptions {
    /// What gates, from which size on, and what has to be there (TOML).
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Smallest change that counts, e.g. 5%; before the policy's general one. Between two records of a
    /// wall clock the policy's stored_min_effect counts where that is larger.
    #[arg(long, value_name = "SHARE", value_parser = smallest)]
    min_effect: Option<f64>,
    /// The host's noise floor, as `cnibench calibrate` writes it; by default the one that is stored.
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Write the verdict as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write the verdict as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// A policy and a calibration, and where verdicts go.
pub(super) struct Judge {
    policy: Policy,
    calibration: Option<Calibration>,
    junit: Option<PathBuf>,
    markdown: Option<PathBuf>,
}

impl Judge {
    /// Reads what the options name.
    ///
    /// # Errors
    /// A policy that is wrong, with its line; a calibration that cannot be read.
    pub fn new(options: &JudgeOptions) -> Result<Self> {
        let mut policy = match &options.policy {
            None => Policy::default(),
            Some(path) => {
                let name = path.display().to_string();
                let text = fs::read_to_string(path)
                    .with_context(|| format!("cannot read the policy {name}"))?;
                Policy::from_toml(&name, &text)?
            }
        };
        if let Some(size) = options.min_effect {
            (policy.min_effect, policy.counted_min_effect) = (size, size);
        }
        Ok(Self {
            policy,
            calibration: calibration::find(options.calibration.as_deref())?,
            junit: options.junit.clone(),
            markdown: options.markdown.clone(),
        })
    }

    /// Who looks at a run while it goes on.
    pub fn referee(&self) -> MakeReferee {
        let (policy, calibration) = (self.policy.clone(), self.calibration.clone());
        Box::new(move |header| Box::new(Watching(Watch::new(header, policy, calibration))))
    }

    /// Judges a record of pairs.
    ///
    /// # Errors
    /// The record has none.
    pub fn pairs(&self, record: &Record) -> Result<Gate, GateError> {
        gate::judge_pairs(record, &self.policy, self.calibration.as_ref())
    }

    /// Judges a record against one that was made before.
    ///
    /// # Errors
    /// They cannot be compared.
    pub fn stored(
        &self,
        baseline: &Record,
        candidate: &Record,
        strictness: Strictness,
    ) -> Result<Gate, GateError> {
        let calibration = self.calibration.as_ref();
        gate::judge_stored(baseline, candidate, &self.policy, calibration, strictness)
    }

    /// Judges a record of pairs and writes the verdict into its folder and where the options say.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn conclude(&self, record: &Record, folder: &Path) -> Result<Gate> {
        let gate = self.pairs(record)?;
        store::write_atomically(&folder.join(GATE), |out| {
            serde_json::to_writer_pretty(out, &gate).map_err(std::io::Error::from)
        })?;
        self.write(&gate, &record.header.command)?;
        Ok(gate)
    }

    /// Writes a verdict where the options say; `command` makes the same again.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, gate: &Gate, command: &[String]) -> Result<()> {
        let write = |path: &Path, text: String| {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        if let Some(path) = &self.junit {
            write(path, gate::junit(gate)?)?;
        }
        if let Some(path) = &self.markdown {
            write(path, gate::markdown(gate, command))?;
        }
        Ok(())
    }
}

/// A share that a change can have.
fn smallest(text: &str) -> Result<f64, String> {
    match share(text)? {
        value if (0.0..1.0).contains(&value) => Ok(value),
        _ => Err(format!("{text:?}: a change counts from 0 % or more, and less than 100 %")),
    }
}

/// The gate, looking on.
struct Watching(Watch);

impl Referee for Watching {
    fn measured(&mut self, trial: &Trial) {
        self.0.add(trial);
    }

    fn look(&mut self, makings: u32) -> Option<String> {
        match self.0.look(makings) {
            Next::Continue => None,
            Next::Stop(Clear::Everything) => {
                Some("of everything that gates the answer is clear".to_owned())
            }
            Next::Stop(Clear::Regression { what }) => Some(format!("{what} is a regression")),
        }
    }
}

//! From records to statistics, figures and pages.
//!
//! Owns the statistics, the words and the looks of a comparison. Runs nothing and needs no rights: a
//! report is made from a [`cnibench_model::Record`] on any machine.
//!
//! [`render`] writes the files, [`terminal_summary`] is the table at the end of a run, and
//! [`matrix::matrix`] is what both show, for machines; [`paired`] is the same of two arms in pairs.

mod book;
pub mod cliff;
pub mod compare;
mod curves;
mod facts;
mod figure;
mod files;
#[cfg(test)]
mod fixtures;
mod footprint;
pub mod gate;
mod kernels;
pub mod knee;
mod losses;
mod markdown;
pub mod matrix;
mod meaning;
mod natural;
mod page;
mod paired;
mod pairs;
mod proofs;
mod render;
mod rotation;
mod samples;
mod sentences;
mod stages;
pub mod stats;
mod switches;
mod terminal;
mod trust;
mod units;
mod warnings;
mod words;

pub use files::ReportError;
pub use paired::{Measured, Paired, PairedRow, paired};
pub use render::{Format, Rendered, render, render_judged};
pub use terminal::terminal_summary;

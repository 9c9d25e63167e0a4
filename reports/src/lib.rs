//! From records to statistics, figures and pages.

mod book;
#[cfg(test)]
mod fixtures;
pub mod matrix;
pub mod stats;
mod units;
mod words;

//! From records to statistics, figures and pages.

pub mod stats;

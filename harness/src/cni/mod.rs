//! Datapaths.
pub mod conflist;

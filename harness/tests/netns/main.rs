//! Tests that need root and network namespaces: `cargo test -p cnibench --features netns-tests`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this is tests; what clippy.toml allows covers functions with #[test] only"
)]

mod conflist;
mod rig;
mod wireguard;

//! Profile `flannel-wireguard-userspace`.
pub mod child;
pub mod process;
pub mod protocol;

pub use process::wireguard_node_main;

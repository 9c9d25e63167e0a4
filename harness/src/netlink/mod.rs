//! The kernel's network configuration, spoken directly: routes, links, neighbours, nf_tables.
//!
//! Owns sockets, message batches and network namespaces. Knows no CNI and no cluster: `cni/` and
//! `cluster/` say what to build, this says it to the kernel.

pub mod batch;
pub mod namespace;
pub mod nftables;
pub mod rtnl;
pub mod socket;
pub mod sysctl;
pub mod tun;
pub mod wireguard;
pub mod xfrm;

pub use batch::{Batch, Mac};
pub use namespace::Netns;
pub use rtnl::{Link, Rtnl};

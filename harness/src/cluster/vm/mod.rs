//! The provider `vm`: a cluster of namespaces in a QEMU guest, with a kernel of the user's choice.
//!
//! Owns the guest's boot, the console between controller and guest, and the guest's side of it. Inside,
//! the provider `netns` brings the cluster up as anywhere; with `--clock instructions` the guest's clock
//! counts what its CPU executes.

mod ahead;
mod choice;
mod cluster;
pub mod config;
mod console;
mod cpio;
pub(crate) mod initramfs;
pub mod kernel;
pub(crate) mod luggage;
pub mod machine;
pub(crate) mod mailbox;
mod options;
mod provider;
pub(crate) mod wire;

pub use choice::{Kernels, fetched, none as no_kernel};
pub use cluster::VmCluster;
pub use options::VmOptions;
pub use provider::{VmProvider, kvm, offers, qemu, qemu_version};

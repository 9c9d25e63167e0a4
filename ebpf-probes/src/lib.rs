//! eBPF programs in C (`bpf/`), compiled into this crate, and what loads them.
//!
//! [`object`] opens objects and keeps what the verifier says; [`capability`] finds out by a real load
//! which kinds of programs this kernel takes from this process; [`datapath`] is the packet path of
//! the profiles `ebpf` and `ebpf-vxlan`; [`stages`] are the latency probes; [`losses`] counts drops and
//! retransmits. Knows no cluster and no report: namespaces are entered by whoever calls.

pub mod capability;
pub mod datapath;
pub mod losses;
pub mod object;
mod reasons;
pub mod stages;
mod tracing;

pub(crate) use object::built_in;

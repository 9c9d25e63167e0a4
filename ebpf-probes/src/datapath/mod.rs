//! The packet path of the profiles `ebpf` and `ebpf-vxlan`.

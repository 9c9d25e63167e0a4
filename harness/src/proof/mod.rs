//! Proofs.
pub mod encryption;
pub mod packet_socket;
pub mod payload;
pub mod sniffer;

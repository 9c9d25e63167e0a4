//! The lab tier: the binary against real Kubernetes, with docker, kind and helm on PATH.
//!
//! Asked for by the feature `lab-tests`; needs `CNIBENCH_LAB_SOURCES`, a sources file (see
//! `cnibench run --sources`) with whatever this machine cannot fetch, and for the provider kubeconfig
//! `CNIBENCH_LAB_KUBECONFIG`, that of a cluster of kind with two nodes, which tests harm and mend
//! (with kubectl), and `CNIBENCH_LAB_WORKLOAD_IMAGE` where its nodes cannot pull busybox. Takes some
//! minutes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect by unwrapping it; helpers beside them do, too"
)]

mod kind;
mod kubeconfig;
mod support;

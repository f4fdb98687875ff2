//! What the Kubernetes objects say, without Kubernetes: plain values that never fail, know no
//! clock and do no I/O.

pub mod endpoint;
pub mod name;
pub mod node;
pub mod service;

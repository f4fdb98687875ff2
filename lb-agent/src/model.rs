//! What the Kubernetes objects say, without Kubernetes: plain values that never fail, know no
//! clock and do no I/O.
//!
//! A source emits [`event::Event`]s, and [`index::Model`] is what they add up to, in whatever
//! order they came.

pub mod endpoint;
pub mod event;
pub mod index;
pub mod name;
pub mod node;
pub mod service;
pub mod uid;

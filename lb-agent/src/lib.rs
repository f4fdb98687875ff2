//! Steerage's node agent: keeps the kernel tables equal to the Kubernetes API.
//!
//! ```text
//! source ─► model ─► plan (pure) ─► diff ─► dataplane trait ─► maps
//!                      ▲                          └► in-memory fake
//!       node, devices ─┘        sweep · command line read snapshots
//! ```

#![deny(unsafe_code)]

pub mod agent;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dataplane;
pub mod interfaces;
pub mod lock;
pub mod memory;
pub mod model;
pub mod outside;
pub mod plan;
pub mod reconcile;
pub mod settings;
pub mod source;
mod state_file;
pub mod status;
pub mod sysctl;

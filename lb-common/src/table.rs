//! Layouts of the kernel tables: what `lb-ebpf` reads and the agent writes.
//!
//! Values larger than one word live in arrays, never in hashes: the kernel reuses a replaced hash
//! element at once, while a program may still read it. Hash values are one word that carries a
//! fingerprint of its key; only `DEVICES`, which few packets ask, has a larger one, under a seal. Every type here is plain bytes without padding.

pub mod affinity;
pub mod backend;
pub mod config;
pub mod counter;
pub mod device;
pub mod filter;
pub mod fragment;
pub mod frontend;
pub mod node_address;
pub mod region;
pub mod service;
pub mod source_range;

/// Version of all layouts together: part of the pin directory's path. Raised by any change that an
/// older program or agent would misread.
pub const ABI_VERSION: u32 = 5;

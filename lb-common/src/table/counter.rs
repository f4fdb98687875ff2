//! `COUNTERS`: packets and bytes by [`crate::verdict::Reason`], one copy for each processor;
//! `SERVICE_STATS` and `BACKEND_STATS`: connections opened, by index.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of `COUNTERS`. Written by the kernel programs, each processor its own copy; native byte
/// order, since both sides add to it as numbers.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the Ethernet header on.
    pub bytes: u64,
}

//! `DEVICES`: interface index → what the programs must know of the device they run on.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of `DEVICES`, one word. Written by the agent before it attaches to the device.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(transparent)]
pub struct DeviceRecord(u64);

impl DeviceRecord {
    /// The record of a workload's device that is a port of the bridge with interface index
    /// `bridge`; 0 where it is a port of none.
    #[must_use]
    pub fn workload(bridge: u32) -> Self {
        Self(u64::from(bridge))
    }

    /// Interface index of the bridge that the device is a port of, 0 for none.
    #[inline(always)]
    pub const fn bridge(self) -> u32 {
        crate::hash::lower(self.0)
    }
}

//! `DEVICES`: interface index → what the programs must know of the device they run on.
//!
//! The kernel reuses a replaced element at once, so a reader may see half of one record and half of
//! another, or another device's. Each record therefore carries a seal over its words and its key: a
//! reader whose copy has a wrong one reads again.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::family::{Family, V4, V6};
use crate::hash;

/// What a device leads to.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Role {
    /// A pod: the host's end of its veth.
    #[default]
    Workload = 0,
    /// Other nodes and the world outside: the node's network, or a tunnel.
    Uplink = 1,
}

/// Which frames an XDP program may have a device send. Each includes those before it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Takes {
    /// None: somebody at its egress has to see what leaves, or nobody has looked.
    #[default]
    Nothing = 0,
    /// Those that the host has made packets of, as the generic hook sees them.
    Packets = 1,
    /// Those of a driver, in one buffer.
    Frames = 2,
    /// Those of a driver, in any number of buffers.
    AllFrames = 3,
}

impl Takes {
    #[inline(always)]
    const fn from_bits(bits: u64) -> Self {
        match bits & 3 {
            0 => Self::Nothing,
            1 => Self::Packets,
            2 => Self::Frames,
            _ => Self::AllFrames,
        }
    }

    #[inline(always)]
    const fn bits(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Packets => 1,
            Self::Frames => 2,
            Self::AllFrames => 3,
        }
    }
}

/// Value of `DEVICES`. Written by the agent before it attaches to the device, and when the device's
/// addresses change.
///
/// ```text
/// word 0      last 16 bits of its MAC | zero:3 | clear:1 | generic:1 | takes:2 | open:1 | role:8 |
///             interface index of the bridge it is a port of:32           (from the high bits down)
/// word 1      first 32 bits of its MAC | IPv4 address of flows that leave by it
/// words 2, 3  IPv6 address, likewise
/// word 4      seal
/// ```
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct DeviceRecord {
    role_and_bridge: u64,
    source_v4: u64,
    source_v6: [u64; 2],
    seal: u64,
}

/// Bit of word 0: the device is an uplink.
const ROLE_UPLINK: u64 = 1 << 32;
/// Bit of word 0: see [`DeviceRecord::opened`].
const OPEN: u64 = 1 << 40;
/// Bits of word 0: the device's [`Takes`].
const TAKES_SHIFT: u32 = 41;
const TAKES: u64 = 3 << TAKES_SHIFT;
/// Bit of word 0: see [`DeviceRecord::is_generic`].
const GENERIC: u64 = 1 << 43;
/// Bit of word 0: see [`DeviceRecord::cleared`].
const CLEAR: u64 = 1 << 44;
/// Bits of word 0 and of word 1 that the MAC has.
const MAC_END: u64 = 0xffff << 48;
const MAC_START: u64 = 0xffff_ffff << 32;

impl DeviceRecord {
    /// The record of the workload's device with this interface `index`, that is a port of the bridge
    /// with interface index `bridge`; 0 where it is a port of none.
    #[must_use]
    pub fn workload(index: u32, bridge: u32) -> Self {
        Self {
            role_and_bridge: u64::from(bridge),
            ..Self::default()
        }
        .sealed(index)
    }

    /// The record of the uplink with this interface `index`, whose flows leave with these addresses;
    /// unspecified ones where it has none of the family.
    #[must_use]
    pub fn uplink(index: u32, source_v4: [u8; 4], source_v6: [u8; 16]) -> Self {
        let [v4, _] = V4::halves(source_v4);
        Self {
            role_and_bridge: ROLE_UPLINK,
            source_v4: v4,
            source_v6: V6::halves(source_v6),
            seal: 0,
        }
        .sealed(index)
    }

    /// The same record of the device with this interface `index`, with or without the word that nobody else
    /// looks at what it brings.
    #[must_use]
    pub const fn cleared(mut self, index: u32, is_clear: bool) -> Self {
        self.role_and_bridge &= !CLEAR;
        if is_clear {
            self.role_and_bridge |= CLEAR;
        }
        self.sealed(index)
    }

    /// The same record of the device with this interface `index`, with or without the word that packets
    /// which it brings or takes may be sent on at once: it is clear, and the operator asks for it.
    #[must_use]
    pub const fn opened(mut self, index: u32, is_open: bool) -> Self {
        self.role_and_bridge &= !OPEN;
        if is_open {
            self.role_and_bridge |= OPEN;
        }
        self.sealed(index)
    }

    /// The same record of the device with this interface `index`, with what XDP programs must know: its
    /// MAC, which frames it takes from them, and whether the one at it is the generic hook's.
    #[must_use]
    pub fn with_frames(mut self, index: u32, mac: [u8; 6], takes: Takes, is_generic: bool) -> Self {
        let [a, b, c, d, e, f] = mac;
        let start = u64::from(u32::from_be_bytes([a, b, c, d])) << 32;
        let end = u64::from(u16::from_be_bytes([e, f])) << 48;
        self.source_v4 = self.source_v4 & !MAC_START | start;
        self.role_and_bridge &= !(MAC_END | TAKES | GENERIC);
        self.role_and_bridge |= end | takes.bits() << TAKES_SHIFT;
        if is_generic {
            self.role_and_bridge |= GENERIC;
        }
        self.sealed(index)
    }

    const fn sealed(mut self, index: u32) -> Self {
        self.seal = self.seal_for(index);
        self
    }

    #[inline(always)]
    #[expect(
        clippy::as_conversions,
        reason = "u32 to u64 loses nothing, and From is not const"
    )]
    const fn seal_for(&self, index: u32) -> u64 {
        let [high, low] = self.source_v6;
        let state = hash::mix(index as u64, self.role_and_bridge);
        hash::mix(hash::mix(hash::mix(state, self.source_v4), high), low)
    }

    /// Whether this is one whole record, that of the device with interface `index`.
    #[inline(always)]
    pub const fn belongs_to(&self, index: u32) -> bool {
        self.seal == self.seal_for(index)
    }

    /// What the device leads to.
    #[inline(always)]
    pub const fn role(&self) -> Role {
        if self.role_and_bridge & ROLE_UPLINK == 0 {
            Role::Workload
        } else {
            Role::Uplink
        }
    }

    /// Whether packets that it brings or takes may be sent on at once.
    #[inline(always)]
    pub const fn is_open(&self) -> bool {
        self.role_and_bridge & OPEN != 0
    }

    /// Whether nobody else looks at what it brings.
    #[inline(always)]
    pub const fn is_clear(&self) -> bool {
        self.role_and_bridge & (CLEAR | OPEN) != 0
    }

    /// Which frames XDP programs may have it send.
    #[inline(always)]
    pub const fn takes(&self) -> Takes {
        Takes::from_bits(self.role_and_bridge >> TAKES_SHIFT)
    }

    /// Whether the XDP program at it sees packets of the host's (generic XDP), which any device can send.
    #[inline(always)]
    pub const fn is_generic(&self) -> bool {
        self.role_and_bridge & GENERIC != 0
    }

    /// Its MAC, as a big-endian value of 48 bits.
    #[inline(always)]
    pub const fn mac(&self) -> u64 {
        (self.source_v4 & MAC_START) >> 16 | self.role_and_bridge >> 48
    }

    /// Interface index of the bridge that the device is a port of, 0 for none.
    #[inline(always)]
    pub const fn bridge(&self) -> u32 {
        hash::lower(self.role_and_bridge)
    }

    /// The address that flows get which leave by the device and must come back to this node; the
    /// unspecified one where it has none of the family.
    #[inline(always)]
    pub fn source<F: Family>(&self) -> F::Address {
        F::from_halves(if F::IS_V6 {
            self.source_v6
        } else {
            [self.source_v4 & !MAC_START, 0]
        })
    }
}

const _: () = assert!(size_of::<DeviceRecord>() == 40);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_what_it_was_made_of() {
        let workload = DeviceRecord::workload(7, 3);
        assert_eq!((workload.role(), workload.bridge()), (Role::Workload, 3));
        assert_eq!(workload.source::<V4>(), [0; 4]);
        let uplink = DeviceRecord::uplink(7, [192, 0, 2, 1], [9; 16]);
        assert_eq!((uplink.role(), uplink.bridge()), (Role::Uplink, 0));
        assert_eq!(uplink.source::<V4>(), [192, 0, 2, 1]);
        assert_eq!(uplink.source::<V6>(), [9; 16]);
    }

    #[test]
    fn a_record_says_whether_it_is_open_and_nothing_else_changes() {
        let closed = DeviceRecord::uplink(7, [192, 0, 2, 1], [9; 16]);
        let open = closed.opened(7, true);
        assert!(open.is_open() && open.belongs_to(7) && !closed.is_open());
        assert_eq!(open.role(), Role::Uplink);
        assert_eq!(open.opened(7, false), closed);
        let workload = DeviceRecord::workload(8, 3).opened(8, true);
        assert_eq!((workload.role(), workload.bridge()), (Role::Workload, 3));
        assert!(workload.is_open() && !workload.belongs_to(7));
    }

    #[test]
    fn a_record_says_whether_others_look_on_and_an_open_one_says_no() {
        let closed = DeviceRecord::uplink(7, [192, 0, 2, 1], [9; 16]);
        let clear = closed.cleared(7, true);
        assert!(clear.is_clear() && !clear.is_open() && clear.belongs_to(7));
        assert_eq!(clear.cleared(7, false), closed);
        assert!(closed.opened(7, true).is_clear() && !closed.is_clear());
        let told = clear.with_frames(7, [0xff; 6], Takes::AllFrames, true);
        assert!(told.is_clear() && !told.is_open() && told.is_generic());
    }

    #[test]
    fn what_xdp_programs_must_know_lies_beside_the_rest() {
        let mac = [0x02, 0xa1, 0xb2, 0xc3, 0xd4, 0xe5];
        let plain = DeviceRecord::uplink(7, [192, 0, 2, 1], [9; 16]).opened(7, true);
        for takes in [
            Takes::Nothing,
            Takes::Packets,
            Takes::Frames,
            Takes::AllFrames,
        ] {
            let told = plain.with_frames(7, mac, takes, true);
            assert!(told.belongs_to(7) && told.is_open() && told.is_generic());
            assert_eq!((told.takes(), told.mac()), (takes, 0x02a1_b2c3_d4e5));
            assert_eq!((told.role(), told.bridge()), (Role::Uplink, 0));
            assert_eq!(told.source::<V4>(), [192, 0, 2, 1]);
            assert_eq!(told.source::<V6>(), [9; 16]);
            assert_eq!(
                told.with_frames(7, [0; 6], Takes::Nothing, false),
                plain,
                "nothing is left of it"
            );
        }
        let pod = DeviceRecord::workload(8, 3).with_frames(8, mac, Takes::Frames, false);
        assert_eq!((pod.bridge(), pod.takes()), (3, Takes::Frames));
        assert!(!pod.is_generic() && !pod.is_open());
    }

    #[test]
    fn a_record_of_another_device_or_half_of_one_is_noticed() {
        let one = DeviceRecord::uplink(7, [192, 0, 2, 1], [9; 16]);
        let other = DeviceRecord::uplink(7, [192, 0, 2, 2], [8; 16]);
        assert!(one.belongs_to(7) && !one.belongs_to(8));
        for mixed in [
            DeviceRecord {
                source_v4: other.source_v4,
                ..one
            },
            DeviceRecord {
                source_v6: [one.source_v6[0], other.source_v6[1]],
                ..one
            },
            DeviceRecord {
                role_and_bridge: 0,
                ..one
            },
        ] {
            assert!(!mixed.belongs_to(7), "{mixed:?}");
        }
    }
}

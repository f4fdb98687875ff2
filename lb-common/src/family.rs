//! The two address families behind one trait, so that every decision is written once.
//!
//! An IPv4 flow must not pay for IPv6 addresses, so the packet path is generic over [`Family`];
//! tables that are read once a connection hold the 16-byte mapped form of both.

use core::fmt::Debug;
use core::hash::Hash;

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An address of either family as tables hold it: IPv4 as `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2).
pub type MappedAddress = [u8; 16];

const MAPPED_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// IPv4 or IPv6, chosen at compile time.
pub trait Family: Copy + Debug + Default + Eq + Send + Sync + 'static {
    /// An address in network order.
    type Address: Copy
        + Debug
        + Default
        + Eq
        + FromBytes
        + Hash
        + Immutable
        + IntoBytes
        + Ord
        + Send
        + Sync;

    /// Whether this is IPv6.
    const IS_V6: bool;

    /// The 16-byte form used in tables.
    fn mapped(address: Self::Address) -> MappedAddress;

    /// The address of this family that `mapped` is the table form of, if it is of this family.
    fn from_mapped(mapped: MappedAddress) -> Option<Self::Address>;

    /// The address as two words for hashing and for flow entries: an IPv4 address is the first,
    /// the second then is 0. Big-endian value, so that it reads the same on every machine.
    fn halves(address: Self::Address) -> [u64; 2];

    /// The inverse of [`Self::halves`].
    fn from_halves(halves: [u64; 2]) -> Self::Address;
}

/// IPv4 (RFC 791).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct V4;

/// IPv6 (RFC 8200).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct V6;

impl Family for V4 {
    type Address = [u8; 4];

    const IS_V6: bool = false;

    #[inline(always)]
    fn mapped(address: [u8; 4]) -> MappedAddress {
        let [a, b, c, d] = address;
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
    }

    #[inline(always)]
    fn from_mapped(mapped: MappedAddress) -> Option<[u8; 4]> {
        let (prefix, [a, b, c, d]) = split_mapped(mapped);
        (prefix == MAPPED_PREFIX).then_some([a, b, c, d])
    }

    #[inline(always)]
    fn halves(address: [u8; 4]) -> [u64; 2] {
        [u64::from(u32::from_be_bytes(address)), 0]
    }

    #[inline(always)]
    fn from_halves([value, _]: [u64; 2]) -> [u8; 4] {
        let [_, _, _, _, a, b, c, d] = value.to_be_bytes();
        [a, b, c, d]
    }
}

impl Family for V6 {
    type Address = [u8; 16];

    const IS_V6: bool = true;

    #[inline(always)]
    fn mapped(address: [u8; 16]) -> MappedAddress {
        address
    }

    #[inline(always)]
    fn from_mapped(mapped: MappedAddress) -> Option<[u8; 16]> {
        (split_mapped(mapped).0 != MAPPED_PREFIX).then_some(mapped)
    }

    #[inline(always)]
    fn halves(address: [u8; 16]) -> [u64; 2] {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
        [
            u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            u64::from_be_bytes([i, j, k, l, m, n, o, p]),
        ]
    }

    #[inline(always)]
    fn from_halves([high, low]: [u64; 2]) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = high.to_be_bytes();
        let [i, j, k, l, m, n, o, p] = low.to_be_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }
}

#[inline(always)]
const fn split_mapped(mapped: MappedAddress) -> ([u8; 12], [u8; 4]) {
    let [a, b, c, d, e, f, g, h, i, j, k, l, rest @ ..] = mapped;
    ([a, b, c, d, e, f, g, h, i, j, k, l], rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_belong_to_one_family_only() {
        let v4 = V4::mapped([10, 96, 0, 1]);
        assert_eq!(V4::from_mapped(v4), Some([10, 96, 0, 1]));
        assert_eq!(V6::from_mapped(v4), None);
        let v6 = [0xfd, 0, 0, 0x10, 0, 0x96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(V6::from_mapped(V6::mapped(v6)), Some(v6));
        assert_eq!(V4::from_mapped(v6), None);
    }

    #[test]
    fn halves_are_inverted() {
        assert_eq!(V4::from_halves(V4::halves([1, 2, 3, 4])), [1, 2, 3, 4]);
        let v6 = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        assert_eq!(V6::from_halves(V6::halves(v6)), v6);
    }
}

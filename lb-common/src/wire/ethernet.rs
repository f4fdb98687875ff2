//! Ethernet II with IEEE 802.1Q tags.

/// Bytes of an untagged header.
pub const HEADER_LENGTH: u32 = 14;
/// Bytes each VLAN tag adds.
pub const TAG_LENGTH: u32 = 4;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of a VLAN tag (IEEE 802.1Q).
pub const VLAN: u16 = 0x8100;
/// EtherType of a service provider's VLAN tag (IEEE 802.1ad).
pub const SERVICE_VLAN: u16 = 0x88a8;

/// Whether a VLAN tag follows this EtherType.
#[inline(always)]
pub const fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, VLAN | SERVICE_VLAN)
}

/// Destination and source MAC, the header's first 12 bytes, each in the other's place.
#[must_use]
#[inline(always)]
pub const fn swap(addresses: [u8; 12]) -> [u8; 12] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = addresses;
    [g, h, i, j, k, l, a, b, c, d, e, f]
}

/// Whether the destination of a header with these first 12 bytes is a group (multicast or
/// broadcast, IEEE 802 §8.2.2).
#[inline(always)]
pub const fn is_to_group(addresses: [u8; 12]) -> bool {
    let [first, ..] = addresses;
    first & 1 != 0
}

/// The MACs that a frame begins with. As numbers: bytes would be copied one by one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Macs {
    /// The first eight bytes, as a big-endian value.
    pub(crate) start: u64,
    /// The last four.
    pub(crate) end: u32,
}

impl Macs {
    /// Those with these bytes.
    #[must_use]
    #[inline(always)]
    pub const fn of([a, b, c, d, e, f, g, h, i, j, k, l]: [u8; 12]) -> Self {
        Self {
            start: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            end: u32::from_be_bytes([i, j, k, l]),
        }
    }

    /// The same of two bytes each, as big-endian values.
    #[must_use]
    #[inline(always)]
    pub fn of_halves([a, b, c, d, e, f]: [u16; 6]) -> Self {
        let [a, b, c, d] = [a, b, c, d].map(u64::from);
        Self {
            start: a << 48 | b << 32 | c << 16 | d,
            end: u32::from(e) << 16 | u32::from(f),
        }
    }
}

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

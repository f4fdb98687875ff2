//! `SOURCE_RANGES`: who may dial a load balancer's address, an LPM trie over service and client.
//!
//! Asked only where the frontend's value says so ([`has_source_ranges`]): a search costs 76 ns. A
//! client that no network of the service holds is dropped, with or without endpoints.
//!
//! [`has_source_ranges`]: super::frontend::FrontendValue::has_source_ranges

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::family::MappedAddress;

/// Bits of the service index in front of the address.
const SERVICE_BITS: u32 = 32;
/// Bits of the prefix that makes an IPv4 address a mapped one.
const MAPPED_BITS: u32 = 96;

/// Key of `SOURCE_RANGES`. Written by the agent only.
#[derive(
    Clone,
    Copy,
    Debug,
    Eq,
    FromBytes,
    Hash,
    Immutable,
    IntoBytes,
    KnownLayout,
    Ord,
    PartialEq,
    PartialOrd,
)]
#[repr(C)]
pub struct SourceRangeKey {
    /// Bits that count of what follows, as the kernel wants it: in its own byte order.
    prefix: u32,
    /// Index into `SERVICES`, network order.
    service: [u8; 4],
    /// Mapped address of the client or network, network order.
    address: MappedAddress,
}

impl SourceRangeKey {
    /// The key of a network of `length` bits of its own family, for the service at `service`.
    #[must_use]
    pub const fn network(service: u32, address: MappedAddress, length: u8, is_v6: bool) -> Self {
        let [length, most] = widths(length, is_v6);
        let bits = if length < most { length } else { most };
        let skipped = if is_v6 { 0 } else { MAPPED_BITS };
        Self {
            prefix: SERVICE_BITS.wrapping_add(skipped).wrapping_add(bits),
            service: service.to_be_bytes(),
            address,
        }
    }

    /// The key that asks for the networks that hold `client`.
    #[must_use]
    #[inline(always)]
    pub const fn client(service: u32, client: MappedAddress) -> Self {
        Self {
            prefix: SERVICE_BITS.wrapping_add(128),
            service: service.to_be_bytes(),
            address: client,
        }
    }

    /// The key with these parts: bits that count, then what [`Self::data`] gives.
    #[must_use]
    pub const fn from_parts(prefix: u32, data: [u8; 20]) -> Self {
        let [a, b, c, d, address @ ..] = data;
        Self {
            prefix,
            service: [a, b, c, d],
            address,
        }
    }

    /// What follows the number of bits: service index and address.
    #[must_use]
    #[inline(always)]
    pub const fn data(&self) -> [u8; 20] {
        let [a, b, c, d] = self.service;
        let [e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t] = self.address;
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t]
    }

    /// Index into `SERVICES`.
    #[must_use]
    pub const fn service(&self) -> u32 {
        u32::from_be_bytes(self.service)
    }

    /// The network: its mapped address, and how many of its bits count.
    #[must_use]
    pub const fn mapped_network(&self) -> (MappedAddress, u32) {
        (self.address, self.prefix.saturating_sub(SERVICE_BITS))
    }

    /// Bits that count, service index included.
    #[must_use]
    pub const fn prefix(&self) -> u32 {
        self.prefix
    }

    /// Whether the network of this key holds the client of `other`: what the kernel's search does.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        let bits = |key: &Self| {
            let [a, b, c, d] = key.service;
            (
                u32::from_be_bytes([a, b, c, d]),
                u128::from_be_bytes(key.address),
            )
        };
        let ((service, address), (other_service, other_address)) = (bits(self), bits(other));
        let length = self.prefix.saturating_sub(SERVICE_BITS);
        let mask = u128::MAX
            .checked_shl(128_u32.saturating_sub(length))
            .unwrap_or(0);
        service == other_service && address & mask == other_address & mask
    }
}

#[expect(
    clippy::as_conversions,
    reason = "u8 to u32 loses nothing, and From is not const"
)]
const fn widths(length: u8, is_v6: bool) -> [u32; 2] {
    [length as u32, if is_v6 { 128 } else { 32 }]
}

const _: () = assert!(size_of::<SourceRangeKey>() == 24);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::{Family as _, V4};

    #[test]
    fn a_network_holds_its_own_service_s_clients_and_no_other() {
        let network = SourceRangeKey::network(7, V4::mapped([203, 0, 113, 0]), 25, false);
        assert_eq!(network.prefix(), 32 + 96 + 25);
        let client = |service, address| SourceRangeKey::client(service, V4::mapped(address));
        assert!(network.holds(&client(7, [203, 0, 113, 127])));
        assert!(!network.holds(&client(7, [203, 0, 113, 128])));
        assert!(!network.holds(&client(8, [203, 0, 113, 1])));
    }

    #[test]
    fn a_network_of_all_addresses_of_a_family_holds_none_of_the_other() {
        let mut v6 = [0; 16];
        v6[0] = 0xfd;
        let all_v4 = SourceRangeKey::network(1, V4::mapped([0; 4]), 0, false);
        assert!(all_v4.holds(&SourceRangeKey::client(1, V4::mapped([9, 9, 9, 9]))));
        assert!(!all_v4.holds(&SourceRangeKey::client(1, v6)));
    }
}

//! `SERVICE_FILTER`, `BACKEND_FILTER` and `NODE_PORTS`: bit sets that say of most packets, in one
//! array lookup, that they concern no service.
//!
//! A bit that is set may mean another address (a packet then costs one more lookup); a bit that is
//! clear is certain. The agent sets bits before it publishes what they stand for, and clears them
//! once neither a table nor a flow needs them.

use crate::family::Family;
use crate::flow::Protocol;
use crate::hash;

/// Words of `SERVICE_FILTER`: 2^19 bits, 64 KiB.
pub const SERVICE_FILTER_WORDS: u32 = 1 << 13;
/// Words of `BACKEND_FILTER`: 2^23 bits, 1 MiB. There are many more backends than services, and a
/// packet to a pod that meets a bit of another costs a search of the flow table: with a million
/// backends one packet in nine does.
pub const BACKEND_FILTER_WORDS: u32 = 1 << 17;
/// Words of `NODE_PORTS`: 2^16 bits for each protocol, 24 KiB.
pub const NODE_PORT_WORDS: u32 = 3 << 10;

/// A bit of a filter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FilterBit {
    /// Index of the word.
    pub word: u32,
    /// The word's bit as a mask.
    pub mask: u64,
}

impl FilterBit {
    #[inline(always)]
    const fn of(hash: u64, words: u32) -> Self {
        Self {
            word: hash::upper(hash) & words.wrapping_sub(1),
            mask: 1 << (hash & 63),
        }
    }

    /// The bit of `SERVICE_FILTER` for a service address.
    #[must_use]
    #[inline(always)]
    pub fn service<F: Family>(address: F::Address) -> Self {
        let [high, low] = F::halves(address);
        Self::of(hash::mix(high, low), SERVICE_FILTER_WORDS)
    }

    /// The bit of `SERVICE_FILTER` for an address of this node that takes node ports. Another one
    /// than a service's, since the two are asked for at different places.
    #[must_use]
    #[inline(always)]
    pub fn node<F: Family>(address: F::Address) -> Self {
        let [high, low] = F::halves(address);
        Self::of(hash::mix(hash::mix(high, low), 2), SERVICE_FILTER_WORDS)
    }

    /// The bit of `BACKEND_FILTER` for a backend: whether replies may come from it. A hairpin's
    /// replies come from the client's own address, which then is a backend's.
    #[must_use]
    #[inline(always)]
    pub fn backend<F: Family>(address: F::Address) -> Self {
        let [high, low] = F::halves(address);
        Self::of(hash::mix(hash::mix(high, low), 1), BACKEND_FILTER_WORDS)
    }

    /// The bit of `NODE_PORTS` for a port, host order: whether it is a node port, or was when a
    /// living flow began.
    #[must_use]
    #[inline(always)]
    pub const fn node_port(protocol: Protocol, port: u16) -> Self {
        let [high, low] = port.to_be_bytes();
        let port = u32::from_be_bytes([0, 0, high, low]);
        let first = match protocol {
            Protocol::Tcp => 0,
            Protocol::Udp => 1 << 10,
            Protocol::Sctp => 2 << 10,
        };
        Self {
            word: first | port >> 6,
            mask: 1 << (port & 63),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_node_port_has_a_bit_of_its_own() {
        let mut bits = BTreeSet::new();
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            for port in 0..=u16::MAX {
                let bit = FilterBit::node_port(protocol, port);
                assert!(bit.word < NODE_PORT_WORDS && bit.mask.is_power_of_two());
                assert!(bits.insert((bit.word, bit.mask)));
            }
        }
    }
}

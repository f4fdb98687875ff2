//! Which bits of the two filters are set.
//!
//! Bits are only ever set. Clearing one would take the addresses of every live flow, and a bit that
//! is left costs some packets one more lookup; a rebuild of the maps starts with empty filters.

use lb_common::family::{Family as _, MappedAddress, V4, V6};
use lb_common::table::filter::{FILTER_WORDS, FilterBit};

/// The bits of one filter.
#[derive(Clone, Debug)]
pub(super) struct Bits(Vec<u64>);

impl Default for Bits {
    fn default() -> Self {
        Self(vec![0; FILTER_WORDS as usize])
    }
}

impl Bits {
    /// Sets a bit; true if it was not set before.
    pub(super) fn set(&mut self, bit: FilterBit) -> bool {
        let Some(word) = self.0.get_mut(bit.word as usize) else {
            return false;
        };
        let is_new = *word & bit.mask == 0;
        *word |= bit.mask;
        is_new
    }

    /// A word.
    pub(super) fn word(&self, word: u32) -> u64 {
        self.0.get(word as usize).copied().unwrap_or(0)
    }
}

/// The bit of `SERVICE_FILTER` for a table's address.
pub(crate) fn service_bit(address: MappedAddress) -> FilterBit {
    match V4::from_mapped(address) {
        Some(address) => FilterBit::service::<V4>(address),
        None => FilterBit::service::<V6>(address),
    }
}

/// The bit of `SERVICE_FILTER` for an address of this node that takes node ports.
pub(crate) fn node_bit(address: MappedAddress) -> FilterBit {
    match V4::from_mapped(address) {
        Some(address) => FilterBit::node::<V4>(address),
        None => FilterBit::node::<V6>(address),
    }
}

/// The bit of `BACKEND_FILTER` for a table's address.
pub(crate) fn backend_bit(address: MappedAddress) -> FilterBit {
    match V4::from_mapped(address) {
        Some(address) => FilterBit::backend::<V4>(address),
        None => FilterBit::backend::<V6>(address),
    }
}

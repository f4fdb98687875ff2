//! Which bits of the filters are set.
//!
//! Bits are only ever set. Clearing one would take the addresses of every live flow, and a bit that
//! is left costs some packets one more lookup; a rebuild of the maps starts with empty filters.

use lb_common::family::{Family as _, MappedAddress, V4, V6};
use lb_common::table::filter::{
    BACKEND_FILTER_WORDS, FilterBit, NODE_PORT_WORDS, SERVICE_FILTER_WORDS,
};
use lb_common::table::frontend::FrontendKey;

/// The bits of one filter.
#[derive(Clone, Debug)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    /// `SERVICE_FILTER`, empty.
    pub(super) fn of_services() -> Self {
        Self(vec![0; SERVICE_FILTER_WORDS as usize])
    }

    /// `BACKEND_FILTER`, empty.
    pub(super) fn of_backends() -> Self {
        Self(vec![0; BACKEND_FILTER_WORDS as usize])
    }

    /// `NODE_PORTS`, empty.
    pub(super) fn of_node_ports() -> Self {
        Self(vec![0; NODE_PORT_WORDS as usize])
    }

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

/// The bit of `NODE_PORTS` for a node port's frontend; none for others.
pub(crate) fn node_port_bit(key: &FrontendKey) -> Option<FilterBit> {
    let protocol = key.protocol().filter(|_| key.is_node_port())?;
    Some(FilterBit::node_port(protocol, key.port()))
}

/// The bit of `BACKEND_FILTER` for a table's address.
pub(crate) fn backend_bit(address: MappedAddress) -> FilterBit {
    match V4::from_mapped(address) {
        Some(address) => FilterBit::backend::<V4>(address),
        None => FilterBit::backend::<V6>(address),
    }
}

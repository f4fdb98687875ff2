//! Whether an address is a service's, and what is behind a port of it.

use crate::family::Family;
use crate::flow::{FlowTuple, Hook};
use crate::hash;
use crate::table::config::{Cidr, MAX_CIDRS, SERVICE_CIDR_COUNTS};
use crate::table::filter::FilterBit;
use crate::table::frontend::{FrontendKey, FrontendValue};
use crate::tables::Tables;

/// What an address is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AddressKind {
    /// A service's; `has_ready` says whether any of its ports has a ready endpoint.
    Service {
        /// Whether an echo request is answered.
        has_ready: bool,
    },
    /// No Service's, but in a service CIDR.
    Unallocated,
    /// None of our business.
    Foreign,
}

/// Whether `address` may be a service's, or may have been when a living flow began: one array
/// lookup, which most packets end with.
#[inline(always)]
pub fn may_be_service<F: Family>(tables: &impl Tables, address: F::Address) -> bool {
    let bit = FilterBit::service::<F>(address);
    tables.service_filter(bit.word) & bit.mask != 0
}

/// Whether `address` may be a backend's: the same for replies.
#[inline(always)]
pub fn may_be_backend<F: Family>(tables: &impl Tables, address: F::Address) -> bool {
    let bit = FilterBit::backend::<F>(address);
    tables.backend_filter(bit.word) & bit.mask != 0
}

/// Whether the address by which packets at `hook` are recognised may concern a service.
#[inline(always)]
pub fn may_concern<F: Family>(
    tables: &impl Tables,
    hook: Hook,
    source: F::Address,
    destination: F::Address,
) -> bool {
    match hook {
        Hook::Ingress => may_be_service::<F>(tables, destination),
        Hook::Egress => may_be_backend::<F>(tables, source),
    }
}

/// Whether `address` is in a service CIDR.
#[inline(never)]
pub fn in_service_cidr<F: Family>(tables: &impl Tables, address: F::Address) -> bool {
    let counts = tables.config(SERVICE_CIDR_COUNTS);
    let count = if F::IS_V6 {
        hash::upper(counts)
    } else {
        hash::lower(counts)
    };
    let matches = |position| {
        position < count && Cidr::<F>::read(position, |word| tables.config(word)).contains(address)
    };
    // Written out: the compiler turns a loop into one whose end is `count`, of which the kernel's
    // verifier knows no bound.
    matches(0)
        || matches(1)
        || matches(2)
        || matches(3)
        || matches(4)
        || matches(5)
        || matches(6)
        || matches(7)
}

const _: () = assert!(MAX_CIDRS == 8);

/// The value of `key`. A value of another key means that the element was reused between the
/// kernel's search and our read: the second search finds the truth.
#[inline(always)]
fn frontend_value(tables: &impl Tables, key: &FrontendKey) -> Option<FrontendValue> {
    let value = FrontendValue(tables.frontend(key)?);
    if value.belongs_to(key) {
        return Some(value);
    }
    tables
        .frontend(key)
        .map(FrontendValue)
        .filter(|value| value.belongs_to(key))
}

/// The service port that `tuple`'s destination is a frontend of.
#[inline(always)]
pub fn frontend<F: Family>(tables: &impl Tables, tuple: &FlowTuple<F>) -> Option<FrontendValue> {
    let address = F::mapped(tuple.destination);
    frontend_value(
        tables,
        &FrontendKey::new(address, tuple.destination_port, tuple.protocol),
    )
}

/// What `address` is, where no port of it matched.
#[inline(always)]
pub fn address_kind<F: Family>(tables: &impl Tables, address: F::Address) -> AddressKind {
    match frontend_value(tables, &FrontendKey::service_address(F::mapped(address))) {
        Some(value) => AddressKind::Service {
            has_ready: value.has_ready(),
        },
        None if in_service_cidr::<F>(tables, address) => AddressKind::Unallocated,
        None => AddressKind::Foreign,
    }
}

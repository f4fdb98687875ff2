//! Whether an address is a service's, and what is behind a port of it.

use crate::family::{Family, MappedAddress};
use crate::flow::{FlowTuple, Hook, Protocol};
use crate::hash;
use crate::table::config::{
    CLUSTER_CIDR_COUNTS, Cidr, HOST_CIDR_COUNTS, MAX_CIDRS, MAX_HOST_CIDRS, SERVICE_CIDR_COUNTS,
};
use crate::table::device::Role;
use crate::table::filter::FilterBit;
use crate::table::frontend::{FrontendKey, FrontendKind, FrontendValue};
use crate::table::node_address::NodeAddress;
use crate::table::service::Audience;
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

/// Whether `address` may be one of this node's that takes node ports: the same again.
#[inline(always)]
pub fn may_be_node<F: Family>(tables: &impl Tables, address: F::Address) -> bool {
    let bit = FilterBit::node::<F>(address);
    tables.service_filter(bit.word) & bit.mask != 0
}

/// Whether `port` may be a node port, or may have been when a living flow began.
#[inline(always)]
pub fn may_be_node_port(tables: &impl Tables, protocol: Protocol, port: u16) -> bool {
    let bit = FilterBit::node_port(protocol, port);
    tables.node_ports(bit.word) & bit.mask != 0
}

/// Ports that flows get whose port or source address is changed: below every range that hosts choose
/// their own ports from, above the well-known ones.
pub const OWN_PORTS_FROM: u16 = 1024;
/// How many there are.
pub const OWN_PORTS: u16 = 28_976;

/// Whether `port` is one of [`OWN_PORTS`].
#[inline(always)]
pub const fn is_own_port(port: u16) -> bool {
    port.wrapping_sub(OWN_PORTS_FROM) < OWN_PORTS
}

/// Whether packets with `tuple` that are seen at this side of such a device may concern a service:
/// one or two array lookups, which most packets end with.
///
/// A pod may reach its own service by a node port; what it then sends to itself goes to an address of
/// the node and to whatever port, so pods' devices ask for the address. Much of what comes by an
/// uplink is for this node itself, so there the port is asked for; replies to this node's source
/// addresses come to ports of their own, also from pods, whose clients this node's processes may be.
#[inline(always)]
pub fn may_concern<F: Family>(
    tables: &impl Tables,
    (role, hook): (Role, Hook),
    tuple: &FlowTuple<F>,
) -> bool {
    let FlowTuple {
        source,
        destination,
        source_port,
        destination_port: port,
        protocol,
    } = *tuple;
    match (role, hook) {
        (Role::Workload, Hook::Ingress) => {
            may_be_service::<F>(tables, destination)
                || may_be_node::<F>(tables, destination)
                || (is_own_port(obscured(tables, port, source_port))
                    && may_be_backend::<F>(tables, source))
        }
        (Role::Workload, Hook::Egress) => may_be_backend::<F>(tables, source),
        (Role::Uplink, Hook::Ingress) => {
            may_be_service::<F>(tables, destination)
                || may_be_node_port(tables, protocol, port)
                || (is_own_port(port) && may_be_backend::<F>(tables, source))
        }
        (Role::Uplink, Hook::Egress) => {
            may_be_backend::<F>(tables, source) || may_be_backend::<F>(tables, destination)
        }
    }
}

/// `port`, of whose range the kernel's verifier learns nothing when it is compared.
#[inline(always)]
fn obscured(tables: &impl Tables, port: u16, by: u16) -> u16 {
    let [_, _, high, low] = tables.obscure(port.into(), by.into()).to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// Whether `address` is in a service CIDR.
#[inline(always)]
pub fn in_service_cidr<F: Family>(tables: &impl Tables, address: F::Address) -> bool {
    in_cidrs::<F>(tables, SERVICE_CIDR_COUNTS, Cidr::<F>::FIRST_WORD, address)
}

/// The same, without a call where there is at most one, as in most clusters. Without `asks_all`, who calls
/// knows that there are not more.
#[inline(always)]
pub fn in_few_service_cidrs<F: Family>(
    tables: &impl Tables,
    address: F::Address,
    asks_all: bool,
) -> bool {
    let first = Cidr::<F>::FIRST_WORD;
    match count_of::<F>(tables.config(SERVICE_CIDR_COUNTS)) {
        0 => false,
        1 => Cidr::<F>::read_from(first, 0, |word| tables.config(word)).contains(address),
        _ => asks_all && in_cidrs::<F>(tables, SERVICE_CIDR_COUNTS, first, address),
    }
}

/// Whether there is more than one service CIDR of the family.
#[inline(always)]
pub fn has_many_service_cidrs<F: Family>(tables: &impl Tables) -> bool {
    count_of::<F>(tables.config(SERVICE_CIDR_COUNTS)) > 1
}

/// Whether `address` is in a cluster CIDR.
#[inline(always)]
pub fn in_cluster_cidr<F: Family>(tables: &impl Tables, address: F::Address) -> bool {
    let first = Cidr::<F>::FIRST_CLUSTER_WORD;
    in_cidrs::<F>(tables, CLUSTER_CIDR_COUNTS, first, address)
}

/// Whether `address` is no pod's as far as is known: in a host CIDR, and in no cluster CIDR.
#[inline(always)]
pub fn is_host<F: Family>(tables: &impl Tables, address: F::Address) -> bool {
    let first = Cidr::<F>::FIRST_HOST_WORD;
    in_cidrs::<F>(tables, HOST_CIDR_COUNTS, first, address)
        && !in_cluster_cidr::<F>(tables, address)
}

/// Whether `address` is in one of the CIDRs that begin at word `first`, of which word `counts` says
/// how many there are.
#[inline(never)]
fn in_cidrs<F: Family>(tables: &impl Tables, counts: u32, first: u32, address: F::Address) -> bool {
    let count = count_of::<F>(tables.config(counts));
    let matches = |position| {
        let word = |word| tables.config(word);
        position < count && Cidr::<F>::read_from(first, position, word).contains(address)
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

const _: () = assert!(MAX_CIDRS == 8 && MAX_HOST_CIDRS <= MAX_CIDRS);

/// The family's half of a word of counts.
#[inline(always)]
const fn count_of<F: Family>(counts: u64) -> u32 {
    if F::IS_V6 {
        hash::upper(counts)
    } else {
        hash::lower(counts)
    }
}

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

/// Whether `address` is one of this node's that takes node ports. Read as [`frontend_value`] is.
#[inline(always)]
fn takes_node_ports(tables: &impl Tables, address: &MappedAddress) -> bool {
    let value = || tables.node_address(address).map(NodeAddress);
    let belongs = |value: &NodeAddress| value.belongs_to(*address);
    match value() {
        Some(first) if first.belongs_to(*address) => first.takes_node_ports(),
        Some(_) => value()
            .filter(belongs)
            .is_some_and(NodeAddress::takes_node_ports),
        None => false,
    }
}

/// The service port that `tuple`'s destination is a frontend of: by its address, else by its port if
/// the address is one that takes node ports.
#[inline(always)]
pub fn frontend<F: Family>(tables: &impl Tables, tuple: &FlowTuple<F>) -> Option<FrontendValue> {
    let (port, protocol) = (tuple.destination_port, tuple.protocol);
    let mut key = FrontendKey::new(F::mapped(tuple.destination), port, protocol);
    let exact = frontend_value(tables, &key);
    if exact.is_some() || !may_be_node_port(tables, protocol, port) {
        return exact;
    }
    if !takes_node_ports(tables, &key.address()) {
        return None;
    }
    key = FrontendKey::node_port(F::IS_V6, port, protocol);
    frontend_value(tables, &key)
}

/// Whose policy applies to a client with the address `client` that dials a frontend of this `kind`,
/// seen at a device with this `role`. Who comes by an uplink with an address of this node is no
/// client of the cluster: nobody but this node may have it.
#[inline(always)]
pub fn audience<F: Family>(
    tables: &impl Tables,
    role: Role,
    kind: Option<FrontendKind>,
    client: F::Address,
) -> Audience {
    match (kind, role) {
        (Some(FrontendKind::ClusterIp), _) => Audience::Internal,
        (_, Role::Workload) => Audience::Inside,
        (_, Role::Uplink) if in_cluster_cidr::<F>(tables, client) => Audience::Inside,
        (_, Role::Uplink) => Audience::External,
    }
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

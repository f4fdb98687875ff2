//! What packets meet in the tables, without anything that depends on the tables' past.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lb_common::family::MappedAddress;
use lb_common::hash;
use lb_common::maglev::{self, Cursor, Member};
use lb_common::table::backend::BackendFlags;
use lb_common::table::frontend::{FrontendKey, FrontendKind};
use lb_common::table::region::WhenEmpty;
use lb_common::table::service::{Audience, SERVICE_WORDS};

use crate::plan::expand::PortKey;
use crate::plan::planner::{AUDIENCES, BackendKey};

/// The tables as one side sees them.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// What clients dial, service addresses among it.
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    /// Who serves each service port, by [`Audience`].
    pub ports: BTreeMap<Port, [Set; SERVICE_WORDS]>,
    /// Backends that serve some service port.
    pub backends: BTreeMap<BackendKey, BackendFlags>,
    /// Networks whose clients may dial a service port's load balancer addresses, in words; of those
    /// ports that have source ranges. The agent does not say them.
    pub ranges: BTreeMap<Port, BTreeSet<String>>,
    /// Words of `CONFIG` that are known to this side.
    pub config: BTreeMap<u32, u64>,
    /// The filters; `None` for a side that expects a bit for each of its addresses.
    pub filters: Option<Filters>,
}

/// The bits of the filters.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    /// `SERVICE_FILTER`.
    pub services: Vec<u64>,
    /// `BACKEND_FILTER`.
    pub backends: Vec<u64>,
    /// `NODE_PORTS`.
    pub node_ports: Vec<u64>,
}

/// What the value of a frontend says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frontend {
    /// Where it comes from; `None` for a kind that this version does not know.
    pub kind: Option<FrontendKind>,
    /// Whether only clients in source ranges may dial it.
    pub is_ranged: bool,
    /// Of a service address: whether any of its ports has a ready endpoint.
    pub has_ready: bool,
    /// The service port behind it; `None` for a service address.
    pub port: Option<Port>,
    /// Whether the value is that of another key.
    pub is_foreign: bool,
}

/// A service port, as far as this side can name it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Port {
    /// By its name.
    Named(PortKey),
    /// By its index in `SERVICES`, where nobody knows whose it is.
    Unnamed(u32),
}

impl fmt::Display for Port {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(key) => key.fmt(formatter),
            Self::Unnamed(index) => write!(formatter, "service entry {index}"),
        }
    }
}

/// Who serves the clients of one audience.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Set {
    /// Session affinity timeout in seconds, 0 for none.
    pub affinity_seconds: u32,
    /// What a new flow meets where nobody serves; `None` if this side does not know.
    pub when_empty: Option<WhenEmpty>,
    /// Slots of each backend, of as many as the table has.
    pub shares: BTreeMap<BackendKey, u32>,
    /// A hash of which backend has which slot.
    pub slots: u64,
    /// Why the kernel's region cannot be read.
    pub flaw: Option<String>,
}

impl Set {
    /// The set of backends with their weights, which are not 0.
    pub fn of_weights(
        weights: &BTreeMap<BackendKey, u16>,
        affinity_seconds: u32,
        when_empty: Option<WhenEmpty>,
    ) -> Self {
        let count = u32::try_from(weights.len()).unwrap_or(u32::MAX);
        let members: Vec<_> = weights
            .iter()
            .map(|(key, &weight)| Member {
                identity: maglev::identity(key.address, key.port, key.protocol),
                weight,
            })
            .collect();
        let size = maglev::table_size(count) as usize;
        let mut slots = vec![0; size];
        if size > 0 {
            let mut cursors = vec![Cursor::default(); members.len()];
            // A set that cannot have a table has none: then no slot is right.
            if maglev::fill(&members, &mut slots, &mut cursors).is_err() {
                slots.clear();
            }
        }
        let keys: Vec<_> = weights.keys().copied().collect();
        Self {
            affinity_seconds,
            when_empty,
            ..Self::of_slots(&keys, &slots)
        }
    }

    /// The set of `backends`, ascending, whose slots are positions among them. One backend has no
    /// table, and all of it.
    pub fn of_slots(backends: &[BackendKey], slots: &[u16]) -> Self {
        let mut counts = vec![0; backends.len()];
        let mut hashed = slots.len() as u64;
        for &slot in slots {
            hashed = hash::mix(hashed, u64::from(slot) + 1);
            if let Some(count) = counts.get_mut(usize::from(slot)) {
                *count += 1;
            }
        }
        if let ([only], true) = (counts.as_mut_slice(), slots.is_empty()) {
            *only = 1;
        }
        Self {
            shares: backends.iter().copied().zip(counts).collect(),
            slots: hashed,
            ..Self::default()
        }
    }

    /// Whether both serve alike, as far as both know.
    pub fn agrees(&self, other: &Self) -> bool {
        let is_known = self.when_empty.is_some() && other.when_empty.is_some();
        self.affinity_seconds == other.affinity_seconds
            && self.shares == other.shares
            && self.slots == other.slots
            && self.flaw == other.flaw
            && (!is_known || self.when_empty == other.when_empty)
    }
}

/// Flags of a backend that several service ports may have among their endpoints: it is local if any
/// says so, and terminates once all do.
pub(super) fn join_flags(held: Option<BackendFlags>, is_local: bool, ends: bool) -> BackendFlags {
    let flag = |is_set, bit| if is_set { bit } else { 0 };
    let new = BackendFlags::SERVING
        | flag(is_local, BackendFlags::LOCAL)
        | flag(ends, BackendFlags::TERMINATING);
    let Some(BackendFlags(held)) = held else {
        return BackendFlags(new);
    };
    let all = held & new & BackendFlags::TERMINATING;
    BackendFlags((held | new) & !BackendFlags::TERMINATING | all)
}

/// The address of a mapped one, in the family it is of.
pub(crate) fn address_of(mapped: MappedAddress) -> std::net::IpAddr {
    std::net::Ipv6Addr::from(mapped).to_canonical()
}

/// The audiences with the sets of a port.
pub(super) fn by_audience(sets: &[Set; SERVICE_WORDS]) -> impl Iterator<Item = (Audience, &Set)> {
    AUDIENCES.into_iter().zip(sets)
}

//! The kernel tables as the agent writes them: one trait, the real maps behind it and a fake in
//! memory that fails when told to.

pub mod affinity;
pub mod attach;
pub mod bpf;
pub mod bpffs;
pub mod chain;
pub mod clsact;
pub mod counters;
pub mod flows;
pub mod inspect;
pub mod layout;
pub mod load;
pub mod maps;
pub mod mmap;
pub mod privilege;
pub mod readback;
pub mod region;
pub mod sweep;
pub mod syscall;
pub mod tables;
pub mod xdp;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::family::MappedAddress;
use lb_common::id::{BackendId, ServiceId};
use lb_common::table::backend::BackendRecord;
use lb_common::table::filter::FilterBit;
use lb_common::table::frontend::{FrontendKey, FrontendValue};
use lb_common::table::node_address::NodeAddress;
use lb_common::table::service::{Audience, SERVICE_WORDS, ServiceWord};
use lb_common::table::source_range::SourceRangeKey;

pub mod memory;

/// One change to one table. A list of them is applied in order, and after each the datapath is
/// sound: that is what the planner's order is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Write {
    /// Writes a backend's record, or only its flags where the id stays.
    SetBackend {
        /// Its id.
        id: BackendId,
        /// The record, of the id's generation.
        record: BackendRecord,
    },
    /// Empties a backend's record; its index may be used again only after quarantine.
    ClearBackend {
        /// Index into `BACKENDS`.
        index: u32,
    },
    /// Writes a region that no service names.
    WriteRegion {
        /// Where it begins, in words.
        offset: u32,
        /// Header, ids and slots.
        words: Vec<u64>,
    },
    /// Points one audience of a service at a region, by one store. Offset 0 takes the service out.
    SetService {
        /// Index into `SERVICES`.
        index: u32,
        /// Whose word.
        audience: Audience,
        /// The new word.
        word: ServiceWord,
    },
    /// Marks an address as one that may be a service's.
    MarkService(FilterBit),
    /// Marks an address as one that may be a backend's.
    MarkBackend(FilterBit),
    /// Marks a port as one that may be a node port.
    MarkNodePort(FilterBit),
    /// Says what an address of this node is, or replaces what was said; marks one that takes node
    /// ports in `SERVICE_FILTER` before.
    SetNodeAddress {
        /// The address.
        address: MappedAddress,
        /// What it is.
        value: NodeAddress,
    },
    /// Forgets an address that this node no longer has.
    RemoveNodeAddress {
        /// The address.
        address: MappedAddress,
    },
    /// Lets the clients of a network dial a service's load balancer addresses.
    AddSourceRange {
        /// Service and network.
        key: SourceRangeKey,
    },
    /// Takes that back.
    RemoveSourceRange {
        /// Service and network.
        key: SourceRangeKey,
    },
    /// Publishes a frontend, or replaces its value.
    SetFrontend {
        /// What clients dial.
        key: FrontendKey,
        /// The service behind it.
        value: FrontendValue,
    },
    /// Takes a frontend away.
    RemoveFrontend {
        /// What clients dialled.
        key: FrontendKey,
    },
    /// Sets a word of `CONFIG`.
    SetConfig {
        /// Which word.
        word: u32,
        /// Its value.
        value: u64,
    },
}

/// Sizes of the tables.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Capacity {
    /// Elements of `FRONTENDS`.
    pub frontends: u32,
    /// Elements of `SERVICES`, index 0 included, which is never used.
    pub services: u32,
    /// Words of `ARENA`; word 0 is never used.
    pub arena_words: u32,
    /// Elements of `BACKENDS`, index 0 included, which is never used.
    pub backends: u32,
    /// Elements of `NODE_ADDRESSES`.
    pub node_addresses: u32,
    /// Elements of `SOURCE_RANGES`.
    pub source_ranges: u32,
}

/// What the tables hold, read back: where an agent that starts again begins.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Actual {
    /// All of `FRONTENDS`.
    pub frontends: BTreeMap<FrontendKey, FrontendValue>,
    /// The used elements of `SERVICES`, words by [`Audience`].
    pub services: ServiceWords,
    /// The regions those words name: offset → words.
    pub regions: BTreeMap<u32, Vec<u64>>,
    /// The used elements of `BACKENDS`.
    pub backends: BTreeMap<u32, BackendRecord>,
    /// All of `CONFIG`.
    pub config: Vec<u64>,
    /// All of `NODE_ADDRESSES`.
    pub node_addresses: BTreeMap<MappedAddress, NodeAddress>,
    /// All of `SOURCE_RANGES`.
    pub source_ranges: BTreeSet<SourceRangeKey>,
}

/// Ids that live flows name: what must not be given to another yet.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct InUse {
    /// Services.
    pub services: BTreeSet<ServiceId>,
    /// Backends.
    pub backends: BTreeSet<BackendId>,
    /// What UDP flows name.
    pub udp_pairs: BTreeSet<UdpPair>,
}

/// What a flow entry names: the service that was dialled and the backend that serves, in a UDP flow.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct UdpPair {
    /// The service.
    pub service: ServiceId,
    /// The backend.
    pub backend: BackendId,
}

/// Where a pass over the flow tables is: IPv4 comes first.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowCursor {
    /// Whether it has come to IPv6.
    pub is_v6: bool,
    /// The next bucket of that table.
    pub bucket: u32,
}

/// What a step of a pass over the flow tables did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CutStep {
    /// Entries that were to go.
    pub met: u64,
    /// Where the next step begins; `None` once all have been looked at.
    pub next: Option<FlowCursor>,
}

/// A write or read that the kernel (or the fake) refused.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// A table has no room: raise its size in the settings. Existing entries are untouched.
    #[error("table {table} is full ({capacity} entries): raise its size in the settings")]
    Full {
        /// The table's name.
        table: &'static str,
        /// Its size.
        capacity: u32,
    },
    /// A write outside a table: a bug of the planner.
    #[error("index {index} is outside of table {table} ({capacity} entries)")]
    OutOfRange {
        /// The table's name.
        table: &'static str,
        /// What was asked for.
        index: u32,
        /// Its size.
        capacity: u32,
    },
    /// A system call failed; it may succeed when tried again.
    #[error("{operation} on table {table}: {source}")]
    Kernel {
        /// What was tried.
        operation: &'static str,
        /// The table's name.
        table: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
}

/// The words of the used elements of `SERVICES`, by index.
pub type ServiceWords = BTreeMap<u32, [ServiceWord; SERVICE_WORDS]>;

/// Where the regions begin that words name, each once.
fn named_regions(services: &ServiceWords) -> BTreeSet<u32> {
    let words = services.values().flatten();
    words
        .map(|word| word.offset())
        .filter(|&offset| offset != 0)
        .collect()
}

/// The kernel tables.
pub trait Dataplane {
    /// Sizes of the tables.
    fn capacity(&self) -> Capacity;

    /// Applies one change; on an error nothing has changed.
    fn apply(&mut self, write: &Write) -> Result<(), DataplaneError>;

    /// Returns once every program that was running has ended: what was unpublished before may now
    /// be overwritten.
    fn wait_for_readers(&mut self) -> Result<(), DataplaneError>;

    /// Reads the tables back, but for the words of regions.
    fn read_tables(&self) -> Result<Actual, DataplaneError>;

    /// Hands over each region that `services` of [`Actual`] name, by its offset. One after the other,
    /// since all of them take more memory than everything else.
    fn read_regions(
        &self,
        services: &ServiceWords,
        each: &mut dyn FnMut(u32, &[u64]),
    ) -> Result<(), DataplaneError>;

    /// Reads the tables back.
    fn read_all(&self) -> Result<Actual, DataplaneError> {
        let mut actual = self.read_tables()?;
        let regions = &mut actual.regions;
        self.read_regions(&actual.services, &mut |offset, words| {
            regions.insert(offset, words.to_vec());
        })?;
        Ok(actual)
    }

    /// Reads the flow tables for the ids they name.
    fn ids_in_use(&self) -> Result<InUse, DataplaneError>;

    /// Frees both halves of the UDP flows that `is_stale` says, from `from` on, as far as takes a
    /// few milliseconds.
    fn cut_flows(
        &mut self,
        from: FlowCursor,
        is_stale: &dyn Fn(&UdpPair) -> bool,
    ) -> Result<CutStep, DataplaneError>;

    /// Removes the entries of `AFFINITY` whose service and backend `is_kept` does not say; says how
    /// many they were.
    fn forget_affinity(
        &mut self,
        is_kept: &dyn Fn(ServiceId, BackendId) -> bool,
    ) -> Result<u64, DataplaneError>;
}

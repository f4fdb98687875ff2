//! The pinned tables for a decision that leaves no trace: it reads what the kernel reads, and its
//! writes stay in this process.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};

use lb_common::family::{Family, MappedAddress};
use lb_common::flow::FlowTuple;
use lb_common::flows::layout::{bucket_words, entry_words};
use lb_common::flows::{Bucket, Buckets, SLOTS};
use lb_common::id::{BackendId, ServiceId};
use lb_common::onward::{Hop, Reach};
use lb_common::table::affinity::{AffinityKey, AffinityValue};
use lb_common::table::backend::BackendRecord;
use lb_common::table::fragment::{FragmentKey, FragmentPorts};
use lb_common::table::frontend::FrontendKey;
use lb_common::table::service::{Audience, ServiceWord};
use lb_common::table::source_range::SourceRangeKey;
use lb_common::tables::Tables;
use lb_common::verdict::Reason;
use zerocopy::FromBytes as _;

use crate::cli::error::CliError;
use crate::cli::explain::OwnWays;
use crate::cli::inputs::address_of;
use crate::cli::view::mapped;
use crate::clock;
use crate::dataplane::bpf::Wire;
use crate::dataplane::bpffs::PinPaths;
use crate::dataplane::layout::Table;
use crate::dataplane::mmap::Access;
use crate::dataplane::tables::{
    self, AffinityMap, FrontendMap, NodeAddressMap, SourceRangeMap, WordReader,
};

/// Words of a flow table that were written here, by position.
pub(crate) type Changes = Rc<RefCell<BTreeMap<usize, u64>>>;

/// The buckets of one family, read from the kernel, written here.
#[derive(Clone, Debug)]
pub(crate) struct OverlayBuckets<F> {
    words: WordReader,
    changes: Changes,
    family: PhantomData<F>,
}

impl<F: Family> OverlayBuckets<F> {
    pub(crate) const fn new(words: WordReader, changes: Changes) -> Self {
        Self {
            words,
            changes,
            family: PhantomData,
        }
    }

    fn at(&self, index: u32) -> Option<OverlayBucket> {
        (index < self.words.entries()).then(|| OverlayBucket {
            words: self.words.clone(),
            changes: Rc::clone(&self.changes),
            index,
            words_of_bucket: bucket_words::<F>(),
            words_of_entry: entry_words::<F>(),
        })
    }
}

impl<F: Family> Buckets<F> for OverlayBuckets<F> {
    type Bucket = OverlayBucket;

    fn bucket(&self, index: u32) -> Option<OverlayBucket> {
        self.at(index)
    }

    fn count(&self) -> u32 {
        self.words.entries()
    }
}

impl<F: Family> Buckets<F> for &OverlayBuckets<F> {
    type Bucket = OverlayBucket;

    fn bucket(&self, index: u32) -> Option<OverlayBucket> {
        self.at(index)
    }

    fn count(&self) -> u32 {
        self.words.entries()
    }
}

/// One bucket.
#[derive(Clone, Debug)]
pub(crate) struct OverlayBucket {
    words: WordReader,
    changes: Changes,
    index: u32,
    words_of_bucket: usize,
    words_of_entry: usize,
}

impl OverlayBucket {
    fn load(&self, word: usize) -> u64 {
        let position = self.position(word);
        if let Some(&changed) = self.changes.borrow().get(&position) {
            return changed;
        }
        self.words.element(self.index, word).unwrap_or(0)
    }

    fn store(&self, word: usize, value: u64) {
        self.changes.borrow_mut().insert(self.position(word), value);
    }

    fn position(&self, word: usize) -> usize {
        usize::try_from(self.index)
            .unwrap_or(usize::MAX)
            .saturating_mul(self.words_of_bucket)
            .saturating_add(word)
    }

    const fn entry_word(&self, slot: usize, word: usize) -> usize {
        SLOTS
            .saturating_add(slot.saturating_mul(self.words_of_entry))
            .saturating_add(word)
    }
}

impl Bucket for OverlayBucket {
    fn control(&self, slot: usize) -> u64 {
        // The kernel writes the same memory: entry words are read on this side of the fence only.
        fence(Ordering::SeqCst);
        let control = self.load(slot);
        fence(Ordering::SeqCst);
        control
    }

    fn compare_exchange(&self, slot: usize, current: u64, new: u64) -> bool {
        let is_current = self.control(slot) == current;
        if is_current {
            self.store(slot, new);
        }
        is_current
    }

    fn word(&self, slot: usize, word: usize) -> u64 {
        self.load(self.entry_word(slot, word))
    }

    fn set_word(&self, slot: usize, word: usize, value: u64) {
        self.store(self.entry_word(slot, word), value);
    }
}

/// Every table, with the writes of one decision kept apart.
#[derive(Debug)]
pub(crate) struct DryTables {
    frontends: FrontendMap,
    affinity: AffinityMap,
    node_addresses: NodeAddressMap,
    source_ranges: SourceRangeMap,
    services: WordReader,
    arena: WordReader,
    backends: WordReader,
    config: WordReader,
    service_filter: WordReader,
    backend_filter: WordReader,
    node_ports: WordReader,
    flows_v4: WordReader,
    flows_v6: WordReader,
    changes: Changes,
    notes: RefCell<Vec<Reason>>,
    /// The addresses of the device that the packet leaves by.
    sources: Vec<IpAddr>,
    /// The ways of the packet, where it is this node's own.
    ways: Option<Rc<OwnWays>>,
    /// What the last random number was made of.
    drawn: Cell<u64>,
}

impl DryTables {
    pub(crate) fn open(paths: &PinPaths) -> Result<Self, CliError> {
        let words = |table| WordReader::open(paths, table);
        Ok(Self {
            frontends: tables::frontends(paths, Access::Read)?,
            affinity: tables::affinity(paths, Access::Read)?,
            node_addresses: tables::node_addresses(paths, Access::Read)?,
            source_ranges: tables::source_ranges(paths, Access::Read)?,
            services: words(Table::Services)?,
            arena: words(Table::Arena)?,
            backends: words(Table::Backends)?,
            config: words(Table::Config)?,
            service_filter: words(Table::ServiceFilter)?,
            backend_filter: words(Table::BackendFilter)?,
            node_ports: words(Table::NodePorts)?,
            flows_v4: words(Table::FlowsV4)?,
            flows_v6: words(Table::FlowsV6)?,
            changes: Changes::default(),
            notes: RefCell::default(),
            sources: Vec::new(),
            ways: None,
            drawn: Cell::new(u64::from(clock::flow_seconds().0)),
        })
    }

    /// The packet leaves by a device with these addresses.
    pub(crate) fn leave_by(&mut self, sources: Vec<IpAddr>) {
        self.sources = sources;
    }

    /// The packet is one of this node's own.
    pub(crate) fn dial(&mut self, ways: Rc<OwnWays>) {
        self.ways = Some(ways);
    }
}

impl Tables for DryTables {
    type Flows<F: Family> = OverlayBuckets<F>;

    fn config(&self, word: u32) -> u64 {
        self.config.load(word).unwrap_or(0)
    }

    fn frontend(&self, key: &FrontendKey) -> Option<u64> {
        self.frontends.get(&Wire(*key), 0).ok()
    }

    fn service(&self, index: u32, audience: Audience) -> Option<ServiceWord> {
        let word = self.services.element(index, audience.position());
        word.map(ServiceWord)
    }

    fn arena(&self, word: u32) -> Option<u64> {
        self.arena.load(word)
    }

    fn backend(&self, index: u32) -> Option<BackendRecord> {
        let mut bytes = [0; size_of::<BackendRecord>()];
        for (position, chunk) in bytes.chunks_exact_mut(size_of::<u64>()).enumerate() {
            let word = self.backends.element(index, position)?;
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        BackendRecord::read_from_bytes(&bytes).ok()
    }

    fn service_filter(&self, word: u32) -> u64 {
        self.service_filter.load(word).unwrap_or(u64::MAX)
    }

    fn backend_filter(&self, word: u32) -> u64 {
        self.backend_filter.load(word).unwrap_or(u64::MAX)
    }

    fn node_ports(&self, word: u32) -> u64 {
        self.node_ports.load(word).unwrap_or(u64::MAX)
    }

    fn node_address(&self, address: &MappedAddress) -> Option<u64> {
        self.node_addresses.get(address, 0).ok()
    }

    fn has_source_range(&self, client: &SourceRangeKey) -> bool {
        let key = tables::source_range_key(client);
        self.source_ranges.get(&key, 0).is_ok()
    }

    fn flows<F: Family>(&self) -> OverlayBuckets<F> {
        let words = if F::IS_V6 {
            &self.flows_v6
        } else {
            &self.flows_v4
        };
        OverlayBuckets::new(words.clone(), Rc::clone(&self.changes))
    }

    fn fragment(&self, _key: &FragmentKey) -> Option<FragmentPorts> {
        None
    }

    fn remember_fragment(&self, _key: &FragmentKey, _ports: FragmentPorts) {}

    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        self.affinity.get(&Wire(*key), 0).ok().map(AffinityValue)
    }

    fn remember_affinity(&self, _key: &AffinityKey, _value: AffinityValue) {}

    /// The client's device is not known here; the path changes no address.
    fn share_bridge<F: Family>(&self, _client: F::Address, _backend: F::Address) -> bool {
        false
    }

    /// The kernel's neighbours are not asked here; the path changes no address.
    fn leads_on<F: Family>(&self, _tuple: &FlowTuple<F>, _reach: Reach) -> bool {
        false
    }

    fn source_address<F: Family>(&self) -> F::Address {
        first_of::<F>(&self.sources)
    }

    fn is_of_host(&self) -> bool {
        self.ways.is_some()
    }

    fn device(&self) -> u32 {
        self.ways.as_ref().map_or(0, |ways| ways.device())
    }

    fn hop_of_host<F: Family>(&self, tuple: &FlowTuple<F>) -> Hop {
        let [source, destination] =
            [tuple.source, tuple.destination].map(|address| address_of(F::mapped(address)));
        let ways = self.ways.as_ref();
        ways.map_or(Hop::NONE, |ways| ways.hop(source, destination))
    }

    fn source_of<F: Family>(&self, device: u32) -> F::Address {
        let ways = self.ways.as_ref();
        first_of::<F>(ways.map_or(&[], |ways| ways.sources(device)))
    }

    fn has_socket<F: Family>(&self, _tuple: &FlowTuple<F>) -> bool {
        false
    }

    fn note(&self, reason: Reason) {
        self.notes.borrow_mut().push(reason);
    }

    fn opened(&self, _service: ServiceId, _backend: BackendId) {}

    /// Splitmix: other numbers at each call, of which nobody expects more.
    fn random(&self) -> u32 {
        let state = self.drawn.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.drawn.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        lb_common::hash::upper(mixed ^ (mixed >> 27))
    }
}

/// The first of these addresses that is of the family; the unspecified one where none is.
fn first_of<F: Family>(addresses: &[IpAddr]) -> F::Address {
    let mut addresses = addresses.iter().copied();
    addresses
        .find_map(|address| {
            let of_family = address.is_ipv6() == F::IS_V6;
            F::from_mapped(mapped(address)).filter(|_| of_family)
        })
        .unwrap_or_else(|| F::from_halves([0; 2]))
}

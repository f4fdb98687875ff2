//! The tables in memory: what tests plan against, with sizes that fill up, a wrapper that fails at
//! random, and a check that the tables are sound.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::family::MappedAddress;
use lb_common::hash;
use lb_common::id::{BackendId, ServiceId};
use lb_common::table::affinity::{AffinityKey, AffinityValue};
use lb_common::table::backend::BackendRecord;
use lb_common::table::config::CONFIG_WORDS;
use lb_common::table::filter::{
    BACKEND_FILTER_WORDS, FilterBit, NODE_PORT_WORDS, SERVICE_FILTER_WORDS,
};
use lb_common::table::frontend::{FrontendKey, FrontendValue};
use lb_common::table::node_address::NodeAddress;
use lb_common::table::region::{HEADER_WORDS, RegionHeader};
use lb_common::table::service::{Audience, SERVICE_WORDS, ServiceWord};
use lb_common::table::source_range::SourceRangeKey;

use super::{
    Actual, Capacity, CutStep, Dataplane, DataplaneError, FlowCursor, InUse, ServiceWords, UdpPair,
    Write, named_regions,
};

mod inspect;

/// Tables in memory.
#[derive(Clone, Debug)]
pub struct Memory {
    capacity: Capacity,
    /// `FRONTENDS`.
    pub frontends: BTreeMap<FrontendKey, FrontendValue>,
    /// The elements of `SERVICES` that are not 0.
    pub services: BTreeMap<u32, [ServiceWord; SERVICE_WORDS]>,
    /// `ARENA`, as far as it was ever written.
    pub arena: Vec<u64>,
    /// The elements of `BACKENDS` in use.
    pub backends: BTreeMap<u32, BackendRecord>,
    /// `SERVICE_FILTER`.
    pub service_filter: Vec<u64>,
    /// `BACKEND_FILTER`.
    pub backend_filter: Vec<u64>,
    /// `NODE_PORTS`.
    pub node_ports: Vec<u64>,
    /// `NODE_ADDRESSES`.
    pub node_addresses: BTreeMap<MappedAddress, NodeAddress>,
    /// `SOURCE_RANGES`.
    pub source_ranges: BTreeSet<SourceRangeKey>,
    /// `CONFIG`.
    pub config: Vec<u64>,
    /// `AFFINITY`: set by the test.
    pub affinity: BTreeMap<AffinityKey, AffinityValue>,
    /// What flows name: set by the test.
    pub in_use: InUse,
    /// Regions that programs may still read: start and end of each that was named since the last
    /// wait.
    readable: Vec<(u32, u32)>,
}

/// A way in which tables contradict each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unsound {
    /// A frontend leads to a service without a region.
    #[error("frontend {0:?} names service {1}, which has no region")]
    NoRegion(FrontendKey, u32),
    /// A service's region does not lie in the arena.
    #[error("service {0} names a region at {1}, beyond what was written")]
    RegionOutside(u32, u32),
    /// A region names a backend that has no record of its generation.
    #[error("the region at {0} names backend {1:?}, whose record is not there")]
    NoBackend(u32, BackendId),
    /// A slot names a position beyond the region's backends.
    #[error("the region at {0} has slot {1}, beyond its backends")]
    SlotOutside(u32, u64),
    /// A filter says of an address that is published that it is not.
    #[error("a bit of a filter is missing for word {0}")]
    NotMarked(u32),
}

impl Memory {
    /// Empty tables.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            frontends: BTreeMap::new(),
            services: BTreeMap::new(),
            arena: Vec::new(),
            backends: BTreeMap::new(),
            service_filter: vec![0; SERVICE_FILTER_WORDS as usize],
            backend_filter: vec![0; BACKEND_FILTER_WORDS as usize],
            node_ports: vec![0; NODE_PORT_WORDS as usize],
            node_addresses: BTreeMap::new(),
            source_ranges: BTreeSet::new(),
            config: vec![0; CONFIG_WORDS as usize],
            affinity: BTreeMap::new(),
            in_use: InUse::default(),
            readable: Vec::new(),
        }
    }

    /// Whether nothing is published and no record is left; filters aside, which keep their bits.
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty()
            && self.services.is_empty()
            && self.backends.is_empty()
            && self.source_ranges.is_empty()
    }

    /// Whether every frontend leads to a region, and every id and slot of every region that is
    /// named to a backend that is there.
    pub fn check(&self) -> Result<(), Unsound> {
        for (key, value) in &self.frontends {
            let index = value.service_index();
            let is_missing = self
                .services
                .get(&index)
                .is_none_or(|words| words[0].offset() == 0);
            if key.protocol().is_some() && is_missing {
                return Err(Unsound::NoRegion(*key, index));
            }
            match crate::plan::node_port_bit(key) {
                Some(bit) => require(&self.node_ports, bit)?,
                None => require(
                    &self.service_filter,
                    crate::plan::service_bit(key.address()),
                )?,
            }
        }
        for (&index, words) in &self.services {
            for word in words.iter().filter(|word| word.offset() != 0) {
                self.check_region(index, word.offset())?;
            }
        }
        Ok(())
    }

    fn check_region(&self, index: u32, offset: u32) -> Result<(), Unsound> {
        let outside = Unsound::RegionOutside(index, offset);
        let words = self.region(offset).ok_or(outside)?;
        let header = RegionHeader::decode([words[0], words[1]]);
        for position in 0..header.count {
            let (word, is_upper) = RegionHeader::id_word(position);
            let word = words[word as usize];
            let id = BackendId::from_raw(if is_upper {
                hash::upper(word)
            } else {
                hash::lower(word)
            });
            let record = self.backends.get(&id.index());
            let record = record.filter(|record| record.is(id));
            let Some(record) = record else {
                return Err(Unsound::NoBackend(offset, id));
            };
            let bit = crate::plan::backend_bit(record.address());
            require(&self.backend_filter, bit)?;
        }
        for slot in 0..header.table_size {
            let (word, shift) = header.slot_word(slot);
            let position = words[word as usize] >> shift & 0xffff;
            if position >= u64::from(header.count) {
                return Err(Unsound::SlotOutside(offset, position));
            }
        }
        Ok(())
    }

    /// The words of the region at `offset`.
    pub fn region(&self, offset: u32) -> Option<&[u64]> {
        let rest = self.arena.get(offset as usize..)?;
        let header = RegionHeader::decode([*rest.first()?, *rest.get(1)?]);
        rest.get(..header.words() as usize)
    }

    fn write_region(&mut self, offset: u32, words: &[u64]) -> Result<(), DataplaneError> {
        let begin = offset as usize;
        let end = begin + words.len();
        let is_read = |&(start, stop): &(u32, u32)| begin < stop as usize && (start as usize) < end;
        if offset == 0
            || end > self.capacity.arena_words as usize
            || words.len() < HEADER_WORDS as usize
            || self.readable.iter().any(is_read)
        {
            return Err(out_of_range("ARENA", offset, self.capacity.arena_words));
        }
        if self.arena.len() < end {
            self.arena.resize(end, 0);
        }
        self.arena[begin..end].copy_from_slice(words);
        Ok(())
    }

    fn set_service(
        &mut self,
        index: u32,
        audience: Audience,
        word: ServiceWord,
    ) -> Result<(), DataplaneError> {
        if index == 0 || index >= self.capacity.services {
            return Err(out_of_range("SERVICES", index, self.capacity.services));
        }
        let length = self.region(word.offset()).map_or(0, <[u64]>::len);
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.readable.push((word.offset(), word.offset() + length));
        let words = self.services.entry(index).or_default();
        words[audience.position()] = word;
        if *words == [ServiceWord::default(); SERVICE_WORDS] {
            self.services.remove(&index);
        }
        Ok(())
    }
}

fn require(filter: &[u64], bit: FilterBit) -> Result<(), Unsound> {
    let is_set = filter[bit.word as usize] & bit.mask != 0;
    is_set.then_some(()).ok_or(Unsound::NotMarked(bit.word))
}

const fn out_of_range(table: &'static str, index: u32, capacity: u32) -> DataplaneError {
    DataplaneError::OutOfRange {
        table,
        index,
        capacity,
    }
}

impl Dataplane for Memory {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn apply(&mut self, write: &Write) -> Result<(), DataplaneError> {
        match write {
            Write::SetBackend { id, record } => {
                let index = id.index();
                if index == 0 || index >= self.capacity.backends || !record.is(*id) {
                    return Err(out_of_range("BACKENDS", index, self.capacity.backends));
                }
                self.backends.insert(index, *record);
            }
            Write::ClearBackend { index } => {
                self.backends.remove(index);
            }
            Write::WriteRegion { offset, words } => self.write_region(*offset, words)?,
            Write::SetService {
                index,
                audience,
                word,
            } => self.set_service(*index, *audience, *word)?,
            Write::MarkService(bit) => self.service_filter[bit.word as usize] |= bit.mask,
            Write::MarkBackend(bit) => self.backend_filter[bit.word as usize] |= bit.mask,
            Write::MarkNodePort(bit) => self.node_ports[bit.word as usize] |= bit.mask,
            Write::SetNodeAddress { address, value } => {
                let is_new = !self.node_addresses.contains_key(address);
                let (table, capacity) = ("NODE_ADDRESSES", self.capacity.node_addresses);
                if is_new && self.node_addresses.len() >= capacity as usize {
                    return Err(DataplaneError::Full { table, capacity });
                }
                if value.takes_node_ports() {
                    let bit = crate::plan::node_bit(*address);
                    self.service_filter[bit.word as usize] |= bit.mask;
                }
                self.node_addresses.insert(*address, *value);
            }
            Write::RemoveNodeAddress { address } => {
                self.node_addresses.remove(address);
            }
            Write::AddSourceRange { key } => {
                let is_new = !self.source_ranges.contains(key);
                let (table, capacity) = ("SOURCE_RANGES", self.capacity.source_ranges);
                if is_new && self.source_ranges.len() >= capacity as usize {
                    return Err(DataplaneError::Full { table, capacity });
                }
                self.source_ranges.insert(*key);
            }
            Write::RemoveSourceRange { key } => {
                self.source_ranges.remove(key);
            }
            Write::SetFrontend { key, value } => {
                let is_new = !self.frontends.contains_key(key);
                if is_new && self.frontends.len() >= self.capacity.frontends as usize {
                    return Err(DataplaneError::Full {
                        table: "FRONTENDS",
                        capacity: self.capacity.frontends,
                    });
                }
                self.frontends.insert(*key, *value);
            }
            Write::RemoveFrontend { key } => {
                self.frontends.remove(key);
            }
            Write::SetConfig { word, value } => {
                let slot = self.config.get_mut(*word as usize);
                *slot.ok_or(out_of_range("CONFIG", *word, CONFIG_WORDS))? = *value;
            }
        }
        Ok(())
    }

    fn wait_for_readers(&mut self) -> Result<(), DataplaneError> {
        let words = self.services.values().flatten();
        self.readable = words
            .filter_map(|word| {
                let length = u32::try_from(self.region(word.offset())?.len()).ok()?;
                Some((word.offset(), word.offset() + length))
            })
            .filter(|(offset, _)| *offset != 0)
            .collect();
        Ok(())
    }

    fn read_tables(&self) -> Result<Actual, DataplaneError> {
        Ok(Actual {
            frontends: self.frontends.clone(),
            services: self.services.clone(),
            regions: BTreeMap::new(),
            backends: self.backends.clone(),
            config: self.config.clone(),
            node_addresses: self.node_addresses.clone(),
            source_ranges: self.source_ranges.clone(),
        })
    }

    fn read_regions(
        &self,
        services: &ServiceWords,
        each: &mut dyn FnMut(u32, &[u64]),
    ) -> Result<(), DataplaneError> {
        for offset in named_regions(services) {
            if let Some(region) = self.region(offset) {
                each(offset, region);
            }
        }
        Ok(())
    }

    fn ids_in_use(&self) -> Result<InUse, DataplaneError> {
        Ok(self.in_use.clone())
    }

    /// Of the flows that [`Self::in_use`] says; in two steps, as if there were as many tables.
    fn cut_flows(
        &mut self,
        from: FlowCursor,
        is_stale: &dyn Fn(&UdpPair) -> bool,
    ) -> Result<CutStep, DataplaneError> {
        if !from.is_v6 {
            let v6 = FlowCursor {
                is_v6: true,
                bucket: 0,
            };
            return Ok(CutStep {
                met: 0,
                next: Some(v6),
            });
        }
        let before = self.in_use.udp_pairs.len();
        self.in_use.udp_pairs.retain(|pair| !is_stale(pair));
        let met = before - self.in_use.udp_pairs.len();
        Ok(CutStep {
            met: u64::try_from(met).unwrap_or(u64::MAX),
            next: None,
        })
    }

    fn forget_affinity(
        &mut self,
        is_kept: &dyn Fn(ServiceId, BackendId) -> bool,
    ) -> Result<u64, DataplaneError> {
        let before = self.affinity.len();
        self.affinity
            .retain(|key, value| is_kept(key.service(), value.backend(key)));
        let gone = before - self.affinity.len();
        Ok(u64::try_from(gone).unwrap_or(u64::MAX))
    }
}

/// A dataplane whose calls fail now and then.
#[derive(Clone, Debug)]
pub struct Flaky<D> {
    /// What answers when no failure is injected.
    pub inner: D,
    /// How many of 100 calls fail.
    pub percent: u64,
    random: u64,
}

impl<D> Flaky<D> {
    /// `inner`, failing `percent` of 100 calls; the same ones for the same `seed`.
    pub const fn new(inner: D, percent: u64, seed: u64) -> Self {
        Self {
            inner,
            percent,
            random: seed,
        }
    }

    fn fail(&mut self, operation: &'static str) -> Result<(), DataplaneError> {
        self.random = hash::mix(self.random, 0x5eed);
        if self.random % 100 >= self.percent {
            return Ok(());
        }
        Err(DataplaneError::Kernel {
            operation,
            table: "any",
            source: std::io::Error::from(std::io::ErrorKind::Interrupted),
        })
    }
}

impl<D: Dataplane> Dataplane for Flaky<D> {
    fn capacity(&self) -> Capacity {
        self.inner.capacity()
    }

    fn apply(&mut self, write: &Write) -> Result<(), DataplaneError> {
        self.fail("write")?;
        self.inner.apply(write)
    }

    fn wait_for_readers(&mut self) -> Result<(), DataplaneError> {
        self.fail("membarrier")?;
        self.inner.wait_for_readers()
    }

    fn read_tables(&self) -> Result<Actual, DataplaneError> {
        self.inner.read_tables()
    }

    fn read_regions(
        &self,
        services: &ServiceWords,
        each: &mut dyn FnMut(u32, &[u64]),
    ) -> Result<(), DataplaneError> {
        self.inner.read_regions(services, each)
    }

    fn ids_in_use(&self) -> Result<InUse, DataplaneError> {
        self.inner.ids_in_use()
    }

    fn cut_flows(
        &mut self,
        from: FlowCursor,
        is_stale: &dyn Fn(&UdpPair) -> bool,
    ) -> Result<CutStep, DataplaneError> {
        self.fail("cutting flows")?;
        self.inner.cut_flows(from, is_stale)
    }

    fn forget_affinity(
        &mut self,
        is_kept: &dyn Fn(ServiceId, BackendId) -> bool,
    ) -> Result<u64, DataplaneError> {
        self.fail("forgetting affinity")?;
        self.inner.forget_affinity(is_kept)
    }
}

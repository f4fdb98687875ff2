//! Reading the pinned tables back: where an agent that starts again begins, and what the commands
//! show. Nothing can be written through what is opened here.

use std::collections::BTreeMap;

use lb_common::table::backend::BackendRecord;
use lb_common::table::frontend::FrontendValue;
use lb_common::table::node_address::NodeAddress;
use lb_common::table::region::{HEADER_WORDS, RegionHeader};
use lb_common::table::service::{Audience, ServiceWord};
use lb_common::table::source_range::SourceRangeKey;
use zerocopy::FromBytes as _;

use super::bpffs::PinPaths;
use super::layout::Table;
use super::maps::{BACKEND_STATE_WORD, refused};
use super::mmap::Access;
use super::tables::{self, FrontendMap, NodeAddressMap, OpenError, SourceRangeMap, WordReader};
use super::{Actual, DataplaneError, ServiceWords, named_regions};

/// The pinned tables of one datapath, open for reading.
#[derive(Debug)]
pub struct TableReader {
    frontends: FrontendMap,
    services: WordReader,
    arena: WordReader,
    backends: WordReader,
    config: WordReader,
    node_addresses: NodeAddressMap,
    source_ranges: SourceRangeMap,
}

impl TableReader {
    /// Opens the tables pinned at `paths`.
    pub fn open(paths: &PinPaths) -> Result<Self, OpenError> {
        let words = |table| WordReader::open(paths, table);
        Ok(Self {
            frontends: tables::frontends(paths, Access::Read)?,
            services: words(Table::Services)?,
            arena: words(Table::Arena)?,
            backends: words(Table::Backends)?,
            config: words(Table::Config)?,
            node_addresses: tables::node_addresses(paths, Access::Read)?,
            source_ranges: tables::source_ranges(paths, Access::Read)?,
        })
    }

    /// What the tables hold.
    pub fn read_all(&self) -> Result<Actual, DataplaneError> {
        let mut actual = self.read_tables()?;
        let regions = &mut actual.regions;
        self.read_regions(&actual.services, |offset, words| {
            regions.insert(offset, words.to_vec());
        });
        Ok(actual)
    }

    /// The same, but for the words of regions.
    pub fn read_tables(&self) -> Result<Actual, DataplaneError> {
        let mut actual = Actual {
            config: self.config.copy(),
            ..Actual::default()
        };
        for entry in &self.frontends {
            let (key, value) =
                entry.map_err(|error| refused("reading a frontend", Table::Frontends, 0, error))?;
            actual.frontends.insert(key.0, FrontendValue(value));
        }
        for index in 1..self.services.entries() {
            let words = Audience::ALL.map(|it| self.services.element(index, it.position()));
            let words = words.map(|word| ServiceWord(word.unwrap_or_default()));
            if words.iter().any(|word| word.offset() != 0) {
                actual.services.insert(index, words);
            }
        }
        actual.backends = self.backends();
        for entry in &self.node_addresses {
            let (address, value) = entry.map_err(|error| {
                refused("reading a node address", Table::NodeAddresses, 0, error)
            })?;
            actual.node_addresses.insert(address, NodeAddress(value));
        }
        for key in self.source_ranges.keys() {
            let key = key.map_err(|error| {
                refused("reading a source range", Table::SourceRanges, 0, error)
            })?;
            let key = SourceRangeKey::from_parts(key.prefix_len(), key.data());
            actual.source_ranges.insert(key);
        }
        Ok(actual)
    }

    /// Hands over each region that `services` name.
    pub fn read_regions(&self, services: &ServiceWords, mut each: impl FnMut(u32, &[u64])) {
        for offset in named_regions(services) {
            if let Some(region) = self.region(offset) {
                each(offset, &region);
            }
        }
    }

    fn region(&self, offset: u32) -> Option<Vec<u64>> {
        let header = [
            self.arena.load(offset)?,
            self.arena.load(offset.checked_add(1)?)?,
        ];
        let length = RegionHeader::decode(header).words().max(HEADER_WORDS);
        let end = offset.checked_add(length)?;
        (offset..end).map(|word| self.arena.load(word)).collect()
    }

    fn backends(&self) -> BTreeMap<u32, BackendRecord> {
        (1..self.backends.entries())
            .filter_map(|index| Some((index, self.backend(index)?)))
            .collect()
    }

    fn backend(&self, index: u32) -> Option<BackendRecord> {
        // The state word alone says that an index is free, which most are.
        if self.backends.element(index, BACKEND_STATE_WORD)? == 0 {
            return None;
        }
        let mut bytes = [0; size_of::<BackendRecord>()];
        for (position, chunk) in bytes.chunks_exact_mut(size_of::<u64>()).enumerate() {
            chunk.copy_from_slice(&self.backends.element(index, position)?.to_ne_bytes());
        }
        let record = BackendRecord::read_from_bytes(&bytes).ok()?;
        record.protocol().is_some().then_some(record)
    }
}

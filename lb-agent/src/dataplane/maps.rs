//! The real kernel tables behind the [`Dataplane`] trait.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{MapData, MapError};
use lb_common::family::MappedAddress;
use lb_common::id::{BackendId, ServiceId};
use lb_common::table::backend::BackendRecord;
use lb_common::table::device::{DeviceRecord, Role};
use lb_common::table::filter::FilterBit;
use lb_common::table::frontend::{FrontendKey, FrontendValue};
use lb_common::table::node_address::NodeAddress;
use lb_common::table::source_range::SourceRangeKey;
use zerocopy::IntoBytes as _;

use super::affinity;
use super::bpf::Wire;
use super::bpffs::PinPaths;
use super::flows::FlowTables;
use super::layout::Table;
use super::mmap::Access;
use super::readback::TableReader;
use super::syscall::GracePeriod;
use super::tables::{
    self, AffinityMap, DeviceMap, FrontendMap, NodeAddressMap, OpenError, SourceRangeMap, WordTable,
};
use super::{
    Actual, Capacity, CutStep, Dataplane, DataplaneError, FlowCursor, InUse, ServiceWords, UdpPair,
    Write,
};
use crate::clock;

mod inspect;

/// Words of a [`BackendRecord`].
const BACKEND_WORDS: usize = size_of::<BackendRecord>() / size_of::<u64>();
/// The word of a [`BackendRecord`] that holds protocol, flags and generation: with it a record
/// comes to be and ends.
pub(super) const BACKEND_STATE_WORD: usize = 2;

/// The pinned tables of one datapath, open for writing.
#[derive(Debug)]
pub struct BpfDataplane {
    paths: PinPaths,
    frontends: FrontendMap,
    /// `FRONTENDS` again, to look through its keys from wherever one stopped.
    frontend_keys: MapData,
    devices: DeviceMap,
    services: WordTable,
    arena: WordTable,
    backends: WordTable,
    config: WordTable,
    service_filter: WordTable,
    backend_filter: WordTable,
    node_ports: WordTable,
    node_addresses: NodeAddressMap,
    source_ranges: SourceRangeMap,
    /// `SOURCE_RANGES` again, likewise.
    source_range_keys: MapData,
    flows: FlowTables,
    affinity: AffinityMap,
    affinity_entries: u32,
    capacity: Capacity,
    grace_period: GracePeriod,
}

/// Why the tables cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// A table could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The kernel has no way to wait for running programs.
    #[error("waiting for running programs: neither membarrier nor maps of maps work: {source}")]
    GracePeriod {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl BpfDataplane {
    /// Opens the tables pinned at `paths`.
    pub fn open(paths: &PinPaths) -> Result<Self, TablesError> {
        let words = |table| WordTable::open(paths, table);
        let (frontend_keys, frontends) = tables::open(paths, Table::Frontends, Access::Read)?;
        let (_, affinity) = tables::open(paths, Table::Affinity, Access::Read)?;
        let (_, node_addresses) = tables::open(paths, Table::NodeAddresses, Access::Read)?;
        let (source_range_keys, source_ranges) =
            tables::open(paths, Table::SourceRanges, Access::Read)?;
        let services = words(Table::Services)?;
        let arena = words(Table::Arena)?;
        let backends = words(Table::Backends)?;
        Ok(Self {
            paths: paths.clone(),
            capacity: Capacity {
                frontends: frontends.max_entries,
                services: services.entries(),
                arena_words: arena.entries(),
                backends: backends.entries(),
                node_addresses: node_addresses.max_entries,
                source_ranges: source_ranges.max_entries,
            },
            frontends: tables::frontends(paths, Access::ReadWrite)?,
            frontend_keys,
            devices: tables::devices(paths, Access::ReadWrite)?,
            services,
            arena,
            backends,
            config: words(Table::Config)?,
            service_filter: words(Table::ServiceFilter)?,
            backend_filter: words(Table::BackendFilter)?,
            node_ports: words(Table::NodePorts)?,
            node_addresses: tables::node_addresses(paths, Access::ReadWrite)?,
            source_ranges: tables::source_ranges(paths, Access::ReadWrite)?,
            source_range_keys,
            flows: FlowTables::open(paths)?,
            affinity: tables::affinity(paths, Access::ReadWrite)?,
            affinity_entries: affinity.max_entries,
            grace_period: GracePeriod::probe()
                .map_err(|source| TablesError::GracePeriod { source })?,
        })
    }

    /// The flow tables.
    pub const fn flows(&self) -> &FlowTables {
        &self.flows
    }

    /// Word `word` of `CONFIG`.
    pub fn config(&self, word: u32) -> u64 {
        self.config.load(word)
    }

    /// All of `NODE_ADDRESSES`.
    pub fn node_addresses(&self) -> Result<BTreeMap<MappedAddress, NodeAddress>, DataplaneError> {
        let entries = self.node_addresses.iter();
        entries
            .map(|entry| entry.map(|(address, value)| (address, NodeAddress(value))))
            .collect::<Result<_, _>>()
            .map_err(|error| refused("reading a node address", Table::NodeAddresses, 0, error))
    }

    /// All of `DEVICES`, by interface index.
    pub fn device_records(&self) -> Result<BTreeMap<u32, DeviceRecord>, DataplaneError> {
        let entries = self.devices.iter();
        entries
            .map(|entry| entry.map(|(interface, Wire(record))| (interface, record)))
            .collect::<Result<_, _>>()
            .map_err(|error| refused("reading a device", Table::Devices, 0, error))
    }

    /// What each device leads to, by interface index.
    pub fn device_roles(&self) -> Result<BTreeMap<u32, Role>, DataplaneError> {
        let records = self.device_records()?.into_iter();
        Ok(records
            .map(|(index, record)| (index, record.role()))
            .collect())
    }

    /// Says what the programs must know of a device; before they are attached to it.
    pub fn set_device(
        &mut self,
        interface: u32,
        record: DeviceRecord,
    ) -> Result<(), DataplaneError> {
        let capacity = u32::MAX;
        self.devices
            .insert(interface, Wire(record), 0)
            .map_err(|error| refused("writing a device", Table::Devices, capacity, error))
    }

    /// Forgets a device; one that is not there is fine.
    pub fn remove_device(&mut self, interface: u32) -> Result<(), DataplaneError> {
        let removed = self.devices.remove(&interface);
        gone(removed, "removing a device", Table::Devices)
    }

    fn write_region(&self, offset: u32, words: &[u64]) -> Result<(), DataplaneError> {
        let target = usize::try_from(offset)
            .ok()
            .and_then(|start| {
                let end = start.checked_add(words.len())?;
                self.arena.words().get(start..end)
            })
            .ok_or(DataplaneError::OutOfRange {
                table: Table::Arena.name(),
                index: offset,
                capacity: self.arena.entries(),
            })?;
        for (word, &value) in target.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        Ok(())
    }

    fn write_backend(&self, index: u32, record: &BackendRecord) -> Result<(), DataplaneError> {
        let target = element(&self.backends, index)?;
        let words = backend_words(record);
        let replaced = (0..BACKEND_WORDS)
            .filter(|&word| word != BACKEND_STATE_WORD)
            .any(|word| target[word].load(Ordering::Relaxed) != words[word]);
        if replaced {
            // Readers see no record rather than a mixture of two.
            target[BACKEND_STATE_WORD].store(0, Ordering::Release);
            for word in 0..BACKEND_WORDS {
                if word != BACKEND_STATE_WORD {
                    target[word].store(words[word], Ordering::Release);
                }
            }
        }
        target[BACKEND_STATE_WORD].store(words[BACKEND_STATE_WORD], Ordering::Release);
        Ok(())
    }

    fn set_frontend(
        &mut self,
        key: FrontendKey,
        value: FrontendValue,
    ) -> Result<(), DataplaneError> {
        let capacity = self.capacity.frontends;
        self.frontends
            .insert(Wire(key), value.0, 0)
            .map_err(|error| refused("writing a frontend", Table::Frontends, capacity, error))
    }

    fn reader(&self) -> Result<TableReader, DataplaneError> {
        TableReader::open(&self.paths).map_err(|error| DataplaneError::Kernel {
            operation: "opening for reading",
            table: Table::Frontends.name(),
            source: io::Error::other(error),
        })
    }

    fn remove_frontend(&mut self, key: FrontendKey) -> Result<(), DataplaneError> {
        let removed = self.frontends.remove(&Wire(key));
        gone(removed, "removing a frontend", Table::Frontends)
    }

    fn set_node_address(
        &mut self,
        address: &MappedAddress,
        value: NodeAddress,
    ) -> Result<(), DataplaneError> {
        // The bit first: programs that see the address must not pass its packets by.
        if value.takes_node_ports() {
            mark(&self.service_filter, crate::plan::node_bit(*address))?;
        }
        let capacity = self.capacity.node_addresses;
        self.node_addresses
            .insert(address, value.0, 0)
            .map_err(|error| {
                refused(
                    "writing a node address",
                    Table::NodeAddresses,
                    capacity,
                    error,
                )
            })
    }

    fn add_source_range(&mut self, key: &SourceRangeKey) -> Result<(), DataplaneError> {
        let capacity = self.capacity.source_ranges;
        self.source_ranges
            .insert(&tables::source_range_key(key), 1, 0)
            .map_err(|error| {
                refused(
                    "writing a source range",
                    Table::SourceRanges,
                    capacity,
                    error,
                )
            })
    }
}

impl Dataplane for BpfDataplane {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn apply(&mut self, write: &Write) -> Result<(), DataplaneError> {
        match write {
            Write::SetBackend { id, record } => self.write_backend(id.index(), record),
            Write::ClearBackend { index } => self.write_backend(*index, &BackendRecord::default()),
            Write::WriteRegion { offset, words } => self.write_region(*offset, words),
            Write::SetService {
                index,
                audience,
                word,
            } => {
                let target = element(&self.services, *index)?;
                // Release: the region's words are in place before a reader can find them.
                target[audience.position()].store(word.0, Ordering::Release);
                Ok(())
            }
            Write::MarkService(bit) => mark(&self.service_filter, *bit),
            Write::MarkBackend(bit) => mark(&self.backend_filter, *bit),
            Write::MarkNodePort(bit) => mark(&self.node_ports, *bit),
            Write::SetNodeAddress { address, value } => self.set_node_address(address, *value),
            Write::RemoveNodeAddress { address } => gone(
                self.node_addresses.remove(address),
                "removing a node address",
                Table::NodeAddresses,
            ),
            Write::AddSourceRange { key } => self.add_source_range(key),
            Write::RemoveSourceRange { key } => gone(
                self.source_ranges.remove(&tables::source_range_key(key)),
                "removing a source range",
                Table::SourceRanges,
            ),
            Write::SetFrontend { key, value } => self.set_frontend(*key, *value),
            Write::RemoveFrontend { key } => self.remove_frontend(*key),
            Write::SetConfig { word, value } => {
                element(&self.config, *word)?[0].store(*value, Ordering::Release);
                Ok(())
            }
        }
    }

    fn wait_for_readers(&mut self) -> Result<(), DataplaneError> {
        self.grace_period
            .wait()
            .map_err(|source| DataplaneError::Kernel {
                operation: "waiting for running programs",
                table: Table::Arena.name(),
                source,
            })
    }

    fn read_tables(&self) -> Result<Actual, DataplaneError> {
        self.reader()?.read_tables()
    }

    fn read_regions(
        &self,
        services: &ServiceWords,
        each: &mut dyn FnMut(u32, &[u64]),
    ) -> Result<(), DataplaneError> {
        self.reader()?.read_regions(services, each);
        Ok(())
    }

    fn ids_in_use(&self) -> Result<InUse, DataplaneError> {
        Ok(self.flows.ids_in_use())
    }

    fn cut_flows(
        &mut self,
        from: FlowCursor,
        is_stale: &dyn Fn(&UdpPair) -> bool,
    ) -> Result<CutStep, DataplaneError> {
        Ok(self.flows.cut(from, clock::flow_seconds(), is_stale))
    }

    fn forget_affinity(
        &mut self,
        is_kept: &dyn Fn(ServiceId, BackendId) -> bool,
    ) -> Result<u64, DataplaneError> {
        affinity::forget(&mut self.affinity, self.affinity_entries, is_kept)
    }
}

fn element(table: &WordTable, index: u32) -> Result<&[AtomicU64], DataplaneError> {
    table.element(index).ok_or(DataplaneError::OutOfRange {
        table: table.table().name(),
        index,
        capacity: table.entries(),
    })
}

fn mark(table: &WordTable, bit: FilterBit) -> Result<(), DataplaneError> {
    element(table, bit.word)?[0].fetch_or(bit.mask, Ordering::Release);
    Ok(())
}

/// A record as the words of its element.
fn backend_words(record: &BackendRecord) -> [u64; BACKEND_WORDS] {
    let mut words = [0; BACKEND_WORDS];
    for (word, bytes) in words
        .iter_mut()
        .zip(record.as_bytes().chunks_exact(size_of::<u64>()))
    {
        let mut buffer = [0; size_of::<u64>()];
        buffer.copy_from_slice(bytes);
        *word = u64::from_ne_bytes(buffer);
    }
    words
}

/// What became of a removal; that nothing was there is fine.
fn gone(
    removed: Result<(), MapError>,
    operation: &'static str,
    table: Table,
) -> Result<(), DataplaneError> {
    match removed {
        Err(error) if !is_missing(&error) => Err(refused(operation, table, u32::MAX, error)),
        _ => Ok(()),
    }
}

pub(super) fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// aya's error as ours: `E2BIG`, of a trie `ENOSPC`, is a table without room.
pub(super) fn refused(
    operation: &'static str,
    table: Table,
    capacity: u32,
    error: MapError,
) -> DataplaneError {
    let table = table.name();
    match error {
        MapError::SyscallError(error)
            if matches!(
                error.io_error.raw_os_error(),
                Some(libc::E2BIG | libc::ENOSPC)
            ) =>
        {
            DataplaneError::Full { table, capacity }
        }
        MapError::SyscallError(error) => DataplaneError::Kernel {
            operation,
            table,
            source: error.io_error,
        },
        error => DataplaneError::Kernel {
            operation,
            table,
            source: io::Error::other(error),
        },
    }
}

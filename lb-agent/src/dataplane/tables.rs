//! The pinned tables opened: arrays as mapped words, hashes through aya.

use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, Map, MapData, MapError};
use aya::sys::SyscallError;
use lb_common::family::MappedAddress;
use lb_common::table::affinity::AffinityKey;
use lb_common::table::device::DeviceRecord;
use lb_common::table::frontend::FrontendKey;
use lb_common::table::source_range::SourceRangeKey;

use super::bpf::Wire;
use super::bpffs::PinPaths;
use super::layout::{Difference, Shape, Table};
use super::mmap::{Access, MappedReader, MappedWords};
use super::syscall;

/// `FRONTENDS` as aya sees it.
pub type FrontendMap = HashMap<MapData, Wire<FrontendKey>, u64>;
/// `DEVICES` as aya sees it.
pub type DeviceMap = HashMap<MapData, u32, Wire<DeviceRecord>>;
/// `AFFINITY` as aya sees it.
pub type AffinityMap = HashMap<MapData, Wire<AffinityKey>, u64>;
/// `NODE_ADDRESSES` as aya sees it.
pub type NodeAddressMap = HashMap<MapData, MappedAddress, u64>;
/// `SOURCE_RANGES` as aya sees it.
pub type SourceRangeMap = LpmTrie<MapData, [u8; 20], u8>;

/// A key of `SOURCE_RANGES` as aya wants it.
pub const fn source_range_key(key: &SourceRangeKey) -> Key<[u8; 20]> {
    Key::new(key.prefix(), key.data())
}

/// Why a pinned table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing is pinned: no agent has run with this pin directory since the last boot.
    #[error("no table {table} at {}: has an agent run with this --pin-dir?", path.display())]
    Missing {
        /// Which table.
        table: Table,
        /// Where it should be.
        path: PathBuf,
    },
    /// The operator must use the version that made it, or run `steerage cleanup`.
    #[error(
        "pinned table {table} has {difference}, or run `steerage cleanup`, which ends all translated connections"
    )]
    Layout {
        /// Which table.
        table: Table,
        /// In what it differs.
        difference: Difference,
    },
    /// The operator must give the process the right to use the pins.
    #[error("opening table {table} at {}: {source}", path.display())]
    Open {
        /// Which table.
        table: Table,
        /// Where it is.
        path: PathBuf,
        /// What aya says.
        #[source]
        source: MapError,
    },
    /// Mapping the table failed.
    #[error("mapping table {table}: {source}")]
    Map {
        /// Which table.
        table: Table,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Opens the pin of `table`, for nothing more than `access`, and checks that this version understands
/// it.
pub fn open(paths: &PinPaths, table: Table, access: Access) -> Result<(MapData, Shape), OpenError> {
    let path = paths.map(table);
    let failed = |source| OpenError::Open {
        table,
        path: path.clone(),
        source,
    };
    if !path.exists() {
        return Err(OpenError::Missing { table, path });
    }
    let data = match access {
        Access::ReadWrite => MapData::from_pin(&path),
        Access::Read => syscall::open_map_for_reading(&path)
            .map_err(|io_error| SyscallError {
                call: "BPF_OBJ_GET",
                io_error,
            })
            .map_err(MapError::from)
            .and_then(MapData::from_fd),
    };
    let data = data.map_err(failed)?;
    let shape = data
        .info()
        .and_then(|info| Shape::of(&info))
        .map_err(failed)?;
    let known = Shape {
        map_type: table.kind() as u32,
        key_size: u32::try_from(table.key_size()).unwrap_or(u32::MAX),
        value_size: u32::try_from(table.value_size()).unwrap_or(u32::MAX),
        max_entries: table.fixed_entries().unwrap_or(shape.max_entries),
        flags: shape.flags,
    };
    match shape.difference(&known) {
        None => Ok((data, shape)),
        Some(difference) => Err(OpenError::Layout { table, difference }),
    }
}

/// Words of an element of a mapped array.
pub const fn words_of(table: Table) -> usize {
    table.value_size() / size_of::<u64>()
}

fn length(table: Table, shape: &Shape) -> Result<usize, OpenError> {
    usize::try_from(shape.max_entries)
        .ok()
        .and_then(|entries| entries.checked_mul(words_of(table)))
        .ok_or_else(|| OpenError::Map {
            table,
            source: io::ErrorKind::FileTooLarge.into(),
        })
}

/// A table that is an array of words, mapped for reading and writing.
#[derive(Clone, Debug)]
pub struct WordTable {
    table: Table,
    entries: u32,
    words: Arc<MappedWords>,
}

impl WordTable {
    /// Opens and maps the pin of `table`.
    pub fn open(paths: &PinPaths, table: Table) -> Result<Self, OpenError> {
        let (data, shape) = open(paths, table, Access::ReadWrite)?;
        let words = MappedWords::new(data.fd().as_fd(), length(table, &shape)?)
            .map_err(|source| OpenError::Map { table, source })?;
        Ok(Self {
            table,
            entries: shape.max_entries,
            words: Arc::new(words),
        })
    }

    /// Which table.
    pub const fn table(&self) -> Table {
        self.table
    }

    /// Its size in entries.
    pub const fn entries(&self) -> u32 {
        self.entries
    }

    /// All words.
    pub fn words(&self) -> &[AtomicU64] {
        self.words.words()
    }

    /// The words of one element, `None` beyond the end.
    pub fn element(&self, index: u32) -> Option<&[AtomicU64]> {
        let per_element = words_of(self.table);
        let start = usize::try_from(index).ok()?.checked_mul(per_element)?;
        self.words().get(start..start.checked_add(per_element)?)
    }

    /// One word, 0 beyond the end.
    pub fn load(&self, word: u32) -> u64 {
        usize::try_from(word)
            .ok()
            .and_then(|word| self.words().get(word))
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }
}

/// A table that is an array of words, mapped for reading, for good.
#[derive(Clone, Debug)]
pub struct WordReader {
    table: Table,
    entries: u32,
    words: Arc<MappedReader>,
}

impl WordReader {
    /// Opens and maps the pin of `table`.
    pub fn open(paths: &PinPaths, table: Table) -> Result<Self, OpenError> {
        // The kernel maps nothing by a descriptor for reading; the mapping itself is for nothing else,
        // cannot become so, and outlives the descriptor.
        let (data, shape) = open(paths, table, Access::ReadWrite)?;
        let words = MappedReader::new(data.fd().as_fd(), length(table, &shape)?)
            .map_err(|source| OpenError::Map { table, source })?;
        Ok(Self {
            table,
            entries: shape.max_entries,
            words: Arc::new(words),
        })
    }

    /// Its size in entries.
    pub const fn entries(&self) -> u32 {
        self.entries
    }

    /// One word, `None` beyond the end.
    pub fn load(&self, word: u32) -> Option<u64> {
        self.words.get(usize::try_from(word).ok()?)
    }

    /// Word `word` of the element at `index`.
    pub fn element(&self, index: u32, word: usize) -> Option<u64> {
        let start = usize::try_from(index)
            .ok()?
            .checked_mul(words_of(self.table))?;
        self.words.get(start.checked_add(word)?)
    }

    /// A copy of all words.
    pub fn copy(&self) -> Vec<u64> {
        self.words.copy()
    }
}

/// Opens `FRONTENDS`.
pub fn frontends(paths: &PinPaths, access: Access) -> Result<FrontendMap, OpenError> {
    let (data, _) = open(paths, Table::Frontends, access)?;
    HashMap::try_from(Map::HashMap(data)).map_err(|source| OpenError::Open {
        table: Table::Frontends,
        path: paths.map(Table::Frontends),
        source,
    })
}

/// Opens `DEVICES`.
pub fn devices(paths: &PinPaths, access: Access) -> Result<DeviceMap, OpenError> {
    let (data, _) = open(paths, Table::Devices, access)?;
    HashMap::try_from(Map::HashMap(data)).map_err(|source| OpenError::Open {
        table: Table::Devices,
        path: paths.map(Table::Devices),
        source,
    })
}

/// Opens `AFFINITY`.
pub fn affinity(paths: &PinPaths, access: Access) -> Result<AffinityMap, OpenError> {
    let (data, _) = open(paths, Table::Affinity, access)?;
    HashMap::try_from(Map::LruHashMap(data)).map_err(|source| OpenError::Open {
        table: Table::Affinity,
        path: paths.map(Table::Affinity),
        source,
    })
}

/// Opens `NODE_ADDRESSES`.
pub fn node_addresses(paths: &PinPaths, access: Access) -> Result<NodeAddressMap, OpenError> {
    let (data, _) = open(paths, Table::NodeAddresses, access)?;
    HashMap::try_from(Map::HashMap(data)).map_err(|source| OpenError::Open {
        table: Table::NodeAddresses,
        path: paths.map(Table::NodeAddresses),
        source,
    })
}

/// Opens `SOURCE_RANGES`.
pub fn source_ranges(paths: &PinPaths, access: Access) -> Result<SourceRangeMap, OpenError> {
    let (data, _) = open(paths, Table::SourceRanges, access)?;
    LpmTrie::try_from(Map::LpmTrie(data)).map_err(|source| OpenError::Open {
        table: Table::SourceRanges,
        path: paths.map(Table::SourceRanges),
        source,
    })
}

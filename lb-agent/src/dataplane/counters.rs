//! The counters of packets by reason, read from their pin.

use aya::maps::{Map, MapData, MapError, PerCpuArray};
use lb_common::table::counter::Counter;
use lb_common::verdict::Reason;

use super::bpf::Wire;
use super::bpffs::PinPaths;
use super::layout::Table;
use super::mmap::Access;
use super::tables::{self, OpenError};

/// Why the counters cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CountersError {
    /// They cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// They cannot be read.
    #[error("reading the counters: {source}")]
    Read {
        /// What aya says.
        #[source]
        source: MapError,
    },
}

/// Packets and bytes by reason since the map was made, all processors together.
pub fn read(paths: &PinPaths) -> Result<Vec<(Reason, Counter)>, CountersError> {
    let failed = |source| CountersError::Read { source };
    let (data, _) = tables::open(paths, Table::Counters, Access::Read)?;
    let map: PerCpuArray<MapData, Wire<Counter>> =
        PerCpuArray::try_from(Map::PerCpuArray(data)).map_err(failed)?;
    let mut counters = Vec::with_capacity(Reason::ALL.len());
    for &reason in Reason::ALL {
        let mut total = Counter::default();
        for Wire(counter) in map.get(&reason.index(), 0).map_err(failed)?.iter() {
            total.packets = total.packets.wrapping_add(counter.packets);
            total.bytes = total.bytes.wrapping_add(counter.bytes);
        }
        counters.push((reason, total));
    }
    Ok(counters)
}

//! Which backend a new flow gets: the one module that chooses, so that other ways of choosing have
//! one place to go.

use crate::family::Family;
use crate::flow::FlowTuple;
use crate::hash;
use crate::id::{BackendId, ServiceId};
use crate::table::backend::BackendRecord;
use crate::table::region::{RegionHeader, WhenEmpty};
use crate::table::service::Audience;
use crate::tables::Tables;

/// The seed of the hash that picks a slot: the same on every node and for ever, so that any node
/// sends a flow that nobody remembers to the same backend.
const SLOT_SEED: u64 = 0x5374_6565_7261_6765;

/// What selection says of a new flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Choice<F: Family> {
    /// This backend serves it.
    Backend {
        /// The service port that was dialled.
        service: ServiceId,
        /// Who serves.
        backend: BackendId,
        /// Where it serves.
        address: F::Address,
        /// At which port, host order.
        port: u16,
    },
    /// Nobody may serve it.
    Empty(WhenEmpty),
    /// A table names what another does not have; the planner's order of writes excludes it.
    Inconsistent,
}

/// The Maglev slot of a flow in a table of `table_size` slots. A service with session affinity
/// hashes the client's address alone.
#[inline(always)]
pub fn slot<F: Family>(tuple: &FlowTuple<F>, header: &RegionHeader) -> u32 {
    let [high, low] = F::halves(tuple.source);
    let mut state = hash::mix(hash::mix(SLOT_SEED, high), low);
    if header.affinity_seconds == 0 {
        let [a, b] = tuple.source_port.to_be_bytes();
        let [c, d] = tuple.destination_port.to_be_bytes();
        let [high, low] = F::halves(tuple.destination);
        state = hash::mix(hash::mix(state, high), low);
        state = hash::mix(
            state,
            u64::from_be_bytes([0, 0, 0, tuple.protocol.number(), a, b, c, d]),
        );
    }
    hash::scale(hash::upper(state), header.table_size)
}

/// The region of a service for one audience: where it begins, and its header.
#[inline(always)]
pub fn region(
    tables: &impl Tables,
    service_index: u32,
    audience: Audience,
) -> Option<(ServiceId, u32, RegionHeader)> {
    let word = tables.service(service_index, audience)?;
    let offset = word.offset();
    if offset == 0 {
        return None;
    }
    let header =
        RegionHeader::decode([tables.arena(offset)?, tables.arena(offset.wrapping_add(1))?]);
    Some((
        ServiceId::new(service_index, word.generation()),
        offset,
        header,
    ))
}

/// The id at `position` of a region's list.
#[inline(always)]
pub fn backend_at(tables: &impl Tables, offset: u32, position: u16) -> Option<BackendId> {
    let (word, is_upper) = RegionHeader::id_word(position);
    let pair = tables.arena(offset.wrapping_add(word))?;
    Some(BackendId::from_raw(if is_upper {
        hash::upper(pair)
    } else {
        hash::lower(pair)
    }))
}

/// The position in its region's list that Maglev slot `slot` names.
#[inline(always)]
pub fn position_at(
    tables: &impl Tables,
    offset: u32,
    header: &RegionHeader,
    slot: u32,
) -> Option<u16> {
    let (word, shift) = header.slot_word(slot);
    let [_, _, _, _, _, _, high, low] =
        (tables.arena(offset.wrapping_add(word))? >> shift).to_be_bytes();
    Some(u16::from_be_bytes([high, low]))
}

/// The record of a backend, if the id is still its own.
#[inline(always)]
pub fn record(tables: &impl Tables, id: BackendId) -> Option<BackendRecord> {
    tables.backend(id.index()).filter(|record| record.is(id))
}

/// Chooses for a new flow with `tuple`, as the client sent it, to the service at `service_index`.
#[inline(always)]
pub fn select<F: Family>(
    tables: &impl Tables,
    service_index: u32,
    audience: Audience,
    tuple: &FlowTuple<F>,
) -> Choice<F> {
    let Some((service, offset, header)) = region(tables, service_index, audience) else {
        return Choice::Inconsistent;
    };
    if header.count == 0 {
        return Choice::Empty(header.when_empty);
    }
    let position = if header.table_size == 0 {
        Some(0)
    } else {
        position_at(tables, offset, &header, slot(tuple, &header))
    };
    let chosen = position
        .and_then(|position| backend_at(tables, offset, position))
        .and_then(|id| Some((id, record(tables, id)?)));
    match chosen
        .and_then(|(id, record)| Some((id, F::from_mapped(record.address())?, record.port())))
    {
        Some((backend, address, port)) => Choice::Backend {
            service,
            backend,
            address,
            port,
        },
        None => Choice::Inconsistent,
    }
}

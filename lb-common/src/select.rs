//! Which backend a new flow gets: the one module that chooses, so that other ways of choosing have
//! one place to go.
//!
//! A service with session affinity gives a client the backend that it had, if the client's last
//! connection is younger than the service's timeout and the backend is still a member of the set in
//! force. Else Maglev chooses, by a hash of the client's address and of the number of timeouts since
//! boot: so first connections that begin at once agree, and after a timeout the choice is another.

#[cfg(test)]
mod tests;

use crate::family::Family;
use crate::flow::FlowTuple;
use crate::hash;
use crate::id::{BackendId, Seconds, ServiceId};
use crate::table::affinity::{AffinityKey, AffinityValue};
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
        /// Whether the service has session affinity: once there is a flow, [`stick`] remembers it.
        is_sticky: bool,
    },
    /// Nobody may serve it.
    Empty(WhenEmpty),
    /// A table names what another does not have; the planner's order of writes excludes it.
    Inconsistent,
}

/// The Maglev slot of a flow that begins at `now`, in a table of `table_size` slots. A service with
/// session affinity hashes the client's address and how many timeouts have passed since boot.
#[inline(always)]
pub fn slot<F: Family>(tuple: &FlowTuple<F>, header: &RegionHeader, now: Seconds) -> u32 {
    let [high, low] = F::halves(tuple.source);
    let mut state = hash::mix(hash::mix(SLOT_SEED, high), low);
    if let Some(epoch) = now.0.checked_div(header.affinity_seconds) {
        state = hash::mix(state, u64::from(epoch));
    } else {
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

/// Whether `id` is one of the `count` members of the region at `offset`, whose ids ascend.
#[inline(always)]
pub fn has_member(tables: &impl Tables, offset: u32, count: u16, id: BackendId) -> bool {
    let count = u32::from(count);
    let at = |position: u32| {
        let [_, _, high, low] = position.to_be_bytes();
        backend_at(tables, offset, u16::from_be_bytes([high, low]))
    };
    // As many members as are known to be less than `id`.
    let mut less = 0_u32;
    for bit in (0..u16::BITS).rev() {
        less = tables.obscure(less, id.raw());
        let next = less.wrapping_add(1 << bit);
        if next <= count && at(next.wrapping_sub(1)).is_some_and(|member| member < id) {
            less = next;
        }
    }
    less < count && at(less) == Some(id)
}

/// The backend that `client` had at `service`, if its last connection is younger than `timeout`;
/// [`BackendId::NONE`] if there is none. Whether it may still serve is not asked.
#[inline(never)]
pub fn remembered<F: Family>(
    tables: &impl Tables,
    client: F::Address,
    service: ServiceId,
    timeout: Seconds,
    now: Seconds,
) -> BackendId {
    let key = AffinityKey::new::<F>(service, client);
    match tables.affinity(&key) {
        Some(value) if value.is_live(&key, now, timeout) => value.backend(&key),
        _ => BackendId::NONE,
    }
}

/// Remembers that `client` has opened a connection to `backend` of `service`, which has session
/// affinity.
#[inline(never)]
pub fn stick<F: Family>(
    tables: &impl Tables,
    client: F::Address,
    service: ServiceId,
    backend: BackendId,
    now: Seconds,
) {
    let key = AffinityKey::new::<F>(service, client);
    let value = AffinityValue::new(&key, backend, now);
    // Many connections in one second write one entry.
    if tables.affinity(&key) != Some(value) {
        tables.remember_affinity(&key, value);
    }
}

/// The backend that session affinity gives the client of `tuple`: remembered, and still a member.
/// [`BackendId::NONE`] where a hash has to choose.
#[inline(always)]
pub fn kept<F: Family>(
    tables: &impl Tables,
    (service, offset, header): (ServiceId, u32, &RegionHeader),
    tuple: &FlowTuple<F>,
    now: Seconds,
) -> BackendId {
    if header.affinity_seconds == 0 {
        return BackendId::NONE;
    }
    let timeout = Seconds(header.affinity_seconds);
    let id = remembered::<F>(tables, tuple.source, service, timeout, now);
    if id.is_none() || !tables.has_member(offset, header.count, id) {
        return BackendId::NONE;
    }
    id
}

/// Chooses for a new flow with `tuple`, as the client sent it, to the service at `service_index`.
#[inline(always)]
pub fn select<F: Family>(
    tables: &impl Tables,
    service_index: u32,
    audience: Audience,
    tuple: &FlowTuple<F>,
    now: Seconds,
) -> Choice<F> {
    let Some((service, offset, header)) = region(tables, service_index, audience) else {
        return Choice::Inconsistent;
    };
    if header.count == 0 {
        return Choice::Empty(header.when_empty);
    }
    let kept = kept(tables, (service, offset, &header), tuple, now);
    let id = if !kept.is_none() {
        Some(kept)
    } else if header.table_size == 0 {
        backend_at(tables, offset, 0)
    } else {
        position_at(tables, offset, &header, slot(tuple, &header, now))
            .and_then(|position| backend_at(tables, offset, position))
    };
    let chosen = id.and_then(|id| Some((id, record(tables, id)?)));
    match chosen
        .and_then(|(id, record)| Some((id, F::from_mapped(record.address())?, record.port())))
    {
        Some((backend, address, port)) => Choice::Backend {
            service,
            backend,
            address,
            port,
            is_sticky: header.affinity_seconds != 0,
        },
        None => Choice::Inconsistent,
    }
}

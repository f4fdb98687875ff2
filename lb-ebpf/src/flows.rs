//! The flow table's three operations as functions that the verifier checks once each.
//!
//! The kernel follows a static function anew at every call, with all that is known there: a search
//! through sixteen slots, called from six places, is a million instructions. A function with
//! external linkage is checked by itself, for any arguments of its types, and at a call counts for
//! one instruction (kernel 5.6, pointers to memory 5.12). So these have such linkage, take nothing
//! but pointers to memory of a fixed size and numbers, and give a number.

use core::mem::MaybeUninit;

use lb_common::conntrack::State;
use lb_common::family::{Family, V4, V6};
use lb_common::flow::{FlowEntry, FlowKey};
use lb_common::flows::{Found, Placed, Placement};
use lb_common::id::Seconds;
use lb_common::room::Room;
use lb_common::tables::flow_table;

use crate::tables::KernelTables;

/// A value as the verifier sees it: so many bytes.
type Bytes<const N: usize> = MaybeUninit<[u8; N]>;

macro_rules! operations {
    ($family:ty, $search:ident, $place:ident, $remove:ident) => {
        /// Whether the flow table has a live entry of `key`, which then is in `found`.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $search(
            key: *const Bytes<{ size_of::<FlowKey<$family>>() }>,
            now: u32,
            found: *mut Bytes<{ size_of::<Room<Found<$family>>>() }>,
        ) -> u32 {
            // SAFETY: the only caller passes a key; the verifier proves that memory is behind it.
            let Some(key) = (unsafe { key.cast::<FlowKey<$family>>().as_ref() }) else {
                return 0;
            };
            // SAFETY: likewise a room, which nothing else refers to.
            let Some(found) = (unsafe { found.cast::<Room<Found<$family>>>().as_mut() }) else {
                return 0;
            };
            let table = KernelTables::without_packet();
            u32::from(flow_table::<$family, _>(&table).search(key, Seconds(now), found))
        }

        /// Inserts `entry`; gives the [`Placement`]'s number.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $place(
            entry: *const Bytes<{ size_of::<FlowEntry<$family>>() }>,
            state: u32,
            now: u32,
            placed: *mut Bytes<{ size_of::<Placed>() }>,
        ) -> u32 {
            // SAFETY: the only caller passes an entry; the verifier proves that memory is behind it.
            let Some(entry) = (unsafe { entry.cast::<FlowEntry<$family>>().as_ref() }) else {
                return Placement::Contended as u32;
            };
            // SAFETY: likewise a place, which nothing else refers to.
            let Some(placed) = (unsafe { placed.cast::<Placed>().as_mut() }) else {
                return Placement::Contended as u32;
            };
            let Some(state) = State::from_number(state) else {
                return Placement::Contended as u32;
            };
            let table = KernelTables::without_packet();
            flow_table::<$family, _>(&table).place(entry, state, Seconds(now), placed) as u32
        }

        /// Removes this very `entry`; says whether it was there.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $remove(
            entry: *const Bytes<{ size_of::<FlowEntry<$family>>() }>,
            now: u32,
        ) -> u32 {
            // SAFETY: the only caller passes an entry; the verifier proves that memory is behind it.
            let Some(entry) = (unsafe { entry.cast::<FlowEntry<$family>>().as_ref() }) else {
                return 0;
            };
            let tables = KernelTables::without_packet();
            let table = flow_table::<$family, _>(&tables);
            let Some((location, control)) = table.find(entry, Seconds(now)) else {
                return 0;
            };
            u32::from(table.remove(location, control))
        }
    };
}

operations!(V4, flow_search_v4, flow_place_v4, flow_remove_v4);
operations!(V6, flow_search_v6, flow_place_v6, flow_remove_v6);

/// [`lb_common::flows::FlowTable::search`].
#[inline(always)]
pub(crate) fn search<F: Family>(
    key: &FlowKey<F>,
    now: Seconds,
    found: &mut Room<Found<F>>,
) -> bool {
    let (key, found) = ((&raw const *key), (&raw mut *found));
    let result = if F::IS_V6 {
        flow_search_v6(key.cast(), now.0, found.cast())
    } else {
        flow_search_v4(key.cast(), now.0, found.cast())
    };
    result != 0
}

/// [`lb_common::flows::FlowTable::place`].
#[inline(always)]
pub(crate) fn place<F: Family>(
    entry: &FlowEntry<F>,
    state: State,
    now: Seconds,
    placed: &mut Placed,
) -> Placement {
    let (entry, placed) = ((&raw const *entry), (&raw mut *placed));
    let result = if F::IS_V6 {
        flow_place_v6(entry.cast(), state.number(), now.0, placed.cast())
    } else {
        flow_place_v4(entry.cast(), state.number(), now.0, placed.cast())
    };
    match result {
        0 => Placement::Inserted,
        1 => Placement::Same,
        2 => Placement::Other,
        3 => Placement::Full,
        _ => Placement::Contended,
    }
}

/// Removes this very `entry`, if it is in the table.
#[inline(always)]
pub(crate) fn remove<F: Family>(entry: &FlowEntry<F>, now: Seconds) {
    let entry = &raw const *entry;
    if F::IS_V6 {
        flow_remove_v6(entry.cast(), now.0);
    } else {
        flow_remove_v4(entry.cast(), now.0);
    }
}

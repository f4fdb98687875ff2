//! The functions themselves, for each family.

use core::mem::MaybeUninit;

/// A value as the verifier sees it: so many bytes.
pub(super) type Bytes<const N: usize> = MaybeUninit<[u8; N]>;

/// What lies at `place`. The verifier knows that it is not null; the compiler asks, which costs
/// nothing.
///
/// # Safety
///
/// A `T` lies at `place`, which nobody changes meanwhile.
#[inline(always)]
unsafe fn read<'a, T, const N: usize>(place: *const Bytes<N>) -> Option<&'a T> {
    const { assert!(N == size_of::<T>()) };
    // SAFETY: the caller's word.
    unsafe { place.cast::<T>().as_ref() }
}

/// The same, to be changed.
///
/// # Safety
///
/// A `T` lies at `place`, which nobody else refers to.
#[inline(always)]
unsafe fn change<'a, T, const N: usize>(place: *mut Bytes<N>) -> Option<&'a mut T> {
    const { assert!(N == size_of::<T>()) };
    // SAFETY: the caller's word.
    unsafe { place.cast::<T>().as_mut() }
}

/// All of them for one family. Their callers, in `flows`, pass references to the very types, and
/// the verifier proves that so much memory is behind each pointer.
macro_rules! functions {
    ($module:ident, $family:ty, $suffix:literal) => {
        pub(super) mod $module {
            use lb_common::conntrack::State;
            use lb_common::flow::{FlowEntry, FlowKey};
            use lb_common::flows::{Contest, Found, Insert, Placed, Probe, Spot, Step, Vacancy};
            use lb_common::id::Seconds;
            use lb_common::room::Room;
            use lb_common::tables::flow_table;

            use super::{Bytes, change, read};
            use crate::tables::KernelTables;

            type Key = FlowKey<$family>;
            type Entry = FlowEntry<$family>;

            /// [`lb_common::flows::FlowTable::search`].
            #[unsafe(export_name = concat!("flow_search_", $suffix))]
            #[inline(never)]
            pub(in crate::flows) extern "C" fn search(
                key: *const Bytes<{ size_of::<Key>() }>,
                now: u32,
                found: *mut Bytes<{ size_of::<Room<Found<$family>>>() }>,
            ) -> u32 {
                // SAFETY: a reference of the caller's.
                let Some(key) = (unsafe { read::<Key, _>(key) }) else {
                    return 0;
                };
                // SAFETY: a reference of the caller's.
                let Some(found) = (unsafe { change::<Room<Found<$family>>, _>(found) }) else {
                    return 0;
                };
                let tables = KernelTables::without_packet();
                let table = flow_table::<$family, _>(&tables);
                u32::from(table.search(key, Seconds(now), found))
            }

            /// Removes this very entry, if it is in the table.
            #[unsafe(export_name = concat!("flow_remove_", $suffix))]
            #[inline(never)]
            pub(in crate::flows) extern "C" fn remove(
                entry: *const Bytes<{ size_of::<Entry>() }>,
                now: u32,
            ) -> u32 {
                // SAFETY: a reference of the caller's.
                let Some(entry) = (unsafe { read::<Entry, _>(entry) }) else {
                    return 0;
                };
                let tables = KernelTables::without_packet();
                let table = flow_table::<$family, _>(&tables);
                let Some((location, control)) = table.find(entry, Seconds(now)) else {
                    return 0;
                };
                u32::from(table.remove(location, control))
            }

            /// Puts the partner of `entry` into `room`.
            #[unsafe(export_name = concat!("flow_partner_", $suffix))]
            #[inline(never)]
            pub(in crate::flows) extern "C" fn partner(
                entry: *const Bytes<{ size_of::<Entry>() }>,
                room: *mut Bytes<{ size_of::<Room<Entry>>() }>,
            ) -> u32 {
                // SAFETY: a reference of the caller's.
                let Some(entry) = (unsafe { read::<Entry, _>(entry) }) else {
                    return 0;
                };
                // SAFETY: a reference of the caller's.
                let Some(room) = (unsafe { change::<Room<Entry>, _>(room) }) else {
                    return 0;
                };
                room.put(entry.partner());
                1
            }

            /// [`lb_common::flows::FlowTable::probe`].
            #[unsafe(export_name = concat!("flow_probe_", $suffix))]
            #[inline(never)]
            pub(in crate::flows) extern "C" fn probe(
                key: *const Bytes<{ size_of::<Key>() }>,
                probe: *mut Bytes<{ size_of::<Probe>() }>,
            ) -> u32 {
                // SAFETY: a reference of the caller's.
                let Some(key) = (unsafe { read::<Key, _>(key) }) else {
                    return 0;
                };
                // SAFETY: a reference of the caller's.
                let Some(probe) = (unsafe { change::<Probe, _>(probe) }) else {
                    return 0;
                };
                let tables = KernelTables::without_packet();
                let table = flow_table::<$family, _>(&tables);
                *probe = table.probe(key);
                1
            }

            /// [`lb_common::flows::FlowTable::survey_bucket`].
            #[unsafe(export_name = concat!("flow_survey_", $suffix))]
            #[inline(never)]
            pub(in crate::flows) extern "C" fn survey(
                probe: *const Bytes<{ size_of::<Probe>() }>,
                index: u32,
                now: u32,
                best: *mut Bytes<{ size_of::<Vacancy>() }>,
            ) -> u32 {
                // SAFETY: a reference of the caller's.
                let Some(probe) = (unsafe { read::<Probe, _>(probe) }) else {
                    return 1;
                };
                // SAFETY: a reference of the caller's.
                let Some(best) = (unsafe { change::<Vacancy, _>(best) }) else {
                    return 1;
                };
                let tables = KernelTables::without_packet();
                let table = flow_table::<$family, _>(&tables);
                u32::from(table.survey_bucket(probe, index, Seconds(now), best))
            }

            /// [`lb_common::flows::FlowTable::contest_bucket`]; gives the [`Contest`]'s number.
            #[unsafe(export_name = concat!("flow_contest_", $suffix))]
            #[inline(never)]
            pub(in crate::flows) extern "C" fn contest(
                probe: *const Bytes<{ size_of::<Probe>() }>,
                index: u32,
                own: *const Bytes<{ size_of::<Spot>() }>,
                now: u32,
            ) -> u32 {
                // SAFETY: a reference of the caller's.
                let Some(probe) = (unsafe { read::<Probe, _>(probe) }) else {
                    return Contest::Again as u32;
                };
                // SAFETY: a reference of the caller's.
                let Some(own) = (unsafe { read::<Spot, _>(own) }) else {
                    return Contest::Again as u32;
                };
                let tables = KernelTables::without_packet();
                let table = flow_table::<$family, _>(&tables);
                table.contest_bucket(probe, index, own, Seconds(now)) as u32
            }

            /// [`lb_common::flows::FlowTable::locate_bucket`].
            #[unsafe(export_name = concat!("flow_locate_", $suffix))]
            #[inline(never)]
            pub(in crate::flows) extern "C" fn locate(
                probe: *const Bytes<{ size_of::<Probe>() }>,
                index: u32,
                now: u32,
                spot: *mut Bytes<{ size_of::<Spot>() }>,
            ) -> u32 {
                // SAFETY: a reference of the caller's.
                let Some(probe) = (unsafe { read::<Probe, _>(probe) }) else {
                    return 0;
                };
                // SAFETY: a reference of the caller's.
                let Some(spot) = (unsafe { change::<Spot, _>(spot) }) else {
                    return 0;
                };
                let tables = KernelTables::without_packet();
                let table = flow_table::<$family, _>(&tables);
                u32::from(table.locate_bucket(probe, index, Seconds(now), spot))
            }

            /// [`Insert::claim`]; gives the [`Step`]'s number, as the next does.
            #[unsafe(export_name = concat!("flow_claim_", $suffix))]
            #[inline(never)]
            pub(in crate::flows) extern "C" fn claim(
                entry: *const Bytes<{ size_of::<Entry>() }>,
                now: u32,
                placed: *mut Bytes<{ size_of::<Placed>() }>,
            ) -> u32 {
                // SAFETY: a reference of the caller's.
                let Some(entry) = (unsafe { read::<Entry, _>(entry) }) else {
                    return Step::Disturbed as u32;
                };
                // SAFETY: a reference of the caller's.
                let Some(placed) = (unsafe { change::<Placed, _>(placed) }) else {
                    return Step::Disturbed as u32;
                };
                let tables = KernelTables::without_packet();
                let table = flow_table::<$family, _>(&tables);
                table.claim(entry, Seconds(now), placed) as u32
            }

            /// [`Insert::promote`].
            #[unsafe(export_name = concat!("flow_promote_", $suffix))]
            #[inline(never)]
            pub(in crate::flows) extern "C" fn promote(
                state: u32,
                now: u32,
                placed: *mut Bytes<{ size_of::<Placed>() }>,
            ) -> u32 {
                // SAFETY: a reference of the caller's.
                let Some(placed) = (unsafe { change::<Placed, _>(placed) }) else {
                    return Step::Disturbed as u32;
                };
                let Some(state) = State::from_number(state) else {
                    return Step::Disturbed as u32;
                };
                let tables = KernelTables::without_packet();
                let table = flow_table::<$family, _>(&tables);
                table.promote(state, Seconds(now), placed) as u32
            }

            /// [`Insert::holds`].
            #[unsafe(export_name = concat!("flow_holds_", $suffix))]
            #[inline(never)]
            pub(in crate::flows) extern "C" fn holds(
                entry: *const Bytes<{ size_of::<Entry>() }>,
                placed: *const Bytes<{ size_of::<Placed>() }>,
            ) -> u32 {
                // SAFETY: a reference of the caller's.
                let Some(entry) = (unsafe { read::<Entry, _>(entry) }) else {
                    return 0;
                };
                // SAFETY: a reference of the caller's.
                let Some(placed) = (unsafe { read::<Placed, _>(placed) }) else {
                    return 0;
                };
                let tables = KernelTables::without_packet();
                let table = flow_table::<$family, _>(&tables);
                u32::from(table.holds(entry, placed))
            }
        }
    };
}

functions!(v4, lb_common::family::V4, "v4");
functions!(v6, lb_common::family::V6, "v6");

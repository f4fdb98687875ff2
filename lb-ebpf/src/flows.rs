//! The flow table's operations as functions that the verifier checks once each.
//!
//! The kernel follows a static function anew at every call, with all that is known there: a search
//! through sixteen slots, called from six places, is a million instructions. A function with
//! external linkage is checked by itself, for any arguments of its types, and at a call counts for
//! one instruction (kernel 5.6, pointers to memory 5.12). So these have such linkage, take nothing
//! but pointers to memory of a fixed size and numbers, and give a number. Each also has the stack
//! to itself but for its callers, which is why an insertion is cut into steps.

mod checked;

use core::ptr;

use lb_common::conntrack::State;
use lb_common::family::Family;
use lb_common::flow::{FlowEntry, FlowKey};
use lb_common::flows::{Contest, Found, Insert, Placed, Probe, Spot, Step, Vacancy};
use lb_common::id::Seconds;
use lb_common::room::Room;

use checked::{v4, v6};

/// Calls the function of the family `F`.
macro_rules! call {
    ($name:ident($($argument:expr),*)) => {
        if F::IS_V6 {
            v6::$name($($argument),*)
        } else {
            v4::$name($($argument),*)
        }
    };
}

/// [`lb_common::flows::FlowTable::search`].
#[inline(always)]
pub(crate) fn search<F: Family>(
    key: &FlowKey<F>,
    now: Seconds,
    found: &mut Room<Found<F>>,
) -> bool {
    let (key, found) = (ptr::from_ref(key), ptr::from_mut(found));
    call!(search(key.cast(), now.0, found.cast())) != 0
}

/// Removes this very `entry`, if it is in the table.
#[inline(always)]
pub(crate) fn remove<F: Family>(entry: &FlowEntry<F>, now: Seconds) {
    let entry = ptr::from_ref(entry);
    call!(remove(entry.cast(), now.0));
}

/// [`lb_common::tables::Tables::partner`].
#[inline(always)]
pub(crate) fn partner<'r, F: Family>(
    entry: &FlowEntry<F>,
    room: &'r mut Room<FlowEntry<F>>,
) -> Option<&'r FlowEntry<F>> {
    let entry = ptr::from_ref(entry);
    call!(partner(entry.cast(), ptr::from_mut(room).cast()));
    room.get()
}

/// [`lb_common::flows::Buckets::probe`].
#[inline(always)]
pub(crate) fn probe<F: Family>(key: &FlowKey<F>, probe: &mut Probe) {
    let (key, probe) = (ptr::from_ref(key), ptr::from_mut(probe));
    call!(probe(key.cast(), probe.cast()));
}

/// [`lb_common::flows::FlowTable::survey_bucket`].
#[inline(always)]
pub(crate) fn survey<F: Family>(
    probe: &Probe,
    index: u32,
    now: Seconds,
    best: &mut Vacancy,
) -> bool {
    let (probe, best) = (ptr::from_ref(probe), ptr::from_mut(best));
    call!(survey(probe.cast(), index, now.0, best.cast())) != 0
}

/// [`lb_common::flows::FlowTable::contest_bucket`].
#[inline(always)]
pub(crate) fn contest<F: Family>(probe: &Probe, index: u32, own: &Spot, now: Seconds) -> Contest {
    let (probe, own) = (ptr::from_ref(probe), ptr::from_ref(own));
    Contest::from_number(call!(contest(probe.cast(), index, own.cast(), now.0)))
}

/// [`lb_common::flows::FlowTable::locate_bucket`].
#[inline(always)]
pub(crate) fn locate<F: Family>(probe: &Probe, index: u32, now: Seconds, spot: &mut Spot) -> bool {
    let (probe, spot) = (ptr::from_ref(probe), ptr::from_mut(spot));
    call!(locate(probe.cast(), index, now.0, spot.cast())) != 0
}

/// The steps of an insertion.
pub(crate) struct Steps;

impl<F: Family> Insert<F> for Steps {
    #[inline(always)]
    fn claim(&self, entry: &FlowEntry<F>, now: Seconds, placed: &mut Placed) -> Step {
        let (entry, placed) = (ptr::from_ref(entry), ptr::from_mut(placed));
        Step::from_number(call!(claim(entry.cast(), now.0, placed.cast())))
    }

    #[inline(always)]
    fn promote(&self, state: State, now: Seconds, placed: &mut Placed) -> Step {
        let placed = ptr::from_mut(placed);
        Step::from_number(call!(promote(state.number(), now.0, placed.cast())))
    }

    #[inline(always)]
    fn holds(&self, entry: &FlowEntry<F>, placed: &Placed) -> bool {
        let (entry, placed) = (ptr::from_ref(entry), ptr::from_ref(placed));
        call!(holds(entry.cast(), placed.cast())) != 0
    }
}

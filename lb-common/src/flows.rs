//! The connection table: a set-associative hash of our own in plain arrays, since cache lines
//! touched are its whole cost.
//!
//! A key has two buckets of [`SLOTS`] slots. A slot is a control word ([`control`]) and an entry
//! ([`layout`]); whoever changes a slot does so by compare-and-swap on its control word, so that an
//! entry which was just used cannot be expired, and a reader that finds the same control word
//! before and after has read one whole entry. Free, expired and ended slots, and flows that no
//! reply has confirmed, belong to any newcomer; confirmed live ones to nobody. So the kernel keeps
//! the table usable while the agent is dead, and the agent only tidies ([`sweep`]).
//!
//! [`insert`] says why no key is ever published twice.

pub mod buckets;
pub mod control;
pub mod insert;
pub mod layout;
#[cfg(not(target_arch = "bpf"))]
pub mod memory;
pub mod peek;
pub mod sweep;

use core::marker::PhantomData;

pub use buckets::{Bucket, Buckets};
pub use control::Control;
pub use insert::{Contest, Insert, Insertion, Placed, Placement, Step, Vacancy};
pub use layout::{KeyWords, TupleWords};
pub use peek::Peeked;
pub use sweep::{Slot, Tidied};

use crate::conntrack::State;
use crate::family::Family;
use crate::flow::{FlowEntry, FlowKey};
use crate::hash;
use crate::id::Seconds;
use crate::room::Room;
use layout::Value;

/// Slots of a bucket: their control words fill one cache line. The model checker gets two: its work
/// grows with every word that is looked at, and the algorithm knows only first, own and others.
pub const SLOTS: usize = if cfg!(loom) { 2 } else { 8 };

/// Tries of a change that other processors may disturb.
const TRIES: u32 = 4;

/// Looks for the entry of whoever won, which is one compare-and-swap away.
const ADOPTION_TRIES: u32 = if cfg!(loom) { 1 } else { 8 };

/// How long a flow in each state lives after its last packet; at most [`control::MAX_TIMEOUT`].
///
/// Any `Fn(State) -> Seconds` is one: the kernel reads word `TIMEOUTS + state.number()` of
/// `CONFIG`.
pub trait Timeouts {
    /// The timeout of `state`.
    fn timeout(&self, state: State) -> Seconds;
}

impl<T: Fn(State) -> Seconds> Timeouts for T {
    #[inline(always)]
    fn timeout(&self, state: State) -> Seconds {
        self(state)
    }
}

/// Where an entry lies.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct Location {
    /// Index of the bucket.
    pub bucket: u32,
    /// Slot in the bucket, below [`SLOTS`].
    pub slot: usize,
}

/// An entry and where it was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Found<F: Family> {
    /// The whole entry.
    pub entry: FlowEntry<F>,
    /// The flow's state as this half knows it.
    pub state: State,
    /// The control word, by which the entry is changed.
    pub control: Control,
    /// Where it lies.
    pub location: Location,
}

/// What became of an entry that a packet was to move on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Advanced {
    /// It needed no change: same state, same second.
    Unchanged(State),
    /// It was changed to this state and stamped: its partner needs the same.
    Changed(State, Control),
    /// It is no longer there, or so contended that others keep it fresh.
    Lost,
}

/// The flow table of one family over `buckets`.
#[derive(Clone, Copy, Debug)]
pub struct FlowTable<F, B, T> {
    buckets: B,
    timeouts: T,
    seed: u64,
    family: PhantomData<F>,
}

/// A key, prepared for the search. No gap is in it: see [`Spot`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Probe {
    key: KeyWords,
    tag: u32,
    first: u32,
    second: u32,
    reserved: u32,
}

/// A slot and what it held. Without gaps in memory: the kernel's functions hand it to each other,
/// and their verifier wants every byte of it written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Spot {
    /// Index of the bucket.
    pub bucket: u32,
    /// Slot in the bucket, below [`SLOTS`].
    pub slot: u32,
    /// The control word that was seen there.
    pub control: Control,
}

impl Probe {
    /// The slot that an entry of the key is put into where it is free, in either bucket.
    #[inline(always)]
    fn preferred(&self) -> usize {
        usize::try_from(self.tag).unwrap_or_default() & (SLOTS - 1)
    }
}

impl Spot {
    #[inline(always)]
    fn new(location: Location, control: Control) -> Self {
        Self {
            bucket: location.bucket,
            slot: u32::try_from(location.slot).unwrap_or_default(),
            control,
        }
    }

    /// Where it is.
    #[inline(always)]
    pub fn location(&self) -> Location {
        Location {
            bucket: self.bucket,
            slot: usize::try_from(self.slot).unwrap_or_default(),
        }
    }
}

/// What a slot's entry is to a key.
enum Comparison {
    /// Has the key; this was the control word afterwards.
    Equal(Control),
    /// Has another key.
    Different,
    /// Was replaced while it was read.
    Disturbed,
}

impl<F: Family, B: Buckets<F>, T: Timeouts> FlowTable<F, B, T> {
    /// The table in `buckets`, hashed with `seed` (word `SEED` of `CONFIG`).
    #[inline(always)]
    pub const fn new(buckets: B, seed: u64, timeouts: T) -> Self {
        Self {
            buckets,
            timeouts,
            seed,
            family: PhantomData,
        }
    }

    /// The live entry of `key`.
    #[inline(always)]
    pub fn lookup(&self, key: &FlowKey<F>, now: Seconds) -> Option<Found<F>> {
        let probe = self.probe(key);
        // Twice, should the entry be replaced while it is read.
        for _ in 0..2 {
            let (location, control, state) = self.locate(&probe, now)?;
            let bucket = self.buckets.bucket(location.bucket)?;
            let value = Value::read::<F>(&bucket, location.slot);
            if Control(bucket.control(location.slot)).is_same_entry(control) {
                let entry = value.entry(*key);
                return Some(Found {
                    entry,
                    state,
                    control,
                    location,
                });
            }
        }
        None
    }

    /// The same, into memory of the caller's; says whether there is one.
    #[inline(always)]
    pub fn search(&self, key: &FlowKey<F>, now: Seconds, room: &mut Room<Found<F>>) -> bool {
        match self.lookup(key, now) {
            Some(found) => {
                room.put(found);
                true
            }
            None => false,
        }
    }

    /// Where exactly this `entry` is, if it is live: same key, same value.
    #[inline(always)]
    pub fn find(&self, entry: &FlowEntry<F>, now: Seconds) -> Option<(Location, Control)> {
        let mut placed = Placed::default();
        self.buckets.probe(self, &entry.key, &mut placed.probe);
        let mut spot = Spot::default();
        if !self.settled(&placed.probe, now, &mut spot) {
            return None;
        }
        placed.move_to(&spot);
        self.buckets
            .holds(self, entry, &placed)
            .then_some((placed.location, placed.control))
    }

    /// Whether the entry at `location`, whose control word was `seen`, has the value of `entry`.
    #[inline(always)]
    fn has_value(&self, location: Location, seen: Control, entry: &FlowEntry<F>) -> bool {
        let Some(bucket) = self.buckets.bucket(location.bucket) else {
            return false;
        };
        layout::has_value(&bucket, location.slot, entry)
            && Control(bucket.control(location.slot)).is_same_entry(seen)
    }

    /// Moves an entry that was found, or inserted, on to the state that `next` makes of its
    /// present one, and stamps it. Writes only if state or second changed; a change by another
    /// processor in between is kept, since `next` is then asked again.
    #[inline(always)]
    pub fn advance(
        &self,
        location: Location,
        seen: Control,
        now: Seconds,
        next: impl Fn(State) -> State,
    ) -> Advanced {
        let Some(bucket) = self.buckets.bucket(location.bucket) else {
            return Advanced::Lost;
        };
        let mut control = seen;
        for _ in 0..TRIES {
            let Some(state) = control.state().filter(|_| control.is_same_entry(seen)) else {
                return Advanced::Lost;
            };
            let state = next(state);
            let mut new = control.in_state(state);
            if control.age(now) != Seconds(0) {
                new = new.stamped(now);
            }
            if new == control {
                return Advanced::Unchanged(state);
            }
            if bucket.compare_exchange(location.slot, control.0, new.0) {
                return Advanced::Changed(state, new);
            }
            control = Control(bucket.control(location.slot));
        }
        Advanced::Lost
    }

    /// Frees the slot if its control word is still the one `seen`; says whether it did.
    #[inline(always)]
    pub fn remove(&self, location: Location, seen: Control) -> bool {
        self.exchange(location, seen, seen.freed())
    }

    #[inline(always)]
    fn exchange(&self, location: Location, seen: Control, new: Control) -> bool {
        self.buckets
            .bucket(location.bucket)
            .is_some_and(|bucket| bucket.compare_exchange(location.slot, seen.0, new.0))
    }

    /// What a search for `key` needs.
    #[inline(always)]
    pub fn probe(&self, key: &FlowKey<F>) -> Probe {
        self.probe_words(KeyWords::new(key))
    }

    /// The same, of a key that is words already.
    #[inline(always)]
    fn probe_words(&self, key: KeyWords) -> Probe {
        let hash = key.hash::<F>(self.seed);
        let mask = self.buckets.count().wrapping_sub(1);
        let first = hash::lower(hash) & mask;
        // An odd distance: never the first bucket again, unless there is only one.
        let distance = hash::lower(hash::mix(hash, self.seed)) | 1;
        Probe {
            key,
            tag: hash::upper(hash),
            first,
            second: (first ^ distance) & mask,
            reserved: 0,
        }
    }

    /// The same as [`Self::locate`], for the ways that packets seldom take.
    #[inline(always)]
    fn settled(&self, probe: &Probe, now: Seconds, spot: &mut Spot) -> bool {
        self.buckets
            .locate_bucket(self, probe, probe.first, now, spot)
            || self
                .buckets
                .locate_bucket(self, probe, probe.second, now, spot)
    }

    /// Whether bucket `index` has the live entry with the probe's key; `spot` says where then.
    #[inline(always)]
    pub fn locate_bucket(&self, probe: &Probe, index: u32, now: Seconds, spot: &mut Spot) -> bool {
        let Some((location, control, _)) = self.locate_in(index, probe, now) else {
            return false;
        };
        *spot = Spot::new(location, control);
        true
    }

    /// Begins to fetch the bucket that is looked at after the first.
    #[inline(always)]
    fn approach_second(&self, probe: &Probe) {
        if let Some(bucket) = self.buckets.bucket(probe.second) {
            bucket.approach();
        }
    }

    /// Where the live entry with the probe's key is.
    #[inline(always)]
    fn locate(&self, probe: &Probe, now: Seconds) -> Option<(Location, Control, State)> {
        self.approach_second(probe);
        self.locate_in(probe.first, probe, now)
            .or_else(|| self.locate_in(probe.second, probe, now))
    }

    #[inline(always)]
    fn locate_in(
        &self,
        index: u32,
        probe: &Probe,
        now: Seconds,
    ) -> Option<(Location, Control, State)> {
        let bucket = self.buckets.bucket(index)?;
        for slot in 0..SLOTS {
            let mut control = Control(bucket.control(slot));
            // Twice, should the first reading be disturbed.
            for _ in 0..2 {
                if control.tag() != probe.tag || control.state().is_none() {
                    break;
                }
                match compare::<F>(&bucket, slot, probe, control) {
                    Comparison::Equal(after) => {
                        if let Some(state) = after.state()
                            && self.is_live(after, state, now)
                        {
                            let number = u64::try_from(slot).unwrap_or_default();
                            let slot = bucket.obscure(number, after.0);
                            let slot = usize::try_from(slot).unwrap_or_default();
                            return Some((
                                Location {
                                    bucket: index,
                                    slot,
                                },
                                after,
                                state,
                            ));
                        }
                        break;
                    }
                    Comparison::Different => break,
                    Comparison::Disturbed => control = Control(bucket.control(slot)),
                }
            }
        }
        None
    }

    /// The timeout is not even read for an entry of this second.
    #[inline(always)]
    fn is_live(&self, control: Control, state: State, now: Seconds) -> bool {
        let age = control.age(now);
        age == Seconds(0) || age < self.timeouts.timeout(state)
    }
}

/// Compares the key of the entry that `seen` is the control word of.
#[inline(always)]
fn compare<F: Family>(
    bucket: &impl Bucket,
    slot: usize,
    probe: &Probe,
    seen: Control,
) -> Comparison {
    let is_equal = probe.key.match_entry::<F>(bucket, slot);
    let sequence = layout::sequence::<F>(bucket, slot);
    let after = Control(bucket.control(slot));
    if !after.is_same_entry(seen) || sequence != seen.sequence() {
        Comparison::Disturbed
    } else if is_equal {
        Comparison::Equal(after)
    } else {
        Comparison::Different
    }
}

#[inline(always)]
fn free(bucket: &impl Bucket, slot: usize, seen: Control) -> bool {
    bucket.compare_exchange(slot, seen.0, seen.freed().0)
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::integer_division_remainder_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may fail, and prints what it measured"
)]
mod tests;

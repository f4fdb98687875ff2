//! Which index of a table stands for what: allocation, quarantine, reuse, restore.
//!
//! ```text
//!            acquire                release             settle, sweep: no flow names it
//!  fresh ──────────────► live ─────────────────► quarantined ────────────────────► free ─┐
//!                         ▲ ▲                        │                                   │
//!                         │ └──── acquire, same key ─┘                                   │
//!                         └──────────────── acquire, next generation, first in first out ┘
//! ```
//!
//! Flows hold ids for as long as a day, so an index that a key has left is not given to another key
//! until a sweep of the flow tables that began after the tables had stopped naming it finds no flow
//! that does. The generation is the second guard. A key that comes back while its index is
//! quarantined gets the same id: the flows that name it mean exactly that key.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::marker::PhantomData;

use hashbrown::HashTable;
use lb_common::id::{BackendId, MAX_GENERATION, MAX_INDEX, ServiceId};

#[cfg(test)]
mod tests;

/// An id made of an index and a generation.
pub trait Id: Copy + Ord {
    /// The id of `index` in its `generation`.
    fn of(index: u32, generation: u32) -> Self;
    /// Position in the table.
    fn position(self) -> u32;
    /// How often the index had been given out before.
    fn age(self) -> u32;
}

impl Id for ServiceId {
    fn of(index: u32, generation: u32) -> Self {
        Self::new(index, generation)
    }

    fn position(self) -> u32 {
        self.index()
    }

    fn age(self) -> u32 {
        self.generation()
    }
}

impl Id for BackendId {
    fn of(index: u32, generation: u32) -> Self {
        Self::new(index, generation)
    }

    fn position(self) -> u32 {
        self.index()
    }

    fn age(self) -> u32 {
        self.generation()
    }
}

/// How [`Ids::acquire`] came by an id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// The key had it already.
    Live,
    /// The key had had it, and it was still quarantined.
    Revived,
    /// Nobody has it but the key.
    New,
}

/// Who has an index.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Holder<'a, K, I> {
    /// Nobody.
    Nobody,
    /// The tables name it for this key.
    Live(I, &'a K),
    /// Flows may name it still; the key that had it, where it is known.
    Quarantined(I, Option<&'a K>),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// In the free list, or beyond what was ever used.
    Free,
    /// Named by tables.
    Live,
    /// Named by tables of an earlier agent, whose key is not known yet.
    Reserved,
    /// No longer named by tables; programs that run may still read the old ones.
    Quarantined,
    /// Quarantined, and every program that may have read the old tables has ended.
    Settled,
}

#[derive(Clone, Debug)]
struct Slot<K> {
    key: Option<K>,
    generation: u16,
    state: State,
}

/// The ids of one table.
#[derive(Clone, Debug)]
pub struct Ids<K, I> {
    /// Indices by their keys, which the slots have: a second copy of each key would take more than
    /// all the rest.
    by_key: HashTable<u32>,
    hasher: RandomState,
    /// By index; the first is never used.
    slots: Vec<Slot<K>>,
    free: VecDeque<u32>,
    quarantined: BTreeSet<u32>,
    capacity: u32,
    id: PhantomData<I>,
}

impl<K: Clone + Eq + Hash, I: Id> Ids<K, I> {
    /// Ids below `capacity`, all free.
    pub fn new(capacity: u32) -> Self {
        Self {
            by_key: HashTable::new(),
            hasher: RandomState::new(),
            slots: vec![Slot {
                key: None,
                generation: 0,
                state: State::Reserved,
            }],
            free: VecDeque::new(),
            quarantined: BTreeSet::new(),
            capacity: capacity.min(MAX_INDEX.saturating_add(1)),
            id: PhantomData,
        }
    }

    /// The id of `key`, live or quarantined.
    pub fn get(&self, key: &K) -> Option<I> {
        self.find(key).map(|index| self.id(index))
    }

    /// How many new keys still get an id.
    pub fn available(&self) -> u32 {
        let fresh = self.capacity.saturating_sub(self.used_slots());
        fresh.saturating_add(u32::try_from(self.free.len()).unwrap_or(u32::MAX))
    }

    /// How many indices wait for a sweep.
    pub fn quarantined(&self) -> usize {
        self.quarantined.len()
    }

    /// The id of `key`: the one it has or had, else a new one; `None` if there is none left.
    pub fn acquire(&mut self, key: &K) -> Option<(I, Origin)> {
        if let Some(index) = self.find(key) {
            let origin = match self.slot(index).state {
                State::Live => Origin::Live,
                _ => Origin::Revived,
            };
            self.quarantined.remove(&index);
            self.slot_mut(index).state = State::Live;
            return Some((self.id(index), origin));
        }
        let index = match self.free.pop_front() {
            Some(index) => index,
            None => self.fresh()?,
        };
        self.take(index, key);
        Some((self.id(index), Origin::New))
    }

    /// Takes back an [`Self::acquire`] whose id was written nowhere.
    pub fn cancel(&mut self, id: I, origin: Origin) {
        let index = id.position();
        match origin {
            Origin::Live => {}
            Origin::Revived => self.quarantine(index),
            Origin::New => {
                self.forget(index);
                self.slot_mut(index).state = State::Free;
                self.free.push_front(index);
            }
        }
    }

    /// The tables no longer name `id`.
    pub fn release(&mut self, id: I) {
        self.quarantine(id.position());
    }

    /// Every program that may have read tables which named what is quarantined now has ended.
    pub fn settle(&mut self) {
        for &index in &self.quarantined {
            if let Some(slot) = position(index).and_then(|at| self.slots.get_mut(at)) {
                slot.state = State::Settled;
            }
        }
    }

    /// Frees what was settled when the flows were read, unless one of them names it: `in_use` is
    /// what they name. Returns the indices.
    pub fn sweep(&mut self, in_use: &BTreeSet<I>) -> Vec<u32> {
        let named: BTreeSet<u32> = in_use.iter().map(|id| id.position()).collect();
        let unused: Vec<u32> = self
            .quarantined
            .iter()
            .copied()
            .filter(|index| self.slot(*index).state == State::Settled && !named.contains(index))
            .collect();
        for &index in &unused {
            self.quarantined.remove(&index);
            self.forget(index);
            let slot = self.slot_mut(index);
            slot.state = State::Free;
            slot.generation = next_generation(slot.generation);
            self.free.push_back(index);
        }
        unused
    }

    /// Restores an id that tables name. With a key that no other id has it is that key's at once;
    /// otherwise [`Self::adopt`] may give it one. False if the index is impossible or taken.
    pub fn restore(&mut self, id: I, key: Option<K>) -> bool {
        if !self.restore_slot(id, State::Reserved) {
            return false;
        }
        if let Some(key) = key
            && self.find(&key).is_none()
        {
            self.take(id.position(), &key);
        }
        true
    }

    /// Restores an id that only flows name. False if the index is impossible or taken.
    pub fn restore_quarantined(&mut self, id: I) -> bool {
        let is_restored = self.restore_slot(id, State::Quarantined);
        if is_restored {
            self.quarantined.insert(id.position());
        }
        is_restored
    }

    /// Everything is restored: what nothing named is free. Until then no id may be acquired.
    pub fn end_restore(&mut self) {
        self.free = (1..self.used_slots())
            .filter(|&index| self.slot(index).state == State::Free)
            .collect();
    }

    /// Gives a restored id to `key`. False if it has one or `key` does.
    pub fn adopt(&mut self, id: I, key: &K) -> bool {
        let is_waiting = position(id.position())
            .and_then(|at| self.slots.get(at))
            .is_some_and(|slot| slot.state == State::Reserved && slot.generation_is(id.age()))
            && id.position() != 0;
        if !is_waiting || self.find(key).is_some() {
            return false;
        }
        self.take(id.position(), key);
        true
    }

    /// Quarantines every restored id that nobody adopted, and returns them.
    pub fn give_up_reserved(&mut self) -> Vec<I> {
        let reserved: Vec<I> = (1..self.used_slots())
            .filter(|&index| self.slot(index).state == State::Reserved)
            .map(|index| self.id(index))
            .collect();
        for &id in &reserved {
            self.quarantine(id.position());
        }
        reserved
    }

    /// The key that has or had the index.
    pub fn key(&self, index: u32) -> Option<&K> {
        position(index)
            .and_then(|at| self.slots.get(at))?
            .key
            .as_ref()
    }

    /// Who has the index.
    pub fn holder(&self, index: u32) -> Holder<'_, K, I> {
        let Some(slot) = position(index).and_then(|at| self.slots.get(at)) else {
            return Holder::Nobody;
        };
        let id = I::of(index, u32::from(slot.generation));
        match (slot.state, &slot.key) {
            (State::Free, _) => Holder::Nobody,
            (State::Live, Some(key)) => Holder::Live(id, key),
            (_, key) => Holder::Quarantined(id, key.as_ref()),
        }
    }

    /// Every live id.
    pub fn live(&self) -> impl Iterator<Item = I> {
        (1..self.used_slots())
            .filter(|&index| self.slot(index).state == State::Live)
            .map(|index| self.id(index))
    }

    fn id(&self, index: u32) -> I {
        I::of(index, u32::from(self.slot(index).generation))
    }

    fn find(&self, key: &K) -> Option<u32> {
        let is_key = |&index: &u32| self.slot(index).key.as_ref() == Some(key);
        self.by_key.find(self.hasher.hash_one(key), is_key).copied()
    }

    fn take(&mut self, index: u32, key: &K) {
        let slot = self.slot_mut(index);
        slot.key = Some(key.clone());
        slot.state = State::Live;
        let hash = self.hasher.hash_one(key);
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.by_key.insert_unique(hash, index, |&other| {
            let slot = position(other).and_then(|at| slots.get(at));
            let key = slot.and_then(|slot| slot.key.as_ref());
            hasher.hash_one(key.expect("an index that is found by its key has one"))
        });
    }

    /// Takes the key, if there is one, from the index.
    fn forget(&mut self, index: u32) {
        let Some(key) = self.slot_mut(index).key.take() else {
            return;
        };
        let hash = self.hasher.hash_one(&key);
        if let Ok(entry) = self.by_key.find_entry(hash, |&other| other == index) {
            entry.remove();
        }
    }

    fn quarantine(&mut self, index: u32) {
        self.slot_mut(index).state = State::Quarantined;
        self.quarantined.insert(index);
    }

    fn fresh(&mut self) -> Option<u32> {
        let index = self.used_slots();
        if index >= self.capacity {
            return None;
        }
        self.slots.push(Slot {
            key: None,
            generation: 0,
            state: State::Free,
        });
        Some(index)
    }

    fn restore_slot(&mut self, id: I, state: State) -> bool {
        let index = id.position();
        if index == 0 || index >= self.capacity {
            return false;
        }
        while self.used_slots() <= index && self.fresh().is_some() {}
        if self.slot(index).state != State::Free {
            return false;
        }
        let slot = self.slot_mut(index);
        slot.state = state;
        slot.generation = u16::try_from(id.age()).unwrap_or_default();
        true
    }

    fn used_slots(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    fn slot(&self, index: u32) -> &Slot<K> {
        let at = position(index).filter(|&at| at < self.slots.len());
        &self.slots[at.expect("an index given out by this table is below its length")]
    }

    fn slot_mut(&mut self, index: u32) -> &mut Slot<K> {
        let at = position(index).filter(|&at| at < self.slots.len());
        &mut self.slots[at.expect("an index given out by this table is below its length")]
    }
}

impl<K> Slot<K> {
    fn generation_is(&self, generation: u32) -> bool {
        u32::from(self.generation) == generation
    }
}

fn next_generation(generation: u16) -> u16 {
    if u32::from(generation) >= MAX_GENERATION {
        0
    } else {
        generation + 1
    }
}

fn position(index: u32) -> Option<usize> {
    usize::try_from(index).ok()
}

//! Backend sets as regions of `ARENA`: their words, where they are, and who shares them.
//!
//! Services with equal sets and equal headers share a region. A region's words are a pure function
//! of its [`SetKey`], so the key is all that is remembered of it: the words exist only while they
//! are written.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

use lb_common::hash;
use lb_common::id::BackendId;
use lb_common::maglev::{self, Cursor, Member};
use lb_common::table::region::{HEADER_WORDS, RegionHeader, WhenEmpty};

use super::arena::Arena;

/// A member of a set: who, and how heavy.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SetMember {
    /// The backend.
    pub id: BackendId,
    /// Its weight, never 0.
    pub weight: u16,
}

/// Any number with as many ones as zeros.
const HASH_SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Everything a region's words follow from. Clones share it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SetKey {
    /// First in the order, so that a search among thousands of sets looks into few of them.
    hash: u64,
    set: Arc<Set>,
}

#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Set {
    /// Ascending, as a region has them.
    members: Box<[SetMember]>,
    affinity_seconds: u32,
    drops_when_empty: bool,
}

impl SetKey {
    /// The set of `members`, at most [`lb_common::table::region::MAX_BACKENDS`].
    pub fn new(
        members: impl IntoIterator<Item = SetMember>,
        affinity_seconds: u32,
        when_empty: WhenEmpty,
    ) -> Self {
        let mut members: Box<[SetMember]> = members.into_iter().collect();
        members.sort_unstable();
        let hash = members.iter().fold(0, |hash, member| {
            let member = u64::from(member.id.raw()) << 16 | u64::from(member.weight);
            hash::mix(hash ^ HASH_SEED, member)
        });
        let set = Arc::new(Set {
            members,
            affinity_seconds,
            drops_when_empty: when_empty == WhenEmpty::Drop,
        });
        Self { hash, set }
    }

    /// Session affinity timeout in seconds; 0 is no affinity.
    pub fn affinity_seconds(&self) -> u32 {
        self.set.affinity_seconds
    }

    /// Whether `id` is a member.
    pub fn contains(&self, id: BackendId) -> bool {
        self.set
            .members
            .binary_search_by_key(&id, |member| member.id)
            .is_ok()
    }

    /// The region's header.
    pub fn header(&self) -> RegionHeader {
        let count = u16::try_from(self.set.members.len()).unwrap_or(u16::MAX);
        RegionHeader {
            count,
            table_size: maglev::table_size(u32::from(count)),
            affinity_seconds: self.set.affinity_seconds,
            when_empty: if self.set.drops_when_empty {
                WhenEmpty::Drop
            } else {
                WhenEmpty::Refuse
            },
        }
    }
}

/// Scratch space for building regions, kept between them.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    members: Vec<Member>,
    cursors: Vec<Cursor>,
    slots: Vec<u16>,
}

impl Builder {
    /// The words of the region of `key`; `identity` is that of [`maglev::identity`].
    pub fn words(&mut self, key: &SetKey, identity: impl Fn(BackendId) -> u64) -> Vec<u64> {
        let header = key.header();
        let mut words = Vec::with_capacity(header.words() as usize);
        words.extend(header.encode());
        words.resize(HEADER_WORDS as usize, 0);
        words.extend(key.set.members.chunks(2).map(|pair| {
            let mut raw = pair.iter().map(|member| u64::from(member.id.raw()));
            raw.next().unwrap_or(0) | raw.next().unwrap_or(0) << 32
        }));
        if header.table_size > 0 {
            self.members.clear();
            self.members
                .extend(key.set.members.iter().map(|member| Member {
                    identity: identity(member.id),
                    weight: member.weight,
                }));
            self.slots.clear();
            self.slots.resize(header.table_size as usize, 0);
            let cursors = self.cursors.len().max(self.members.len());
            self.cursors.resize(cursors, Cursor::default());
            let filled = maglev::fill(&self.members, &mut self.slots, &mut self.cursors);
            debug_assert_eq!(
                filled,
                Ok(()),
                "the header's table size, members with weights"
            );
            words.extend(self.slots.chunks(4).map(|four| {
                let slots = four.iter().rev();
                slots.fold(0, |word, &slot| word << 16 | u64::from(slot))
            }));
        }
        words
    }
}

/// 128 bits that stand for a region's words, so that an agent that starts again need not keep them.
pub fn fingerprint(words: &[u64]) -> [u64; 2] {
    const SEEDS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f];
    let [one, two] = SEEDS;
    let seeded = SEEDS.map(|seed| hash::mix(seed, words.len() as u64));
    // Side by side, since each waits for the word before.
    words.iter().fold(seeded, |[first, second], &word| {
        [hash::mix(first, word ^ one), hash::mix(second, word ^ two)]
    })
}

#[derive(Clone, Debug)]
struct Region {
    offset: u32,
    words: u32,
    references: u32,
    /// Of its words, by which an audit knows them.
    fingerprint: [u64; 2],
}

/// Where a region is and what it holds.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// What it is shared by.
    pub key: &'a SetKey,
    /// Where it begins, in words.
    pub offset: u32,
    /// Its length in words.
    pub words: u32,
    /// The [`fingerprint`] of its words.
    pub fingerprint: [u64; 2],
}

/// A region of an earlier agent that nobody has claimed yet.
#[derive(Clone, Debug)]
struct Found {
    words: u32,
    fingerprint: [u64; 2],
}

/// The regions that services name.
#[derive(Clone, Debug)]
pub struct Regions {
    /// The free words.
    pub arena: Arena,
    by_key: BTreeMap<SetKey, Region>,
    found: BTreeMap<u32, Found>,
}

/// A region that a service may name.
#[derive(Clone, Debug)]
pub struct Placed {
    /// What it is shared by.
    pub key: SetKey,
    /// Where it is.
    pub offset: u32,
    /// How it came there.
    pub origin: Origin,
}

/// How a region came to be where it is.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Others name it too.
    Shared,
    /// An earlier agent wrote it; the words' [`fingerprint`].
    Found([u64; 2]),
    /// These words have to be written first.
    New(Vec<u64>),
}

impl Regions {
    /// No regions in an arena of `words`.
    pub fn new(words: u32) -> Self {
        Self {
            arena: Arena::new(words),
            by_key: BTreeMap::new(),
            found: BTreeMap::new(),
        }
    }

    /// A reference to the region of `key`: one that exists, one found at `hint` with these very
    /// words, or a new one. `None` if the arena has no room.
    pub fn acquire(
        &mut self,
        key: SetKey,
        hint: u32,
        build: impl FnOnce(&SetKey) -> Vec<u64>,
    ) -> Option<Placed> {
        let vacant = match self.by_key.entry(key) {
            Entry::Vacant(vacant) => vacant,
            Entry::Occupied(mut shared) => {
                shared.get_mut().references += 1;
                return Some(Placed {
                    key: shared.key().clone(),
                    offset: shared.get().offset,
                    origin: Origin::Shared,
                });
            }
        };
        let words = build(vacant.key());
        let length = u32::try_from(words.len()).ok()?;
        let print = fingerprint(&words);
        let is_found = self
            .found
            .get(&hint)
            .is_some_and(|found| found.fingerprint == print);
        let (offset, origin) = if is_found {
            self.found.remove(&hint);
            (hint, Origin::Found(print))
        } else {
            (self.arena.allocate(length)?, Origin::New(words))
        };
        let key = vacant.key().clone();
        vacant.insert(Region {
            offset,
            words: length,
            references: 1,
            fingerprint: print,
        });
        Some(Placed {
            key,
            offset,
            origin,
        })
    }

    /// Takes back an [`Self::acquire`] that was written nowhere.
    pub fn cancel(&mut self, placed: &Placed) {
        if let Some(region) = self.drop_reference(&placed.key) {
            match placed.origin {
                Origin::Found(fingerprint) => {
                    let found = Found {
                        words: region.words,
                        fingerprint,
                    };
                    self.found.insert(region.offset, found);
                }
                Origin::Shared | Origin::New(_) => self.arena.cancel(region.offset, region.words),
            }
        }
    }

    /// Gives a reference back; the last one retires the region.
    pub fn release(&mut self, key: &SetKey) {
        if let Some(region) = self.drop_reference(key) {
            self.arena.retire(region.offset, region.words);
        }
    }

    /// Where the region of `key` is; 0 if it is nowhere.
    pub fn offset(&self, key: &SetKey) -> u32 {
        self.by_key.get(key).map_or(0, |region| region.offset)
    }

    /// The regions after that of `key`, or all, in an order that does not change.
    pub fn after(&self, key: Option<&SetKey>) -> impl Iterator<Item = Site<'_>> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        let regions = self.by_key.range((from, Bound::Unbounded));
        regions.map(|(key, region)| Site {
            key,
            offset: region.offset,
            words: region.words,
            fingerprint: region.fingerprint,
        })
    }

    /// A new place for the region of `key`, whose old one is retired; `None` if the arena has no
    /// room or nobody names the set.
    pub fn relocate(&mut self, key: &SetKey) -> Option<u32> {
        let region = self.by_key.get_mut(key)?;
        let offset = self.arena.allocate(region.words)?;
        self.arena.retire(region.offset, region.words);
        region.offset = offset;
        Some(offset)
    }

    /// Words of the arena that are free now.
    pub const fn free_words(&self) -> u64 {
        self.arena.free_words()
    }

    /// How many regions there are.
    pub fn count(&self) -> usize {
        self.by_key.len()
    }

    /// Remembers a region of an earlier agent. False if it cannot be one.
    pub fn find(&mut self, offset: u32, words: &[u64]) -> bool {
        let Ok(length) = u32::try_from(words.len()) else {
            return false;
        };
        let is_free = length >= HEADER_WORDS && self.arena.reserve(offset, length);
        if is_free {
            let found = Found {
                words: length,
                fingerprint: fingerprint(words),
            };
            self.found.insert(offset, found);
        }
        is_free
    }

    /// Retires what was found and not claimed.
    pub fn give_up_found(&mut self) {
        for (offset, found) in std::mem::take(&mut self.found) {
            self.arena.retire(offset, found.words);
        }
    }

    fn drop_reference(&mut self, key: &SetKey) -> Option<Region> {
        let region = self.by_key.get_mut(key)?;
        region.references -= 1;
        if region.references > 0 {
            return None;
        }
        self.by_key.remove(key)
    }
}

//! Buckets in memory that the host's atomics reach: a vector in tests, the kernel's own table
//! mapped by the agent and by `steerage`.

#[cfg(not(loom))]
use core::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering, fence};

use super::layout::{bucket_words, entry_words};
use super::{Bucket, Buckets, SLOTS};
use crate::family::Family;

/// Buckets one after the other, as the kernel's array map lays them out.
#[derive(Clone, Copy, Debug)]
pub struct AtomicBuckets<'a> {
    words: &'a [AtomicU64],
    count: u32,
}

impl<'a> AtomicBuckets<'a> {
    /// The `count` buckets of family `F` in `words`; `None` where `count` is no power of two or
    /// `words` too short for it.
    pub fn new<F: Family>(words: &'a [AtomicU64], count: u32) -> Option<Self> {
        let needed = usize::try_from(count)
            .ok()?
            .checked_mul(bucket_words::<F>())?;
        (count.is_power_of_two() && words.len() >= needed).then_some(Self { words, count })
    }
}

impl<'a, F: Family> Buckets<F> for AtomicBuckets<'a> {
    type Bucket = AtomicBucket<'a>;

    fn bucket(&self, index: u32) -> Option<AtomicBucket<'a>> {
        let first = usize::try_from(index)
            .ok()?
            .checked_mul(bucket_words::<F>())?;
        let words = self.words.get(first..)?.get(..bucket_words::<F>())?;
        (index < self.count).then_some(AtomicBucket {
            words,
            entry_words: entry_words::<F>(),
        })
    }

    fn count(&self) -> u32 {
        self.count
    }
}

/// One bucket. A slot or word out of range reads as 0 and cannot be changed.
#[derive(Clone, Copy, Debug)]
pub struct AtomicBucket<'a> {
    words: &'a [AtomicU64],
    entry_words: usize,
}

impl AtomicBucket<'_> {
    fn at(&self, slot: usize, word: usize) -> Option<&AtomicU64> {
        let first = SLOTS.checked_add(slot.checked_mul(self.entry_words)?)?;
        self.words.get(first.checked_add(word)?)
    }
}

/// Entry words are read with acquire and written with release, so that a reader which sees a word
/// of a new entry sees its claim in the control word that it reads afterwards. On x86-64 that is
/// what plain loads and stores do.
impl Bucket for AtomicBucket<'_> {
    fn control(&self, slot: usize) -> u64 {
        self.words
            .get(slot)
            .map_or(0, |control| control.load(Ordering::Acquire))
    }

    fn compare_exchange(&self, slot: usize, current: u64, new: u64) -> bool {
        let is_exchanged = self.words.get(slot).is_some_and(|control| {
            control
                .compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        });
        fence(Ordering::SeqCst);
        is_exchanged
    }

    fn word(&self, slot: usize, word: usize) -> u64 {
        self.at(slot, word)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn set_word(&self, slot: usize, word: usize, value: u64) {
        if let Some(word) = self.at(slot, word) {
            word.store(value, Ordering::Release);
        }
    }
}

//! Which words of `ARENA` are free.
//!
//! Best fit with coalescing, in units of a cache line: Maglev's few table sizes make most regions
//! one of a few lengths, and rounding removes what difference the number of ids makes, so that what
//! one service frees the next one fits. A region that was published is retired first, and free only
//! once no program can still be reading it.

use std::collections::{BTreeMap, BTreeSet};

#[cfg(test)]
mod tests;

/// Words of a cache line: every region begins at a multiple and takes a multiple.
pub const UNIT: u32 = 8;

/// The allocator.
#[derive(Clone, Debug)]
pub struct Arena {
    /// Free extents: offset → words. Never adjacent to each other.
    free: BTreeMap<u32, u32>,
    /// The same as (words, offset).
    by_size: BTreeSet<(u32, u32)>,
    /// Extents that were unpublished since the last [`Self::reclaim`].
    retired: Vec<(u32, u32)>,
    free_words: u64,
}

/// What a region of `words` really takes.
const fn rounded(words: u32) -> u32 {
    words.saturating_add(UNIT - 1) / UNIT * UNIT
}

impl Arena {
    /// An empty arena. The first unit is never used, since offset 0 means "none".
    pub fn new(words: u32) -> Self {
        let mut arena = Self {
            free: BTreeMap::new(),
            by_size: BTreeSet::new(),
            retired: Vec::new(),
            free_words: 0,
        };
        arena.insert(UNIT, (words / UNIT * UNIT).saturating_sub(UNIT));
        arena
    }

    /// Where `words` words may be written: the smallest extent that holds them.
    pub fn allocate(&mut self, words: u32) -> Option<u32> {
        let wanted = rounded(words.max(1));
        let &(size, offset) = self.by_size.range((wanted, 0)..).next()?;
        self.remove(offset, size);
        self.insert(offset + wanted, size - wanted);
        Some(offset)
    }

    /// Takes the extent at `offset` for a region found there; false if it is not all free.
    pub fn reserve(&mut self, offset: u32, words: u32) -> bool {
        let wanted = rounded(words.max(1));
        let Some(end) = offset.checked_add(wanted) else {
            return false;
        };
        let Some((&start, &size)) = self.free.range(..=offset).next_back() else {
            return false;
        };
        if !offset.is_multiple_of(UNIT) || start + size < end {
            return false;
        }
        self.remove(start, size);
        self.insert(start, offset - start);
        self.insert(end, start + size - end);
        true
    }

    /// Frees at once a region that was never published.
    pub fn cancel(&mut self, offset: u32, words: u32) {
        self.coalesce(offset, rounded(words.max(1)));
    }

    /// A region that is published no more: free after the next [`Self::reclaim`].
    pub fn retire(&mut self, offset: u32, words: u32) {
        self.retired.push((offset, rounded(words.max(1))));
    }

    /// Whether a grace period would free anything.
    pub const fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    /// Frees all that is retired: every program that ran when it was unpublished has ended.
    pub fn reclaim(&mut self) {
        for (offset, words) in std::mem::take(&mut self.retired) {
            self.coalesce(offset, words);
        }
    }

    /// Words that are free now.
    pub const fn free_words(&self) -> u64 {
        self.free_words
    }

    fn coalesce(&mut self, offset: u32, words: u32) {
        let (mut offset, mut words) = (offset, words);
        if let Some((&start, &size)) = self.free.range(..offset).next_back()
            && start + size == offset
        {
            self.remove(start, size);
            offset = start;
            words += size;
        }
        if let Some((&start, &size)) = self.free.range(offset + words..).next()
            && start == offset + words
        {
            self.remove(start, size);
            words += size;
        }
        self.insert(offset, words);
    }

    fn insert(&mut self, offset: u32, words: u32) {
        if words > 0 {
            self.free.insert(offset, words);
            self.by_size.insert((words, offset));
            self.free_words += u64::from(words);
        }
    }

    fn remove(&mut self, offset: u32, words: u32) {
        self.free.remove(&offset);
        self.by_size.remove(&(words, offset));
        self.free_words -= u64::from(words);
    }
}

//! The connection table: a set-associative hash of our own in plain arrays, since cache lines
//! touched are its whole cost.

use crate::family::Family;

/// Slots of a bucket: their control words fill one cache line.
pub const SLOTS: usize = 8;

/// One bucket of the flow table: [`SLOTS`] control words, then as many entries.
///
/// The kernel side implements it by BPF's atomic instructions, the host by `core::sync::atomic`,
/// the model checker by loom's.
pub trait Bucket {
    /// The control word of `slot`, not reordered with later reads.
    fn control(&self, slot: usize) -> u64;

    /// Replaces the control word if it is `current`; says whether it did. A full barrier.
    fn compare_exchange(&self, slot: usize, current: u64, new: u64) -> bool;

    /// Replaces the control word and returns the one before. A full barrier.
    fn exchange(&self, slot: usize, new: u64) -> u64;

    /// Word `word` of the entry of `slot`.
    fn word(&self, slot: usize, word: usize) -> u64;

    /// Writes word `word` of the entry of `slot`; only by who holds the slot's claim.
    fn set_word(&self, slot: usize, word: usize, value: u64);
}

/// The array of buckets of one family.
pub trait Buckets<F: Family> {
    /// What [`Self::bucket`] gives.
    type Bucket: Bucket;

    /// The bucket at `index`; `None` only beyond [`Self::count`].
    fn bucket(&self, index: u32) -> Option<Self::Bucket>;

    /// Number of buckets, a power of two.
    fn count(&self) -> u32;
}

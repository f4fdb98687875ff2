//! How the table's algorithms see its memory, and the parts of them that another side may do by
//! functions of its own.

#[cfg(doc)]
use super::SLOTS;
use super::insert::{Contest, Insert as _, Placed, Vacancy};
use super::{FlowTable, Probe, Spot, Timeouts};
use crate::family::Family;
use crate::flow::{FlowEntry, FlowKey};
use crate::id::Seconds;

/// One bucket of the flow table: [`SLOTS`] control words, then as many entries.
///
/// The kernel side implements it by BPF's atomic instructions, the host by `core::sync::atomic`,
/// the model checker by loom's.
pub trait Bucket {
    /// The control word of `slot`, not reordered with reads of entry words before or after.
    fn control(&self, slot: usize) -> u64;

    /// Replaces the control word if it is `current`; says whether it did. A full barrier.
    fn compare_exchange(&self, slot: usize, current: u64, new: u64) -> bool;

    /// Word `word` of the entry of `slot`.
    fn word(&self, slot: usize, word: usize) -> u64;

    /// Writes word `word` of the entry of `slot`; only by who holds the slot's claim.
    fn set_word(&self, slot: usize, word: usize, value: u64);

    /// Begins to fetch the bucket's control words, which are about to be read. A hint: memory answers
    /// while the processor goes on with what is there.
    #[inline(always)]
    fn approach(&self) {}

    /// `value`, of which the kernel's verifier knows nothing any more; `by` is any word it cannot
    /// know. It follows every value that a slot's place among sixteen could lead to, unless it
    /// takes them for one.
    #[inline(always)]
    fn obscure(&self, value: u64, by: u64) -> u64 {
        let _ = by;
        value
    }
}

/// The array of buckets of one family.
pub trait Buckets<F: Family> {
    /// What [`Self::bucket`] gives.
    type Bucket: Bucket;

    /// The bucket at `index`; `None` only beyond [`Self::count`].
    fn bucket(&self, index: u32) -> Option<Self::Bucket>;

    /// Number of buckets, a power of two.
    fn count(&self) -> u32;

    // What follows is asked of the buckets because the
    // kernel side has functions of its own for them, which its verifier checks once instead of at
    // each call.

    /// [`FlowTable::probe`].
    #[inline(always)]
    fn probe<T: Timeouts>(&self, table: &FlowTable<F, Self, T>, key: &FlowKey<F>, probe: &mut Probe)
    where
        Self: Sized,
    {
        *probe = table.probe(key);
    }

    /// [`super::Insert::holds`].
    #[inline(always)]
    fn holds<T: Timeouts>(
        &self,
        table: &FlowTable<F, Self, T>,
        entry: &FlowEntry<F>,
        placed: &Placed,
    ) -> bool
    where
        Self: Sized,
    {
        table.holds(entry, placed)
    }

    /// [`FlowTable::survey_bucket`].
    #[inline(always)]
    fn survey_bucket<T: Timeouts>(
        &self,
        table: &FlowTable<F, Self, T>,
        probe: &Probe,
        index: u32,
        now: Seconds,
        best: &mut Vacancy,
    ) -> bool
    where
        Self: Sized,
    {
        table.survey_bucket(probe, index, now, best)
    }

    /// [`FlowTable::contest_bucket`].
    #[inline(always)]
    fn contest_bucket<T: Timeouts>(
        &self,
        table: &FlowTable<F, Self, T>,
        probe: &Probe,
        index: u32,
        own: &Spot,
        now: Seconds,
    ) -> Contest
    where
        Self: Sized,
    {
        table.contest_bucket(probe, index, own, now)
    }

    /// [`FlowTable::locate_bucket`].
    #[inline(always)]
    fn locate_bucket<T: Timeouts>(
        &self,
        table: &FlowTable<F, Self, T>,
        probe: &Probe,
        index: u32,
        now: Seconds,
        spot: &mut Spot,
    ) -> bool
    where
        Self: Sized,
    {
        table.locate_bucket(probe, index, now, spot)
    }
}

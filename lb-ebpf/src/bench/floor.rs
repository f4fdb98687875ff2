//! What memory alone costs. These programs touch lines of our own flow table, at places that the
//! packet's flow chooses, as the searches and insertions of ours do, and nothing else: no key is
//! compared, nothing is chosen, nothing is rewritten. A table of that size with a line for each flow
//! cannot cost less.
//!
//! Where the entry is does not depend here on what its bucket holds, so that a processor may fetch
//! both at once, which no search can: the floor is on the low side.

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use aya_ebpf::programs::TcContext;
use lb_common::family::{V4, V6};
use lb_common::flows::SLOTS;
use lb_common::flows::layout::{bucket_words, entry_words};
use lb_common::hash;

use crate::atomic::compare_exchange;
use crate::shape::{self, Flow};
use crate::{DROP, NEXT};

/// `BPF_F_MMAPABLE`, as the agent's.
const MMAPABLE: u32 = 1024;

/// The agent's own tables: the bench loads this object over its pins.
#[map]
static FLOWS_V4: Array<[u64; bucket_words::<V4>()]> = Array::with_max_entries(64, MMAPABLE);
#[map]
static FLOWS_V6: Array<[u64; bucket_words::<V6>()]> = Array::with_max_entries(64, MMAPABLE);
/// Buckets of either less one, IPv4 first; the bench writes them.
#[map]
static BENCH_MASKS: Array<u32> = Array::with_max_entries(2, 0);

/// What is touched.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Touch {
    /// The control words of one bucket are read: what it takes to know that a flow might be there.
    One,
    /// One of its entries, too: what it takes to know a flow.
    Two,
    /// For each of a flow's two directions: both buckets are read; in one of them a control word is
    /// exchanged and an entry written.
    Insertion,
}

/// Touches what a flow's packet would.
#[inline(always)]
pub(crate) fn run(ctx: &TcContext, touch: Touch) -> i32 {
    let read = if let Some((_, flow)) = shape::read::<1>(ctx) {
        lines(&flow, touch, 0)
    } else if let Some((_, flow)) = shape::read::<4>(ctx) {
        lines(&flow, touch, 1)
    } else {
        None
    };
    match read {
        // Never so; it keeps the compiler from leaving the reads out.
        Some(u64::MAX) | None => DROP,
        Some(_) => NEXT,
    }
}

#[inline(always)]
fn lines<const N: usize>(flow: &Flow<N>, touch: Touch, version: u32) -> Option<u64> {
    // SAFETY: the map's value, which the bench wrote before this ran.
    let mask = unsafe { BENCH_MASKS.get_ptr(version)?.read() };
    let hash = flow.hash();
    match touch {
        Touch::One => Some(read(version, hash::lower(hash) & mask, 0)? >> 1),
        Touch::Two => {
            let control = read(version, hash::lower(hash) & mask, 0)?;
            let entry = read(version, hash::lower(hash) & mask, entry_word(version, hash))?;
            Some((control ^ entry) >> 1)
        }
        Touch::Insertion => {
            let there = insertion(version, hash, mask)?;
            let back = insertion(version, hash::mix(hash, 1), mask)?;
            Some((there ^ back) >> 1)
        }
    }
}

#[inline(always)]
fn insertion(version: u32, hash: u64, mask: u32) -> Option<u64> {
    let (first, second) = (hash::lower(hash) & mask, hash::upper(hash) & mask);
    let other = read(version, second, 0)?;
    let control = rewrite(version, first, 0)?;
    let entry = rewrite(version, first, entry_word(version, hash))?;
    Some(other ^ control ^ entry)
}

/// The first word of the entry in the slot that the hash chooses.
#[inline(always)]
const fn entry_word(version: u32, hash: u64) -> usize {
    let words = if version == 0 {
        entry_words::<V4>()
    } else {
        entry_words::<V6>()
    };
    SLOTS + ((hash >> 48) as usize & (SLOTS - 1)) * words
}

/// A word of a bucket.
#[inline(always)]
fn place(version: u32, bucket: u32, word: usize) -> Option<*mut u64> {
    if version == 0 {
        let words: *mut u64 = FLOWS_V4.get_ptr_mut(bucket)?.cast();
        // SAFETY: the first control word or an entry's first, which are within the map's value.
        Some(unsafe { words.add(word) })
    } else {
        let words: *mut u64 = FLOWS_V6.get_ptr_mut(bucket)?.cast();
        // SAFETY: as above.
        Some(unsafe { words.add(word) })
    }
}

#[inline(always)]
fn read(version: u32, bucket: u32, word: usize) -> Option<u64> {
    // SAFETY: an aligned word of the map's.
    place(version, bucket, word).map(|word| unsafe { word.read_volatile() })
}

/// Replaces a word by itself: a write to memory that leaves the table as it is.
#[inline(always)]
fn rewrite(version: u32, bucket: u32, word: usize) -> Option<u64> {
    let word = place(version, bucket, word)?;
    // SAFETY: an aligned word of the map's.
    let seen = unsafe { word.read_volatile() };
    // SAFETY: as above.
    unsafe { compare_exchange(word, seen, seen) }.then_some(seen)
}

//! `SERVICE_FILTER` and `BACKEND_FILTER`: bit sets that say of most packets, in one array lookup,
//! that they concern no service.
//!
//! A bit that is set may mean another address (a packet then costs one more lookup); a bit that is
//! clear is certain. The agent sets bits before it publishes what they stand for, and clears them
//! once neither a table nor a flow needs them.

use crate::family::Family;
use crate::hash;

/// Words of each filter: 2^19 bits, 64 KiB.
pub const FILTER_WORDS: u32 = 8192;

/// A bit of a filter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FilterBit {
    /// Index of the word.
    pub word: u32,
    /// The word's bit as a mask.
    pub mask: u64,
}

impl FilterBit {
    #[inline(always)]
    const fn of(hash: u64) -> Self {
        Self {
            word: hash::upper(hash) & (FILTER_WORDS - 1),
            mask: 1 << (hash & 63),
        }
    }

    /// The bit of `SERVICE_FILTER` for a service address.
    #[must_use]
    #[inline(always)]
    pub fn service<F: Family>(address: F::Address) -> Self {
        let [high, low] = F::halves(address);
        Self::of(hash::mix(high, low))
    }

    /// The bit of `BACKEND_FILTER` for a backend: whether replies may come from it. A hairpin's
    /// replies come from the client's own address, which then is a backend's.
    #[must_use]
    #[inline(always)]
    pub fn backend<F: Family>(address: F::Address) -> Self {
        let [high, low] = F::halves(address);
        Self::of(hash::mix(hash::mix(high, low), 1))
    }
}

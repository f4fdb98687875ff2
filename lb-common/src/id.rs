//! Ids and small units: each a newtype, so that an index is never taken for a generation, nor
//! seconds for nanoseconds.

use crate::hash;

/// Bits of an id that name a slot of its array; the rest is the generation.
const INDEX_BITS: u32 = 22;
/// Largest index an id can hold, and so the largest number of services or backends less one.
pub const MAX_INDEX: u32 = (1 << INDEX_BITS) - 1;
/// Largest generation an id can hold; the next one after it is 0.
pub const MAX_GENERATION: u32 = (1 << (32 - INDEX_BITS)) - 1;

macro_rules! tagged_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(u32);

        impl $name {
            /// The id that names nothing: index 0 is never given out.
            pub const NONE: Self = Self(0);

            /// The id of `index` in its `generation`; bits too high for either are cut off.
            #[must_use]
            #[inline(always)]
            pub const fn new(index: u32, generation: u32) -> Self {
                Self((index & MAX_INDEX) | (generation << INDEX_BITS))
            }

            /// The id that [`Self::raw`] made.
            #[must_use]
            #[inline(always)]
            pub const fn from_raw(raw: u32) -> Self {
                Self(raw)
            }

            /// Generation above index, as tables hold it.
            #[inline(always)]
            pub const fn raw(self) -> u32 {
                self.0
            }

            /// Position in the array, 1 to [`MAX_INDEX`].
            #[inline(always)]
            pub const fn index(self) -> u32 {
                self.0 & MAX_INDEX
            }

            /// How often the index had been given out before, modulo [`MAX_GENERATION`] + 1.
            #[inline(always)]
            pub const fn generation(self) -> u32 {
                self.0 >> INDEX_BITS
            }

            /// Whether this is [`Self::NONE`].
            #[inline(always)]
            pub const fn is_none(self) -> bool {
                self.index() == 0
            }
        }
    };
}

tagged_id! {
    /// Names one service port of one family: 22 bits of index into `SERVICES`, 10 of generation.
    ServiceId
}
tagged_id! {
    /// Names one backend (address, port, protocol): 22 bits of index into `BACKENDS`, 10 of
    /// generation.
    BackendId
}

/// Seconds of the coarse boot clock: what flow entries are stamped with.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Seconds(pub u32);

impl Seconds {
    /// The whole seconds in so many nanoseconds, fewer than 2^60 (36 years). BPF has neither the long
    /// multiplication that would replace the division, nor a fast division: so the quotient is
    /// estimated, at most two too small, and made right.
    #[must_use]
    #[inline(always)]
    pub const fn of_nanoseconds(nanoseconds: u64) -> Self {
        const SECOND: u64 = 1_000_000_000;
        // 2^30 / 10^9 is 1 and so many parts of 2^34.
        const PARTS: u64 = 1_266_874_889;
        let units = nanoseconds >> 30;
        let estimate = units.wrapping_add(units.wrapping_mul(PARTS) >> 34);
        let rest = nanoseconds.wrapping_sub(estimate.wrapping_mul(SECOND));
        // The sign bits of what is missing to one and to two seconds.
        let one = (SECOND - 1).wrapping_sub(rest) >> 63;
        let two = (2 * SECOND - 1).wrapping_sub(rest) >> 63;
        Self(hash::lower(estimate.wrapping_add(one).wrapping_add(two)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_those_that_a_division_gives() {
        let spread = (0..1_000_000_u64).map(|step| step.wrapping_mul(1_152_921_504_607));
        let edges = (0..1_000_000_u64).flat_map(|step| {
            let second = step * 1_151 * 1_000_000_000;
            [second, second + 999_999_999, second.saturating_sub(1)]
        });
        for nanoseconds in spread.chain(edges).filter(|&it| it < 1 << 60) {
            let expected = nanoseconds.checked_div(1_000_000_000).unwrap();
            let expected = u32::try_from(expected).unwrap();
            assert_eq!(Seconds::of_nanoseconds(nanoseconds), Seconds(expected));
        }
    }

    #[test]
    fn an_id_gives_back_what_it_was_made_of() {
        for (index, generation) in [
            (1, 0),
            (MAX_INDEX, MAX_GENERATION),
            (77, 1023),
            (4_194_303, 0),
        ] {
            let id = BackendId::new(index, generation);
            assert_eq!((id.index(), id.generation()), (index, generation));
            assert_eq!(BackendId::from_raw(id.raw()), id);
        }
    }
}

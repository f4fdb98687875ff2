//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! The checksum of some bytes is the complement of the one's-complement sum of their 16-bit words.
//! In that arithmetic 0xffff is a second zero, and `!x` is `-x`. Two consequences carry this file:
//!
//! * A changed word needs no second look at the rest: the sum changes by `!old + new`
//!   (RFC 1624 eqn. 3: `HC' = ~(~HC + ~m + m')`, the form that never yields a wrong zero).
//! * Words may be added in any byte order, as long as the result is stored in the same one
//!   (RFC 1071 §2 B): sums here are of big-endian values, [`Sum::in_memory_order`] gives what the
//!   kernel calls a `__wsum`.

use crate::family::Family;
use crate::hash::{lower, upper};

/// A one's-complement sum of 16-bit words, not yet folded to 16 bits.
///
/// Holds far more additions than any packet has words.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// Adds one word.
    #[must_use]
    #[inline(always)]
    pub fn word(self, value: u16) -> Self {
        Self(self.0.wrapping_add(u64::from(value)))
    }

    /// Adds two words.
    #[must_use]
    #[inline(always)]
    pub fn double(self, value: u32) -> Self {
        Self(self.0.wrapping_add(u64::from(value)))
    }

    /// Adds four words.
    #[must_use]
    #[inline(always)]
    pub fn quad(self, value: u64) -> Self {
        self.double(upper(value)).double(lower(value))
    }

    /// Adds another sum.
    #[must_use]
    #[inline(always)]
    pub const fn sum(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// Adds the words of an address.
    #[must_use]
    #[inline(always)]
    pub fn address<F: Family>(self, address: F::Address) -> Self {
        let [high, low] = F::halves(address);
        if F::IS_V6 {
            self.quad(high).quad(low)
        } else {
            self.double(lower(high))
        }
    }

    /// Adds the change of one word from `old` to `new`.
    #[must_use]
    #[inline(always)]
    pub fn replace_word(self, old: u16, new: u16) -> Self {
        self.word(!old).word(new)
    }

    /// Adds the change of an address from `old` to `new`.
    #[must_use]
    #[inline(always)]
    pub fn replace_address<F: Family>(self, old: F::Address, new: F::Address) -> Self {
        let [high, low] = F::halves(old);
        let removed = if F::IS_V6 {
            self.quad(!high).quad(!low)
        } else {
            self.double(!lower(high))
        };
        removed.address::<F>(new)
    }

    /// The sum in 16 bits.
    #[inline(always)]
    pub fn fold(self) -> u16 {
        let sum = u64::from(upper(self.0)).wrapping_add(u64::from(lower(self.0)));
        // Below 2^33, then below 2^18, then below 2^16 + 4, then below 2^16.
        let sum = (sum >> 16).wrapping_add(sum & 0xffff);
        let sum = (sum >> 16).wrapping_add(sum & 0xffff);
        let sum = (sum >> 16).wrapping_add(sum & 0xffff);
        let [.., high, low] = sum.to_be_bytes();
        u16::from_be_bytes([high, low])
    }

    /// What is stored in a checksum field.
    #[inline(always)]
    pub fn checksum(self) -> u16 {
        !self.fold()
    }

    /// The sum as if words were read from memory in this machine's byte order: the form that
    /// `bpf_csum_diff` gives and that `bpf_l4_csum_replace(skb, offset, 0, delta, flags)` takes.
    /// Folded, so that the upper half is 0.
    #[inline(always)]
    pub fn in_memory_order(self) -> u32 {
        u32::from(u16::from_ne_bytes(self.fold().to_be_bytes()))
    }

    /// The inverse of [`Self::in_memory_order`]; takes unfolded sums, too.
    #[must_use]
    #[inline(always)]
    pub fn from_memory_order(sum: u32) -> Self {
        let folded = Self::ZERO.double(sum).fold();
        Self::ZERO.word(u16::from_be_bytes(folded.to_ne_bytes()))
    }
}

/// The checksum after a change of what it covers (RFC 1624 eqn. 3).
#[must_use]
#[inline(always)]
pub fn update(checksum: u16, change: Sum) -> u16 {
    change.word(!checksum).checksum()
}

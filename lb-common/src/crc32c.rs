//! CRC-32C (Castagnoli), the checksum of SCTP (RFC 9260 appendix A), and its change when a few bytes
//! of a packet change.
//!
//! A CRC is linear: the CRCs of two packets of one length differ by what the exclusive or of the
//! packets has for a CRC, without the constants that one begins and ends with. Of a packet whose first
//! four bytes alone change, that is `D(x) · x^(8 · length) mod P(x)`, where `D` is the exclusive or of
//! the old and the new four bytes. So a packet need not be read, however long it is: two look-ups and
//! two multiplications.
//!
//! Polynomials are reflected, as the CRC is: bit 31 of a word is x⁰, bit 0 is x³¹.

/// The polynomial without x³², reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x⁰.
const ONE: u32 = 1 << 31;
/// x⁸: a byte.
const BYTE: u32 = 1 << 23;

/// `a · b mod P`. Without branches: to the kernel's verifier each would be two programs.
#[inline(never)]
const fn multiply(a: u32, b: u32) -> u32 {
    let (mut a, mut b, mut product) = (a, b, 0_u32);
    let mut bit = 0_u32;
    while bit < 32 {
        product ^= b & (a >> 31).wrapping_neg();
        a <<= 1;
        b = (b >> 1) ^ (POLYNOMIAL & (b & 1).wrapping_neg());
        bit = bit.wrapping_add(1);
    }
    product
}

/// The powers of `step`: 0 to 255.
#[expect(
    clippy::indexing_slicing,
    reason = "at compile time, where a wrong index is an error"
)]
const fn powers(step: u32) -> [u32; 256] {
    let mut powers = [ONE; 256];
    let mut index = 1_usize;
    while index < 256 {
        powers[index] = multiply(powers[index.wrapping_sub(1)], step);
        index = index.wrapping_add(1);
    }
    powers
}

/// x^(8 n).
static BYTES: [u32; 256] = powers(BYTE);
/// x^(8 · 256 n).
static PAGES: [u32; 256] = powers(multiply(BYTES_LAST, BYTE));
/// x^(8 · 255).
const BYTES_LAST: u32 = {
    let [.., last] = powers(BYTE);
    last
};

/// The change of the checksum field, a little-endian value for an exclusive or with it, when the first
/// four bytes of a packet of `length` bytes change from `old` to `new`.
///
/// Lengths of more than 65 535 bytes, which no SCTP packet has, count modulo 65 536.
#[must_use]
#[inline(always)]
pub fn change_of_first_word(old: [u8; 4], new: [u8; 4], length: u32) -> u32 {
    let difference = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
    let [_, _, high, low] = length.to_be_bytes();
    let power = |table: &[u32; 256], index: u8| {
        let power = table.get(usize::from(index));
        power.copied().unwrap_or(ONE)
    };
    let shift = multiply(power(&PAGES, high), power(&BYTES, low));
    multiply(difference, shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Bit by bit, as RFC 9260 appendix A has it.
    fn crc32c(bytes: &[u8]) -> u32 {
        let step = |state: u32, byte: &u8| {
            (0..8).fold(state ^ u32::from(*byte), |state, _| {
                if state & 1 == 1 {
                    state >> 1 ^ POLYNOMIAL
                } else {
                    state >> 1
                }
            })
        };
        !bytes.iter().fold(u32::MAX, step)
    }

    #[test]
    fn the_reference_is_that_of_rfc_3720() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn the_change_is_right_at_every_length() {
        let mut bytes = Vec::from([0_u8; 4]);
        for length in 4_u32..2000 {
            let before = crc32c(&bytes);
            let mut changed = bytes.clone();
            changed.splice(..4, [1, 2, 3, 4]);
            let change = change_of_first_word([0; 4], [1, 2, 3, 4], length);
            assert_eq!(before ^ change, crc32c(&changed), "{length} bytes");
            bytes.push(7);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_change_is_that_of_full_recomputation(
            mut bytes in proptest::collection::vec(any::<u8>(), 12..65_536),
            ports: [u8; 4],
        ) {
            let before = crc32c(&bytes);
            let length = u32::try_from(bytes.len()).unwrap();
            let old = *bytes.first_chunk().unwrap();
            bytes.splice(..4, ports);
            let change = change_of_first_word(old, ports, length);
            prop_assert_eq!(before ^ change, crc32c(&bytes));
            prop_assert_eq!(change ^ change_of_first_word(ports, old, length), 0);
        }
    }
}

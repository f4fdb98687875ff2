//! The last empty slots of a table. A member that looks for one of them by walking through its
//! permutation meets thousands that are taken: half of all its steps are for the last hundredth of
//! the slots. Seen from the other side, each empty slot has a place in the member's permutation, and
//! the first of those places is where the walk would end.
//!
//! The place of a slot is its distance from where the member stands, times the inverse of its step,
//! modulo the table's size M. Only the order of places matters, so that no division is needed:
//! `distance × ⌈2⁶⁴ × inverse / M⌉ mod 2⁶⁴` is the place as a fraction of M in 64 bits. Rounding adds
//! less than the distance, below 2¹⁷, and places are 2⁶⁴ / M apart, more than 2⁴⁶.

use super::{Cursor, EMPTY, LAST_SHIFT, TABLE_SIZES};

/// The most slots that are left when this begins, of the largest table.
const MOST: usize = {
    let [.., largest] = TABLE_SIZES;
    let last = largest >> LAST_SHIFT;
    // At most 511, and `From` is not const.
    let [low, high, ..] = last.to_le_bytes();
    u16_to_usize(u16::from_le_bytes([low, high]))
};

#[expect(
    clippy::as_conversions,
    reason = "u16 to usize loses nothing, and From is not const"
)]
const fn u16_to_usize(number: u16) -> usize {
    number as usize
}

/// What is left of a table.
pub(super) struct Rest {
    size: u32,
    /// The empty slots, in no order.
    empty: [u32; MOST],
    count: usize,
}

impl Rest {
    /// The empty slots of `slots`, at most [`MOST`].
    pub(super) fn new(slots: &[u16], size: u32) -> Self {
        let mut rest = Self {
            size,
            empty: [0; MOST],
            count: 0,
        };
        let empty = (0..).zip(slots).filter(|(_, slot)| **slot == EMPTY);
        for (place, (slot, _)) in rest.empty.iter_mut().zip(empty) {
            *place = slot;
            rest.count = rest.count.wrapping_add(1);
        }
        rest
    }

    /// Gives `cursor` the first of them in its permutation.
    pub(super) fn take(&mut self, cursor: &mut Cursor, slots: &mut [u16]) {
        let size = u64::from(self.size);
        let fraction = u64::from(inverse(cursor.step, self.size));
        let fraction = ceil_fraction(fraction, size);
        let Some(empty) = self.empty.get_mut(..self.count) else {
            return;
        };
        let place_of = |slot: u32| {
            let distance = slot.wrapping_sub(cursor.next);
            // Below 0 it comes round again.
            let distance = distance.min(distance.wrapping_add(self.size));
            u64::from(distance).wrapping_mul(fraction)
        };
        let first = empty.iter_mut().min_by_key(|slot| place_of(**slot));
        let Some(first) = first else {
            return;
        };
        let slot = *first;
        if let Some(taken) = usize::try_from(slot).ok().and_then(|at| slots.get_mut(at)) {
            *taken = cursor.position;
        }
        // Where the walk would go on.
        let next = slot.wrapping_add(cursor.step);
        cursor.next = next.min(next.wrapping_sub(self.size));
        // The last one takes the free place, so that there are no gaps.
        self.count = self.count.wrapping_sub(1);
        let last = empty.last().copied().unwrap_or(slot);
        if let Some(first) = empty.iter_mut().find(|it| **it == slot) {
            *first = last;
        }
    }
}

/// `⌈2⁶⁴ × part / whole⌉` where `part` is below `whole`.
fn ceil_fraction(part: u64, whole: u64) -> u64 {
    let whole = u128::from(whole.max(1));
    let wide = u128::from(part).wrapping_shl(64);
    let up = wide.wrapping_add(whole.wrapping_sub(1)).checked_div(whole);
    up.and_then(|up| u64::try_from(up).ok()).unwrap_or(u64::MAX)
}

/// The number by which `step` times it is 1 modulo `size`, a prime that does not divide `step`: by
/// Fermat `step` to the power of `size - 2`.
fn inverse(step: u32, size: u32) -> u32 {
    let modulus = u64::from(size.max(1));
    let times = |a: u64, b: u64| a.wrapping_mul(b).checked_rem(modulus).unwrap_or(0);
    let (mut power, mut square) = (1, u64::from(step));
    let mut exponent = size.saturating_sub(2);
    while exponent != 0 {
        if exponent & 1 != 0 {
            power = times(power, square);
        }
        square = times(square, square);
        exponent >>= 1;
    }
    u32::try_from(power).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::hash;
    use crate::maglev::{Member, fill, table_size};

    /// The table as the module describes it, step by step to the last slot.
    fn walked(members: &[Member], size: u32) -> Vec<u16> {
        let heaviest = members.iter().map(|member| member.weight).max().unwrap();
        let heaviest = u32::from(heaviest);
        let mut cursors: Vec<Cursor> = (0..)
            .zip(members)
            .map(|(position, member)| Cursor::new(position, *member, heaviest, size))
            .collect();
        cursors.sort_unstable_by_key(|cursor| (cursor.identity, cursor.position));
        let mut slots = vec![EMPTY; usize::try_from(size).unwrap()];
        let mut empty = size;
        loop {
            for cursor in &mut cursors {
                cursor.earned = cursor.earned.wrapping_add(cursor.weight);
                if cursor.earned < heaviest {
                    continue;
                }
                cursor.earned = cursor.earned.wrapping_sub(heaviest);
                cursor.take(&mut slots, size);
                empty = empty.wrapping_sub(1);
                if empty == 0 {
                    return slots;
                }
            }
        }
    }

    #[test]
    fn tables_are_those_of_the_walk_to_the_last_slot() {
        for (count, lightest) in [
            (2, 100),
            (10, 100),
            (10, 1),
            (40, 30),
            (163, 100),
            (700, 50),
            (1400, 100),
            (5000, 100),
        ] {
            let members: Vec<Member> = (0..count)
                .map(|number: u64| Member {
                    identity: hash::mix(number, count),
                    weight: if number & 1 == 0 { 100 } else { lightest },
                })
                .collect();
            let size = table_size(u32::try_from(count).unwrap());
            let mut slots = vec![0; usize::try_from(size).unwrap()];
            let mut cursors = vec![Cursor::default(); members.len()];
            fill(&members, &mut slots, &mut cursors).unwrap();
            assert!(slots == walked(&members, size), "{count} members");
        }
    }

    #[test]
    fn steps_times_their_inverse_are_one() {
        for size in TABLE_SIZES {
            for step in [1, 2, 3, size >> 1, size.wrapping_sub(1)] {
                let product = u64::from(step).wrapping_mul(inverse(step, size).into());
                let rest = product.checked_rem(u64::from(size));
                assert_eq!(rest, Some(1), "{step} modulo {size}");
            }
        }
    }
}

//! Maglev hashing with weights: which backend each slot of a set's table names (Eisenbud et al.,
//! "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4).
//!
//! Every backend has a permutation of the slots of its own, made of its identity alone, and the
//! backends take turns: each takes the first slot of its permutation that is still empty. A backend
//! that leaves gives up its slots and few others move.
//!
//! Nodes must build equal tables of equal sets, so a table depends on nothing but the members'
//! identities and weights: not on their order, not on ids, not on a seed of the node.
//!
//! **Weights.** The heaviest member takes a slot each round. Another earns its weight each round and
//! takes a slot once it has earned the heaviest's weight. After any number of rounds the slots taken
//! are proportional to the weights but for less than one slot a member, so that no share of a
//! filled table is off by more than N slots, a fraction of N/M. Equal weights make it the paper's
//! algorithm. Integers only: two nodes never round differently.

use crate::family::MappedAddress;
use crate::flow::Protocol;
use crate::hash;
use crate::table::region::MAX_BACKENDS;
use tail::Rest;

mod tail;
#[cfg(test)]
mod tests;

/// The table sizes in use: primes, so that any step walks through every slot.
pub const TABLE_SIZES: [u32; 6] = [251, 1021, 4093, 16_381, 65_521, 131_071];
/// Slots that a table has for each member at least, where the largest size allows it: shares are
/// then equal within 1 % (paper §5.3).
const SLOTS_PER_MEMBER: u32 = 100;
/// Seeds of the two numbers that make a permutation. The same in the whole cluster, for ever.
const OFFSET_SEED: u64 = 0x5374_6565_7261_6765;
const STEP_SEED: u64 = 0x4d61_676c_6576_2e31;
/// A slot nobody has taken: no position of a member, since those end at 65 534.
const EMPTY: u16 = u16::MAX;

/// Of so many slots (2 to this) the last one is looked for from the side of the empty slots.
const LAST_SHIFT: u32 = 8;

/// One backend of a set.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Member {
    /// What its permutation is made of: [`identity`].
    pub identity: u64,
    /// Its weight, relative to the others'; 0 takes no slot.
    pub weight: u16,
}

/// Scratch space of [`fill`]: where a member is in its permutation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    identity: u64,
    next: u32,
    step: u32,
    weight: u32,
    earned: u32,
    position: u16,
}

/// The slots, the members or the scratch space do not fit each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unfillable {
    /// The number of slots is none of [`TABLE_SIZES`].
    TableSize,
    /// More than [`MAX_BACKENDS`] members, or fewer cursors than members.
    Members,
    /// No member has a weight.
    Weight,
}

/// Slots of the table of `members` backends with a weight: 0 where there are fewer than two, since
/// one needs no table.
#[must_use]
pub const fn table_size(members: u32) -> u32 {
    let [a, b, c, d, e, f] = TABLE_SIZES;
    match members.saturating_mul(SLOTS_PER_MEMBER) {
        _ if members < 2 => 0,
        wanted if wanted <= a => a,
        wanted if wanted <= b => b,
        wanted if wanted <= c => c,
        wanted if wanted <= d => d,
        wanted if wanted <= e => e,
        _ => f,
    }
}

/// What a backend's permutation is made of.
#[must_use]
pub const fn identity(address: MappedAddress, port: u16, protocol: Protocol) -> u64 {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    let [port_high, port_low] = port.to_be_bytes();
    let number = protocol.number();
    let mixed = hash::mix(OFFSET_SEED, u64::from_be_bytes([a, b, c, d, e, f, g, h]));
    let mixed = hash::mix(mixed, u64::from_be_bytes([i, j, k, l, m, n, o, p]));
    let rest = u64::from_be_bytes([0, 0, 0, 0, 0, port_high, port_low, number]);
    hash::mix(mixed, rest)
}

/// Fills `slots` with positions in `members`, in the turns the module describes. `cursors` is
/// scratch space, at least as long as `members`; what it holds does not matter.
pub fn fill(
    members: &[Member],
    slots: &mut [u16],
    cursors: &mut [Cursor],
) -> Result<(), Unfillable> {
    let size = u32::try_from(slots.len())
        .ok()
        .filter(|size| TABLE_SIZES.contains(size))
        .ok_or(Unfillable::TableSize)?;
    if u32::try_from(members.len()).map_or(true, |count| count > MAX_BACKENDS) {
        return Err(Unfillable::Members);
    }
    let cursors = cursors
        .get_mut(..members.len())
        .ok_or(Unfillable::Members)?;
    let heaviest = members.iter().map(|member| member.weight).max();
    let heaviest = u32::from(heaviest.unwrap_or(0));
    if heaviest == 0 {
        return Err(Unfillable::Weight);
    }
    for ((position, member), cursor) in (0..EMPTY).zip(members).zip(cursors.iter_mut()) {
        *cursor = Cursor::new(position, *member, heaviest, size);
    }
    // Whose turn comes first must not depend on the caller's order.
    cursors.sort_unstable_by_key(|cursor| (cursor.identity, cursor.position));
    slots.fill(EMPTY);
    take_turns(slots, cursors, size, heaviest);
    Ok(())
}

fn take_turns(slots: &mut [u16], cursors: &mut [Cursor], size: u32, heaviest: u32) {
    let mut empty = size;
    let last = size >> LAST_SHIFT;
    let mut rest = None;
    loop {
        for cursor in cursors.iter_mut() {
            cursor.earned = cursor.earned.wrapping_add(cursor.weight);
            if cursor.earned < heaviest {
                continue;
            }
            cursor.earned = cursor.earned.wrapping_sub(heaviest);
            if empty > last {
                cursor.take(slots, size);
            } else {
                let rest = rest.get_or_insert_with(|| Rest::new(slots, size));
                rest.take(cursor, slots);
            }
            empty = empty.wrapping_sub(1);
            if empty == 0 {
                return;
            }
        }
    }
}

impl Cursor {
    const fn new(position: u16, member: Member, heaviest: u32, size: u32) -> Self {
        let offset = hash::upper(hash::mix(member.identity, OFFSET_SEED));
        let step = hash::upper(hash::mix(member.identity, STEP_SEED));
        let [low, high] = member.weight.to_le_bytes();
        Self {
            identity: member.identity,
            next: hash::scale(offset, size),
            step: hash::scale(step, size.wrapping_sub(1)).wrapping_add(1),
            weight: u32::from_le_bytes([low, high, 0, 0]),
            // Half a slot to begin with: shares are rounded, not cut. The weightless never earn
            // more, and half is not enough.
            earned: heaviest >> 1,
            position,
        }
    }

    /// Takes the next empty slot of this member's permutation. One exists: the caller counts.
    fn take(&mut self, slots: &mut [u16], size: u32) {
        loop {
            let slot = usize::try_from(self.next)
                .ok()
                .and_then(|next| slots.get_mut(next));
            self.next = self.next.wrapping_add(self.step);
            if self.next >= size {
                self.next = self.next.wrapping_sub(size);
            }
            match slot {
                Some(slot) if *slot == EMPTY => {
                    *slot = self.position;
                    return;
                }
                Some(_) => {}
                // Unreachable, as `next` stays below `size`; an end is better than a loop.
                None => return,
            }
        }
    }
}
